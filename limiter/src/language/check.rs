//! What numbers mean: which may be computed with and compared with which.

use crate::{
    language::{
        SentenceError, Span,
        ast::{Arithmetic, Dimension, Expression},
        units,
    },
    metric::{Metric, Reduce, Word},
};

/// An expression with what is known about it.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) expression: Expression,
    pub(super) dimension: Dimension,
    pub(super) span: Span,
    pub(super) shape: Shape,
}

/// How an expression is written, for checks that only make sense for simple ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    /// A number without a unit.
    Plain(f64),
    /// A metric by itself.
    Metric,
    /// Anything else.
    Other,
}

/// What `dimension` is called in an error.
pub(super) fn name(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Ratio => "a ratio",
        Dimension::Count => "a count",
        Dimension::PerSecond => "a rate per second",
        Dimension::Seconds => "a time",
        Dimension::Bytes => "a size in bytes",
        Dimension::Scalar => "a plain number",
    }
}

/// How a value of `dimension` is written.
fn example(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Ratio => "80%",
        Dimension::Count => "20",
        Dimension::PerSecond => "100 per second",
        Dimension::Seconds => "200ms",
        Dimension::Bytes => "64Mi",
        Dimension::Scalar => "20",
    }
}

/// What `left operator right` means.
pub(super) fn arithmetic(
    operator: Arithmetic,
    left: &Value,
    right: &Value,
    text: &str,
) -> Result<Dimension, SentenceError> {
    use Dimension::{Count, Ratio, Scalar};
    let (a, b) = (left.dimension, right.dimension);
    match operator {
        Arithmetic::Add | Arithmetic::Subtract => match (a, b) {
            (Scalar, other) | (other, Scalar) => Ok(other),
            (a, b) if a == b => Ok(a),
            _ => {
                let verb = if operator == Arithmetic::Add { "add" } else { "subtract" };
                Err(mismatch(&format!("cannot {verb}"), left, right, text))
            }
        },
        // A part of something is the same kind of thing; other products fit anything.
        Arithmetic::Multiply => Ok(match (a, b) {
            (Count, _) | (_, Count) => Scalar,
            (Scalar, other) | (other, Scalar) | (Ratio, other) | (other, Ratio) => other,
            _ => Scalar,
        }),
        Arithmetic::Divide => Ok(match (a, b) {
            (Count, _) => Scalar,
            (other, Scalar | Ratio | Count) => other,
            _ => Scalar,
        }),
    }
}

/// Refuses a comparison that cannot be meant.
pub(super) fn comparable(left: &Value, right: &Value, text: &str) -> Result<(), SentenceError> {
    let (a, b) = (left.dimension, right.dimension);
    if a != b && a != Dimension::Scalar && b != Dimension::Scalar {
        return Err(mismatch("cannot compare", left, right, text));
    }
    plain_number(left, right)?;
    plain_number(right, left)
}

fn mismatch(what: &str, left: &Value, right: &Value, text: &str) -> SentenceError {
    let part = |value: &Value| text.get(value.span.start..value.span.end).unwrap_or("").to_owned();
    let error = SentenceError::new(
        left.span.to(right.span),
        format!("{what}: `{}` is {}, `{}` is {}", part(left), name(left.dimension), part(right), name(right.dimension)),
    );
    let metric = if matches!(right.shape, Shape::Metric) { right } else { left };
    error.help(format!("{} is written like `{}`", name(metric.dimension), example(metric.dimension)))
}

/// Refuses a number without a unit where it most likely means another unit.
fn plain_number(metric: &Value, number: &Value) -> Result<(), SentenceError> {
    let (Expression::Metric(Metric { word, reduce }), Shape::Plain(value)) = (&metric.expression, number.shape) else {
        return Ok(());
    };
    let text = units::write_value(value, Dimension::Scalar);
    match metric.dimension {
        // A sum over pods may well be larger than 1.
        Dimension::Ratio if value > 1.0 && *reduce != Reduce::Sum => {
            let percent = units::write_value(value / 100.0, Dimension::Ratio);
            Err(SentenceError::new(
                number.span,
                format!("`{word}` is a ratio, and {text} is {}", units::write_value(value, Dimension::Ratio)),
            )
            .help(format!("write `{percent}`")))
        }
        Dimension::Seconds if value != 0.0 && matches!(word, Word::Latency(_)) => {
            Err(SentenceError::new(number.span, format!("`{word}` is a time, and {text} has no unit"))
                .help(format!("write `{text}ms` or `{text}s`")))
        }
        _ => Ok(()),
    }
}

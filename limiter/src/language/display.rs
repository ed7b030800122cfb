//! Trees to sentences, in the canonical spelling. Reading what is written here gives the same tree.
//!
//! A number takes the unit of what it is compared with or added to; the words that an object defines have no unit that is
//! known here, so numbers beside them are written in base units.

use std::{fmt, time::Duration};

use crate::{
    language::{
        ast::{Adapt, Arithmetic, Comparison, Condition, Dimension, Expression, Pace},
        units::{write_duration, write_value},
        vocabulary::dimension,
    },
    metric::{Metric, Reduce, Word},
    policy::{Key, Limit, Scope},
};

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
        })
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
        })
    }
}

impl fmt::Display for Metric {
    /// As sentences spell it: `cpu`, `cpu.max`, `p99 latency`, `errors.max per second`. An object's own word always says
    /// how pods are combined, because the object may have changed what the plain word means.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match (&self.word, self.reduce) {
            // One value for all pods.
            (Word::Pods | Word::Latency(_), _) => "",
            (Word::Named(_), Reduce::Mean) => ".mean",
            (_, Reduce::Mean) => "",
            (_, Reduce::Max) => ".max",
            (_, Reduce::Sum) => ".sum",
        };
        match &self.word {
            Word::ErrorsPerSecond => write!(f, "errors{suffix} per second"),
            word => write!(f, "{word}{suffix}"),
        }
    }
}

/// How tightly an expression binds.
fn expression_level(expression: &Expression) -> u8 {
    match expression {
        Expression::Binary { operator: Arithmetic::Add | Arithmetic::Subtract, .. } => 1,
        Expression::Binary { .. } => 2,
        Expression::Negative(_) => 3,
        Expression::Number(number) if *number < 0.0 => 3,
        Expression::Number(_) | Expression::Metric(_) => 4,
    }
}

/// What the numbers in an expression mean, as far as that shows.
fn expression_dimension(expression: &Expression) -> Option<Dimension> {
    match expression {
        Expression::Number(_) => None,
        Expression::Metric(metric) => dimension(&metric.word),
        Expression::Negative(inner) => expression_dimension(inner),
        Expression::Binary { operator: Arithmetic::Add | Arithmetic::Subtract, left, right } => {
            expression_dimension(left).or_else(|| expression_dimension(right))
        }
        Expression::Binary { .. } => None,
    }
}

fn write_expression(
    f: &mut fmt::Formatter<'_>,
    expression: &Expression,
    level: u8,
    context: Option<Dimension>,
) -> fmt::Result {
    if expression_level(expression) < level {
        f.write_str("(")?;
        write_expression(f, expression, 0, context)?;
        return f.write_str(")");
    }
    match expression {
        Expression::Number(number) => f.write_str(&write_value(*number, context.unwrap_or(Dimension::Scalar))),
        Expression::Metric(metric) => write!(f, "{metric}"),
        Expression::Negative(inner) => {
            f.write_str("-")?;
            write_expression(f, inner, 3, context)
        }
        Expression::Binary { operator, left, right } => {
            let own = expression_level(expression);
            let context = if own == 1 { context.or_else(|| expression_dimension(expression)) } else { None };
            write_expression(f, left, own, context)?;
            write!(f, " {operator} ")?;
            write_expression(f, right, own + 1, context)
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_expression(f, self, 0, None)
    }
}

/// How tightly a condition binds.
fn condition_level(condition: &Condition) -> u8 {
    match condition {
        Condition::Any(parts) if !parts.is_empty() => 1,
        Condition::All(parts) if !parts.is_empty() => 2,
        Condition::Not(_) => 3,
        Condition::Held { .. } => 4,
        Condition::Any(_) | Condition::All(_) | Condition::Compare { .. } | Condition::Literal(_) => 5,
    }
}

fn write_condition(f: &mut fmt::Formatter<'_>, condition: &Condition, level: u8) -> fmt::Result {
    if condition_level(condition) < level {
        f.write_str("(")?;
        write_condition(f, condition, 0)?;
        return f.write_str(")");
    }
    match condition {
        Condition::Literal(value) => write!(f, "{value}"),
        Condition::Any(parts) if parts.is_empty() => f.write_str("false"),
        Condition::All(parts) if parts.is_empty() => f.write_str("true"),
        Condition::Any(parts) | Condition::All(parts) => {
            let (word, inner) = if let Condition::Any(_) = condition { (" or ", 2) } else { (" and ", 3) };
            for (position, part) in parts.iter().enumerate() {
                if position > 0 {
                    f.write_str(word)?;
                }
                write_condition(f, part, inner)?;
            }
            Ok(())
        }
        Condition::Not(inner) => {
            f.write_str("not ")?;
            write_condition(f, inner, 3)
        }
        Condition::Held { condition, duration, .. } => {
            write_condition(f, condition, 5)?;
            write!(f, " for {}", write_duration(*duration))
        }
        Condition::Compare { comparison, left, right, relax } => {
            let context = expression_dimension(left).or_else(|| expression_dimension(right));
            write_expression(f, left, 0, context)?;
            write!(f, " {comparison} ")?;
            write_relaxed(f, right, *relax, context)
        }
    }
}

/// Writes `right * relax`, with a plain number multiplied out: `72%` rather than `80% * 0.9`.
fn write_relaxed(
    f: &mut fmt::Formatter<'_>,
    right: &Expression,
    relax: f64,
    context: Option<Dimension>,
) -> fmt::Result {
    #[expect(clippy::float_cmp, reason = "exactly 1 is how a threshold as written is stored")]
    if relax == 1.0 {
        return write_expression(f, right, 0, context);
    }
    let number = right.evaluate(&|_| None);
    match number {
        // A negative threshold relaxes the other way.
        Some(number) => {
            let number = if number < 0.0 { number / relax } else { number * relax };
            f.write_str(&write_value(rounded(number), context.unwrap_or(Dimension::Scalar)))
        }
        None => {
            write_expression(f, right, 2, context)?;
            write!(f, " * {}", write_value(rounded(relax), Dimension::Scalar))
        }
    }
}

/// Without the last digits, which are the error of the multiplication: 0.7200000000000001 is 0.72.
fn rounded(value: f64) -> f64 {
    format!("{value:.9e}").parse().unwrap_or(value)
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_condition(f, self, 0)
    }
}

/// The name of a limit's unit of time: `second`, `minute`, `hour`, `day`, or the duration itself.
pub(crate) fn interval_name(interval: Duration) -> String {
    match (interval.as_secs(), interval.subsec_nanos()) {
        (1, 0) => "second".to_owned(),
        (60, 0) => "minute".to_owned(),
        (3600, 0) => "hour".to_owned(),
        (86_400, 0) => "day".to_owned(),
        _ => write_duration(interval),
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerPod => "per pod",
            Self::AcrossAllPods => "across all pods",
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp => f.write_str("client ip"),
            Self::Header(name) => write!(f, "header {name}"),
        }
    }
}

fn write_requests(f: &mut fmt::Formatter<'_>, amount: &str, interval: Duration) -> fmt::Result {
    let noun = if amount == "1" { "request" } else { "requests" };
    write!(f, "{amount} {noun} per {}", interval_name(interval))
}

impl fmt::Display for Limit {
    /// The canonical sentence: `5 requests per second per client ip across all pods`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_requests(f, &self.amount.to_string(), self.interval)?;
        if let Some(key) = &self.per {
            write!(f, " per {key}")?;
        }
        write!(f, " {}", self.scope)
    }
}

impl fmt::Display for Adapt {
    /// The canonical sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keep ")?;
        for (position, goal) in self.goals.iter().enumerate() {
            if position > 0 {
                f.write_str(" and ")?;
            }
            let dimension = dimension(&goal.metric.word).unwrap_or(Dimension::Scalar);
            write!(f, "{} below {}", goal.metric, write_value(goal.below, dimension))?;
        }
        write!(f, ", between {} and ", write_value(self.floor, Dimension::Count))?;
        write_requests(f, &write_value(self.ceiling, Dimension::Count), self.interval)?;
        write!(f, " {}{}", self.scope, self.pace)
    }
}

impl fmt::Display for Pace {
    /// What was said of it, each part after a comma: `, at most 20% per step, every 1s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(step) = self.step {
            write!(f, ", at most {} per step", write_value(step, Dimension::Ratio))?;
        }
        if let Some(every) = self.every {
            write!(f, ", every {}", write_duration(every))?;
        }
        if let Some(cooldown) = self.cooldown {
            write!(f, ", cooldown {}", write_duration(cooldown))?;
        }
        Ok(())
    }
}

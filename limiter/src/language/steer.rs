//! The sentence of a split: `prefer lower errors and p99 latency, at most 5% per step, every 5s`, or `ramp up reviews-v2 to 50%, …`.

use std::time::Duration;

use super::{
    SentenceError, Span, Vocabulary,
    ast::{Dimension, Expression},
    check::{self, Value},
    parser::Parser,
    sentences,
};
use crate::metric::Word;

type Result<T> = std::result::Result<T, SentenceError>;

/// Between two steps, at least and at most.
const EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60 * 60));
/// Most requests that a verdict may wait for.
const MOST_REQUESTS: f64 = 1e6;

/// What a sentence says; what it leaves out is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steer {
    /// Whom it names to grow, and where the name stands in the sentence.
    pub ramp: Option<(String, usize, usize)>,
    /// How far that grows, as a part of all requests.
    pub to: Option<f64>,
    /// Latency counts, by this percentile.
    pub percentile: Option<u8>,
    /// The longest step, as a part of all requests.
    pub step: Option<f64>,
    /// Between two steps.
    pub every: Option<Duration>,
    /// The highest ratio of errors of an arm that is well.
    pub objective: Option<f64>,
    /// Requests below which an arm is not judged.
    pub fewest: Option<f64>,
    /// How long shares hold without any metric.
    pub hold: Option<Duration>,
}

/// Reads the sentence of a split.
///
/// # Errors
/// The first mistake in the sentence.
pub fn parse_steer(text: &str) -> Result<Steer> {
    let vocabulary = Vocabulary::default();
    let mut parser = Parser::new(text, &vocabulary)?;
    let mut steer = Steer::default();
    if parser.eat("prefer")? {
        preferred(&mut parser, &mut steer)?;
    } else if parser.eat("ramp")? {
        ramped(&mut parser, &mut steer)?;
    } else {
        let error = parser.unexpected("`prefer lower errors` or `ramp up NAME`");
        return Err(parser.suggest(error, &["prefer", "ramp"]));
    }
    while !parser.at_end() {
        if !parser.eat(",")? {
            return Err(parser.unexpected("`,` or the end of the sentence"));
        }
        clause(&mut parser, &mut steer)?;
    }
    Ok(steer)
}

/// `lower errors and p99 latency`.
fn preferred(parser: &mut Parser<'_>, steer: &mut Steer) -> Result<()> {
    if !parser.eat("lower")? {
        let error = parser.unexpected("`lower`");
        return Err(parser.suggest(error, &["lower"]).help("write for example `prefer lower errors and p99 latency`"));
    }
    if !parser.eat("errors")? {
        let error = parser.unexpected("`errors`");
        let error = parser.suggest(error, &["errors"]);
        return Err(if error.help.is_some() {
            error
        } else {
            error
                .help("errors count always, so that who fails fast wins nothing: `prefer lower errors and p99 latency`")
        });
    }
    if parser.eat("and")? {
        let metric = parser.metric()?;
        let Expression::Metric(read) = &metric.expression else {
            return Err(SentenceError::new(metric.span, "expected `p99 latency`"));
        };
        let Word::Latency(percentile) = read.word else {
            return Err(SentenceError::new(metric.span, "only latency can count beside errors")
                .help("write `and p99 latency`, `and p90 latency` or `and p50 latency`"));
        };
        steer.percentile = Some(percentile);
    }
    Ok(())
}

/// `up NAME`, `up NAME to 50%`.
fn ramped(parser: &mut Parser<'_>, steer: &mut Steer) -> Result<()> {
    if !parser.at("up") {
        let error = parser.unexpected("`up`");
        return Err(parser.suggest(error, &["up"]));
    }
    let (name, Span { start, end }) = parser.raw_name()?;
    if name.is_empty() {
        return Err(SentenceError::new(Span { start, end }, "expected the name of one of the backends")
            .help("write for example `ramp up reviews-v2 to 50%`"));
    }
    steer.ramp = Some((name.to_owned(), start, end));
    if parser.eat("to")? {
        steer.to = Some(part(parser, "a part such as `50%`")?);
    }
    Ok(())
}

fn clause(parser: &mut Parser<'_>, steer: &mut Steer) -> Result<()> {
    let start = parser.span();
    let again = if parser.eat("at")? {
        parser.expect("most")?;
        let step = sentences::step(parser)?;
        if step < 1e-4 {
            return Err(SentenceError::new(
                parser.since(start),
                "a share is a hundredth of a percent: a step is no less",
            ));
        }
        steer.step.replace(step).is_some()
    } else if parser.eat("every")? {
        let span = parser.span();
        let every = parser.duration()?;
        if !(EVERY.0..=EVERY.1).contains(&every) {
            return Err(SentenceError::new(
                parser.since(span),
                "a step is made every 1s at the most and every 1h at the least",
            )
            .help("write for example `every 5s`"));
        }
        steer.every.replace(every).is_some()
    } else if parser.eat("hold")? {
        steer.hold.replace(parser.duration()?).is_some()
    } else if parser.at("errors") {
        let goal = sentences::goal(parser)?;
        if goal.metric.word != Word::Errors {
            return Err(SentenceError::new(parser.since(start), "expected a ratio such as `errors below 5%`"));
        }
        if goal.below > 1.0 {
            return Err(SentenceError::new(parser.since(start), "no more than 100% can fail"));
        }
        steer.objective.replace(goal.below).is_some()
    } else if parser.eat("judge")? {
        parser.expect("after")?;
        steer.fewest.replace(requests(parser)?).is_some()
    } else {
        let error =
            parser.unexpected("`at most … per step`, `every`, `errors below`, `judge after … requests` or `hold`");
        return Err(parser.suggest(error, &["at", "every", "errors", "judge", "hold"]));
    };
    if again {
        return Err(SentenceError::new(parser.since(start), "said twice").help("leave one of the two out"));
    }
    Ok(())
}

/// `50%`.
fn part(parser: &mut Parser<'_>, expected: &str) -> Result<f64> {
    if !parser.at_number() {
        return Err(parser.unexpected(expected));
    }
    let Value { expression, dimension, span, .. } = parser.number()?;
    match (expression, dimension) {
        (Expression::Number(part), Dimension::Ratio) if part > 0.0 && part <= 1.0 => Ok(part),
        (_, Dimension::Ratio) => Err(SentenceError::new(span, "a part is more than 0% and at most 100%")),
        _ => Err(SentenceError::new(span, format!("expected {expected}, found {}", check::name(dimension)))
            .help("write it in percent")),
    }
}

/// `30 requests`.
fn requests(parser: &mut Parser<'_>) -> Result<f64> {
    if !parser.at_number() {
        return Err(parser.unexpected("a number of requests"));
    }
    let Value { expression, dimension, span, .. } = parser.number()?;
    let number = match (expression, dimension) {
        (Expression::Number(number), Dimension::Scalar) => number,
        _ => return Err(SentenceError::new(span, "expected a number of requests, such as `30 requests`")),
    };
    if !(1.0..=MOST_REQUESTS).contains(&number) {
        return Err(SentenceError::new(span, "a verdict waits for 1 to 1000000 requests"));
    }
    if !parser.eat("requests")? && !parser.eat("request")? {
        let error = parser.unexpected("`requests`");
        return Err(parser.suggest(error, &["requests"]));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_sentence_is_read() {
        let text = "prefer lower errors and p99 latency, at most 5% per step, every 5s, errors below 2%, judge after 50 requests, hold 3m";
        let expected = Steer {
            percentile: Some(99),
            step: Some(0.05),
            every: Some(Duration::from_secs(5)),
            objective: Some(0.02),
            fewest: Some(50.0),
            hold: Some(Duration::from_secs(180)),
            ..Steer::default()
        };
        assert_eq!(parse_steer(text), Ok(expected));
        assert_eq!(parse_steer("prefer lower errors"), Ok(Steer::default()));
        let ramp = parse_steer("ramp up reviews-v2 to 50%, every 30s").unwrap();
        assert_eq!((ramp.ramp, ramp.to), (Some(("reviews-v2".to_owned(), 8, 18)), Some(0.5)));
        assert_eq!(parse_steer("ramp up v2, at most 10% per step").unwrap().step, Some(0.1));
    }

    #[test]
    fn a_mistake_says_where_and_how_to_mend_it() {
        for (text, at, message, help) in [
            ("", 0, "expected `prefer lower errors` or `ramp up NAME`, found the end of the sentence", ""),
            (
                "prefr lower errors",
                0,
                "expected `prefer lower errors` or `ramp up NAME`, found `prefr`",
                "did you mean `prefer`?",
            ),
            ("prefer errors", 7, "expected `lower`, found `errors`", "write for example"),
            ("prefer lower p99 latency", 13, "expected `errors`, found `p99`", "errors count always"),
            ("prefer lower errors and cpu", 24, "only latency can count beside errors", "and p99 latency"),
            ("prefer lower errors, evry 5s", 21, "`every`", "did you mean `every`?"),
            ("prefer lower errors, every 5s, every 6s", 31, "said twice", "leave one of the two out"),
            ("prefer lower errors, every 10ms", 27, "every 1s at the most", "write for example `every 5s`"),
            ("prefer lower errors, at most 0% per step", 29, "a step is more than 0%", ""),
            ("prefer lower errors, errors below 5", 34, "", ""),
            ("prefer lower errors, judge after 0 requests", 33, "a verdict waits for", ""),
            ("ramp up", 7, "expected the name of one of the backends", "ramp up reviews-v2"),
            ("ramp up v2 to 120%", 14, "a part is more than 0%", ""),
            ("ramp up v2 to 50", 14, "expected a part such as `50%`", "percent"),
            ("ramp up v2 faster", 11, "expected `,` or the end of the sentence", ""),
        ] {
            let error = parse_steer(text).expect_err(text);
            assert_eq!(error.start, at, "{text}: {error:?}");
            assert!(error.message.contains(message), "{text}: {error:?}");
            assert!(error.help.as_deref().unwrap_or_default().contains(help), "{text}: {error:?}");
        }
    }
}

//! Whole sentences: `when`, `limit`, `adapt`.

use std::time::Duration;

use crate::{
    language::{
        MAX_PER_SECOND, MAX_TOTAL_PER_SECOND, MIN_PER_SECOND, SentenceError, Span, Vocabulary,
        ast::{Adapt, Dimension, Expression, Goal, Pace},
        check::{self, Shape, Value},
        display::interval_name,
        parser::Parser,
        release, units,
    },
    policy::{Key, LawKind, Limit, Scope, When},
};

type Result<T> = std::result::Result<T, SentenceError>;

const SCOPE_HELP: &str = "`per pod`: every pod has the whole number; `across all pods`: all pods share it";

pub(super) fn when(text: &str, vocabulary: &Vocabulary) -> Result<When> {
    let mut parser = Parser::new(text, vocabulary)?;
    let condition = parser.condition()?;
    let explicit_until = parser.eat("until")?;
    let until = if explicit_until { parser.condition()? } else { release::derive(&condition, parser.held()) };
    if !parser.at_end() {
        let expected = if explicit_until { "`and`, `or`, `for`" } else { "`and`, `or`, `for`, `until`" };
        let error = parser.unexpected(&format!("{expected} or the end of the sentence"));
        return Err(parser.suggest(error, &["and", "or", "for", "until"]));
    }
    Ok(When { condition, until, explicit_until, text: text.to_owned() })
}

pub(super) fn limit(text: &str) -> Result<Limit> {
    let vocabulary = Vocabulary::default();
    let mut parser = Parser::new(text, &vocabulary)?;
    let start = parser.span();
    let number = amount(&mut parser)?;
    let interval = requests_per(&mut parser)?;
    let rate = parser.since(start);
    let (per, scope) = qualifiers(&mut parser)?;
    // Without a scope, a separate counter for each client is one proxy's own.
    let scope = match (scope, &per) {
        (Some(scope), _) => scope,
        (None, Some(_)) => Scope::PerPod,
        (None, None) => return Err(parser.unexpected("`per pod` or `across all pods`").help(SCOPE_HELP)),
    };
    parser.end("`per`, `across`")?;
    check_amount(number, interval, scope, rate)?;
    Ok(Limit { amount: Expression::Number(number), interval, scope, per, text: text.to_owned() })
}

pub(super) fn adapt(text: &str, vocabulary: &Vocabulary) -> Result<Adapt> {
    let mut parser = Parser::new(text, vocabulary)?;
    parser.expect("keep")?;
    let mut goals = vec![goal(&mut parser)?];
    while parser.eat("and")? {
        goals.push(goal(&mut parser)?);
    }
    parser.eat(",")?;
    if !parser.at("between") {
        let error = parser.unexpected("`and` or `between`");
        return Err(parser.suggest(error, &["and", "between"]));
    }
    parser.advance()?;
    let floor_span = parser.span();
    let floor = amount(&mut parser)?;
    parser.expect("and")?;
    let ceiling_span = parser.span();
    let ceiling = amount(&mut parser)?;
    let ceiling_span = parser.since(ceiling_span);
    let interval = requests_per(&mut parser)?;
    let (per, scope) = qualifiers(&mut parser)?;
    if per.is_some() {
        return Err(SentenceError::new(
            parser.since(floor_span),
            "a limit that steers itself is for all requests together",
        )
        .help("leave out `per client ip` and `per header`"));
    }
    let Some(scope) = scope else {
        return Err(parser.unexpected("`per pod` or `across all pods`").help(SCOPE_HELP));
    };
    let pace = pace(&mut parser)?;
    check_amount(floor, interval, scope, floor_span)?;
    check_amount(ceiling, interval, scope, ceiling_span)?;
    if floor > ceiling {
        return Err(SentenceError::new(floor_span.to(ceiling_span), "the lower bound is larger than the upper")
            .help("write the smaller number first"));
    }
    Ok(Adapt { goals, floor, ceiling, interval, scope, pace, law: LawKind::default(), text: text.to_owned() })
}

/// `, at most 20% per step`, `, every 1s`, `, cooldown 5s`, in any order, each at most once.
fn pace(parser: &mut Parser<'_>) -> Result<Pace> {
    let mut pace = Pace::default();
    while !parser.at_end() {
        if !parser.eat(",")? {
            return Err(parser.unexpected("`,` or the end of the sentence"));
        }
        let start = parser.span();
        let again = if parser.eat("at")? {
            parser.expect("most")?;
            pace.step.replace(step(parser)?).is_some()
        } else if parser.eat("every")? {
            pace.every.replace(parser.duration()?).is_some()
        } else if parser.eat("cooldown")? {
            pace.cooldown.replace(parser.duration()?).is_some()
        } else {
            let error = parser.unexpected("`at most … per step`, `every` or `cooldown`");
            return Err(parser.suggest(error, &["at", "every", "cooldown"]));
        };
        if again {
            return Err(SentenceError::new(parser.since(start), "said twice").help("leave one of the two out"));
        }
    }
    Ok(pace)
}

/// `20% per step`.
pub(super) fn step(parser: &mut Parser<'_>) -> Result<f64> {
    if !parser.at_number() {
        return Err(parser.unexpected("a part such as `20%`"));
    }
    let Value { expression, dimension, span, shape } = parser.number()?;
    let Expression::Number(step) = expression else {
        return Err(SentenceError::new(span, "expected a part such as `20%`"));
    };
    if !matches!(dimension, Dimension::Ratio | Dimension::Scalar) {
        return Err(SentenceError::new(
            span,
            format!("expected a part such as `20%`, found {}", check::name(dimension)),
        ));
    }
    if !(step > 0.0 && step <= 1.0) {
        let error = SentenceError::new(span, "a step is more than 0% and at most 100%");
        return Err(match shape {
            Shape::Plain(number) if (1.0..=100.0).contains(&number) => {
                error.help(format!("write `{}`", units::write_value(number / 100.0, Dimension::Ratio)))
            }
            _ => error,
        });
    }
    parser.expect("per")?;
    if !parser.eat("step")? {
        let error = parser.unexpected("`step`");
        return Err(parser.suggest(error, &["step"]));
    }
    Ok(step)
}

pub(super) fn goal(parser: &mut Parser<'_>) -> Result<Goal> {
    let metric = parser.metric()?;
    if !(parser.at("below") || parser.at("under") || parser.at("<")) {
        let error = parser.unexpected("`below`");
        return Err(parser.suggest(error, &["below"]));
    }
    parser.advance()?;
    let value = parser.literal()?;
    check::comparable(&metric, &value, parser.text())?;
    let (Expression::Metric(metric), Expression::Number(below)) = (metric.expression, value.expression) else {
        return Err(SentenceError::new(metric.span, "expected a metric"));
    };
    if below <= 0.0 {
        return Err(SentenceError::new(value.span, "a goal is larger than 0"));
    }
    Ok(Goal { metric, below })
}

/// A number of requests.
fn amount(parser: &mut Parser<'_>) -> Result<f64> {
    let start = parser.span();
    if parser.eat("-")? {
        parser.literal()?;
        return Err(SentenceError::new(parser.since(start), "a limit cannot be negative"));
    }
    if parser.at_end() || !parser.at_number() {
        return Err(parser
            .unexpected("a number of requests")
            .help("write for example `30 requests per second across all pods`"));
    }
    let Value { expression, dimension, span, shape } = parser.number()?;
    let Expression::Number(number) = expression else {
        return Err(SentenceError::new(span, "expected a number of requests"));
    };
    if dimension != Dimension::Scalar {
        return Err(SentenceError::new(
            span,
            format!("expected a number of requests, found {}", check::name(dimension)),
        ));
    }
    if shape == Shape::Plain(0.0) || number == 0.0 {
        return Err(SentenceError::new(span, "a limit of 0 requests would close the service, which is no rate limit")
            .help("the smallest limit is `1 request per day`"));
    }
    Ok(number)
}

/// `requests per second`.
fn requests_per(parser: &mut Parser<'_>) -> Result<Duration> {
    if !parser.eat("requests")? && !parser.eat("request")? {
        let error = parser.unexpected("`requests`");
        return Err(parser.suggest(error, &["requests"]));
    }
    if !parser.eat("per")? && !parser.eat("/")? {
        let error = parser.unexpected("`per second`, `per minute`, `per hour` or `per day`");
        return Err(parser.suggest(error, &["per"]));
    }
    parser.interval()
}

/// `per client ip`, `per header NAME`, `per pod`, `across all pods`, in any order, up to the end or a comma.
fn qualifiers(parser: &mut Parser<'_>) -> Result<(Option<Key>, Option<Scope>)> {
    let (mut per, mut scope) = (None, None);
    while !parser.at_end() && !parser.at(",") {
        let start = parser.span();
        let (new_per, new_scope) = qualifier(parser)?;
        let span = parser.since(start);
        if new_per.is_some() && per.is_some() {
            return Err(SentenceError::new(span, "a limit has at most one of `per client ip` and `per header`")
                .help("write a rule for each"));
        }
        if new_scope.is_some() && scope.is_some() {
            return Err(
                SentenceError::new(span, "a limit has exactly one of `per pod` and `across all pods`").help(SCOPE_HELP)
            );
        }
        per = new_per.or(per);
        scope = new_scope.or(scope);
    }
    Ok((per, scope))
}

fn qualifier(parser: &mut Parser<'_>) -> Result<(Option<Key>, Option<Scope>)> {
    if parser.eat("across")? {
        parser.expect("all")?;
        if !parser.eat("pods")? {
            let error = parser.unexpected("`pods`");
            return Err(parser.suggest(error, &["pods"]));
        }
        return Ok((None, Some(Scope::AcrossAllPods)));
    }
    if !parser.eat("per")? {
        let error = parser.unexpected("`per pod`, `across all pods`, `per client ip` or `per header`");
        return Err(parser.suggest(error, &["per", "across"]));
    }
    if parser.eat("pod")? {
        return Ok((None, Some(Scope::PerPod)));
    }
    if parser.eat("client")? {
        if !parser.eat("ip")? {
            return Err(parser.unexpected("`ip`"));
        }
        return Ok((Some(Key::ClientIp), None));
    }
    if parser.at("header") {
        let (name, span) = parser.raw_name()?;
        return Ok((Some(Key::Header(header_name(name, span)?)), None));
    }
    let error = parser.unexpected("`pod`, `client ip` or `header`");
    Err(parser.suggest(error, &["pod", "client", "header"]))
}

fn header_name(name: &str, span: Span) -> Result<String> {
    if name.is_empty() {
        return Err(SentenceError::new(span, "expected a header's name, found the end of the sentence"));
    }
    if !is_header_name(name) {
        return Err(SentenceError::new(span, format!("`{name}` is no header's name"))
            .help("a name has letters, digits and `-`: `per header x-user-id`"));
    }
    Ok(name.to_ascii_lowercase())
}

/// Whether `name` is a token of RFC 9110, the only thing that may name a header.
pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Refuses an amount out of range, or too fine for the thousandths of a request that limits are kept in.
fn check_amount(number: f64, interval: Duration, scope: Scope, span: Span) -> Result<()> {
    let per_second = number / interval.as_secs_f64();
    // A total is divided before it reaches a proxy, so it may be larger than what one proxy can keep. Whether a share
    // fits is known only when the pods are.
    let most = match scope {
        Scope::PerPod => MAX_PER_SECOND,
        Scope::AcrossAllPods => MAX_TOTAL_PER_SECOND,
    };
    let unit = interval_name(interval);
    if per_second > most {
        let most = units::write_value(most * interval.as_secs_f64(), Dimension::Count);
        return Err(SentenceError::new(
            span,
            format!("more than {most} requests per {unit} cannot be limited exactly"),
        )
        .help("leave the limit out, or lower it"));
    }
    // 1 per day computes to a hair below the bound.
    if per_second < MIN_PER_SECOND * (1.0 - 1e-9) {
        return Err(SentenceError::new(span, "the smallest limit is 1 request per day"));
    }
    let milli = number * 1000.0;
    if (milli - milli.round()).abs() > 1e-6 * milli.max(1.0) || milli.round() < 1.0 {
        return Err(SentenceError::new(span, format!("a limit has at most three decimals, this has more per {unit}"))
            .help("use a longer unit of time, such as `per hour`"));
    }
    Ok(())
}

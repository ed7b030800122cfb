//! The sentence that explains a decision, with the numbers in it.
//!
//! Numbers are written as people write them: fractions as percent, times as ms or s. Times of day are UTC.

mod adapt;

use std::time::Duration;

use jiff::Timestamp;

use super::{Cause, Decision, Phase, RuleState, View};
use crate::{
    condition::{self, Truth, elapsed},
    language::ast::{Arithmetic, Comparison, Condition, Expression},
    metric::{Metric, Reduce, Word},
    policy::{Action, Mode, When},
};

/// What a sentence is made from.
pub(super) struct Facts<'a> {
    pub(super) view: &'a View<'a>,
    /// The state after the step.
    pub(super) state: &'a RuleState,
    pub(super) decision: &'a Decision,
}

/// The whole sentence.
pub(super) fn sentence(facts: &Facts<'_>) -> String {
    let text = match &facts.view.rule.when {
        _ if facts.decision.reading.blind || facts.state.floor.is_some() => without_metrics(facts),
        _ if facts.decision.phase == Phase::Limiting && facts.state.steering.is_some() => adapt::sentence(facts),
        None => format!("{}{}", limiting(facts, ""), amount_note(facts)),
        Some(when) => with_metrics(facts, when),
    };
    let View { rule, observations, now, .. } = facts.view;
    if rule.mode == Mode::Enforce {
        return text;
    }
    match super::excess(rule, observations, *now) {
        Some(excess) => format!("shadow: would refuse {} now; {text}", Unit::PerSecond.write(excess)),
        None => format!("shadow: not enforced; {text}"),
    }
}

/// The metric as the sentence spells it.
pub(super) fn spelling(metric: &Metric) -> String {
    let suffix = match (&metric.word, metric.reduce) {
        // These have one reading; a named metric's reduction stands in its definition.
        (Word::Pods | Word::Named(_), _) | (_, Reduce::Mean) => "",
        (_, Reduce::Max) => ".max",
        (_, Reduce::Sum) => ".sum",
    };
    format!("{}{suffix}", metric.word)
}

fn without_metrics(facts: &Facts<'_>) -> String {
    let subject = if facts.decision.missing.is_empty() {
        "the condition has no value now (its arithmetic gives no finite number)".to_owned()
    } else {
        joined(facts.decision.missing.iter().map(|metric| absence(facts, metric)), " and ")
    };
    let limit = facts.decision.limit.map(|rate| facts.view.rule.action.describe(rate));
    let limit = limit.as_deref();
    let never = facts.decision.missing.iter().any(|metric| !facts.view.observations.samples.contains_key(metric));
    let consequence = match (facts.decision.phase, limit) {
        (_, Some(limit)) if facts.state.floor.is_some() => {
            format!("the floor of {limit} is in force since {}", clock(facts.decision.since, facts.view.now))
        }
        (Phase::Limiting, Some(limit)) => format!("holding the limit of {limit}"),
        (Phase::Releasing, Some(limit)) if facts.state.ramp.is_some_and(|ramp| ramp.paused) => {
            format!("holding the limit of {limit}, the release stands still")
        }
        (Phase::Releasing, Some(limit)) => format!("letting go as the policy says, now {limit}"),
        _ if never => "no limit".to_owned(),
        _ => "still no limit".to_owned(),
    };
    format!("{subject}: {consequence}")
}

fn absence(facts: &Facts<'_>, metric: &Metric) -> String {
    let (name, view) = (spelling(metric), facts.view);
    let Some(sample) = view.observations.samples.get(metric) else {
        return format!("{name} {} never been seen", if is_plural(metric) { "have" } else { "has" });
    };
    let last = format!("last {} by {}", Unit::of(metric).write(sample.value), sample.source);
    let missing_for = facts.state.missing_since.map_or(Duration::ZERO, |since| elapsed(since, view.now));
    if missing_for < Duration::from_secs(1) {
        return format!("{name} {} missing ({last})", if is_plural(metric) { "are" } else { "is" });
    }
    let verb = if is_plural(metric) { "have" } else { "has" };
    format!("{name} {verb} been missing for {} ({last})", span(missing_for))
}

fn with_metrics(facts: &Facts<'_>, when: &When) -> String {
    let condition = Phrase::of(&when.condition);
    let until = Phrase::of(&when.until);
    let mut metrics = condition::metrics(&when.condition);
    if facts.decision.phase == Phase::Limiting {
        condition::collect(&when.until, &mut metrics);
    }
    let seen = joined(metrics.into_iter().map(|metric| sight(facts, metric)), " and ");
    let lead = if seen.is_empty() { String::new() } else { format!("{seen}: ") };
    let note = amount_note(facts);
    match facts.decision.phase {
        Phase::Idle => format!("{lead}no limit (needs {})", condition.text),
        Phase::Pending => match condition.progress(&facts.state.holds) {
            Some(progress) => format!("{seen}, {progress}: no limit yet"),
            None => format!("{lead}no limit yet (needs {})", condition.text),
        },
        Phase::Limiting if facts.decision.reading.condition.momentary == Truth::True => {
            let held = facts.state.streak.held;
            let so_long = if held < Duration::from_secs(1) { String::new() } else { format!(" for {}", span(held)) };
            match condition.bare {
                Some(bare) => format!("{seen}, {bare}{so_long}: {}{note}", limiting(facts, "")),
                None => format!("{lead}{}, as {} holds{so_long}{note}", limiting(facts, ""), condition.unheld),
            }
        }
        Phase::Limiting => match until.progress(&facts.state.until_holds) {
            Some(progress) if facts.decision.reading.until.momentary == Truth::True => {
                format!("{seen}, {progress}: {}{note}", limiting(facts, "still "))
            }
            _ => format!("{lead}{} (releases {}){note}", limiting(facts, "still "), until.when()),
        },
        Phase::Releasing => {
            let now_at = facts.decision.limit.map(|rate| facts.view.rule.action.describe(rate)).unwrap_or_default();
            match facts.state.ramp.map(|ramp| ramp.cause) {
                Some(Cause::Missing) => format!("{lead}letting go since metrics were missing, now {now_at}"),
                Some(Cause::Floor) => format!("{lead}letting go of the floor, now {now_at}"),
                _ if until.bare.is_some() && !seen.is_empty() => {
                    format!("{seen} after {}: releasing, now {now_at}{note}", until.text)
                }
                _ => format!("{lead}releasing after {}, now {now_at}{note}", until.text),
            }
        }
    }
}

/// `limiting to 30 requests per second across all pods since 10:02:11`.
fn limiting(facts: &Facts<'_>, still: &str) -> String {
    match facts.decision.limit {
        Some(rate) => format!(
            "{still}limiting to {} since {}",
            facts.view.rule.action.describe(rate),
            clock(facts.decision.since, facts.view.now)
        ),
        None => "no limit".to_owned(),
    }
}

/// What to say when the amount has no value now.
fn amount_note(facts: &Facts<'_>) -> String {
    let view = facts.view;
    let Action::Limit(limit) = &view.rule.action else { return String::new() };
    if super::rate(limit, view.observations, view.now).is_some() {
        return String::new();
    }
    let mut read = Vec::new();
    condition::collect_expression(&limit.amount, &mut read);
    read.retain(|metric| condition::read(metric, view.observations, view.now).is_none());
    let reason = if read.is_empty() {
        "its amount has no value above zero now".to_owned()
    } else {
        joined(read.into_iter().map(|metric| absence(facts, metric)), " and ")
    };
    let consequence = if facts.decision.limit.is_some() { "the last number stays" } else { "the limit has no number" };
    format!("; {reason}, so {consequence}")
}

/// `cpu is 91%`.
fn sight(facts: &Facts<'_>, metric: &Metric) -> String {
    let verb = if is_plural(metric) { "are" } else { "is" };
    match condition::read(metric, facts.view.observations, facts.view.now) {
        Some(value) => format!("{} {verb} {}", spelling(metric), Unit::of(metric).write(value)),
        None => format!("{} {verb} missing", spelling(metric)),
    }
}

/// A condition in words.
struct Phrase {
    /// All of it: `above 80% for 10s` if it compares one metric, else `cpu above 80% and p99 latency above 200 ms`.
    text: String,
    /// The same without the outermost `for`.
    unheld: String,
    /// `above 80%`, if the condition compares one metric.
    bare: Option<String>,
    /// Held part around `bare`.
    held: Option<(usize, Duration)>,
}

impl Phrase {
    fn of(condition: &Condition) -> Self {
        let (inner, held) = match condition {
            Condition::Held { id, condition, duration } => (&**condition, Some((*id, *duration))),
            other => (other, None),
        };
        let bare = match inner {
            Condition::Compare { comparison, left: Expression::Metric(metric), right, relax }
                if condition::metrics(inner).len() == 1 =>
            {
                Some(format!("{} {}", word(*comparison), threshold(right, *relax, Unit::of(metric))))
            }
            _ => None,
        };
        let unheld = requirement(inner, false);
        let text = match (&bare, held) {
            (Some(bare), Some((_, duration))) => format!("{bare} for {}", span(duration)),
            (Some(bare), None) => bare.clone(),
            (None, _) => requirement(condition, false),
        };
        Self { text, unheld, bare, held }
    }

    /// `above 80% for 4s of 10s`.
    fn progress(&self, holds: &condition::Holds) -> Option<String> {
        let (bare, (id, duration)) = (self.bare.as_ref()?, self.held?);
        let held = holds.get(&id).map_or(Duration::ZERO, |hold| hold.held);
        Some(format!("{bare} for {} of {}", span(held), span(duration)))
    }

    /// The text after "releases".
    fn when(&self) -> String {
        if self.bare.is_some() { self.text.clone() } else { format!("when {}", self.text) }
    }
}

fn requirement(condition: &Condition, inside: bool) -> String {
    let enclosed = |text: String| if inside { format!("({text})") } else { text };
    match condition {
        Condition::Literal(value) => value.to_string(),
        Condition::Compare { comparison, left, right, relax } => {
            let unit = unit_of(left).or_else(|| unit_of(right)).unwrap_or(Unit::Plain);
            format!("{} {} {}", in_text(left, unit), word(*comparison), threshold(right, *relax, unit))
        }
        Condition::All(parts) => enclosed(joined(parts.iter().map(|part| requirement(part, true)), " and ")),
        Condition::Any(parts) => enclosed(joined(parts.iter().map(|part| requirement(part, true)), " or ")),
        Condition::Not(inner) => format!("not {}", requirement(inner, true)),
        Condition::Held { id: _, condition, duration } => {
            format!("{} for {}", requirement(condition, true), span(*duration))
        }
    }
}

fn word(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Less => "below",
        Comparison::LessOrEqual => "at most",
        Comparison::Greater => "above",
        Comparison::GreaterOrEqual => "at least",
        Comparison::Equal => "equal to",
        Comparison::NotEqual => "other than",
    }
}

fn threshold(right: &Expression, relax: f64, unit: Unit) -> String {
    let constant = match right {
        Expression::Number(number) => Some(*number),
        Expression::Negative(inner) => match &**inner {
            Expression::Number(number) => Some(-number),
            _ => None,
        },
        _ => None,
    };
    match constant {
        Some(number) => unit.write(condition::relaxed(number, relax)),
        None if relax == 1.0 => in_text(right, unit),
        None => format!("{} of {}", Unit::Ratio.write(relax), in_text(right, unit)),
    }
}

fn in_text(expression: &Expression, unit: Unit) -> String {
    match expression {
        Expression::Number(number) => unit.write(*number),
        Expression::Metric(metric) => spelling(metric),
        Expression::Negative(inner) => format!("-{}", in_text(inner, unit)),
        Expression::Binary { operator, left, right } => {
            let (sign, unit) = match operator {
                Arithmetic::Add => ('+', unit),
                Arithmetic::Subtract => ('-', unit),
                // A factor has no unit of its own.
                Arithmetic::Multiply => ('*', Unit::Plain),
                Arithmetic::Divide => ('/', Unit::Plain),
            };
            format!("({} {sign} {})", in_text(left, unit), in_text(right, unit))
        }
    }
}

/// How a number is written.
#[derive(Clone, Copy)]
enum Unit {
    Ratio,
    Seconds,
    PerSecond,
    Plain,
}

impl Unit {
    fn of(metric: &Metric) -> Self {
        match metric.word {
            Word::Cpu | Word::Memory | Word::Errors => Self::Ratio,
            Word::Latency(_) => Self::Seconds,
            Word::Requests | Word::Answers | Word::Refused | Word::Demand(_) | Word::Excess(_) => Self::PerSecond,
            // The name says "per second" already; the unit of a named metric stands in its policy, not in the rule.
            Word::ErrorsPerSecond | Word::Inflight | Word::Pods | Word::Named(_) => Self::Plain,
        }
    }

    fn write(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{}%", rounded(value * 100.0, 1)),
            Self::Seconds if value.abs() < 1.0 => format!("{} ms", rounded(value * 1000.0, 1)),
            Self::Seconds => format!("{} s", rounded(value, 2)),
            Self::PerSecond => format!("{} per second", rounded(value, 1)),
            Self::Plain => rounded(value, 3),
        }
    }
}

/// Up to `digits` decimals, without trailing zeros.
fn rounded(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

fn unit_of(expression: &Expression) -> Option<Unit> {
    let mut metrics = Vec::new();
    condition::collect_expression(expression, &mut metrics);
    metrics.first().map(|metric| Unit::of(metric))
}

fn is_plural(metric: &Metric) -> bool {
    matches!(metric.word, Word::Requests | Word::Errors | Word::ErrorsPerSecond | Word::Pods)
}

/// `500ms`, `12s`, `1m30s`, `2h`; from one second up in whole seconds.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return match duration.subsec_millis() {
            0 => "0s".to_owned(),
            milliseconds => format!("{milliseconds}ms"),
        };
    }
    let parts = [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}

/// The time of day, with the date if that was a day or more ago.
fn clock(at: Timestamp, now: Timestamp) -> String {
    let format = if elapsed(at, now) < Duration::from_secs(86_400) { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    at.strftime(format).to_string()
}

fn joined(parts: impl Iterator<Item = String>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}

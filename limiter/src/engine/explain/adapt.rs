//! The sentence of a limit that steers itself.

use std::time::Duration;

use super::{Facts, Unit, absence, is_plural, joined, span, spelling};
use crate::{
    condition::{self, elapsed},
    language::ast::Goal,
    policy::Action,
};

/// `p99 latency is 240 ms of 200 ms: limiting to 312 requests per second per pod, at most 20 in flight (cut 2s ago, from
/// 400)`.
pub(super) fn sentence(facts: &Facts<'_>) -> String {
    let view = facts.view;
    let (Action::Adapt(adapt), Some(steering), Some(limit)) =
        (&view.rule.action, &facts.state.steering, facts.decision.limit)
    else {
        return "no limit".to_owned();
    };
    let goals = joined(adapt.goals.iter().map(|goal| sight(facts, goal)), " and ");
    let at_ceiling = limit.per_second() >= adapt.ceiling / adapt.interval.as_secs_f64();
    let verb = if at_ceiling { "at the ceiling of" } else { "limiting to" };
    let bound = view.bound(facts.decision.phase, facts.state).map(|bound| format!(", at most {bound} in flight"));
    let ago = |at| match elapsed(at, view.now) {
        short if short < Duration::from_secs(1) => "now".to_owned(),
        long => format!("{} ago", span(long)),
    };
    let grown_at = steering.grown_at.filter(|grown_at| steering.cut.is_none_or(|cut| *grown_at > cut.at));
    let futile = steering.futile.filter(|futile| futile.until > view.now);
    let last_move = match (steering.cut, grown_at) {
        _ if let Some(futile) = futile => {
            format!(" (cutting did not help, tried again in {})", span(elapsed(view.now, futile.until)))
        }
        _ if at_ceiling => String::new(),
        (_, Some(grown_at)) => format!(" (last raised {})", ago(grown_at)),
        (Some(cut), None) => format!(" (cut {}, from {})", ago(cut.at), cut.from.amount()),
        (None, None) => String::new(),
    };
    format!("{goals}: {verb} {}{}{last_move}", view.rule.action.describe(limit), bound.unwrap_or_default())
}

/// `p99 latency is 240 ms of 200 ms`.
fn sight(facts: &Facts<'_>, goal: &Goal) -> String {
    let metric = &goal.metric;
    let Some(value) = condition::read(metric, facts.view.observations, facts.view.now) else {
        return absence(facts, metric);
    };
    let (verb, unit) = (if is_plural(metric) { "are" } else { "is" }, Unit::of(metric));
    format!("{} {verb} {} of {}", spelling(metric), unit.write(value), unit.write(goal.below))
}

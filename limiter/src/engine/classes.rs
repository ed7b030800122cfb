//! The limit of each priority class.
//!
//! With a limit `L` and the demand `d` of each class, the first class may have all of `L`, and each next one what the better
//! ones leave: `L - HEADROOM * (sum of their demands)`, at least `FLOOR_SHARE * L`, so that none is starved for good. Where
//! `L` must not be exceeded, as with `limit`, `SLACK * L` is given to none of these: so the rule's own bucket fills again
//! after a better class has jumped. A demand that is not known changes nothing: the last limit stays, at first `L`. So does one
//! that trembles: a limit moves only by more than `STILL * L`, as each move is sent to every proxy.

use jiff::Timestamp;

use crate::{
    condition,
    metric::Observations,
    policy::{Action, Rule, Scope},
    quota::Rate,
};

/// What is kept free for a class, as a multiple of its measured demand.
pub const HEADROOM: f64 = 1.1;
/// What is given to none but the first class of a rule with `limit`, as a part of the limit.
pub const SLACK: f64 = 0.05;
/// What a class's limit may be off by before it moves, as a part of the limit.
pub const STILL: f64 = 0.05;
/// What each class may have however much the better ones ask for, as a part of the limit.
pub const FLOOR_SHARE: f64 = 0.01;

/// The limits of the rule's classes and of the nameless last one, of which those before were `before`.
pub(super) fn limits(
    rule: &Rule,
    limit: Option<Rate>,
    before: &[Rate],
    observations: &Observations,
    now: Timestamp,
) -> Vec<Rate> {
    let Some(limit) = limit.filter(|_| !rule.classes.is_empty()) else { return Vec::new() };
    let scale = match rule.action.scope() {
        Scope::PerPod => f64::from(observations.pods.max(1)),
        Scope::AcrossAllPods => 1.0,
    };
    let per_second = limit.per_second();
    let slack = match rule.action {
        Action::Limit(_) => SLACK * per_second,
        Action::Adapt(_) => 0.0,
    };
    let mut asked = Some(0.0);
    let mut limits = vec![limit];
    for (position, class) in rule.classes.iter().enumerate() {
        let demand = condition::read(&rule.demand(class), observations, now);
        asked = asked.zip(demand).map(|(asked, demand)| asked + demand.max(0.0) / scale);
        let last = before.get(position + 1).copied().filter(|_| before.len() == rule.classes.len() + 1);
        let Some(asked) = asked else {
            limits.push(last.unwrap_or(limit).min(limit));
            continue;
        };
        let left = (per_second - slack - HEADROOM * asked).max(FLOOR_SHARE * per_second);
        let is_still =
            |last: &Rate| last.interval == limit.interval && (last.per_second() - left).abs() <= STILL * per_second;
        let least = Rate { milli_requests: 1, interval: limit.interval };
        let exact = || Rate::from_requests(left * limit.interval.as_secs_f64(), limit.interval).unwrap_or(least);
        limits.push(last.filter(is_still).unwrap_or_else(exact).min(limit));
    }
    limits
}

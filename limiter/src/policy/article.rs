//! `SmartLimiter` of `microservice.netease.com/v1alpha1`, the founding article's form, to [`Policy`].
//!
//! It names no target: its own name and namespace are those of the Service. Each descriptor becomes a rule.

use std::{collections::BTreeMap, time::Duration};

use crds::article::{self as api, ArticleSmartLimiter};

use super::{
    Action, EnforceAt, Kind, Limit, MissingAction, Mode, OnMissing, Policy, Problems, Rule, Scope, Targets, When, key,
};
use crate::{
    language::{
        self, MAX_PER_SECOND, MAX_TOTAL_PER_SECOND, MIN_PER_SECOND, Vocabulary,
        ast::{Arithmetic, Dimension, Expression},
        write_duration,
    },
    metric::{Metric, Word},
    problem::Problem,
};

/// How long a metric must be missing before that counts; the form has no field for it.
const AFTER: Duration = Duration::from_secs(15);

/// The policy that the object describes, as far as it can be understood, and everything that is wrong with it. Any problem
/// means that the object is not accepted; a policy beside problems serves explanations only.
#[must_use]
pub fn policy(object: &ArticleSmartLimiter) -> (Option<Policy>, Vec<Problem>) {
    let mut problems = Problems::default();
    let key = key(Kind::ArticleSmartLimiter, &object.metadata, &mut problems);
    let descriptors = &object.spec.descriptors;
    if descriptors.is_empty() {
        problems.invalid("spec.descriptors", "at least one descriptor is needed");
    }
    if descriptors.len() > 32 {
        problems.invalid("spec.descriptors", format!("at most 32 descriptors, found {}", descriptors.len()));
    }
    let rules: Vec<Rule> = descriptors
        .iter()
        .enumerate()
        .filter_map(|(position, descriptor)| rule(position, descriptor, &mut problems))
        .collect();
    let complete = rules.len() == descriptors.len() && !rules.is_empty();
    let policy = key.filter(|_| complete).map(|key| Policy {
        targets: Targets::Services(vec![key.name.clone()]),
        enforce_at: EnforceAt::Server,
        key,
        generation: object.metadata.generation.unwrap_or(0),
        created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
        rules,
        metrics: BTreeMap::new(),
        on_missing: OnMissing { action: MissingAction::Hold, after: AFTER },
    });
    (policy, problems.into_vec())
}

fn rule(position: usize, descriptor: &api::Descriptor, problems: &mut Problems) -> Option<Rule> {
    let field = format!("spec.descriptors[{position}]");
    let api::Descriptor { action, condition } = descriptor;
    let when = match condition {
        None => Some(None),
        Some(text) => condition_of(text, &format!("{field}.condition"), problems).map(Some),
    };
    let limit = limit(action, &format!("{field}.action"), problems);
    Some(Rule {
        name: format!("descriptor-{position}"),
        mode: Mode::Enforce,
        when: when?,
        action: Action::Limit(limit?),
        matches: Vec::new(),
        burst: None,
        classes: Vec::new(),
    })
}

fn condition_of(text: &str, field: &str, problems: &mut Problems) -> Option<When> {
    problems.sentence(language::parse_when(text, &Vocabulary::default()), field, text)
}

fn limit(action: &api::Action, field: &str, problems: &mut Problems) -> Option<Limit> {
    let api::Action { fill_interval, quota } = action;
    let interval = interval(fill_interval.as_ref(), &format!("{field}.fill_interval"), problems);
    let field = format!("{field}.quota");
    let parsed = language::parse_expression(quota, &Vocabulary::default());
    let (expression, dimension) = problems.sentence(parsed, field.clone(), quota)?;
    if let Dimension::Seconds | Dimension::Bytes = dimension {
        problems.add(
            field,
            format!("a quota is a number of requests, `{quota}` is not"),
            "write for example `30/{pod}`",
        );
        return None;
    }
    let (amount, scope) = divided(expression);
    let limit = Limit { amount, interval: interval?, scope, per: None, text: quota.clone() };
    check_constant(&limit, &field, problems).then_some(limit)
}

/// `x / {pod}` is the total `x` divided among the pods by [`crate::quota::shares`], whose parts add up exactly; computing
/// the quotient for each pod would lose the rest.
fn divided(expression: Expression) -> (Expression, Scope) {
    match expression {
        Expression::Binary { operator: Arithmetic::Divide, left, right } if *right == pods() => {
            (*left, Scope::AcrossAllPods)
        }
        other => (other, Scope::PerPod),
    }
}

fn pods() -> Expression {
    Expression::Metric(Metric::plain(Word::Pods))
}

fn interval(fill: Option<&api::FillInterval>, field: &str, problems: &mut Problems) -> Option<Duration> {
    const EXAMPLE: &str = "write for example `fill_interval: {seconds: 1}`";
    let Some(api::FillInterval { seconds, nanos }) = fill else {
        problems.add(field, "fill_interval is missing, so the quota is for no length of time", EXAMPLE);
        return None;
    };
    let nanoseconds = i128::from(*seconds) * 1_000_000_000 + i128::from(*nanos);
    let in_range = (1_000_000..=86_400_000_000_000).contains(&nanoseconds);
    if !(0..1_000_000_000).contains(nanos) || *seconds < 0 || !in_range {
        problems.add(
            field,
            format!("an interval is from 1 ms to one day, found {seconds} seconds and {nanos} nanoseconds"),
            EXAMPLE,
        );
        return None;
    }
    Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
}

/// Refuses a number out of range when no metric is needed to know it. The engine checks the others as they change.
fn check_constant(limit: &Limit, field: &str, problems: &mut Problems) -> bool {
    let mut metrics = std::collections::BTreeSet::new();
    limit.amount.collect_metrics(&mut metrics);
    if !metrics.is_empty() {
        return true;
    }
    let most = match limit.scope {
        Scope::PerPod => MAX_PER_SECOND,
        Scope::AcrossAllPods => MAX_TOTAL_PER_SECOND,
    };
    let interval = limit.interval.as_secs_f64();
    let message = match limit.amount.evaluate(&|_| None) {
        None => "the quota cannot be computed (division by zero, or too large)".to_owned(),
        Some(0.0) => "a quota of 0 would close the service, which is no rate limit".to_owned(),
        Some(amount) if amount < 0.0 => format!("a quota cannot be negative, found {amount}"),
        Some(amount) if amount < 0.001 || amount / interval < MIN_PER_SECOND * (1.0 - 1e-9) => {
            format!("a quota of {amount} per {} is less than one request a day", write_duration(limit.interval))
        }
        Some(amount) if amount / interval > most => {
            format!("more than {most} requests per second cannot be limited exactly, found {}", amount / interval)
        }
        Some(_) => return true,
    };
    problems.add(field, message, "the range is from one request a day to 100000 a second at each pod");
    false
}

#[cfg(test)]
mod tests;

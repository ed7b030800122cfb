//! Steps every rule of one service.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use limiter::{
    engine::{self, RuleState},
    metric::{Metric, Observations, Word},
    policy::Policy,
};

use super::{Decisions, RuleKey};
use crate::index::ServiceView;

/// The rules of one service: what they remember and what they decided last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// What each rule remembers.
    pub states: BTreeMap<RuleKey, RuleState>,
    /// What each rule decided.
    pub decisions: Decisions,
    /// When the passing of time alone can change a decision.
    pub next: Option<Timestamp>,
}

/// The name under which a policy's own metric, or what proxies count of one of its rules, is measured: two policies may use one
/// word for different things.
#[must_use]
pub fn qualified(policy: &Policy, metric: &Metric) -> Metric {
    let word = match &metric.word {
        Word::Named(name) => Word::Named(format!("{}#{name}", policy.key)),
        Word::Demand(class) => Word::Demand(format!("{}#{class}", policy.key)),
        Word::Excess(rule) => Word::Excess(format!("{}/{rule}", policy.key)),
        _ => return metric.clone(),
    };
    Metric { word, reduce: metric.reduce }
}

/// Decides every rule of the service at `now`. `observe` tells what is known of a set of qualified metrics. Rules that are gone
/// lose their state.
#[must_use]
pub fn decide(
    view: &ServiceView<'_>,
    old: &Rules,
    observe: impl Fn(&BTreeSet<Metric>) -> Observations,
    now: Timestamp,
) -> Rules {
    let mut new = Rules::default();
    for policy in &view.policies {
        let names: BTreeMap<Metric, Metric> =
            policy.metrics().into_iter().map(|metric| (qualified(policy, &metric), metric)).collect();
        let mut observations = observe(&names.keys().cloned().collect());
        observations.samples = observations
            .samples
            .into_iter()
            .filter_map(|(metric, sample)| names.get(&metric).map(|name| (name.clone(), sample)))
            .collect();
        for rule in &policy.rules {
            let key = RuleKey { service: view.key.clone(), policy: policy.key.clone(), rule: rule.name.clone() };
            let state = old.states.get(&key).cloned().unwrap_or_default();
            let (state, decision) = engine::step(rule, &policy.on_missing, &state, &observations, now);
            new.next = engine::next_change(rule, &state, now).into_iter().chain(new.next).min();
            new.states.insert(key.clone(), state);
            new.decisions.insert(key, decision);
        }
    }
    new
}

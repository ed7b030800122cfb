//! Steps every rule of one service.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use limiter::{
    engine::{self, RuleState},
    metric::{Metric, Observations, Word},
    policy::{Policy, PolicyKey},
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
    /// What each policy's rules were decided on.
    sights: BTreeMap<PolicyKey, Sight>,
    /// When the passing of time alone can change a decision.
    pub next: Option<Timestamp>,
}

/// What a policy's rules are decided on.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sight {
    /// The metrics that they read, by the name under which each is measured.
    names: Arc<BTreeMap<Metric, Metric>>,
    observations: Observations,
}

impl Rules {
    /// Why a rule of `policy` decided as it did, in one plain sentence; empty for one that was not decided.
    #[must_use]
    pub fn explain(&self, policy: &Policy, key: &RuleKey) -> String {
        let rule = policy.rules.iter().find(|rule| rule.name == key.rule);
        let sight = self.sights.get(&policy.key);
        let decided = rule.zip(sight).zip(self.states.get(key)).zip(self.decisions.get(key));
        let explain = |(((rule, sight), state), decision): (((_, &Sight), _), _)| {
            engine::explain(rule, &policy.on_missing, state, decision, &sight.observations)
        };
        decided.map(explain).unwrap_or_default()
    }

    /// [`Self::explain`] of a policy of the service that was decided.
    #[must_use]
    pub fn explain_at(&self, view: &ServiceView<'_>, key: &RuleKey) -> String {
        view.policy(&key.policy).map(|policy| self.explain(policy, key)).unwrap_or_default()
    }
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

/// Decides every rule of the service at `now`. `observe` tells what is known of metrics by the names under which they are
/// measured, as the metrics beside these. Rules that are gone lose their state. Unless the service or its policies have `changed`
/// since `old`, what they read is not looked up again.
#[must_use]
pub fn decide(
    view: &ServiceView<'_>,
    old: &Rules,
    changed: bool,
    observe: impl Fn(&BTreeMap<Metric, Metric>) -> Observations,
    now: Timestamp,
) -> Rules {
    let mut new = Rules::default();
    for policy in &view.policies {
        let names = || policy.metrics().into_iter().map(|metric| (qualified(policy, &metric), metric)).collect();
        let known = old.sights.get(&policy.key).filter(|_| !changed).map(|sight| Arc::clone(&sight.names));
        let names = known.unwrap_or_else(|| Arc::new(names()));
        let observations = observe(&names);
        for rule in &policy.rules {
            let key = RuleKey { service: view.key.clone(), policy: policy.key.clone(), rule: rule.name.clone() };
            let state = old.states.get(&key).cloned().unwrap_or_default();
            let (state, decision) = engine::step(rule, &policy.on_missing, &state, &observations, now);
            new.next = engine::next_change(rule, &state, now).into_iter().chain(new.next).min();
            new.states.insert(key.clone(), state);
            new.decisions.insert(key, decision);
        }
        new.sights.insert(policy.key.clone(), Sight { names, observations });
    }
    new
}

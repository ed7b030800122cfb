//! Steps every rule of one service.
//!
//! What does not change from one step to the next is looked up once, by [`Rules::plan`]: a service is decided four times a second, and its
//! policies change seldom.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use limiter::{
    engine::{self, Decision, Observed, Phase, RuleState},
    metric::{Metric, Observations, Word},
    policy::{Policy, PolicyKey, Rule},
};

use super::RuleKey;
use crate::{index::ServiceView, intent::ServiceKey};

/// What each rule of one service remembers.
pub type States = BTreeMap<RuleKey, RuleState>;

/// The rules of one service: what they remember and what they decided last.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// In the order of their keys.
    policies: Vec<PolicyRules>,
    /// When the passing of time alone can change a decision.
    pub next: Option<Timestamp>,
}

/// The rules of one policy.
#[derive(Clone, Debug)]
struct PolicyRules {
    policy: Arc<Policy>,
    /// The metrics that they read, each after the name under which it is measured.
    names: Vec<(Metric, Metric)>,
    /// What they were decided on last.
    observations: Observations,
    /// By rule of the policy.
    decided: Vec<Decided>,
}

/// One rule.
#[derive(Clone, Debug, Default)]
struct Decided {
    state: RuleState,
    /// Absent before the first step.
    decision: Option<Decision>,
}

/// A rule as it was decided last.
#[derive(Clone, Copy, Debug)]
pub struct Ruling<'a> {
    /// Its policy.
    pub policy: &'a Policy,
    /// The rule.
    pub rule: &'a Rule,
    /// What was decided.
    pub decision: &'a Decision,
    state: &'a RuleState,
    observations: &'a Observations,
}

impl Ruling<'_> {
    /// Why it was decided so, in one plain sentence.
    #[must_use]
    pub fn explain(&self) -> String {
        engine::explain(self.rule, &self.policy.on_missing, self.state, self.decision, self.observations)
    }

    /// What was looked at, in the order of the sentence.
    #[must_use]
    pub fn observed(&self) -> Vec<Observed> {
        engine::observed(self.rule, &self.policy.on_missing, self.state, self.decision, self.observations)
    }
}

/// What a step of all rules changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stepped {
    /// A rule decides another number than before.
    pub numbers: bool,
    /// A rule stands elsewhere than before, or lacks other metrics.
    pub turned: bool,
    /// A state tells more than that time has passed.
    pub news: bool,
    /// Rules that decide another number or are in another phase.
    pub moves: Vec<Move>,
}

/// A rule that moved.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Its policy.
    pub policy: PolicyKey,
    /// Its name.
    pub rule: String,
    /// The phase it was in.
    pub from: Phase,
    /// What was decided before; absent at the first step.
    pub before: Option<Decision>,
}

impl Rules {
    /// Takes up the service's policies as they are now. Rules that stay go on from what they remember, new ones from what `resumed` says of
    /// them, if it does. Returns whether a rule is gone.
    pub fn plan(&mut self, view: &ServiceView<'_>, mut resumed: States) -> bool {
        let mut old = std::mem::take(self);
        for policy in &view.policies {
            let names = policy.metrics().into_iter().map(|metric| (qualified(policy, &metric), metric)).collect();
            let decided = policy.rules.iter().map(|rule| {
                let key = RuleKey { service: view.key.clone(), policy: policy.key.clone(), rule: rule.name.clone() };
                let kept = old.take(&policy.key, &rule.name).unwrap_or_default();
                match resumed.remove(&key) {
                    Some(state) => Decided { state, ..kept },
                    None => kept,
                }
            });
            let decided = decided.collect();
            let policy = Arc::clone(policy);
            self.policies.push(PolicyRules { policy, names, observations: Observations::default(), decided });
        }
        old.policies.iter().any(|policy| policy.decided.iter().any(|decided| decided.decision.is_some()))
    }

    fn take(&mut self, policy: &PolicyKey, rule: &str) -> Option<Decided> {
        let PolicyRules { policy, decided, .. } = self.policies.iter_mut().find(|one| one.policy.key == *policy)?;
        let place = policy.rules.iter().position(|one| one.name == rule)?;
        Some(std::mem::take(&mut decided[place]))
    }

    /// Decides every rule at `now`. `observe` tells what is known of metrics by the names under which they are measured, as the metrics
    /// after these. Whether there is news for the next start is only told where that is `kept`.
    pub fn step(
        &mut self,
        observe: impl Fn(&[(Metric, Metric)]) -> Observations,
        kept: bool,
        now: Timestamp,
    ) -> Stepped {
        let mut stepped = Stepped::default();
        let mut next: Option<Timestamp> = None;
        for PolicyRules { policy, names, observations, decided } in &mut self.policies {
            *observations = observe(names);
            for (rule, Decided { state, decision }) in policy.rules.iter().zip(decided) {
                // After a restart there is a state and no decision yet.
                let resumed = || state.stage.map_or(Phase::Idle, |stage| stage.phase);
                let from = decision.as_ref().map_or_else(resumed, |before| before.phase);
                let old = kept.then(|| state.clone());
                let (new_state, new) = engine::step(rule, &policy.on_missing, std::mem::take(state), observations, now);
                *state = new_state;
                next = engine::next_change(rule, state, now).into_iter().chain(next).min();
                stepped.news |= old.is_some_and(|old| state.is_news_after(&old));
                let numbers = moved(decision.as_ref(), &new);
                stepped.numbers |= numbers;
                stepped.turned |= decision.as_ref().is_none_or(|before| turned(before, &new));
                let to = new.phase;
                let before = decision.replace(new);
                if numbers || from != to {
                    stepped.moves.push(Move { policy: policy.key.clone(), rule: rule.name.clone(), from, before });
                }
            }
        }
        self.next = next;
        stepped
    }

    /// Every rule that was decided.
    pub fn iter(&self) -> impl Iterator<Item = Ruling<'_>> {
        self.policies.iter().flat_map(|PolicyRules { policy, observations, decided, .. }| {
            policy.rules.iter().zip(decided).filter_map(|(rule, Decided { state, decision })| {
                Some(Ruling { policy, rule, decision: decision.as_ref()?, state, observations })
            })
        })
    }

    /// One rule; `None` when it was not decided here.
    #[must_use]
    pub fn get(&self, policy: &PolicyKey, rule: &str) -> Option<Ruling<'_>> {
        self.iter().find(|ruling| ruling.rule.name == rule && ruling.policy.key == *policy)
    }

    /// What is decided about a rule.
    #[must_use]
    pub fn decision(&self, key: &RuleKey) -> Option<&Decision> {
        self.get(&key.policy, &key.rule).map(|ruling| ruling.decision)
    }

    /// What the rules of this service remember.
    #[must_use]
    pub fn states(&self, service: &ServiceKey) -> States {
        let state = |ruling: Ruling<'_>| {
            let (policy, rule) = (ruling.policy.key.clone(), ruling.rule.name.clone());
            (RuleKey { service: service.clone(), policy, rule }, ruling.state.clone())
        };
        self.iter().map(state).collect()
    }

    /// Decisions, to be replaced by others.
    #[cfg(test)]
    pub(crate) fn decisions_mut(&mut self) -> impl Iterator<Item = &mut Decision> {
        self.policies.iter_mut().flat_map(|policy| &mut policy.decided).filter_map(|one| one.decision.as_mut())
    }
}

/// Whether a rule decides other numbers than before.
pub(crate) fn moved(old: Option<&Decision>, new: &Decision) -> bool {
    let numbers = |decision: &Decision| (decision.limit, decision.lowest, decision.bound);
    old.is_none_or(|old| numbers(old) != numbers(new) || old.classes != new.classes)
}

/// Whether a rule stands elsewhere than before, or lacks other metrics.
fn turned(old: &Decision, new: &Decision) -> bool {
    old.phase != new.phase || old.since != new.since || old.missing != new.missing
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

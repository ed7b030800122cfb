//! Steps every rule of one service.
//!
//! What does not change from one step to the next is looked up once, by [`Rules::plan`]: a service is decided four times a second, and its
//! policies change seldom.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use limiter::{
    engine::{self, Decision, Mark, Observed, Phase, RuleState},
    metric::{Metric, Observations, Word},
    policy::{Policy, PolicyKey, Rule},
};
use serde::{Deserialize, Serialize};

use super::RuleKey;
use crate::{index::ServiceView, intent::ServiceKey};

/// What each rule of one service remembers.
pub type States = BTreeMap<RuleKey, RuleState>;

/// A rule as another replica has decided it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Its policy.
    pub policy: PolicyKey,
    /// Its name.
    pub rule: String,
    /// What it remembers, with which it goes on should that replica end.
    #[serde(default)]
    pub state: RuleState,
    /// What it decides; absent before the first step.
    pub decision: Option<Decision>,
}

/// What rules remember, without what they have decided.
#[must_use]
pub fn states(service: &ServiceKey, told: &[Told]) -> States {
    let key = |Told { policy, rule, .. }: &Told| RuleKey {
        service: service.clone(),
        policy: policy.clone(),
        rule: rule.clone(),
    };
    told.iter().map(|told| (key(told), told.state.clone())).collect()
}

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
    /// It reads what is measured; such rules are decided by one replica.
    measured: bool,
    /// Another replica has decided it.
    told: bool,
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
    told: bool,
}

impl Ruling<'_> {
    /// Why it was decided so, in one plain sentence.
    #[must_use]
    pub fn explain(&self) -> String {
        if self.told {
            // What it was decided on is known there.
            let Decision { phase, limit, since, .. } = self.decision;
            let limits = if limit.is_some() { "a limit is in force" } else { "no limit is in force" };
            return format!("{limits}: {phase:?} since {since:.0}, as the leading replica has decided");
        }
        engine::explain(self.rule, &self.policy.on_missing, self.state, self.decision, self.observations)
    }

    /// What was looked at, in the order of the sentence.
    #[must_use]
    pub fn observed(&self) -> Vec<Observed> {
        engine::observed(self.rule, &self.policy.on_missing, self.state, self.decision, self.observations)
    }
}

/// How far a replica decides by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decides {
    /// Everything.
    #[default]
    All,
    /// What needs no metrics, and what nobody has decided yet; of the rest another replica tells.
    Unmeasured,
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
                let measured = rule.metrics().iter().any(|metric| metric.word != Word::Pods);
                match resumed.remove(&key) {
                    Some(state) => Decided { state, measured, ..kept },
                    None => Decided { measured, ..kept },
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

    /// Decides every rule at `now`. `observe` writes what is known of metrics by the names under which they are measured, as the metrics
    /// after these, over what was known of the same before. Whether there is news for the next start is only told where that is `kept`.
    pub fn step(
        &mut self,
        observe: impl Fn(&[(Metric, Metric)], &mut Observations),
        decides: Decides,
        kept: bool,
        now: Timestamp,
    ) -> Stepped {
        let mut stepped = Stepped::default();
        let (mut next, mut before_step): (Option<Timestamp>, _) = (None, Mark::default());
        for PolicyRules { policy, names, observations, decided } in &mut self.policies {
            observe(names, observations);
            for (rule, Decided { state, decision, measured, told }) in policy.rules.iter().zip(decided) {
                if decides == Decides::Unmeasured && *measured && decision.is_some() {
                    continue;
                }
                *told = false;
                // After a restart there is a state and no decision yet.
                let resumed = || state.stage.map_or(Phase::Idle, |stage| stage.phase);
                let from = decision.as_ref().map_or_else(resumed, |before| before.phase);
                if kept {
                    before_step.set(state);
                }
                let (new_state, new) = engine::step(rule, &policy.on_missing, std::mem::take(state), observations, now);
                *state = new_state;
                next = engine::next_change(rule, state, now).into_iter().chain(next).min();
                stepped.news |= kept && state.is_news_after(&before_step);
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

    /// Carries out what another replica has decided, of the rules that are there. Those that need no metrics are decided here.
    pub fn take_up(&mut self, told: Vec<Told>) -> Stepped {
        let mut stepped = Stepped::default();
        for Told { policy: of, rule: name, state, decision } in told {
            let Some(PolicyRules { policy, decided, .. }) = self.policies.iter_mut().find(|one| one.policy.key == of)
            else {
                continue;
            };
            let Some(place) = policy.rules.iter().position(|rule| rule.name == name) else { continue };
            let (held, Some(new)) = (&mut decided[place], decision) else { continue };
            if !held.measured {
                continue;
            }
            let numbers = moved(held.decision.as_ref(), &new);
            let (from, to) = (held.decision.as_ref().map_or(Phase::Idle, |before| before.phase), new.phase);
            stepped.numbers |= numbers;
            stepped.turned |= held.decision.as_ref().is_none_or(|before| turned(before, &new));
            let before = held.decision.replace(new);
            if numbers || from != to {
                stepped.moves.push(Move { policy: of, rule: name, from, before });
            }
            (held.state, held.told) = (state, true);
        }
        stepped
    }

    /// Goes on at `now` by itself from what another replica has decided.
    pub fn take_over(&mut self, now: Timestamp) {
        for decided in self.policies.iter_mut().flat_map(|policy| &mut policy.decided).filter(|decided| decided.told) {
            decided.state = std::mem::take(&mut decided.state).resume(now);
        }
    }

    /// What the rules of this service remember and have decided, for the next start and for other replicas.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        let told = |Ruling { policy, rule, decision, state, .. }: Ruling<'_>| Told {
            policy: policy.key.clone(),
            rule: rule.name.clone(),
            state: state.clone(),
            decision: Some(decision.clone()),
        };
        self.iter().map(told).collect()
    }

    /// Every rule that was decided.
    pub fn iter(&self) -> impl Iterator<Item = Ruling<'_>> {
        self.policies.iter().flat_map(|PolicyRules { policy, observations, decided, .. }| {
            policy.rules.iter().zip(decided).filter_map(|(rule, Decided { state, decision, told, .. })| {
                Some(Ruling { policy, rule, decision: decision.as_ref()?, state, observations, told: *told })
            })
        })
    }

    /// Whether there is such a rule, decided or not.
    #[must_use]
    pub fn has(&self, policy: &PolicyKey, rule: &str) -> bool {
        let mut policies = self.policies.iter().map(|one| &one.policy).filter(|one| one.key == *policy);
        policies.any(|policy| policy.rules.iter().any(|one| one.name == rule))
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

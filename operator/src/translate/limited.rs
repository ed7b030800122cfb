//! A rule as proxies count it: its own limit, and one more for each class.
//!
//! A class's limit is what the classes above it leave. A request of a lower class must pass its class's limit and the rule's
//! own. What the first class may take is the whole limit: with `limit`, a number that must not be exceeded, it shares the
//! rule's bucket with the others; with `adapt`, where the queue is bounded besides, it has a bucket of its own, which no
//! other class can have emptied.

use limiter::{
    engine::Decision,
    policy::{Action, Key, Mode, NAMELESS, Policy, Rule, Scope, default_burst},
    quota::{self, Rate},
};

use super::RuleKey;
use crate::intent::{LimitShape, LimitValue, Priority};

/// A lower class's limit is this part of the rule's lowest one, or nothing, at the least.
const LOWER_PART: u64 = 20;

/// A rule, and what its numbers count.
pub(super) struct Limited<'a> {
    pub(super) key: RuleKey,
    pub(super) policy: &'a Policy,
    pub(super) rule: &'a Rule,
    scope: Scope,
    per: Option<&'a Key>,
}

impl<'a> Limited<'a> {
    pub(super) fn new(key: RuleKey, policy: &'a Policy, rule: &'a Rule) -> Self {
        let (scope, per) = match &rule.action {
            Action::Limit(limit) => (limit.scope, limit.per.as_ref()),
            Action::Adapt(adapt) => (adapt.scope, None),
        };
        Self { key, policy, rule, scope, per }
    }

    /// The shape of the rule's own limit, then those of its classes, the nameless one last.
    pub(super) fn shapes(&self) -> impl Iterator<Item = LimitShape> {
        let bucket = format!("{}/{}", self.policy.key, self.rule.name);
        let service_wide = self.rule.matches.is_empty() && self.per.is_none();
        let shape =
            |bucket, service_wide| LimitShape { bucket, per: self.per.cloned(), service_wide, mode: self.rule.mode };
        let classes = self.rule.classes.iter().map(|class| class.name.as_str());
        let classes = classes.chain([NAMELESS]).filter(|_| !self.rule.classes.is_empty());
        let classes: Vec<_> = classes.map(|class| shape(format!("{bucket}/{class}"), false)).collect();
        [shape(bucket, service_wide)].into_iter().chain(classes)
    }

    /// Which of the [`shapes`](Self::shapes) the requests of a class count in.
    pub(super) fn counted_in(&self, class: usize) -> Vec<usize> {
        match &self.rule.action {
            _ if self.rule.classes.is_empty() => vec![0],
            Action::Limit(_) if class == 0 => vec![0],
            Action::Adapt(_) if class == 0 => vec![1],
            _ => vec![0, class + 1],
        }
    }

    /// Which metric counts the requests of a class; the proxy tells it by this name.
    pub(super) fn class_key(&self, class: usize) -> Option<String> {
        let class = self.rule.classes.get(class)?;
        Some(format!("{}#{}/{}", self.policy.key, self.rule.name, class.name))
    }

    /// Whether the rule can bound the queue at all.
    /// Envoy counts what is in flight for a whole port, so a rule about some of the requests cannot bound them; nor
    /// can it count what a bound in shadow mode would refuse.
    fn may_bound(&self) -> bool {
        self.rule.matches.is_empty() && self.rule.mode == Mode::Enforce
    }

    /// Which queue bound the requests of a class count against. Without classes, or a bound, all are equal.
    pub(super) fn priority(&self, class: usize) -> Priority {
        match &self.rule.action {
            Action::Adapt(_) if class == 0 && !self.rule.classes.is_empty() && self.may_bound() => Priority::High,
            _ => Priority::Default,
        }
    }

    /// Most requests in flight at each pod: of all classes, and of those below the first. A total is divided and rounded
    /// up: the sum may exceed it by less than one request per pod, which is better than a pod that takes none.
    pub(super) fn bounds(&self, decision: &Decision, ready: usize) -> Option<(u32, u32)> {
        if !self.may_bound() {
            return None;
        }
        let bound = match self.scope {
            Scope::AcrossAllPods => decision.bound?.div_ceil(u32::try_from(ready.max(1)).unwrap_or(u32::MAX)),
            Scope::PerPod => decision.bound?,
        };
        let bound = bound.max(1);
        let below = match (decision.limit, decision.classes.get(1)) {
            // The lower classes may fill as much of the queue as they have of the limit.
            (Some(limit), Some(below)) => {
                let part = (below.per_second() / limit.per_second()).clamp(0.0, 1.0);
                ((f64::from(bound) * part).ceil() as u32).max(1)
            }
            _ => bound,
        };
        Some((bound, below))
    }

    /// The numbers of each ready pod (of one, when none is ready), largest first, for each shape in order; `None` without a
    /// limit in force.
    pub(super) fn values(&self, decision: &Decision, ready: usize) -> Option<Vec<Vec<LimitValue>>> {
        let (rate, lowest) = (decision.limit?, decision.lowest.or(decision.limit)?);
        let pods = u32::try_from(ready.max(1)).unwrap_or(u32::MAX);
        let divide = |total: Rate| match self.scope {
            Scope::AcrossAllPods => quota::shares(total, pods),
            Scope::PerPod => vec![total; ready.max(1)],
        };
        let burst = self.rule.burst.map(|burst| match self.scope {
            Scope::AcrossAllPods => burst.div_ceil(pods),
            Scope::PerPod => burst,
        });
        let of = |(shape, rate): (usize, &Rate)| {
            let shares = divide(*rate).into_iter().zip(divide(lowest)).map(|(rate, lowest)| {
                if shape > 1 {
                    return lower(rate, lowest);
                }
                let burst = burst.unwrap_or_else(|| default_burst(lowest)).max(1);
                LimitValue { rate, burst, lowest }
            });
            shares.collect()
        };
        Some([rate].iter().chain(&decision.classes).enumerate().map(of).collect())
    }
}

/// The number of a lower class, which may fall far below the `lowest` limit of its rule. A bucket's fill time `T` must not
/// follow it: another `T` is another bucket, which is full. One request at the least rate sizes it for good:
///
/// ```text
/// least = lowest / 20     T = 1 / least = 20 / lowest     burst at `rate` = rate * T = 20 * rate / lowest
/// ```
///
/// What all lower classes let through at once is besides bounded by the rule's own bucket, in which they count too.
fn lower(rate: Rate, lowest: Rate) -> LimitValue {
    let least = Rate { milli_requests: (lowest.milli_requests / LOWER_PART).max(1), ..lowest };
    // Nothing is nothing; a rate that a bucket of this `T` cannot express becomes the least.
    let rate = if rate.milli_requests == 0 { rate } else { rate.max(least) };
    LimitValue { rate, burst: 1, lowest: least }
}

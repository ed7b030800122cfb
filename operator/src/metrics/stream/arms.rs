//! From the metric families of a proxy's messages to how the arms of splits answered it.
//!
//! Pure. Envoy leaves out what was never touched, so a message holds the arms that were called since the proxy's start. Which of their
//! statistics there are stands in `xds::bootstrap`. Counters that fell began again, and those of the first message began nobody knows when:
//! nothing is told of them. Counts wait until they are told, so that each is told once.
//!
//! Which requests have failed: those that Envoy counts as answered with 5xx, among them its own answers for a connection that was refused or
//! broke off, a timeout and no endpoint; gRPC calls that the application ended with what 5xx is among its codes, which an access logger
//! counts, in a counter that outlives the cluster; and those whose caller gave up before an answer began, since without a route timeout an
//! arm that hangs would never fail. Nobody counts the latter: they are what was sent, is not under way and was never answered. An answer
//! counts from its head on, so a long one that is under way hides one that was given up, and one that breaks off has not failed.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use prost::Message;

use super::wire::{Family, Metric, Name};
use crate::{
    intent::DestinationKey,
    metrics::{Histogram, Measure},
    xds::names,
};

/// Told this often, or with every message where they come less often.
const EVERY: SignedDuration = SignedDuration::from_millis(500);
/// Messages come some milliseconds early or late; without the slack every second one would be told later.
const SLACK: SignedDuration = SignedDuration::from_millis(50);
/// Most arms of one proxy; one with more is not ours.
const MOST_ARMS: usize = 1_000;
/// What the name of every family of an arm begins with.
const BEFORE_STAT_NAME: &str = "cluster.";

/// What is known of one proxy; see the module.
#[derive(Debug, Default)]
pub(super) struct Arms {
    arms: BTreeMap<DestinationKey, Arm>,
    /// gRPC calls that ever failed at each.
    grpc_failed: BTreeMap<DestinationKey, f64>,
    /// Counts messages.
    message: u64,
    told: Option<Timestamp>,
}

/// What is to be told at one time.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Told {
    /// By arm, each a [`Measure::Called`].
    pub(super) measures: Vec<(DestinationKey, Measure)>,
    pub(super) fresh_for_ms: u64,
}

#[derive(Debug, Default)]
struct Arm {
    completed: Counter,
    failed: Counter,
    overflowed: Counter,
    sent: Counter,
    unsent: Counter,
    /// By the message that is being read: handed to the arm, and waiting for a connection to it.
    active: f64,
    waiting: f64,
    inflight: f64,
    given_up: GivenUp,
    /// Since the message before: so Envoy streams histograms.
    latency: Vec<Histogram>,
    /// The last message that named it.
    seen: u64,
    untold: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    completed: f64,
    failed: f64,
    latency: Histogram,
}

/// Requests whose caller gave up before an answer began.
#[derive(Debug, Default)]
struct GivenUp {
    /// Ever, by the message before.
    before: f64,
    /// Ever, as counted.
    counted: f64,
}

impl GivenUp {
    /// What was added: Envoy takes its counters one after the other, so only what two messages say is so.
    fn added(&mut self, now: f64) -> f64 {
        let sure = std::mem::replace(&mut self.before, now).min(now);
        let added = (sure - self.counted).max(0.0);
        self.counted += added;
        added
    }
}

/// One that consists of several of Envoy's: their sum.
#[derive(Debug, Default)]
struct Counter {
    before: f64,
    now: f64,
}

/// What a counter says at the end of a message.
struct Count {
    ever: f64,
    /// Since the message before; all of it when it began again.
    added: f64,
}

impl Counter {
    fn end(&mut self) -> Count {
        let ever = std::mem::take(&mut self.now);
        let before = std::mem::replace(&mut self.before, ever);
        Count { ever, added: if ever >= before { ever - before } else { ever } }
    }
}

enum Stat {
    /// Answered, by the arm or by Envoy.
    Completed,
    Failed,
    /// Refused for a full queue.
    Overflowed,
    /// Handed to the arm, or given up while waiting for a connection to it.
    Sent,
    /// Answered by Envoy, since nothing could be handed to the arm.
    Unsent,
    Active,
    Waiting,
    Latency,
}

impl Arms {
    /// Takes in the families of a message that came at `now`, each an encoded `MetricFamily`. What cannot be decoded is left out.
    /// Returns what is to be told once it is time to, of every arm there is: that an arm was not called is told, too.
    pub(super) fn take(&mut self, families: &[Bytes], now: Timestamp) -> Option<Told> {
        self.message += 1;
        let (message, is_first) = (self.message, self.message == 1);
        self.read(families);
        for arm in self.arms.values_mut() {
            arm.end(is_first);
        }
        self.read_grpc(families, is_first);
        if self.arms.is_empty() {
            self.told = None;
            return None;
        }
        let since = self.told.map(|told| now.duration_since(told));
        // A clock that was set back must not silence anybody.
        if since.is_some_and(|since| !since.is_negative() && since < EVERY - SLACK) {
            return None;
        }
        self.told = Some(now);
        let measures = self.arms.iter_mut().map(|(key, arm)| (key.clone(), arm.tell(key.port))).collect();
        self.arms.retain(|_, arm| arm.seen == message);
        let interval = since.map_or(EVERY, |since| since.max(EVERY));
        let fresh_for_ms = u64::try_from(interval.as_millis().saturating_mul(3)).unwrap_or_default();
        Some(Told { measures, fresh_for_ms })
    }

    fn read(&mut self, families: &[Bytes]) {
        for bytes in families.iter().filter(|bytes| begins(bytes, BEFORE_STAT_NAME, names::ARM_STAT_PREFIX)) {
            let Ok(Name { name }) = Name::decode(bytes.clone()) else { continue };
            let Some((name, stat)) = place(&name) else { continue };
            let Ok(Family { metrics }) = Family::decode(bytes.clone()) else { continue };
            if let Some(arm) = self.arm(name) {
                metrics.iter().for_each(|metric| arm.read(&stat, metric));
            }
        }
    }

    /// After the arms themselves: of one whose cluster is gone nothing is to be said.
    fn read_grpc(&mut self, families: &[Bytes], is_first: bool) {
        for bytes in families.iter().filter(|bytes| begins(bytes, names::LOGGED_PREFIX, ".")) {
            let Ok(Name { name }) = Name::decode(bytes.clone()) else { continue };
            let Some(key) = failed_at(&name).and_then(names::destination_of_stat_name) else { continue };
            let Ok(Family { metrics }) = Family::decode(bytes.clone()) else { continue };
            if self.grpc_failed.len() >= MOST_ARMS && !self.grpc_failed.contains_key(&key) {
                continue;
            }
            let ever = metrics.iter().map(super::families::value).sum::<f64>();
            let before = self.grpc_failed.insert(key.clone(), ever).unwrap_or_default();
            let added = if ever >= before { ever - before } else { ever };
            if let Some(arm) = self.arms.get_mut(&key).filter(|_| !is_first) {
                arm.untold.failed += added;
            }
        }
    }

    fn arm(&mut self, name: &str) -> Option<&mut Arm> {
        let key = names::destination_of_stat_name(name).filter(|key| !key.is_outside())?;
        if self.arms.len() >= MOST_ARMS && !self.arms.contains_key(&key) {
            return None;
        }
        let arm = self.arms.entry(key).or_default();
        arm.seen = self.message;
        Some(arm)
    }
}

impl Arm {
    fn read(&mut self, stat: &Stat, metric: &Metric) {
        let value = super::families::value(metric);
        match stat {
            Stat::Completed => self.completed.now += value,
            Stat::Failed => self.failed.now += value,
            Stat::Overflowed => self.overflowed.now += value,
            Stat::Sent => self.sent.now += value,
            Stat::Unsent => self.unsent.now += value,
            Stat::Active => self.active += value,
            Stat::Waiting => self.waiting += value,
            Stat::Latency => self.latency.extend(metric.histogram.as_ref().map(super::families::histogram)),
        }
    }

    /// Ends a message; one that did not name it says that its cluster is gone.
    fn end(&mut self, is_first: bool) {
        let [completed, failed, overflowed, sent, unsent] =
            [&mut self.completed, &mut self.failed, &mut self.overflowed, &mut self.sent, &mut self.unsent]
                .map(Counter::end);
        let (active, waiting) = (std::mem::take(&mut self.active), std::mem::take(&mut self.waiting));
        let latency = std::mem::take(&mut self.latency);
        self.inflight = active + waiting;
        let unanswered = sent.ever + unsent.ever + overflowed.ever - completed.ever;
        if is_first {
            // Of those under way nobody knows whether their answer has begun.
            self.given_up = GivenUp { before: unanswered, counted: unanswered };
            return;
        }
        if sent.added == sent.ever {
            // It began again.
            self.given_up = GivenUp::default();
        }
        let given_up = self.given_up.added(unanswered - active);
        // Envoy counts what it refuses for a full queue as an answer that failed; the arm was never asked.
        self.untold.completed += completed.added - overflowed.added + given_up;
        self.untold.failed += failed.added - overflowed.added + given_up;
        self.untold.latency = Histogram::merged(latency.iter().chain([&self.untold.latency]));
    }

    fn tell(&mut self, port: u16) -> Measure {
        let Counts { completed, failed, latency } = &mut self.untold;
        // Envoy takes counters one after the other: what failed meanwhile may have ended in the message after.
        let told_completed = completed.max(0.0);
        let told_failed = failed.clamp(0.0, told_completed);
        *completed -= told_completed;
        *failed -= told_failed;
        Measure::Called {
            port,
            completed: told_completed,
            failed: told_failed,
            inflight: self.inflight,
            latency: std::mem::take(latency),
        }
    }
}

/// Whether a family has the name of one of ours, as far as its first bytes say; most of a message are none, and that of a proxy without
/// arms is not to be decoded. Envoy writes the name first: a byte, one or two of its length, and itself.
fn begins(family: &[u8], first: &str, then: &str) -> bool {
    let is_named =
        |name: &[u8]| name.strip_prefix(first.as_bytes()).is_some_and(|name| name.starts_with(then.as_bytes()));
    [2, 3].into_iter().any(|at| family.get(at..).is_some_and(is_named))
}

/// `<prefix>.<counter>.<tag>.<cluster>.<tag>.<flags>`: the arm that gave the answer, of its own.
fn failed_at(name: &str) -> Option<&str> {
    let tags =
        name.strip_prefix(names::LOGGED_PREFIX)?.strip_prefix('.')?.strip_prefix(names::GRPC_FAILED_AT_COUNTER)?;
    let (cluster, flags) =
        tags.strip_prefix('.')?.strip_prefix(names::CLUSTER_TAG)?.strip_prefix('.')?.rsplit_once('.')?;
    let cluster = cluster.strip_suffix(names::FLAGS_TAG)?.strip_suffix('.')?;
    // With a flag Envoy gave the answer itself, and has counted it as 5xx too.
    (flags == names::NO_FLAGS && cluster.starts_with(names::ARM_STAT_PREFIX)).then_some(cluster)
}

/// `cluster.<arm>.<statistic>`.
fn place(name: &str) -> Option<(&str, Stat)> {
    let (arm, stat) = name.strip_prefix(BEFORE_STAT_NAME)?.rsplit_once('.')?;
    arm.strip_prefix(names::ARM_STAT_PREFIX)?;
    let stat = match stat {
        "upstream_rq_completed" => Stat::Completed,
        "upstream_rq_5xx" => Stat::Failed,
        // The bound on requests waiting for a connection, and the one on requests in flight.
        "upstream_rq_pending_overflow" | "upstream_rq_active_overflow" => Stat::Overflowed,
        "upstream_rq_total" | "upstream_rq_cancelled" => Stat::Sent,
        "upstream_rq_pending_failure_eject" | "upstream_cx_none_healthy" => Stat::Unsent,
        "upstream_rq_active" => Stat::Active,
        "upstream_rq_pending_active" => Stat::Waiting,
        "upstream_rq_time" => Stat::Latency,
        _ => return None,
    };
    Some((arm, stat))
}

#[cfg(test)]
mod tests;

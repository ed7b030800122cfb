//! Which status is written, and when.
//!
//! Pure: `now` and what stands on the API server are arguments. A *cause* (a condition, a phase, a limit that comes or goes) is written
//! at once, but at most once a second for an object; a *number* that moves (also of proxies) at most every ten seconds. What was
//! measured, and sentences with it, are written along and never by themselves.

use std::{collections::BTreeMap, time::Duration};

use crds::{
    conditions::ConditionReason as Reason,
    lazy_config::{LazyProxies, LazyServices},
    smart_split::SplitProxies,
    status::{ClassStatus, ProxyCounts, RulePhase, RuleStatus},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::events::{Turn, turns};
use crate::{
    index::ObjectKey,
    status::{OwnStatus, routes::ParentRef},
    watch::live::LiveObject,
};

/// The shortest time between two writes of one object.
const CAUSE: Duration = Duration::from_secs(1);
/// The same, when only numbers moved.
const NUMBER: Duration = Duration::from_secs(10);
/// First and longest pause after a failure of one object.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The same while the API server gives no answer: short, so that what waits is written soon after it is back.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Until the watch must have shown what was written; before, what was written is believed.
const SEEN: Duration = Duration::from_secs(10);
/// After a start: until proxies are back and metrics are measured again, which is no news.
const SETTLE: Duration = Duration::from_secs(30);

/// A status to write.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    pub(super) status: OwnStatus,
    /// What turns with it.
    pub(super) turns: Vec<Turn>,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With what stands there now: a definition of another version may keep less than it was given.
    Written(Value),
    /// The API server refuses it.
    Failed,
    /// The API server gives no answer.
    Away,
}

/// What should stand on the API server, and what is on its way there.
#[derive(Debug, Default)]
pub(super) struct Plan {
    objects: BTreeMap<ObjectKey, Object>,
    /// When that began: for some time proxies and metrics may not be back.
    began: Option<Timestamp>,
    /// The API server gave no answer the last time: the pause, and when it began.
    away: Option<(Duration, Timestamp)>,
}

#[derive(Debug, Default)]
struct Object {
    /// What should stand there; absent when that is so.
    wanted: Option<OwnStatus>,
    /// On its way.
    sent: Option<(String, OwnStatus)>,
    written: Option<Written>,
    /// After failures: the pause, and when it began.
    pause: Option<(Duration, Timestamp)>,
}

/// What was written last.
#[derive(Debug)]
struct Written {
    /// Of which object.
    uid: String,
    status: OwnStatus,
    /// What stood there after.
    answer: Value,
    at: Timestamp,
}

impl Plan {
    /// The first status of all objects is known.
    pub(super) fn begin(&mut self, now: Timestamp) {
        self.began.get_or_insert(now);
    }

    /// Objects whose status is to be written, or looked at, or on its way.
    pub(super) fn waiting(&self) -> usize {
        self.objects.values().filter(|object| object.wanted.is_some() || object.sent.is_some()).count()
    }

    /// This should stand there from now on.
    pub(super) fn want(&mut self, key: ObjectKey, status: impl Into<OwnStatus>) {
        self.objects.entry(key).or_default().wanted = Some(status.into());
    }

    /// Forgets the objects that are not there any more, as far as nothing of them is on its way.
    pub(super) fn retain(&mut self, is_there: impl Fn(&ObjectKey) -> bool) {
        self.objects.retain(|key, object| object.sent.is_some() || is_there(key));
    }

    /// A write that is due, as what stands there now says.
    pub(super) fn next(&mut self, live: impl Fn(&ObjectKey) -> Option<LiveObject>, now: Timestamp) -> Option<Write> {
        // One write is enough to find out whether it is back.
        if let Some((pause, since)) = self.away
            && (is_within(since, pause, now) || self.objects.values().any(|object| object.sent.is_some()))
        {
            return None;
        }
        let mut gone = Vec::new();
        let mut found = None;
        for (key, object) in &mut self.objects {
            if object.sent.is_some() || object.wanted.is_none() {
                continue;
            }
            let Some(live) = live(key) else {
                gone.push(key.clone());
                continue;
            };
            let settling = self.began.is_some_and(|began| is_within(began, SETTLE, now));
            if let Some((status, turns)) = object.due(&live, settling, now) {
                object.sent = Some((live.uid.clone(), status.clone()));
                found = Some(Write { key: key.clone(), uid: live.uid, status, turns });
                break;
            }
        }
        for key in gone {
            self.objects.remove(&key);
        }
        found
    }

    /// A write has come to its end.
    pub(super) fn ended(&mut self, key: &ObjectKey, outcome: Outcome, now: Timestamp) {
        let Some(object) = self.objects.get_mut(key) else { return };
        let Some((uid, status)) = object.sent.take() else { return };
        let away = self.away.take();
        match outcome {
            Outcome::Away => {
                object.wanted.get_or_insert(status);
                // Several may have been on their way; the first has begun the pause.
                let begun = away.filter(|(pause, since)| is_within(*since, *pause, now));
                self.away = begun.or(Some((longer(away, AWAY), now)));
            }
            Outcome::Written(answer) => {
                object.written = Some(Written { uid, status, answer, at: now });
                object.pause = None;
            }
            Outcome::Failed => {
                object.wanted.get_or_insert(status);
                object.pause = Some((longer(object.pause, PAUSES), now));
            }
        }
    }
}

/// The pause that follows this one.
fn longer(before: Option<(Duration, Timestamp)>, (first, longest): (Duration, Duration)) -> Duration {
    before.map_or(first, |(pause, _)| (pause * 2).min(longest))
}

impl Object {
    fn due(&mut self, live: &LiveObject, settling: bool, now: Timestamp) -> Option<(OwnStatus, Vec<Turn>)> {
        let mut wanted = self.wanted.take()?;
        let standing = self.standing(&wanted, live, now);
        let span = match &standing {
            Some(standing) if cause(standing) != cause(&wanted) => CAUSE,
            Some(standing) if numbers(standing) != numbers(&wanted) => NUMBER,
            Some(_) => return None,
            None => CAUSE,
        };
        let paused = self.pause.is_some_and(|(pause, since)| is_within(since, pause, now));
        let recent = self.written.as_ref().is_some_and(|written| is_within(written.at, span, now));
        let early = settling && standing.as_ref().is_some_and(|standing| misses(standing, &wanted));
        if paused || recent || early {
            self.wanted = Some(wanted);
            return None;
        }
        if let Some(standing) = &standing {
            keep_transitions(standing, &mut wanted);
        }
        let turns = match &wanted {
            // Its parents have conditions of the same names.
            OwnStatus::Route(_) => Vec::new(),
            _ => turns(standing.as_ref().map(OwnStatus::conditions), wanted.conditions()),
        };
        Some((wanted, turns))
    }

    fn standing(&self, wanted: &OwnStatus, live: &LiveObject, now: Timestamp) -> Option<OwnStatus> {
        if let Some(written) = &self.written
            && written.uid == live.uid
            && (live.status_elsewhere || is_within(written.at, SEEN, now) || written.answer == live.status)
        {
            return Some(written.status.clone());
        }
        if live.status_elsewhere {
            return None;
        }
        // What cannot be read is another's, and is written over.
        wanted.read_alike(live.status.clone())
    }
}

/// Whether proxies or metrics that were there are not there yet.
fn misses(standing: &OwnStatus, wanted: &OwnStatus) -> bool {
    let held = |name: &str| {
        standing.conditions().iter().any(|condition| condition.type_ == name && condition.status == "True")
    };
    let absent =
        [Reason::NoProxies, Reason::Pending, Reason::Missing, Reason::NotEnforced].map(|reason| reason.to_string());
    standing.observed_generation() == wanted.observed_generation()
        && wanted.conditions().iter().any(|condition| absent.contains(&condition.reason) && held(&condition.type_))
}

/// Whether `now` is within the span that began then. A beginning in the future is from before the clock was set back, and nobody
/// waits until that time comes again.
fn is_within(began: Timestamp, span: Duration, now: Timestamp) -> bool {
    began <= now && now < began.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// A condition that has the status it had has it since then; but not since a time to come, after the clock was set back.
fn keep_transitions(standing: &OwnStatus, wanted: &mut OwnStatus) {
    let places = 0..wanted.conditions().len();
    let before: Vec<_> = places.map(|place| standing.counterpart(wanted, place)).collect();
    for (condition, before) in wanted.conditions_mut().iter_mut().zip(before) {
        if let Some(before) = before.filter(|before| before.status == condition.status) {
            let since = before.last_transition_time.0.min(condition.last_transition_time.0);
            condition.last_transition_time = Time(since);
        }
    }
}

type ConditionCause<'a> = (&'a str, &'a str, &'a str, &'a str);
type RuleCause<'a> = (&'a str, &'a str, RulePhase, bool);

fn cause(status: &OwnStatus) -> (Option<i64>, Vec<ConditionCause<'_>>, Vec<RuleCause<'_>>) {
    let conditions = status.conditions().iter().map(|condition| {
        (condition.type_.as_str(), condition.status.as_str(), condition.reason.as_str(), condition.message.as_str())
    });
    let rules = match status {
        OwnStatus::Limiter(status) => status.rules.as_slice(),
        OwnStatus::Lazy(_) | OwnStatus::Split(_) | OwnStatus::Route(_) => &[],
    };
    let rules = rules.iter().map(|rule| (rule.name.as_str(), rule.target.as_str(), rule.phase, rule.limit.is_some()));
    (status.observed_generation(), conditions.collect(), rules.collect())
}

type RuleNumbers<'a> = (Option<&'a str>, Option<&'a str>, Option<i64>, Option<f64>, &'a [ClassStatus]);

/// What moves of a status without a cause.
#[derive(PartialEq)]
enum Numbers<'a> {
    Limiter(Option<ProxyCounts>, Vec<RuleNumbers<'a>>),
    Lazy(Option<i64>, Option<LazyProxies>, Option<LazyServices>),
    Split(Option<SplitProxies>, Option<&'a str>, Option<&'a str>),
    Route(&'a [ParentRef]),
}

fn numbers<'a>(status: &'a OwnStatus) -> Numbers<'a> {
    let of_rule = |rule: &'a RuleStatus| -> RuleNumbers<'a> {
        let RuleStatus { limit, shares, in_flight, excess, classes, .. } = rule;
        (limit.as_deref(), shares.as_deref(), *in_flight, *excess, classes.as_slice())
    };
    match status {
        OwnStatus::Limiter(status) => Numbers::Limiter(status.proxies, status.rules.iter().map(of_rule).collect()),
        OwnStatus::Lazy(status) => Numbers::Lazy(status.workloads, status.proxies, status.services),
        OwnStatus::Split(status) => Numbers::Split(status.proxies, status.shares.as_deref(), status.why.as_deref()),
        OwnStatus::Route(status) => Numbers::Route(&status.parents),
    }
}

#[cfg(test)]
mod tests;

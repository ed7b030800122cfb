//! Who leads, by a Lease: `(what stands there, since when it stands unchanged, now) -> what to write`.
//!
//! As client-go's leader election, whose Lease it shares: the times that others wrote are compared with nothing, since their clocks may be
//! wrong; a Lease is over when it has stood unchanged for as long as it says, by our own clock that never jumps.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};

/// How long a Lease holds that nobody renews.
pub const HOLDS: Duration = Duration::from_secs(6);
/// Who could not renew for so long decides nothing any more: before anybody else may.
pub const RENEW_WITHIN: Duration = Duration::from_secs(4);
/// Between two looks at the Lease.
pub const RETRY: Duration = Duration::from_secs(1);

/// Where the address of the replica link stands on the Lease.
pub const ADDRESS: &str = "weir.dev/replica-address";

/// What a Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who leads; absent: nobody, or who did has laid it down.
    pub holder: Option<String>,
    /// Where its replica link is served.
    pub address: Option<String>,
    /// How long it holds.
    pub holds: Duration,
    /// How often the holder has changed.
    pub transitions: u64,
    /// Tells one write from the next.
    pub version: Option<String>,
}

impl Record {
    /// Of a Lease. A person may have written anything there: a time that makes no sense is ours.
    #[must_use]
    pub fn of(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        let holds = seconds.filter(|seconds| (1..=60).contains(seconds)).map_or(HOLDS, Duration::from_secs);
        let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        let annotations = lease.metadata.annotations.as_ref();
        Self {
            holder: spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty()),
            address: annotations.and_then(|annotations| annotations.get(ADDRESS).cloned()),
            holds,
            transitions: u64::try_from(transitions).unwrap_or_default(),
            version: lease.metadata.resource_version.clone(),
        }
    }
}

/// What is known of the Lease.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    record: Record,
    since: Option<Instant>,
    /// The highest number of transitions ever seen: a person who sets it back must not make old decisions count again.
    highest: u64,
}

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write that we lead still.
    Renew,
    /// Write that we lead, as this epoch.
    Take(u64),
    /// Leave it alone, at most until then.
    Wait(Instant),
}

impl Observed {
    /// Takes a look at the Lease in.
    pub fn look(&mut self, record: Record, now: Instant) {
        self.highest = self.highest.max(record.transitions);
        if self.since.is_none() || record != self.record {
            (self.record, self.since) = (record, Some(now));
        }
    }

    /// What it says.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The highest epoch that anybody has had.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// What `me` does now, leading as `epoch` or not, as one of several or the `sole` one.
    #[must_use]
    pub fn step(&self, me: &str, leads_as: Option<u64>, sole: bool, now: Instant) -> Step {
        let over = self.since.unwrap_or(now) + self.record.holds;
        match (&self.record.holder, leads_as) {
            (Some(holder), Some(epoch)) if holder == me && epoch == self.record.transitions => Step::Renew,
            // Ours, but not as we wrote it: a new epoch, since another may have led meanwhile.
            (Some(holder), Some(_)) if holder == me => Step::Take(self.highest + 1),
            // Ours from before a restart. Who followed remembers what we decided last, which the checkpoint may lack, so it takes the Lease
            // before us.
            (Some(holder), None) if holder == me && !sole && now < over + RETRY => Step::Wait(over + RETRY),
            (Some(holder), None) if holder == me => Step::Take(self.highest + 1),
            (Some(_), _) if now < over => Step::Wait(over),
            _ => Step::Take(self.highest + 1),
        }
    }
}

/// The Lease as `me` writes it to lead as `epoch`.
#[must_use]
pub fn held(mut lease: Lease, me: &str, address: &str, epoch: u64, takes: bool, now: Timestamp) -> Lease {
    let before = lease.spec.take().unwrap_or_default();
    let time = Some(MicroTime(now));
    lease.metadata.annotations.get_or_insert_default().insert(ADDRESS.to_owned(), address.to_owned());
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
        lease_transitions: i32::try_from(epoch).ok(),
        acquire_time: if takes { time.clone() } else { before.acquire_time },
        renew_time: time,
        ..before
    });
    lease
}

/// The Lease as who leads lays it down, so that nobody has to wait until it is over.
#[must_use]
pub fn laid_down(mut lease: Lease, now: Timestamp) -> Lease {
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(now));
        spec.lease_duration_seconds = Some(1);
    }
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, transitions: u64, version: &str) -> Record {
        Record {
            holder: Some(holder.to_owned()).filter(|holder| !holder.is_empty()),
            holds: HOLDS,
            transitions,
            version: Some(version.to_owned()),
            ..Record::default()
        }
    }

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_lease_is_over_when_it_stood_unchanged_for_its_time() {
        let start = Instant::now();
        let mut seen = Observed::default();
        seen.look(record("a", 3, "10"), start);
        assert_eq!(seen.step("b", None, false, after(start, 5.9)), Step::Wait(after(start, 6.0)));
        // Renewed meanwhile.
        seen.look(record("a", 3, "11"), after(start, 5.9));
        assert_eq!(seen.step("b", None, false, after(start, 7.0)), Step::Wait(after(start, 11.9)));
        seen.look(record("a", 3, "11"), after(start, 11.0));
        assert_eq!(seen.step("b", None, false, after(start, 11.9)), Step::Take(4));
    }

    #[test]
    fn one_that_nobody_holds_is_taken_at_once() {
        let start = Instant::now();
        let mut seen = Observed::default();
        seen.look(record("", 7, "1"), start);
        assert_eq!(seen.step("b", None, false, start), Step::Take(8));
    }

    #[test]
    fn its_own_is_renewed_and_after_a_restart_left_to_who_followed() {
        let start = Instant::now();
        let mut seen = Observed::default();
        seen.look(record("a", 3, "1"), start);
        assert_eq!(seen.step("a", Some(3), false, start), Step::Renew);
        assert_eq!(seen.step("a", None, false, start), Step::Wait(after(start, 7.0)));
        assert_eq!(seen.step("a", None, false, after(start, 7.0)), Step::Take(4), "nobody followed");
        assert_eq!(seen.step("a", None, true, start), Step::Take(4), "nobody can have followed");
    }

    #[test]
    fn a_person_who_edits_it_never_brings_an_old_epoch_back() {
        let start = Instant::now();
        let mut seen = Observed::default();
        seen.look(record("a", 9, "1"), start);
        seen.look(record("a", 0, "2"), start);
        assert_eq!(seen.step("a", Some(9), false, start), Step::Take(10), "it leads as nine no more");
        seen.look(record("somebody", 0, "3"), start);
        assert_eq!(seen.step("a", Some(9), false, after(start, 1.0)), Step::Wait(after(start, 6.0)));
        assert_eq!(seen.step("a", None, false, after(start, 6.0)), Step::Take(10));
    }

    #[test]
    fn what_makes_no_sense_is_as_if_it_were_not_there() {
        let lease = |seconds| Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(seconds),
                lease_transitions: Some(-4),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        for seconds in [-1, 0, i32::MAX] {
            let read = Record::of(&lease(seconds));
            assert_eq!((read.holder, read.holds, read.transitions), (None, HOLDS, 0));
        }
    }
}

//! How often a service is decided on samples: pods and providers each bring theirs when they have them, and a decision for every one
//! of them would say the same many times.
//!
//! Pure. The first sample after a quiet time is decided on at once; those that follow within [`SPAN`] together, at its end.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use jiff::Timestamp;

use crate::intent::ServiceKey;

/// The interval at which proxies report: of one pod no report waits for another.
const SPAN: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When each service was decided last on samples, or because its time had come, and whether it waits since then.
    decided: HashMap<ServiceKey, (Timestamp, bool)>,
    /// Services with samples that are not decided on yet, by the time at which they are.
    waiting: BTreeSet<(Timestamp, ServiceKey)>,
}

impl Pace {
    /// Whether a sample that came `now` is decided on at once; if not, its service waits for the end of the span.
    pub(super) fn admits(&mut self, service: &ServiceKey, now: Timestamp) -> bool {
        match self.decided.get_mut(service) {
            // A time in the future is from before the clock was set back.
            Some((decided, waits)) if *decided <= now && now < end(*decided) => {
                if !std::mem::replace(waits, true) {
                    self.waiting.insert((end(*decided), service.clone()));
                }
                false
            }
            _ => true,
        }
    }

    /// The service is decided `now`, on all that there is.
    pub(super) fn decided(&mut self, service: &ServiceKey, now: Timestamp) {
        match self.decided.get_mut(service) {
            Some(decided) => {
                let (before, waited) = std::mem::replace(decided, (now, false));
                if waited {
                    self.waiting.remove(&(end(before), service.clone()));
                }
            }
            None => drop(self.decided.insert(service.clone(), (now, false))),
        }
    }

    /// The service is gone.
    pub(super) fn forget(&mut self, service: &ServiceKey) {
        if let Some((before, true)) = self.decided.remove(service) {
            self.waiting.remove(&(end(before), service.clone()));
        }
    }

    /// Services whose time has come.
    pub(super) fn due(&self, now: Timestamp) -> impl Iterator<Item = &ServiceKey> {
        self.waiting.iter().take_while(move |(time, _)| *time <= now).map(|(_, service)| service)
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.waiting.first().map(|(time, _)| *time)
    }
}

fn end(decided: Timestamp) -> Timestamp {
    decided.checked_add(SPAN).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000_000_000 + milliseconds).unwrap()
    }

    fn cart() -> ServiceKey {
        ServiceKey { namespace: "shop".to_owned(), name: "cart".to_owned() }
    }

    /// Takes a sample in, as the builder does; whether it was decided on at once.
    fn sample(pace: &mut Pace, now: Timestamp) -> bool {
        let admitted = pace.admits(&cart(), now);
        if admitted {
            pace.decided(&cart(), now);
        }
        admitted
    }

    #[test]
    fn a_burst_is_decided_on_at_its_start_and_at_the_end_of_the_span() {
        let mut pace = Pace::default();
        let at_once: Vec<bool> = (0..6).map(|step| sample(&mut pace, at(step * 10))).collect();
        assert_eq!(at_once, [true, false, false, false, false, false]);
        assert_eq!(pace.next(), Some(at(250)));
        assert_eq!(pace.due(at(249)).count(), 0);
        assert_eq!(pace.due(at(250)).count(), 1);
        pace.decided(&cart(), at(250));
        assert_eq!(pace.next(), None, "all that came is decided on");
    }

    #[test]
    fn reports_of_one_pod_are_each_decided_on_at_once() {
        let mut pace = Pace::default();
        assert!((0..20).all(|step| sample(&mut pace, at(step * 250))));
    }

    #[test]
    fn a_clock_that_is_set_back_stalls_nothing() {
        let mut pace = Pace::default();
        assert!(sample(&mut pace, at(3_600_000)));
        assert!(!sample(&mut pace, at(3_600_010)));
        assert!(sample(&mut pace, at(0)));
        assert_eq!(pace.next(), None);
        assert!(!sample(&mut pace, at(10)));
        assert_eq!(pace.next(), Some(at(250)));
    }

    #[test]
    fn a_service_that_is_gone_waits_for_nothing() {
        let mut pace = Pace::default();
        sample(&mut pace, at(0));
        sample(&mut pace, at(10));
        pace.forget(&cart());
        assert_eq!(pace.next(), None);
    }
}

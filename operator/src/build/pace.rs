//! How often a service is decided on samples: pods and providers each bring theirs when they have them, and a decision for every one
//! of them would say the same many times.
//!
//! Pure. The first sample after a quiet time is decided on at once; those that follow within [`SPAN`] together, at its end.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use crate::intent::ServiceKey;

/// The interval at which proxies report: of one pod no report waits for another.
const SPAN: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Services with samples that are not decided on yet, by the time at which they are.
    waiting: BTreeSet<(Timestamp, ServiceKey)>,
}

/// When one service was decided last on samples, or because its time had come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Paced {
    decided: Option<Timestamp>,
    /// It waits since then.
    waits: bool,
}

impl Pace {
    /// Whether a sample that came `now` is decided on at once; it then counts as decided. If not, its service waits for the end of the
    /// span.
    pub(super) fn admits(&mut self, service: &ServiceKey, paced: &mut Paced, now: Timestamp) -> bool {
        match paced.decided {
            // All samples of one moment are decided on together.
            Some(decided) if decided == now && !paced.waits => true,
            // A time in the future is from before the clock was set back.
            Some(decided) if decided <= now && now < end(decided) => {
                if !std::mem::replace(&mut paced.waits, true) {
                    self.waiting.insert((end(decided), service.clone()));
                }
                false
            }
            _ => {
                self.decided(service, paced, now);
                true
            }
        }
    }

    /// The service is decided `now`, on all that there is.
    pub(super) fn decided(&mut self, service: &ServiceKey, paced: &mut Paced, now: Timestamp) {
        self.forget(service, *paced);
        *paced = Paced { decided: Some(now), waits: false };
    }

    /// The service does not wait any more.
    pub(super) fn forget(&mut self, service: &ServiceKey, paced: Paced) {
        if let Some(before) = paced.decided.filter(|_| paced.waits) {
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

    #[test]
    fn a_burst_is_decided_on_at_its_start_and_at_the_end_of_the_span() {
        let (mut pace, mut paced): (Pace, Paced) = Default::default();
        let at_once: Vec<bool> = (0..6).map(|step| pace.admits(&cart(), &mut paced, at(step * 10))).collect();
        assert_eq!(at_once, [true, false, false, false, false, false]);
        assert_eq!(pace.next(), Some(at(250)));
        assert_eq!(pace.due(at(249)).count(), 0);
        assert_eq!(pace.due(at(250)).count(), 1);
        pace.decided(&cart(), &mut paced, at(250));
        assert_eq!(pace.next(), None, "all that came is decided on");
    }

    #[test]
    fn samples_of_one_moment_are_decided_on_together() {
        let (mut pace, mut paced): (Pace, Paced) = Default::default();
        assert!((0..3).all(|_| pace.admits(&cart(), &mut paced, at(0))));
        assert_eq!(pace.next(), None);
    }

    #[test]
    fn reports_of_one_pod_are_each_decided_on_at_once() {
        let (mut pace, mut paced): (Pace, Paced) = Default::default();
        assert!((0..20).all(|step| pace.admits(&cart(), &mut paced, at(step * 250))));
    }

    #[test]
    fn a_clock_that_is_set_back_stalls_nothing() {
        let (mut pace, mut paced): (Pace, Paced) = Default::default();
        assert!(pace.admits(&cart(), &mut paced, at(3_600_000)));
        assert!(!pace.admits(&cart(), &mut paced, at(3_600_010)));
        assert!(pace.admits(&cart(), &mut paced, at(0)));
        assert_eq!(pace.next(), None);
        assert!(!pace.admits(&cart(), &mut paced, at(10)));
        assert_eq!(pace.next(), Some(at(250)));
    }

    #[test]
    fn a_service_that_is_gone_waits_for_nothing() {
        let (mut pace, mut paced): (Pace, Paced) = Default::default();
        pace.admits(&cart(), &mut paced, at(0));
        pace.admits(&cart(), &mut paced, at(10));
        pace.forget(&cart(), paced);
        assert_eq!(pace.next(), None);
    }
}

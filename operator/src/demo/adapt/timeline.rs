//! What the demonstration of a limit that steers itself plays: load far above capacity, then half of the capacity too.

use std::{ops::Range, time::Duration};

use super::{WORKERS, per_worker};
use crate::demo::load::Phase;

/// Seconds that the limit may take to find a new capacity.
const FINDS: usize = 2;

/// A stretch of the play.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Act {
    /// Its name.
    pub(super) name: &'static str,
    /// Whole seconds from the start of the load.
    pub(super) begin: usize,
    pub(super) end: usize,
    /// Requests per second to each replica.
    pub(super) offered: f64,
    /// Workers of each replica.
    pub(super) workers: usize,
}

impl Act {
    /// Requests per second that a replica can answer.
    pub(super) fn capacity(&self) -> f64 {
        self.workers as f64 * per_worker()
    }

    /// Requests per second to a replica that can be answered in time.
    pub(super) fn target(&self) -> f64 {
        self.offered.min(self.capacity())
    }

    /// Its seconds without those in which the limit may still search.
    pub(super) fn settled(&self) -> Range<usize> {
        self.begin + FINDS..self.end
    }
}

/// The acts, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timeline(pub(super) [Act; 4]);

impl Timeline {
    /// Divides `seconds` (at least 40).
    pub(super) fn new(seconds: u64) -> Self {
        let seconds = usize::try_from(seconds).unwrap_or(usize::MAX).max(40);
        let ends = [seconds / 6, seconds / 2, seconds * 3 / 4, seconds];
        let full = WORKERS as f64 * per_worker();
        let act = |index: usize, name, load: f64, workers| Act {
            name,
            begin: if index == 0 { 0 } else { ends[index - 1] },
            end: ends[index],
            offered: load * full,
            workers,
        };
        Self([
            act(0, "calm", 0.7, WORKERS),
            act(1, "surge", 3.0, WORKERS),
            act(2, "halved", 3.0, WORKERS / 2),
            act(3, "after", 0.7, WORKERS),
        ])
    }

    pub(super) fn seconds(&self) -> usize {
        self.0[3].end
    }

    /// The act at a second; the last one for ever after.
    pub(super) fn act(&self, second: usize) -> &Act {
        self.0.iter().find(|act| second < act.end).unwrap_or(&self.0[3])
    }

    /// The last seconds, when everything must be as it was.
    pub(super) fn recovered(&self) -> Range<usize> {
        self.seconds() - 5..self.seconds()
    }

    /// The load generator's phases.
    pub(super) fn phases(&self) -> Vec<Phase> {
        let phase = |act: &Act| Phase {
            name: act.name.to_owned(),
            per_second: act.offered,
            duration: Duration::from_secs((act.end - act.begin) as u64),
        };
        self.0.iter().map(phase).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Timeline;

    #[test]
    fn the_acts_fill_the_time_and_each_lasts() {
        for seconds in [40, 60, 61, 3600] {
            let timeline = Timeline::new(seconds);
            assert_eq!(timeline.seconds() as u64, seconds);
            let whole: u64 = timeline.phases().iter().map(|phase| phase.duration.as_secs()).sum();
            assert_eq!(whole, seconds);
            for act in timeline.0 {
                assert!(act.settled().len() >= 4, "{seconds}: {act:?}");
                assert_eq!(timeline.act(act.begin), &act);
            }
            assert_eq!(timeline.act(timeline.recovered().start).name, "after");
        }
    }

    #[test]
    fn half_of_the_workers_are_half_of_the_capacity() {
        let [calm, surge, halved, _] = Timeline::new(60).0;
        assert!((surge.target() - 2.0 * halved.target()).abs() < 1e-9);
        assert!((calm.target() - calm.offered).abs() < 1e-9 && surge.offered > 2.9 * surge.capacity());
    }
}

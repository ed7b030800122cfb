//! When requests are due: decided before the run and never delayed by slow answers (an open loop).

use std::time::Duration;

use crate::demo::random::Random;

/// A stretch of time with one rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// For reports: `before`, `surge`, ….
    pub name: String,
    /// Requests per second to each target.
    pub per_second: f64,
    /// How long.
    pub duration: Duration,
}

/// How requests are spread over a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly.
    Constant,
    /// Exponential gaps, from this seed.
    Poisson(u64),
}

/// The moments (since the start) at which requests to one target are due, in order. `offset` in 0..1 shifts evenly
/// spread requests by that part of a gap, so that several targets are not hit at the same moment.
pub(super) struct Schedule {
    phases: std::vec::IntoIter<Phase>,
    arrivals: Arrivals,
    offset: f64,
    random: Random,
    phase_start: f64,
    phase_end: f64,
    rate: f64,
    sent_in_phase: u64,
    last: f64,
}

impl Schedule {
    pub(super) fn new(phases: Vec<Phase>, arrivals: Arrivals, target: usize, targets: usize) -> Self {
        let seed = if let Arrivals::Poisson(seed) = arrivals { seed } else { 0 };
        Self {
            phases: phases.into_iter(),
            arrivals,
            offset: target as f64 / targets.max(1) as f64,
            random: Random::new(seed ^ (target as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            phase_start: 0.0,
            phase_end: 0.0,
            rate: 0.0,
            sent_in_phase: 0,
            last: 0.0,
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        loop {
            let due = match self.arrivals {
                Arrivals::Constant => self.phase_start + (self.sent_in_phase as f64 + self.offset) / self.rate,
                Arrivals::Poisson(_) => self.last - self.random.uniform().ln() / self.rate,
            };
            // Without a rate `due` is infinite or NaN, and the phase passes without a request.
            if due < self.phase_end {
                self.sent_in_phase += 1;
                self.last = due;
                return Some(Duration::from_secs_f64(due));
            }
            let phase = self.phases.next()?;
            self.phase_start = self.phase_end;
            self.phase_end += phase.duration.as_secs_f64();
            self.rate = phase.per_second.max(0.0);
            self.sent_in_phase = 0;
            self.last = self.phase_start;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Arrivals, Phase, Schedule};

    fn phase(per_second: f64, millis: u64) -> Phase {
        Phase { name: String::new(), per_second, duration: Duration::from_millis(millis) }
    }

    #[test]
    fn even_arrivals_follow_the_phases() {
        let phases = vec![phase(10.0, 300), phase(0.0, 1000), phase(2.0, 1000)];
        let due: Vec<u128> = Schedule::new(phases, Arrivals::Constant, 0, 1).map(|due| due.as_millis()).collect();
        assert_eq!(due, [0, 100, 200, 1300, 1800]);
    }

    #[test]
    fn targets_take_turns() {
        let due = |target| Schedule::new(vec![phase(10.0, 200)], Arrivals::Constant, target, 2).next().unwrap();
        assert_eq!([due(0), due(1)], [Duration::ZERO, Duration::from_millis(50)]);
    }

    #[test]
    fn poisson_arrivals_are_ordered_and_come_at_the_rate() {
        let due: Vec<Duration> = Schedule::new(vec![phase(100.0, 100_000)], Arrivals::Poisson(7), 0, 1).collect();
        assert!(due.is_sorted());
        assert!((9_600..10_400).contains(&due.len()), "{}", due.len());
        let longest = due.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest > Duration::from_millis(50), "gaps vary: {longest:?}");
    }
}

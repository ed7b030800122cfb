//! Cuts to what the application was measured to complete.
//!
//! What completes under overload is the capacity, so one cut finds it, wherever the limit was. A goal in proportion to the
//! rate (cpu) says how much less is wanted; a latency is mended by the queue bound, and the rate only has to stay near
//! the capacity.

use super::{Law, reading::Reading};

/// Where a bound keeps the queue short, the rate stays this much above the completions, and grows no further:
/// near enough to share the capacity out among classes, and far enough to see the completions rise.
const HEADROOM: f64 = 1.1;

pub(super) struct CompletionRate;

impl Law for CompletionRate {
    fn cut(&self, reading: &Reading) -> f64 {
        // Without measured completions: relative to what the limit admits.
        let admitted = reading.offered.map_or(reading.limit, |offered| offered.min(reading.limit));
        let base = reading.answers.unwrap_or(admitted);
        let queue_is_bounded = reading.bounded && reading.answers.is_some();
        let parts = reading.missed().map(|goal| match goal.is_latency {
            true if queue_is_bounded => HEADROOM,
            true => (1.0 / goal.severity).clamp(0.5, 0.9),
            false => (1.0 / goal.severity).max(0.5),
        });
        base * parts.fold(HEADROOM, f64::min)
    }

    fn grow(&self, reading: &Reading) -> f64 {
        // Half of the way to the goal, where the goal follows the rate.
        let room = reading.worst_of_rate().map_or(f64::INFINITY, |severity| (1.0 / severity - 1.0) / 2.0);
        let target = reading.limit * (1.0 + reading.range.step.min(room));
        match reading.answers {
            Some(answers) => target.min(reading.limit.max(answers * HEADROOM)),
            None => target,
        }
    }

    fn relax(&self, reading: &Reading) -> f64 {
        reading.limit * 2.0
    }
}

//! Additive increase, multiplicative decrease: the classic. Needs no measurement but the goals.

use super::{Law, reading::Reading};

/// What a cut leaves.
const DECREASE: f64 = 0.7;

pub(super) struct Aimd;

impl Law for Aimd {
    fn cut(&self, reading: &Reading) -> f64 {
        // A limit far above what is offered would take many cuts to be felt.
        reading.offered.map_or(reading.limit, |offered| offered.min(reading.limit)) * DECREASE
    }

    fn grow(&self, reading: &Reading) -> f64 {
        reading.limit + reading.range.step * (reading.range.ceiling - reading.range.floor)
    }

    fn relax(&self, reading: &Reading) -> f64 {
        self.grow(reading)
    }
}

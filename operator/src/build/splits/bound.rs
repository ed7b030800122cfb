//! The bound of all splits together.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use limiter::split::shares::TOTAL;

/// All splits together move at most this much of a split's requests in [`OVER`], for each that is steered: a fault of what is measured
/// would move all of them at once.
pub(super) const MOST_OF_EACH: u32 = TOTAL / 5;
/// As few splits as there may be, they move so much.
const MOST_OF_FEW: u32 = 2 * TOTAL;
const OVER: SignedDuration = SignedDuration::from_mins(1);

/// How many shares were moved lately for what arms do, and when.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bound {
    moves: VecDeque<(Timestamp, u32)>,
}

impl Bound {
    /// How many shares may still be moved now, of so many splits.
    pub(super) fn room(&mut self, splits: usize, now: Timestamp) -> u32 {
        // Of a clock that was set back nothing is known.
        self.moves.retain(|(at, _)| *at <= now && now.duration_since(*at) < OVER);
        let count = u32::try_from(splits).unwrap_or(u32::MAX);
        let most = MOST_OF_EACH.saturating_mul(count).max(MOST_OF_FEW);
        most.saturating_sub(self.moves.iter().map(|(_, moved)| moved).sum())
    }

    /// So many were moved now.
    pub(super) fn take(&mut self, moved: u32, now: Timestamp) {
        if moved > 0 {
            self.moves.push_back((now, moved));
        }
    }
}

//! What outlives the process: whether a rule's state is worth writing down, and how a rule goes on from what was written.

use std::time::Duration;

use jiff::Timestamp;

use super::{Cause, Floor, RuleState, Stage};
use crate::{
    adapt::{Cut, Steering},
    condition::{Hold, Holds, elapsed},
    quota::Rate,
};

impl RuleState {
    /// The state with which a rule goes on at `now`, after a time in which nobody looked.
    ///
    /// That time counts for nothing: what was held stays as it was and is added to only from the next sample on, a release
    /// stands still until its metrics are seen again, and `on_missing` waits anew. So the first step without a metric
    /// decides what was decided last.
    #[must_use]
    pub fn resume(self, now: Timestamp) -> Self {
        let Self {
            stage,
            holds,
            until_holds,
            streak,
            last_rate,
            steering,
            classes,
            bound,
            ramp,
            missing_since,
            missing_deadline,
            floor,
            ..
        } = self;
        let unlinked = |hold: Hold| Hold { counted_to: None, ..hold };
        let all_unlinked = |holds: Holds| holds.into_iter().map(|(id, hold)| (id, unlinked(hold))).collect();
        // A floor stands as long as its metrics stay away: `on_missing` has acted and must not be made to wait again, even
        // by a clock that was set back meanwhile.
        let overdue = || {
            let after = elapsed(missing_since?, missing_deadline?);
            Some(missing_since?.min(now.checked_sub(after).ok()?))
        };
        Self {
            stage: stage.map(|stage| Stage { since: stage.since.min(now), ..stage }),
            holds: all_unlinked(holds),
            until_holds: all_unlinked(until_holds),
            streak: unlinked(streak),
            last_rate,
            // A goal that was missed then is judged anew, and so is whether a cut helped.
            steering: steering.map(|steering| Steering { evidence: 0, trial: None, ..steering }),
            classes,
            bound,
            ramp,
            missing_since: floor.and_then(|_| overdue()),
            floor: floor.map(|floor| Floor { since: floor.since.min(now), ..floor }),
            ..Self::default()
        }
    }

    /// Whether this state tells more than that time has passed since `before`, so that it is worth writing down.
    ///
    /// A hold that grows does not; one that was cut does. So what is written never says that something was held for longer
    /// than it was, and a rule that waits costs no writes.
    #[must_use]
    pub fn is_news_after(&self, before: &Mark) -> bool {
        let Mark { holds, until_holds, classes, rest } = before;
        let now = Rest::of(self);
        was_cut(holds, &self.holds)
            || was_cut(until_holds, &self.until_holds)
            || now.streak < rest.streak
            || Rest { streak: rest.streak, ..now } != *rest
            || !quarters(&self.classes).eq(classes.iter().copied())
    }
}

/// What of a state [`RuleState::is_news_after`] compares with. Set again and again it allocates next to nothing, where a copy of the state does
/// each time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mark {
    holds: Vec<(usize, Duration)>,
    until_holds: Vec<(usize, Duration)>,
    classes: Vec<u32>,
    rest: Rest,
}

impl Mark {
    /// Of this state.
    #[must_use]
    pub fn of(state: &RuleState) -> Self {
        let mut mark = Self::default();
        mark.set(state);
        mark
    }

    /// Of this state from now on.
    pub fn set(&mut self, state: &RuleState) {
        let Self { holds, until_holds, classes, rest } = self;
        let refill = |marks: &mut Vec<(usize, Duration)>, holds: &Holds| {
            marks.clear();
            marks.extend(holds.iter().map(|(id, hold)| (*id, hold.held)));
        };
        refill(holds, &state.holds);
        refill(until_holds, &state.until_holds);
        classes.clear();
        classes.extend(quarters(&state.classes));
        *rest = Rest::of(state);
    }
}

/// What can be copied.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rest {
    streak: Duration,
    stage: Option<Stage>,
    last_rate: Option<Rate>,
    missing_since: Option<Timestamp>,
    floor: Option<Floor>,
    /// Limit, bound and last cut of a limit that steers itself.
    steering: Option<(Rate, Option<u32>, Option<Cut>)>,
    bound: Option<u32>,
    /// Cause, start, whole seconds, and whether it stands still.
    ramp: Option<(Cause, Option<Rate>, u64, bool)>,
}

impl Rest {
    fn of(state: &RuleState) -> Self {
        // Every field is named, so that a new one cannot be forgotten here.
        let RuleState {
            stage,
            holds: _,
            until_holds: _,
            streak,
            last_rate,
            steering,
            classes: _,
            bound,
            ramp,
            missing_since,
            missing_deadline: _,
            floor,
            stale_at: _,
            stepped_at: _,
        } = state;
        Self {
            streak: streak.held,
            stage: *stage,
            last_rate: *last_rate,
            missing_since: *missing_since,
            floor: *floor,
            steering: steering.as_ref().map(|now| (now.limit, now.bound, now.cut)),
            bound: *bound,
            ramp: ramp.map(|ramp| (ramp.cause, ramp.from, ramp.run.as_secs(), ramp.paused)),
        }
    }
}

/// The limit of each class in quarters of the rule's: demand moves them often, and the next samples tell them exactly.
fn quarters(classes: &[Rate]) -> impl Iterator<Item = u32> {
    let whole = classes.first().map_or(1.0, Rate::per_second);
    classes.iter().map(move |class| (4.0 * class.per_second() / whole).round() as u32)
}

/// Whether something is held for less long than it was.
fn was_cut(before: &[(usize, Duration)], now: &Holds) -> bool {
    before.iter().any(|(id, held)| now.get(id).map(|now| now.held).unwrap_or_default() < *held)
}

//! What outlives the process: whether a rule's state is worth writing down, and how a rule goes on from what was written.

use jiff::Timestamp;

use super::{Floor, RuleState, Stage};
use crate::{
    adapt::Steering,
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
    pub fn is_news_after(&self, before: &Self) -> bool {
        // Every field is named, so that a new one cannot be forgotten here.
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
            missing_deadline: _,
            floor,
            stale_at: _,
            stepped_at: _,
        } = self;
        let steered = |steering: &Option<Steering>| steering.as_ref().map(|now| (now.limit, now.bound, now.cut));
        let run = |state: &Self| state.ramp.map(|ramp| (ramp.cause, ramp.from, ramp.run.as_secs(), ramp.paused));
        was_cut(&before.holds, holds)
            || was_cut(&before.until_holds, until_holds)
            || streak.held < before.streak.held
            || (stage, last_rate, missing_since, floor)
                != (&before.stage, &before.last_rate, &before.missing_since, &before.floor)
            || (steered(steering), bound) != (steered(&before.steering), &before.bound)
            || quarters(classes) != quarters(&before.classes)
            || (ramp != &before.ramp && run(self) != run(before))
    }
}

/// The limit of each class in quarters of the rule's: demand moves them often, and the next samples tell them exactly.
fn quarters(classes: &[Rate]) -> Vec<u32> {
    let quarters = |class: &Rate| (4.0 * class.per_second() / classes[0].per_second()).round() as u32;
    classes.iter().map(quarters).collect()
}

/// Whether something is held for less long than it was.
fn was_cut(before: &Holds, now: &Holds) -> bool {
    before.iter().any(|(id, hold)| now.get(id).map(|now| now.held).unwrap_or_default() < hold.held)
}

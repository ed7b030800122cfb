//! Whether the limit held: judged from the load generator's own counts, replica by replica.

use std::{ops::Range, time::Duration};

use super::{
    load::{Report, Summary},
    scenario::{BURST, Timeline, share_per_second},
};

/// Admitted requests may exceed the limit by this part of it, besides the burst.
const TOLERANCE: f64 = 0.02;
/// At least this part of the limit must be answered, or the limit was not what held the load back.
const USED: f64 = 0.85;
/// Admitted requests must be answered this fast.
pub const P99_GOAL: Duration = Duration::from_millis(500);

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Whom it is about: a replica or a proxy.
    pub subject: String,
    /// Whether it was as it should be.
    pub passed: bool,
    /// What was found, and what should have been.
    pub detail: String,
}

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// In the order of time.
    pub checks: Vec<Check>,
}

impl Verdict {
    /// Whether everything was as it should be.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.passed)
    }

    /// What was not as it should be.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.passed)
    }
}

/// Judges a run that has come to its end.
#[must_use]
pub fn judge(report: &Report, timeline: &Timeline) -> Verdict {
    let mut checks = Vec::new();
    for target in &report.targets {
        let mut check = |passed, detail| checks.push(Check { subject: target.name.clone(), passed, detail });
        let calm = target.sum(timeline.calm());
        untroubled("before the surge", &calm, &mut check);
        let surge = target.sum(timeline.settled_surge());
        within_share(&surge, &timeline.settled_surge(), &mut check);
        // Only here: in the calm a slow second is the machine's, not the limit's.
        fast("in the surge", &surge, &mut check);
        let recovered = target.sum(timeline.recovered());
        untroubled("in the last seconds", &recovered, &mut check);
    }
    Verdict { checks }
}

fn untroubled(when: &str, sum: &Summary, check: &mut impl FnMut(bool, String)) {
    let fine = sum.limited == 0 && sum.failed == 0 && sum.offered > 0;
    check(
        fine,
        format!(
            "{when}: {} of {} requests answered, {} refused (429), {} failed; all should be answered",
            sum.ok, sum.offered, sum.limited, sum.failed
        ),
    );
}

fn within_share(sum: &Summary, window: &Range<usize>, check: &mut impl FnMut(bool, String)) {
    let seconds = window.len() as f64;
    let share = share_per_second();
    let most = share * seconds * (1.0 + TOLERANCE) + BURST;
    let least = share * seconds * USED;
    let admitted = sum.admitted() as f64;
    check(
        admitted <= most,
        format!(
            "in the surge: admitted {:.1}/s of a share of {share:.1}/s (at most {most:.0} in {seconds:.0} s, with the burst)",
            admitted / seconds
        ),
    );
    check(
        sum.ok as f64 >= least,
        format!("in the surge: answered {:.1}/s; should be at least {:.1}/s", sum.ok as f64 / seconds, share * USED),
    );
}

fn fast(when: &str, sum: &Summary, check: &mut impl FnMut(bool, String)) {
    let goal = P99_GOAL.as_millis();
    match sum.p99 {
        Some(p99) => {
            check(p99 <= P99_GOAL, format!("{when}: p99 is {} ms; should be at most {goal} ms", p99.as_millis()));
        }
        None => {
            check(false, format!("{when}: no request was answered, so there is no p99; should be at most {goal} ms"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::judge;
    use crate::demo::{
        load::{Report, Second, TargetReport},
        scenario::Timeline,
    };

    /// A run in which each second of the settled surge has `admitted` answers after `latency`.
    fn run(admitted: u64, latency: Duration, refused_at_the_end: u64) -> super::Verdict {
        let timeline = Timeline::new(60);
        let seconds = (0..60)
            .map(|at| {
                let surge = timeline.phase_at(at) == "surge";
                let (offered, ok) = if surge { (100, admitted) } else { (15, 15) };
                let last = if at == 59 { refused_at_the_end } else { 0 };
                let mut second = Second { offered, ok: ok - last, limited: offered - ok + last, ..Second::default() };
                let latency = if surge { latency } else { Duration::from_millis(20) };
                second.latency_us.record_n(latency.as_micros() as u64, second.ok as u32).unwrap();
                second
            })
            .collect();
        let targets = vec![TargetReport { name: "burner-0".into(), seconds }];
        judge(&Report { targets }, &timeline)
    }

    #[test]
    fn passes_when_the_limit_holds() {
        let verdict = run(30, Duration::from_millis(90), 0);
        assert!(verdict.passed(), "{verdict:?}");
    }

    #[test]
    fn fails_for_each_thing_that_goes_wrong() {
        let why =
            |verdict: super::Verdict| -> Vec<String> { verdict.failures().map(|check| check.detail.clone()).collect() };
        let too_many = why(run(32, Duration::from_millis(90), 0));
        assert!(too_many.len() == 1 && too_many[0].contains("admitted 32.0/s"), "{too_many:?}");
        let too_few = why(run(25, Duration::from_millis(90), 0));
        assert!(too_few.len() == 1 && too_few[0].contains("at least 25.5/s"), "{too_few:?}");
        let slow = why(run(30, Duration::from_millis(800), 0));
        assert!(slow.len() == 1 && slow[0].contains("p99 is 80"), "{slow:?}");
        let not_released = why(run(30, Duration::from_millis(90), 3));
        assert!(not_released.len() == 1 && not_released[0].contains("3 refused"), "{not_released:?}");
        assert!(!judge(&Report::default(), &Timeline::new(60)).passed());
    }
}

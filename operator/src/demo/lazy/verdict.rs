//! Whether each promise was kept: judged from what the clients counted and what Envoys hold. The number of resources that Weir says it
//! sent is there beside what the proxies received.

use std::time::Duration;

use super::findings::{Findings, Side, less, megabytes, millis, seconds};
use crate::demo::{
    load::Summary,
    verdict::{Check, Verdict},
};

/// Half of the first calls may take this much longer than with everything there, on one machine.
const FIRST: Duration = Duration::from_millis(50);
/// Half of the later calls may.
const LATER: Duration = Duration::from_millis(2);
/// A host that nothing is known of is answered within this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Judges a run that has come to its end.
pub(super) fn judge(findings: &Findings) -> Verdict {
    let Findings { services, called, sides: [eager, lazy], grown, unknown, forgetting, restart, .. } = findings;
    let mut checks = Vec::new();
    let mut check = |side: &Side, passed, detail| {
        checks.push(Check { subject: side.name.to_owned(), passed, detail });
    };

    let has = |side: &Side| (side.at_start.clusters.len(), side.after_calls.clusters.len());
    let ((eager_start, eager_later), (lazy_start, lazy_later)) = (has(eager), has(lazy));
    check(
        eager,
        eager_start == *services && eager_later == *services,
        format!(
            "has clusters of {eager_start} services at its start and {eager_later} later; should be all {services}"
        ),
    );
    check(lazy, lazy_start == 0, format!("has clusters of {lazy_start} services at its start; should be none"));
    let exactly = sorted(&lazy.after_calls.clusters) == sorted(called);
    check(
        lazy,
        exactly && grown.iter().copied().eq(1..=called.len()),
        format!(
            "has clusters of {lazy_later} services after the calls; should be exactly the {} that were called, one more with each",
            called.len()
        ),
    );
    let (much, little) = (eager.after_calls.allocated, lazy.after_calls.allocated);
    check(
        lazy,
        little < much,
        format!(
            "{} allocated, {:.0} % less than {} of the other; should be less",
            megabytes(little),
            less(little, much),
            megabytes(much)
        ),
    );
    for side in [eager, lazy] {
        let wrong: Vec<&String> = side.first.wrong.iter().chain(&side.later.wrong).collect();
        let calls = side.first.count() + side.later.count();
        let first = wrong.first().map_or_else(String::new, |wrong| format!(" ({wrong})"));
        check(
            side,
            wrong.is_empty() && calls > 0,
            format!("{} of {calls} calls answered by the service called{first}; should be all", calls - wrong.len()),
        );
    }
    for (what, lazy_median, eager_median, most) in [
        ("first calls", lazy.first.median(), eager.first.median(), FIRST),
        ("later calls", lazy.later.median(), eager.later.median(), LATER),
    ] {
        check(
            lazy,
            lazy_median <= eager_median + most,
            format!(
                "{what}: median {}, {} with everything there; should be at most {} more",
                millis(lazy_median),
                millis(eager_median),
                millis(most)
            ),
        );
    }
    check(
        lazy,
        unknown.status == 404 && unknown.body.starts_with("weir: ") && unknown.after <= AT_ONCE,
        format!(
            "an unknown host is answered {} after {}; should be 404, with what is known, within {}",
            unknown.status,
            millis(unknown.after),
            seconds(AT_ONCE)
        ),
    );

    let after = forgetting.after.map_or_else(|| "never".to_owned(), |after| format!("after {}", seconds(after)));
    check(
        lazy,
        forgetting.after.is_some(),
        format!(
            "everything but {} is forgotten {after}, and {} are left; should be 1",
            forgetting.kept,
            forgetting.left.len()
        ),
    );
    let [kept, other] = [&forgetting.kept, &forgetting.other];
    let back = sorted(&forgetting.clusters_again) == sorted(&[kept.clone(), other.clone()]);
    check(
        lazy,
        forgetting.again.is_from(other) && back,
        format!(
            "{other} is called again: {} after {}, and then {} are there; should be 200, and 2",
            forgetting.again.status,
            millis(forgetting.again.after),
            forgetting.clusters_again.len()
        ),
    );
    for side in [eager, lazy] {
        steady(side, &side.while_forgetting, &format!("{kept} while others are forgotten"), &mut check);
        steady(side, &side.while_restarting, &format!("{kept} while Weir is killed and comes back"), &mut check);
        let changed = restart.changed.contains(&side.name);
        let found = if changed { "another" } else { "the same" };
        check(
            side,
            !changed,
            format!("after Weir came back its dump is {found}, with the times at which all came; should be the same"),
        );
    }
    let (calls, wrong) = (restart.calls.count(), restart.calls.wrong.len());
    check(
        lazy,
        wrong == 0 && calls > 0,
        format!("{other} meanwhile, through both: {} of {calls} calls answered; should be all", calls - wrong),
    );
    checks.push(Check {
        subject: "weir".to_owned(),
        passed: restart.sent_after == 0.0 && restart.sent_before > 0.0,
        detail: format!(
            "sent {} resources after it came back; should be none ({} before it was killed)",
            restart.sent_after, restart.sent_before
        ),
    });
    Verdict { checks }
}

fn steady(side: &Side, sum: &Summary, what: &str, check: &mut impl FnMut(&Side, bool, String)) {
    check(
        side,
        sum.ok == sum.offered && sum.ok > 0,
        format!("{what}: {} of {} calls answered; should be all", sum.ok, sum.offered),
    );
}

fn sorted(names: &[String]) -> Vec<&String> {
    let mut names: Vec<&String> = names.iter().collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::judge;
    use crate::demo::{
        lazy::{
            caller::Answer,
            findings::{Findings, Forgetting, Holding, Restart, Side, Times},
        },
        load::Summary,
    };

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.to_owned(), after: Duration::from_millis(2) }
    }

    fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers.map(|number| format!("s{number}")).collect()
    }

    /// A run in which all is as it should be.
    fn fine() -> Findings {
        let called = names(0..3);
        let mut times = Times::default();
        called.iter().for_each(|service| times.add(service, &answer(200, service)));
        let all_answered = Summary { offered: 100, ok: 100, ..Summary::default() };
        let side = |name, start: usize, later: usize| Side {
            name,
            ready: Duration::from_millis(900),
            at_start: Holding { clusters: names(0..start), allocated: 1_000 * (1 + start as u64) },
            after_calls: Holding { clusters: names(0..later), allocated: 1_000 * (1 + later as u64) },
            first: times.clone(),
            later: times.clone(),
            while_forgetting: all_answered.clone(),
            while_restarting: all_answered.clone(),
        };
        Findings {
            services: 9,
            called,
            sides: [side("eager", 9, 9), side("lazy", 0, 3)],
            grown: vec![1, 2, 3],
            unknown: answer(404, "weir: no Service is known by this host"),
            forgetting: Forgetting {
                kept: "s0".to_owned(),
                other: "s1".to_owned(),
                after: Some(Duration::from_secs(12)),
                left: names(0..1),
                again: answer(200, "s1"),
                clusters_again: names(0..2),
            },
            restart: Restart { sent_before: 40.0, calls: times, ..Restart::default() },
            ..Findings::default()
        }
    }

    #[test]
    fn passes_when_every_promise_is_kept() {
        let verdict = judge(&fine());
        assert!(verdict.passed(), "{:?}", verdict.failures().collect::<Vec<_>>());
    }

    #[test]
    fn fails_for_each_promise_that_is_broken() {
        let broken = |change: fn(&mut Findings)| -> Vec<String> {
            let mut findings = fine();
            change(&mut findings);
            judge(&findings).failures().map(|check| format!("{}: {}", check.subject, check.detail)).collect()
        };
        type Case = (fn(&mut Findings), &'static str);
        let cases: [Case; 15] = [
            (|it| it.sides[0].at_start.clusters.truncate(8), "eager: has clusters of 8 services"),
            (|it| it.sides[1].at_start.clusters.push("s7".into()), "lazy: has clusters of 1 services at its start"),
            (
                |it| it.sides[1].after_calls.clusters[2] = "s7".into(),
                "lazy: has clusters of 3 services after the calls",
            ),
            (|it| it.grown[0] = 3, "one more with each"),
            (|it| it.sides[1].after_calls.allocated = 10_000, "lazy: 0.0 MB allocated, 0 % less"),
            (
                |it| it.sides[1].first.add("s2", &answer(503, "")),
                "lazy: 6 of 7 calls answered by the service called (s2: 503",
            ),
            (
                |it| {
                    (0..5).for_each(|_| {
                        let after = Duration::from_millis(60);
                        it.sides[1].first.add("s2", &Answer { after, ..answer(200, "s2") });
                    });
                },
                "lazy: first calls: median 60.0 ms, 2.0 ms",
            ),
            (|it| it.unknown.status = 503, "lazy: an unknown host is answered 503"),
            (|it| it.unknown.after = Duration::from_secs(5), "after 5000.0 ms; should be 404"),
            (|it| it.forgetting.after = None, "forgotten never"),
            (|it| it.forgetting.again = answer(504, ""), "lazy: s1 is called again: 504"),
            (|it| it.sides[1].while_forgetting.ok = 99, "lazy: s0 while others are forgotten: 99 of 100"),
            (|it| it.sides[0].while_restarting.ok = 0, "eager: s0 while Weir is killed and comes back: 0 of 100"),
            (|it| it.restart.changed.push("lazy"), "lazy: after Weir came back its dump is another"),
            (|it| it.restart.sent_after = 2.0, "weir: sent 2 resources"),
        ];
        for (change, words) in cases {
            let failures = broken(change);
            assert!(failures.len() == 1 && failures[0].contains(words), "{words}: {failures:?}");
        }
        assert!(!judge(&Findings::default()).passed());
    }
}

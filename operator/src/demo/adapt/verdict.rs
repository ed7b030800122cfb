//! Whether the promise was kept: judged from the load generator's own counts, never from what Weir says.

use super::{
    SLO,
    timeline::{Act, Timeline},
};
use crate::demo::{
    load::{Report, Summary, TargetReport},
    verdict::{Check, Verdict},
};

/// This part of what was possible must have been answered in time.
const GOODPUT: f64 = 0.9;

/// Requests that a limit or an Envoy refused.
pub(super) fn refused(sum: &Summary) -> u64 {
    sum.limited + sum.unavailable
}

/// Requests answered in time over those that could have been, in the settled seconds of an act.
pub(super) fn goodput(target: &TargetReport, act: &Act) -> f64 {
    let window = act.settled();
    let possible = act.target() * window.len() as f64;
    target.sum(window).good as f64 / possible
}

/// Judges a run that has come to its end.
pub(super) fn judge(report: &Report, timeline: &Timeline) -> Verdict {
    let [calm, surge, halved, _] = &timeline.0;
    let mut checks = Vec::new();
    for target in &report.targets {
        let mut check = |passed, detail| checks.push(Check { subject: target.name.clone(), passed, detail });
        untroubled("before the surge", &target.sum(calm.begin..calm.end), &mut check);
        for act in [surge, halved] {
            useful(target, act, &mut check);
        }
        untroubled("in the last seconds", &target.sum(timeline.recovered()), &mut check);
    }
    Verdict { checks }
}

fn untroubled(when: &str, sum: &Summary, check: &mut impl FnMut(bool, String)) {
    let refused = refused(sum);
    check(
        refused == 0 && sum.ok as f64 >= 0.98 * sum.offered as f64 && sum.ok > 0,
        format!(
            "{when}: {} of {} requests answered, {refused} refused; all should be answered but a few that the machine delays",
            sum.ok, sum.offered
        ),
    );
}

fn useful(target: &TargetReport, act: &Act, check: &mut impl FnMut(bool, String)) {
    let when = match act.name {
        "halved" => "with half of the capacity",
        _ => "at three times the capacity",
    };
    let goodput = goodput(target, act);
    check(
        goodput >= GOODPUT,
        format!(
            "{when}: answered {:.0} % of what was possible within {} ms; should be at least {:.0} %",
            goodput * 100.0,
            SLO.as_millis(),
            GOODPUT * 100.0
        ),
    );
    let p99 = target.sum(act.settled()).p99;
    check(
        p99.is_some_and(|p99| p99 <= SLO),
        format!(
            "{when}: p99 of answers is {}; should be at most {} ms",
            crate::demo::summary::latency(p99),
            SLO.as_millis()
        ),
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::judge;
    use crate::demo::{
        adapt::timeline::{Act, Timeline},
        load::{Report, Second, TargetReport},
    };

    /// A run in which each second of an act answers `good` of what is possible, after `latency`, and refuses the rest but what
    /// `forgotten` says.
    fn run(good: impl Fn(&Act) -> f64, latency: Duration, refused_at_the_end: u64) -> Vec<String> {
        let timeline = Timeline::new(60);
        let seconds = (0..60)
            .map(|at| {
                let act = timeline.act(at);
                let offered = act.offered.round() as u64;
                let mut ok = (act.target() * good(act)).round() as u64;
                if at == 59 {
                    ok -= refused_at_the_end;
                }
                let mut second = Second { offered, ok, good: ok, limited: offered - ok, ..Second::default() };
                second.latency_us.record_n(latency.as_micros() as u64, ok as u32).unwrap();
                second
            })
            .collect();
        let report = Report { targets: vec![TargetReport { name: "kitchen-0".into(), seconds }] };
        judge(&report, &timeline).failures().map(|check| check.detail.clone()).collect()
    }

    #[test]
    fn passes_when_the_capacity_is_used_and_nothing_else_is_refused() {
        assert_eq!(run(|_| 1.0, Duration::from_millis(90), 0), Vec::<String>::new());
    }

    #[test]
    fn fails_for_each_thing_that_goes_wrong() {
        let fast = Duration::from_millis(90);
        let halved = run(|act| if act.name == "halved" { 0.8 } else { 1.0 }, fast, 0);
        assert!(halved.len() == 1 && halved[0].contains("half of the capacity: answered 80 %"), "{halved:?}");
        let slow = run(|_| 1.0, Duration::from_millis(250), 0);
        assert!(slow.len() == 2 && slow[0].contains("p99 of answers is 25"), "{slow:?}");
        let late = run(|_| 1.0, fast, 3);
        assert!(
            late.len() == 1 && late[0].contains("last seconds: 697 of 700 requests answered, 3 refused"),
            "{late:?}"
        );
        let early = run(|act| if act.name == "calm" { 0.9 } else { 1.0 }, fast, 0);
        assert!(early.len() == 1 && early[0].contains("before the surge"), "{early:?}");
    }
}

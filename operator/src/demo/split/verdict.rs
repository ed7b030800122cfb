//! Whether the promise was kept: judged from what the client and the versions counted and what the caller's Envoy held, never from what
//! Weir says.

use std::time::Duration;

use super::{
    ARMS, FLOOR, GOOD, TURNS,
    findings::{Findings, likelihood},
};
use crate::demo::verdict::{Check, Verdict};

/// A version that has turned bad is drained within this.
const DRAINED: Duration = Duration::from_secs(15);
/// The good version has at least this part in the end, in percent; it begins with 20.
const GROWN: f64 = 25.0;
/// In the end at most this part of the requests fails.
const FAILED: f64 = 0.03;
/// Counts that are less likely than this were not shared out as they should be.
const LIKELY: f64 = 1e-4;

/// Judges a run that has come to its end.
pub(super) fn judge(findings: &Findings) -> Verdict {
    let mut checks = Vec::new();
    let mut check = |subject: &str, passed, detail| {
        checks.push(Check { subject: subject.to_owned(), passed, detail });
    };
    let whole = 0..usize::MAX;
    let (calm, last) = (findings.seen(findings.timeline.calm()), findings.seen(findings.timeline.last()));
    check(
        "client",
        calm.failed == 0 && calm.ok > 0,
        format!("while all are well: {} of {} requests answered; should be all", calm.ok, calm.offered),
    );
    let drained = findings.drained_after(TURNS, FLOOR + 0.1);
    let after = drained.map_or_else(|| "never".to_owned(), |after| format!("after {:.1} s", after.as_secs_f64()));
    check(
        ARMS[TURNS],
        drained.is_some_and(|after| after <= DRAINED),
        format!(
            "turned bad, and was left {FLOOR} % of the requests {after}; should be within {} s, for good",
            DRAINED.as_secs()
        ),
    );
    let probes = findings.received_in(TURNS, findings.timeline.last()).requests;
    check(
        ARMS[TURNS],
        probes > 0,
        format!(
            "received {probes} requests in the last seconds; should be some, so that it is seen when it is well again"
        ),
    );
    let grown = findings.last_shares()[GOOD];
    let began = findings.shares.first().map_or(0.0, |(_, shares)| shares[GOOD]);
    check(
        ARMS[GOOD],
        grown >= GROWN,
        format!("has grown from {began:.1} % to {grown:.1} %; should be at least {GROWN:.0} %"),
    );
    let ratio = last.failed as f64 / last.offered.max(1) as f64;
    check(
        "client",
        ratio <= FAILED && last.ok > 0,
        format!(
            "in the last seconds {:.1} % of the requests failed; should be at most {:.0} %",
            ratio * 100.0,
            FAILED * 100.0
        ),
    );
    by_the_bad_one_only(findings, &mut check);
    let settled = findings.settled();
    let likely = likelihood(&settled);
    let counts = settled.iter().map(|(count, expected)| format!("{count} of {expected:.0}")).collect::<Vec<_>>();
    check(
        "shares",
        likely.is_some_and(|likely| likely >= LIKELY),
        format!(
            "while they stood still the versions received {} expected requests (p = {}); p should be at least {LIKELY}",
            counts.join(", "),
            likely.map_or_else(|| "none".to_owned(), |likely| format!("{likely:.4}"))
        ),
    );
    let closed = findings.seen(whole).closed;
    let listeners = if findings.same_listeners { "the same" } else { "others" };
    check(
        "envoy",
        closed == 0 && findings.same_listeners,
        format!(
            "closed {closed} connections of the client, and its listeners are {listeners}; should be none, and the same"
        ),
    );
    Verdict { checks }
}

fn by_the_bad_one_only(findings: &Findings, check: &mut impl FnMut(&str, bool, String)) {
    let whole = 0..usize::MAX;
    let seen = findings.seen(whole.clone());
    let failed = |arm: usize| findings.received_in(arm, whole.clone()).failed;
    let others: u64 = (0..ARMS.len()).filter(|arm| *arm != TURNS).map(failed).sum();
    let own = failed(TURNS);
    check(
        "client",
        seen.failed == own && others == 0 && seen.limited == 0 && seen.ok + seen.failed == seen.offered,
        format!(
            "{} of {} requests failed, and {} answered {own} with an error; should be the same, so that no share that moved cost any",
            seen.failed + seen.limited,
            seen.offered,
            ARMS[TURNS]
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::judge;
    use crate::demo::split::findings::{Findings, tests::fine};

    #[test]
    fn passes_when_every_promise_is_kept() {
        let verdict = judge(&fine());
        assert!(verdict.passed(), "{:?}", verdict.failures().collect::<Vec<_>>());
    }

    #[test]
    fn fails_for_each_promise_that_is_broken() {
        type Case = (fn(&mut Findings), &'static [&'static str]);
        let cases: [Case; 9] = [
            (
                |it| {
                    it.client.seconds[3].ok -= 1;
                    it.client.seconds[3].timeouts += 1;
                },
                &[
                    "client: while all are well: 3999 of 4000",
                    "client: 199 of 12000 requests failed, and reviews-v3 answered 198",
                ],
            ),
            (
                |it| it.shares.iter_mut().filter(|(at, _)| *at < 36.0).for_each(|(_, shares)| shares[2] = 16.0),
                &["reviews-v3: turned bad, and was left 3 % of the requests after 16.0 s"],
            ),
            (
                |it| it.shares.push((60.0, [40.0, 40.0, 20.0])),
                &["reviews-v3: turned bad, and was left 3 % of the requests never"],
            ),
            (
                |it| it.received[2][50..].iter_mut().for_each(|second| second.requests = 0),
                &["reviews-v3: received 0 requests"],
            ),
            (|it| it.shares.push((60.0, [77.0, 20.0, 3.0])), &["reviews-v2: has grown from 20.0 % to 20.0 %"]),
            (
                |it| {
                    it.client.seconds[59].ok -= 70;
                    it.client.seconds[59].other.insert(500, 73);
                    it.received[2][59].failed += 70;
                },
                &["client: in the last seconds 5.0 % of the requests failed"],
            ),
            (
                |it| it.received[0][30].failed = 1,
                &["client: 198 of 12000 requests failed, and reviews-v3 answered 198"],
            ),
            (
                |it| {
                    it.received[0].iter_mut().for_each(|second| second.requests -= 10);
                    it.received[1].iter_mut().for_each(|second| second.requests += 10);
                },
                &["shares: while they stood still"],
            ),
            (|it| it.client.seconds[9].closed = 2, &["envoy: closed 2 connections"]),
        ];
        for (change, words) in cases {
            let mut findings = fine();
            change(&mut findings);
            let failures: Vec<String> =
                judge(&findings).failures().map(|check| format!("{}: {}", check.subject, check.detail)).collect();
            let told =
                failures.len() == words.len() && failures.iter().zip(words).all(|(it, words)| it.contains(words));
            assert!(told, "{words:?}: {failures:?}");
        }
    }
}

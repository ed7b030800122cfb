use super::harness::*;
use crate::{
    engine,
    language::ast::{Arithmetic, Comparison, Condition, Expression},
    metric::{Metric, Reduce, Word},
    policy::{Action, Key, MissingAction, Mode, Scope},
};

#[test]
fn tells_the_whole_story_of_a_limit() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    let cases = [
        (0.0, Some(0.62), "cpu is 62%: no limit (needs above 80% for 3s)"),
        (1.0, Some(0.91), "cpu is 91%, above 80% for 0s of 3s: no limit yet"),
        (2.5, Some(0.91), "cpu is 91%, above 80% for 1s of 3s: no limit yet"),
        (
            4.0,
            Some(0.914),
            "cpu is 91.4%, above 80% for 3s: limiting to 30 requests per second across all pods since 10:00:04",
        ),
        (
            5.0,
            Some(0.91),
            "cpu is 91%, above 80% for 4s: limiting to 30 requests per second across all pods since 10:00:04",
        ),
        (
            6.0,
            Some(0.75),
            "cpu is 75%: still limiting to 30 requests per second across all pods since 10:00:04 (releases below 70% for 2s)",
        ),
        (
            7.0,
            Some(0.6),
            "cpu is 60%, below 70% for 0s of 2s: still limiting to 30 requests per second across all pods since 10:00:04",
        ),
        (
            8.0,
            Some(0.6),
            "cpu is 60%, below 70% for 1s of 2s: still limiting to 30 requests per second across all pods since 10:00:04",
        ),
        (9.0, Some(0.6), "cpu is 60% after below 70% for 2s: releasing, now 30 requests per second across all pods"),
        (11.0, Some(0.6), "cpu is 60% after below 70% for 2s: releasing, now 120 requests per second across all pods"),
        (13.0, Some(0.6), "cpu is 60% after below 70% for 2s: releasing, now 480 requests per second across all pods"),
        (15.0, Some(0.6), "cpu is 60%: no limit (needs above 80% for 3s)"),
    ];
    for (seconds, cpu, sentence) in cases {
        let samples: Vec<_> = cpu.map(|cpu| (Word::Cpu, cpu)).into_iter().collect();
        assert_eq!(walk.step(seconds, &samples).explanation, sentence, "at {seconds}");
    }
}

#[test]
fn says_what_is_missing_and_what_follows() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    assert_eq!(walk.step(0.0, &[]).explanation, "cpu has never been seen: no limit");
    for seconds in [1.0, 2.0, 3.0, 4.0] {
        walk.step(seconds, &[(Word::Cpu, 0.85)]);
    }
    let holding = "holding the limit of 30 requests per second across all pods";
    assert_eq!(walk.step(6.0, &[]).explanation, format!("cpu is missing (last 85% by scrape): {holding}"));
    assert_eq!(
        walk.step(26.0, &[]).explanation,
        format!("cpu has been missing for 20s (last 85% by scrape): {holding}")
    );

    let floor = MissingAction::Floor(limit(Expression::Number(10.0)));
    let mut walk = Walk::new(shed(), floor);
    walk.step(0.0, &[(Word::Cpu, 0.5)]);
    assert_eq!(walk.step(2.0, &[]).explanation, "cpu is missing (last 50% by scrape): still no limit");
    assert_eq!(
        walk.step(7.0, &[]).explanation,
        "cpu has been missing for 5s (last 50% by scrape): the floor of 10 requests per second across all pods is in force since 10:00:07"
    );
    assert_eq!(
        walk.step(8.0, &[(Word::Cpu, 0.5)]).explanation,
        "cpu is 50%: letting go of the floor, now 10 requests per second across all pods"
    );

    let mut walk = Walk::new(shed(), MissingAction::Release);
    for seconds in [0.0, 1.0, 2.0, 3.0] {
        walk.step(seconds, &[(Word::Cpu, 0.85)]);
    }
    walk.step(5.0, &[]);
    assert_eq!(
        walk.step(10.0, &[]).explanation,
        "cpu has been missing for 5s (last 85% by scrape): letting go as the policy says, now 30 requests per second across all pods"
    );
}

#[test]
fn writes_numbers_as_people_do() {
    let cases = [
        (
            above(Word::Latency(99), 0.2),
            Word::Latency(99),
            0.1234,
            "p99 latency is 123.4 ms: no limit (needs above 200 ms)",
        ),
        (above(Word::Latency(50), 2.5), Word::Latency(50), 1.5, "p50 latency is 1.5 s: no limit (needs above 2.5 s)"),
        (
            above(Word::Requests, 500.0),
            Word::Requests,
            120.0,
            "requests are 120 per second: no limit (needs above 500 per second)",
        ),
        (
            above(Word::ErrorsPerSecond, 5.0),
            Word::ErrorsPerSecond,
            3.25,
            "errors per second are 3.25: no limit (needs above 5)",
        ),
        (above(Word::Errors, 0.05), Word::Errors, 0.001, "errors are 0.1%: no limit (needs above 5%)"),
        (
            above(Word::Named("queue_depth".to_owned()), 100.0),
            Word::Named("queue_depth".to_owned()),
            42.0,
            "queue_depth is 42: no limit (needs above 100)",
        ),
        (
            compare(Word::Inflight, Comparison::GreaterOrEqual, 10.0),
            Word::Inflight,
            -0.0,
            "inflight is 0: no limit (needs at least 10)",
        ),
    ];
    for (condition, word, value, sentence) in cases {
        let rule = rule(Some(when(condition, Condition::Literal(false))), Expression::Number(1.0));
        assert_eq!(Walk::new(rule, MissingAction::Hold).step(0.0, &[(word, value)]).explanation, sentence);
    }
}

#[test]
fn spells_out_a_condition_of_several_parts() {
    let busy = Condition::Any(vec![above(Word::Cpu, 0.8), held(0, 90, above(Word::Latency(99), 0.2))]);
    let relaxed = Condition::Compare {
        comparison: Comparison::Less,
        left: Expression::Metric(metric(Word::Cpu)),
        right: Expression::Number(0.8),
        relax: 0.9,
    };
    let mut walk = Walk::new(rule(Some(when(busy, relaxed)), Expression::Number(1.0)), MissingAction::Hold);
    assert_eq!(
        walk.step(0.0, &[(Word::Cpu, 0.5), (Word::Latency(99), 0.1)]).explanation,
        "cpu is 50% and p99 latency is 100 ms: no limit (needs cpu above 80% or p99 latency above 200 ms for 1m30s)"
    );
    assert_eq!(
        walk.step(1.0, &[(Word::Cpu, 0.9), (Word::Latency(99), 0.1)]).explanation,
        "cpu is 90% and p99 latency is 100 ms: limiting to 1 request per second across all pods since 10:00:01, as cpu above 80% or p99 latency above 200 ms for 1m30s holds"
    );
    assert_eq!(
        walk.step(2.0, &[(Word::Cpu, 0.75), (Word::Latency(99), 0.1)]).explanation,
        "cpu is 75% and p99 latency is 100 ms: still limiting to 1 request per second across all pods since 10:00:01 (releases below 72%)"
    );
}

#[test]
fn says_whom_the_limit_is_for() {
    let mut rule = rule(None, Expression::Number(5.0));
    let mut said = |scope, per| {
        let mut changed = limit(Expression::Number(5.0));
        (changed.scope, changed.per) = (scope, per);
        rule.action = Action::Limit(changed);
        Walk::new(rule.clone(), MissingAction::Hold).step(0.0, &[]).explanation
    };
    assert_eq!(said(Scope::PerPod, None), "limiting to 5 requests per second per pod since 10:00:00");
    assert_eq!(
        said(Scope::PerPod, Some(Key::ClientIp)),
        "limiting to 5 requests per second per client ip at each pod since 10:00:00"
    );
    assert_eq!(
        said(Scope::AcrossAllPods, Some(Key::Header("x-tenant".to_owned()))),
        "limiting to 5 requests per second per header x-tenant across all pods since 10:00:00"
    );
}

#[test]
fn an_old_limit_is_told_with_its_date() {
    let mut walk = Walk::new(rule(None, Expression::Number(5.0)), MissingAction::Hold);
    walk.step(0.0, &[]);
    assert_eq!(
        walk.step(86_400.0, &[]).explanation,
        "limiting to 5 requests per second across all pods since 2026-01-02 10:00:00"
    );
}

#[test]
fn says_why_an_amount_is_not_the_newest() {
    let metric = Metric { word: Word::Requests, reduce: Reduce::Sum };
    let half = Expression::Binary {
        operator: Arithmetic::Multiply,
        left: Box::new(Expression::Number(0.5)),
        right: Box::new(Expression::Metric(metric)),
    };
    let mut walk = Walk::new(rule(Some(when(above(Word::Cpu, 0.8), below(Word::Cpu, 0.7))), half), MissingAction::Hold);
    assert_eq!(
        walk.step(0.0, &[(Word::Cpu, 0.9)]).explanation,
        "cpu is 90%, above 80%: no limit; requests.sum have never been seen, so the limit has no number"
    );
}

#[test]
fn shadow_is_said_plainly() {
    let mut shadowed = shed();
    shadowed.mode = Mode::Shadow;
    let mut walk = Walk::new(shadowed, MissingAction::Hold);
    assert_eq!(
        walk.step(0.0, &[(Word::Cpu, 0.5)]).explanation,
        "shadow: not enforced; cpu is 50%: no limit (needs above 80% for 3s)"
    );
}

#[test]
fn observes_in_the_order_of_the_sentence() {
    let condition = Condition::All(vec![above(Word::Pods, 1.0), above(Word::Latency(99), 0.2), above(Word::Cpu, 0.8)]);
    let mut walk =
        Walk::new(rule(Some(when(condition, below(Word::Cpu, 0.7))), Expression::Number(1.0)), MissingAction::Hold);
    let decision = walk.step(0.0, &[(Word::Cpu, 0.5), (Word::Latency(99), 0.1), (Word::Memory, 0.3)]);
    let observed = engine::observed(&walk.rule, &walk.on_missing, &walk.state, &decision, &walk.observations);
    let observed: Vec<_> = observed.iter().map(|seen| (seen.metric.as_str(), seen.value, &*seen.source)).collect();
    assert_eq!(observed, [("pods", 3.0, "endpoints"), ("p99 latency", 0.1, "scrape"), ("cpu", 0.5, "scrape")]);
}

use super::{harness::*, scenario::limiting};
use crate::{
    engine::{
        Phase::{Idle, Limiting, Pending, Releasing},
        next_change,
    },
    language::ast::{Arithmetic, Condition, Expression},
    metric::Word,
    policy::{MissingAction, Scope},
};

const THIRTY: Option<f64> = Some(30.0);

fn floor(requests: f64) -> MissingAction {
    MissingAction::Floor(limit(Expression::Number(requests)))
}

#[test]
fn hold_keeps_the_limit_for_ever() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    limiting(&mut walk);
    walk.run(&[(5.0, None, Limiting, THIRTY), (100.0, None, Limiting, THIRTY), (86_400.0, None, Limiting, THIRTY)]);
    assert_eq!(walk.step(86_401.0, &[]).missing, [metric(Word::Cpu)]);
    walk.run(&[(86_402.0, Some(0.9), Limiting, THIRTY)]);
}

#[test]
fn hold_keeps_no_limit_for_ever() {
    Walk::new(shed(), MissingAction::Hold).run(&[
        (0.0, None, Idle, None),
        (100.0, None, Idle, None),
        (101.0, Some(0.9), Pending, None),
        (102.0, Some(0.9), Pending, None),
        (200.0, None, Pending, None),
    ]);
}

#[test]
fn hold_stops_a_release_in_the_middle() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    limiting(&mut walk);
    walk.run(&[
        (4.0, Some(0.6), Limiting, THIRTY),
        (5.0, Some(0.6), Limiting, THIRTY),
        (6.0, Some(0.6), Releasing, THIRTY),
        (7.0, Some(0.6), Releasing, Some(60.0)),
        (9.0, None, Releasing, Some(60.0)),
        (100.0, None, Releasing, Some(60.0)),
        (101.0, Some(0.6), Releasing, Some(60.0)),
        (102.0, Some(0.6), Releasing, Some(120.0)),
    ]);
}

#[test]
fn a_floor_comes_into_force_while_idle_and_goes_with_a_ramp() {
    let mut walk = Walk::new(shed(), floor(10.0));
    walk.run(&[(0.0, Some(0.5), Idle, None), (2.0, None, Idle, None)]);
    assert_eq!(next_change(&walk.rule, &walk.state, at(2.0)), Some(at(7.0)));
    walk.run(&[(6.9, None, Idle, None), (7.0, None, Limiting, Some(10.0))]);
    assert_eq!(next_change(&walk.rule, &walk.state, at(7.0)), None);
    assert_eq!(walk.step(8.0, &[]).since, at(7.0));
    walk.run(&[
        (60.0, None, Limiting, Some(10.0)),
        (61.0, Some(0.5), Releasing, Some(10.0)),
        (62.0, Some(0.5), Releasing, Some(20.0)),
        (63.0, Some(0.5), Releasing, Some(40.0)),
    ]);
}

#[test]
fn a_floor_replaces_the_limit_until_metrics_are_back() {
    let mut walk = Walk::new(shed(), floor(10.0));
    limiting(&mut walk);
    walk.run(&[
        (5.0, None, Limiting, THIRTY),
        (10.0, None, Limiting, Some(10.0)),
        (11.0, Some(0.9), Limiting, THIRTY),
        (12.0, Some(0.6), Limiting, THIRTY),
        (13.0, Some(0.6), Limiting, THIRTY),
        (14.0, Some(0.6), Releasing, THIRTY),
    ]);
}

#[test]
fn a_short_absence_brings_no_floor() {
    Walk::new(shed(), floor(10.0)).run(&[
        (0.0, Some(0.5), Idle, None),
        (2.0, None, Idle, None),
        (6.0, Some(0.5), Idle, None),
        (8.0, None, Idle, None),
        (12.0, None, Idle, None),
    ]);
}

#[test]
fn a_floor_is_the_lowest_limit_in_the_rules_scope() {
    let MissingAction::Floor(mut per_pod) = floor(4.0) else { unreachable!("built above") };
    per_pod.scope = Scope::PerPod;
    let mut walk = Walk::new(shed(), MissingAction::Floor(per_pod));
    assert_eq!(walk.step(0.0, &[(Word::Cpu, 0.5)]).lowest, Some(per_second(12.0)));
    let mut walk = Walk::new(shed(), floor(40.0));
    assert_eq!(walk.step(0.0, &[(Word::Cpu, 0.5)]).lowest, Some(per_second(30.0)));
}

#[test]
fn release_lets_go_with_a_ramp() {
    let mut walk = Walk::new(shed(), MissingAction::Release);
    limiting(&mut walk);
    walk.run(&[
        (5.0, None, Limiting, THIRTY),
        (9.9, None, Limiting, THIRTY),
        (10.0, None, Releasing, THIRTY),
        (11.0, None, Releasing, Some(60.0)),
        (12.0, None, Releasing, Some(120.0)),
        (14.0, None, Releasing, Some(480.0)),
        (16.0, None, Idle, None),
        (17.0, None, Idle, None),
        (18.0, Some(0.9), Pending, None),
    ]);
}

#[test]
fn a_clock_that_is_set_forward_does_not_end_a_release() {
    let mut walk = Walk::new(shed(), MissingAction::Release);
    limiting(&mut walk);
    walk.run(&[
        (5.0, None, Limiting, THIRTY),
        (10.0, None, Releasing, THIRTY),
        (3_610.0, None, Releasing, Some(120.0)),
        (3_611.0, None, Releasing, Some(240.0)),
        (3_614.0, None, Releasing, Some(960.0)),
        (3_615.0, None, Idle, None),
    ]);
}

#[test]
fn release_without_a_limit_changes_nothing() {
    Walk::new(shed(), MissingAction::Release).run(&[(0.0, None, Idle, None), (50.0, None, Idle, None)]);
}

#[test]
fn what_is_known_decides_though_another_metric_is_missing() {
    let either = Condition::Any(vec![above(Word::Cpu, 0.8), above(Word::Latency(99), 0.2)]);
    let both_low = Condition::All(vec![below(Word::Cpu, 0.7), below(Word::Latency(99), 0.1)]);
    let mut walk = Walk::new(rule(Some(when(either, both_low)), Expression::Number(30.0)), MissingAction::Hold);
    let decision = walk.step(0.0, &[(Word::Cpu, 0.9)]);
    assert_eq!((decision.phase, &*decision.missing), (Limiting, &[metric(Word::Latency(99))][..]));
    // cpu alone cannot end it: latency might be high.
    assert_eq!(walk.step(1.0, &[(Word::Cpu, 0.5)]).phase, Limiting);
    assert_eq!(walk.step(2.0, &[(Word::Cpu, 0.5), (Word::Latency(99), 0.05)]).phase, Releasing);
}

#[test]
fn an_amount_that_is_missing_keeps_the_last_number() {
    let half = Expression::Binary {
        operator: Arithmetic::Multiply,
        left: Box::new(Expression::Number(0.5)),
        right: Box::new(Expression::Metric(metric(Word::Requests))),
    };
    let mut walk = Walk::new(rule(None, half.clone()), MissingAction::Hold);
    assert_eq!(walk.step(0.0, &[]).limit, None);
    assert_eq!(walk.step(1.0, &[(Word::Requests, 100.0)]).limit, Some(per_second(50.0)));
    assert_eq!(walk.step(10.0, &[]).limit, Some(per_second(50.0)));
    for broken in [f64::NAN, f64::INFINITY, 0.0, -5.0, 1e30] {
        assert_eq!(walk.step(11.0, &[(Word::Requests, broken)]).limit, Some(per_second(50.0)), "{broken}");
    }
    let mut walk = Walk::new(rule(None, half), floor(10.0));
    walk.step(1.0, &[(Word::Requests, 100.0)]);
    walk.step(3.0, &[]);
    assert_eq!(walk.step(8.0, &[]).limit, Some(per_second(10.0)));
    assert_eq!(walk.step(9.0, &[(Word::Requests, 80.0)]).limit, Some(per_second(40.0)));
}

#[test]
fn a_clock_set_back_does_not_put_off_the_floor() {
    let mut walk = Walk::new(shed(), floor(10.0));
    walk.run(&[(3600.0, None, Idle, None), (0.0, None, Idle, None), (5.0, None, Limiting, Some(10.0))]);
}

#[test]
fn a_floor_being_released_never_undercuts_an_edited_limit() {
    let mut walk = Walk::new(shed(), floor(10.0));
    walk.run(&[(0.0, None, Idle, None), (5.0, None, Limiting, Some(10.0)), (6.0, Some(0.5), Releasing, Some(10.0))]);
    walk.on_missing = on_missing(MissingAction::Hold);
    walk.run(&[
        (6.5, Some(0.5), Releasing, THIRTY),
        (7.0, Some(0.5), Releasing, THIRTY),
        (8.0, Some(0.5), Releasing, Some(40.0)),
    ]);
}

#[test]
fn a_floor_stands_in_for_an_amount_that_is_missing_while_the_condition_is_known() {
    let amount = Expression::Metric(metric(Word::Requests));
    let hot = when(above(Word::Cpu, 0.8), below(Word::Cpu, 0.7));
    let mut walk = Walk::new(rule(Some(hot.clone()), amount.clone()), floor(10.0));
    walk.run(&[
        (0.0, Some(0.9), Limiting, None),
        (4.9, Some(0.9), Limiting, None),
        (5.0, Some(0.9), Limiting, Some(10.0)),
    ]);
    // Its end is known, too: the floor goes with a ramp.
    walk.run(&[(6.0, Some(0.6), Releasing, Some(10.0)), (7.0, Some(0.6), Releasing, Some(20.0))]);
    let mut walk = Walk::new(rule(Some(hot), amount), MissingAction::Release);
    walk.step(0.0, &[(Word::Cpu, 0.9), (Word::Requests, 50.0)]);
    walk.run(&[(2.0, Some(0.9), Limiting, Some(50.0)), (10.0, Some(0.9), Limiting, Some(50.0))]);
}

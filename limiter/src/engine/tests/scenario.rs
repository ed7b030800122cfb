use super::harness::*;
use crate::{
    engine::{
        Phase::{Idle, Limiting, Pending, Releasing},
        RuleState, next_change,
    },
    language::ast::{Arithmetic, Condition, Expression},
    metric::Word,
    policy::{Action, MissingAction},
};

const THIRTY: Option<f64> = Some(30.0);

#[test]
fn goes_once_round() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    walk.run(&[
        (0.0, Some(0.5), Idle, None),
        (1.0, Some(0.9), Pending, None),
        (2.0, Some(0.9), Pending, None),
        (3.0, Some(0.9), Pending, None),
        (4.0, Some(0.9), Limiting, THIRTY),
        (5.0, Some(0.75), Limiting, THIRTY),
        (6.0, Some(0.6), Limiting, THIRTY),
        (7.0, Some(0.6), Limiting, THIRTY),
        (8.0, Some(0.6), Releasing, THIRTY),
        (9.0, Some(0.6), Releasing, Some(60.0)),
        (10.0, Some(0.6), Releasing, Some(120.0)),
        (10.5, Some(0.6), Releasing, Some(120.0)),
        (11.0, Some(0.6), Releasing, Some(240.0)),
        (12.0, Some(0.6), Releasing, Some(480.0)),
        (13.0, Some(0.6), Releasing, Some(960.0)),
        (14.0, Some(0.6), Idle, None),
        (15.0, Some(0.6), Idle, None),
    ]);
}

#[test]
fn since_is_when_the_phase_began() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    for (seconds, cpu, since) in
        [(0.0, 0.5, 0.0), (1.0, 0.9, 1.0), (2.0, 0.9, 1.0), (3.0, 0.9, 1.0), (4.0, 0.9, 4.0), (5.0, 0.9, 4.0)]
    {
        assert_eq!(walk.step(seconds, &[(Word::Cpu, cpu)]).since, at(since), "at {seconds}");
    }
}

#[test]
fn a_dip_starts_the_wait_anew() {
    Walk::new(shed(), MissingAction::Hold).run(&[
        (0.0, Some(0.9), Pending, None),
        (1.0, Some(0.9), Pending, None),
        (2.0, Some(0.5), Idle, None),
        (3.0, Some(0.9), Pending, None),
        (4.0, Some(0.9), Pending, None),
        (5.0, Some(0.9), Pending, None),
        (6.0, Some(0.9), Limiting, THIRTY),
    ]);
}

#[test]
fn a_gap_in_the_samples_is_not_time_held() {
    Walk::new(shed(), MissingAction::Hold).run(&[
        (0.0, Some(0.9), Pending, None),
        (1.0, Some(0.9), Pending, None),
        (60.0, Some(0.9), Pending, None),
        (61.0, Some(0.9), Pending, None),
        (62.0, Some(0.9), Limiting, THIRTY),
    ]);
}

#[test]
fn a_hot_moment_starts_the_release_anew() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    limiting(&mut walk);
    walk.run(&[
        (4.0, Some(0.6), Limiting, THIRTY),
        (5.0, Some(0.6), Limiting, THIRTY),
        (5.5, Some(0.75), Limiting, THIRTY),
        (6.0, Some(0.6), Limiting, THIRTY),
        (7.0, Some(0.6), Limiting, THIRTY),
        (8.0, Some(0.6), Releasing, THIRTY),
    ]);
}

#[test]
fn heat_during_the_release_brings_the_limit_back_at_once() {
    let mut walk = Walk::new(
        rule(Some(when(above(Word::Cpu, 0.8), below(Word::Cpu, 0.7))), Expression::Number(30.0)),
        MissingAction::Hold,
    );
    walk.run(&[
        (0.0, Some(0.9), Limiting, THIRTY),
        (1.0, Some(0.6), Releasing, THIRTY),
        (2.0, Some(0.75), Releasing, Some(60.0)),
        (3.0, Some(0.9), Limiting, THIRTY),
        (4.0, Some(0.6), Releasing, THIRTY),
        (5.0, Some(0.6), Releasing, Some(60.0)),
    ]);
}

#[test]
fn a_for_served_again_during_the_release_brings_the_limit_back() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    limiting(&mut walk);
    walk.run(&[
        (4.0, Some(0.6), Limiting, THIRTY),
        (5.0, Some(0.6), Limiting, THIRTY),
        (6.0, Some(0.6), Releasing, THIRTY),
        (7.0, Some(0.9), Releasing, Some(60.0)),
        (8.0, Some(0.9), Releasing, Some(120.0)),
        (9.0, Some(0.9), Releasing, Some(240.0)),
        (10.0, Some(0.9), Limiting, THIRTY),
    ]);
}

#[test]
fn a_release_that_ends_hot_waits_as_pending() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    limiting(&mut walk);
    walk.run(&[
        (4.0, Some(0.6), Limiting, THIRTY),
        (5.0, Some(0.6), Limiting, THIRTY),
        (6.0, Some(0.6), Releasing, THIRTY),
        (7.0, Some(0.6), Releasing, Some(60.0)),
        (8.0, Some(0.6), Releasing, Some(120.0)),
        (9.0, Some(0.6), Releasing, Some(240.0)),
        (10.0, Some(0.6), Releasing, Some(480.0)),
        (11.0, Some(0.9), Releasing, Some(960.0)),
        (12.0, Some(0.9), Pending, None),
        (13.0, Some(0.9), Pending, None),
        (14.0, Some(0.9), Limiting, THIRTY),
    ]);
}

#[test]
fn the_condition_wins_over_until() {
    let overlap = when(held(0, 3, above(Word::Cpu, 0.5)), below(Word::Cpu, 0.9));
    let mut walk = Walk::new(rule(Some(overlap), Expression::Number(30.0)), MissingAction::Hold);
    walk.run(&[
        (0.0, Some(0.8), Pending, None),
        (1.0, Some(0.8), Pending, None),
        (2.0, Some(0.8), Pending, None),
        (3.0, Some(0.8), Limiting, THIRTY),
        (4.0, Some(0.8), Limiting, THIRTY),
        (5.0, Some(0.4), Releasing, THIRTY),
    ]);
}

#[test]
fn without_a_condition_the_limit_is_always_on() {
    let mut walk = Walk::new(rule(None, Expression::Number(5.0)), MissingAction::Hold);
    walk.run(&[(0.0, None, Limiting, Some(5.0)), (3600.0, None, Limiting, Some(5.0))]);
    assert_eq!(next_change(&walk.rule, &walk.state, at(3600.0)), None);
}

#[test]
fn a_release_vanishes_at_what_a_proxy_can_be_told() {
    let mut walk = Walk::new(
        rule(Some(when(above(Word::Cpu, 0.8), below(Word::Cpu, 0.7))), Expression::Number(40_000.0)),
        MissingAction::Hold,
    );
    walk.run(&[
        (0.0, Some(0.9), Limiting, Some(40_000.0)),
        (1.0, Some(0.6), Releasing, Some(40_000.0)),
        (2.0, Some(0.6), Releasing, Some(80_000.0)),
        (3.0, Some(0.6), Idle, None),
    ]);
}

#[test]
fn an_edited_number_shows_at_once() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    limiting(&mut walk);
    walk.rule.action = Action::Limit(limit(Expression::Number(50.0)));
    walk.run(&[(3.1, None, Limiting, Some(50.0))]);
    let decision = walk.step(3.2, &[]);
    assert_eq!((decision.lowest, decision.since), (Some(per_second(50.0)), at(3.0)));
}

#[test]
fn the_articles_quota_follows_the_pods() {
    let amount = Expression::Binary {
        operator: Arithmetic::Divide,
        left: Box::new(Expression::Number(30.0)),
        right: Box::new(Expression::Metric(metric(Word::Pods))),
    };
    let mut walk =
        Walk::new(rule(Some(when(above(Word::Cpu, 0.8), below(Word::Cpu, 0.72))), amount), MissingAction::Hold);
    walk.run(&[(0.0, Some(0.9), Limiting, Some(10.0))]);
    walk.observations.pods = 2;
    walk.run(&[(1.0, Some(0.9), Limiting, Some(15.0))]);
    walk.observations.pods = 0;
    walk.run(&[(2.0, Some(0.9), Limiting, Some(15.0))]);
}

#[test]
fn a_held_literal_runs_on_the_clock_and_says_when() {
    let condition = held(0, 10, Condition::Literal(true));
    let mut walk =
        Walk::new(rule(Some(when(condition, Condition::Literal(false))), Expression::Number(5.0)), MissingAction::Hold);
    walk.run(&[(0.0, None, Pending, None)]);
    assert_eq!(next_change(&walk.rule, &walk.state, at(0.0)), Some(at(10.0)));
    walk.run(&[(4.0, None, Pending, None), (10.0, None, Limiting, Some(5.0))]);
}

#[test]
fn tells_when_the_next_doubling_is_due() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    limiting(&mut walk);
    assert_eq!(next_change(&walk.rule, &walk.state, at(3.0)), Some(at_ms(4501)), "the sample grows stale");
    walk.run(&[
        (4.0, Some(0.6), Limiting, THIRTY),
        (5.0, Some(0.6), Limiting, THIRTY),
        (6.0, Some(0.6), Releasing, THIRTY),
    ]);
    assert_eq!(next_change(&walk.rule, &walk.state, at(6.0)), Some(at(7.0)));
    walk.run(&[(6.25, Some(0.6), Releasing, THIRTY)]);
    assert_eq!(next_change(&walk.rule, &walk.state, at(6.25)), Some(at(7.0)));
    assert_eq!(next_change(&walk.rule, &walk.state, at(9.0)), Some(at(9.0)), "overdue");
    assert_eq!(next_change(&walk.rule, &RuleState::default(), at(9.0)), None);
}

#[test]
fn a_clock_that_goes_back_lets_no_time_pass() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    limiting(&mut walk);
    walk.run(&[
        (4.0, Some(0.6), Limiting, THIRTY),
        (5.0, Some(0.6), Limiting, THIRTY),
        (6.0, Some(0.6), Releasing, THIRTY),
    ]);
    walk.run(&[
        (7.0, Some(0.6), Releasing, Some(60.0)),
        (6.0, None, Releasing, Some(60.0)),
        (7.0, Some(0.6), Releasing, Some(120.0)),
    ]);
}

#[test]
fn a_checkpoint_carries_everything() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    limiting(&mut walk);
    walk.run(&[(4.0, Some(0.6), Limiting, THIRTY), (5.0, Some(0.6), Limiting, THIRTY)]);
    let text = serde_json::to_string(&walk.state).unwrap();
    assert_eq!(serde_json::from_str::<RuleState>(&text).unwrap(), walk.state);
    assert_eq!(serde_json::from_str::<RuleState>("{}").unwrap(), RuleState::default());
}

/// Brings `shed` to its limit at 3 s.
pub(super) fn limiting(walk: &mut Walk) {
    walk.run(&[
        (0.0, Some(0.9), Pending, None),
        (1.0, Some(0.9), Pending, None),
        (2.0, Some(0.9), Pending, None),
        (3.0, Some(0.9), Limiting, THIRTY),
    ]);
}

/// The worked example of docs/reference/decisions.md.
#[test]
fn the_worked_example_is_true() {
    Walk::new(shed(), MissingAction::Hold).run(&[
        (0.0, Some(0.62), Idle, None),
        (1.0, Some(0.91), Pending, None),
        (2.0, Some(0.91), Pending, None),
        (3.0, Some(0.91), Pending, None),
        (4.0, Some(0.91), Limiting, THIRTY),
        (5.0, Some(0.91), Limiting, THIRTY),
        (6.0, Some(0.75), Limiting, THIRTY),
        (7.0, Some(0.6), Limiting, THIRTY),
        (8.0, Some(0.6), Limiting, THIRTY),
        (9.0, Some(0.6), Releasing, THIRTY),
        (10.0, Some(0.6), Releasing, Some(60.0)),
        (11.0, Some(0.6), Releasing, Some(120.0)),
        (13.0, None, Releasing, Some(120.0)),
        (14.0, Some(0.6), Releasing, Some(120.0)),
        (15.0, Some(0.6), Releasing, Some(240.0)),
        (16.0, Some(0.6), Releasing, Some(480.0)),
        (17.0, Some(0.6), Releasing, Some(960.0)),
        (18.0, Some(0.6), Idle, None),
    ]);
}

#[test]
fn the_condition_wins_over_until_though_its_for_began_anew() {
    let overlap = when(held(0, 3, above(Word::Cpu, 0.5)), held(0, 4, below(Word::Cpu, 0.9)));
    Walk::new(rule(Some(overlap), Expression::Number(30.0)), MissingAction::Hold).run(&[
        (0.0, Some(0.8), Pending, None),
        (1.0, Some(0.8), Pending, None),
        (2.0, Some(0.8), Pending, None),
        (3.0, Some(0.8), Limiting, THIRTY),
        (4.0, Some(0.8), Limiting, THIRTY),
        (5.0, Some(0.4), Limiting, THIRTY),
        (6.0, Some(0.8), Limiting, THIRTY),
        (7.0, Some(0.8), Limiting, THIRTY),
        (8.0, Some(0.4), Releasing, THIRTY),
    ]);
}

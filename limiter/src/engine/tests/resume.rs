use super::{harness::*, scenario::limiting};
use crate::{
    engine::{
        Mark,
        Phase::{Limiting, Pending, Releasing},
        RuleState, next_change,
    },
    language::ast::{Comparison, Expression},
    metric::Word,
    policy::MissingAction,
};

const THIRTY: Option<f64> = Some(30.0);
const HOUR: f64 = 3600.0;

/// Weir goes, and is back at `seconds` knowing no sample.
fn restart(walk: &mut Walk, seconds: f64) {
    let text = serde_json::to_string(&walk.state).unwrap();
    let state: RuleState = serde_json::from_str(&text).unwrap();
    walk.state = state.resume(at(seconds));
    walk.observations.samples.clear();
}

#[test]
fn a_limit_stays_until_a_fresh_metric_ends_it() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    limiting(&mut walk);
    let since = walk.state.stage;
    restart(&mut walk, HOUR);
    walk.run(&[(HOUR, None, Limiting, THIRTY), (2.0 * HOUR, None, Limiting, THIRTY)]);
    assert_eq!(walk.state.stage, since, "it has been in force all the time");
    walk.run(&[
        (2.0 * HOUR + 1.0, Some(0.5), Limiting, THIRTY),
        (2.0 * HOUR + 2.0, Some(0.5), Limiting, THIRTY),
        (2.0 * HOUR + 3.0, Some(0.5), Releasing, THIRTY),
    ]);
}

#[test]
fn time_away_does_not_count_for_a_for() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    walk.run(&[(0.0, Some(0.9), Pending, None), (1.0, Some(0.9), Pending, None), (2.0, Some(0.9), Pending, None)]);
    // Not even when samples from before and after are near each other.
    restart(&mut walk, 2.5);
    walk.run(&[(3.0, Some(0.9), Pending, None), (3.9, Some(0.9), Pending, None), (4.0, Some(0.9), Limiting, THIRTY)]);
    // What runs on the clock stands still, too.
    let few = held(0, 60, compare(Word::Pods, Comparison::Less, 5.0));
    let never = below(Word::Pods, 0.0);
    let mut walk = Walk::new(rule(Some(when(few, never)), Expression::Number(30.0)), MissingAction::Hold);
    walk.run(&[(0.0, None, Pending, None), (50.0, None, Pending, None)]);
    restart(&mut walk, HOUR);
    walk.run(&[(HOUR, None, Pending, None), (HOUR + 9.0, None, Pending, None), (HOUR + 10.0, None, Limiting, THIRTY)]);
}

#[test]
fn a_release_stands_still_until_a_fresh_metric() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    limiting(&mut walk);
    walk.run(&[
        (4.0, Some(0.6), Limiting, THIRTY),
        (5.0, Some(0.6), Limiting, THIRTY),
        (6.0, Some(0.6), Releasing, THIRTY),
        (7.0, Some(0.6), Releasing, Some(60.0)),
    ]);
    restart(&mut walk, HOUR);
    walk.run(&[(HOUR, None, Releasing, Some(60.0)), (HOUR + 60.0, None, Releasing, Some(60.0))]);
    assert_eq!(next_change(&walk.rule, &walk.state, at(HOUR + 60.0)), None);
    walk.run(&[(HOUR + 61.0, Some(0.6), Releasing, Some(60.0)), (HOUR + 62.0, Some(0.6), Releasing, Some(120.0))]);
}

#[test]
fn what_is_to_be_done_without_metrics_waits_anew() {
    let floor = MissingAction::Floor(limit(Expression::Number(10.0)));
    let mut walk = Walk::new(shed(), floor);
    limiting(&mut walk);
    walk.run(&[(5.0, None, Limiting, THIRTY), (9.0, None, Limiting, THIRTY)]);
    restart(&mut walk, HOUR);
    walk.run(&[
        (HOUR, None, Limiting, THIRTY),
        (HOUR + 4.9, None, Limiting, THIRTY),
        (HOUR + 5.0, None, Limiting, Some(10.0)),
    ]);
    // What has been done already stays done, also by a clock that was set back.
    for back in [2.0 * HOUR, 1.0] {
        restart(&mut walk, back);
        walk.run(&[(back, None, Limiting, Some(10.0)), (back + 60.0, None, Limiting, Some(10.0))]);
    }
    walk.run(&[(2.0 * HOUR, Some(0.9), Limiting, THIRTY)]);

    let mut walk = Walk::new(shed(), MissingAction::Release);
    limiting(&mut walk);
    walk.run(&[(5.0, None, Limiting, THIRTY), (10.0, None, Releasing, THIRTY), (11.0, None, Releasing, Some(60.0))]);
    restart(&mut walk, HOUR);
    walk.run(&[
        (HOUR, None, Releasing, Some(60.0)),
        (HOUR + 4.9, None, Releasing, Some(60.0)),
        (HOUR + 5.0, None, Releasing, Some(60.0)),
        (HOUR + 6.0, None, Releasing, Some(120.0)),
    ]);
}

#[test]
fn a_rule_without_metrics_works_at_once() {
    let mut walk = Walk::new(rule(None, Expression::Number(30.0)), MissingAction::Hold);
    walk.run(&[(0.0, None, Limiting, THIRTY)]);
    restart(&mut walk, HOUR);
    walk.rule = rule(None, Expression::Number(40.0));
    walk.run(&[(HOUR, None, Limiting, Some(40.0))]);
}

#[test]
fn only_what_moved_is_news() {
    let mut walk = Walk::new(shed(), MissingAction::Hold);
    let mut news = Vec::new();
    let table =
        [(0.0, 0.5), (1.0, 0.5), (2.0, 0.9), (3.0, 0.9), (4.0, 0.5), (5.0, 0.9), (6.0, 0.9), (7.0, 0.9), (8.0, 0.9)];
    for (seconds, cpu) in
        table.into_iter().chain([(9.0, 0.6), (10.0, 0.75), (11.0, 0.6), (12.0, 0.6), (13.0, 0.6), (13.5, 0.6)])
    {
        let before = walk.state.clone();
        walk.step(seconds, &[(Word::Cpu, cpu)]);
        if walk.state.is_news_after(&Mark::of(&before)) {
            news.push(seconds);
        }
    }
    // First step; pending; a dip; pending; limiting; no `for` of the condition any more; releasing.
    assert_eq!(news, [0.0, 2.0, 4.0, 5.0, 8.0, 9.0, 13.0]);
    let before = walk.state.clone();
    walk.step(14.0, &[(Word::Cpu, 0.6)]);
    assert!(walk.state.is_news_after(&Mark::of(&before)), "the first doubling");
    let before = walk.state.clone();
    walk.step(100.0, &[]);
    assert!(walk.state.is_news_after(&Mark::of(&before)), "metrics went missing");
}

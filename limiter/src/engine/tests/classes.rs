use super::harness::*;
use crate::{
    engine::{Decision, Mark, RuleState, step},
    language::ast::Expression,
    metric::{Metric, Observations, Reduce, Sample, Word},
    policy::{Class, MissingAction, Mode, RequestMatch, Rule},
};

fn gold(requests: f64) -> Rule {
    let class = Class { name: "gold".to_owned(), matches: vec![RequestMatch::default()] };
    Rule { classes: vec![class], ..rule(None, Expression::Number(requests)) }
}

fn look(rule: &Rule, state: &RuleState, samples: &[(Word, f64)]) -> (RuleState, Decision) {
    let mut observations = Observations { pods: 1, ..Observations::default() };
    for (word, value) in samples {
        let sample = Sample { value: *value, at: at(0.0), fresh_for_ms: 750, source: "envoy".into() };
        observations.samples.insert(Metric { word: word.clone(), reduce: Reduce::Sum }, sample);
    }
    step(rule, &on_missing(MissingAction::Hold), state.clone(), &observations, at(0.0))
}

fn demand(value: f64) -> [(Word, f64); 1] {
    [(Word::Demand("shed/gold".to_owned()), value)]
}

#[test]
fn stand_still_while_demand_only_trembles() {
    let (mut state, mut moves) = (RuleState::default(), Vec::new());
    for asked in [500.0, 520.0, 480.0, 530.0, 700.0, 720.0, 690.0] {
        let (next, decision) = look(&gold(1000.0), &state, &demand(asked));
        moves.push((decision.classes[1].per_second(), next.is_news_after(&Mark::of(&state))));
        state = next;
    }
    let (first, second) = (400.0, 180.0);
    assert_eq!(
        moves,
        [
            (first, true),
            (first, false),
            (first, false),
            (first, false),
            (second, true),
            (second, false),
            (second, false)
        ]
    );
    let (next, decision) = look(&gold(1000.0), &state, &demand(747.0));
    assert_eq!(decision.classes[1], per_second(128.3));
    assert!(!next.is_news_after(&Mark::of(&state)), "a small move is in force, and costs no write");
}

#[test]
fn what_rounds_to_nothing_is_the_least_and_not_all() {
    let (_, decision) = look(&gold(0.04), &RuleState::default(), &demand(5.0));
    assert_eq!(decision.classes, [per_second(0.04), per_second(0.001)]);
}

#[test]
fn in_shadow_mode_each_refuses_for_itself() {
    let rule = Rule { mode: Mode::Shadow, ..gold(30.0) };
    let excess = |name: &str, value| (Word::Excess(name.to_owned()), value);
    let of = |samples: &[_]| look(&rule, &RuleState::default(), samples).1.excess;
    assert_eq!(of(&[excess("shed", 3.0), excess("shed/gold", 2.0), excess("shed/*", 5.0)]), Some(7.0));
    assert_eq!(of(&[excess("shed/*", 5.0)]), Some(5.0));
    assert_eq!((of(&[(Word::Requests, 9.0)]), of(&[])), (Some(0.0), None));
    let read = rule.metrics();
    for name in ["shed", "shed/gold", "shed/*"] {
        assert!(read.contains(&Metric { word: Word::Excess(name.to_owned()), reduce: Reduce::Sum }), "{name}");
    }
}

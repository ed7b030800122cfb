use std::time::Duration;

use proptest::{collection::vec, prelude::*};

use super::harness::*;
use crate::{
    engine::{
        Mark, Phase, RuleState, next_change,
        tests::{Told, told as step},
    },
    language::{
        Vocabulary,
        ast::{Arithmetic, Comparison, Condition, Expression},
        parse_adapt,
    },
    metric::{Metric, Observations, Reduce, Sample, Word},
    policy::{Action, MissingAction, OnMissing, Rule, When},
    quota::shares,
};

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![8 => -2.0..100.0_f64, 1 => Just(0.0), 1 => any::<f64>()]
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![Just(Word::Cpu), Just(Word::Memory), Just(Word::Pods), Just(Word::Latency(99))]
}

fn traffic() -> impl Strategy<Value = Word> {
    prop_oneof![Just(Word::Requests), Just(Word::Answers), Just(Word::Refused), Just(Word::Inflight)]
}

fn expression() -> impl Strategy<Value = Expression> {
    let leaf =
        prop_oneof![number().prop_map(Expression::Number), word().prop_map(|word| Expression::Metric(metric(word)))];
    leaf.prop_recursive(3, 8, 2, |inner| {
        let operator = prop_oneof![
            Just(Arithmetic::Add),
            Just(Arithmetic::Subtract),
            Just(Arithmetic::Multiply),
            Just(Arithmetic::Divide)
        ];
        prop_oneof![
            inner.clone().prop_map(|inner| Expression::Negative(Box::new(inner))),
            (operator, inner.clone(), inner).prop_map(|(operator, left, right)| Expression::Binary {
                operator,
                left: Box::new(left),
                right: Box::new(right)
            }),
        ]
    })
}

fn condition() -> impl Strategy<Value = Condition> {
    let comparison = prop_oneof![Just(Comparison::Less), Just(Comparison::GreaterOrEqual), Just(Comparison::NotEqual)];
    let compare = (comparison, expression(), expression(), prop_oneof![Just(1.0), Just(0.9)])
        .prop_map(|(comparison, left, right, relax)| Condition::Compare { comparison, left, right, relax });
    let simple = (any::<bool>(), 0.0..1.0_f64)
        .prop_map(|(up, threshold)| if up { above(Word::Cpu, threshold) } else { below(Word::Cpu, threshold) });
    let leaf = prop_oneof![1 => any::<bool>().prop_map(Condition::Literal), 2 => compare, 4 => simple];
    let tree = leaf.prop_recursive(3, 10, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Condition::All),
            vec(inner.clone(), 1..3).prop_map(Condition::Any),
            inner.clone().prop_map(|inner| Condition::Not(Box::new(inner))),
            (0_u64..6, inner).prop_map(|(seconds, inner)| held(0, seconds, inner)),
        ]
    });
    tree.prop_map(|mut condition| {
        number_holds(&mut condition, &mut 0);
        condition
    })
}

fn number_holds(condition: &mut Condition, next: &mut usize) {
    match condition {
        Condition::Literal(_) | Condition::Compare { .. } => {}
        Condition::All(parts) | Condition::Any(parts) => parts.iter_mut().for_each(|part| number_holds(part, next)),
        Condition::Not(inner) => number_holds(inner, next),
        Condition::Held { id, condition, duration: _ } => {
            *id = *next;
            *next += 1;
            number_holds(condition, next);
        }
    }
}

/// A rule that steers itself by cpu and latency.
fn steered(when: Option<When>) -> Rule {
    let text = "keep cpu below 70% and p99 latency below 500ms, between 20 and 1000 requests per second per pod";
    let adapt = parse_adapt(text, &Vocabulary::default()).unwrap();
    Rule { action: Action::Adapt(adapt), ..rule(when, Expression::Number(1.0)) }
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let amount = prop_oneof![3 => (1.0..1000.0_f64).prop_map(Expression::Number), 1 => expression()];
    (proptest::option::weighted(0.8, (condition(), condition())), proptest::option::weighted(0.7, amount)).prop_map(
        |(conditions, amount)| {
            let when = conditions.map(|(condition, until)| when(condition, until));
            match amount {
                Some(amount) => rule(when, amount),
                None => steered(when),
            }
        },
    )
}

fn action() -> impl Strategy<Value = MissingAction> {
    prop_oneof![
        Just(MissingAction::Hold),
        (0.1..2000.0_f64).prop_map(|requests| MissingAction::Floor(limit(Expression::Number(requests)))),
        Just(MissingAction::Release),
    ]
}

fn policy() -> impl Strategy<Value = (Rule, OnMissing)> {
    (any_rule(), action(), 0_u64..8)
        .prop_map(|(rule, action, after)| (rule, OnMissing { action, after: Duration::from_secs(after) }))
}

/// A step of the clock in ms (sometimes back), and what came with it.
type Event = (i64, Option<(Word, f64)>, u32);

fn events() -> impl Strategy<Value = Vec<Event>> {
    let value = prop_oneof![6 => 0.0..1.2_f64, 1 => any::<f64>()];
    let step = prop_oneof![8 => 0_i64..2000, 1 => -5000_i64..60_000];
    let word = prop_oneof![3 => word(), 2 => traffic()];
    vec((step, proptest::option::weighted(0.8, (word, value)), 0_u32..5), 1..40)
}

fn replay(rule: &Rule, on_missing: &OnMissing, events: &[Event]) -> Vec<(RuleState, Told, u32)> {
    let (mut state, mut observations, mut clock) = (RuleState::default(), Observations::default(), 0);
    let mut steps = Vec::new();
    for (passed, sample, pods) in events {
        clock += passed;
        observations.pods = *pods;
        if let Some((word, value)) = sample {
            put(&mut observations, word.clone(), *value, at_ms(clock));
            // Sums over all pods, of a service with up to a thousand requests.
            let (sum, value) = (Metric { word: word.clone(), reduce: Reduce::Sum }, *value * 1000.0);
            let sample = Sample { value, at: at_ms(clock), fresh_for_ms: 1500, source: "envoy".into() };
            observations.samples.insert(sum, sample);
        }
        let (next, decision) = step(rule, on_missing, &state, &observations, at_ms(clock));
        let again = step(rule, on_missing, &next, &observations, at_ms(clock));
        assert_eq!(again, (next.clone(), decision.clone()), "deciding twice");
        if let Some(due) = next_change(rule, &next, at_ms(clock)) {
            assert!(due > at_ms(clock), "a timer that is due at once would spin");
        }
        state = next.clone();
        steps.push((next, decision, *pods));
    }
    steps
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_stream_keeps_the_promises((rule, on_missing) in policy(), events in events()) {
        let steps = replay(&rule, &on_missing, &events);
        for (state, decision, pods) in &steps {
            if let (Some(limit), Some(lowest)) = (decision.limit, decision.lowest) {
                prop_assert_eq!(limit.min(lowest), lowest, "below the lowest");
                let parts = shares(limit, *pods);
                prop_assert_eq!(parts.iter().map(|part| part.milli_requests).sum::<u64>(), limit.milli_requests);
            }
            prop_assert!(decision.limit.is_none() || decision.lowest.is_some());
            prop_assert!(matches!(decision.phase, Phase::Limiting | Phase::Releasing) || decision.limit.is_none());
            prop_assert!(!decision.explanation.is_empty());
            let text = serde_json::to_string(state).unwrap();
            prop_assert_eq!(&serde_json::from_str::<RuleState>(&text).unwrap(), state);
        }
        prop_assert_eq!(steps, replay(&rule, &on_missing, &events));
    }

    #[test]
    fn absence_never_tightens_or_loosens_under_hold(
        events in events(),
        gaps in vec(0_i64..100_000, 1..10),
        (up, down) in (0.0..1.0_f64, 0.0..1.0_f64),
        (wait, rest) in (0_u64..4, 0_u64..4),
        (gated, steers) in (any::<bool>(), any::<bool>()),
    ) {
        let when = when(held(0, wait, above(Word::Cpu, up)), held(0, rest, below(Word::Cpu, down)));
        let rule = match steers {
            true => steered(gated.then_some(when)),
            false => rule(Some(when), Expression::Number(30.0)),
        };
        let on_missing = on_missing(MissingAction::Hold);
        let (mut state, last, pods) = replay(&rule, &on_missing, &events).pop().unwrap();
        let mut clock = 10_000_000;
        for gap in gaps {
            clock += gap;
            let (next, decision) = step(&rule, &on_missing, &state, &Observations { pods, ..Observations::default() }, at_ms(clock));
            prop_assert_eq!((decision.phase, decision.limit, decision.bound), (last.phase, last.limit, last.bound));
            prop_assert_eq!(next_change(&rule, &next, at_ms(clock)).is_some(), next.missing_deadline > Some(at_ms(clock)));
            state = next;
        }
    }

    #[test]
    fn a_restart_without_metrics_changes_nothing(
        (rule, on_missing) in policy(), events in events(), away in -5000_i64..10_000_000,
    ) {
        let steps = replay(&rule, &on_missing, &events);
        // Only what was news has been written down.
        let (mut before, mut written) = (RuleState::default(), RuleState::default());
        for (state, ..) in &steps {
            if state.is_news_after(&Mark::of(&before)) {
                written = state.clone();
            }
            before = state.clone();
        }
        let (_, last, pods) = steps.last().unwrap();
        let back = at_ms(events.iter().map(|(passed, ..)| passed).sum::<i64>() + away);
        let on_missing = OnMissing { after: on_missing.after.max(Duration::from_millis(1)), ..on_missing };
        let resumed = written.resume(back);
        let (_, decision) = step(&rule, &on_missing, &resumed, &Observations { pods: *pods, ..Observations::default() }, back);
        prop_assert_eq!(
            (decision.limit, decision.lowest, decision.bound), (last.limit, last.lowest, last.bound), "{}", decision.explanation
        );
    }

    #[test]
    fn any_sample_is_survived(
        value in any::<f64>(), at in any::<i64>(), fresh_for_ms in any::<u64>(), now in any::<i64>(), later in any::<i64>(),
        (rule, on_missing) in policy(),
    ) {
        let range = jiff::Timestamp::MIN.as_millisecond() + 1..jiff::Timestamp::MAX.as_millisecond();
        let time = |any: i64| jiff::Timestamp::from_millisecond(range.start + any.rem_euclid(range.end - range.start)).unwrap();
        let sample = Sample { value, at: time(at), fresh_for_ms, source: "scrape".into() };
        let key = crate::metric::Metric { word: Word::Cpu, reduce: Reduce::Mean };
        let observations = Observations { pods: u32::MAX, samples: [(key, sample)].into() };
        let (state, _) = step(&rule, &on_missing, &RuleState::default(), &observations, time(now));
        let (state, _) = step(&rule, &on_missing, &state, &observations, time(later));
        let _ = next_change(&rule, &state, time(now));
    }
}

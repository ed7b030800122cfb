use proptest::prelude::*;

use super::*;
use crate::language::ast::Arithmetic;
use crate::metric::Reduce;

const TRUTHS: [Truth; 3] = [Truth::True, Truth::False, Truth::Unknown];

fn metric(word: Word) -> Metric {
    Metric { word, reduce: Reduce::Mean }
}

fn of(word: Word) -> Expression {
    Expression::Metric(metric(word))
}

fn above(word: Word, threshold: f64) -> Condition {
    Condition::Compare {
        comparison: Comparison::Greater,
        left: of(word),
        right: Expression::Number(threshold),
        relax: 1.0,
    }
}

fn held(id: usize, seconds: u64, condition: Condition) -> Condition {
    Condition::Held { id, condition: Box::new(condition), duration: Duration::from_secs(seconds) }
}

fn at_ms(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + milliseconds).unwrap()
}

fn sample(value: f64, at: Timestamp, fresh_for_ms: u64) -> Sample {
    Sample { value, at, fresh_for_ms, source: "scrape".into() }
}

/// What is seen when these words have these values, all measured at `at` and fresh for three seconds.
fn seen(values: &[(Word, f64)], at: Timestamp) -> Observations {
    let samples = values.iter().map(|(word, value)| (metric(word.clone()), sample(*value, at, 3000)));
    Observations { pods: 3, samples: samples.collect() }
}

fn truth(condition: &Condition, observations: &Observations, now: Timestamp) -> Truth {
    evaluate(condition, &mut Holds::new(), observations, now).truth
}

#[test]
fn follows_kleenes_tables() {
    use Truth::{False, True, Unknown};
    let and = [[True, False, Unknown], [False, False, False], [Unknown, False, Unknown]];
    let or = [[True, True, True], [True, False, Unknown], [True, Unknown, Unknown]];
    for (row, left) in TRUTHS.into_iter().enumerate() {
        for (column, right) in TRUTHS.into_iter().enumerate() {
            assert_eq!(left.and(right), and[row][column], "{left:?} and {right:?}");
            assert_eq!(left.or(right), or[row][column], "{left:?} or {right:?}");
        }
    }
    assert_eq!(TRUTHS.map(Truth::negated), [False, True, Unknown]);
}

#[test]
fn conditions_combine_by_kleenes_tables() {
    let now = at_ms(0);
    let observations = seen(&[(Word::Cpu, 0.9)], now);
    let part = |truth| match truth {
        Truth::True => above(Word::Cpu, 0.8),
        Truth::False => above(Word::Cpu, 0.95),
        Truth::Unknown => above(Word::Memory, 0.5),
    };
    for left in TRUTHS {
        for right in TRUTHS {
            let parts = vec![part(left), part(right)];
            assert_eq!(truth(&Condition::All(parts.clone()), &observations, now), left.and(right));
            assert_eq!(truth(&Condition::Any(parts), &observations, now), left.or(right));
        }
        assert_eq!(truth(&Condition::Not(Box::new(part(left))), &observations, now), left.negated());
    }
    assert_eq!(truth(&Condition::All(Vec::new()), &observations, now), Truth::True);
    assert_eq!(truth(&Condition::Any(Vec::new()), &observations, now), Truth::False);
}

#[test]
fn compares_in_every_way() {
    let cases = [
        (Comparison::Less, [true, false, false]),
        (Comparison::LessOrEqual, [true, true, false]),
        (Comparison::Greater, [false, false, true]),
        (Comparison::GreaterOrEqual, [false, true, true]),
        (Comparison::Equal, [false, true, false]),
        (Comparison::NotEqual, [true, false, true]),
    ];
    for (comparison, expected) in cases {
        for (left, expected) in [1.0, 2.0, 3.0].into_iter().zip(expected) {
            let (left, right) = (Expression::Number(left), Expression::Number(2.0));
            let condition = Condition::Compare { comparison, left, right, relax: 1.0 };
            assert_eq!(truth(&condition, &Observations::default(), at_ms(0)), Truth::from(expected), "{comparison:?}");
        }
    }
}

#[test]
fn a_stale_or_broken_value_is_unknown() {
    let condition = above(Word::Cpu, 0.8);
    let observations = seen(&[(Word::Cpu, 0.9)], at_ms(0));
    assert_eq!(truth(&condition, &observations, at_ms(3000)), Truth::True);
    assert_eq!(truth(&condition, &observations, at_ms(3001)), Truth::Unknown);
    assert_eq!(truth(&condition, &observations, at_ms(-60_000)), Truth::True, "a source ahead of us is fresh");
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(truth(&condition, &seen(&[(Word::Cpu, value)], at_ms(0)), at_ms(0)), Truth::Unknown, "{value}");
    }
}

#[test]
fn a_division_by_zero_or_an_overflow_is_unknown() {
    let arithmetic = |operator, left: f64, right: f64| Condition::Compare {
        comparison: Comparison::NotEqual,
        left: Expression::Binary {
            operator,
            left: Box::new(Expression::Number(left)),
            right: Box::new(Expression::Number(right)),
        },
        right: Expression::Number(-1.0),
        relax: 1.0,
    };
    let of = |condition: Condition| truth(&condition, &Observations::default(), at_ms(0));
    assert_eq!(of(arithmetic(Arithmetic::Divide, 1.0, 0.0)), Truth::Unknown);
    assert_eq!(of(arithmetic(Arithmetic::Divide, 0.0, 0.0)), Truth::Unknown);
    assert_eq!(of(arithmetic(Arithmetic::Multiply, f64::MAX, 2.0)), Truth::Unknown);
    assert_eq!(of(arithmetic(Arithmetic::Divide, 1.0, 2.0)), Truth::True);
}

#[test]
fn computes_with_metrics_and_pods() {
    let quota = Expression::Binary {
        operator: Arithmetic::Divide,
        left: Box::new(Expression::Number(30.0)),
        right: Box::new(of(Word::Pods)),
    };
    let observations = seen(&[], at_ms(0));
    assert_eq!(value(&quota, &observations, at_ms(0)), Some(10.0));
    assert_eq!(value(&quota, &Observations::default(), at_ms(0)), None, "no pods");
    assert_eq!(value(&Expression::Negative(Box::new(quota)), &observations, at_ms(0)), Some(-10.0));
}

#[test]
fn relax_moves_a_negative_threshold_the_same_way() {
    assert_eq!(relaxed(100.0, 0.9), 90.0);
    assert_eq!(relaxed(-90.0, 0.9), -100.0);
    assert_eq!(relaxed(0.0, 0.9), 0.0);
}

/// Feeds one held part a list of (ms, value) samples of cpu, each evaluated as it comes; gives the time held after each.
fn held_after(samples: &[(i64, Option<f64>)]) -> Vec<u64> {
    let condition = held(0, 10, above(Word::Cpu, 0.8));
    let mut holds = Holds::new();
    let feed = samples.iter().map(|(at, value)| {
        let values: Vec<_> = value.map(|value| (Word::Cpu, value)).into_iter().collect();
        evaluate(&condition, &mut holds, &seen(&values, at_ms(*at)), at_ms(*at));
        u64::try_from(holds[&0].held.as_millis()).unwrap()
    });
    feed.collect()
}

/// Name, samples as (ms, cpu), ms held after each.
type Case = (&'static str, &'static [(i64, Option<f64>)], &'static [u64]);

#[test]
fn a_held_part_adds_up_the_samples_steps() {
    const HOT: Option<f64> = Some(0.9);
    const COLD: Option<f64> = Some(0.5);
    let cases: [Case; 7] = [
        ("grows", &[(0, HOT), (1000, HOT), (2500, HOT)], &[0, 1000, 2500]),
        ("false resets", &[(0, HOT), (1000, HOT), (2000, COLD), (3000, HOT), (4000, HOT)], &[0, 1000, 0, 0, 1000]),
        (
            "unknown freezes",
            &[(0, HOT), (1000, HOT), (2000, None), (2500, HOT), (3500, HOT)],
            &[0, 1000, 1000, 2500, 3500],
        ),
        ("a step of the whole freshness counts", &[(0, HOT), (3000, HOT)], &[0, 3000]),
        ("a gap adds nothing", &[(0, HOT), (3001, HOT), (4001, HOT)], &[0, 0, 1000]),
        ("repeats add nothing", &[(0, HOT), (1000, HOT), (1000, HOT), (2000, HOT)], &[0, 1000, 1000, 2000]),
        ("jitter adds nothing twice", &[(0, HOT), (1000, HOT), (500, HOT), (1500, HOT)], &[0, 1000, 1000, 1500]),
    ];
    for (name, samples, expected) in cases {
        assert_eq!(held_after(samples), expected, "{name}");
    }
}

#[test]
fn a_source_whose_clock_is_set_back_is_followed() {
    let hot = Some(0.9);
    assert_eq!(held_after(&[(0, hot), (1000, hot), (-9000, hot), (-8000, hot)]), [0, 1000, 1000, 2000]);
}

#[test]
fn newer_samples_that_say_nothing_break_the_chain() {
    let share = Condition::Compare {
        comparison: Comparison::Greater,
        left: Expression::Binary {
            operator: Arithmetic::Divide,
            left: Box::new(of(Word::Requests)),
            right: Box::new(of(Word::Inflight)),
        },
        right: Expression::Number(1.0),
        relax: 1.0,
    };
    let condition = held(0, 10, share);
    let mut holds = Holds::new();
    for (at, inflight, expected) in
        [(0, 1.0, 0), (1000, 1.0, 1000), (2000, 0.0, 1000), (3000, 1.0, 1000), (4000, 1.0, 2000)]
    {
        let observations = seen(&[(Word::Requests, 5.0), (Word::Inflight, inflight)], at_ms(at));
        evaluate(&condition, &mut holds, &observations, at_ms(at));
        assert_eq!(holds[&0].held.as_millis(), expected, "at {at}");
    }
}

#[test]
fn time_is_the_samples_not_ours() {
    let condition = held(0, 10, above(Word::Cpu, 0.8));
    let mut holds = Holds::new();
    // The same sample, looked at again and again while it is fresh.
    for now in [0, 1000, 2000, 3000] {
        evaluate(&condition, &mut holds, &seen(&[(Word::Cpu, 0.9)], at_ms(0)), at_ms(now));
    }
    assert_eq!(holds[&0].held, Duration::ZERO);
}

#[test]
fn a_slow_source_does_not_bridge_the_gap_of_a_fast_one() {
    let condition = held(0, 60, Condition::All(vec![above(Word::Cpu, 0.8), above(Word::Latency(99), 0.2)]));
    let mut holds = Holds::new();
    let both = |cpu_at, latency_at| Observations {
        pods: 1,
        samples: [
            (metric(Word::Cpu), sample(0.9, at_ms(cpu_at), 750)),
            (metric(Word::Latency(99)), sample(0.5, at_ms(latency_at), 15_000)),
        ]
        .into(),
    };
    evaluate(&condition, &mut holds, &both(0, 0), at_ms(0));
    evaluate(&condition, &mut holds, &both(500, 0), at_ms(500));
    assert_eq!(holds[&0].held.as_millis(), 500);
    assert_eq!(evaluate(&condition, &mut holds, &both(500, 0), at_ms(2000)).truth, Truth::Unknown);
    evaluate(&condition, &mut holds, &both(4000, 0), at_ms(4000));
    assert_eq!(holds[&0].held.as_millis(), 500);
}

#[test]
fn a_part_without_samples_runs_on_now() {
    for inner in [Condition::Literal(true), above(Word::Pods, 2.0)] {
        let condition = held(0, 10, inner);
        let mut holds = Holds::new();
        assert_eq!(evaluate(&condition, &mut holds, &seen(&[], at_ms(0)), at_ms(0)).truth, Truth::False);
        assert_eq!(next_hold(&condition, &holds), Some(at_ms(10_000)));
        assert_eq!(evaluate(&condition, &mut holds, &seen(&[], at_ms(0)), at_ms(9999)).truth, Truth::False);
        assert_eq!(evaluate(&condition, &mut holds, &seen(&[], at_ms(0)), at_ms(10_000)).truth, Truth::True);
        assert_eq!(next_hold(&condition, &holds), None);
    }
}

#[test]
fn tells_not_yet_from_not_true() {
    let condition = held(0, 10, above(Word::Cpu, 0.8));
    let hot = evaluate(&condition, &mut Holds::new(), &seen(&[(Word::Cpu, 0.9)], at_ms(0)), at_ms(0));
    assert_eq!(hot, Outcome { truth: Truth::False, momentary: Truth::True });
    let cold = evaluate(&condition, &mut Holds::new(), &seen(&[(Word::Cpu, 0.5)], at_ms(0)), at_ms(0));
    assert_eq!(cold, Outcome { truth: Truth::False, momentary: Truth::False });
}

#[test]
fn holds_survive_a_checkpoint() {
    let holds: Holds = [(3, Hold { held: Duration::from_millis(1500), counted_to: Some(at_ms(7)) })].into();
    let text = serde_json::to_string(&holds).unwrap();
    assert_eq!(serde_json::from_str::<Holds>(&text).unwrap(), holds);
}

proptest! {
    #[test]
    fn one_sample_adds_at_most_its_freshness(steps in proptest::collection::vec((-5000_i64..5000, any::<bool>()), 1..60)) {
        let condition = held(0, 10, above(Word::Cpu, 0.8));
        let (mut holds, mut at) = (Holds::new(), 0_i64);
        let mut before = Duration::ZERO;
        for (step, hot) in steps {
            at += step;
            let observations = seen(&[(Word::Cpu, if hot { 0.9 } else { 0.1 })], at_ms(at));
            evaluate(&condition, &mut holds, &observations, at_ms(at));
            let held = holds[&0].held;
            prop_assert!(held <= before + Duration::from_millis(3000));
            prop_assert!(hot || held.is_zero());
            // The same again adds nothing.
            let same = holds.clone();
            evaluate(&condition, &mut holds, &observations, at_ms(at));
            prop_assert_eq!(&same, &holds);
            before = held;
        }
    }
}

//! What holds for any text and any tree.

use std::time::Duration;

use proptest::prelude::*;

use super::vocabulary;
use crate::{
    language::{
        ast::{Arithmetic, Comparison, Condition, Dimension, Expression},
        fuzzing, parse_when, write_value,
    },
    metric::{Metric, Reduce, Word},
};

const TOKENS: [&str; 71] = [
    "cpu",
    "memory",
    "requests",
    "errors",
    "latency",
    "p99",
    "p90 latency",
    "inflight",
    "pods",
    "pod",
    "and",
    "or",
    "not",
    "for",
    "until",
    "true",
    "false",
    "per",
    "second",
    "minute",
    "across",
    "all",
    "keep",
    "below",
    "between",
    "client",
    "ip",
    "header",
    "x-user",
    "max",
    "sum",
    ".",
    "(",
    ")",
    "{",
    "}",
    "<",
    "<=",
    ">",
    ">=",
    "==",
    "=",
    "!=",
    "!",
    "&&",
    "|",
    "+",
    "-",
    "*",
    "/",
    "%",
    ",",
    "80%",
    "5",
    "10s",
    "1e3",
    "200ms",
    "64Mi",
    "1.5k",
    "0",
    "30 requests per",
    "keep cpu below 70%, between 20 and 500 requests per second per pod",
    ", at most",
    "20% per step",
    "every",
    "cooldown",
    "at",
    "most",
    "step",
    "1s",
    "é",
];

fn metric() -> impl Strategy<Value = Metric> {
    let words = prop_oneof![
        Just(Word::Cpu),
        Just(Word::Memory),
        Just(Word::Errors),
        Just(Word::Named("hit_ratio".to_owned())),
    ];
    (words, prop_oneof![Just(Reduce::Mean), Just(Reduce::Max), Just(Reduce::Sum)])
        .prop_map(|(word, reduce)| Metric { word, reduce })
}

/// Ratios only, so that every tree passes the check of dimensions.
fn expression() -> impl Strategy<Value = Expression> {
    let leaf = prop_oneof![(0.0..1.0).prop_map(Expression::Number), metric().prop_map(Expression::Metric)];
    leaf.prop_recursive(4, 16, 2, |inner| {
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
    let comparison = prop_oneof![
        Just(Comparison::Less),
        Just(Comparison::LessOrEqual),
        Just(Comparison::Greater),
        Just(Comparison::GreaterOrEqual),
        Just(Comparison::Equal),
        Just(Comparison::NotEqual),
    ];
    let compare = (comparison, expression(), expression()).prop_map(|(comparison, left, right)| Condition::Compare {
        comparison,
        left,
        right,
        relax: 1.0,
    });
    let leaf = prop_oneof![any::<bool>().prop_map(Condition::Literal), compare];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Condition::All),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Condition::Any),
            inner.clone().prop_map(|inner| Condition::Not(Box::new(inner))),
            (inner, 1u64..86_400_000).prop_map(|(inner, milliseconds)| Condition::Held {
                id: 0,
                condition: Box::new(inner),
                duration: Duration::from_millis(milliseconds)
            }),
        ]
    })
}

/// Numbers the held parts as the parser does: in the order in which their `for` stands in the text.
fn number(condition: &mut Condition, next: &mut usize) {
    match condition {
        Condition::Literal(_) | Condition::Compare { .. } => {}
        Condition::All(parts) | Condition::Any(parts) => parts.iter_mut().for_each(|part| number(part, next)),
        Condition::Not(inner) => number(inner, next),
        Condition::Held { id, condition, .. } => {
            number(condition, next);
            *id = *next;
            *next += 1;
        }
    }
}

proptest! {
    #[test]
    fn reading_survives_any_string(text in any::<String>()) {
        fuzzing::survives(&text);
    }

    #[test]
    fn reading_survives_any_words(words in prop::collection::vec(prop::sample::select(&TOKENS[..]), 0..40), glue in "[ ]?") {
        let text = words.join(&glue);
        fuzzing::survives(&text);
        fuzzing::round_trips(&text);
    }

    #[test]
    fn a_written_condition_reads_the_same(mut condition in condition()) {
        number(&mut condition, &mut 0);
        let written = condition.to_string();
        prop_assume!(written.len() < 4000);
        let read = parse_when(&written, &vocabulary());
        prop_assert!(read.is_ok(), "{written}: {read:?}");
        prop_assert_eq!(read.map(|when| when.condition), Ok(condition), "{}", written);
    }

    #[test]
    fn a_written_value_reads_the_same(value in 1e-9..1e9f64) {
        for dimension in [Dimension::Ratio, Dimension::Count, Dimension::Bytes, Dimension::Seconds] {
            let word = match dimension {
                Dimension::Ratio => "cpu",
                Dimension::Seconds => "p99 latency",
                _ => "1",
            };
            let text = format!("{word} > {}", write_value(value, dimension));
            let read = parse_when(&text, &vocabulary());
            let Ok(crate::policy::When { condition: Condition::Compare { right, .. }, .. }) = read else {
                return Err(TestCaseError::fail(format!("{text}: {read:?}")));
            };
            prop_assert_eq!(right, Expression::Number(value), "{}", text);
        }
    }
}

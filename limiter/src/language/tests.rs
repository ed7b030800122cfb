//! Sentences in, trees or mistakes out.

mod document;
mod mistakes;
mod properties;
mod slime;

use std::time::Duration;

use super::{
    ast::{Condition, Pace},
    *,
};
use crate::{
    metric::{Metric, Reduce, Word},
    policy::{Key, MetricDefinition, MetricSource, Scope},
};

/// Has `queue_depth` (a count, largest of the pods), `hit_ratio` and `lag` (seconds).
fn vocabulary() -> Vocabulary {
    let metric = |dimension, reduce| MetricDefinition {
        dimension,
        reduce,
        source: MetricSource::Prometheus { query: "x".to_owned(), position: 0 },
    };
    Vocabulary::new(
        &[
            ("queue_depth".to_owned(), metric(Dimension::Count, Reduce::Max)),
            ("hit_ratio".to_owned(), metric(Dimension::Ratio, Reduce::Mean)),
            ("lag".to_owned(), metric(Dimension::Seconds, Reduce::Mean)),
        ]
        .into(),
    )
}

fn when(text: &str) -> When {
    parse_when(text, &vocabulary()).unwrap_or_else(|error| panic!("{text:?}: {error:?}"))
}

#[track_caller]
fn reads_as(text: &str, canonical: &str) {
    assert_eq!(when(text).condition.to_string(), canonical, "{text:?}");
}

#[test]
fn writes_conditions_in_one_canonical_way() {
    reads_as("cpu>80%", "cpu > 80%");
    reads_as("CPU > 80 % FOR 10 seconds", "cpu > 80% for 10s");
    reads_as("CPU > 0.8 For 600s", "cpu > 80% for 10m");
    reads_as("{cpu.max} >= 0.07", "cpu.max >= 7%");
    reads_as("{pod} = 3", "pods == 3");
    reads_as("!(cpu > 80%) & memory < 50% | true", "not cpu > 80% and memory < 50% or true");
    reads_as("cpu > 80% && (memory > 80% || pods < 2)", "cpu > 80% and (memory > 80% or pods < 2)");
    reads_as("p99 latency > 200ms", "p99 latency > 200ms");
    reads_as("p50 latency > 1m30s", "p50 latency > 90s");
    reads_as("requests per second > 1.5k", "requests > 1500 per second");
    reads_as("requests > 600 per minute", "requests > 10 per second");
    reads_as("errors > 5%", "errors > 5%");
    reads_as("errors per second > 5", "errors per second > 5 per second");
    reads_as("errors.max per second > 5", "errors.max per second > 5 per second");
    reads_as("queue_depth > 1e3", "queue_depth.max > 1000");
    reads_as("queue_depth.mean > 2M", "queue_depth.mean > 2000000");
    reads_as("cpu.sum > 2.4", "cpu.sum > 240%");
    reads_as("(cpu + 10%) * 2 > 1", "(cpu + 10%) * 2 > 1");
    reads_as("cpu - (memory - 10%) - 5% > -1%", "cpu - (memory - 10%) - 5% > -1%");
    reads_as("not not (cpu > 1% for 5s) for 10s", "not not (cpu > 1% for 5s) for 10s");
}

#[test]
fn for_binds_to_the_nearest_comparison_or_parenthesis() {
    let Condition::Any(parts) = when("cpu > 80% or errors > 5% for 10s").condition else { panic!() };
    assert!(matches!(parts[..], [Condition::Compare { .. }, Condition::Held { id: 0, .. }]), "{parts:?}");
    let condition = when("(cpu > 80% or errors > 5% for 2s) for 10s").condition;
    let Condition::Held { id: 1, condition, duration } = condition else { panic!("{condition:?}") };
    assert_eq!(duration, Duration::from_secs(10));
    assert!(matches!(*condition, Condition::Any(_)));
}

#[test]
fn keeps_an_explicit_until() {
    let when = when("cpu > 80% for 10s until cpu < 70% for 30s");
    assert!(when.explicit_until);
    assert_eq!(when.until.to_string(), "cpu < 70% for 30s");
    assert!(matches!(when.until, Condition::Held { id: 1, .. }), "ids go on through the whole sentence");
}

#[test]
fn derives_a_release_from_the_condition() {
    for (text, release) in [
        ("cpu > 80% for 10s", "cpu < 72% for 30s"),
        ("cpu > 80% for 1s", "cpu < 72% for 5s"),
        ("cpu > 80%", "cpu < 72% for 5s"),
        ("cpu >= 80%", "cpu < 72% for 5s"),
        ("pods < 9", "pods > 10 for 5s"),
        ("pods == 3", "pods != 3 for 5s"),
        ("cpu > 80% and errors > 5%", "(cpu < 72% or errors < 4.5%) for 5s"),
        ("cpu > 80% for 10s and errors > 5%", "cpu < 72% for 30s or errors < 4.5% for 5s"),
        ("cpu > 80% for 10s or errors > 5%", "cpu < 72% for 30s and errors < 4.5% for 5s"),
        ("(cpu > 80% or errors > 5%) for 10s", "(cpu < 72% and errors < 4.5%) for 30s"),
        ("not cpu < 50%", "cpu < 45% for 5s"),
        ("requests > 10 * pods", "requests < 10 * pods * 0.9 for 5s"),
        ("true", "false"),
        ("not true", "true"),
    ] {
        let when = when(text);
        assert!(!when.explicit_until);
        assert_eq!(when.until.to_string(), release, "{text:?}");
    }
}

#[test]
fn reads_limits() {
    for (text, canonical) in [
        ("30 requests per second across all pods", "30 requests per second across all pods"),
        ("5 requests per second per client ip across all pods", "5 requests per second per client ip across all pods"),
        ("5 requests per second across all pods per client ip", "5 requests per second per client ip across all pods"),
        ("5 requests per s per client ip", "5 requests per second per client ip per pod"),
        ("1 request per day per pod", "1 request per day per pod"),
        (
            "1.5k requests per minute per header X-User-1 per pod",
            "1500 requests per minute per header x-user-1 per pod",
        ),
        ("20000 Requests Per Second Per Pod", "20000 requests per second per pod"),
        ("5M requests per second across all pods", "5000000 requests per second across all pods"),
        ("0.001 requests per minute per pod", "0.001 requests per minute per pod"),
    ] {
        assert_eq!(parse_limit(text).unwrap_or_else(|error| panic!("{text:?}: {error:?}")).to_string(), canonical);
    }
    let limit = parse_limit("5 requests per second per client ip").unwrap();
    assert_eq!((limit.scope, limit.per), (Scope::PerPod, Some(Key::ClientIp)), "each proxy counts alone");
}

#[test]
fn reads_goals() {
    let text = "keep cpu below 70% and p99 latency below 200ms, between 20 and 500 requests per second per pod";
    let adapt = parse_adapt(text, &vocabulary()).unwrap();
    assert_eq!(adapt.to_string(), text);
    assert_eq!((adapt.floor, adapt.ceiling, adapt.goals.len()), (20.0, 500.0, 2));
    assert_eq!(adapt.pace, Pace::default());
    let text = "keep cpu below 70%, between 20 and 500 requests per second per pod";
    for (written, canonical) in [
        (", at most 20% per step", ", at most 20% per step"),
        (", cooldown 5s, every 500ms", ", every 500ms, cooldown 5s"),
        (" , At Most 0.05 Per Step,every 1m,cooldown 90 s", ", at most 5% per step, every 1m, cooldown 90s"),
    ] {
        let adapt = parse_adapt(&format!("{text}{written}"), &vocabulary()).unwrap();
        assert_eq!(adapt.to_string(), format!("{text}{canonical}"));
    }
}

#[test]
fn an_objects_own_word_has_its_own_reduction() {
    let metric = |word: &str, reduce| Metric { word: Word::Named(word.to_owned()), reduce };
    let mut metrics = std::collections::BTreeSet::new();
    when("queue_depth > 5 and lag > 5s and queue_depth.sum > 1").condition.collect_metrics(&mut metrics);
    let expected =
        [metric("lag", Reduce::Mean), metric("queue_depth", Reduce::Max), metric("queue_depth", Reduce::Sum)];
    assert_eq!(metrics, expected.into());
}

#[test]
fn writes_values_as_people_do() {
    for (value, dimension, text) in [
        (0.07, Dimension::Ratio, "7%"),
        (0.123_456, Dimension::Ratio, "12.3456%"),
        (-0.5, Dimension::Ratio, "-50%"),
        (2.4, Dimension::Ratio, "240%"),
        (0.0, Dimension::Ratio, "0%"),
        (0.25, Dimension::Seconds, "250ms"),
        (1.5, Dimension::Seconds, "1.5s"),
        (120.0, Dimension::Seconds, "2m"),
        (7200.0, Dimension::Seconds, "2h"),
        (1_572_864.0, Dimension::Bytes, "1536Ki"),
        (1e3, Dimension::Count, "1000"),
        (33.3, Dimension::PerSecond, "33.3 per second"),
    ] {
        assert_eq!(write_value(value, dimension), text);
    }
}

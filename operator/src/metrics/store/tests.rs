use jiff::Timestamp;
use limiter::metric::{Metric, Reduce, Sample, Word};
use proptest::prelude::*;

use super::Store;
use crate::{
    intent::ServiceKey,
    metrics::{Histogram, Measure, PodSample, Source},
};

fn service() -> ServiceKey {
    ServiceKey { namespace: "ns-a".into(), name: "checkout".into() }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap()
}

fn sample(pod: &str, value: f64, millis: i64) -> PodSample {
    PodSample {
        service: service(),
        pod: Some(pod.into()),
        measure: Measure::Number(Word::Cpu, value),
        at: at(millis),
        fresh_for_ms: 750,
        source: Source::Scrape,
    }
}

fn ready(pods: &[&str]) -> Vec<String> {
    pods.iter().map(|pod| (*pod).to_owned()).collect()
}

fn cpu(reduce: Reduce) -> Metric {
    Metric { word: Word::Cpu, reduce }
}

/// A store of a service whose pods are those of these samples.
fn of(samples: &[PodSample]) -> Store {
    let mut store = Store::default();
    store.set_pods(samples.iter().filter_map(|sample| sample.pod.clone()).collect());
    store
}

/// How many of these are new.
fn insert(store: &mut Store, samples: impl IntoIterator<Item = PodSample>, now: Timestamp) -> usize {
    samples.into_iter().filter_map(|sample| store.insert(sample, now)).count()
}

fn observe(samples: &[PodSample], pods: &[&str], reduce: Reduce) -> Option<Sample> {
    let mut store = of(samples);
    insert(&mut store, samples.iter().cloned(), at(20_000));
    let observations = store.observe(&ready(pods), &[(cpu(reduce), cpu(reduce))], at(10_000));
    assert_eq!(observations.pods as usize, pods.len());
    observations.samples.get(&cpu(reduce)).cloned()
}

#[test]
fn reduces_over_ready_pods_only() {
    let samples = [sample("a", 0.2, 1000), sample("b", 0.6, 1100), sample("gone", 9.0, 1200)];
    for (how, expected) in [(Reduce::Mean, 0.4), (Reduce::Max, 0.6), (Reduce::Sum, 0.8)] {
        let sample = observe(&samples, &["a", "b"], how).unwrap();
        assert!((sample.value - expected).abs() < 1e-9);
        assert_eq!(sample.at, at(1100));
        assert_eq!(sample.source, "scrape");
    }
}

#[test]
fn a_stale_pod_is_left_out_and_does_not_freeze_the_others() {
    let samples = [sample("a", 0.2, 10_000), sample("b", 0.6, 10_100), sample("hung", 0.0, 1000)];
    let mean = observe(&samples, &["a", "b", "hung"], Reduce::Mean).unwrap();
    assert!((mean.value - 0.4).abs() < 1e-9);
    assert_eq!(mean.at, at(10_100));
    let sum = observe(&samples, &["a", "b", "hung"], Reduce::Sum).unwrap();
    assert!((sum.value - 1.2).abs() < 1e-9, "scaled up to three pods: {}", sum.value);
}

#[test]
fn a_minority_does_not_speak_for_all() {
    let samples = [sample("a", 0.9, 10_000), sample("b", 0.1, 2000), sample("c", 0.1, 1000)];
    let mean = observe(&samples, &["a", "b", "c"], Reduce::Mean).unwrap();
    assert_eq!(mean.at, at(2000));
    assert!(!mean.is_fresh(at(10_000)));
    assert_eq!(observe(&samples[..1], &["a", "b", "c"], Reduce::Mean), None);
    assert!(observe(&samples[..1], &["a", "b"], Reduce::Mean).is_some(), "half is enough");
}

#[test]
fn older_and_unusable_samples_change_nothing() {
    let mut store = Store::default();
    store.set_pods(ready(&["a", "b", "silent"]));
    assert_eq!(insert(&mut store, [sample("a", 0.5, 1000)], at(2000)), 1);
    assert_eq!(insert(&mut store, [sample("a", 0.1, 900), sample("a", f64::NAN, 2000)], at(2000)), 0);
    assert_eq!(store.pod("a", &Word::Cpu), Some((0.5, at(1000))));
}

#[test]
fn a_clock_that_is_set_back_freezes_nothing() {
    let mut store = Store::default();
    store.set_pods(ready(&["a", "b", "silent"]));
    insert(&mut store, [sample("a", 0.9, 60_000), sample("silent", 0.9, 60_000), sample("b", 0.2, 1_000)], at(60_000));
    assert_eq!(insert(&mut store, [sample("a", 0.1, 1_000)], at(1_000)), 1);
    assert_eq!(store.pod("a", &Word::Cpu), Some((0.1, at(1_000))));
    assert_eq!(store.pod("silent", &Word::Cpu), None, "it would be fresh for a minute");
    assert_eq!(store.pod("b", &Word::Cpu), Some((0.2, at(1_000))));
}

#[test]
fn a_counter_that_a_streaming_pod_has_not_named_is_zero() {
    let number = |pod, word, value, millis| says(Some(pod), Measure::Number(word, value), Source::Envoy, millis);
    let requests = |pod, millis| number(pod, Word::Requests, 9.0, millis);
    for word in [Word::Demand("p#r/gold".into()), Word::Excess("p/r".into())] {
        let named = number("a", word.clone(), 8.0, 1_000);
        let seen =
            |samples: Vec<PodSample>, now| metric(word.clone(), Reduce::Sum, samples, &["a", "b", "c", "d"], now);
        let all = ["a", "b", "c", "d"].map(|pod| requests(pod, 1_000));
        let fresh = seen([&all[..], std::slice::from_ref(&named)].concat(), 1_000).unwrap();
        assert_eq!((fresh.value, fresh.at, &*fresh.source), (8.0, at(1_000), "envoy"));
        assert_eq!(seen(all.to_vec(), 1_000).map(|sample| sample.value), Some(0.0), "nobody has counted any");
        let restarted =
            [&["a", "b", "c", "d"].map(|pod| requests(pod, 5_000))[..], std::slice::from_ref(&named)].concat();
        assert_eq!(seen(restarted, 5_000).map(|sample| sample.value), Some(0.0), "and what it counted before is past");
        assert_eq!(seen(vec![named.clone(), requests("a", 1_000)], 1_000), None, "the others do not stream");
        assert_eq!(seen(all.to_vec(), 9_000), None, "they fell silent");
    }
}

#[test]
fn forgets_pods() {
    let mut store = Store::default();
    store.set_pods(ready(&["a", "b", "silent"]));
    insert(&mut store, [sample("a", 0.5, 1000), sample("b", 0.5, 1000)], at(2000));
    store.set_pods(ready(&["b"]));
    assert_eq!((store.pod("a", &Word::Cpu), store.pod("b", &Word::Cpu)), (None, Some((0.5, at(1000)))));
    store.set_pods(Vec::new());
    assert!(store.quantities.is_empty());
    assert_eq!(insert(&mut store, [sample("a", 0.5, 1000)], at(2000)), 0, "it was under way when its pod went");
}

#[test]
fn no_ready_pods_means_no_sample() {
    assert_eq!(observe(&[sample("a", 0.5, 1000)], &[], Reduce::Sum), None);
}

/// What one pod says at a moment.
fn says(pod: Option<&str>, measure: Measure, source: Source, millis: i64) -> PodSample {
    PodSample { service: service(), pod: pod.map(Into::into), measure, at: at(millis), fresh_for_ms: 750, source }
}

fn metric(word: Word, reduce: Reduce, samples: Vec<PodSample>, pods: &[&str], now: i64) -> Option<Sample> {
    let mut store = of(&samples);
    insert(&mut store, samples, at(now));
    let metric = Metric { word, reduce };
    store.observe(&ready(pods), &[(metric.clone(), metric.clone())], at(now)).samples.remove(&metric)
}

#[test]
fn the_most_direct_fresh_source_is_believed_and_none_are_averaged() {
    let requests = |source, value, millis| says(Some("a"), Measure::Number(Word::Requests, value), source, millis);
    let samples = vec![
        requests(Source::Prometheus, 9.0, 1_000),
        requests(Source::Envoy, 1.0, 1_000),
        requests(Source::Scrape, 5.0, 1_400),
    ];
    let seen = |now| {
        let sample = metric(Word::Requests, Reduce::Mean, samples.clone(), &["a"], now).unwrap();
        (sample.value, sample.source, sample.at)
    };
    assert_eq!(seen(1_700), (1.0, "envoy".into(), at(1_000)));
    assert_eq!(seen(1_751), (5.0, "scrape".into(), at(1_400)), "Envoy fell silent");
    assert_eq!(seen(9_000), (5.0, "scrape".into(), at(1_400)), "all did: the newest shows");
}

#[test]
fn a_value_of_the_service_as_a_whole_is_not_reduced() {
    let requests = |pod, value, millis| says(pod, Measure::Number(Word::Requests, value), Source::Prometheus, millis);
    let pods = ["a", "b", "c"];
    for how in [Reduce::Mean, Reduce::Max, Reduce::Sum] {
        let whole = metric(Word::Requests, how, vec![requests(None, 90.0, 1_000)], &pods, 1_000).unwrap();
        assert_eq!((whole.value, &*whole.source), (90.0, "prometheus"));
    }
    let both = vec![requests(None, 90.0, 1_000), requests(Some("a"), 1.0, 9_000), requests(Some("b"), 3.0, 9_000)];
    assert_eq!(metric(Word::Requests, Reduce::Mean, both, &pods, 9_000).unwrap().value, 2.0, "the other is stale");
}

#[test]
fn errors_are_all_failures_over_all_answers() {
    let errors = |pod, failed, answered| says(Some(pod), Measure::Errors { failed, answered }, Source::Envoy, 1_000);
    let seen = |how, samples| metric(Word::Errors, how, samples, &["a", "b"], 1_000).unwrap().value;
    let uneven = vec![errors("a", 9.0, 10.0), errors("b", 1.0, 90.0)];
    assert_eq!(seen(Reduce::Mean, uneven.clone()), 0.1);
    assert_eq!(seen(Reduce::Max, uneven), 0.9);
    assert_eq!(seen(Reduce::Mean, vec![errors("a", 0.0, 0.0), errors("b", 0.0, 0.0)]), 0.0, "nothing was answered");
    let senseless = vec![errors("a", 2.0, 1.0), errors("b", f64::NAN, 1.0)];
    assert_eq!(metric(Word::Errors, Reduce::Mean, senseless, &["a", "b"], 1_000), None);
}

#[test]
fn a_quantile_is_of_all_values_and_not_a_mean_of_quantiles() {
    let latency = |pod, fast, slow| {
        let buckets = vec![(0.01, fast), (0.4, 0.0), (0.5, slow), (f64::INFINITY, 0.0)];
        says(Some(pod), Measure::Latency(Histogram { buckets }), Source::Envoy, 1_000)
    };
    let seen = |word, how, samples| metric(word, how, samples, &["a", "b"], 1_000).unwrap().value;
    let uneven = vec![latency("a", 985.0, 0.0), latency("b", 0.0, 15.0)];
    let p99 = seen(Word::Latency(99), Reduce::Mean, uneven.clone());
    assert!((p99 - (0.4 + 0.1 * 5.0 / 15.0)).abs() < 1e-9, "{p99}");
    assert!(seen(Word::Latency(50), Reduce::Mean, uneven.clone()) < 0.01);
    assert!(seen(Word::Latency(50), Reduce::Max, uneven) > 0.4, "of the slowest pod");
    assert_eq!(seen(Word::Latency(99), Reduce::Mean, vec![latency("a", 0.0, 0.0), latency("b", 0.0, 0.0)]), 0.0);
    let number = |value| says(None, Measure::Number(Word::Latency(99), value), Source::Prometheus, 1_000);
    assert_eq!(
        seen(Word::Latency(99), Reduce::Mean, vec![number(0.25)]),
        0.25,
        "a query that gives the quantile itself"
    );
}

proptest! {
    #[test]
    fn errors_are_a_fraction_and_a_minority_never_speaks(
        pods in proptest::collection::vec((0_u32..50, 0_u32..50, 0_i64..5000), 1..8), ready_pods in 1_usize..12,
    ) {
        let names: Vec<String> = (0..ready_pods.max(pods.len())).map(|n| n.to_string()).collect();
        let samples = pods.iter().enumerate().map(|(n, (failed, more, millis))| {
            let measure = Measure::Errors { failed: f64::from(*failed), answered: f64::from(failed + more) };
            says(Some(&names[n]), measure, Source::Envoy, *millis)
        });
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let seen = metric(Word::Errors, Reduce::Mean, samples.collect(), &names, 5_000);
        prop_assert_eq!(seen.is_some(), pods.len() * 2 >= names.len());
        if let Some(sample) = seen {
            prop_assert!((0.0..=1.0).contains(&sample.value), "{}", sample.value);
            let quorum = names.len().div_ceil(2);
            prop_assert!(!sample.is_fresh(at(5_000)) || pods.iter().filter(|pod| 5_000 - pod.2 <= 1_500).count() >= quorum);
        }
    }

    #[test]
    fn a_mean_lies_between_its_pods_and_is_never_newer_than_them(
        points in proptest::collection::vec((0.0..2.0_f64, 0_i64..5000), 1..8),
    ) {
        let samples: Vec<_> = points.iter().enumerate().map(|(n, (value, at))| sample(&n.to_string(), *value, *at)).collect();
        let pods: Vec<String> = (0..points.len()).map(|n| n.to_string()).collect();
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        let mean = observe(&samples, &pods, Reduce::Mean).unwrap();
        let low = points.iter().map(|point| point.0).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(|point| point.0).fold(0.0, f64::max);
        prop_assert!(mean.value >= low - 1e-9 && mean.value <= high + 1e-9);
        prop_assert!(points.iter().any(|point| at(point.1) == mean.at));
    }
}

#[test]
fn the_most_that_was_seen_stays_known() {
    let mut store = Store::default();
    store.set_pods(ready(&["a", "b", "silent"]));
    let requests = |pod: &str, value: f64, millis: i64| PodSample {
        measure: Measure::Number(Word::Requests, value),
        source: Source::Envoy,
        ..sample(pod, value, millis)
    };
    insert(&mut store, [sample("a", 0.5, 1000)], at(1000));
    store.look_at_traffic(at(1000));
    assert_eq!(store.traffic(), None, "no requests are measured");
    for (millis, a, b) in [(1000, 10.0, 5.0), (1500, 500.0, 500.0), (2000, 30.0, 5.0), (3000, 1.0, 1.0)] {
        insert(&mut store, [requests("a", a, millis), requests("b", b, millis)], at(millis));
        store.look_at_traffic(at(millis));
    }
    let seen = store.traffic().unwrap();
    assert_eq!((seen.all_pods, seen.one_pod, seen.since), (35.0, 30.0, at(1000)), "looked at once a second");
}

use std::collections::BTreeSet;

use jiff::Timestamp;
use limiter::metric::{Metric, Reduce, Sample, Word};
use proptest::prelude::*;

use super::Store;
use crate::{
    intent::ServiceKey,
    metrics::{Measure, PodSample, Source},
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

fn observe(samples: &[PodSample], pods: &[&str], reduce: Reduce) -> Option<Sample> {
    let mut store = Store::new();
    store.insert(samples.iter().cloned());
    let observations = store.observe(&service(), &ready(pods), &BTreeSet::from([cpu(reduce)]));
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
    let mut store = Store::new();
    assert_eq!(store.insert([sample("a", 0.5, 1000)]), BTreeSet::from([service()]));
    assert_eq!(store.insert([sample("a", 0.1, 900), sample("a", f64::NAN, 2000)]), BTreeSet::new());
    assert_eq!(store.pod(&service(), "a", &Word::Cpu), Some((0.5, at(1000))));
}

#[test]
fn forgets_pods_and_services() {
    let mut store = Store::new();
    store.insert([sample("a", 0.5, 1000), sample("b", 0.5, 1000)]);
    store.forget_pod(&service(), "a");
    assert_eq!(store.pod(&service(), "a", &Word::Cpu), None);
    store.retain_pods(&service(), &[]);
    assert!(store.services.is_empty());
    store.insert([sample("a", 0.5, 1000)]);
    store.forget_service(&service());
    assert!(store.services.is_empty());
}

#[test]
fn no_ready_pods_means_no_sample() {
    assert_eq!(observe(&[sample("a", 0.5, 1000)], &[], Reduce::Sum), None);
}

proptest! {
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
fn the_most_direct_fresh_source_is_believed() {
    let mut store = Store::new();
    let from = |source, pod: Option<&str>, value, ms| PodSample {
        service: service(),
        pod: pod.map(str::to_owned),
        measure: Measure::Number(Word::Cpu, value),
        at: at(ms),
        fresh_for_ms: 750,
        source,
    };
    let metric = Metric::plain(Word::Cpu);
    let ready = ["a".to_owned()];
    let told = |store: &Store| {
        let seen = store.observe(&service(), &ready, &[metric.clone()].into());
        seen.samples.get(&metric).map(|sample| (sample.value, sample.source.clone()))
    };
    store.insert([from(Source::Prometheus, None, 0.3, 1000)]);
    assert_eq!(told(&store), Some((0.3, "prometheus".to_owned())), "it stands for the service as a whole");
    store.insert([from(Source::Scrape, Some("a"), 0.9, 900)]);
    assert_eq!(told(&store), Some((0.9, "scrape".to_owned())), "fresh beside the other");
    store.insert([from(Source::Prometheus, None, 0.4, 2000)]);
    assert_eq!(told(&store), Some((0.4, "prometheus".to_owned())), "the pages have fallen silent");
    store.insert([from(Source::Prometheus, Some("a"), 0.5, 2500)]);
    assert_eq!(told(&store), Some((0.5, "prometheus".to_owned())), "the newer of both");
}

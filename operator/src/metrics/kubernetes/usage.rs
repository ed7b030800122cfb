//! From an answer of the metrics API to samples of the pods that are wanted. Pure.
//!
//! A value is as old as the end of its window says, whenever it was asked for, and counts for three windows and one interval of
//! asking: metrics-server passes on each measurement once in about a window.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use limiter::{
    metric::{PROXY_CONTAINERS, Word},
    quantity::quantity,
};

use super::list::{PodMetrics, PodMetricsList, Usage};
use crate::{
    intent::ServiceKey,
    metrics::{Measure, PodResources, PodSample, Source},
};

/// Longest window that is believed; a pod's use of longer ago says nothing about now.
const LONGEST_WINDOW: Duration = Duration::from_secs(120);
/// So far the node's clock may be ahead of ours.
const MOST_AHEAD: SignedDuration = SignedDuration::from_secs(10);

/// What an answer says of the pods that are wanted.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) samples: Vec<PodSample>,
    /// Every service asked about, and why values of it are missing, if any are.
    pub(super) troubles: BTreeMap<ServiceKey, Option<String>>,
}

/// Reads an answer that came at `now`, asked for every `interval`.
pub(super) fn read(list: &PodMetricsList, wanted: &[PodResources], interval: Duration, now: Timestamp) -> Reading {
    let by_name = |pod: &PodMetrics| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
    let found: HashMap<(String, String), &PodMetrics> = list.items.iter().map(|pod| (by_name(pod), pod)).collect();
    let mut reading = Reading::default();
    for pod in wanted {
        let trouble = reading.troubles.entry(pod.service.clone()).or_default();
        let measured = found.get(&(pod.service.namespace.clone(), pod.pod.clone()));
        let samples = measured
            .ok_or_else(|| "it knows nothing of it (yet): metrics-server needs two measurements".to_owned())
            .and_then(|measured| samples(measured, pod, interval, now));
        match samples {
            Ok(samples) => reading.samples.extend(samples),
            Err(why) => {
                trouble.get_or_insert(format!("pod {}: {why}", pod.pod));
            }
        }
    }
    reading
}

/// The samples of one pod, or why there are none.
fn samples(
    measured: &PodMetrics,
    pod: &PodResources,
    interval: Duration,
    now: Timestamp,
) -> Result<Vec<PodSample>, String> {
    let PodMetrics { timestamp, window, .. } = measured;
    let at: Timestamp = timestamp.parse().map_err(|_| format!("its timestamp {timestamp:?} is no time"))?;
    let length: SignedDuration = window.parse().map_err(|_| format!("its window {window:?} is no duration"))?;
    let length = Duration::try_from(length).map_err(|_| format!("its window {window:?} is negative"))?;
    let fresh_for = length.min(LONGEST_WINDOW) * 3 + interval;
    if now < at.checked_sub(MOST_AHEAD).unwrap_or(Timestamp::MIN) {
        return Err(format!(
            "its timestamp {timestamp} lies in the future: the clock of its node, or Weir's, is wrong"
        ));
    }
    if now.duration_since(at) > SignedDuration::try_from(fresh_for).unwrap_or(SignedDuration::MAX) {
        return Err(format!("it was last measured at {timestamp}, which is too long ago"));
    }
    let cpu = used(measured, |usage| usage.cpu.as_deref())?;
    let memory = used(measured, |usage| usage.memory.as_deref())?;
    let of = |word, used: f64, amount: Option<f64>| Some((word, used / amount.filter(|amount| *amount > 0.0)?));
    let values = [of(Word::Cpu, cpu, pod.cpu_cores), of(Word::Memory, memory, pod.memory_bytes)];
    let sample = |(word, value)| PodSample {
        service: pod.service.clone().into(),
        pod: Some(pod.pod.clone()),
        measure: Measure::Number(word, value),
        // From the future it would be fresh for longer than it may be.
        at: at.min(now),
        fresh_for_ms: u64::try_from(fresh_for.as_millis()).unwrap_or(u64::MAX),
        source: Source::MetricsApi,
    };
    Ok(values.into_iter().flatten().map(sample).collect())
}

/// What the application's containers used of one resource.
fn used(pod: &PodMetrics, of: impl Fn(&Usage) -> Option<&str>) -> Result<f64, String> {
    let app = pod.containers.iter().filter(|container| !PROXY_CONTAINERS.contains(&container.name.as_str()));
    let mut sum = None;
    for container in app {
        let text = of(&container.usage).unwrap_or_default();
        let value = quantity(text).ok_or_else(|| format!("{text:?} of container {} is no quantity", container.name))?;
        *sum.get_or_insert(0.0) += value;
    }
    sum.ok_or_else(|| "it names no container of the application".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:01:00Z";
    const SECOND: Duration = Duration::from_secs(1);

    fn wanted(pod: &str, cpu_cores: Option<f64>) -> PodResources {
        let service = ServiceKey { namespace: "shop".to_owned(), name: "cart".to_owned() };
        PodResources { service, pod: pod.to_owned(), cpu_cores, memory_bytes: Some(256.0 * 1024.0 * 1024.0) }
    }

    fn pod(timestamp: &str, window: &str, containers: &str) -> String {
        format!(
            r#"{{"metadata": {{"name": "cart-0", "namespace": "shop"}}, "timestamp": "{timestamp}", "window": "{window}", "containers": [{containers}]}}"#
        )
    }

    fn container(name: &str, cpu: &str, memory: &str) -> String {
        format!(r#"{{"name": "{name}", "usage": {{"cpu": "{cpu}", "memory": "{memory}"}}}}"#)
    }

    fn reading(pod: &str, wanted: &[PodResources]) -> Reading {
        let list = serde_json::from_str(&format!(r#"{{"kind": "PodMetricsList", "items": [{pod}]}}"#)).unwrap();
        read(&list, wanted, SECOND, NOW.parse().unwrap())
    }

    fn trouble(pod: &str) -> String {
        let mut reading = reading(pod, &[wanted("cart-0", Some(1.0))]);
        assert_eq!(reading.samples, []);
        reading.troubles.pop_first().unwrap().1.expect("something is wrong")
    }

    #[test]
    fn sums_the_containers_of_the_application_over_what_they_may_use() {
        let containers = [
            container("app", "250m", "32Mi"),
            container("worker", "150000000n", "32768Ki"),
            container("istio-proxy", "3", "1Gi"),
        ];
        let reading =
            reading(&pod("2026-01-01T00:00:45Z", "15.021s", &containers.join(",")), &[wanted("cart-0", Some(0.5))]);
        let values: Vec<_> = reading.samples.iter().map(|sample| sample.measure.clone()).collect();
        assert_eq!(values, [Measure::Number(Word::Cpu, 0.8), Measure::Number(Word::Memory, 0.25)]);
        let first = &reading.samples[0];
        assert_eq!((first.at, first.fresh_for_ms), ("2026-01-01T00:00:45Z".parse().unwrap(), 46_063));
        assert_eq!(reading.troubles.into_values().collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn a_pod_without_a_limit_gives_no_fraction_and_is_no_trouble() {
        let reading = reading(&pod(NOW, "15s", &container("app", "1", "64Mi")), &[wanted("cart-0", None)]);
        let values: Vec<_> = reading.samples.iter().map(|sample| sample.measure.clone()).collect();
        assert_eq!(values, [Measure::Number(Word::Memory, 0.25)]);
        assert_eq!(reading.troubles.into_values().collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn one_pod_that_is_missing_costs_only_itself() {
        let reading = reading(
            &pod(NOW, "1m0.5s", &container("app", "1", "1Mi")),
            &[wanted("cart-0", Some(1.0)), wanted("cart-1", Some(1.0))],
        );
        assert_eq!(reading.samples.len(), 2);
        let trouble = reading.troubles.into_values().next().unwrap().unwrap();
        assert!(trouble.starts_with("pod cart-1: it knows nothing of it (yet)"), "{trouble}");
    }

    #[test]
    fn what_makes_no_sense_or_is_old_is_said_and_not_made_fresh() {
        let app = container("app", "1", "1Mi");
        for (pod, words) in [
            (
                pod("2026-01-01T00:00:00Z", "15s", &app),
                "it was last measured at 2026-01-01T00:00:00Z, which is too long ago",
            ),
            (pod("2025-12-31T23:00:00Z", "9000h", &app), "which is too long ago"),
            (pod("2026-01-01T00:02:00Z", "15s", &app), "lies in the future"),
            (pod("yesterday", "15s", &app), "is no time"),
            (pod(NOW, "soon", &app), "is no duration"),
            (pod(NOW, "-15s", &app), "is negative"),
            (pod(NOW, "15s", &container("app", "much", "1Mi")), "\"much\" of container app is no quantity"),
            (pod(NOW, "15s", &container("app", "1", "-1Mi")), "\"-1Mi\" of container app is no quantity"),
            (pod(NOW, "15s", &container("envoy", "1", "1Mi")), "no container of the application"),
        ] {
            let trouble = trouble(&pod);
            assert!(trouble.contains(words), "{trouble}");
        }
    }
}

//! From the metric families of one message to what they say of a pod's inbound ports together.
//!
//! Pure. Names are Envoy's own, without tags as labels; which of them we ask for stands in `xds::bootstrap`.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::wire::{Buckets, Family, Metric, Name};
use crate::{metrics::Histogram, xds::names};

/// Most classes of one pod whose demand is kept; a proxy that names more is not ours.
const MOST_CLASSES: usize = 1_024;

/// What a pod's proxy had counted at one moment. Counters run since its start.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Snapshot {
    /// By Envoy's clock, in milliseconds.
    pub(super) at_ms: i64,
    pub(super) counters: Counters,
    /// Requests handed to the application, or waiting for a connection to it.
    pub(super) inflight: f64,
    /// Latencies since the message before, not since the start: so Envoy streams histograms.
    pub(super) latency: Histogram,
}

/// See [`Snapshot`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counters {
    /// Requests that came, before any limit.
    pub(super) offered: f64,
    /// Requests that the router ended, those it refused for a full queue included.
    pub(super) completed: f64,
    /// Those of them that ended with 5xx: the application's, and Envoy's for timeouts, resets, no connection and full queues.
    pub(super) failed: f64,
    /// Refused for a full queue.
    pub(super) overflowed: f64,
    /// Refused by a limit filter.
    pub(super) limited: f64,
    /// gRPC calls that the application ended with a status of the kind that 5xx is, under HTTP 200.
    pub(super) grpc_failed: f64,
    /// Requests that came and have ended, by class.
    pub(super) classes: BTreeMap<String, f64>,
    /// Requests over a limit in shadow mode, by its bucket.
    pub(super) excess: BTreeMap<String, f64>,
}

impl Counters {
    /// What was added since `before`, `None` when a counter began again.
    pub(super) fn since(&self, before: &Self) -> Option<Self> {
        let difference = |now: f64, before: f64| (now >= before).then_some(now - before);
        let by_name = |now: &BTreeMap<String, f64>, before: &BTreeMap<String, f64>| {
            let added = now.iter().map(|(name, count)| {
                Some((name.clone(), difference(*count, before.get(name).copied().unwrap_or(0.0))?))
            });
            added.collect::<Option<BTreeMap<_, _>>>()
        };
        Some(Self {
            offered: difference(self.offered, before.offered)?,
            completed: difference(self.completed, before.completed)?,
            failed: difference(self.failed, before.failed)?,
            overflowed: difference(self.overflowed, before.overflowed)?,
            limited: difference(self.limited, before.limited)?,
            grpc_failed: difference(self.grpc_failed, before.grpc_failed)?,
            classes: by_name(&self.classes, &before.classes)?,
            excess: by_name(&self.excess, &before.excess)?,
        })
    }
}

/// Where a family's value belongs.
enum Place<'a> {
    Offered,
    Completed,
    Failed,
    Overflowed,
    Limited,
    GrpcFailed,
    /// Comma-separated keys of classes.
    Classes(&'a str),
    /// The bucket of a limit in shadow mode.
    Excess(&'a str),
    Inflight,
    Latency,
    /// Of an inbound port, and not ours.
    Other,
}

/// What the families of one message say, each an encoded `MetricFamily`; `None` when they hold nothing of an inbound port. What
/// cannot be decoded is left out.
pub(super) fn read(families: &[Bytes]) -> Option<Snapshot> {
    let mut snapshot = Snapshot::default();
    let mut has_port = false;
    let mut latencies = Vec::new();
    for bytes in families {
        let Ok(Name { name }) = Name::decode(bytes.clone()) else { continue };
        let Some(place) = place(&name) else { continue };
        has_port |= !matches!(place, Place::Limited | Place::GrpcFailed | Place::Classes(_) | Place::Excess(_));
        // Before the first request there is nothing but others, and the time stands in each.
        if matches!(place, Place::Other) && snapshot.at_ms > 0 {
            continue;
        }
        let Ok(Family { metrics }) = Family::decode(bytes.clone()) else { continue };
        for metric in metrics {
            snapshot.at_ms = snapshot.at_ms.max(metric.timestamp_ms.unwrap_or_default());
            let value = value(&metric);
            let counters = &mut snapshot.counters;
            match &place {
                Place::Offered => counters.offered += value,
                Place::Completed => counters.completed += value,
                Place::Failed => counters.failed += value,
                Place::Overflowed => counters.overflowed += value,
                Place::Limited => counters.limited += value,
                Place::GrpcFailed => counters.grpc_failed += value,
                Place::Inflight => snapshot.inflight += value,
                Place::Latency => latencies.extend(metric.histogram.as_ref().map(histogram)),
                Place::Excess(bucket) => {
                    if counters.excess.len() < MOST_CLASSES {
                        *counters.excess.entry((*bucket).to_owned()).or_default() += value;
                    }
                }
                Place::Classes(keys) => {
                    for key in keys.split(',').filter(|key| !key.is_empty()) {
                        if counters.classes.len() < MOST_CLASSES || counters.classes.contains_key(key) {
                            *counters.classes.entry(key.to_owned()).or_default() += value;
                        }
                    }
                }
                Place::Other => {}
            }
        }
    }
    snapshot.latency = Histogram::merged(&latencies);
    (has_port && snapshot.at_ms > 0).then_some(snapshot)
}

fn place(name: &str) -> Option<Place<'_>> {
    if let Some(stat) = name.strip_prefix("cluster.").and_then(of_inbound_port) {
        return Some(match stat {
            "upstream_rq_completed" => Place::Completed,
            "upstream_rq_5xx" => Place::Failed,
            // The bound on requests waiting for a connection, and the one on requests in flight.
            "upstream_rq_pending_overflow" | "upstream_rq_active_overflow" => Place::Overflowed,
            "upstream_rq_active" | "upstream_rq_pending_active" => Place::Inflight,
            "upstream_rq_time" => Place::Latency,
            _ => Place::Other,
        });
    }
    if let Some(stat) = name.strip_prefix("http.").and_then(of_inbound_port) {
        return Some(if stat == "downstream_rq_total" { Place::Offered } else { Place::Other });
    }
    if let Some(filter) = name.strip_suffix(".http_local_rate_limit.enforced") {
        return [names::NARROW_FILTER, names::SERVICE_FILTER].contains(&filter).then_some(Place::Limited);
    }
    if let Some(filter) = name.strip_suffix(".http_local_rate_limit.rate_limited") {
        return filter.strip_prefix(names::SHADOW_FILTER_PREFIX).map(Place::Excess);
    }
    let counter = name.strip_prefix(names::LOGGED_PREFIX)?.strip_prefix('.')?;
    if let Some(keys) = tag_of(counter, names::DEMAND_COUNTER, names::CLASSES_TAG) {
        return Some(Place::Classes(keys));
    }
    let flags = tag_of(counter, names::GRPC_FAILED_COUNTER, names::FLAGS_TAG)?;
    // With a flag Envoy gave the answer itself, and has counted it as 5xx too.
    (flags == names::NO_FLAGS).then_some(Place::GrpcFailed)
}

/// `<prefix><port>.<statistic>`: the statistic.
fn of_inbound_port(name: &str) -> Option<&str> {
    let (port, stat) = name.strip_prefix(names::INBOUND_STAT_PREFIX)?.split_once('.')?;
    port.parse::<u16>().is_ok().then_some(stat)
}

/// `<counter>.<tag>.<value>`: the value.
fn tag_of<'a>(name: &'a str, counter: &str, tag: &str) -> Option<&'a str> {
    name.strip_prefix(counter)?.strip_prefix('.')?.strip_prefix(tag)?.strip_prefix('.')
}

/// Envoy's counters and gauges are whole numbers that are never negative.
pub(super) fn value(metric: &Metric) -> f64 {
    let value = metric.counter.as_ref().or(metric.gauge.as_ref()).map_or(0.0, |value| value.value);
    if value.is_finite() { value.max(0.0) } else { 0.0 }
}

pub(super) fn histogram(seen: &Buckets) -> Histogram {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    let mut below = 0;
    let bounds = seen.buckets.iter().map(|bucket| (seconds(bucket.upper_bound), bucket.cumulative_count));
    for (bound, cumulative) in bounds.chain([(f64::INFINITY, seen.count)]) {
        let count = cumulative.saturating_sub(below);
        below = below.max(cumulative);
        // Of empty buckets in a row only the last bound says anything.
        if count > 0 && buckets.last().is_some_and(|last| last.1 == 0.0)
            || buckets.last().is_none_or(|last| last.1 > 0.0)
        {
            buckets.push((bound, count as f64));
        } else if let Some(last) = buckets.last_mut() {
            *last = (bound, count as f64);
        }
    }
    Histogram { buckets }
}

/// Envoy counts whole milliseconds, rounded down: what counts as 109 ms or less took less than 110 ms.
fn seconds(bound_ms: f64) -> f64 {
    (bound_ms.floor() + 1.0) / 1e3
}

#[cfg(test)]
pub(super) mod tests;

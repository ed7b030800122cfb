use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::{Snapshot, read};
use crate::metrics::stream::wire::{Bucket, Buckets, Family, Metric, Name, Value};

const AT: i64 = 1_700_000_000_250;

fn family(name: &str, metric: Metric) -> Bytes {
    family_at(name, metric, AT)
}

fn family_at(name: &str, metric: Metric, at_ms: i64) -> Bytes {
    let mut bytes = BytesMut::new();
    // The two hold different fields of one message.
    bytes.put(Name { name: name.into() }.encode_to_vec().as_slice());
    bytes.put(Family { metrics: vec![Metric { timestamp_ms: Some(at_ms), ..metric }] }.encode_to_vec().as_slice());
    bytes.freeze()
}

pub(in crate::metrics::stream) fn counter(name: &str, value: f64) -> Bytes {
    counter_at(name, value, AT)
}

pub(in crate::metrics::stream) fn counter_at(name: &str, value: f64, at_ms: i64) -> Bytes {
    family_at(name, Metric { counter: Some(Value { value }), ..Metric::default() }, at_ms)
}

pub(in crate::metrics::stream) fn gauge(name: &str, value: f64) -> Bytes {
    family(name, Metric { gauge: Some(Value { value }), ..Metric::default() })
}

pub(in crate::metrics::stream) fn histogram(name: &str, count: u64, buckets: &[(f64, u64)]) -> Bytes {
    let bucket = |&(upper_bound, cumulative_count): &(f64, u64)| Bucket { cumulative_count, upper_bound };
    let histogram = Buckets { count, buckets: buckets.iter().map(bucket).collect() };
    family(name, Metric { histogram: Some(histogram), ..Metric::default() })
}

#[test]
fn ports_are_added_and_other_clusters_and_listeners_are_not() {
    let snapshot = read(&[
        counter("http.in_15080.downstream_rq_total", 100.0),
        counter("http.in_15081.downstream_rq_total", 11.0),
        counter("http.admin.downstream_rq_total", 1e6),
        counter("cluster.in_15080.upstream_rq_completed", 90.0),
        counter("cluster.in_15080.upstream_rq_5xx", 7.0),
        counter("cluster.in_15080.upstream_rq_503", 7.0),
        counter("cluster.in_15080.upstream_rq_pending_overflow", 1.0),
        counter("cluster.in_15080.upstream_rq_active_overflow", 2.0),
        counter("cluster.in_house.upstream_rq_5xx", 1e6),
        counter("cluster.weir.upstream_rq_completed", 1e6),
        gauge("cluster.in_15080.upstream_rq_active", 4.0),
        gauge("cluster.in_15081.upstream_rq_pending_active", 1.0),
        counter("weir.limit.narrow.http_local_rate_limit.enforced", 3.0),
        counter("weir.limit.service.http_local_rate_limit.enforced", 5.0),
        counter("weir.limit.service.http_local_rate_limit.rate_limited", 1e6),
        counter("other.http_local_rate_limit.enforced", 1e6),
        counter("weir.grpc_failed.flags.-", 2.0),
        counter("weir.grpc_failed.flags.UC", 1e6),
    ])
    .unwrap();
    let Snapshot { at_ms, counters, inflight, latency } = snapshot;
    assert_eq!((at_ms, inflight, latency.count()), (AT, 5.0, 0.0));
    assert_eq!((counters.offered, counters.completed, counters.failed), (111.0, 90.0, 7.0));
    assert_eq!((counters.overflowed, counters.limited, counters.grpc_failed), (3.0, 8.0, 2.0));
}

#[test]
fn a_route_of_several_classes_counts_for_each() {
    let gold = "smartlimiters.weir.dev/ns-a/my.shop#all/gold";
    let snapshot = read(&[
        counter("http.in_15080.downstream_rq_total", 10.0),
        counter(&format!("weir.demand.classes.{gold},x#y/z"), 4.0),
        counter(&format!("weir.demand.classes.{gold}"), 3.0),
        counter("weir.demand.classes.", 3.0),
        counter("weir.demand", 9.0),
    ])
    .unwrap();
    let classes: Vec<_> = snapshot.counters.classes.into_iter().collect();
    assert_eq!(classes, [(gold.to_owned(), 7.0), ("x#y/z".to_owned(), 4.0)]);
}

#[test]
fn a_bucket_ends_where_the_next_whole_millisecond_begins() {
    let buckets = [(0.5, 0), (1.5, 2), (2.5, 2), (109.5, 2), (119.5, 5)];
    let snapshot = read(&[histogram("cluster.in_15080.upstream_rq_time", 6, &buckets)]).unwrap();
    let expected = [(0.001, 0.0), (0.002, 2.0), (0.110, 0.0), (0.120, 3.0), (f64::INFINITY, 1.0)];
    assert_eq!(snapshot.latency.buckets, expected);
}

#[test]
fn before_the_first_request_everything_is_zero() {
    let snapshot = read(&[gauge("cluster.in_15080.membership_healthy", 1.0)]).unwrap();
    assert_eq!(snapshot, Snapshot { at_ms: AT, ..Snapshot::default() });
}

#[test]
fn without_an_inbound_port_or_a_time_there_is_nothing() {
    assert_eq!(read(&[]), None);
    assert_eq!(read(&[counter("server.live", 1.0), counter("cluster.weir.upstream_rq_total", 1.0)]), None);
    let name = Name { name: "cluster.in_15080.membership_healthy".into() };
    assert_eq!(read(&[name.encode_to_vec().into()]), None);
    assert_eq!(read(&[Bytes::from_static(b"\xff\xff\xff no message")]), None);
}

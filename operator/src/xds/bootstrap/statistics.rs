//! What Envoy counts and streams to Weir.
//!
//! Envoy has one set of statistics for its admin page and for all sinks. Left out is what says something twice, or what nobody
//! looks at; everything else stays where operators expect it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::xds::names::{ARM_STAT_PREFIX, DESTINATION_STAT_PREFIX, WEIR_CLUSTER};

/// The `stats_flush_interval`.
pub(super) fn flush_interval(interval: Duration) -> Value {
    json!(format!("{}.{:03}s", interval.as_secs(), interval.subsec_millis()))
}

/// The `stats_sinks`: Weir's metrics service. Counters as they stand, so that a lost message loses nothing; names whole,
/// because tags as labels would double the message.
pub(super) fn sinks() -> Value {
    json!([{
        "name": "envoy.stat_sinks.metrics_service",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.metrics.v3.MetricsServiceConfig",
            "transport_api_version": "V3",
            "histogram_emit_mode": "HISTOGRAM",
            "report_counters_as_deltas": false,
            "emit_tags_as_labels": false,
            "grpc_service": {"envoy_grpc": {"cluster_name": WEIR_CLUSTER}},
        },
    }])
}

/// The `stats_config`.
pub(super) fn config() -> Value {
    let contains = |text: &str| json!({"contains": text});
    let suffix = |text: &str| json!({"suffix": text});
    let prefix = |text: &str| json!({"prefix": text});
    json!({
        "stats_matcher": {"exclusion_list": {"patterns": [
            // Twice: all traffic is external here, and a listener repeats its connection manager.
            contains(".external."),
            contains(".http.in_"),
            // By worker thread.
            contains(".worker_"),
            prefix("thread_local_cluster_manager."),
            // Histograms of what is no request.
            suffix(".update_duration"),
            suffix("_time_ms"),
            suffix("_length_ms"),
            suffix(".upstream_cx_connect_ms"),
            suffix(".upstream_rq_per_cx"),
            suffix(".connections_accepted_per_socket_event"),
            suffix("_buffered"),
            // Of clusters with one endpoint each.
            suffix(".membership_degraded"),
            suffix(".membership_excluded"),
            suffix(".warming_state"),
            suffix(".total_match_count"),
            prefix(&format!("cluster.{WEIR_CLUSTER}.http2.")),
            prefix(&format!("cluster.{WEIR_CLUSTER}.circuit_breakers.")),
            json!({"safe_regex": {"regex": of_destinations()}}),
            json!({"safe_regex": {"regex": of_arms()}}),
        ]}},
        "histogram_bucket_settings": [{"match": suffix(".upstream_rq_time"), "buckets": latency_bounds()}],
    })
}

/// What is left out of the clusters of other services: all but how many requests and connections there were and are. There may be
/// thousands, and each had a hundred statistics, in Envoy's memory and, once it was called, in every message. Their stat names end
/// with a port; those of hosts outside have dots.
fn of_destinations() -> String {
    // All but `_total` and `_active`.
    const PARTS: &str = "upstream_cx_[^at]|upstream_cx_tx_|upstream_rq_[^at]|upstream_rq_active_|upstream_rq_t[^o]";
    format!("cluster[.]{DESTINATION_STAT_PREFIX}.*_[0-9]+[.]({OF_NO_DESTINATION}|{PARTS}).*")
}

/// What is left out of the clusters of arms, of which there are few: all but what other services have, and what `metrics::stream` makes
/// of how they answer.
fn of_arms() -> String {
    // All but `_total`, `_active` and `_none_healthy` of connections, and of requests but those, `_active_overflow`, `_cancelled`,
    // `_completed`, `_5xx`, `_time`, `_pending_active`, `_pending_failure_eject` and `_pending_overflow`.
    const PARTS: &str = "upstream_cx_[^ant]|upstream_cx_tx_|upstream_rq_[^5acpt]|upstream_rq_5[0-9]|upstream_rq_per_|\
                         upstream_rq_pending_t|upstream_rq_timeo|upstream_rq_tx_";
    format!("cluster[.]{ARM_STAT_PREFIX}.*_[0-9]+[.]({OF_NO_DESTINATION}|{PARTS}).*")
}

/// What nothing on the way out needs, by how it begins.
const OF_NO_DESTINATION: &str = "assignment_|bind_|circuit_breakers[.]|default[.]|external[.]|http[123][.]|internal[.]|lb_|max_|membership_|\
                                 original_|outlier_|retry_|ssl[.]|tls_|update_|version|warming_|upstream_flow_|upstream_http|\
                                 upstream_internal_|upstream_queue_";

/// Bounds of latencies in milliseconds, each at most a tenth above the one before from 10 ms on, to 100 s.
///
/// Envoy counts whole milliseconds, rounded down, keeps the two first digits of that, and counts into a bucket what begins at or
/// below its bound: with a half less than a number of two digits, the bucket ends exactly there.
fn latency_bounds() -> Vec<f64> {
    const UNITS: std::ops::RangeInclusive<u32> = 1..=10;
    const TENS: [u32; 29] = [
        11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24, 26, 28, 30, 33, 36, 39, 42, 46, 50, 55, 60, 66, 72, 79, 86, 94,
        100,
    ];
    let decade = |factor: u32| TENS.into_iter().map(move |tens| tens * factor);
    let all = UNITS.chain(decade(1)).chain(decade(10)).chain(decade(100)).chain(decade(1_000));
    all.map(|bound| f64::from(bound) - 0.5).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_known_within_a_tenth() {
        let bounds = latency_bounds();
        assert_eq!((bounds[0], bounds[bounds.len() - 1]), (0.5, 99_999.5));
        for pair in bounds.windows(2) {
            let (lower, upper) = (pair[0] + 0.5, pair[1] + 0.5);
            assert!(lower < upper && (upper <= 10.0 || upper / lower <= 1.1), "{lower} to {upper}");
        }
    }

    #[test]
    fn a_duration_is_written_as_protobuf_reads_it() {
        assert_eq!(flush_interval(Duration::from_millis(250)), "0.250s");
        assert_eq!(flush_interval(Duration::from_millis(1_050)), "1.050s");
    }
}

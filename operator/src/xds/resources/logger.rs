//! Access loggers that write nothing to a disk.
//!
//! They count requests by what only the route or the application's trailers know, in counters that the proxy streams to Weir; some of
//! those of the way out tell Weir itself which hosts were called that nothing is known of.

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::{
                AccessLog, AccessLogFilter, AndFilter, ExtensionFilter, GrpcStatusFilter, HeaderFilter, access_log,
                access_log_filter::FilterSpecifier, extension_filter, grpc_status_filter::Status,
            },
            core::v3::{
                ApiVersion, GrpcService,
                grpc_service::{EnvoyGrpc, TargetSpecifier},
            },
            route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
        },
        extensions::access_loggers::{
            filters::cel::v3::ExpressionFilter,
            grpc::v3::{CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig},
            stats::v3::{
                Config,
                config::{Counter, Stat, Tag},
            },
        },
        r#type::{
            matcher::v3::{StringMatcher, string_matcher::MatchPattern},
            v3::Scope,
        },
    },
    google::protobuf::{Any, Duration, UInt32Value, UInt64Value},
};

use crate::xds::{names, resources::any};

/// What 5xx is among gRPC's codes: the server is to blame, not the call.
const FAILED: [Status; 6] = [
    Status::Unknown,
    Status::DeadlineExceeded,
    Status::Unimplemented,
    Status::Internal,
    Status::Unavailable,
    Status::DataLoss,
];

pub(super) fn build() -> Vec<AccessLog> {
    let classes = format!("%METADATA(ROUTE:{}:{})%", names::METADATA, names::CLASSES_KEY);
    vec![
        counter(names::DEMAND_COUNTER, &[(names::CLASSES_TAG, &classes)], None),
        counter(names::GRPC_FAILED_COUNTER, &[FLAGS], Some(failed_grpc())),
    ]
}

/// For a listener of the way out: counts the gRPC calls that failed, which is in no statistic of their cluster.
pub(super) fn on_the_way_out() -> AccessLog {
    let tags = [(names::CLUSTER_TAG, "%UPSTREAM_CLUSTER%"), FLAGS];
    counter(names::GRPC_FAILED_AT_COUNTER, &tags, Some(failed_grpc()))
}

/// For a listener of the way out: tells Weir of requests that took one of [`names::UNKNOWN_ROUTES`], within a tenth of a second of
/// their end. Others cost one comparison.
#[must_use]
pub fn unknown_hosts() -> AccessLog {
    let routes: Vec<String> = names::UNKNOWN_ROUTES.iter().map(|route| format!("'{route}'")).collect();
    let filter = ExpressionFilter {
        expression: format!("xds.route_name in [{}]", routes.join(", ")),
        ..ExpressionFilter::default()
    };
    let filter = ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".into(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(any(&filter))),
    };
    let config = HttpGrpcAccessLogConfig { common_config: Some(to_weir()), ..HttpGrpcAccessLogConfig::default() };
    AccessLog {
        filter: Some(AccessLogFilter { filter_specifier: Some(FilterSpecifier::ExtensionFilter(filter)) }),
        ..unknown(any(&config))
    }
}

/// For a filter chain that takes the bytes of connections to what nothing is known of: tells Weir of all of them. When, is the
/// affair of `tcp_proxy`'s `access_log_options`: by itself when they end.
#[must_use]
pub fn unknown_destinations() -> AccessLog {
    unknown(any(&TcpGrpcAccessLogConfig { common_config: Some(to_weir()) }))
}

fn unknown(config: Any) -> AccessLog {
    AccessLog {
        name: names::UNKNOWN_LOG.into(),
        config_type: Some(access_log::ConfigType::TypedConfig(config)),
        ..AccessLog::default()
    }
}

/// One stream of each worker thread, by the connection that carries xDS, with its credential.
fn to_weir() -> CommonGrpcAccessLogConfig {
    /// A learned host is asked for again at once: what is gathered for longer would be called again meanwhile.
    const EVERY: Duration = Duration { seconds: 0, nanos: 100_000_000 };
    /// Sent before that when so much was gathered.
    const BYTES: u32 = 16 << 10;
    let grpc = EnvoyGrpc { cluster_name: names::WEIR_CLUSTER.into(), ..EnvoyGrpc::default() };
    CommonGrpcAccessLogConfig {
        log_name: names::UNKNOWN_LOG.into(),
        grpc_service: Some(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(grpc)),
            ..GrpcService::default()
        }),
        transport_api_version: ApiVersion::V3.into(),
        buffer_flush_interval: Some(EVERY),
        buffer_size_bytes: Some(UInt32Value { value: BYTES }),
        ..CommonGrpcAccessLogConfig::default()
    }
}

const FLAGS: (&str, &str) = (names::FLAGS_TAG, "%RESPONSE_FLAGS%");

fn counter(name: &str, tags: &[(&str, &str)], filter: Option<AccessLogFilter>) -> AccessLog {
    let tag = |(name, value): &(&str, &str)| Tag { name: (*name).into(), value_format: (*value).into(), rules: None };
    let counter = Counter {
        stat: Some(Stat { name: name.into(), tags: tags.iter().map(tag).collect() }),
        value_fixed: Some(UInt64Value { value: 1 }),
        ..Counter::default()
    };
    let config = Config {
        stats_scope: Some(Scope { prefix: names::LOGGED_PREFIX.into(), ..Scope::default() }),
        counters: vec![counter],
        ..Config::default()
    };
    AccessLog {
        name: format!("{}.{name}", names::LOGGED_PREFIX),
        filter,
        config_type: Some(access_log::ConfigType::TypedConfig(any(&config))),
    }
}

/// Envoy guesses a status for answers that have none, so the request must be gRPC's.
fn failed_grpc() -> AccessLogFilter {
    let is = |specifier| AccessLogFilter { filter_specifier: Some(specifier) };
    let prefix = StringMatcher {
        match_pattern: Some(MatchPattern::Prefix("application/grpc".into())),
        ..StringMatcher::default()
    };
    let content_type = HeaderMatcher {
        name: "content-type".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(prefix)),
        ..HeaderMatcher::default()
    };
    let grpc = is(FilterSpecifier::HeaderFilter(HeaderFilter { header: Some(content_type) }));
    let failed = is(FilterSpecifier::GrpcStatusFilter(GrpcStatusFilter {
        statuses: FAILED.map(Into::into).into(),
        ..GrpcStatusFilter::default()
    }));
    is(FilterSpecifier::AndFilter(AndFilter { filters: vec![grpc, failed] }))
}

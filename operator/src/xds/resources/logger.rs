//! Access loggers that write nothing: they count requests by what only the route or the application's trailers know, in counters
//! that the proxy streams to Weir.

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::{
                AccessLog, AccessLogFilter, AndFilter, GrpcStatusFilter, HeaderFilter, access_log,
                access_log_filter::FilterSpecifier, grpc_status_filter::Status,
            },
            route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
        },
        extensions::access_loggers::stats::v3::{
            Config,
            config::{Counter, Stat, Tag},
        },
        r#type::{
            matcher::v3::{StringMatcher, string_matcher::MatchPattern},
            v3::Scope,
        },
    },
    google::protobuf::UInt64Value,
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
        counter(names::DEMAND_COUNTER, names::CLASSES_TAG, &classes, None),
        counter(names::GRPC_FAILED_COUNTER, names::FLAGS_TAG, "%RESPONSE_FLAGS%", Some(failed_grpc())),
    ]
}

fn counter(name: &str, tag: &str, value: &str, filter: Option<AccessLogFilter>) -> AccessLog {
    let tag = Tag { name: tag.into(), value_format: value.into(), rules: None };
    let counter = Counter {
        stat: Some(Stat { name: name.into(), tags: vec![tag] }),
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

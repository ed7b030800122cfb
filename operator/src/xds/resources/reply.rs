//! What a refused request is told: when to try again, under which quota, and by whom it was refused.
//!
//! The numbers stand in the route's metadata beside the costs, so they move without the listener. Header values are made of
//! Weir's numbers and fixed words only: nothing of a request or of a policy's text gets into them. What the application itself
//! answers is left alone.

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::{
                AccessLogFilter, ComparisonFilter, ResponseFlagFilter, StatusCodeFilter,
                access_log_filter::FilterSpecifier, comparison_filter,
            },
            core::v3::{
                DataSource, HeaderValue, HeaderValueOption, RuntimeUInt32, data_source::Specifier,
                header_value_option::HeaderAppendAction,
            },
        },
        extensions::filters::network::http_connection_manager::v3::{LocalReplyConfig, ResponseMapper},
    },
    google::protobuf::{Value, value::Kind},
};

use ::limiter::quota::Rate;

use crate::xds::{
    names,
    resources::{listener::Written, slots::SlotKind},
};

/// Body of a 429, and the message of a refused gRPC call.
const OVER_LIMIT: &str = "refused by weir: over the rate limit";
/// Body of a 503 for which there was no room, and the message of such a gRPC call.
const QUEUE_FULL: &str = "refused by weir: the queue is full";
/// Longest time that a client is told to wait, in seconds: 7 days, as the slowest bucket.
const MOST_SECONDS: u64 = 604_800;

/// The filter whose limits are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LimitFilter {
    /// [`names::NARROW_FILTER`].
    Narrow,
    /// [`names::SERVICE_FILTER`].
    Service,
}

impl LimitFilter {
    /// The filter that a kind of limit stands in; none for those that refuse nothing.
    pub(super) const fn of(kind: &SlotKind) -> Option<Self> {
        match kind {
            SlotKind::Header(_) | SlotKind::ClientIp | SlotKind::Plain => Some(Self::Narrow),
            SlotKind::Service => Some(Self::Service),
            SlotKind::Shadow(..) => None,
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Narrow => "narrow",
            Self::Service => "service",
        }
    }
}

/// Metadata that the headers of [`headers()`] read, for the strictest of a route's limits in a filter.
pub(super) fn metadata(filter: LimitFilter, rate: &Rate) -> [(String, Value); 2] {
    let Quota { requests, window, retry } = Quota::of(rate);
    let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
    let suffix = filter.suffix();
    [
        (format!("retry-{suffix}"), text(retry.to_string())),
        (format!("quota-{suffix}"), text(format!("q={requests};w={window}"))),
    ]
}

/// Headers that a filter adds to its 429s: `Retry-After`, and those of draft-ietf-httpapi-ratelimit-headers-10.
pub(super) fn headers(filter: LimitFilter, written: Written) -> Vec<HeaderValueOption> {
    let number = |key: &str| written.read(&format!("{key}-{}", filter.suffix()));
    vec![
        header("retry-after", number("retry")),
        header("ratelimit-policy", format!("\"weir\";{}", number("quota"))),
        header("ratelimit", format!("\"weir\";r=0;t={}", number("retry"))),
    ]
}

/// Bodies of Envoy's own answers to refused requests.
pub(super) fn config() -> LocalReplyConfig {
    // The filter sets its flag, `RL`, only after its answer has been written. No other part of the proxy answers 429.
    let over_limit = FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
        comparison: Some(ComparisonFilter {
            op: comparison_filter::Op::Eq.into(),
            value: Some(RuntimeUInt32 { default_value: 429, runtime_key: names::OVER_LIMIT_RUNTIME_KEY.into() }),
        }),
    });
    let queue_full = FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter { flags: vec!["UO".to_owned()] });
    let mapper = |filter, body: &str, headers_to_add| ResponseMapper {
        filter: Some(AccessLogFilter { filter_specifier: Some(filter) }),
        body: Some(DataSource { specifier: Some(Specifier::InlineString(body.to_owned())), ..DataSource::default() }),
        headers_to_add,
        ..ResponseMapper::default()
    };
    let mappers = vec![
        mapper(over_limit, OVER_LIMIT, Vec::new()),
        // Room comes with the next answer of the application; one second is the least that the header can say.
        mapper(queue_full, QUEUE_FULL, vec![header("retry-after", "1".to_owned())]),
    ];
    LocalReplyConfig { mappers, ..LocalReplyConfig::default() }
}

fn header(key: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: key.to_owned(), value, ..HeaderValue::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

/// A rate in whole requests and seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quota {
    /// Requests in the window: never more than the rate admits, except that there is at least one, unless the rate is zero.
    requests: u64,
    /// Seconds.
    window: u64,
    /// Seconds until an empty bucket admits one request, at least 1.
    retry: u64,
}

impl Quota {
    fn of(rate: &Rate) -> Self {
        let Rate { milli_requests, interval } = rate;
        let (milli, nanos) = (u128::from(*milli_requests), interval.as_nanos());
        let seconds = |seconds: u128| u64::try_from(seconds).unwrap_or(u64::MAX).clamp(1, MOST_SECONDS);
        let window = seconds(nanos.div_ceil(1_000_000_000));
        if milli == 0 {
            return Self { requests: 0, window, retry: window };
        }
        // Nanoseconds per request, in seconds.
        let retry = seconds((nanos * 1_000).div_ceil(milli * 1_000_000_000));
        match milli * u128::from(window) * 1_000_000 / nanos.max(1) {
            0 => Self { requests: 1, window: retry, retry },
            requests => Self { requests: u64::try_from(requests).unwrap_or(u64::MAX), window, retry },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn quota(milli_requests: u64, interval_ms: u64, expected: (u64, u64, u64)) {
        let quota = Quota::of(&Rate { milli_requests, interval: Duration::from_millis(interval_ms) });
        assert_eq!((quota.requests, quota.window, quota.retry), expected);
    }

    #[test]
    fn a_rate_becomes_whole_requests_and_seconds_and_never_promises_more() {
        const HOUR: u64 = 3_600_000;
        quota(10_000, 1_000, (10, 1, 1));
        quota(33_334, 1_000, (33, 1, 1));
        quota(1_500, 1_000, (1, 1, 1));
        quota(500, 1_000, (1, 2, 2));
        quota(333, 1_000, (1, 4, 4)); // 3.003 s
        quota(5_000, HOUR, (5, 3600, 720));
        quota(7_000, HOUR, (7, 3600, 515));
        quota(1_000, 24 * HOUR, (1, 86_400, 86_400));
        quota(1, 24 * HOUR, (1, MOST_SECONDS, MOST_SECONDS));
        // An article's interval need not be a second.
        quota(10_000, 100, (100, 1, 1));
        quota(30_000, 2_500, (36, 3, 1));
        // The share of a pod for which nothing is left.
        quota(0, 60_000, (0, 60, 60));
        quota(u64::MAX, 1, (u64::MAX, 1, 1));
        quota(1_000, 0, (1_000_000_000, 1, 1));
    }

    #[test]
    fn headers_are_made_of_fixed_words_and_route_metadata() {
        let values: Vec<String> = headers(LimitFilter::Service, Written::InRoute)
            .into_iter()
            .filter_map(|option| Some(option.header?.value))
            .collect();
        let expected = [
            "%METADATA(ROUTE:rl:retry-service)%",
            "\"weir\";%METADATA(ROUTE:rl:quota-service)%",
            "\"weir\";r=0;t=%METADATA(ROUTE:rl:retry-service)%",
        ];
        assert_eq!(values, expected);
        let rate = Rate { milli_requests: 5_000, interval: Duration::from_secs(3600) };
        let metadata = metadata(LimitFilter::Service, &rate);
        let of = |key: &str| metadata.iter().find(|(name, _)| name == key).and_then(|(_, value)| value.kind.clone());
        assert_eq!(of("retry-service"), Some(Kind::StringValue("720".into())));
        assert_eq!(of("quota-service"), Some(Kind::StringValue("q=5;w=3600".into())));
    }
}

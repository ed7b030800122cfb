//! Listeners: one for each inbound port and each way out, with the static limit filters.

use std::net::SocketAddr;

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::AccessLog,
            core::v3::{RuntimeFractionalPercent, TrafficDirection},
            listener::v3::{Filter, FilterChain, Listener, filter},
            route::v3::{
                RateLimit,
                rate_limit::{
                    Action, HitsAddend,
                    action::{ActionSpecifier, GenericKey, MetaData, RemoteAddress, RequestHeaders, meta_data::Source},
                },
            },
        },
        extensions::filters::{
            http::{
                dynamic_forward_proxy::v3::{FilterConfig, filter_config::ImplementationSpecifier},
                local_ratelimit::v3::LocalRateLimit,
                on_demand::v3::OnDemand,
                router::v3::Router,
            },
            network::{
                http_connection_manager::v3::{
                    HttpConnectionManager, HttpFilter, Rds, http_connection_manager, http_filter,
                },
                tcp_proxy::v3::{TcpProxy, tcp_proxy},
            },
        },
        r#type::{
            metadata::v3::{
                MetadataKey,
                metadata_key::{PathSegment, path_segment::Segment},
            },
            v3::{FractionalPercent, TokenBucket},
        },
    },
    google::protobuf::{Any, BoolValue, Duration, UInt32Value},
};

use ::limiter::policy::{EnforceAt, Key, Mode};

use crate::{
    intent::{Inbound, Others, Outbound, Protocol},
    xds::{
        NodeKey, names,
        resources::{
            any, cluster, from_ads, limiter, logger,
            reply::{self, LimitFilter},
            slots::{SlotKind, Slots},
            socket_address,
        },
    },
};

mod intercepted;

/// Buckets kept for each class, least recently used go first; one that comes back is full. Sized for 10,000 clients
/// that are limited one by one.
const MAX_DYNAMIC_DESCRIPTORS: u32 = 10_000;

/// Where a slot's class, bucket and cost stand.
#[derive(Clone, Copy)]
pub(super) enum Written {
    /// In the metadata of the request's route.
    InRoute,
    /// In the metadata of the request, which a filter before wrote.
    ByFilter,
}

impl Written {
    /// A format string that gives the value of `key`.
    pub(super) fn read(self, key: &str) -> String {
        match self {
            Self::InRoute => format!("%METADATA(ROUTE:{}:{key})%", names::METADATA),
            Self::ByFilter => format!("%DYNAMIC_METADATA({}:{key})%", names::METADATA),
        }
    }
}

/// The HTTP filters and access loggers of a service's listeners, encoded once for all its pods.
pub(super) struct Filters {
    http: Vec<HttpFilter>,
    loggers: Vec<AccessLog>,
}

impl Filters {
    /// For inbound ports.
    pub(super) fn new(slots: &Slots) -> Self {
        let names = [names::SHADOW_FILTER_PREFIX, names::NARROW_FILTER, names::SERVICE_FILTER];
        Self { http: filters(slots, names), loggers: logger::build() }
    }

    /// For the way out: under other names, and with a logger of its own, as what is counted under the first ones counts for the
    /// pod's own service.
    pub(super) fn outbound(slots: &Slots) -> Self {
        let names =
            [names::OUTBOUND_SHADOW_FILTER_PREFIX, names::OUTBOUND_NARROW_FILTER, names::OUTBOUND_SERVICE_FILTER];
        Self { http: filters(slots, names), loggers: vec![logger::on_the_way_out()] }
    }
}

/// `names`: of the filters in shadow mode (the beginning), of the narrow and of the service-wide limits.
fn filters(slots: &Slots, names: [&str; 3]) -> Vec<HttpFilter> {
    let [shadow, narrow, service] = names;
    let slot = |kind: &SlotKind, index| rate_limit(&kind.suffix(index), subject(kind), Written::InRoute);
    let enforced = |name: &str, filter: LimitFilter| {
        let of_filter = slots.iter().filter(|(kind, _)| LimitFilter::of(kind) == Some(filter));
        let limits = of_filter.map(|(kind, index)| slot(kind, index)).collect();
        enforcing(name, filter, limits, Written::InRoute)
    };
    // In shadow mode first: what an enforced limit refuses would have come to these, too.
    let shadows = slots.iter().filter_map(|(kind, index)| {
        let SlotKind::Shadow(bucket, _) = kind else { return None };
        let name = format!("{shadow}{bucket}");
        Some(http_filter(&name, any(&limit_filter(&name, Mode::Shadow, vec![slot(kind, index)]))))
    });
    let mut http: Vec<HttpFilter> = shadows.collect();
    // A refused request keeps the tokens it took before. The service-wide limits stand in a filter of their own because
    // within one filter the class decides the order of charging.
    http.extend([
        enforced(narrow, LimitFilter::Narrow),
        enforced(service, LimitFilter::Service),
        http_filter("envoy.filters.http.router", any(&Router::default())),
    ]);
    http
}

/// `intercepted`: connections for its address come from the listener to which iptables hands them, so it does not bind the port,
/// which is the application's.
pub(super) fn build(name: &str, inbound: &Inbound, intercepted: bool, filters: &Filters) -> Listener {
    let stat_prefix = names::inbound_stat_prefix(inbound);
    let network_filter = match inbound.protocol {
        // The client is the peer: what it writes into X-Forwarded-For must not choose its bucket.
        Protocol::Http | Protocol::Http2 => network_filter(HTTP_MANAGER, any(&http(name, &stat_prefix, true, filters))),
        Protocol::Tcp => tcp(name, inbound),
    };
    let built = listener(name, inbound.listener, stat_prefix, TrafficDirection::Inbound, network_filter);
    Listener { bind_to_port: intercepted.then_some(BoolValue { value: false }), ..built }
}

/// A listener for requests to other services.
pub(super) fn outbound(name: &str, node: &NodeKey, outbound: &Outbound, filters: &Filters) -> Listener {
    let stat_prefix = names::outbound_stat_prefix(outbound);
    // The application speaks for whoever called it; a gateway's clients speak for themselves.
    let mut manager = http(name, &stat_prefix, outbound.place == EnforceAt::Gateway, filters);
    if let Some(partial) = &outbound.partial {
        // Before all others, so that they see the route; it is also what bounds the time that a request is held.
        manager.http_filters.insert(0, http_filter("envoy.filters.http.on_demand", any(&OnDemand::default())));
        // What goes elsewhere meanwhile is learned from.
        if matches!(partial.others, Others::Sent(_) | Others::PassedOn | Others::Refused) {
            manager.access_log.push(logger::unknown_hosts());
        }
        manager.stream_idle_timeout = Some(Duration { seconds: partial.hold_seconds.into(), nanos: 0 });
        if partial.passes_on() && outbound.intercepted.is_none() {
            let config = FilterConfig {
                implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(cluster::dns_cache())),
                ..FilterConfig::default()
            };
            let before_router = manager.http_filters.len() - 1;
            let filter = http_filter("envoy.filters.http.dynamic_forward_proxy", any(&config));
            manager.http_filters.insert(before_router, filter);
        }
    }
    let network_filter = network_filter(HTTP_MANAGER, any(&manager));
    let built = listener(name, outbound.listener, stat_prefix, TrafficDirection::Outbound, network_filter);
    match &outbound.intercepted {
        None => built,
        Some(intercepted) => intercepted::listener(built, node, outbound, intercepted),
    }
}

fn listener(
    name: &str,
    address: SocketAddr,
    stat_prefix: String,
    direction: TrafficDirection,
    network_filter: Filter,
) -> Listener {
    Listener {
        name: name.into(),
        address: Some(socket_address(address)),
        stat_prefix,
        traffic_direction: direction.into(),
        filter_chains: vec![FilterChain { filters: vec![network_filter], ..FilterChain::default() }],
        ..Listener::default()
    }
}

const HTTP_MANAGER: &str = "envoy.filters.network.http_connection_manager";

fn http(name: &str, stat_prefix: &str, client_is_peer: bool, filters: &Filters) -> HttpConnectionManager {
    let upgrade = http_connection_manager::UpgradeConfig { upgrade_type: "websocket".into(), ..Default::default() };
    HttpConnectionManager {
        codec_type: http_connection_manager::CodecType::Auto.into(),
        stat_prefix: stat_prefix.into(),
        http_filters: filters.http.clone(),
        access_log: filters.loggers.clone(),
        server_header_transformation: http_connection_manager::ServerHeaderTransformation::PassThrough.into(),
        use_remote_address: Some(BoolValue { value: client_is_peer }),
        // `/a/../b` is what the application will take it for.
        normalize_path: Some(BoolValue { value: true }),
        upgrade_configs: vec![upgrade],
        local_reply_config: Some(reply::config()),
        route_specifier: Some(http_connection_manager::RouteSpecifier::Rds(Rds {
            config_source: Some(from_ads()),
            route_config_name: name.into(),
        })),
        ..HttpConnectionManager::default()
    }
}

fn tcp(name: &str, inbound: &Inbound) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: names::inbound_stat_prefix(inbound),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(name.into())),
        ..TcpProxy::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", any(&proxy))
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter { name: name.into(), config_type: Some(filter::ConfigType::TypedConfig(config)) }
}

fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

/// A filter that refuses what is over its limits.
pub(super) fn enforcing(name: &str, filter: LimitFilter, slots: Vec<RateLimit>, written: Written) -> HttpFilter {
    let config = LocalRateLimit {
        response_headers_to_add: reply::headers(filter, written),
        ..limit_filter(name, Mode::Enforce, slots)
    };
    http_filter(name, any(&config))
}

fn limit_filter(stat_prefix: &str, mode: Mode, rate_limits: Vec<RateLimit>) -> LocalRateLimit {
    let all = Some(FractionalPercent { numerator: 100, ..FractionalPercent::default() });
    let enforced = match mode {
        Mode::Enforce => {
            RuntimeFractionalPercent { default_value: all, runtime_key: names::ENFORCED_RUNTIME_KEY.into() }
        }
        Mode::Shadow => {
            RuntimeFractionalPercent { default_value: Some(FractionalPercent::default()), runtime_key: String::new() }
        }
    };
    LocalRateLimit {
        stat_prefix: stat_prefix.into(),
        // The bucket of requests that no descriptor fits must exist; it never runs empty.
        token_bucket: Some(TokenBucket {
            max_tokens: 4_000_000_000,
            tokens_per_fill: Some(UInt32Value { value: 4_000_000_000 }),
            fill_interval: Some(Duration { seconds: 1, nanos: 0 }),
        }),
        always_consume_default_token_bucket: Some(BoolValue { value: false }),
        filter_enabled: Some(RuntimeFractionalPercent { default_value: all, runtime_key: String::new() }),
        filter_enforced: Some(enforced),
        rate_limited_as_resource_exhausted: true,
        max_dynamic_descriptors: Some(UInt32Value { value: MAX_DYNAMIC_DESCRIPTORS }),
        descriptors: limiter::descriptors(),
        rate_limits,
        ..LocalRateLimit::default()
    }
}

/// One slot. `skip_if_absent` must stay false: with it a shorter descriptor would go out, without it the slot is skipped
/// when there is nothing for it in the metadata, or the request has not the header.
pub(super) fn rate_limit(suffix: &str, subject: ActionSpecifier, written: Written) -> RateLimit {
    let actions = [
        from_metadata(limiter::CLASS_KEY, format!("class{suffix}"), written),
        from_metadata(limiter::BUCKET_KEY, format!("bucket{suffix}"), written),
        subject,
    ];
    RateLimit {
        actions: actions.map(|action| Action { action_specifier: Some(action) }).into(),
        hits_addend: Some(HitsAddend { format: written.read(&format!("cost{suffix}")), ..HitsAddend::default() }),
        ..RateLimit::default()
    }
}

/// What separate buckets are kept for.
pub(super) fn subject(kind: &SlotKind) -> ActionSpecifier {
    let header = |name: &String| {
        ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: name.clone(),
            descriptor_key: limiter::SUBJECT_KEY.into(),
            skip_if_absent: false,
        })
    };
    match kind {
        SlotKind::Header(name) | SlotKind::Shadow(_, Some(Key::Header(name))) => header(name),
        // Its key is `remote_address`.
        SlotKind::ClientIp | SlotKind::Shadow(_, Some(Key::ClientIp)) => {
            ActionSpecifier::RemoteAddress(RemoteAddress {})
        }
        SlotKind::Plain | SlotKind::Service | SlotKind::Shadow(_, None) => ActionSpecifier::GenericKey(GenericKey {
            descriptor_key: limiter::SUBJECT_KEY.into(),
            descriptor_value: limiter::NO_SUBJECT.into(),
            ..GenericKey::default()
        }),
    }
}

pub(super) fn from_metadata(descriptor_key: &str, key: String, written: Written) -> ActionSpecifier {
    ActionSpecifier::Metadata(MetaData {
        descriptor_key: descriptor_key.into(),
        metadata_key: Some(MetadataKey {
            key: names::METADATA.into(),
            path: vec![PathSegment { segment: Some(Segment::Key(key)) }],
        }),
        source: match written {
            Written::InRoute => Source::RouteEntry,
            Written::ByFilter => Source::Dynamic,
        }
        .into(),
        ..MetaData::default()
    })
}

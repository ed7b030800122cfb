//! The listener to which iptables hands all that the application sends: what is spoken is found out, then each protocol has its way.
//!
//! ```text
//! HTTP -> by host    TLS -> by name    bytes -> by address
//! ```

use std::{collections::BTreeMap, net::IpAddr};

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::{CidrRange, DataSource, SubstitutionFormatString, data_source, substitution_format_string},
            listener::v3::{
                Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, ListenerFilterChainMatchPredicate,
                listener_filter, listener_filter_chain_match_predicate as predicate,
            },
        },
        extensions::filters::{
            common::set_filter_state::v3::{FilterStateValue, filter_state_value},
            listener::{
                http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst, tls_inspector::v3::TlsInspector,
            },
            network::{
                set_filter_state::v3::Config as SetFilterState,
                tcp_proxy::v3::{TcpProxy, tcp_proxy},
            },
        },
        r#type::v3::Int32Range,
    },
    google::protobuf::{Any, Duration, UInt32Value},
};

use super::network_filter;
use crate::{
    intent::{Intercepted, Outbound, Strays},
    xds::{
        NodeKey, names,
        resources::{any, from_ads},
    },
};

/// How long a client may be silent before its connection counts as bytes, in nanoseconds: the server may be the one who speaks first.
const SILENCE_NANOS: i32 = 200_000_000;
/// How long a connection that is not HTTP waits for Weir, in seconds.
const WAIT_SECONDS: i64 = 5;
/// Ports by custom of protocols in which the server speaks first, or where the first bytes say nothing: nobody waits there for the client.
/// FTP, SSH, Telnet, SMTP, POP3, IMAP, SQL Server, Oracle, NATS, MySQL, PostgreSQL, AMQP, Redis, Kafka, Memcached, MongoDB, OpenWire.
const SERVER_FIRST: [u16; 20] =
    [21, 22, 23, 25, 110, 143, 587, 1433, 1521, 4222, 3306, 5432, 5672, 6379, 6380, 9092, 11211, 27017, 33060, 61616];
const HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

/// `listener`, which has the filter chain for HTTP, with all others.
pub(super) fn listener(listener: Listener, node: &NodeKey, outbound: &Outbound, intercepted: &Intercepted) -> Listener {
    let Listener { filter_chains, stat_prefix, .. } = listener;
    let http: Vec<Filter> = filter_chains.into_iter().flat_map(|chain| chain.filters).collect();
    let chain = |name: &str, matches: FilterChainMatch, filters: Vec<Filter>| FilterChain {
        name: name.into(),
        filter_chain_match: Some(matches),
        filters,
        ..FilterChain::default()
    };
    let port = |port: u16| Some(UInt32Value { value: port.into() });
    let is_http = |destination_port| FilterChainMatch {
        destination_port,
        // In TLS the same words may be said.
        transport_protocol: "raw_buffer".into(),
        application_protocols: HTTP.map(Into::into).into(),
        ..FilterChainMatch::default()
    };
    let is_tls = |destination_port| FilterChainMatch {
        destination_port,
        transport_protocol: "tls".into(),
        ..FilterChainMatch::default()
    };
    let tls = strays("tls", &names::stream_by_name(node), intercepted.others);
    let own = outbound.listener.port();
    let mut chains = vec![
        // Nothing was handed here: whoever calls this port itself would go round in a circle.
        chain(
            "own",
            FilterChainMatch { destination_port: port(own), ..FilterChainMatch::default() },
            vec![proxy("own", names::REFUSED_CLUSTER, false)],
        ),
        chain("http", is_http(None), http.clone()),
        chain("tls", is_tls(None), tls.clone()),
    ];
    let services = intercepted.services.iter();
    let services = services.map(|(key, addresses)| (names::destination(node, key), key.port, addresses.clone()));
    let passed_on = intercepted.passed_on.iter();
    let passed_on = passed_on.map(|to| (names::ORIGINAL_CLUSTER.to_owned(), to.port(), vec![to.ip()]));
    let mut by_port: BTreeMap<u16, Vec<FilterChain>> = BTreeMap::new();
    for (cluster, number, addresses) in services.chain(passed_on).filter(|(_, number, _)| *number != own) {
        // IPv6 does not come here.
        let ranges: Vec<CidrRange> = addresses.iter().filter(|address| address.is_ipv4()).map(only).collect();
        if ranges.is_empty() {
            continue;
        }
        let matches =
            FilterChainMatch { destination_port: port(number), prefix_ranges: ranges, ..FilterChainMatch::default() };
        by_port.entry(number).or_default().push(chain(&cluster, matches, vec![proxy("tcp", &cluster, false)]));
    }
    for (number, of_port) in by_port {
        // Envoy takes a chain of the port, if there is any, so it needs the others too.
        chains.extend(of_port);
        chains.push(chain(&format!("http {number}"), is_http(port(number)), http.clone()));
        chains.push(chain(&format!("tls {number}"), is_tls(port(number)), tls.clone()));
    }
    let bytes = strays("tcp", &names::stream_by_address(node), intercepted.others);
    Listener {
        listener_filters: vec![
            listener_filter("envoy.filters.listener.original_dst", any(&OriginalDst::default()), None),
            listener_filter(
                "envoy.filters.listener.tls_inspector",
                any(&TlsInspector::default()),
                Some(server_first()),
            ),
            listener_filter("envoy.filters.listener.http_inspector", any(&HttpInspector {}), Some(server_first())),
        ],
        listener_filters_timeout: Some(Duration { seconds: 0, nanos: SILENCE_NANOS }),
        continue_on_listener_filters_timeout: true,
        default_filter_chain: Some(FilterChain { name: "tcp".into(), filters: bytes, ..FilterChain::default() }),
        filter_chains: chains,
        stat_prefix,
        ..listener
    }
}

/// What happens to connections of which no Service is known yet, whose clusters have the names that `format` makes.
fn strays(what: &str, format: &str, others: Strays) -> Vec<Filter> {
    match others {
        Strays::PassedOn => vec![proxy(what, names::ORIGINAL_CLUSTER, false)],
        Strays::Asked | Strays::Known => {
            let format = DataSource {
                specifier: Some(data_source::Specifier::InlineString(format.to_owned())),
                ..DataSource::default()
            };
            let format = SubstitutionFormatString {
                format: Some(substitution_format_string::Format::TextFormatSource(format)),
                ..SubstitutionFormatString::default()
            };
            let value = FilterStateValue {
                key: Some(filter_state_value::Key::ObjectKey("envoy.tcp_proxy.cluster".into())),
                value: Some(filter_state_value::Value::FormatString(format)),
                ..FilterStateValue::default()
            };
            let state = SetFilterState { on_new_connection: vec![value], ..SetFilterState::default() };
            let chooses = network_filter("envoy.filters.network.set_filter_state", any(&state));
            vec![chooses, proxy(what, names::REFUSED_CLUSTER, others == Strays::Asked)]
        }
    }
}

/// Passes bytes on. `asks`: for the cluster, when it is not there.
fn proxy(what: &str, cluster: &str, asks: bool) -> Filter {
    let on_demand = asks.then(|| tcp_proxy::OnDemand {
        odcds_config: Some(from_ads()),
        timeout: Some(Duration { seconds: WAIT_SECONDS, nanos: 0 }),
        ..tcp_proxy::OnDemand::default()
    });
    let config = TcpProxy {
        stat_prefix: format!("out_{what}"),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        on_demand,
        ..TcpProxy::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", any(&config))
}

fn listener_filter(
    name: &str,
    config: Any,
    filter_disabled: Option<ListenerFilterChainMatchPredicate>,
) -> ListenerFilter {
    ListenerFilter {
        name: name.into(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        filter_disabled,
    }
}

fn server_first() -> ListenerFilterChainMatchPredicate {
    let one = |port: u16| {
        let range = Int32Range { start: port.into(), end: i32::from(port) + 1 };
        ListenerFilterChainMatchPredicate { rule: Some(predicate::Rule::DestinationPortRange(range)) }
    };
    let rules = predicate::MatchSet { rules: SERVER_FIRST.map(one).into() };
    ListenerFilterChainMatchPredicate { rule: Some(predicate::Rule::OrMatch(rules)) }
}

fn only(address: &IpAddr) -> CidrRange {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    CidrRange { address_prefix: address.to_string(), prefix_len: Some(UInt32Value { value: bits }) }
}

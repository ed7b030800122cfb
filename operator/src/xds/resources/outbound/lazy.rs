//! A way out on which only some hosts are there: each is a resource by itself, and Envoy asks for others by VHDS.
//!
//! Envoy asks once for a name and remembers that it was answered. It asks again when the subscription of the route configuration is another one,
//! which a changed timeout makes it: so what is forgotten is taken away after the round has moved. What it had stays there meanwhile.

use std::sync::Arc;

use envoy_types::pb::{
    envoy::config::{
        core::v3::ConfigSource,
        route::v3::{RouteConfiguration, Vhds, VirtualHost},
    },
    google::protobuf::Duration,
};
use prost::Message;

use ::limiter::policy::EnforceAt;

use super::{
    super::{Old, Resource, also_named, from_ads, route as routes, version},
    GENERATOR, all_to, named, refusal, unknown_host,
};
use crate::{
    intent::{Host, Others, Partial},
    xds::{NodeKey, ResourceType, names},
};

/// Envoy holds its start, and that of every new subscription, until it has the first host, for at most this and the round.
const WAIT_MS: u32 = 50;
/// How long a request may be silent: Envoy's own default.
const IDLE_SECONDS: i64 = 300;
/// A domain that no request names, for the host that answers for those which can be none.
const NO_DOMAIN: &str = "none.weir.invalid";

/// Adds the route configuration `name` and its hosts.
pub(super) fn add(
    node: &NodeKey,
    name: &Arc<str>,
    partial: &Partial,
    intercepted: bool,
    hosts: &[Arc<Host>],
    old: &mut Old,
    resources: &mut Vec<Resource>,
) {
    let what = if intercepted { "intercepted partial" } else { "partial" };
    let of_routes = names::version_of_round(&version(&(GENERATOR, what, &partial.others)), partial.round);
    resources.push(old.or_encode(ResourceType::Route, node, name, of_routes, &mut || {
        configuration(name, node, partial, intercepted)
    }));
    for host in hosts {
        let full: Arc<str> = names::virtual_host(name, &host.name).into();
        let of_host = version(&(GENERATOR, "host", host));
        let needs =
            host.routes.iter().flat_map(|forward| &forward.to).map(|(key, _)| names::destination(node, key).into());
        let needs: Arc<[Arc<str>]> = needs.collect();
        let mut resource =
            old.or_encode(ResourceType::VirtualHost, node, &full, of_host, &mut || virtual_host(&full, node, host));
        if resource.needs.is_none() {
            // It is a new one. Whichever of its names was asked for, this answers.
            let aliases: Vec<String> = host.domains.iter().map(|domain| names::virtual_host(name, domain)).collect();
            resource.encoded = also_named(&resource.encoded, &aliases);
            resource.needs = Some(needs);
        }
        resources.push(resource);
    }
}

fn configuration(name: &str, node: &NodeKey, partial: &Partial, intercepted: bool) -> Vec<u8> {
    let source = ConfigSource { initial_fetch_timeout: Some(wait(partial.round)), ..from_ads() };
    let empty = RouteConfiguration {
        name: name.into(),
        vhds: Some(Vhds { config_source: Some(source) }),
        ..RouteConfiguration::default()
    };
    let others = match &partial.others {
        // A host that takes all would keep Envoy from asking.
        Others::Asked => None,
        Others::Refused => Some(refusal(names::UNKNOWN_HOST, 404, unknown_host(EnforceAt::Client))),
        Others::Sent(to) => Some(all_to(names::destination(node, to))),
        Others::PassedOn if intercepted => Some(all_to(names::ORIGINAL_CLUSTER.into())),
        Others::PassedOn => Some(all_to(names::PASSTHROUGH_CLUSTER.into())),
    };
    let others = others.map(|route| VirtualHost {
        name: route.name.clone(),
        domains: vec!["*".into()],
        routes: vec![route],
        ..VirtualHost::default()
    });
    routes::configuration(empty, others.map(|host| host.encode_to_vec()))
}

/// Another wait for each round, so that each makes another subscription.
fn wait(round: u32) -> Duration {
    let nanos = (WAIT_MS + round % 500) * 1_000_000;
    Duration { seconds: 0, nanos: i32::try_from(nanos).unwrap_or_default() }
}

fn virtual_host(name: &str, node: &NodeKey, host: &Host) -> Vec<u8> {
    let domains = if host.domains.is_empty() { vec![NO_DOMAIN.to_owned()] } else { host.domains.clone() };
    // Envoy removes it by this name.
    let head = VirtualHost { name: name.into(), domains, ..VirtualHost::default() };
    if host.routes.is_empty() {
        let route = refusal(names::UNKNOWN_HOST, 404, unknown_host(EnforceAt::Client));
        return VirtualHost { routes: vec![route], ..head }.encode_to_vec();
    }
    // The listener's own is how long a request is held for its host.
    named(head, node, EnforceAt::Client, host, Some(Duration { seconds: IDLE_SECONDS, nanos: 0 }))
}

use std::collections::BTreeSet;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::xds::{
    table::Entry,
    wire::{self, Status},
};

/// A view with these names in each type.
fn view([clusters, endpoints, listeners, routes]: [&[(&str, &str)]; 4]) -> View {
    let names: [&[(&str, &str)]; ResourceType::COUNT] = [&[], clusters, endpoints, &[], listeners, routes, &[]];
    names.map(|of_type| {
        Arc::new(of_type.iter().map(|(name, version)| (Arc::from(*name), entry(name, version))).collect())
    })
}

fn entry(name: &str, version: &str) -> Entry {
    let resource = wire::Resource { name: name.into(), version: version.into(), resource: None, aliases: Vec::new() };
    Entry { version: version.into(), encoded: resource.encode_to_vec().into(), needs: None }
}

fn port(version: &str) -> View {
    view([&[("a", version)], &[("a", "1")], &[("a", "1")], &[("a", version)]])
}

fn subscribe(session: &mut Session, resource_type: ResourceType, names: &[&str]) {
    let request = DeltaDiscoveryRequest {
        type_url: resource_type.type_url().into(),
        resource_names_subscribe: names.iter().map(|name| (*name).into()).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    session.take(&request).expect("few names");
}

/// Everything the session says now: type, resources, removals.
fn said(session: &mut Session, view: &View) -> Vec<(ResourceType, usize, usize)> {
    let pushes = std::iter::from_fn(|| session.next(view));
    pushes
        .filter_map(|push| {
            let DeltaDiscoveryResponse { resources, removed_resources, .. } = push.response;
            Some((push.resource_type?, resources.len(), removed_resources.len()))
        })
        .collect()
}

fn subscribed() -> Session {
    let mut session = Session::default();
    subscribe(&mut session, ResourceType::Route, &["a"]);
    subscribe(&mut session, ResourceType::Listener, &[]);
    subscribe(&mut session, ResourceType::Endpoints, &["a"]);
    subscribe(&mut session, ResourceType::Cluster, &[]);
    session
}

#[test]
fn changes_go_clusters_first_and_a_changed_cluster_is_followed_by_its_endpoints() {
    use ResourceType::{Cluster, Endpoints, Listener, Route};
    let mut session = subscribed();
    let first = said(&mut session, &port("1"));
    assert_eq!(first, [(Cluster, 1, 0), (Endpoints, 1, 0), (Listener, 1, 0), (Route, 1, 0)]);
    assert!(said(&mut session, &port("1")).is_empty());
    let second = said(&mut session, &port("2"));
    assert_eq!(second, [(Cluster, 1, 0), (Endpoints, 1, 0), (Route, 1, 0)]);
}

#[test]
fn removals_go_the_other_way_round_and_leave_endpoints_of_a_removed_cluster_alone() {
    use ResourceType::{Cluster, Listener, Route};
    let mut session = subscribed();
    said(&mut session, &port("1"));
    let nothing = said(&mut session, &view([&[], &[], &[], &[]]));
    assert_eq!(nothing, [(Route, 0, 1), (Listener, 0, 1), (Cluster, 0, 1)]);
}

#[test]
fn endpoints_that_go_while_their_cluster_stays_are_emptied() {
    let mut session = subscribed();
    said(&mut session, &port("1"));
    let without = view([&[("a", "1")], &[], &[("a", "1")], &[("a", "1")]]);
    let push = session.next(&without).expect("a push");
    assert_eq!(push.resource_type, Some(ResourceType::Endpoints));
    assert!(push.response.removed_resources.is_empty());
    let resource = wire::Resource::decode(push.response.resources[0].clone()).expect("a resource");
    assert_eq!(resource.name, "a");
    assert!(session.next(&without).is_none());
    assert_eq!(said(&mut session, &port("1")), [(ResourceType::Endpoints, 1, 0)]);
}

#[test]
fn routes_lead_elsewhere_before_endpoints_are_emptied() {
    use ResourceType::{Cluster, Endpoints, Route};
    let mut session = subscribed();
    said(&mut session, &port("1"));
    let empty = |cluster| view([&[("a", cluster)], &[("a", "empty")], &[("a", "1")], &[("a", "2")]]);
    assert_eq!(said(&mut session, &empty("1")), [(Route, 1, 0), (Endpoints, 1, 0)]);
    // A cluster that is warmed is told at once that it has none.
    said(&mut session, &port("1"));
    assert_eq!(said(&mut session, &empty("2")), [(Cluster, 1, 0), (Endpoints, 1, 0), (Route, 1, 0)]);
    assert!(said(&mut session, &empty("2")).is_empty());
}

#[test]
fn a_reconnect_with_a_changed_cluster_still_brings_its_endpoints() {
    let mut session = Session::default();
    let resume = |resource_type: ResourceType, names: &[&str]| DeltaDiscoveryRequest {
        type_url: resource_type.type_url().into(),
        resource_names_subscribe: names.iter().map(|name| (*name).into()).collect(),
        initial_resource_versions: [("a".to_owned(), "1".to_owned())].into(),
        ..DeltaDiscoveryRequest::default()
    };
    session.take(&resume(ResourceType::Cluster, &[])).expect("few names");
    assert_eq!(said(&mut session, &port("2")), [(ResourceType::Cluster, 1, 0)]);
    session.take(&resume(ResourceType::Endpoints, &["a"])).expect("few names");
    assert_eq!(said(&mut session, &port("2")), [(ResourceType::Endpoints, 1, 0)]);
}

#[test]
fn a_proxy_without_resources_is_told_so_once() {
    let mut session = subscribed();
    let nothing = view([&[], &[], &[], &[]]);
    let mut answered: Vec<_> = said(&mut session, &nothing).into_iter().map(|(t, ..)| t).collect();
    answered.sort();
    let subscribed = [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener, ResourceType::Route];
    assert_eq!(answered, subscribed);
    assert!(session.next(&nothing).is_none());
}

#[test]
fn a_type_that_is_not_served_is_answered_and_its_answer_is_not() {
    let mut session = Session::default();
    let mut request = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".into(),
        resource_names_subscribe: vec!["default".into()],
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(session.take(&request), Ok(Meaning::Unknown));
    let nothing = view([&[], &[], &[], &[]]);
    let push = session.next(&nothing).expect("an answer");
    assert_eq!(push.response.removed_resources, ["default"]);
    request.resource_names_subscribe.clear();
    request.response_nonce = push.response.nonce;
    assert_eq!(session.take(&request), Ok(Meaning::Unknown));
    assert!(session.next(&nothing).is_none());
    request.response_nonce.clear();
    for _ in 0..MAX_WAITING {
        assert!(session.takes_requests());
        session.take(&request).expect("few names");
    }
    assert!(!session.takes_requests());
}

proptest! {
    /// No sequence of requests makes a session panic, talk for ever, or name what its node does not see.
    #[test]
    fn any_requests_are_survived(
        requests in prop::collection::vec(
            (0..6_usize, prop::collection::vec("[ab*/]{0,3}", 0..4), prop::collection::vec("[ab*]{0,2}", 0..4),
             "[0-9]{0,2}", any::<Option<String>>(), prop::collection::hash_map("[ab]{1,2}", "[12]", 0..3)),
            1..40,
        ),
        versions in prop::collection::vec(0..4_u8, 1..40),
    ) {
        let mut session = Session::default();
        for (n, (t, subscribe, unsubscribe, nonce, error, initial)) in requests.into_iter().enumerate() {
            let type_url = ResourceType::ALL.get(t).map_or("type.googleapis.com/other", |t| t.type_url());
            let request = DeltaDiscoveryRequest {
                type_url: type_url.into(),
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                response_nonce: nonce,
                error_detail: error.map(|message| Status { code: 3, message }),
                initial_resource_versions: initial,
                node: None,
            };
            session.take(&request).expect("few names");
            let version = versions[n % versions.len()].to_string();
            let view = if version == "0" { view([&[], &[], &[], &[]]) } else { port(&version) };
            let mut pushes = 0;
            while let Some(push) = session.next(&view) {
                pushes += 1;
                prop_assert!(pushes < 40);
                let names: BTreeSet<String> = push.response.resources.iter()
                    .map(|bytes| wire::Resource::decode(bytes.clone()).expect("a resource").name)
                    .collect();
                prop_assert!(names.is_subset(&["a".to_owned()].into()));
            }
        }
    }
}

/// A view with the cluster `c` and its endpoints, and this host, which leads there.
fn hosts(names: &[&str]) -> View {
    let mut view = view([&[("c", "1")], &[("c", "1")], &[], &[("rc", "1")]]);
    let needs: crate::xds::resources::Needs = Some([Arc::from("c")].into());
    let host = |name: &&str| (Arc::from(*name), Entry { needs: needs.clone(), ..entry(name, "1") });
    view[ResourceType::VirtualHost.index()] = Arc::new(names.iter().map(host).collect());
    view
}

fn acknowledge(session: &mut Session, resource_type: ResourceType, nonce: &str) {
    let request = DeltaDiscoveryRequest {
        type_url: resource_type.type_url().into(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    };
    session.take(&request).expect("few names");
}

/// Names of the resources in a response, each with the other names that it answers.
fn named(push: &Push) -> Vec<(String, Vec<String>)> {
    let decode = |bytes: &Bytes| wire::Resource::decode(bytes.clone()).expect("a resource");
    push.response.resources.iter().map(decode).map(|resource| (resource.name, resource.aliases)).collect()
}

#[test]
fn a_host_waits_until_the_endpoints_of_its_clusters_are_taken() {
    use ResourceType::{Cluster, Endpoints, Route, VirtualHost};
    let view = hosts(&["rc/a/c/80"]);
    let mut session = Session::default();
    subscribe(&mut session, Cluster, &[]);
    subscribe(&mut session, Route, &["rc"]);
    subscribe(&mut session, VirtualHost, &[]);
    let first = [(Cluster, 1, 0), (Route, 1, 0), (VirtualHost, 0, 0)];
    assert_eq!(said(&mut session, &view), first, "endpoints are not asked for yet");
    subscribe(&mut session, Endpoints, &["c"]);
    let endpoints = session.next(&view).expect("endpoints");
    assert_eq!(endpoints.resource_type, Some(Endpoints));
    assert_eq!(said(&mut session, &view), [], "nor taken");
    acknowledge(&mut session, Endpoints, &endpoints.response.nonce);
    assert_eq!(said(&mut session, &view), [(VirtualHost, 1, 0)]);

    // What Envoy refuses it will not get, so nobody waits for that.
    let mut session = Session::default();
    subscribe(&mut session, Cluster, &[]);
    subscribe(&mut session, VirtualHost, &[]);
    let clusters = session.next(&view).expect("clusters");
    let refusal = DeltaDiscoveryRequest {
        type_url: Cluster.type_url().into(),
        response_nonce: clusters.response.nonce,
        error_detail: Some(Status { code: 13, message: "no".into() }),
        ..DeltaDiscoveryRequest::default()
    };
    session.take(&refusal).expect("few names");
    subscribe(&mut session, Endpoints, &["c"]);
    let endpoints = session.next(&view).expect("endpoints");
    acknowledge(&mut session, Endpoints, &endpoints.response.nonce);
    assert_eq!(said(&mut session, &view), [(VirtualHost, 1, 0)]);
}

#[test]
fn what_is_asked_for_is_answered_by_the_host_that_the_builder_names() {
    use ResourceType::VirtualHost;
    let mut session = Session::default();
    subscribe(&mut session, VirtualHost, &[]);
    assert_eq!(said(&mut session, &hosts(&[])), [(VirtualHost, 0, 0)], "Envoy waits for a first answer");
    subscribe(&mut session, VirtualHost, &["rc/cart"]);
    let mut pace = asks::Pace::new(std::time::Instant::now());
    let mut wishes = || session.wishes().expect("delta").next(&mut pace, std::time::Instant::now());
    assert_eq!(wishes(), Some(asks::Wish::Host("rc/cart".into())));
    assert_eq!(wishes(), None);
    let mut view = hosts(&["rc/shop/cart/80"]);
    Arc::make_mut(&mut view[VirtualHost.index()]).values_mut().for_each(|entry| entry.needs = None);
    session
        .wishes()
        .expect("delta")
        .answered(asks::Answer::Host { asked: "rc/cart".into(), host: "rc/shop/cart/80".into() });
    let push = session.next(&view).expect("the host");
    assert_eq!(named(&push), [("rc/shop/cart/80".to_owned(), vec!["rc/cart".to_owned()])]);
    assert_eq!(said(&mut session, &view), []);

    // Asked for under another name, it is sent once more for that.
    subscribe(&mut session, VirtualHost, &["rc/cart.shop"]);
    session
        .wishes()
        .expect("delta")
        .answered(asks::Answer::Host { asked: "rc/cart.shop".into(), host: "rc/shop/cart/80".into() });
    let push = session.next(&view).expect("the host");
    assert_eq!(named(&push), [("rc/shop/cart/80".to_owned(), vec!["rc/cart.shop".to_owned()])]);

    // One that goes while another comes goes in the same response: they may have the same domain.
    let push = session.next(&hosts(&[])).expect("it goes");
    assert_eq!((push.resource_type, push.response.removed_resources.len()), (Some(VirtualHost), 1));
}

#[test]
fn a_proxy_that_comes_back_with_hosts_is_sent_nothing_while_they_are_looked_at_nor_after() {
    use ResourceType::{Cluster, Route, VirtualHost};
    let node = NodeKey::new("shop", "page", "page-0");
    let mut session = Session::default();
    session.is_of(&node);
    let first = |resource_type: ResourceType, held: &[(&str, &str)], names: &[&str]| DeltaDiscoveryRequest {
        type_url: resource_type.type_url().into(),
        initial_resource_versions: held.iter().map(|(name, version)| ((*name).into(), (*version).into())).collect(),
        resource_names_subscribe: names.iter().map(|name| (*name).into()).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    let (cluster, rc) = ("out/shop/page/page-0/shop/cart/80", "out/shop/page/page-0/15001");
    let host = &*format!("{rc}/shop:cart:80");
    let nothing = view([&[], &[], &[], &[(rc, "x.0")]]);
    session.request(&first(Cluster, &[(cluster, "1")], &["*"]), &nothing).expect("few names");
    assert!(session.next(&nothing).is_none(), "the cluster is not taken away");
    session.request(&first(Route, &[(rc, "x.7")], &[rc]), &nothing).expect("few names");
    session.request(&first(VirtualHost, &[(host, "1")], &["*", &format!("{rc}/cart")]), &nothing).expect("few names");
    let mut pace = asks::Pace::new(std::time::Instant::now());
    let mut wishes = Vec::new();
    while let Some(wish) = session.wishes().expect("delta").next(&mut pace, std::time::Instant::now()) {
        wishes.push(wish);
    }
    let cart: crate::intent::Called = "shop/cart/80".parse().expect("a destination");
    assert_eq!(wishes.len(), 4);
    assert!(
        wishes.contains(&asks::Wish::Has(vec![cart], None)) && wishes.contains(&asks::Wish::Has(Vec::new(), Some(7)))
    );
    let mut known = view([&[(cluster, "1")], &[], &[], &[(rc, "x.7")]]);
    known[VirtualHost.index()] = Arc::new([(Arc::from(host), entry(host, "1"))].into());
    (0..3).for_each(|_| session.wishes().expect("delta").answered(asks::Answer::Looked));
    session
        .wishes()
        .expect("delta")
        .answered(asks::Answer::Host { asked: format!("{rc}/cart").into(), host: host.into() });
    assert_eq!(said(&mut session, &known), []);
}

#[test]
fn a_connection_that_is_asked_for_waits_for_its_cluster_and_is_never_told_that_there_is_none() {
    let node = NodeKey::new("shop", "page", "page-0");
    let mut session = Session::default();
    session.is_of(&node);
    subscribe(&mut session, ResourceType::Cluster, &[]);
    subscribe(&mut session, ResourceType::Endpoints, &[]);
    let nothing = view([&[], &[], &[], &[]]);
    said(&mut session, &nothing);
    let name = "out/shop/page/page-0/@10.96.0.10:5432";
    subscribe(&mut session, ResourceType::Cluster, &[name, name, "out/shop/page/other/+a.example:443"]);
    assert_eq!(said(&mut session, &nothing), [(ResourceType::Cluster, 0, 1)], "the name of another pod's");
    let now = std::time::Instant::now();
    let mut pace = asks::Pace::new(now);
    let wish = session.wishes().expect("delta").next(&mut pace, now);
    assert_eq!(wish, Some(asks::Wish::Stream(Called::Address(([10, 96, 0, 10], 5432).into()))));
    assert_eq!(session.wishes().expect("delta").next(&mut pace, now), None, "once");
    assert_eq!(said(&mut session, &nothing), []);
    let there = view([&[(name, "1")], &[], &[], &[]]);
    assert_eq!(said(&mut session, &there), [(ResourceType::Cluster, 1, 0)]);
    // One that comes back with it is not asked about again, and has it.
    let request = DeltaDiscoveryRequest {
        type_url: ResourceType::Cluster.type_url().into(),
        resource_names_subscribe: ["*", name].map(Into::into).into(),
        initial_resource_versions: [(name.to_owned(), "1".to_owned())].into(),
        ..DeltaDiscoveryRequest::default()
    };
    let mut session = Session::default();
    session.is_of(&node);
    session.request(&request, &there).expect("few names");
    assert_eq!(session.wishes().expect("delta").next(&mut pace, now), None);
    assert_eq!(said(&mut session, &there), []);
}

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
    let names: [&[(&str, &str)]; ResourceType::COUNT] = [&[], clusters, endpoints, &[], listeners, routes];
    names.map(|of_type| {
        let entry = |name: &str, version: &str| {
            let resource = wire::Resource { name: name.into(), version: version.into(), resource: None };
            Entry { version: version.into(), encoded: resource.encode_to_vec().into() }
        };
        Arc::new(of_type.iter().map(|(name, version)| (Arc::from(*name), entry(name, version))).collect())
    })
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

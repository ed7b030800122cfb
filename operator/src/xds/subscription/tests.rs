use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::xds::{
    table::Entry,
    wire::{DeltaDiscoveryRequest, Status},
};

fn view(resources: &[(&str, &str)]) -> Names {
    let entry = |version: &str| Entry { version: version.into(), encoded: bytes::Bytes::new(), needs: None };
    resources.iter().map(|(name, version)| ((*name).into(), entry(version))).collect()
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(|name| (*name).into()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn answer(nonce: u64, error: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: nonce.to_string(),
        error_detail: error.map(|message| Status { code: 13, message: message.into() }),
        ..DeltaDiscoveryRequest::default()
    }
}

fn started(resource_type: ResourceType, first: &DeltaDiscoveryRequest) -> Subscription {
    let mut subscription = Subscription::new(resource_type);
    subscription.request(first).expect("few names");
    subscription
}

fn text(names: &[Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

/// Sends all changes; returns their names.
fn push(subscription: &mut Subscription, nonce: u64, view: &Names) -> Vec<String> {
    let names = subscription.changes(view);
    let held = names.iter().map(|name| (name.clone(), Some(view[name].version.clone()))).collect();
    subscription.sent(nonce, held);
    names.iter().map(|name| name.to_string()).collect()
}

#[test]
fn nothing_is_sent_before_the_first_request() {
    let subscription = Subscription::new(ResourceType::Listener);
    assert!(subscription.changes(&view(&[("a", "1")])).is_empty());
    assert!(!subscription.wants_any_answer());
}

#[test]
fn an_empty_first_request_subscribes_to_all_listeners_but_to_no_routes() {
    let view = view(&[("a", "1"), ("b", "1")]);
    let listeners = started(ResourceType::Listener, &subscribe(&[]));
    assert_eq!(text(&listeners.changes(&view)), ["a", "b"]);
    assert!(listeners.wants_any_answer());
    let routes = started(ResourceType::Route, &subscribe(&[]));
    assert!(routes.changes(&view).is_empty());
    let explicit = started(ResourceType::Route, &subscribe(&["*"]));
    assert_eq!(text(&explicit.changes(&view)), ["a", "b"]);
}

#[test]
fn only_what_differs_is_sent_and_unsubscribing_ends_it() {
    let mut subscription = started(ResourceType::Route, &subscribe(&["a", "b"]));
    assert_eq!(push(&mut subscription, 1, &view(&[("a", "1"), ("b", "1"), ("c", "1")])), ["a", "b"]);
    assert_eq!(push(&mut subscription, 2, &view(&[("a", "1"), ("b", "2"), ("c", "2")])), ["b"]);
    let mut drop_b = subscribe(&[]);
    drop_b.resource_names_unsubscribe = vec!["b".into()];
    subscription.request(&drop_b).expect("few names");
    assert!(subscription.changes(&view(&[("a", "1"), ("b", "3")])).is_empty());
}

#[test]
fn a_reconnecting_proxy_is_sent_only_what_it_does_not_have() {
    let mut first = subscribe(&["a", "b", "gone"]);
    let versions = [("a", "1"), ("b", "0"), ("gone", "1")];
    first.initial_resource_versions = versions.map(|(name, version)| (name.into(), version.into())).into();
    let mut subscription = Subscription::new(ResourceType::Route);
    let mut outcome = subscription.request(&first).expect("few names");
    outcome.holds.sort();
    assert_eq!(outcome.holds.len(), 3);
    let view = view(&[("a", "1"), ("b", "1")]);
    assert_eq!(text(&subscription.changes(&view)), ["b"]);
    assert_eq!(text(&subscription.removals(&view)), ["gone"]);
}

#[test]
fn a_known_name_that_is_subscribed_again_is_answered() {
    let view = view(&[("a", "1")]);
    let mut subscription = started(ResourceType::Route, &subscribe(&["a"]));
    push(&mut subscription, 1, &view);
    assert!(subscription.changes(&view).is_empty());
    subscription.request(&subscribe(&["a"])).expect("few names");
    assert_eq!(text(&subscription.changes(&view)), ["a"]);
}

#[test]
fn an_acknowledgement_says_what_the_proxy_holds() {
    let mut subscription = started(ResourceType::Route, &subscribe(&["a"]));
    push(&mut subscription, 7, &view(&[("a", "1")]));
    let stale = subscription.request(&answer(6, None)).expect("few names");
    assert_eq!(stale, Outcome::default());
    let outcome = subscription.request(&answer(7, None)).expect("few names");
    assert!(outcome.acknowledged);
    assert_eq!(outcome.holds, [("a".into(), Some("1".into()))]);
    let twice = subscription.request(&answer(7, None)).expect("few names");
    assert_eq!(twice, Outcome::default());
}

#[test]
fn a_refused_version_is_not_sent_again_until_it_changes() {
    let (good, bad, better) = (view(&[("a", "1")]), view(&[("a", "2")]), view(&[("a", "3")]));
    let mut subscription = started(ResourceType::Route, &subscribe(&["a"]));
    push(&mut subscription, 1, &good);
    subscription.request(&answer(1, None)).expect("few names");
    push(&mut subscription, 2, &bad);
    let outcome = subscription.request(&answer(2, Some("no"))).expect("few names");
    assert_eq!(outcome.refused, Some(vec![("a".into(), "2".into())]));
    assert!(outcome.holds.is_empty() && !outcome.acknowledged);
    assert!(subscription.changes(&bad).is_empty());
    subscription.request(&subscribe(&["a"])).expect("few names");
    assert!(subscription.changes(&bad).is_empty(), "not even when subscribed again");
    assert_eq!(text(&subscription.changes(&good)), ["a"], "what it has now is not certain");
    assert_eq!(push(&mut subscription, 3, &better), ["a"]);
}

#[test]
fn a_late_refusal_does_not_undo_what_was_sent_since() {
    let mut subscription = started(ResourceType::Route, &subscribe(&["a"]));
    push(&mut subscription, 1, &view(&[("a", "1")]));
    push(&mut subscription, 2, &view(&[("a", "2")]));
    subscription.request(&answer(1, Some("no"))).expect("few names");
    assert!(subscription.changes(&view(&[("a", "2")])).is_empty());
}

#[test]
fn of_a_refused_response_only_the_named_listeners_are_refused() {
    let message = "Error adding/updating listener(s) in/s/80: cannot bind";
    let view = view(&[("in/s/80", "1"), ("in/s/8080", "1")]);
    let mut subscription = started(ResourceType::Listener, &subscribe(&[]));
    push(&mut subscription, 1, &view);
    let outcome = subscription.request(&answer(1, Some(message))).expect("few names");
    assert_eq!(outcome.refused, Some(vec![("in/s/80".into(), "1".into())]));
    assert_eq!(outcome.holds, [("in/s/8080".into(), Some("1".into()))]);
    let mut routes = started(ResourceType::Route, &subscribe(&["in/s/80", "in/s/8080"]));
    push(&mut routes, 1, &view);
    let outcome = routes.request(&answer(1, Some("in/s/80 is bad"))).expect("few names");
    assert_eq!(outcome.refused.map(|refused| refused.len()), Some(2), "routes are refused as a whole");
}

#[test]
fn unknown_names_are_answered_as_gone_once_and_come_when_they_exist() {
    let nothing = view(&[]);
    let mut subscription = started(ResourceType::Route, &subscribe(&["a"]));
    assert_eq!(text(&subscription.removals(&nothing)), ["a"]);
    subscription.sent(1, vec![("a".into(), None)]);
    assert!(subscription.removals(&nothing).is_empty());
    assert_eq!(text(&subscription.changes(&view(&[("a", "1")]))), ["a"]);
}

#[test]
fn names_are_bounded() {
    let mut subscription = Subscription::new(ResourceType::Route);
    let names: Vec<String> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let request = DeltaDiscoveryRequest { resource_names_subscribe: names, ..DeltaDiscoveryRequest::default() };
    assert_eq!(subscription.request(&request), Err(TooManyNames(ResourceType::Route)));
    let mut subscription = Subscription::new(ResourceType::Route);
    assert!(subscription.request(&subscribe(&[&"x".repeat(MAX_NAME_BYTES + 1)])).is_err());
    for round in 0..20_000_u32 {
        let mut swap = subscribe(&[&round.to_string()]);
        swap.resource_names_unsubscribe = vec![round.to_string()];
        subscription = started(ResourceType::Route, &swap);
    }
    assert!(subscription.names.is_empty());
    assert_eq!(subscription.name_bytes, 0);
}

/// A proxy as the protocol describes it.
#[derive(Debug, Default)]
struct Proxy {
    wildcard: bool,
    asked: BTreeSet<String>,
    has: HashMap<String, String>,
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    Change(Vec<(String, u8)>),
    Exchange,
    Garbage(String, Option<String>),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || prop::sample::select(vec!["a", "b", "c", "d", "*"]).prop_map(String::from);
    let real = || prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(String::from);
    prop_oneof![
        prop::collection::vec(name(), 0..4).prop_map(Step::Subscribe),
        prop::collection::vec(name(), 0..4).prop_map(Step::Unsubscribe),
        prop::collection::vec((real(), 0..3_u8), 0..4).prop_map(Step::Change),
        Just(Step::Exchange),
        (any::<String>(), any::<Option<String>>()).prop_map(|(nonce, error)| Step::Garbage(nonce, error)),
    ]
}

proptest! {
    /// Whatever was asked and changed in between: after an exchange the proxy has exactly what it is subscribed to.
    #[test]
    fn applying_the_differences_yields_the_view(
        steps in prop::collection::vec(step(), 1..40), listeners in any::<bool>(),
    ) {
        let resource_type = if listeners { ResourceType::Listener } else { ResourceType::Route };
        let mut subscription = Subscription::new(resource_type);
        let mut proxy = Proxy { wildcard: listeners, ..Proxy::default() };
        subscription.request(&subscribe(&[])).expect("few names");
        let mut current = view(&[]);
        let mut nonce = 0;
        for step in steps.into_iter().chain([Step::Exchange]) {
            match step {
                Step::Subscribe(names) => {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    subscription.request(&subscribe(&names)).expect("few names");
                    proxy.wildcard |= names.contains(&"*");
                    proxy.asked.extend(names.iter().filter(|name| **name != "*").map(|name| (*name).to_owned()));
                }
                Step::Unsubscribe(names) => {
                    let request =
                        DeltaDiscoveryRequest { resource_names_unsubscribe: names.clone(), ..Default::default() };
                    subscription.request(&request).expect("few names");
                    for name in names {
                        if name == "*" {
                            proxy.wildcard = false;
                        } else {
                            proxy.asked.remove(&name);
                        }
                    }
                    if !proxy.wildcard {
                        proxy.has.retain(|name, _| proxy.asked.contains(name));
                    }
                }
                Step::Change(resources) => {
                    current = resources
                        .iter()
                        .map(|(name, version)| (Arc::from(name.as_str()), version.to_string()))
                        .map(|(name, version)| {
                            (name, Entry { version: version.as_str().into(), encoded: bytes::Bytes::new(), needs: None })
                        })
                        .collect();
                }
                Step::Garbage(response_nonce, error) => {
                    let request = DeltaDiscoveryRequest {
                        response_nonce: format!("x{response_nonce}"),
                        error_detail: error.map(|message| Status { code: 1, message }),
                        ..Default::default()
                    };
                    subscription.request(&request).expect("few names");
                }
                Step::Exchange => {
                    let changes = subscription.changes(&current);
                    for name in &changes {
                        proxy.has.insert(name.to_string(), current[name].version.to_string());
                    }
                    nonce += 1;
                    let held = changes.iter().map(|name| (name.clone(), Some(current[name].version.clone())));
                    subscription.sent(nonce, held.collect());
                    let removals = subscription.removals(&current);
                    for name in &removals {
                        proxy.has.remove(&**name);
                    }
                    nonce += 1;
                    subscription.sent(nonce, removals.into_iter().map(|name| (name, None)).collect());
                    subscription.request(&answer(nonce - 1, None)).expect("few names");
                    subscription.request(&answer(nonce, None)).expect("few names");
                    let expected: HashMap<String, String> = current
                        .iter()
                        .filter(|(name, _)| proxy.wildcard || proxy.asked.contains(&***name))
                        .map(|(name, entry)| (name.to_string(), entry.version.to_string()))
                        .collect();
                    prop_assert_eq!(&proxy.has, &expected);
                    prop_assert!(subscription.changes(&current).is_empty());
                    prop_assert!(subscription.removals(&current).is_empty());
                }
            }
        }
    }
}

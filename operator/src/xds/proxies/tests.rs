use super::*;

fn node() -> NodeKey {
    NodeKey::new("ns-a", "checkout", "checkout-0")
}

fn connect(proxies: &Proxies) -> Connection {
    proxies.connect(&node(), "envoy 1.40.0".into(), Timestamp::UNIX_EPOCH)
}

fn refusal(version: &str) -> Refusal {
    Refusal {
        resource_type: ResourceType::Route,
        resources: vec![("a".into(), version.into())],
        message: "no".to_owned(),
        at: Timestamp::UNIX_EPOCH,
    }
}

#[test]
fn programmed_means_connected_and_every_version_acknowledged() {
    let proxies = Proxies::new();
    let wanted = [(ResourceType::Route, "a", "1"), (ResourceType::Listener, "a", "2")];
    let connection = connect(&proxies);
    connection.holds(ResourceType::Route, vec![("a".into(), Some("1".into()))]);
    assert!(!proxies.programmed(&node(), &wanted));
    connection.holds(ResourceType::Listener, vec![("a".into(), Some("2".into()))]);
    assert!(proxies.programmed(&node(), &wanted));
    assert!(!proxies.programmed::<&str, &str>(&node(), &[]));
    connection.holds(ResourceType::Route, vec![("a".into(), Some("3".into()))]);
    assert!(!proxies.programmed(&node(), &wanted));
    drop(connection);
    assert_eq!((proxies.connected(), proxies.snapshot().len()), (0, 0));
}

#[test]
fn a_proxy_without_a_runtime_layer_is_programmed_while_the_layer_is_at_rest() {
    let proxies = Proxies::new();
    let connection = connect(&proxies);
    let programmed = |layer: &str| {
        let wanted = [(ResourceType::Route, "a", "1"), (ResourceType::Runtime, "rt", layer)];
        proxies.programmed(&node(), &wanted)
    };
    connection.holds(ResourceType::Route, vec![("a".into(), Some("1".into()))]);
    assert!(programmed(&at_rest()));
    assert!(!programmed("paused"));
    connection.holds(ResourceType::Runtime, vec![("rt".into(), Some("paused".into()))]);
    assert!(programmed("paused"));
    assert!(!programmed(&at_rest()), "one that has a layer must take it");
}

#[test]
fn a_refusal_stands_until_the_resource_is_taken_and_outlives_the_stream() {
    let proxies = Proxies::new();
    let connection = connect(&proxies);
    connection.refused(refusal("2"));
    connection.refused(refusal("3"));
    let standing = proxies.refusals(&node());
    assert_eq!(standing.len(), 1);
    assert_eq!(standing[0].resources, [("a".into(), "3".into())]);
    drop(connection);
    assert_eq!(proxies.refusals(&node()).len(), 1);
    assert!(!proxies.is_connected(&node()));
    let connection = connect(&proxies);
    connection.holds(ResourceType::Route, vec![("a".into(), Some("4".into()))]);
    assert!(proxies.refusals(&node()).is_empty());
}

#[test]
fn of_two_streams_of_a_node_the_newer_speaks() {
    let proxies = Proxies::new();
    let (older, newer) = (connect(&proxies), connect(&proxies));
    newer.holds(ResourceType::Route, vec![("a".into(), Some("2".into()))]);
    older.holds(ResourceType::Route, vec![("a".into(), Some("1".into()))]);
    drop(older);
    assert!(proxies.programmed(&node(), &[(ResourceType::Route, "a", "2")]));
    assert_eq!(proxies.connected(), 1);
}

#[test]
fn nodes_remembered_for_a_refusal_are_bounded() {
    let proxies = Proxies::new();
    for n in 0..MAX_GONE + 10 {
        let node = NodeKey::new("ns-a", "checkout", format!("p-{n}"));
        proxies.connect(&node, String::new(), Timestamp::UNIX_EPOCH).refused(refusal("1"));
    }
    assert_eq!(proxies.snapshot().len(), MAX_GONE);
}

#[test]
fn every_change_wakes_status() {
    let proxies = Proxies::new();
    let mut changes = proxies.changes();
    assert!(!changes.has_changed().expect("open"));
    let connection = connect(&proxies);
    assert!(changes.has_changed().expect("open"));
    changes.mark_unchanged();
    drop(connection);
    assert!(changes.has_changed().expect("open"));
}

#[test]
fn metrics_carry_the_prefix() {
    let proxies = Proxies::new();
    let mut registry = Registry::default();
    proxies.register(&mut registry);
    let connection = connect(&proxies);
    connection.pushed(ResourceType::Route, 2);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    assert!(text.contains("weir_xds_streams 1"), "{text}");
    assert!(text.contains("weir_xds_resources_total{type=\"route\"} 2"), "{text}");
}

#[test]
fn what_a_proxy_says_is_kept_to_a_length() {
    assert_eq!((said(""), said("no")), ("", "no"));
    let long = "ä".repeat(MAX_MESSAGE);
    assert_eq!((said(&long), said(&format!("{long}!"))), (&*long, &*long));
}

use super::*;
use crate::{intent::PodIntent, xds::wire};

fn service() -> ServiceKey {
    ServiceKey { namespace: "ns-a".into(), name: "checkout".into() }
}

fn route(pod: &str, version: &str) -> Resource {
    let node = NodeKey::of(&service(), pod);
    let name: Arc<str> = format!("in/{node}/80").into();
    let resource =
        wire::Resource { name: name.to_string(), version: version.into(), resource: None, aliases: Vec::new() };
    let encoded = prost::Message::encode_to_vec(&resource).into();
    Resource { resource_type: ResourceType::Route, name, node, version: version.into(), encoded, needs: None }
}

fn woken(watcher: &Watcher) -> bool {
    watcher.woken.has_changed().expect("the table holds the sender")
}

#[test]
fn a_replacement_counts_and_wakes_only_what_differs() {
    let table = Table::new();
    let mut watchers = ["p-0", "p-1", "p-2"].map(|pod| table.watch(&NodeKey::of(&service(), pod)));
    let first = table.replace(&service(), vec![route("p-0", "1"), route("p-1", "1")]);
    assert_eq!(first, Changed { resources: 2, nodes: 2 });
    assert_eq!([true, true, false], [0, 1, 2].map(|n| woken(&watchers[n])));
    for watcher in &mut watchers {
        let _ = watcher.view();
    }
    let again = table.replace(&service(), vec![route("p-0", "1"), route("p-1", "1")]);
    assert_eq!(again, Changed::default());
    let second = table.replace(&service(), vec![route("p-0", "1"), route("p-1", "2")]);
    assert_eq!(second, Changed { resources: 1, nodes: 1 });
    assert_eq!([false, true, false], [0, 1, 2].map(|n| woken(&watchers[n])));
    let third = table.replace(&service(), vec![route("p-1", "2"), route("p-2", "1")]);
    assert_eq!(third, Changed { resources: 2, nodes: 2 });
    assert!(watchers[0].view()[ResourceType::Route.index()].is_empty());
    assert_eq!(table.remove(&service()), Changed { resources: 2, nodes: 2 });
    assert_eq!(table.counts(), [0; ResourceType::COUNT]);
}

#[test]
fn a_node_sees_its_own_names_only() {
    let table = Table::new();
    table.replace(&service(), vec![route("p-0", "1"), route("p-1", "1")]);
    let node = NodeKey::of(&service(), "p-0");
    let versions = table.versions(&node);
    assert_eq!(versions, [(ResourceType::Route, "in/ns-a/checkout/p-0/80".into(), "1".into())]);
    assert!(table.get(ResourceType::Route, "in/ns-a/checkout/p-1/80").is_some());
    assert!(table.get(ResourceType::Cluster, "in/ns-a/checkout/p-1/80").is_none());
    assert!(table.versions(&NodeKey::new("ns-b", "checkout", "p-0")).is_empty());
}

#[test]
fn a_watcher_that_goes_leaves_nothing() {
    let table = Table::new();
    let node = NodeKey::of(&service(), "p-0");
    let (first, second) = (table.watch(&node), table.watch(&node));
    drop(first);
    table.replace(&service(), vec![route("p-0", "1")]);
    assert!(woken(&second));
    drop(second);
    assert!(table.0.read().watchers.is_empty());
}

#[test]
fn an_extension_configuration_is_made_for_the_stream_that_asks_and_for_nobody_else() {
    let table = Table::new();
    let (node, other) = (NodeKey::of(&service(), "p-0"), NodeKey::new("ns-a", "checkout-2", "p-0"));
    let (mut watcher, mut elsewhere) = (table.attach(&node), table.attach(&other));
    let index = ResourceType::Extension.index();
    let unknown = watcher.view();
    assert_eq!(unknown[index].len(), 1, "a proxy waits for its first");
    let _ = elsewhere.view();
    let pods = || [("p-0".to_owned(), crate::intent::PodIntent::default())].into();
    let intent = Arc::new(ServiceIntent { pods: pods(), ..ServiceIntent::default() });
    table.intend(&service(), intent.clone());
    assert_eq!([true, false], [woken(&watcher), woken(&elsewhere)]);
    let known = watcher.view();
    assert_ne!(known[index], unknown[index]);
    assert!(known.iter().enumerate().all(|(at, names)| at == index || names.is_empty()));
    table.intend(&service(), Arc::new(ServiceIntent { pods: pods(), ..ServiceIntent::default() }));
    assert_eq!(watcher.view()[index], known[index], "another intent of the same content");
    assert_eq!(table.counts(), [0; ResourceType::COUNT], "the table holds none");
    let versions = table.versions(&node);
    let held: Vec<_> = known[index].iter().map(|(name, entry)| (name.clone(), entry.version.clone())).collect();
    assert_eq!(versions, [(ResourceType::Extension, held[0].0.clone(), held[0].1.clone())]);

    let own = table.watch(&node);
    assert!(!table.is_attached(&node), "a proxy with everything from Weir is not judged by this");
    drop(own);
    assert!(table.is_attached(&node));
    table.remove(&service());
    assert!(woken(&watcher));
    assert_eq!(watcher.view()[index], unknown[index]);
    drop((watcher, elsewhere));
    assert!(!table.is_attached(&node) && table.0.read().attached.is_empty());
}

#[test]
fn an_untraced_difference_is_not_told_in_the_name_of_an_older_one() {
    #[derive(Debug)]
    struct Nobody;
    impl Traced for Nobody {
        fn pushed(&self, _: &NodeKey, _: ResourceType, _: usize) -> Box<dyn crate::xds::trail::Answer> {
            panic!("nothing is pushed")
        }
    }
    let table = Table::new();
    let mut watcher = table.watch(&NodeKey::of(&service(), "p-0"));
    table.replace_traced(&service(), vec![route("p-0", "1")], Some(Arc::new(Nobody)));
    assert!(watcher.marked_view().1.is_some());
    table.replace(&service(), vec![route("p-0", "1")]);
    assert!(watcher.marked_view().1.is_some(), "no difference");
    table.replace(&service(), vec![route("p-0", "2")]);
    assert!(watcher.marked_view().1.is_none());
}

#[tokio::test]
async fn a_proxy_without_the_name_of_its_service_is_told_when_there_is_one_and_when_it_is_another() {
    let table = Table::new();
    let of = |service: &str| ServiceKey { namespace: "ns-a".into(), name: service.into() };
    let put = |service: &str, pods: &[&str]| {
        let pods = pods.iter().map(|pod| ((*pod).to_owned(), PodIntent::default())).collect();
        let intent = ServiceIntent { pods, ..ServiceIntent::default() };
        table.replace(&of(service), crate::xds::resources::build(&of(service), &intent));
    };
    let node = |service: &str| NodeKey::new("ns-a", service, "pod-1");
    let mut seeker = table.seek(&NodeKey::unnamed("ns-a", "pod-1"));
    assert_eq!(seeker.found(), None);
    put("beta", &["pod-0"]);
    assert!(!seeker.is_woken(), "that is another pod's");
    put("beta", &["pod-0", "pod-1"]);
    assert!(seeker.is_woken());
    assert_eq!(seeker.find().await, node("beta"));
    put("gamma", &["pod-1"]);
    let stays = tokio::time::timeout(std::time::Duration::from_millis(20), seeker.moved(&node("beta"))).await;
    assert!(stays.is_err(), "the first by name is still the same");
    put("beta", &["pod-0"]);
    seeker.moved(&node("beta")).await;
    assert_eq!(seeker.found(), Some(node("gamma")));
    drop(seeker);
    assert!(table.0.read().seekers.is_empty());
}

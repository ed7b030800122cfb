use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::xds::{
    ResourceType::{Cluster, Endpoints, Listener, Route},
    wire::{self, Any, Resource, Status},
};

/// Stands for every resource: a load assignment's name is its first field too.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "15")]
    version: String,
}

/// What a test's node sees: type, name, version.
type Seen = Vec<(ResourceType, String, u8)>;

fn view(seen: &Seen) -> View {
    let mut view: [Names; ResourceType::COUNT] = Default::default();
    for (resource_type, name, version) in seen {
        let named = Named { name: name.clone(), version: version.to_string() };
        let value = named.encode_to_vec().into();
        let resource = Some(Any { type_url: resource_type.type_url().into(), value });
        let encoded = Resource { version: version.to_string(), resource, name: name.clone(), aliases: Vec::new() };
        let encoded = encoded.encode_to_vec().into();
        let entry = Entry { version: version.to_string().into(), encoded, needs: None };
        view[resource_type.index()].insert(name.as_str().into(), entry);
    }
    view.map(Arc::new)
}

fn request(resource_type: ResourceType, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: resource_type.type_url().into(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}

fn take(session: &mut SotwSession, request: &DiscoveryRequest, seen: &Seen) -> Outcome {
    match session.request(request, &view(seen)).expect("few names") {
        Meaning::Known(_, outcome) => outcome,
        Meaning::Unknown => panic!("a type that is served"),
    }
}

/// The answer of a proxy that had `version` before.
fn answer(response: &DiscoveryResponse, names: &[&str], refused: Option<&str>) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: if refused.is_some() { String::new() } else { response.version_info.clone() },
        type_url: response.type_url.clone(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: response.nonce.clone(),
        error_detail: refused.map(|message| Status { code: 13, message: message.into() }),
        node: None,
    }
}

fn next(session: &mut SotwSession, seen: &Seen) -> DiscoveryResponse {
    session.next(&view(seen)).expect("a response").response
}

fn said(response: &DiscoveryResponse) -> Vec<(String, String)> {
    let resources = response.resources.iter().map(|any| {
        let any = Any::decode(any.clone()).expect("an Any");
        assert_eq!(any.type_url, response.type_url);
        let Named { name, version } = Named::decode(any.value).expect("a resource");
        (name, version)
    });
    resources.collect()
}

fn seen<const N: usize>(resource_type: ResourceType, versions: [(&str, u8); N]) -> Seen {
    versions.map(|(name, version)| (resource_type, name.to_owned(), version)).into()
}

#[test]
fn clusters_come_in_full_and_routes_by_what_changed() {
    for (resource_type, names, after) in
        [(Cluster, &[][..], vec![("a", "1"), ("b", "2")]), (Endpoints, &["a", "b"][..], vec![("b", "2")])]
    {
        let mut session = SotwSession::default();
        let one = seen(resource_type, [("a", 1), ("b", 1)]);
        take(&mut session, &request(resource_type, names), &one);
        let first = next(&mut session, &one);
        assert_eq!(first.resources.len(), 2);
        assert!(session.next(&view(&one)).is_none());
        take(&mut session, &answer(&first, names, None), &one);
        let two = seen(resource_type, [("a", 1), ("b", 2)]);
        let second = next(&mut session, &two);
        let said = said(&second);
        let said: Vec<_> = said.iter().map(|(name, version)| (&**name, &**version)).collect();
        assert_eq!(said, after);
        assert_ne!(first.version_info, second.version_info);
    }
}

#[test]
fn what_goes_is_said_by_absence_and_learned() {
    let mut session = SotwSession::default();
    let one = seen(Listener, [("a", 1), ("b", 1)]);
    take(&mut session, &request(Listener, &[]), &one);
    let first = next(&mut session, &one);
    take(&mut session, &answer(&first, &[], None), &one);
    let two = seen(Listener, [("b", 1)]);
    let second = next(&mut session, &two);
    assert_eq!(said(&second), [("b".into(), "1".into())]);
    let outcome = take(&mut session, &answer(&second, &[], None), &two);
    assert_eq!(outcome.holds, [("a".into(), None)]);

    let mut session = SotwSession::default();
    let one = seen(Route, [("a", 1)]);
    take(&mut session, &request(Route, &["a", "b"]), &one);
    let first = next(&mut session, &one);
    take(&mut session, &answer(&first, &["a", "b"], None), &one);
    assert!(session.next(&view(&Vec::new())).is_none(), "nothing can be said of a route that is gone");
    let gone: Vec<_> = session.learned().into_iter().flat_map(|(_, outcome)| outcome.holds).collect();
    assert_eq!(gone, [("a".into(), None), ("b".into(), None)]);
}

#[test]
fn a_refused_version_is_replaced_by_the_one_before_in_all_that_follows() {
    let mut session = SotwSession::default();
    let one = seen(Cluster, [("a", 1), ("b", 1)]);
    take(&mut session, &request(Cluster, &[]), &one);
    let first = next(&mut session, &one);
    take(&mut session, &answer(&first, &[], None), &one);
    let two = seen(Cluster, [("a", 1), ("b", 2)]);
    let second = next(&mut session, &two);
    let outcome = take(&mut session, &answer(&second, &[], Some("b is bad")), &two);
    assert_eq!(outcome.refused, Some(vec![("b".into(), "2".into())]));
    assert!(session.next(&view(&two)).is_none());
    let three = seen(Cluster, [("a", 3), ("b", 2)]);
    let third = next(&mut session, &three);
    assert_eq!(said(&third), [("a".into(), "3".into()), ("b".into(), "1".into())]);
}

#[test]
fn an_answer_to_an_older_response_says_nothing() {
    let mut session = SotwSession::default();
    let one = seen(Endpoints, [("a", 1)]);
    take(&mut session, &request(Endpoints, &["a"]), &one);
    let first = next(&mut session, &one);
    take(&mut session, &answer(&first, &["a"], None), &one);
    let two = seen(Endpoints, [("a", 2)]);
    let second = next(&mut session, &two);
    let stale = take(&mut session, &answer(&first, &["a"], Some("late")), &two);
    assert_eq!(stale, Outcome::default());
    assert!(take(&mut session, &answer(&second, &["a"], None), &two).acknowledged);
    take(&mut session, &answer(&first, &["a"], None), &two);
    assert!(session.next(&view(&two)).is_none(), "not even after the newest was answered");
    // Fewer names ask for nothing.
    take(&mut session, &answer(&second, &["a", "b"], None), &two);
    take(&mut session, &answer(&second, &["a"], None), &two);
    assert!(session.next(&view(&two)).is_none());
    // Asked again, though nothing is new: Envoy waits for it.
    take(&mut session, &answer(&second, &["a"], None), &two);
    assert_eq!(said(&next(&mut session, &two)), [("a".into(), "2".into())]);
}

#[test]
fn a_proxy_that_connects_again_with_the_version_of_what_it_sees_is_sent_nothing() {
    for (resource_type, names) in [(Listener, &[][..]), (Route, &["a", "b"][..])] {
        let one = seen(resource_type, [("a", 1), ("b", 1)]);
        let mut session = SotwSession::default();
        take(&mut session, &request(resource_type, names), &one);
        let mut last = next(&mut session, &one);
        take(&mut session, &answer(&last, names, None), &one);
        while let Some(Push { response, .. }) = session.next(&view(&one)) {
            take(&mut session, &answer(&response, names, None), &one);
            last = response;
        }
        let mut again = SotwSession::default();
        let resumed = DiscoveryRequest { version_info: last.version_info.clone(), ..request(resource_type, names) };
        assert_eq!(take(&mut again, &resumed, &one).holds.len(), 2);
        assert!(again.next(&view(&one)).is_none(), "{resource_type:?}");
        let mut again = SotwSession::default();
        let two = seen(resource_type, [("a", 1), ("b", 2)]);
        assert!(take(&mut again, &resumed, &two).holds.is_empty());
        assert!(again.next(&view(&two)).is_some());
    }
}

#[test]
fn named_clusters_are_answered_without_those_that_are_not_there() {
    let mut session = SotwSession::default();
    let one = seen(Cluster, [("a", 1), ("b", 1)]);
    take(&mut session, &request(Cluster, &["a", "none"]), &one);
    let first = next(&mut session, &one);
    assert_eq!(said(&first), [("a".into(), "1".into())], "as a gRPC client asks, which takes absence for an answer");
    take(&mut session, &answer(&first, &["a", "none"], None), &one);
    assert!(session.next(&view(&one)).is_none());
    // Other names, no new version: answered all the same; and no names at all are none.
    take(&mut session, &answer(&first, &["b"], None), &one);
    let second = next(&mut session, &one);
    assert_eq!(said(&second), [("b".into(), "1".into())]);
    take(&mut session, &answer(&second, &[], None), &one);
    assert!(session.next(&view(&seen(Cluster, [("a", 2), ("b", 2)]))).is_none());
}

#[test]
fn endpoints_pass_clusters_that_wait_for_them() {
    let mut session = SotwSession::default();
    let all = |version: u8| -> Seen {
        [Cluster, Endpoints, Listener, Route]
            .map(|t| (t, "a".to_owned(), if t == Endpoints { 1 } else { version }))
            .into()
    };
    take(&mut session, &request(Cluster, &[]), &all(1));
    take(&mut session, &request(Listener, &[]), &all(1));
    take(&mut session, &request(Endpoints, &["a"]), &all(1));
    let types: Vec<_> = std::iter::from_fn(|| session.next(&view(&all(1)))).map(|push| push.resource_type).collect();
    assert_eq!(types, [Some(Cluster), Some(Endpoints), Some(Listener)]);
    // The cluster was not answered, the listener waits behind it; nothing of this holds endpoints back.
    let mut changed = all(2);
    changed[1].2 = 2;
    assert!(session.next(&view(&changed)).is_none());
    let endpoints = DiscoveryRequest { response_nonce: "2".into(), ..request(Endpoints, &["a"]) };
    take(&mut session, &endpoints, &changed);
    assert_eq!(session.next(&view(&changed)).and_then(|push| push.resource_type), Some(Endpoints));
    assert!(session.next(&view(&changed)).is_none());
}

/// A proxy as both protocols describe it: takes what is good, keeps what it had where it is not, and asks for the endpoints
/// of its clusters and the routes of its listeners.
struct Proxy<P: Protocol> {
    server: P,
    to_proxy: VecDeque<P::Response>,
    to_server: VecDeque<P::Request>,
    has: [BTreeMap<String, String>; ResourceType::COUNT],
    asked: [BTreeSet<String>; ResourceType::COUNT],
    versions: [String; ResourceType::COUNT],
    nonces: [String; ResourceType::COUNT],
    /// Clusters and listeners that it refused.
    refused: BTreeSet<(ResourceType, String)>,
}

/// Version 3 is one that no proxy takes.
const BAD: &str = "3";

trait Dialect: Protocol {
    fn names(proxy: &Proxy<Self>, resource_type: ResourceType, new: &BTreeSet<String>) -> Self::Request;
    fn answer(proxy: &mut Proxy<Self>, response: &Self::Response, error: Option<Status>) -> Self::Request;
    fn resources(response: &Self::Response) -> Vec<(String, String)>;
    /// Names that are gone: not in a full state, or said so.
    fn gone(proxy: &Proxy<Self>, response: &Self::Response) -> Vec<String>;
}

impl Dialect for Session {
    fn names(proxy: &Proxy<Self>, resource_type: ResourceType, new: &BTreeSet<String>) -> DeltaDiscoveryRequest {
        let old = &proxy.asked[resource_type.index()];
        DeltaDiscoveryRequest {
            type_url: resource_type.type_url().into(),
            resource_names_subscribe: new.difference(old).cloned().collect(),
            resource_names_unsubscribe: old.difference(new).cloned().collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn answer(_: &mut Proxy<Self>, response: &DeltaDiscoveryResponse, error: Option<Status>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error,
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn resources(response: &DeltaDiscoveryResponse) -> Vec<(String, String)> {
        let any = response.resources.iter().map(|bytes| Resource::decode(bytes.clone()).expect("a resource").resource);
        let named = any.map(|any| Named::decode(any.expect("a message").value).expect("a name"));
        named.map(|Named { name, version }| (name, version)).collect()
    }

    fn gone(_: &Proxy<Self>, response: &DeltaDiscoveryResponse) -> Vec<String> {
        response.removed_resources.clone()
    }
}

impl Dialect for SotwSession {
    fn names(proxy: &Proxy<Self>, resource_type: ResourceType, new: &BTreeSet<String>) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: proxy.versions[resource_type.index()].clone(),
            type_url: resource_type.type_url().into(),
            resource_names: new.iter().cloned().collect(),
            response_nonce: proxy.nonces[resource_type.index()].clone(),
            ..DiscoveryRequest::default()
        }
    }

    fn answer(proxy: &mut Proxy<Self>, response: &DiscoveryResponse, error: Option<Status>) -> DiscoveryRequest {
        let resource_type = ResourceType::from_type_url(&response.type_url).expect("served");
        let at = resource_type.index();
        proxy.nonces[at].clone_from(&response.nonce);
        if error.is_none() {
            proxy.versions[at].clone_from(&response.version_info);
        }
        DiscoveryRequest { error_detail: error, ..Self::names(proxy, resource_type, &proxy.asked[at]) }
    }

    fn resources(response: &DiscoveryResponse) -> Vec<(String, String)> {
        said(response)
    }

    fn gone(proxy: &Proxy<Self>, response: &DiscoveryResponse) -> Vec<String> {
        let resource_type = ResourceType::from_type_url(&response.type_url).expect("served");
        let there: BTreeSet<String> = said(response).into_iter().map(|(name, _)| name).collect();
        let full = resource_type.has_wildcard();
        proxy.has[resource_type.index()].keys().filter(|name| full && !there.contains(*name)).cloned().collect()
    }
}

impl<P: Dialect> Proxy<P> {
    fn new() -> Self {
        let mut proxy = Self {
            server: P::default(),
            to_proxy: VecDeque::new(),
            to_server: VecDeque::new(),
            has: Default::default(),
            asked: Default::default(),
            versions: Default::default(),
            nonces: Default::default(),
            refused: BTreeSet::new(),
        };
        for resource_type in [Cluster, Listener] {
            let first = P::names(&proxy, resource_type, &BTreeSet::new());
            proxy.to_server.push_back(first);
        }
        proxy
    }

    /// One of: the server says something, the proxy reads something, the server reads something. Returns whether there was.
    fn step(&mut self, which: u8, view: &View) -> bool {
        match which % 3 {
            0 => self.server.next(view).map(|push| self.to_proxy.push_back(push.response)).is_some(),
            1 => self.to_proxy.pop_front().map(|response| self.read(&response)).is_some(),
            _ => {
                let request = self.to_server.pop_front();
                request.map(|request| drop(self.server.request(&request, view).expect("few names"))).is_some()
            }
        }
    }

    /// What was refused and is published no more may come again.
    fn forgive(&mut self, seen: &Seen) {
        let stands = |(t, name): &(ResourceType, String)| seen.contains(&(*t, name.clone(), 3));
        self.refused.retain(stands);
    }

    fn settle(&mut self, view: &View) {
        let mut steps = 0;
        while (0..3).any(|which| self.step(which, view)) {
            steps += 1;
            assert!(steps < 10_000, "they talk for ever");
        }
    }

    fn read(&mut self, response: &P::Response) {
        use wire::Says;
        let resource_type = ResourceType::from_type_url(response.type_url()).expect("served");
        let at = resource_type.index();
        let resources = P::resources(response);
        let bad: Vec<_> = resources.iter().filter(|(_, version)| version == BAD).map(|(name, _)| &**name).collect();
        for name in P::gone(self, response) {
            self.has[at].remove(&name);
        }
        // Envoy takes the good clusters and listeners of a response, of other types none.
        let partial = resource_type.has_wildcard();
        for (name, version) in &resources {
            if bad.is_empty() || (partial && version != BAD) {
                self.has[at].insert(name.clone(), version.clone());
            }
        }
        for name in bad.iter().filter(|_| partial) {
            let new = self.refused.insert((resource_type, (*name).to_owned()));
            assert!(new, "{resource_type:?} {name} was refused and is sent again");
        }
        let error = (!bad.is_empty()).then(|| Status { code: 13, message: format!("bad: {}", bad.join(", ")) });
        let answer = P::answer(self, response, error);
        self.to_server.push_back(answer);
        let follows = match resource_type {
            Cluster => Endpoints,
            Listener => Route,
            _ => return,
        };
        let names: BTreeSet<String> = self.has[at].keys().cloned().collect();
        if names != self.asked[follows.index()] {
            let request = P::names(self, follows, &names);
            self.to_server.push_back(request);
            self.has[follows.index()].retain(|name, _| names.contains(name));
            self.asked[follows.index()] = names;
        }
    }
}

/// What a node may see: some of three ports, each with its four resources, the endpoints now and then without.
fn ports() -> impl Strategy<Value = Seen> {
    let port = || prop::option::weighted(0.7, (0..4_u8, prop::option::weighted(0.8, 0..3_u8), 0..4_u8, 0..4_u8));
    (port(), port(), port()).prop_map(|(a, b, c)| {
        let ports = [("a", a), ("b", b), ("c", c)].into_iter().filter_map(|(name, port)| Some((name, port?)));
        let resources = ports.flat_map(|(name, (cluster, endpoints, listener, route))| {
            let all =
                [(Cluster, Some(cluster)), (Endpoints, endpoints), (Listener, Some(listener)), (Route, Some(route))];
            all.into_iter().filter_map(move |(t, version)| Some((t, name.to_owned(), version?)))
        });
        resources.collect()
    })
}

proptest! {
    /// Whatever is published, taken and refused, in whatever order messages pass: both protocols end with the same.
    #[test]
    fn both_protocols_end_with_the_same(
        changes in prop::collection::vec((ports(), prop::collection::vec(any::<u8>(), 0..20)), 1..12),
    ) {
        let (mut delta, mut sotw) = (Proxy::<Session>::new(), Proxy::<SotwSession>::new());
        for (seen, steps) in changes {
            let view = view(&seen);
            delta.forgive(&seen);
            sotw.forgive(&seen);
            for which in steps {
                delta.step(which, &view);
                sotw.step(which / 3, &view);
            }
            delta.settle(&view);
            sotw.settle(&view);
            // Also what was on its way when it ceased to be published.
            delta.forgive(&seen);
            sotw.forgive(&seen);
            prop_assert_eq!(&sotw.has, &delta.has);
        }
    }

    /// A proxy that cannot keep up skips what lies between, and ends with what there is.
    #[test]
    fn a_slow_proxy_ends_with_what_there_is(
        changes in prop::collection::vec((ports(), prop::collection::vec(any::<u8>(), 0..9)), 1..12), last in ports(),
    ) {
        let mut proxy = Proxy::<SotwSession>::new();
        for (seen, steps) in changes {
            let view = view(&seen);
            proxy.forgive(&seen);
            for which in steps {
                proxy.step(which, &view);
            }
            proxy.forgive(&seen);
        }
        let last: Seen = last.into_iter().map(|(t, name, version)| (t, name, version.min(2))).collect();
        proxy.settle(&view(&last));
        let expected = |of: ResourceType| -> BTreeMap<String, String> {
            let of_type = last.iter().filter(|(t, ..)| *t == of);
            of_type.map(|(_, name, version)| (name.clone(), version.to_string())).collect()
        };
        for of in [Cluster, Listener, Route] {
            prop_assert_eq!(&proxy.has[of.index()], &expected(of));
        }
        for (name, version) in expected(Endpoints) {
            prop_assert_eq!(proxy.has[Endpoints.index()].get(&name), Some(&version));
        }
    }
}

//! Protocol state of one stream: the subscriptions and the order of pushes. No I/O, no clock.
//!
//! Order: the runtime layer, changed clusters, endpoints, extension configurations, listeners, routes; then endpoints that are none any more, when
//! routes lead elsewhere; then removals, the other way round. Envoy warms a changed EDS cluster until it is told its endpoints again and does not ask for them, so every cluster that is sent is
//! followed by its endpoints, changed or not. Envoy ignores the removal of endpoints, so they are emptied instead.
//!
//! Virtual hosts that are sent by themselves come last, each once the proxy has taken the endpoints of its clusters: requests are held for it, and
//! would be answered 503 before that. What comes and what goes is one response, since two hosts may not have the same domain.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use crate::{
    intent::Called,
    xds::{
        NodeKey, ResourceType,
        asks::{self, Wishes},
        names, resources,
        subscription::{Held, MAX_NAMES, Outcome, Subscription, TooManyNames},
        table::{Entry, Names, View},
        wire::{Asks, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Says},
    },
};

/// Answers for types that we do not serve which may wait; beyond, the stream is not read until they are sent.
const MAX_WAITING: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct Session {
    node: Option<NodeKey>,
    subscriptions: [Subscription; ResourceType::COUNT],
    wishes: Wishes,
    last_nonce: u64,
    /// Answers for unknown types.
    waiting: VecDeque<DeltaDiscoveryResponse>,
}

/// A response to send now.
#[derive(Debug)]
pub struct Push<R = DeltaDiscoveryResponse> {
    /// Its type, unless it is one that we do not serve.
    pub resource_type: Option<ResourceType>,
    /// The message.
    pub response: R,
}

/// What the task of a stream needs of a protocol.
pub trait Protocol: Default {
    /// What the proxy sends.
    type Request: Asks;
    /// What it is sent.
    type Response: Says;
    /// Only differences are sent, so that a proxy may ask for single things.
    const IS_DELTA: bool;

    /// Takes a request of a proxy that sees `view`.
    ///
    /// # Errors
    ///
    /// Too many names; the stream should end.
    fn request(&mut self, request: &Self::Request, view: &View) -> Result<Meaning, TooManyNames>;

    /// Whether another request may be read.
    fn takes_requests(&self) -> bool;

    /// The next response that brings the proxy nearer to `view`, which counts as sent from now on; `None`: all is said.
    fn next(&mut self, view: &View) -> Option<Push<Self::Response>>;

    /// What became known without an answer of the proxy since the last call.
    fn learned(&mut self) -> Vec<(ResourceType, Outcome)> {
        Vec::new()
    }

    /// Whose stream it is.
    fn is_of(&mut self, _: &NodeKey) {}

    /// What the proxy asks for that is not there yet, if the protocol has words for it.
    fn wishes(&mut self) -> Option<&mut Wishes> {
        None
    }
}

/// What a request meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A request of a type that we serve.
    Known(ResourceType, Outcome),
    /// A request of a type that we do not serve: answered "there is none", so that the proxy does not wait.
    Unknown,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            node: None,
            subscriptions: ResourceType::ALL.map(Subscription::new),
            wishes: Wishes::default(),
            last_nonce: 0,
            waiting: VecDeque::new(),
        }
    }
}

impl Protocol for Session {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const IS_DELTA: bool = true;

    fn request(&mut self, request: &DeltaDiscoveryRequest, view: &View) -> Result<Meaning, TooManyNames> {
        self.look_at_held(request, view);
        self.take(request)
    }

    fn takes_requests(&self) -> bool {
        self.waiting.len() < MAX_WAITING && !self.wishes.is_full()
    }

    fn is_of(&mut self, node: &NodeKey) {
        self.node = Some(node.clone());
    }

    fn wishes(&mut self) -> Option<&mut Wishes> {
        Some(&mut self.wishes)
    }

    fn next(&mut self, view: &View) -> Option<Push> {
        self.next_unless(view, |_| false)
    }
}

impl Session {
    /// Takes a request; what it means does not depend on what the proxy sees.
    ///
    /// # Errors
    ///
    /// Too many names; the stream should end.
    pub fn take(&mut self, request: &DeltaDiscoveryRequest) -> Result<Meaning, TooManyNames> {
        let Some(resource_type) = ResourceType::from_type_url(&request.type_url) else {
            self.unknown(request);
            return Ok(Meaning::Unknown);
        };
        let subscription = &mut self.subscriptions[resource_type.index()];
        let outcome = match resource_type {
            ResourceType::VirtualHost => {
                // All that is seen is sent; what is asked for by name is not seen yet, or it would not be asked for.
                let resource_names_subscribe =
                    if subscription.is_wildcard() { Vec::new() } else { vec!["*".to_owned()] };
                let request = DeltaDiscoveryRequest {
                    resource_names_subscribe,
                    resource_names_unsubscribe: Vec::new(),
                    ..request.clone()
                };
                subscription.request(&request)?
            }
            ResourceType::Cluster => match self.node.as_ref().and_then(|node| Self::streams(node, request)) {
                Some((asked, request)) => {
                    asked.into_iter().for_each(|called| self.wishes.ask_stream(called));
                    subscription.request(&request)?
                }
                None => subscription.request(request)?,
            },
            _ => subscription.request(request)?,
        };
        if resource_type == ResourceType::VirtualHost {
            let again = !request.initial_resource_versions.is_empty();
            let asked = request.resource_names_subscribe.iter().filter(|name| *name != "*");
            asked.for_each(|name| self.wishes.ask(name, again));
        }
        Ok(Meaning::Known(resource_type, outcome))
    }

    /// What a request for clusters asks of connections, and the request without that; `None`: nothing. Everything that is seen is sent, and nothing that
    /// is asked for by name must be answered "there is none", after which Envoy would not ask again.
    fn streams(node: &NodeKey, request: &DeltaDiscoveryRequest) -> Option<(Vec<Called>, DeltaDiscoveryRequest)> {
        let DeltaDiscoveryRequest { resource_names_subscribe, resource_names_unsubscribe, .. } = request;
        let is_stream = |name: &String| names::asked_stream(node, name).is_some();
        if !resource_names_subscribe.iter().chain(resource_names_unsubscribe).any(is_stream) {
            return None;
        }
        // On another stream it has asked for what it has; that is looked at by its version.
        let new = resource_names_subscribe.iter().filter(|name| !request.initial_resource_versions.contains_key(*name));
        let asked = new.filter_map(|name| names::asked_stream(node, name)).collect();
        let mut rest = request.clone();
        rest.resource_names_subscribe.retain(|name| !is_stream(name));
        rest.resource_names_unsubscribe.retain(|name| !is_stream(name));
        Some((asked, rest))
    }

    /// A proxy that comes from another stream has what its application called there, of which nothing may be known here.
    fn look_at_held(&mut self, request: &DeltaDiscoveryRequest, view: &View) {
        let (Some(node), Some(resource_type)) = (&self.node, ResourceType::from_type_url(&request.type_url)) else {
            return;
        };
        let seen = &view[resource_type.index()];
        let held = &request.initial_resource_versions;
        let is_first = !self.subscriptions[resource_type.index()].is_started();
        let is_partial = !view[ResourceType::VirtualHost.index()].is_empty();
        if is_first && is_partial && held.is_empty() && resource_type == ResourceType::Cluster {
            // It would say which clusters it has.
            self.wishes.starts();
        }
        match resource_type {
            ResourceType::Cluster | ResourceType::VirtualHost => {
                let names = held.keys().map(String::as_str);
                let called = asks::unknown(node, resource_type, names, |name| seen.contains_key(name));
                if !called.is_empty() {
                    self.wishes.has(called, None);
                }
            }
            ResourceType::Route => {
                let other = |name: &str, version: &str| seen.get(name).is_some_and(|entry| *entry.version != *version);
                let others = held.iter().filter(|(name, version)| other(name, version));
                if let Some(round) = others.filter_map(|(_, version)| names::round(version)).max() {
                    self.wishes.has(Vec::new(), Some(round));
                }
            }
            _ => {}
        }
    }

    /// State of a type.
    #[must_use]
    pub fn subscription(&self, resource_type: ResourceType) -> &Subscription {
        &self.subscriptions[resource_type.index()]
    }

    /// As [`Protocol::next`], but sends nothing of a type that is `busy`. What comes after it in the order waits with it,
    /// except endpoints, since a proxy may not answer clusters before it has them.
    pub fn next_unless(&mut self, view: &View, busy: impl Fn(ResourceType) -> bool) -> Option<Push> {
        if let Some(response) = self.waiting.pop_front() {
            return Some(Push { resource_type: None, response });
        }
        if self.wishes.is_looking() {
            return None;
        }
        let mut held_back = false;
        let mut emptied = Vec::new();
        for resource_type in ResourceType::ALL {
            if resource_type == ResourceType::VirtualHost {
                match self.next_hosts(view) {
                    Hosts::Push(push) => return Some(push),
                    Hosts::Wait => held_back = true,
                    Hosts::None => {}
                }
                continue;
            }
            let mut names = self.subscriptions[resource_type.index()].changes(&view[resource_type.index()]);
            if resource_type == ResourceType::Endpoints {
                (emptied, names) = names.into_iter().partition(|name| self.is_emptied(name, view));
            }
            if names.is_empty() {
                continue;
            }
            if busy(resource_type) || (held_back && resource_type != ResourceType::Endpoints) {
                held_back = true;
                continue;
            }
            if resource_type == ResourceType::Route {
                // Envoy refuses routes by the response and does not say which it means: each comes alone.
                names.truncate(1);
            }
            return Some(self.push_changes(resource_type, names, &view[resource_type.index()]));
        }
        if !emptied.is_empty() && !held_back && !busy(ResourceType::Endpoints) {
            return Some(self.push_changes(ResourceType::Endpoints, emptied, &view[ResourceType::Endpoints.index()]));
        }
        for resource_type in ResourceType::ALL.into_iter().rev().filter(|t| *t != ResourceType::VirtualHost) {
            let names = self.subscriptions[resource_type.index()].removals(&view[resource_type.index()]);
            if names.is_empty() {
                continue;
            }
            if held_back || busy(resource_type) {
                held_back = true;
                continue;
            }
            let push = match resource_type {
                ResourceType::Endpoints => self.push_endpoint_removals(names, &view[ResourceType::Cluster.index()]),
                _ => Some(self.push(resource_type, Vec::new(), names, Vec::new())),
            };
            if push.is_some() {
                return push;
            }
        }
        let unanswered =
            ResourceType::ALL.into_iter().find(|t| self.subscriptions[t.index()].wants_any_answer() && !busy(*t));
        unanswered.map(|resource_type| self.push(resource_type, Vec::new(), Vec::new(), Vec::new()))
    }

    /// Virtual hosts whose clusters are ready, with those that are gone.
    fn next_hosts(&mut self, view: &View) -> Hosts {
        let seen = &view[ResourceType::VirtualHost.index()];
        self.wishes.ask_again_unless(|host| seen.contains_key(host));
        let subscription = &mut self.subscriptions[ResourceType::VirtualHost.index()];
        let has = |host: &str| seen.get(host).is_some_and(|entry| subscription.has_been_told(host, &entry.version));
        let answers: Vec<Arc<str>> = self.wishes.answers(has).cloned().collect();
        answers.iter().for_each(|host| subscription.force(host));
        let mut names = subscription.changes(seen);
        let removed = subscription.removals(seen);
        let due = names.len();
        names.retain(|name| self.is_backed(seen.get(name), view));
        let waits = names.len() < due;
        // What goes may have the domain of what waits.
        let removed = if waits { Vec::new() } else { removed };
        if names.is_empty() && removed.is_empty() {
            return if waits { Hosts::Wait } else { Hosts::None };
        }
        let mut encoded = Vec::with_capacity(names.len());
        let mut held: Vec<Held> = Vec::with_capacity(names.len());
        for name in names {
            let Some(entry) = seen.get(&name) else { continue };
            let asked = self.wishes.take_answered_by(&name);
            encoded.push(if asked.is_empty() {
                entry.encoded.clone()
            } else {
                resources::also_named(&entry.encoded, &asked)
            });
            held.push((name, Some(entry.version.clone())));
        }
        Hosts::Push(self.push(ResourceType::VirtualHost, encoded, removed, held))
    }

    /// Whether a cluster that the proxy has endpoints of has none any more.
    fn is_emptied(&self, name: &str, view: &View) -> bool {
        let endpoints = ResourceType::Endpoints.index();
        let entry = view[endpoints].get(name);
        entry.is_some_and(|entry| *entry.version == *resources::endpoint::EMPTY_VERSION)
            && self.subscriptions[endpoints].is_settled(name)
    }

    /// Whether the proxy has answered for all clusters that a virtual host leads to, and for their endpoints.
    fn is_backed(&self, host: Option<&Entry>, view: &View) -> bool {
        let [clusters, endpoints] = [ResourceType::Cluster, ResourceType::Endpoints].map(ResourceType::index);
        let answered = |of: usize, name: &str| {
            let entry = view[of].get(name);
            entry.is_none_or(|entry| self.subscriptions[of].is_answered(name, &entry.version))
        };
        let sent = |name: &str| {
            let entry = view[clusters].get(name);
            entry.is_none_or(|entry| self.subscriptions[clusters].has_been_told(name, &entry.version))
        };
        // Envoy answers for clusters when all that it warms are warm, so one that hangs must not hold up the others.
        let ready = |name: &Arc<str>| match view[endpoints].contains_key(name) {
            // What is emptied waits for the routes.
            true => sent(name) && (answered(endpoints, name) || self.is_emptied(name, view)),
            false => answered(clusters, name),
        };
        host.and_then(|host| host.needs.as_ref()).is_none_or(|needs| needs.iter().all(ready))
    }

    fn push_changes(&mut self, resource_type: ResourceType, names: Vec<Arc<str>>, view: &Names) -> Push {
        let mut encoded = Vec::with_capacity(names.len());
        let mut held: Vec<Held> = Vec::with_capacity(names.len());
        for name in names {
            let Some(entry) = view.get(&name) else { continue };
            encoded.push(entry.encoded.clone());
            if resource_type == ResourceType::Cluster {
                self.subscriptions[ResourceType::Endpoints.index()].force(&name);
            }
            held.push((name, Some(entry.version.clone())));
        }
        self.push(resource_type, encoded, Vec::new(), held)
    }

    /// Empties the endpoints of clusters that stay; those of clusters that go are left alone, so that requests on their way
    /// are still answered; names that never were get the plain answer.
    fn push_endpoint_removals(&mut self, names: Vec<Arc<str>>, clusters: &Names) -> Option<Push> {
        let subscription = &mut self.subscriptions[ResourceType::Endpoints.index()];
        let mut encoded = Vec::new();
        let mut removed = Vec::new();
        let mut held = Vec::new();
        for name in names {
            if subscription.is_waiting_for(&name) {
                removed.push(name);
            } else if clusters.contains_key(&name) {
                encoded.push(resources::endpoint::empty(&name));
                held.push((name, None));
            } else {
                subscription.retire(&name);
            }
        }
        let nothing = encoded.is_empty() && removed.is_empty();
        (!nothing).then(|| self.push(ResourceType::Endpoints, encoded, removed, held))
    }

    fn push(
        &mut self,
        resource_type: ResourceType,
        encoded: Vec<Bytes>,
        removed: Vec<Arc<str>>,
        mut held: Vec<Held>,
    ) -> Push {
        self.last_nonce += 1;
        let response = DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources: encoded,
            type_url: resource_type.type_url().into(),
            nonce: self.last_nonce.to_string(),
            removed_resources: removed.iter().map(|name| name.to_string()).collect(),
        };
        held.extend(removed.into_iter().map(|name| (name, None)));
        self.subscriptions[resource_type.index()].sent(self.last_nonce, held);
        Push { resource_type: Some(resource_type), response }
    }

    fn unknown(&mut self, request: &DeltaDiscoveryRequest) {
        let asks = !request.resource_names_subscribe.is_empty() || request.response_nonce.is_empty();
        if !asks {
            return; // an answer to our answer
        }
        self.last_nonce += 1;
        let names = request.resource_names_subscribe.iter().filter(|name| *name != "*").take(MAX_NAMES);
        self.waiting.push_back(DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources: Vec::new(),
            type_url: request.type_url.clone(),
            nonce: self.last_nonce.to_string(),
            removed_resources: names.cloned().collect(),
        });
    }
}

/// What there is to be said of virtual hosts.
enum Hosts {
    Push(Push),
    /// Their clusters are not ready yet.
    Wait,
    None,
}

#[cfg(test)]
mod tests;

//! Protocol state of one stream: the subscriptions and the order of pushes. No I/O, no clock.
//!
//! Order: the runtime layer, changed clusters, endpoints, extension configurations, listeners, routes; then removals, the
//! other way round. Envoy warms a changed EDS cluster until it is told its endpoints again and does not ask for them, so every cluster that is sent is
//! followed by its endpoints, changed or not. Envoy ignores the removal of endpoints, so they are emptied instead.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use crate::xds::{
    ResourceType, resources,
    subscription::{Held, MAX_NAMES, Outcome, Subscription, TooManyNames},
    table::{Names, View},
    wire::{Asks, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Says},
};

/// Answers for types that we do not serve which may wait; beyond, the stream is not read until they are sent.
const MAX_WAITING: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct Session {
    subscriptions: [Subscription; ResourceType::COUNT],
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
        Self { subscriptions: ResourceType::ALL.map(Subscription::new), last_nonce: 0, waiting: VecDeque::new() }
    }
}

impl Protocol for Session {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const IS_DELTA: bool = true;

    fn request(&mut self, request: &DeltaDiscoveryRequest, _: &View) -> Result<Meaning, TooManyNames> {
        self.take(request)
    }

    fn takes_requests(&self) -> bool {
        self.waiting.len() < MAX_WAITING
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
        let outcome = self.subscriptions[resource_type.index()].request(request)?;
        Ok(Meaning::Known(resource_type, outcome))
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
        let mut held_back = false;
        for resource_type in ResourceType::ALL {
            let mut names = self.subscriptions[resource_type.index()].changes(&view[resource_type.index()]);
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
        for resource_type in ResourceType::ALL.into_iter().rev() {
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

#[cfg(test)]
mod tests;

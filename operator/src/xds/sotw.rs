//! Protocol state of a state-of-the-world stream: a delta [`Session`] whose differences are added up. No I/O, no clock.
//!
//! What differs from delta, and why there is something to keep:
//!
//! - Clusters and listeners that a response does not hold are gone, so each holds all that the proxy is to keep: also what
//!   did not change, what has a refused successor, and what goes but only after everything else was changed.
//! - A version stands for all that the proxy has of a type. A proxy that connects again says one, and if that is the
//!   version of what it sees now, it has everything.
//! - Other types have no word for "gone": the proxy drops by itself what nothing refers to.
//! - The next response of a type waits for the answer to the one before, since it is made from what that one left.

use std::{collections::BTreeMap, sync::Arc};

use xxhash_rust::xxh3::Xxh3;

use crate::xds::{
    ResourceType,
    session::{Meaning, Protocol, Push, Session},
    subscription::{Outcome, TooManyNames},
    table::{Entry, Names, View},
    wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, any_of},
};

/// See the module.
#[derive(Debug, Default)]
pub struct SotwSession {
    session: Session,
    types: [Kept; ResourceType::COUNT],
    learned: Vec<(ResourceType, Outcome)>,
}

/// What is kept of one type.
#[derive(Debug, Default)]
struct Kept {
    /// A request has come.
    started: bool,
    /// Names were given once, so that none means none.
    named: bool,
    /// The newest response, if any; older ones are not answered any more.
    nonce: Option<String>,
    /// It was not answered yet.
    unanswered: bool,
    /// Names were asked for since it was sent.
    asked: bool,
    /// What the proxy has, supposing that it takes the newest response.
    has: Names,
    /// What the newest response replaced in `has`.
    replaced: Vec<(Arc<str>, Option<Entry>)>,
}

impl Protocol for SotwSession {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const IS_DELTA: bool = false;

    fn request(&mut self, request: &DiscoveryRequest, view: &View) -> Result<Meaning, TooManyNames> {
        let Some(resource_type) = ResourceType::from_type_url(&request.type_url) else {
            return self.session.take(&unknown(request));
        };
        let kept = &mut self.types[resource_type.index()];
        let of_newest = kept.nonce.as_ref() == Some(&request.response_nonce);
        if kept.nonce.is_some() && !of_newest && !request.response_nonce.is_empty() {
            // Stale: the answer to the newest response, which says the same names, is still to come.
            return Ok(Meaning::Known(resource_type, Outcome::default()));
        }
        let answers = of_newest && kept.unanswered;
        let mut delta = names(&self.session, resource_type, kept, request);
        if answers {
            delta.response_nonce.clone_from(&request.response_nonce);
            delta.error_detail.clone_from(&request.error_detail);
        } else if !kept.started {
            kept.resume(resource_type, request, view, &mut delta);
        } else if !resource_type.has_wildcard()
            && !kept.unanswered
            && delta.resource_names_subscribe.is_empty()
            && delta.resource_names_unsubscribe.is_empty()
        {
            // The same names again ask for what is known: Envoy does when it makes a cluster anew. Fewer names ask for nothing;
            // should a cluster be made anew at the same moment, its endpoints follow it in any case.
            delta.resource_names_subscribe.extend(request.resource_names.iter().filter(|name| *name != "*").cloned());
        }
        kept.started = true;
        kept.asked |= !delta.resource_names_subscribe.is_empty();
        let meaning = self.session.take(&delta)?;
        if answers {
            kept.unanswered = false;
            let replaced = std::mem::take(&mut kept.replaced);
            if let Meaning::Known(_, Outcome { refused: Some(refused), .. }) = &meaning {
                kept.undo(replaced.into_iter().filter(|(name, _)| refused.iter().any(|(of, _)| of == name)));
            }
        }
        let subscription = self.session.subscription(resource_type);
        if !subscription.is_wildcard() {
            kept.has.retain(|name, _| subscription.is_subscribed(name));
        }
        Ok(meaning)
    }

    fn takes_requests(&self) -> bool {
        self.session.takes_requests()
    }

    fn next(&mut self, view: &View) -> Option<Push<DiscoveryResponse>> {
        loop {
            let busy = self.types.each_ref().map(|kept| kept.unanswered);
            let Push { resource_type, response } = self.session.next_unless(view, |t| busy[t.index()])?;
            let Some(resource_type) = resource_type else {
                let DeltaDiscoveryResponse { type_url, nonce, .. } = response;
                let response = DiscoveryResponse { type_url, nonce, ..DiscoveryResponse::default() };
                return Some(Push { resource_type: None, response });
            };
            let sent = self.session.subscription(resource_type).last_sent();
            let kept = &mut self.types[resource_type.index()];
            // A full state says of every name whether it is there; other types have no word for those that are not.
            let mut says = resource_type.has_wildcard() && (kept.asked || kept.nonce.is_none());
            for (at, (name, version)) in sent.iter().enumerate() {
                let entry = version.clone().zip(response.resources.get(at).cloned());
                let old = match entry {
                    Some((version, encoded)) => kept.has.insert(name.clone(), Entry { version, encoded, needs: None }),
                    None => kept.has.remove(name),
                };
                says |= at < response.resources.len() || (resource_type.has_wildcard() && old.is_some());
                kept.replaced.push((name.clone(), old));
            }
            if !says {
                self.unsaid(resource_type, response);
                continue;
            }
            let resources: Vec<_> = if resource_type.has_wildcard() {
                kept.has.values().map(|entry| any_of(&entry.encoded)).collect()
            } else {
                response.resources.iter().map(any_of).collect()
            };
            kept.nonce = Some(response.nonce.clone());
            kept.unanswered = true;
            kept.asked = false;
            let DeltaDiscoveryResponse { type_url, nonce, .. } = response;
            let response = DiscoveryResponse { version_info: version(&kept.has), resources, type_url, nonce };
            return Some(Push { resource_type: Some(resource_type), response });
        }
    }

    fn learned(&mut self) -> Vec<(ResourceType, Outcome)> {
        std::mem::take(&mut self.learned)
    }
}

impl SotwSession {
    /// A response that the protocol has no words for counts as taken.
    fn unsaid(&mut self, resource_type: ResourceType, response: DeltaDiscoveryResponse) {
        let DeltaDiscoveryResponse { type_url, nonce: response_nonce, .. } = response;
        let taken = DeltaDiscoveryRequest { type_url, response_nonce, ..DeltaDiscoveryRequest::default() };
        self.types[resource_type.index()].replaced.clear();
        if let Ok(Meaning::Known(_, Outcome { holds, .. })) = self.session.take(&taken) {
            self.learned.push((resource_type, Outcome { holds, ..Outcome::default() }));
        }
    }
}

impl Kept {
    /// The first request of a type says what the proxy has from an earlier stream, if that is what it sees now.
    fn resume(
        &mut self,
        resource_type: ResourceType,
        request: &DiscoveryRequest,
        view: &View,
        delta: &mut DeltaDiscoveryRequest,
    ) {
        if request.version_info.is_empty() {
            return;
        }
        let all = (request.resource_names.is_empty() && resource_type.has_wildcard())
            || request.resource_names.iter().any(|name| name == "*");
        let view = &view[resource_type.index()];
        let asked: Names = if all {
            Names::clone(view)
        } else {
            let known = request.resource_names.iter().filter_map(|name| view.get_key_value(name.as_str()));
            known.map(|(name, entry)| (name.clone(), entry.clone())).collect()
        };
        if version(&asked) == request.version_info {
            let versions = asked.iter().map(|(name, entry)| (name.to_string(), entry.version.to_string()));
            delta.initial_resource_versions = versions.collect();
            self.has = asked;
        }
    }

    fn undo(&mut self, replaced: impl Iterator<Item = (Arc<str>, Option<Entry>)>) {
        for (name, old) in replaced {
            match old {
                Some(old) => self.has.insert(name, old),
                None => self.has.remove(&name),
            };
        }
    }
}

/// The names of a request as differences to what is subscribed.
fn names(
    session: &Session,
    resource_type: ResourceType,
    kept: &mut Kept,
    request: &DiscoveryRequest,
) -> DeltaDiscoveryRequest {
    let subscription = session.subscription(resource_type);
    kept.named |= !request.resource_names.is_empty();
    let wanted = &request.resource_names;
    let all = wanted.iter().any(|name| name == "*") || (!kept.named && resource_type.has_wildcard());
    let mut delta = DeltaDiscoveryRequest { type_url: request.type_url.clone(), ..DeltaDiscoveryRequest::default() };
    let new = wanted.iter().filter(|name| *name != "*" && !subscription.is_subscribed(name));
    delta.resource_names_subscribe = new.cloned().collect();
    if all && !subscription.is_wildcard() {
        delta.resource_names_subscribe.push("*".into());
    }
    let old: BTreeMap<&str, ()> = wanted.iter().map(|name| (name.as_str(), ())).collect();
    let dropped = subscription.subscribed().filter(|name| !old.contains_key(&***name));
    delta.resource_names_unsubscribe = dropped.map(|name| name.to_string()).collect();
    if !all && subscription.is_wildcard() {
        delta.resource_names_unsubscribe.push("*".into());
    }
    delta
}

/// A request of a type that we do not serve: its names are a question only where it answers nothing.
fn unknown(request: &DiscoveryRequest) -> DeltaDiscoveryRequest {
    let asks = request.response_nonce.is_empty();
    DeltaDiscoveryRequest {
        type_url: request.type_url.clone(),
        resource_names_subscribe: if asks { request.resource_names.clone() } else { Vec::new() },
        response_nonce: request.response_nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// Hash over names and versions: equal on all replicas and across restarts.
fn version(names: &Names) -> String {
    let mut hash = Xxh3::new();
    for (name, entry) in names {
        for part in [&**name, &*entry.version] {
            hash.update(part.as_bytes());
            hash.update(&[0]);
        }
    }
    format!("{:016x}", hash.digest())
}

#[cfg(test)]
mod tests;

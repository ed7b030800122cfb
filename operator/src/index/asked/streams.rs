//! Connections that are not HTTP, where a proxy asks about them: by the address that they are for, or by the name in TLS.
//!
//! Envoy asks once for each and never again, so none is forgotten while its pod is there. What cannot be reached is answered too, since the
//! next connection would otherwise wait in vain.

use jiff::Timestamp;
use limiter::lazy::{Lazy, UnknownHosts};

use super::{Ask, Why, is_name, lists, may_load, of_cluster};
use crate::{
    index::{Dirty, Index},
    intent::{Called, DestinationKey, ServiceKey},
};

/// Names and addresses by pod. Of more, none is taken in.
pub const MOST_STREAMS: usize = 1_000;

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// There.
    Destination(DestinationKey),
    /// Where the application wanted them to.
    Original,
    /// They are closed.
    Nowhere,
}

impl Index {
    /// Takes in that the proxy of a pod asks where connections go that are for this name or address. Returns the services touched: none, if
    /// it is known already, or the pod may ask for no more.
    pub fn ask_stream(&mut self, service: &ServiceKey, pod: &str, called: Called, now: Timestamp) -> Dirty {
        let fits = match &called {
            Called::Name(name, _) => is_name(name),
            Called::Address(_) => true,
            Called::Destination(_) | Called::Host(_) => false,
        };
        if !fits || self.lazy(service, pod).is_none() {
            return Dirty::default();
        }
        let asked = self.asks.pods.entry((service.clone(), pod.to_owned())).or_default();
        let is_full = || asked.called.keys().filter(|other| other.is_stream()).count() >= MOST_STREAMS;
        if asked.called.contains_key(&called) || is_full() {
            return Dirty::default();
        }
        asked.called.insert(called.clone(), Ask { why: Why::OnDemand, since: now, used: now, leaving: false });
        self.asks.count(service, &called);
        crate::index::dirty([service.clone()])
    }

    /// Where connections of `service`'s pods, for which `lazy` holds, go now.
    pub(super) fn reach(&self, service: &ServiceKey, lazy: &Lazy, called: &Called) -> Reached {
        let passes_on = lazy.unknown_hosts == UnknownHosts::Passthrough;
        let original = |may: bool| if may { Reached::Original } else { Reached::Nowhere };
        match called {
            // What is not listed is found where the application found it, which may know another DNS.
            Called::Name(name, port) => match self.resolve_of(service, lazy, &format!("{name}:{port}"), |_| true) {
                Some(key) if key.is_outside() && !lists(lazy, &key) => Reached::Original,
                Some(key) => Reached::Destination(key),
                // A name without a dot that is no Service, or `-`, as Envoy writes that the client names nobody.
                None => {
                    let called = of_cluster(&service.namespace, name);
                    let of_mesh = called.is_some_and(|called| !self.ports_of(&called).is_empty());
                    original(passes_on && !of_mesh && may_load(lazy, &DestinationKey::outside(name, *port)))
                }
            },
            Called::Address(address) => {
                let mut is_endpoint = false;
                for owner in self.at_address(address.ip()) {
                    for known in self.ports_of(owner) {
                        let own = known.key.port == address.port() && self.addresses_of(owner).contains(&address.ip());
                        let endpoint = known.endpoints.contains(address);
                        if (own || endpoint) && !may_load(lazy, &known.key) {
                            return Reached::Nowhere;
                        }
                        if own {
                            return Reached::Destination(known.key.clone());
                        }
                        is_endpoint |= endpoint;
                    }
                }
                let outside = DestinationKey::outside(&address.ip().to_string(), address.port());
                original(is_endpoint || ((passes_on || lists(lazy, &outside)) && may_load(lazy, &outside)))
            }
            Called::Destination(_) | Called::Host(_) => Reached::Nowhere,
        }
    }
}

//! Who calls whom: what each service looks like from outside, and which other services are touched when that changes.
//!
//! A change touches the services it names. If one of them then looks different to its callers (its ready endpoints, the
//! policies that callers and gateways enforce for it, its own pods that call), the services whose proxies care are touched
//! too, and no other.

mod dangling;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use limiter::{
    lazy::Lazy,
    policy::{EnforceAt, Policy, tenants::Namespaces},
};

use super::{
    Dirty, Index, ObjectKey,
    gateway::{GatewayModel, RouteModel},
    model::{EndpointSliceModel, ServiceModel, Unfit},
    view::Ports,
};
use crate::intent::{Destination, DestinationKey, ServiceKey};

/// Namespace and name of an HTTPRoute; the same form as a Service's.
pub type RouteKey = ServiceKey;

/// A pod whose proxy enforces limits of a service that is not (only) its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Enforcer {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Services that it is an endpoint of. Its proxy says that it belongs to one of them.
    pub services: BTreeSet<ServiceKey>,
    /// Takes requests itself, for any of those services; only then it gets a share of a total.
    pub ready: bool,
}

/// What other services need to know of one.
#[derive(Clone, Debug, Default, PartialEq)]
struct Face {
    /// Its TCP ports, in order.
    destinations: Vec<Arc<Destination>>,
    /// Its own addresses.
    addresses: Vec<IpAddr>,
    /// Policies that others enforce.
    policies: Vec<Arc<Policy>>,
    /// Its pods that call through their proxy, and whether they are ready.
    callers: BTreeMap<String, bool>,
    /// Its pods when it is a Gateway's, and whether they are ready.
    gateway: BTreeMap<String, bool>,
    /// One of the pods that call has everything from the start.
    eager: bool,
    /// What holds for the others.
    lazies: Vec<Arc<Lazy>>,
}

impl Face {
    /// Its own addresses, and those of its endpoints.
    fn all_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let endpoints = self.destinations.iter().flat_map(|destination| &destination.endpoints);
        self.addresses.iter().copied().chain(endpoints.map(SocketAddr::ip))
    }
}

/// What is known beside the objects themselves. Written by `widen` and when a Gateway or HTTPRoute changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Edges {
    faces: BTreeMap<ServiceKey, Face>,
    /// Services by their own addresses, and those of their endpoints.
    by_address: BTreeMap<IpAddr, BTreeSet<ServiceKey>>,
    /// Services with pods that call, by namespace.
    callers: BTreeMap<String, BTreeSet<ServiceKey>>,
    pub(super) gateways: BTreeMap<ServiceKey, GatewayModel>,
    pub(super) routes: BTreeMap<RouteKey, RouteModel>,
    /// Where Gateways, HTTPRoutes and Pods with a way out stand.
    pub(super) origins: BTreeMap<ObjectKey, String>,
    /// Routes by the Gateways they name.
    by_parent: BTreeMap<ServiceKey, BTreeSet<RouteKey>>,
    /// Routes by the Services they send to.
    by_backend: BTreeMap<ServiceKey, BTreeSet<RouteKey>>,
}

impl Index {
    /// Takes in that a Gateway is new, different or gone; the services that this touches.
    pub(super) fn set_gateway(&mut self, key: &ServiceKey, model: Option<GatewayModel>) -> BTreeSet<ServiceKey> {
        let mut touched = self.around_gateway(key);
        match model {
            Some(model) => drop(self.edges.gateways.insert(key.clone(), model)),
            None => drop(self.edges.gateways.remove(key)),
        }
        touched.extend(self.around_gateway(key));
        touched
    }

    /// Takes in that an HTTPRoute is new, different or gone; the services that this touches.
    pub(super) fn set_route(&mut self, key: &RouteKey, model: Option<RouteModel>) -> BTreeSet<ServiceKey> {
        let mut touched = self.around_route(key);
        if let Some(old) = self.edges.routes.remove(key) {
            let parents = old.parents.iter().map(|parent| &parent.gateway);
            parents.for_each(|gateway| forget(&mut self.edges.by_parent, gateway, key));
            old.services().for_each(|service| forget(&mut self.edges.by_backend, service, key));
        }
        if let Some(model) = model {
            for parent in &model.parents {
                self.edges.by_parent.entry(parent.gateway.clone()).or_default().insert(key.clone());
            }
            for service in model.services() {
                self.edges.by_backend.entry(service.clone()).or_default().insert(key.clone());
            }
            self.edges.routes.insert(key.clone(), model);
        }
        touched.extend(self.around_route(key));
        touched
    }

    /// The Gateway's own Service, and who shares limits with it.
    fn around_gateway(&self, key: &ServiceKey) -> BTreeSet<ServiceKey> {
        let routes = self.edges.by_parent.get(key).into_iter().flatten();
        routes.flat_map(|route| self.sharing(route)).chain([key.clone()]).collect()
    }

    /// The Gateways that a route names, and who shares limits with them.
    fn around_route(&self, key: &RouteKey) -> BTreeSet<ServiceKey> {
        let parents = self.edges.routes.get(key).into_iter().flat_map(|route| &route.parents);
        parents.map(|parent| parent.gateway.clone()).chain(self.sharing(key)).collect()
    }

    /// Services behind a route whose limits gateways enforce, with all those gateways: they share totals.
    fn sharing(&self, route: &RouteKey) -> BTreeSet<ServiceKey> {
        let services = self.edges.routes.get(route).into_iter().flat_map(RouteModel::services);
        let limited = services.filter(|service| self.enforced_elsewhere(service, EnforceAt::Gateway).next().is_some());
        limited.flat_map(|service| self.gateways_to(service).into_iter().chain([service.clone()])).collect()
    }

    /// Adds to what a change touched the services that see the difference.
    pub(super) fn widen(&mut self, mut dirty: Dirty) -> Dirty {
        let mut more = BTreeSet::new();
        for key in &dirty.services {
            let new = self.face(key);
            let old = self.edges.faces.get(key).cloned().unwrap_or_default();
            if new == old {
                continue;
            }
            let at = |face: &Face, place| face.policies.iter().filter(|p| p.enforce_at == place).cloned().collect();
            let policies_differ = |place| -> bool {
                let (old, new): (Vec<Arc<Policy>>, Vec<Arc<Policy>>) = (at(&old, place), at(&new, place));
                old != new
            };
            let destinations_differ = new.destinations != old.destinations || new.addresses != old.addresses;
            let callers_differ = new.callers != old.callers;
            let gateway_differs = new.gateway != old.gateway;
            let (client, gateway) = (policies_differ(EnforceAt::Client), policies_differ(EnforceAt::Gateway));
            let of_namespace = self.edges.callers.entry(key.namespace.clone()).or_default();
            if new.callers.is_empty() {
                of_namespace.remove(key)
            } else {
                of_namespace.insert(key.clone())
            };
            if destinations_differ {
                self.edges.move_addresses(key, &old, &new);
                let addresses = old.all_addresses().chain(new.all_addresses());
                more.extend(addresses.flat_map(|address| self.lazy_callers_at(address)).cloned());
            }
            if new == Face::default() {
                self.edges.faces.remove(key);
            } else {
                self.edges.faces.insert(key.clone(), new);
            }
            if destinations_differ {
                more.extend(self.calling(key).cloned().collect::<Vec<_>>());
                let roots: Vec<_> = self.roots_of(key).cloned().collect();
                more.extend(roots.iter().flat_map(|root| self.sharing_out(root)));
            }
            if destinations_differ || gateway {
                more.extend(self.gateways_to(key));
            }
            if client {
                more.extend(self.callers_of(&key.namespace).cloned());
            }
            if callers_differ {
                // They share totals with all other callers.
                for limited in self.limited_at_callers(&key.namespace) {
                    more.extend(self.callers_of(&limited.namespace).cloned());
                    more.insert(limited);
                }
            }
            if gateway_differs {
                more.extend(self.around_gateway(key));
            }
        }
        dirty.services.extend(more);
        dirty
    }

    fn face(&self, key: &ServiceKey) -> Face {
        let Some(model) = self.services.get(key) else { return Face::default() };
        let slices = self.slices.get(key);
        let applying = self.applying(key, model).into_iter();
        let mut face = Face {
            destinations: destinations(key, model, slices),
            addresses: model.addresses.clone(),
            policies: applying.filter(|policy| policy.enforce_at != EnforceAt::Server).cloned().collect(),
            ..Face::default()
        };
        let gateway = self.edges.gateways.get(key);
        let is_gateway = gateway.is_some();
        let ports = Ports::new(model, slices, gateway);
        for endpoint in slices.into_iter().flat_map(BTreeMap::values).flat_map(|slice| &slice.endpoints) {
            let pod = self.pods.get(&(key.namespace.clone(), endpoint.pod.clone()));
            let calls = pod.is_some_and(|pod| ports.way_out(&endpoint.pod, pod).is_some());
            if calls {
                match self.lazy(key, &endpoint.pod) {
                    None => face.eager = true,
                    Some(lazy) if !face.lazies.contains(lazy) => face.lazies.push(Arc::clone(lazy)),
                    Some(_) => {}
                }
            }
            for (wanted, list) in [(calls, &mut face.callers), (is_gateway, &mut face.gateway)] {
                if wanted {
                    *list.entry(endpoint.pod.clone()).or_insert(true) &= endpoint.ready;
                }
            }
        }
        face
    }

    /// Services with pods that call, to whose proxies it matters what is known of `service`.
    pub(super) fn calling(&self, service: &ServiceKey) -> impl Iterator<Item = &ServiceKey> {
        let lists = |lazy: &Arc<Lazy>| lazy.always.iter().any(|callee| callee.names(&service.namespace, &service.name));
        let faces = self.edges.callers.values().flatten().filter_map(|key| self.edges.faces.get_key_value(key));
        let listing = faces.filter(move |(_, face)| face.eager || face.lazies.iter().any(lists));
        listing.map(|(key, _)| key).chain(self.lazy_callers(service))
    }

    /// The TCP ports of a service, in order.
    pub(crate) fn ports_of(&self, service: &ServiceKey) -> &[Arc<Destination>] {
        self.edges.faces.get(service).map_or(&[], |face| &face.destinations)
    }

    /// The services that have an address, as their own or as an endpoint's.
    pub(crate) fn at_address(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.edges.by_address.get(&address).into_iter().flatten()
    }

    /// The addresses that are a service's own.
    #[must_use]
    pub fn addresses_of(&self, service: &ServiceKey) -> &[IpAddr] {
        self.edges.faces.get(service).map_or(&[], |face| &face.addresses)
    }

    /// Services that have limits for callers of the namespace.
    #[must_use]
    pub fn limited_at_callers(&self, namespace: &str) -> Vec<ServiceKey> {
        let client = |policy: &Arc<Policy>| policy.enforce_at == EnforceAt::Client;
        let limited = |(_, face): &(&ServiceKey, &Face)| face.policies.iter().any(client);
        if self.tenants.client_limits != Namespaces::none() {
            let concerns = |(key, _): &(&ServiceKey, &Face)| self.tenants.concerns_callers(&key.namespace, namespace);
            return self.edges.faces.iter().filter(concerns).filter(limited).map(|(key, _)| key.clone()).collect();
        }
        let first = ServiceKey { namespace: namespace.to_owned(), name: String::new() };
        let faces = self.edges.faces.range(first..).take_while(|(key, _)| key.namespace == namespace);
        faces.filter(limited).map(|(key, _)| key.clone()).collect()
    }

    /// Services with pods that call and are concerned by limits of objects in this namespace.
    fn callers_of(&self, namespace: &str) -> impl Iterator<Item = &ServiceKey> {
        let all = self.tenants.client_limits.contains(namespace);
        let callers = self.edges.callers.iter();
        callers.filter(move |(of, _)| all || *of == namespace).flat_map(|(_, services)| services)
    }

    /// Whether limits of `service` for its callers concern those of this namespace.
    #[must_use]
    pub fn limits_callers(&self, service: &ServiceKey, callers: &str) -> bool {
        self.tenants.concerns_callers(&service.namespace, callers)
    }

    /// Pods of other namespaces that call, and are not concerned by limits of `service` for its callers: namespace and name.
    pub fn unlimited_callers(&self, service: &ServiceKey) -> impl Iterator<Item = (&str, &str)> {
        let others = self.edges.callers.iter().filter(|(namespace, _)| !self.limits_callers(service, namespace));
        let faces = others.flat_map(|(_, owners)| owners).filter_map(|owner| self.edges.faces.get_key_value(owner));
        faces.flat_map(|(owner, face)| face.callers.keys().map(|pod| (owner.namespace.as_str(), pod.as_str())))
    }

    /// Gateways with a route that leads to the service.
    pub(super) fn gateways_to(&self, service: &ServiceKey) -> BTreeSet<ServiceKey> {
        let routes = self.edges.by_backend.get(service).into_iter().flatten();
        let named = routes.filter_map(|key| Some((key, self.edges.routes.get(key)?)));
        let gateways = named.flat_map(|(key, route)| route.parents.iter().map(move |parent| (key, route, parent)));
        gateways
            .filter(|(key, route, parent)| {
                let listeners = self.edges.gateways.get(&parent.gateway).into_iter().flat_map(|model| &model.listeners);
                listeners.into_iter().any(|listener| route.attaches(&key.namespace, &parent.gateway, listener))
            })
            .map(|(_, _, parent)| parent.gateway.clone())
            .collect()
    }

    /// Policies of a service that are enforced at this place, which is not [`EnforceAt::Server`].
    pub fn enforced_elsewhere(&self, service: &ServiceKey, place: EnforceAt) -> impl Iterator<Item = &Arc<Policy>> {
        let policies = self.edges.faces.get(service).into_iter().flat_map(|face| &face.policies);
        policies.filter(move |policy| policy.enforce_at == place)
    }

    /// Services whose proxies enforce at this place what is decided about `service`.
    #[must_use]
    pub fn enforcing(&self, service: &ServiceKey, place: EnforceAt) -> BTreeSet<ServiceKey> {
        if self.enforced_elsewhere(service, place).next().is_none() {
            return BTreeSet::new();
        }
        match place {
            EnforceAt::Server => BTreeSet::new(),
            EnforceAt::Client => self.callers_of(&service.namespace).cloned().collect(),
            EnforceAt::Gateway => self.gateways_to(service),
        }
    }

    /// Pods whose proxies enforce at this place what is decided about `service`, in the order in which a total is divided.
    #[must_use]
    pub fn enforcers(&self, service: &ServiceKey, place: EnforceAt) -> Vec<Enforcer> {
        let mut pods: BTreeMap<(String, String), (BTreeSet<ServiceKey>, bool)> = BTreeMap::new();
        for owner in self.enforcing(service, place) {
            let Some(face) = self.edges.faces.get(&owner) else { continue };
            let listed = if place == EnforceAt::Client { &face.callers } else { &face.gateway };
            for (pod, ready) in listed {
                let entry = pods.entry((owner.namespace.clone(), pod.clone())).or_default();
                entry.0.insert(owner.clone());
                entry.1 |= ready;
            }
        }
        let enforcer = |((namespace, pod), (services, ready))| Enforcer { namespace, pod, services, ready };
        pods.into_iter().map(enforcer).collect()
    }

    /// Every service that has TCP ports, with them in order.
    pub fn destinations(&self) -> impl Iterator<Item = (&ServiceKey, &[Arc<Destination>])> {
        self.edges.faces.iter().map(|(key, face)| (key, face.destinations.as_slice()))
    }

    /// One port of a service.
    #[must_use]
    pub fn destination(&self, key: &DestinationKey) -> Option<&Arc<Destination>> {
        let face = self.edges.faces.get(&key.service)?;
        face.destinations.iter().find(|destination| destination.key == *key)
    }

    /// HTTPRoutes that name the Gateway, in order; whether they attach to a listener is another question.
    pub fn routes(&self, gateway: &ServiceKey) -> impl Iterator<Item = (&RouteKey, &RouteModel)> {
        let routes = self.edges.by_parent.get(gateway).into_iter().flatten();
        routes.filter_map(|key| self.edges.routes.get_key_value(key))
    }
}

impl Edges {
    fn move_addresses(&mut self, key: &ServiceKey, old: &Face, new: &Face) {
        for address in old.all_addresses() {
            if let Some(services) = self.by_address.get_mut(&address) {
                services.remove(key);
                if services.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
        for address in new.all_addresses() {
            self.by_address.entry(address).or_default().insert(key.clone());
        }
    }
}

fn forget(by: &mut BTreeMap<ServiceKey, BTreeSet<RouteKey>>, key: &ServiceKey, route: &RouteKey) {
    if let Some(routes) = by.get_mut(key) {
        routes.remove(route);
        if routes.is_empty() {
            by.remove(key);
        }
    }
}

/// The service's ports with their ready endpoints. A Service without ports has those of its slices.
fn destinations(
    key: &ServiceKey,
    service: &ServiceModel,
    slices: Option<&BTreeMap<String, EndpointSliceModel>>,
) -> Vec<Arc<Destination>> {
    if let Some(Unfit::ExternalName(name)) = &service.unfit {
        let alias = |port: u16, protocol| {
            let key = DestinationKey { service: key.clone(), port };
            let dns = Some((name.clone(), port));
            Arc::new(Destination { dns, ..Destination::of(key, protocol, Vec::new()) })
        };
        let ports = service.ports.iter().map(|port| alias(port.port, port.protocol));
        let without = service.ports.is_empty().then(|| alias(80, crate::intent::Protocol::Http));
        return ports.chain(without).collect();
    }
    let slices = || slices.into_iter().flat_map(BTreeMap::values);
    // A pod's proxy listens on the first address that it has with a port, and takes requests when all of its slices say so.
    let mut listeners: BTreeMap<(&str, u16), SocketAddr> = BTreeMap::new();
    let mut not_ready: BTreeSet<&str> = BTreeSet::new();
    for slice in slices() {
        for endpoint in &slice.endpoints {
            if !endpoint.ready {
                not_ready.insert(&endpoint.pod);
            }
            for port in &slice.ports {
                let address = SocketAddr::new(endpoint.address, port.port);
                listeners.entry((&endpoint.pod, port.port)).or_insert(address);
            }
        }
    }
    let endpoints = |wanted: &dyn Fn(&super::model::PortModel) -> bool| {
        let mut found = BTreeSet::new();
        let mut protocol = None;
        for slice in slices() {
            for port in slice.ports.iter().filter(|port| wanted(port)) {
                protocol = protocol.or(port.protocol);
                let pods = slice.endpoints.iter().map(|endpoint| endpoint.pod.as_str());
                let ready = pods.filter(|pod| !not_ready.contains(pod));
                found.extend(ready.filter_map(|pod| listeners.get(&(pod, port.port))));
            }
        }
        (found.into_iter().collect::<Vec<_>>(), protocol)
    };
    let mut all = BTreeMap::new();
    for port in &service.ports {
        let (endpoints, protocol) = endpoints(&|of_slice| of_slice.name == port.name);
        let key = DestinationKey { service: key.clone(), port: port.port };
        let protocol = protocol.unwrap_or(port.protocol);
        all.entry(port.port).or_insert_with(|| Arc::new(Destination::of(key, protocol, endpoints)));
    }
    if service.ports.is_empty() {
        for number in slices().flat_map(|slice| &slice.ports).map(|port| port.port) {
            let (endpoints, protocol) = endpoints(&|of_slice| of_slice.port == number);
            let key = DestinationKey { service: key.clone(), port: number };
            let protocol = protocol.unwrap_or(crate::intent::Protocol::Http);
            all.entry(number).or_insert_with(|| Arc::new(Destination::of(key, protocol, endpoints)));
        }
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests;

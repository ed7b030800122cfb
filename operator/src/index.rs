//! The index: all objects that Weir knows, as validated models, and which services a change touches.
//!
//! In: [`Change`]s from any source of objects, one at a time. Out: [`Dirty`], then views of single services for `translate`.
//! Pure: a replayed list of changes gives the same index. A bad object costs only itself; the last good policy of an object
//! that was edited badly stays in force and the object's status says so.

pub mod asked;
mod edges;
mod entry;
pub mod gateway;
mod labels;
mod lazies;
pub mod model;
mod object;
pub mod scope;
pub mod splits;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use limiter::{
    policy::{Conflict, EnforceAt, Kind, Policy, PolicyKey, Targets, conflicts, tenants::Tenants},
    problem::Problem,
};

use self::{
    edges::Edges,
    labels::Interner,
    lazies::Lazies,
    model::{EndpointSliceModel, PodModel, ServiceModel},
    splits::Splits,
};
pub use self::{
    edges::{Enforcer, RouteKey},
    entry::{Entry, LazyEntry, PolicyEntry, SplitEntry},
    labels::Labels,
    lazies::Standing,
    object::{Change, Object, ObjectKey, ObjectKind},
    view::{Endpoint, Page, ServiceView},
};
use crate::intent::ServiceKey;

/// What a change touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services whose intent may differ now.
    pub services: BTreeSet<ServiceKey>,
    /// Whether any object differs at all.
    pub any: bool,
}

/// All objects.
#[derive(Clone, Debug, Default)]
pub struct Index {
    services: BTreeMap<ServiceKey, ServiceModel>,
    /// By Service, then by the slice's own name.
    slices: BTreeMap<ServiceKey, BTreeMap<String, EndpointSliceModel>>,
    /// Which Service a slice belongs to, by the slice's namespace and name.
    slice_owner: BTreeMap<(String, String), ServiceKey>,
    /// Which Services have an endpoint that is this pod, by the pod's namespace and name.
    pod_services: BTreeMap<(String, String), BTreeSet<ServiceKey>>,
    pods: BTreeMap<(String, String), PodModel>,
    policies: BTreeMap<PolicyKey, PolicyEntry>,
    /// Accepted policies that name a Service, by it: a service is decided four times a second and must not search them all.
    naming: BTreeMap<ServiceKey, BTreeSet<PolicyKey>>,
    /// Accepted policies with a selector, by namespace.
    selecting: BTreeMap<String, BTreeSet<PolicyKey>>,
    edges: Edges,
    asks: asked::Asks,
    lazies: Lazies,
    splits: Splits,
    /// Labels of pods, each set of them once.
    labels: Interner,
    /// What objects may do beyond their own services.
    tenants: Tenants,
    /// Where each object that is not a policy stands, and what is wrong with it.
    undecodable: BTreeMap<ObjectKey, (String, Vec<Problem>)>,
    sources: BTreeMap<String, Vec<Problem>>,
}

impl Index {
    /// Without objects yet, of which those of a namespace may do what `tenants` says.
    #[must_use]
    pub fn of(tenants: Tenants) -> Self {
        Self { tenants, ..Self::default() }
    }

    /// Takes one change in and says what it touched.
    pub fn apply(&mut self, change: Change) -> Dirty {
        match change {
            Change::Apply { key, origin, object } => {
                let dirty = self.apply_object(key, origin, object);
                self.widen(dirty)
            }
            Change::Delete(key) => {
                let dirty = self.delete(&key);
                self.widen(dirty)
            }
            Change::Source { origin, problems } => {
                let before = if problems.is_empty() {
                    self.sources.remove(&origin)
                } else {
                    self.sources.insert(origin.clone(), problems)
                };
                Dirty { any: before.as_ref() != self.sources.get(&origin), ..Dirty::default() }
            }
        }
    }

    fn apply_object(&mut self, key: ObjectKey, origin: String, object: Object) -> Dirty {
        if !matches!(object, Object::Undecodable(_)) {
            self.undecodable.remove(&key);
        }
        let service = ServiceKey { namespace: key.namespace.clone(), name: key.name.clone() };
        match object {
            Object::Service(model) => {
                if self.services.get(&service) == Some(&model) {
                    return Dirty::default();
                }
                self.services.insert(service.clone(), model);
                dirty([service])
            }
            Object::EndpointSlice(model) => {
                let owner = ServiceKey { namespace: key.namespace.clone(), name: model.service.clone() };
                let old = self.slice_owner.insert((key.namespace.clone(), key.name.clone()), owner.clone());
                let mut touched = vec![owner.clone()];
                if let Some(old) = old.filter(|old| *old != owner) {
                    self.remove_slice(&old, &key.name);
                    touched.push(old);
                }
                if self.slices.get(&owner).and_then(|slices| slices.get(&key.name)) == Some(&model) {
                    return Dirty::default();
                }
                self.remove_slice(&owner, &key.name);
                for endpoint in &model.endpoints {
                    let pod = (key.namespace.clone(), endpoint.pod.clone());
                    self.pod_services.entry(pod).or_default().insert(owner.clone());
                }
                self.slices.entry(owner).or_default().insert(key.name, model);
                dirty(touched)
            }
            Object::Pod(mut model) => {
                let pod = (key.namespace.clone(), key.name.clone());
                model.labels = self.labels.intern(model.labels);
                if model.outbound.is_some() {
                    self.edges.origins.insert(key, origin);
                } else {
                    self.edges.origins.remove(&key);
                }
                if self.pods.get(&pod) == Some(&model) {
                    return Dirty::default();
                }
                let services = self.services_of_pod(&pod);
                if let Some(old) = self.pods.insert(pod, model) {
                    self.labels.release(old.labels);
                }
                dirty(services)
            }
            Object::Gateway(model, problems) => {
                let any = !problems.is_empty() && self.refuse(key.clone(), origin.clone(), problems);
                self.edges.origins.insert(key, origin);
                if self.edges.gateways.get(&service) == Some(&model) {
                    return Dirty { any, ..Dirty::default() };
                }
                dirty(self.set_gateway(&service, Some(model)))
            }
            Object::Route(model) => {
                self.edges.origins.insert(key.clone(), origin);
                let mut touched = self.set_route_of_services(&key, Some(&model));
                // GRPCRoutes attach to Services only.
                if key.kind == ObjectKind::HttpRoute && self.edges.routes.get(&service) != Some(&model) {
                    touched.extend(self.set_route(&service, Some(model)));
                } else if touched.is_empty() {
                    return Dirty::default();
                }
                dirty(touched)
            }
            Object::Split { split, problems } => self.apply_split(&key, origin, split.map(|boxed| *boxed), problems),
            Object::RouteGroup(matches) => {
                self.edges.origins.insert(key.clone(), origin);
                self.set_route_group(&key, Some(matches))
            }
            Object::Policy { policy, problems } => {
                let key = policy_key(&key);
                self.apply_policy(key, origin, policy.map(|boxed| *boxed), problems)
            }
            Object::Lazy { lazy, problems } => self.apply_lazy(&key, origin, lazy.map(|boxed| *boxed), problems),
            Object::Scope(memory, problems) => {
                let any = !problems.is_empty() && self.refuse(key, origin, problems);
                let dirty = self.recall(&service, &memory);
                Dirty { any: any || dirty.any, ..dirty }
            }
            Object::Undecodable(problems) => {
                if let ObjectKind::Policy(_) = key.kind {
                    return self.apply_policy(policy_key(&key), origin, None, problems);
                }
                if key.kind == ObjectKind::Lazy {
                    return self.apply_lazy(&key, origin, None, problems);
                }
                if let ObjectKind::Split(_) = key.kind {
                    return self.apply_split(&key, origin, None, problems);
                }
                // Whoever waits for the pod is to hear of it.
                let pod = (key.namespace.clone(), key.name.clone());
                let services = if key.kind == ObjectKind::Pod { self.services_of_pod(&pod) } else { Vec::new() };
                if self.refuse(key, origin, problems) { dirty(services) } else { Dirty::default() }
            }
            Object::Foreign(_) => self.delete(&key),
        }
    }

    /// Remembers what is wrong with an object that is not a policy; whether that is another mistake than before. A pod's status
    /// is written many times, each time with the annotations that were wrong already.
    fn refuse(&mut self, key: ObjectKey, origin: String, problems: Vec<Problem>) -> bool {
        let before = self.undecodable.get(&key);
        let is_new = before.is_none_or(|(at, wrong)| *at != origin || *wrong != problems);
        self.undecodable.insert(key, (origin, problems));
        is_new
    }

    /// What is wrong with an object that is not a policy, first of all.
    #[must_use]
    pub fn refusal(&self, key: &ObjectKey) -> Option<&Problem> {
        self.undecodable.get(key)?.1.first()
    }

    /// Every route, taken or refused.
    pub fn route_keys(&self) -> impl Iterator<Item = &ObjectKey> {
        let taken = self.edges.origins.keys();
        let refused = self.undecodable.keys().filter(|key| !self.edges.origins.contains_key(key));
        taken.chain(refused).filter(|key| key.kind.is_route())
    }

    fn apply_policy(
        &mut self,
        key: PolicyKey,
        origin: String,
        mut newest: Option<Policy>,
        mut problems: Vec<Problem>,
    ) -> Dirty {
        problems.extend(newest.as_mut().map(|policy| self.tenants.hold(policy)).unwrap_or_default());
        let Some(entry) = entry::next(self.policies.get(&key), origin, newest, problems) else {
            return Dirty::default();
        };
        let mut touched = Vec::new();
        if let Some(policy) = self.policies.remove(&key).and_then(|old| old.accepted) {
            touched = self.targets(&policy);
            self.unregister(&policy);
        }
        if let Some(policy) = &entry.accepted {
            touched.extend(self.targets(policy));
            self.register(policy);
        }
        self.policies.insert(key, entry);
        dirty(touched)
    }

    fn delete(&mut self, key: &ObjectKey) -> Dirty {
        let service = ServiceKey { namespace: key.namespace.clone(), name: key.name.clone() };
        let mut found = self.undecodable.remove(key).is_some();
        let touched = match key.kind {
            ObjectKind::Service => {
                found |= self.services.remove(&service).is_some();
                self.forget_workload(&service);
                vec![service]
            }
            ObjectKind::EndpointSlice => {
                let owner = self.slice_owner.remove(&(key.namespace.clone(), key.name.clone()));
                found |= owner.is_some();
                owner.inspect(|owner| self.remove_slice(owner, &key.name)).into_iter().collect()
            }
            ObjectKind::Pod => {
                let pod = (key.namespace.clone(), key.name.clone());
                let gone = self.pods.remove(&pod);
                found |= gone.is_some();
                gone.into_iter().for_each(|model| self.labels.release(model.labels));
                self.edges.origins.remove(key);
                self.services_of_pod(&pod)
            }
            ObjectKind::Gateway => {
                found |= self.edges.origins.remove(key).is_some();
                self.set_gateway(&service, None).into_iter().collect()
            }
            ObjectKind::HttpRoute | ObjectKind::GrpcRoute => {
                found |= self.edges.origins.remove(key).is_some();
                let mut touched = self.set_route_of_services(key, None);
                if key.kind == ObjectKind::HttpRoute {
                    touched.extend(self.set_route(&service, None));
                }
                touched.into_iter().collect()
            }
            ObjectKind::RouteGroup => {
                found |= self.edges.origins.remove(key).is_some();
                let dirty = self.set_route_group(key, None);
                return Dirty { any: dirty.any || found, ..dirty };
            }
            ObjectKind::Split(_) => return self.delete_split(key, found),
            ObjectKind::Lazy => return self.delete_lazy(key, found),
            ObjectKind::Scope => return self.forget_memory(&service),
            ObjectKind::Policy(_) => {
                let entry = self.policies.remove(&policy_key(key));
                found |= entry.is_some();
                let policy = entry.and_then(|entry| entry.accepted);
                policy
                    .map(|policy| {
                        self.unregister(&policy);
                        self.targets(&policy)
                    })
                    .unwrap_or_default()
            }
        };
        if found { dirty(touched) } else { Dirty::default() }
    }

    fn remove_slice(&mut self, owner: &ServiceKey, name: &str) {
        let Some(slices) = self.slices.get_mut(owner) else { return };
        let Some(gone) = slices.remove(name) else { return };
        for endpoint in gone.endpoints {
            if slices.values().any(|slice| slice.names_pod(&endpoint.pod)) {
                continue;
            }
            let pod = (owner.namespace.clone(), endpoint.pod);
            if let Some(services) = self.pod_services.get_mut(&pod) {
                services.remove(owner);
                if services.is_empty() {
                    self.pod_services.remove(&pod);
                }
            }
        }
        if slices.is_empty() {
            self.slices.remove(owner);
        }
    }

    fn register(&mut self, policy: &Policy) {
        let namespace = &policy.key.namespace;
        match &policy.targets {
            Targets::Services(names) => {
                for name in names {
                    let service = ServiceKey { namespace: namespace.clone(), name: name.clone() };
                    self.naming.entry(service).or_default().insert(policy.key.clone());
                }
            }
            Targets::Selector(_) => {
                self.selecting.entry(namespace.clone()).or_default().insert(policy.key.clone());
            }
        }
    }

    fn unregister(&mut self, policy: &Policy) {
        let namespace = &policy.key.namespace;
        match &policy.targets {
            Targets::Services(names) => {
                for name in names {
                    let service = ServiceKey { namespace: namespace.clone(), name: name.clone() };
                    if let Some(policies) = self.naming.get_mut(&service) {
                        policies.remove(&policy.key);
                        if policies.is_empty() {
                            self.naming.remove(&service);
                        }
                    }
                }
            }
            Targets::Selector(_) => {
                if let Some(policies) = self.selecting.get_mut(namespace) {
                    policies.remove(&policy.key);
                }
            }
        }
    }

    /// Services that a pod, by its namespace and name, is an endpoint of.
    pub(crate) fn services_of_pod(&self, pod: &(String, String)) -> Vec<ServiceKey> {
        self.pod_services.get(pod).into_iter().flatten().cloned().collect()
    }

    /// The services that a policy applies to now. Services named by a policy are listed even when they do not exist.
    #[must_use]
    pub fn targets(&self, policy: &Policy) -> Vec<ServiceKey> {
        let namespace = &policy.key.namespace;
        match &policy.targets {
            Targets::Services(names) => {
                names.iter().map(|name| ServiceKey { namespace: namespace.clone(), name: name.clone() }).collect()
            }
            Targets::Selector(labels) => self
                .services
                .iter()
                .filter(|(key, model)| key.namespace == *namespace && contains(&model.labels, labels))
                .map(|(key, _)| key.clone())
                .collect(),
        }
    }

    /// Names of a service's EndpointSlices.
    pub fn slices(&self, service: &ServiceKey) -> impl Iterator<Item = &str> {
        self.slices.get(service).into_iter().flat_map(|slices| slices.keys().map(String::as_str))
    }

    /// Every service that exists.
    pub fn service_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// One service with its endpoints and accepted policies; `None` when the Service does not exist.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<ServiceView<'_>> {
        let (key, model) = self.services.get_key_value(key)?;
        let policies = self.applying(key, model);
        let gateway = self.edges.gateways.get(key);
        let places: BTreeSet<EnforceAt> = policies.iter().map(|policy| policy.enforce_at).collect();
        let mut view = view::build(key, model, self.slices.get(key), &self.pods, policies, gateway);
        let elsewhere = places.into_iter().filter(|place| *place != EnforceAt::Server);
        view.enforcers = elsewhere.map(|place| (place, self.enforcers(key, place))).collect();
        Some(view)
    }

    /// Accepted policies that apply to a service, in the order of their keys, without those that others stand in the way of.
    fn applying(&self, key: &ServiceKey, model: &ServiceModel) -> Vec<&Arc<Policy>> {
        let mut applying = self.wishing(key, model);
        for conflict in conflicts(applying.iter().map(|policy| &***policy)) {
            applying.retain(|policy| policy.key != conflict.policy);
        }
        applying
    }

    /// The policies that would apply to a service but for others that do, each with one of these.
    #[must_use]
    pub fn conflicts(&self, key: &ServiceKey) -> Vec<Conflict> {
        let Some(model) = self.services.get(key) else { return Vec::new() };
        conflicts(self.wishing(key, model).into_iter().map(|policy| &**policy))
    }

    /// The conflicts on a service in which this policy would be, if it were applied as it is.
    #[must_use]
    pub fn conflicts_of(&self, key: &ServiceKey, policy: &Policy) -> Vec<Conflict> {
        let Some(model) = self.services.get(key) else { return Vec::new() };
        let others = self.wishing(key, model).into_iter().map(|other| &**other).filter(|other| other.key != policy.key);
        let mut conflicts = conflicts(others.chain([policy]));
        conflicts.retain(|conflict| conflict.policy == policy.key || conflict.with == policy.key);
        conflicts
    }

    fn wishing(&self, key: &ServiceKey, model: &ServiceModel) -> Vec<&Arc<Policy>> {
        let naming = self.naming.get(key).into_iter().flatten();
        let selecting = self.selecting.get(&key.namespace).into_iter().flatten();
        let named: BTreeSet<&PolicyKey> = naming.chain(selecting).collect();
        let accepted = named.into_iter().filter_map(|policy| self.policies.get(policy)?.accepted.as_ref());
        let applies = accepted.filter(|policy| match &policy.targets {
            Targets::Services(_) => true,
            Targets::Selector(labels) => contains(&model.labels, labels),
        });
        applies.collect()
    }

    /// Every policy object, accepted or not.
    pub fn policies(&self) -> impl Iterator<Item = (&PolicyKey, &PolicyEntry)> {
        self.policies.iter()
    }

    /// One policy object.
    #[must_use]
    pub fn policy(&self, key: &PolicyKey) -> Option<&PolicyEntry> {
        self.policies.get(key)
    }

    /// What is wrong outside of policies: files that cannot be read, objects that cannot be decoded, routes that lead nowhere,
    /// ways out whose port is taken; by origin.
    #[must_use]
    pub fn other_problems(&self) -> BTreeMap<String, Vec<Problem>> {
        let mut all = self.sources.clone();
        for (origin, problems) in self.undecodable.values() {
            all.entry(origin.clone()).or_default().extend(problems.iter().cloned());
        }
        for (key, problem) in self.dangling() {
            all.entry(self.edges.origins.get(&key).cloned().unwrap_or_default()).or_default().push(problem);
        }
        all
    }
}

fn dirty(services: impl IntoIterator<Item = ServiceKey>) -> Dirty {
    Dirty { services: services.into_iter().collect(), any: true }
}

fn policy_key(key: &ObjectKey) -> PolicyKey {
    let ObjectKind::Policy(kind) = key.kind else {
        return PolicyKey { kind: Kind::SmartLimiter, namespace: key.namespace.clone(), name: key.name.clone() };
    };
    PolicyKey { kind, namespace: key.namespace.clone(), name: key.name.clone() }
}

fn contains(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[cfg(test)]
mod tests;

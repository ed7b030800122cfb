//! How the requests for a Service are shared out among others: which objects say so, and what their proxies have to know of it.
//!
//! On one Service HTTPRoutes and GRPCRoutes that name it as their parent declare the weights; without any, `TrafficSplit`s do; without
//! those, the `SmartSplit`. A `SmartSplit` steers within what is declared, whoever declares it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use limiter::{
    policy::RequestMatch,
    problem::Problem,
    split::{Kind, Split, SplitKey, layout::Layout},
};

use super::{
    Dirty, Index, ObjectKey, ObjectKind, SplitEntry, dirty, entry,
    gateway::{RootModel, RouteModel},
};
use crate::intent::ServiceKey;

/// What was decided of the arms of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steered {
    /// What each has, in whole shares. `None`: what is declared holds.
    pub shares: Option<BTreeMap<ServiceKey, u32>>,
    /// Which users are whose, where they stay.
    pub layout: Layout<ServiceKey>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Splits {
    entries: BTreeMap<SplitKey, SplitEntry>,
    /// What the groups of a namespace match, by namespace and name.
    groups: BTreeMap<ServiceKey, Vec<RequestMatch>>,
    /// Routes that have a Service as a parent.
    routes: BTreeMap<ObjectKey, RouteModel>,
    /// Who says something of the Service.
    by_root: BTreeMap<ServiceKey, BTreeSet<ObjectKey>>,
    /// Services whose requests this one may get.
    by_arm: BTreeMap<ServiceKey, BTreeMap<ServiceKey, usize>>,
    steered: BTreeMap<ServiceKey, Steered>,
}

/// Who declares how the requests for a port of a Service are shared out.
#[derive(Clone, Debug)]
pub enum Declared<'a> {
    /// Routes, of one kind.
    Routes(Vec<(&'a ObjectKey, &'a RouteModel)>),
    /// `TrafficSplit`s, in the order in which they are looked at: those for some requests first, then the one for all.
    Splits(Vec<&'a Arc<Split>>),
    /// A `SmartSplit`.
    Smart(&'a Arc<Split>),
}

/// Why a split that is accepted declares nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shadowed {
    /// This one is older and declares for the same requests.
    By(SplitKey),
    /// Routes declare for the Service.
    ByRoute(ObjectKey),
}

/// The order of splits: the oldest first. One without an age is younger than all others.
fn rank(split: &Split) -> impl Ord + use<'_> {
    (split.created.is_none(), split.created, &split.key)
}

fn service(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// The Service whose requests it shares out.
#[must_use]
pub fn root(split: &Split) -> ServiceKey {
    service(&split.key.namespace, &split.root)
}

/// The Services that it shares them out to.
pub fn arms(split: &Split) -> impl Iterator<Item = ServiceKey> {
    split.arms.iter().map(|arm| service(&split.key.namespace, &arm.service))
}

impl Splits {
    fn link(&mut self, by: &ObjectKey, roots: &BTreeSet<ServiceKey>, arms: &BTreeSet<ServiceKey>, there: bool) {
        for root in roots {
            let who = self.by_root.entry(root.clone()).or_default();
            let _ = if there { who.insert(by.clone()) } else { who.remove(by) };
            if who.is_empty() {
                self.by_root.remove(root);
            }
            for arm in arms {
                let of_arm = self.by_arm.entry(arm.clone()).or_default();
                let count = of_arm.entry(root.clone()).or_default();
                *count = if there { *count + 1 } else { count.saturating_sub(1) };
                if *count == 0 {
                    of_arm.remove(root);
                }
                if of_arm.is_empty() {
                    self.by_arm.remove(arm);
                }
            }
        }
    }

    /// Accepted ones of a kind for a Service, the oldest first.
    fn of_root(&self, root: &ServiceKey, kind: Kind) -> Vec<&Arc<Split>> {
        let keys = self.by_root.get(root).into_iter().flatten().filter(|key| key.kind == ObjectKind::Split(kind));
        let mut found: Vec<_> = keys.filter_map(|key| self.entries.get(&key.split()?)?.accepted.as_ref()).collect();
        found.sort_by(|one, other| rank(one).cmp(&rank(other)));
        found
    }

    /// Of `splits`, the oldest first, those that declare: for some requests, then for all.
    fn declaring(splits: Vec<&Arc<Split>>) -> Vec<&Arc<Split>> {
        let (all, mut some): (Vec<_>, Vec<_>) = splits.into_iter().partition(|split| split.groups.is_empty());
        let mut named = BTreeSet::new();
        // One whose groups all stand before it gets nothing.
        some.retain(|split| {
            let before = named.len();
            named.extend(&split.groups);
            named.len() > before
        });
        some.extend(all.first());
        some
    }
}

impl Index {
    /// Who declares how requests of callers of a namespace for this port are shared out; `None`: the Service's own endpoints have them.
    #[must_use]
    pub fn declared(&self, root: &ServiceKey, port: u16, callers: &str) -> Option<Declared<'_>> {
        let who = self.splits.by_root.get(root)?;
        let routes = |kind: ObjectKind| {
            let of_kind = who.iter().filter(move |key| key.kind == kind);
            let named = of_kind.filter_map(|key| self.splits.routes.get_key_value(key));
            let names = |roots: &[RootModel]| {
                roots.iter().any(|it| it.service == *root && it.port.is_none_or(|only| only == port))
            };
            let mut named: Vec<_> = named.filter(|(_, route)| names(&route.roots)).collect();
            // What is in the callers' own namespace, and not the Service's, is for them before all others.
            let (own, rest): (Vec<_>, Vec<_>) =
                named.drain(..).partition(|(key, _)| key.namespace == callers && key.namespace != root.namespace);
            if own.is_empty() {
                rest.into_iter().filter(|(key, _)| key.namespace == root.namespace).collect()
            } else {
                own
            }
        };
        let declaring: Option<Vec<_>> =
            [ObjectKind::GrpcRoute, ObjectKind::HttpRoute].into_iter().map(routes).find(|routes| !routes.is_empty());
        if let Some(routes) = declaring {
            return Some(Declared::Routes(routes));
        }
        let splits = Splits::declaring(self.splits.of_root(root, Kind::TrafficSplit));
        if !splits.is_empty() {
            return Some(Declared::Splits(splits));
        }
        self.steering(root).map(Declared::Smart)
    }

    /// The `SmartSplit` that holds for a Service: the oldest.
    #[must_use]
    pub fn steering(&self, root: &ServiceKey) -> Option<&Arc<Split>> {
        self.splits.of_root(root, Kind::SmartSplit).into_iter().next()
    }

    /// Why an accepted split does not hold; `None`: it does.
    #[must_use]
    pub fn shadowed(&self, split: &Split) -> Option<Shadowed> {
        let root = root(split);
        let of_kind = self.splits.of_root(&root, split.key.kind);
        if split.key.kind == Kind::SmartSplit {
            return of_kind.first().filter(|first| first.key != split.key).map(|it| Shadowed::By(it.key.clone()));
        }
        // As callers of the Service's own namespace have it.
        let port = self.ports_of(&root).first().map(|port| port.key.port);
        if let Some(Declared::Routes(routes)) = port.and_then(|port| self.declared(&root, port, &root.namespace))
            && let Some((route, _)) = routes.first()
        {
            return Some(Shadowed::ByRoute((*route).clone()));
        }
        let older: Vec<_> = of_kind.iter().take_while(|other| other.key != split.key).copied().collect();
        if Splits::declaring(of_kind).iter().any(|other| other.key == split.key) {
            return None;
        }
        let rival = older.iter().find(|other| other.groups.iter().any(|group| split.groups.contains(group)));
        let rival = rival.or_else(|| older.iter().find(|other| other.groups.is_empty()));
        rival.map(|other| Shadowed::By(other.key.clone()))
    }

    /// What an `HTTPRouteGroup` matches; `None`: there is none.
    #[must_use]
    pub fn route_group(&self, namespace: &str, name: &str) -> Option<&[RequestMatch]> {
        self.splits.groups.get(&service(namespace, name)).map(Vec::as_slice)
    }

    /// Groups that a split names and that are not there.
    #[must_use]
    pub fn dangling_groups<'a>(&self, split: &'a Split) -> Vec<&'a str> {
        let groups = split.groups.iter().map(String::as_str);
        groups.filter(|group| self.route_group(&split.key.namespace, group).is_none()).collect()
    }

    /// What was decided of the arms of a Service.
    #[must_use]
    pub fn steered(&self, root: &ServiceKey) -> Option<&Steered> {
        self.splits.steered.get(root)
    }

    /// The Services with a `SmartSplit` that steers, or whose users stay: of both something is remembered.
    pub fn steered_roots(&self) -> impl Iterator<Item = (&ServiceKey, &Arc<Split>)> {
        let roots = self
            .splits
            .by_root
            .iter()
            .filter(|(_, who)| who.iter().any(|key| key.kind == ObjectKind::Split(Kind::SmartSplit)));
        let is_remembered = |split: &&Arc<Split>| split.steer.is_some() || split.sticky.is_some();
        roots.filter_map(move |(root, _)| Some((root, self.steering(root).filter(is_remembered)?)))
    }

    /// Takes in what was decided of the arms of a Service; the services whose proxies carry it out.
    pub fn steer(&mut self, root: &ServiceKey, steered: Option<Steered>) -> BTreeSet<ServiceKey> {
        let before = match steered.clone() {
            Some(steered) => self.splits.steered.insert(root.clone(), steered),
            None => self.splits.steered.remove(root),
        };
        if before == steered { BTreeSet::new() } else { self.sharing_out(root) }
    }

    /// Every split, accepted or not.
    pub fn splits(&self) -> impl Iterator<Item = (&SplitKey, &SplitEntry)> {
        self.splits.entries.iter()
    }

    /// One split.
    #[must_use]
    pub fn split(&self, key: &SplitKey) -> Option<&SplitEntry> {
        self.splits.entries.get(key)
    }

    /// Routes that have a Service as a parent.
    pub fn routes_of_services(&self) -> impl Iterator<Item = (&ObjectKey, &RouteModel)> {
        self.splits.routes.iter()
    }

    /// Whether callers of some other namespace have a route of their own for the Service.
    #[must_use]
    pub fn is_declared_from_elsewhere(&self, root: &ServiceKey) -> bool {
        self.splits.by_root.get(root).into_iter().flatten().any(|by| by.namespace != root.namespace)
    }

    /// The route of this key, if a Service is its parent.
    #[must_use]
    pub fn route_of_services(&self, key: &ObjectKey) -> Option<&RouteModel> {
        self.splits.routes.get(key)
    }

    /// The Services that such a route names, as parents or backends.
    #[must_use]
    pub fn services_of_route(&self, key: &ObjectKey) -> BTreeSet<ServiceKey> {
        let (roots, arms) = self.ends_of(key);
        roots.into_iter().chain(arms).collect()
    }

    /// The Services whose requests this one may get as an arm.
    pub fn roots_of(&self, arm: &ServiceKey) -> impl Iterator<Item = &ServiceKey> {
        self.splits.by_arm.get(arm).into_iter().flat_map(BTreeMap::keys)
    }

    /// Whether requests for other Services are shared out to this one.
    #[must_use]
    pub fn is_arm(&self, service: &ServiceKey) -> bool {
        self.splits.by_arm.contains_key(service)
    }

    /// The Services that the requests for this one may be shared out to.
    #[must_use]
    pub fn arms_of(&self, root: &ServiceKey) -> BTreeSet<ServiceKey> {
        let of_root = self.splits.by_root.get(root).into_iter().flatten();
        of_root.flat_map(|by| self.ends_of(by).1).collect()
    }

    /// The Service itself, and those whose proxies call it.
    #[must_use]
    pub fn sharing_out(&self, root: &ServiceKey) -> BTreeSet<ServiceKey> {
        // Connections of proxies that start with nothing are known by the address that they are for.
        let by_address = self.addresses_of(root).iter().flat_map(|address| self.lazy_callers_at(*address));
        let callers = self.calling(root).chain(by_address).cloned();
        callers.chain(self.gateways_to(root)).chain([root.clone()]).collect()
    }

    /// The roots and arms of an object that is there.
    fn ends_of(&self, by: &ObjectKey) -> (BTreeSet<ServiceKey>, BTreeSet<ServiceKey>) {
        if let Some(route) = self.splits.routes.get(by) {
            let roots = route.roots.iter().map(|root| root.service.clone());
            return (roots.collect(), route.services().cloned().collect());
        }
        let entry = by.split().and_then(|key| self.splits.entries.get(&key));
        match entry.and_then(|entry| entry.accepted.as_ref()) {
            Some(split) => ([root(split)].into(), arms(split).collect()),
            None => Default::default(),
        }
    }

    /// Changes one of the objects; the services that this touches.
    fn change_split(&mut self, by: &ObjectKey, change: impl FnOnce(&mut Splits)) -> BTreeSet<ServiceKey> {
        let (old_roots, old_arms) = self.ends_of(by);
        self.splits.link(by, &old_roots, &old_arms, false);
        change(&mut self.splits);
        let (new_roots, new_arms) = self.ends_of(by);
        self.splits.link(by, &new_roots, &new_arms, true);
        for root in
            old_roots.iter().filter(|root| !self.splits.by_root.contains_key(*root)).cloned().collect::<Vec<_>>()
        {
            self.splits.steered.remove(&root);
        }
        let roots = old_roots.union(&new_roots).flat_map(|root| self.sharing_out(root));
        // What becomes of requests to an arm is measured, by other clusters if it was none or is none any more.
        let changed = old_arms.symmetric_difference(&new_arms).flat_map(|arm| self.sharing_out(arm));
        let arms = old_arms.union(&new_arms).cloned();
        roots.chain(changed).chain(arms).collect()
    }

    pub(super) fn apply_split(
        &mut self,
        key: &ObjectKey,
        origin: String,
        newest: Option<Split>,
        problems: Vec<Problem>,
    ) -> Dirty {
        let Some(split) = key.split() else { return Dirty::default() };
        match entry::next(self.splits.entries.get(&split), origin, newest, problems) {
            Some(entry) => dirty(self.change_split(key, |splits| drop(splits.entries.insert(split, entry)))),
            None => Dirty::default(),
        }
    }

    pub(super) fn delete_split(&mut self, key: &ObjectKey, found: bool) -> Dirty {
        let Some(split) = key.split() else { return Dirty::default() };
        if self.splits.entries.contains_key(&split) {
            dirty(self.change_split(key, |splits| drop(splits.entries.remove(&split))))
        } else {
            Dirty { any: found, ..Dirty::default() }
        }
    }

    pub(super) fn set_route_group(&mut self, key: &ObjectKey, matches: Option<Vec<RequestMatch>>) -> Dirty {
        let name = service(&key.namespace, &key.name);
        if self.splits.groups.get(&name) == matches.as_ref() {
            return Dirty::default();
        }
        match matches {
            Some(matches) => drop(self.splits.groups.insert(name, matches)),
            None => drop(self.splits.groups.remove(&name)),
        }
        let splits = self.splits.entries.values().filter_map(|entry| entry.accepted.as_ref());
        let naming = splits.filter(|split| split.key.namespace == key.namespace && split.groups.contains(&key.name));
        dirty(naming.flat_map(|split| self.sharing_out(&root(split))))
    }

    /// Takes in that a route is new, different or gone, as far as Services are its parents; the services that this touches.
    pub(super) fn set_route_of_services(
        &mut self,
        key: &ObjectKey,
        model: Option<&RouteModel>,
    ) -> BTreeSet<ServiceKey> {
        let model = model.filter(|model| !model.roots.is_empty());
        if self.splits.routes.get(key) == model {
            return BTreeSet::new();
        }
        let model = model.cloned();
        self.change_split(key, |splits| match model {
            Some(model) => drop(splits.routes.insert(key.clone(), model)),
            None => drop(splits.routes.remove(key)),
        })
    }
}

//! How the requests for a port of a Service are shared out, as the proxies of its callers carry it out.
//!
//! ```text
//! declared weights, within bounds -> steered ones, where something steers -> without arms that have no ready endpoint -> whole shares
//! ```
//!
//! Shares add up to a constant total and stand in the declared order, so that a moved share moves no more requests than it must.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use limiter::{
    policy::{Mode, RequestMatch},
    split::{
        Split, SplitKey, Sticky,
        layout::Layout,
        shares::{Bounds, apportion, apportion_within},
        steer::{Decision, State},
    },
};
use serde::{Deserialize, Serialize};

use super::gateway;
use crate::{
    index::{
        Index,
        splits::{self, Declared},
    },
    intent::{Destination, DestinationKey, Protocol, ServiceKey, Share},
};

/// Requests for a Service that are shared out alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitRule {
    /// Unique in the Service's port.
    pub name: String,
    /// Which: all of these must match. Empty: every request.
    pub within: Vec<RequestMatch>,
    /// Who gets them, in whole shares, or in relative weights where all are nothing.
    pub to: Vec<(DestinationKey, u32)>,
}

impl SplitRule {
    /// Whether it is of the `TrafficSplit` of this name.
    #[must_use]
    pub fn is_of(&self, split: &str) -> bool {
        let rest = self.name.strip_prefix(split);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// How the requests for a port of a Service are shared out. What no rule matches is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// The first that matches applies.
    pub rules: Vec<SplitRule>,
    /// Whose requests stay with an arm.
    pub sticky: Option<Sticky>,
    layout: Layout<ServiceKey>,
}

impl Division {
    /// The Services that it leads to.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        let to = self.rules.iter().flat_map(|rule| &rule.to);
        to.filter(|(_, share)| *share > 0).map(|(key, _)| &key.service)
    }

    /// Who gets the requests of a rule, in the order in which a hash falls onto them: then one may stand there more than once.
    #[must_use]
    pub fn laid_out(&self, to: &[(DestinationKey, u32)]) -> Vec<(DestinationKey, u32)> {
        if self.sticky.is_none() {
            return to.to_vec();
        }
        // One that the rule does not name gives all it has.
        let named = |service: &ServiceKey| {
            let found = to.iter().map(|(key, _)| key).find(|key| key.service == *service);
            found.cloned().unwrap_or_else(|| DestinationKey { service: service.clone(), port: 0 })
        };
        let laid_out = self.layout.map(named).moved(to);
        // Where nobody has anything, it is to be known who it is that has nothing.
        if laid_out.parts().is_empty() { to.to_vec() } else { laid_out.parts().to_vec() }
    }
}

/// When somebody told how the arms of a split answer, and who.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heard {
    /// So long before this is said: clocks of replicas may differ.
    pub ago_ms: u64,
    /// Which source, where it is what is measured of the arms themselves. Absent: the proxies of callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A split as another replica has decided it, or a run before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToldSplit {
    /// The object.
    pub split: SplitKey,
    /// Its arms, in order.
    pub arms: Vec<String>,
    /// Stands for what the object said then.
    #[serde(default)]
    pub declared: u64,
    /// What is remembered of them.
    pub state: State,
    /// What was decided; absent before the first step.
    pub decision: Option<Decision>,
    /// When somebody told of an answer last; absent before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Heard>,
    /// Which users are whose, by the arms' names.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub layout: Layout<String>,
}

fn is_empty(layout: &Layout<String>) -> bool {
    layout.parts().is_empty()
}

/// An arm of a split at one port of its Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Who it is.
    pub key: DestinationKey,
    /// Its declared weight.
    pub weight: u64,
    /// What it may have.
    pub bounds: Bounds,
    /// Requests a second that each of its ready endpoints can serve.
    pub capacity: Option<u32>,
    /// How it stands.
    pub standing: Standing,
}

/// How an arm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// So many of its endpoints are ready.
    Ready(usize),
    /// None of its endpoints is ready.
    Empty,
    /// There is no such Service, or it has no such port.
    Missing,
    /// It does not speak what the root speaks.
    Unlike,
}

impl Portion {
    fn of(index: &Index, key: DestinationKey, weight: u64, bytes: bool) -> Self {
        let standing = match index.destination(&key) {
            None => Standing::Missing,
            Some(found) if (found.protocol == Protocol::Tcp) != bytes => Standing::Unlike,
            Some(found) if found.dns.is_some() => Standing::Ready(1),
            Some(found) if found.endpoints.is_empty() => Standing::Empty,
            Some(found) => Standing::Ready(found.endpoints.len()),
        };
        Self { key, weight, bounds: Bounds::default(), capacity: None, standing }
    }

    /// Whether it can have requests at all.
    #[must_use]
    pub const fn takes_part(&self) -> bool {
        matches!(self.standing, Standing::Ready(_) | Standing::Empty)
    }

    /// Whether it can have requests now.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self.standing, Standing::Ready(_))
    }
}

/// The arms of a split at this port of its root.
#[must_use]
pub fn portions(index: &Index, split: &Split, root_port: u16) -> Vec<Portion> {
    let root = DestinationKey { service: splits::root(split), port: root_port };
    let bytes = index.destination(&root).is_some_and(|root| root.protocol == Protocol::Tcp);
    let portion = |(service, arm): (ServiceKey, &limiter::split::Arm)| {
        let key = DestinationKey { service, port: arm.port.unwrap_or(root_port) };
        Portion { bounds: arm.bounds, capacity: arm.capacity, ..Portion::of(index, key, arm.weight, bytes) }
    };
    splits::arms(split).zip(&split.arms).map(portion).collect()
}

/// What each has as it is declared, whoever is ready. `None`: nobody has anything.
#[must_use]
pub fn declared_shares(portions: &[Portion]) -> Option<Vec<u32>> {
    let weights: Vec<u64> = portions.iter().map(|it| if it.takes_part() { it.weight } else { 0 }).collect();
    let none = Bounds { least: 0, most: 0 };
    let bounds: Vec<Bounds> = portions.iter().map(|it| if it.takes_part() { it.bounds } else { none }).collect();
    // Without those that are not there the bounds may leave no way.
    apportion_within(&weights, &bounds).or_else(|| apportion(&weights))
}

/// What each has now, as proxies are told. `steered`: of those that something steers, what they have among them. `None`: nobody has
/// anything.
#[must_use]
pub fn told_shares(
    portions: &[Portion],
    steered: Option<&BTreeMap<ServiceKey, u32>>,
    only_declared: bool,
) -> Option<Vec<u32>> {
    let declared = declared_shares(portions)?;
    let weights: Vec<u64> = match steered {
        None => declared.iter().map(|share| u64::from(*share)).collect(),
        Some(steered) => among(portions, &declared, steered, only_declared),
    };
    let ready = |only: bool| -> Vec<u64> {
        portions.iter().zip(&weights).map(|(it, weight)| if !only || it.is_ready() { *weight } else { 0 }).collect()
    };
    // Where nobody is ready it is known whose fault that is.
    apportion(&ready(true)).or_else(|| apportion(&ready(false))).or(Some(declared))
}

/// The weights where those that something steers share out what they have together as it says.
fn among(portions: &[Portion], declared: &[u32], steered: &BTreeMap<ServiceKey, u32>, only_declared: bool) -> Vec<u64> {
    let of = |place: usize| {
        let share = steered.get(&portions[place].key.service).copied();
        share.filter(|_| !only_declared || declared[place] > 0)
    };
    let places = 0..portions.len();
    let together: u64 =
        places.clone().filter(|place| of(*place).is_some()).map(|place| u64::from(declared[place])).sum();
    let all: u64 = places.clone().filter_map(of).map(u64::from).sum();
    if all == 0 {
        return declared.iter().map(|share| u64::from(*share)).collect();
    }
    places
        .map(|place| of(place).map_or(u64::from(declared[place]) * all, |share| together * u64::from(share)))
        .collect()
}

/// How requests of callers of a namespace for this port are shared out. `None`: the Service's own endpoints have them.
#[must_use]
pub fn division(index: &Index, root: &DestinationKey, callers: &str) -> Option<Division> {
    let declared = index.declared(&root.service, root.port, callers)?;
    let steering = index.steering(&root.service);
    let sticky = steering.and_then(|split| split.sticky.clone());
    let remembered = index.steered(&root.service);
    let steered = remembered.and_then(|it| it.shares.as_ref());
    let steered = steered.filter(|_| steering.is_some_and(|split| split.mode == Mode::Enforce));
    let rules = match declared {
        Declared::Routes(routes) => {
            let entries =
                gateway::ordered(routes.iter().flat_map(|(key, route)| gateway::entries(key, route)).collect());
            let rule = |entry: &gateway::Entry<'_>| {
                let to = of_route(index, &entry.rule.backends, steering, steered);
                SplitRule { name: entry.name(), within: vec![entry.matched.clone()], to }
            };
            entries.iter().map(rule).collect()
        }
        Declared::Splits(splits) => of_splits(index, root, &splits, steering, steered),
        Declared::Smart(split) => match shared(index, root, split, None, steered) {
            Some(to) => vec![SplitRule { name: "split".to_owned(), within: Vec::new(), to }],
            None => vec![whole(root)],
        },
    };
    let layout = remembered.map(|it| it.layout.clone()).unwrap_or_default();
    Some(Division { rules, sticky, layout })
}

/// Everything goes to the Service's own endpoints.
fn whole(root: &DestinationKey) -> SplitRule {
    SplitRule { name: "root".to_owned(), within: Vec::new(), to: vec![(root.clone(), 1)] }
}

/// `bounds`: those of whoever steers, where that is another object.
fn shared(
    index: &Index,
    root: &DestinationKey,
    split: &Split,
    bounds: Option<&Split>,
    steered: Option<&BTreeMap<ServiceKey, u32>>,
) -> Option<Vec<(DestinationKey, u32)>> {
    let mut portions = portions(index, split, root.port);
    bounded(&mut portions, bounds);
    let shares = told_shares(&portions, steered, bounds.is_some())?;
    Some(portions.into_iter().map(|it| it.key).zip(shares).collect())
}

/// Gives those that `split` names, and that have something, its bounds.
fn bounded(portions: &mut [Portion], split: Option<&Split>) {
    let arms: Vec<_> = split.into_iter().flat_map(|split| splits::arms(split).zip(&split.arms)).collect();
    for portion in portions.iter_mut().filter(|it| it.weight > 0) {
        if let Some((_, arm)) = arms.iter().find(|(service, _)| *service == portion.key.service) {
            (portion.bounds, portion.capacity) = (arm.bounds, arm.capacity);
        }
    }
}

fn of_splits(
    index: &Index,
    root: &DestinationKey,
    splits: &[&Arc<Split>],
    steering: Option<&Arc<Split>>,
    steered: Option<&BTreeMap<ServiceKey, u32>>,
) -> Vec<SplitRule> {
    let mut rules = Vec::new();
    let mut takes_all = false;
    for split in splits {
        let bounds = steering.map(|split| &**split);
        let Some(to) = shared(index, root, split, bounds, steered) else { continue };
        let name = &split.key.name;
        takes_all |= split.groups.is_empty();
        if split.groups.is_empty() {
            rules.push(SplitRule { name: name.clone(), within: Vec::new(), to: to.clone() });
        }
        for group in &split.groups {
            let matches = index.route_group(&split.key.namespace, group).unwrap_or_default();
            rules.extend(matches.iter().enumerate().map(|(place, matched)| SplitRule {
                name: format!("{name}/{group}/{place}"),
                within: vec![matched.clone()],
                to: to.clone(),
            }));
        }
    }
    if !takes_all {
        rules.push(whole(root));
    }
    rules
}

/// Gateway API: what is not there has its share all the same, which is then answered with an error.
fn of_route(
    index: &Index,
    backends: &[(DestinationKey, u32)],
    steering: Option<&Arc<Split>>,
    steered: Option<&BTreeMap<ServiceKey, u32>>,
) -> Vec<(DestinationKey, u32)> {
    let portion = |(key, weight): &(DestinationKey, u32)| {
        let portion = Portion::of(index, key.clone(), (*weight).into(), false);
        // So that it keeps its share.
        let standing = if portion.takes_part() { portion.standing } else { Standing::Ready(0) };
        Portion { standing, ..portion }
    };
    let mut portions: Vec<Portion> = backends.iter().map(portion).collect();
    bounded(&mut portions, steering.map(|split| &**split));
    match told_shares(&portions, steered, true) {
        Some(shares) => portions.into_iter().map(|it| it.key).zip(shares).collect(),
        None => backends.to_vec(),
    }
}

/// The backends of a Gateway's route, each in whose place others have its requests with those. Routes of Services are for callers in the
/// mesh, as Gateway API has it, and what is for some requests only has no place here.
#[must_use]
pub(super) fn behind_gateway(index: &Index, backends: &[(DestinationKey, u32)]) -> Vec<(DestinationKey, u32)> {
    let split = |key: &DestinationKey| {
        let declared = index.declared(&key.service, key.port, "")?;
        let is_of_split = matches!(declared, Declared::Splits(_) | Declared::Smart(_));
        let division = division(index, key, "").filter(|_| is_of_split)?;
        division.rules.into_iter().find(|rule| rule.within.is_empty()).map(|rule| rule.to)
    };
    let mut found: Vec<(DestinationKey, u64)> = Vec::new();
    let mut any = false;
    for (key, weight) in backends {
        let arms = split(key).filter(|_| *weight > 0);
        any |= arms.is_some();
        let arms = arms.unwrap_or_else(|| vec![(key.clone(), 1)]);
        let sum: u64 = arms.iter().map(|(_, share)| u64::from(*share)).sum::<u64>().max(1);
        // A millionth of the backend's own weight is less than a share.
        found.extend(
            arms.into_iter().map(|(key, share)| (key, u64::from(*weight) * 1_000_000 * u64::from(share) / sum)),
        );
    }
    let weights: Vec<u64> = found.iter().map(|(_, weight)| *weight).collect();
    match apportion(&weights).filter(|_| any) {
        Some(shares) => found.into_iter().map(|(key, _)| key).zip(shares).collect(),
        None => backends.to_vec(),
    }
}

/// A destination of bytes as its callers have it: its connections are shared out, if somebody says so.
#[must_use]
pub(super) fn of_bytes(index: &Index, destination: &Arc<Destination>, callers: &str) -> Arc<Destination> {
    let division = || {
        let declared = index.declared(&destination.key.service, destination.key.port, callers)?;
        // Nothing is known of a connection's requests.
        let is_of_split = matches!(declared, Declared::Splits(_) | Declared::Smart(_));
        division(index, &destination.key, callers).filter(|_| is_of_split)
    };
    let rule = division().and_then(|it| it.rules.into_iter().find(|rule| rule.within.is_empty()));
    let Some(rule) = rule.filter(|rule| rule.to != [(destination.key.clone(), 1)]) else {
        return Arc::clone(destination);
    };
    let endpoints = |key: &DestinationKey| index.destination(key).map(|it| it.endpoints.clone()).unwrap_or_default();
    let shares = rule.to.iter().filter(|(_, share)| *share > 0);
    let shares =
        shares.map(|(key, share)| Share { service: key.service.clone(), weight: *share, endpoints: endpoints(key) });
    let shares = shares.filter(|share| !share.endpoints.is_empty()).collect();
    Arc::new(Destination { endpoints: Vec::new(), shares, ..Destination::clone(destination) })
}

/// The arms that the `SmartSplit` of a Service steers, as they are declared by whoever declares them, in its own order. Weight and
/// standing are those at the first port.
#[must_use]
pub fn steered_portions(index: &Index, split: &Split) -> Vec<Portion> {
    let root = splits::root(split);
    let port = index.ports_of(&root).first().map_or(0, |port| port.key.port);
    let mut own = portions(index, split, port);
    // Who is declared nothing gets nothing, unless it is to grow.
    let grows = split.steer.and_then(|law| law.ramp).map(|ramp| ramp.arm);
    for (_, portion) in own.iter_mut().enumerate().filter(|(place, it)| it.weight == 0 && grows != Some(*place)) {
        portion.bounds.most = portion.bounds.least;
    }
    let weights: Option<Vec<(ServiceKey, u64)>> = match index.declared(&root, port, &root.namespace) {
        None | Some(Declared::Smart(_)) => None,
        Some(Declared::Splits(splits)) => {
            let arms =
                |it: &&Arc<Split>| -> Vec<_> { splits::arms(it).zip(it.arms.iter().map(|arm| arm.weight)).collect() };
            splits.iter().rev().map(arms).max_by_key(|arms| common(&own, arms))
        }
        Some(Declared::Routes(routes)) => {
            let rules = routes.iter().flat_map(|(_, route)| &route.rules);
            let backends = |rule: &crate::index::gateway::RouteRule| -> Vec<_> {
                rule.backends.iter().map(|(key, weight)| (key.service.clone(), (*weight).into())).collect()
            };
            rules.rev().map(backends).max_by_key(|arms| common(&own, arms))
        }
    };
    for portion in own.iter_mut().filter(|_| weights.is_some()) {
        let found = weights.iter().flatten().find(|(service, _)| *service == portion.key.service);
        portion.weight = found.map_or(0, |(_, weight)| *weight);
        if portion.weight == 0 {
            portion.bounds = Bounds { least: 0, most: 0 };
        }
    }
    own
}

/// How many arms of a rule are among those, and have something.
fn common(own: &[Portion], arms: &[(ServiceKey, u64)]) -> usize {
    let named: BTreeSet<&ServiceKey> = own.iter().map(|it| &it.key.service).collect();
    arms.iter().filter(|(service, weight)| *weight > 0 && named.contains(service)).count()
}

#[cfg(test)]
mod tests;

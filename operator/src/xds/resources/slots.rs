//! Slots: the places of the static filters that a route's limits may take.
//!
//! A slot is one entry of a filter's `rate_limits`; it reads class, bucket and cost from the route's metadata and is
//! skipped where they are absent. The filters are part of the listener, and a changed listener drains its connections, so
//! the number of slots of each kind grows in steps: a listener changes when a policy needs a kind of slot, or more of it,
//! than there are, not with every edit.

use std::{cmp::Ordering, collections::BTreeMap};

use ::limiter::{
    policy::{Key, Mode},
    quota::Rate,
};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    intent::{LimitShape, LimitValue, Route, ServiceIntent},
    xds::resources::limiter::{self, Charge},
};

/// A kind of slot. The order is that of `rate_limits`, which is the order of charging where buckets fill equally fast.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum SlotKind {
    /// Counts each value of a header alone.
    Header(String),
    /// Counts each client address alone.
    ClientIp,
    /// Counts some of the requests together.
    Plain,
    /// Counts all requests together; charged last, in a filter of its own.
    Service,
    /// The bucket of a limit in shadow mode, and its key: a filter of its own, so that Envoy counts it apart.
    Shadow(String, Option<Key>),
}

/// How many slots of each kind the filters have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slots(Vec<(SlotKind, usize)>);

impl SlotKind {
    /// The kind that a limit takes.
    #[must_use]
    pub fn of(limit: &LimitShape) -> Self {
        match &limit.per {
            per if limit.mode == Mode::Shadow => Self::Shadow(limit.bucket.clone(), per.clone()),
            Some(Key::Header(name)) => Self::Header(name.clone()),
            Some(Key::ClientIp) => Self::ClientIp,
            None if limit.service_wide => Self::Service,
            None => Self::Plain,
        }
    }

    /// Suffix of the metadata keys of slot `index`; harmless inside a format string.
    #[must_use]
    pub fn suffix(&self, index: usize) -> String {
        match self {
            Self::Header(name) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') => {
                format!("-header-{name}-{index}")
            }
            Self::Header(name) => format!("-header.{:016x}-{index}", xxh3_64(name.as_bytes())),
            Self::ClientIp => format!("-client-{index}"),
            Self::Plain => format!("-plain-{index}"),
            Self::Service => format!("-service-{index}"),
            Self::Shadow(bucket, _) => format!("-shadow.{:016x}-{index}", xxh3_64(bucket.as_bytes())),
        }
    }

    /// There are at least this many, so that first policies do not change the listener.
    const fn least(&self) -> usize {
        match self {
            Self::Shadow(..) => 1,
            Self::Header(_) | Self::ClientIp => 2,
            Self::Plain | Self::Service => 4,
        }
    }
}

impl Slots {
    /// The slots that an intent needs for its own ports, rounded up.
    #[must_use]
    pub fn of(intent: &ServiceIntent) -> Self {
        Self::needed_by(intent.routes.iter().map(|route| (intent.limits.as_slice(), route)))
    }

    /// The slots that routes need, each with the limits that it names, rounded up.
    pub fn needed_by<'a>(routes: impl Iterator<Item = (&'a [LimitShape], &'a Route)>) -> Self {
        let mut needed: BTreeMap<SlotKind, usize> =
            [SlotKind::ClientIp, SlotKind::Plain, SlotKind::Service].map(|kind| (kind, 0)).into();
        for (limits, route) in routes {
            let mut of_route: BTreeMap<SlotKind, usize> = BTreeMap::new();
            for limit in route.limits.iter().filter_map(|position| limits.get(*position)) {
                *of_route.entry(SlotKind::of(limit)).or_default() += 1;
            }
            for (kind, count) in of_route {
                let most = needed.entry(kind).or_default();
                *most = (*most).max(count);
            }
        }
        let rounded = needed.into_iter().map(|(kind, count)| {
            let slots = count.next_power_of_two().max(kind.least());
            (kind, slots)
        });
        Self(rounded.collect())
    }

    /// Every slot in order of charging, service-wide ones last.
    pub fn iter(&self) -> impl Iterator<Item = (&SlotKind, usize)> {
        self.0.iter().flat_map(|(kind, count)| (0..*count).map(move |index| (kind, index)))
    }
}

/// A limit of a route in its place.
#[derive(Clone, Debug)]
pub struct Placed<'a> {
    /// Kind of its slot.
    pub kind: SlotKind,
    /// Number of its slot among those of the kind.
    pub index: usize,
    /// Its bucket.
    pub bucket: &'a str,
    /// What a request is charged.
    pub charge: Charge,
    /// What it is charged for.
    pub rate: Rate,
}

/// Puts the limits of a route that are in force into slots, the strictest of each kind first.
#[must_use]
pub fn placed<'a>(limits: &'a [LimitShape], route: &Route, values: &[Option<LimitValue>]) -> Vec<Placed<'a>> {
    let mut positions = route.limits.clone();
    positions.sort_unstable();
    positions.dedup();
    let mut by_kind: BTreeMap<SlotKind, Vec<(&str, LimitValue)>> = BTreeMap::new();
    for position in positions {
        let (Some(limit), Some(Some(value))) = (limits.get(position), values.get(position)) else { continue };
        by_kind.entry(SlotKind::of(limit)).or_default().push((&limit.bucket, *value));
    }
    let mut all = Vec::new();
    for (kind, mut limits) in by_kind {
        limits.sort_by(|(name_a, a), (name_b, b)| {
            let rates = match (limiter::is_slower(&a.rate, &b.rate), limiter::is_slower(&b.rate, &a.rate)) {
                (true, _) => Ordering::Less,
                (_, true) => Ordering::Greater,
                _ => Ordering::Equal,
            };
            rates.then_with(|| name_a.cmp(name_b))
        });
        let of_kind = limits.into_iter().enumerate().map(|(index, (bucket, value))| Placed {
            kind: kind.clone(),
            index,
            bucket,
            charge: limiter::charge(&value),
            rate: value.rate,
        });
        all.extend(of_kind);
    }
    all
}

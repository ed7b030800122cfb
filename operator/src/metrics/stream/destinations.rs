//! From the metric families of a proxy's messages to how its application called other services.
//!
//! Pure. Envoy leaves out what was never touched, so a message holds the clusters that were called since the proxy's start. Which of
//! their statistics there are stands in `xds::bootstrap`. Counters that fell began again: with the proxy, or with the cluster.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use prost::Message;

use super::wire::{Family, Name};
use crate::{metrics::calls::Used, xds::names};

/// Told at most this often: whoever forgets what is not called does not look more closely.
const EVERY: SignedDuration = SignedDuration::from_secs(1);
/// Most destinations of one proxy, and longest name; one with more is not ours.
const MOST_DESTINATIONS: usize = 20_000;
const LONGEST_NAME: usize = 1_024;

/// What is known of one proxy; see the module.
#[derive(Debug, Default)]
pub(super) struct Tally {
    destinations: BTreeMap<Arc<str>, Destination>,
    /// Counts messages.
    message: u64,
    told: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Destination {
    requests: Counter,
    connections: Counter,
    inflight: u64,
    connected: u64,
    /// The last message that named it.
    seen: u64,
    /// Requests that are not told yet.
    untold: u64,
    /// `inflight` and `active` as they were told; `None`: never.
    told: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    before: u64,
    added: u64,
}

impl Counter {
    fn count(&mut self, now: u64) {
        self.added = now.checked_sub(self.before).unwrap_or(now);
        self.before = now;
    }
}

enum Stat {
    Requests,
    Connections,
    Inflight,
    Connected,
}

impl Tally {
    /// Takes in the families of a message that came at `now`, each an encoded `MetricFamily`. What cannot be decoded is left out.
    /// Returns what is to be told, in order, once it is time to; nothing new is told, too.
    pub(super) fn take(&mut self, families: &[Bytes], now: Timestamp) -> Option<Vec<Used>> {
        self.message += 1;
        for bytes in families {
            let Ok(Name { name }) = Name::decode(bytes.clone()) else { continue };
            let Some((name, stat)) = place(&name) else { continue };
            let Ok(Family { metrics }) = Family::decode(bytes.clone()) else { continue };
            let value = metrics.iter().map(super::families::value).sum::<f64>();
            // Envoy counts in whole numbers, which an f64 holds exactly up to 2^53.
            let value = value as u64;
            let Some(destination) = self.destination(name) else { continue };
            match stat {
                Stat::Requests => destination.requests.count(value),
                Stat::Connections => destination.connections.count(value),
                Stat::Inflight => destination.inflight = value,
                Stat::Connected => destination.connected = value,
            }
        }
        let (message, is_first) = (self.message, self.message == 1);
        for destination in self.destinations.values_mut() {
            let Destination { requests, connections, inflight, connected, seen, untold, .. } = destination;
            if *seen != message {
                // The cluster is gone.
                (*requests, *connections, *inflight, *connected) = Default::default();
            }
            let (requests, connections) = (&mut requests.added, &mut connections.added);
            // One that cannot be reached has connections alone.
            let added = std::mem::take(requests).max(std::mem::take(connections));
            if !is_first {
                *untold = untold.saturating_add(added);
            }
        }
        // A clock that was set back must not silence anybody.
        if self.told.is_some_and(|told| now >= told && now.duration_since(told) < EVERY) {
            return None;
        }
        self.told = Some(now);
        let news = self.destinations.iter_mut().filter_map(|(name, destination)| destination.news(name));
        let news = news.collect();
        self.destinations.retain(|_, destination| destination.seen == message);
        Some(news)
    }

    fn destination(&mut self, name: &str) -> Option<&mut Destination> {
        if !self.destinations.contains_key(name) {
            if self.destinations.len() >= MOST_DESTINATIONS || name.len() > LONGEST_NAME {
                return None;
            }
            self.destinations.insert(name.into(), Destination::default());
        }
        let destination = self.destinations.get_mut(name)?;
        destination.seen = self.message;
        Some(destination)
    }
}

impl Destination {
    fn news(&mut self, name: &Arc<str>) -> Option<Used> {
        let (inflight, active) = (self.inflight, self.inflight.saturating_add(self.connected));
        let requests = std::mem::take(&mut self.untold);
        let before = self.told.replace((inflight, active));
        let is_news = requests > 0 || before != Some((inflight, active));
        is_news.then(|| Used { stat_name: Arc::clone(name), requests, inflight, active })
    }
}

/// `cluster.<destination>.<statistic>`; names of hosts outside have dots.
fn place(name: &str) -> Option<(&str, Stat)> {
    let (destination, stat) = name.strip_prefix("cluster.")?.rsplit_once('.')?;
    names::DESTINATION_STAT_PREFIXES.iter().find_map(|prefix| destination.strip_prefix(prefix))?;
    let stat = match stat {
        "upstream_rq_total" => Stat::Requests,
        "upstream_cx_total" => Stat::Connections,
        "upstream_rq_active" => Stat::Inflight,
        "upstream_cx_active" => Stat::Connected,
        _ => return None,
    };
    Some((destination, stat))
}

#[cfg(test)]
mod tests;

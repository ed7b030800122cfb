//! What proxies say of the calls that their applications make: to which destinations, and to which hosts that nothing is known of.
//!
//! In: what [`super::stream`] and [`super::logs`] heard of a proxy. Out: [`Calls`], in batches. A receiver that is slow holds up no
//! proxy, and memory stays bounded: what waits of one proxy is one [`Calls`], in which requests add up and the rest is the newest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::xds::node::NodeKey;

/// Most hosts kept of one proxy until they are taken; one that calls more is a scanner, and the next message brings more.
pub const MOST_UNKNOWN: usize = 1_000;

/// What one proxy said since it was last heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// The proxy.
    pub node: NodeKey,
    /// When the newest of it came, by our clock.
    pub at: Timestamp,
    /// When the newest of `used` came: at that time a destination that it has told of before and does not name was as told then.
    /// `None`: only `unknown` is told.
    pub used_at: Option<Timestamp>,
    /// Destinations with requests, and those in use by more or less than it told before; with the first message of a proxy's stream
    /// all that it ever used. In order of their names.
    pub used: Vec<Used>,
    /// Hosts that were called and that nothing was known of, each once, in order: what the request named as its authority, in lower
    /// case, with a port if it did; for bytes `<server name>:<port>`, or `<address>:<port>` where no server was named.
    pub unknown: Vec<String>,
}

/// How one destination was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// The cluster, by [`crate::xds::names::destination_stat_name`].
    pub stat_name: Arc<str>,
    /// Requests, or connections of bytes, since the message before. 0 in the first message of a stream: nobody knows of when they are.
    pub requests: u64,
    /// Of those, how many have not ended.
    pub inflight: u64,
    /// The same, and the connections to it, those included that are kept open for a next request.
    pub active: u64,
}

impl Calls {
    /// What the counters of a proxy say.
    #[must_use]
    pub fn of_used(node: NodeKey, used: Vec<Used>, at: Timestamp) -> Self {
        Self { node, at, used_at: Some(at), used, unknown: Vec::new() }
    }

    /// What the access log of a proxy says.
    #[must_use]
    pub fn of_unknown(node: NodeKey, unknown: BTreeSet<String>, at: Timestamp) -> Self {
        Self { node, at, used_at: None, used: Vec::new(), unknown: unknown.into_iter().take(MOST_UNKNOWN).collect() }
    }

    /// Takes in what the same proxy said later. Returns how many hosts had no room.
    fn add(&mut self, later: Self) -> usize {
        let Self { node: _, at, used_at, used, unknown } = later;
        self.at = self.at.max(at);
        self.used_at = self.used_at.max(used_at);
        for used in used {
            match self.used.binary_search_by(|held| held.stat_name.cmp(&used.stat_name)) {
                Ok(place) => {
                    let requests = self.used[place].requests.saturating_add(used.requests);
                    self.used[place] = Used { requests, ..used };
                }
                Err(place) => self.used.insert(place, used),
            }
        }
        let mut dropped = 0;
        for host in unknown {
            match self.unknown.binary_search(&host) {
                Ok(_) => {}
                Err(_) if self.unknown.len() >= MOST_UNKNOWN => dropped += 1,
                Err(place) => self.unknown.insert(place, host),
            }
        }
        dropped
    }
}

/// See the module. Filled by streams, emptied by one task.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<BTreeMap<NodeKey, Calls>>,
    filled: Notify,
}

impl Outbox {
    /// Adds what a proxy said. Returns how many hosts had no room.
    pub(crate) fn put(&self, calls: Calls) -> usize {
        let mut waiting = self.waiting.lock();
        let dropped = match waiting.get_mut(&calls.node) {
            Some(held) => held.add(calls),
            None => {
                waiting.insert(calls.node.clone(), calls);
                0
            }
        };
        drop(waiting);
        self.filled.notify_one();
        dropped
    }

    fn take(&self) -> Vec<Calls> {
        std::mem::take(&mut *self.waiting.lock()).into_values().collect()
    }

    /// Hands over what waits whenever the receiver can take it; ends when the receiver is gone.
    pub async fn drain(&self, calls: &mpsc::Sender<Vec<Calls>>) {
        loop {
            self.filled.notified().await;
            let Ok(permit) = calls.reserve().await else { return };
            let batch = self.take();
            if !batch.is_empty() {
                permit.send(batch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(pod: &str) -> NodeKey {
        NodeKey::new("ns-a", "caller", pod)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn used(name: &str, requests: u64, inflight: u64, active: u64) -> Used {
        Used { stat_name: name.into(), requests, inflight, active }
    }

    #[test]
    fn of_what_nobody_takes_requests_add_up_and_the_rest_is_the_newest() {
        let outbox = Outbox::default();
        outbox.put(Calls::of_used(node("a"), vec![used("out_b", 3, 1, 2), used("out_c", 1, 0, 1)], at(1)));
        outbox.put(Calls::of_used(node("b"), vec![used("out_b", 9, 0, 0)], at(1)));
        outbox.put(Calls::of_unknown(node("a"), ["z".into(), "y".into()].into(), at(4)));
        outbox.put(Calls::of_used(node("a"), vec![used("out_a", 1, 0, 1), used("out_b", 2, 0, 1)], at(3)));
        let of_a = Calls {
            node: node("a"),
            at: at(4),
            used_at: Some(at(3)),
            used: vec![used("out_a", 1, 0, 1), used("out_b", 5, 0, 1), used("out_c", 1, 0, 1)],
            unknown: vec!["y".into(), "z".into()],
        };
        let of_b = Calls::of_used(node("b"), vec![used("out_b", 9, 0, 0)], at(1));
        assert_eq!(outbox.take(), [of_a, of_b]);
        assert_eq!(outbox.take(), []);
    }

    #[test]
    fn hosts_of_one_proxy_are_bounded_and_said_to_be() {
        let outbox = Outbox::default();
        let hosts = |from: usize, to: usize| (from..to).map(|n| format!("host-{n:05}")).collect::<BTreeSet<_>>();
        assert_eq!(outbox.put(Calls::of_unknown(node("a"), hosts(0, 800), at(1))), 0);
        assert_eq!(outbox.put(Calls::of_unknown(node("a"), hosts(700, 1_700), at(2))), 700);
        assert_eq!(outbox.put(Calls::of_unknown(node("b"), hosts(0, 800), at(2))), 0);
        let taken = outbox.take();
        assert_eq!(taken[0].unknown, hosts(0, 1_000).into_iter().collect::<Vec<_>>());
        assert_eq!(taken[1].unknown.len(), 800);
    }
}

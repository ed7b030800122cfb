//! What the proxies of one replica said, told to another: whoever writes status must know of all of them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

use super::{Acknowledged, Connection, Proxies, Refusal};
use crate::{
    codec::known::Parts,
    xds::{NodeKey, ResourceType},
};

/// What one proxy said since the last report of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Its node id.
    pub node: String,
    /// Since when it is connected. Absent: it is not any more.
    pub since: Option<Timestamp>,
    /// What it says it is.
    pub user_agent: String,
    /// It asks for the whole state each time, by the state-of-the-world protocol.
    pub sotw: bool,
    /// It has connected anew: what was told of it before does not hold.
    pub anew: bool,
    /// Label of a type, name of a resource and the version that it has acknowledged; without one it has dropped the resource.
    pub holds: Vec<(String, Arc<str>, Option<Arc<str>>)>,
    /// What it has refused.
    pub refusals: Vec<Refusal>,
}

impl Report {
    /// Of another version, as far as this one knows it.
    pub fn known(parts: &mut Parts<'_>) -> Self {
        Self {
            node: parts.take("node").unwrap_or_default(),
            since: parts.take("since"),
            user_agent: parts.take("userAgent").unwrap_or_default(),
            anew: parts.take("anew").unwrap_or_default(),
            holds: parts.take_list("holds"),
            refusals: parts.take_list("refusals"),
            sotw: parts.take("sotw").unwrap_or_default(),
        }
    }
}

/// Makes reports of what changes.
#[derive(Debug)]
pub struct Reporter {
    proxies: Proxies,
    news: Arc<Mutex<BTreeSet<NodeKey>>>,
    told: HashMap<NodeKey, (Timestamp, Acknowledged, Vec<Refusal>)>,
}

impl Reporter {
    /// Of all proxies that are connected here.
    #[must_use]
    pub fn new(proxies: Proxies) -> Self {
        let news = Arc::new(Mutex::default());
        proxies.0.reporters.lock().push(Arc::downgrade(&news));
        news.lock().extend(proxies.0.nodes.read().keys().cloned());
        Self { proxies, news, told: HashMap::new() }
    }

    /// What is new since this was last asked.
    pub fn take(&mut self) -> Vec<Report> {
        let news = std::mem::take(&mut *self.news.lock());
        news.into_iter().filter_map(|node| self.report(node)).collect()
    }

    fn report(&mut self, node: NodeKey) -> Option<Report> {
        let nodes = self.proxies.0.nodes.read();
        // Those of other replicas are theirs to tell.
        let now = nodes.get(&node).and_then(|held| Some((held, held.streams.iter().rfind(|stream| stream.here)?)));
        let Some((held, stream)) = now else {
            self.told.remove(&node)?;
            return Some(Report { node: node.to_string(), ..Report::default() });
        };
        let (since, acknowledged, refusals) = (stream.since, &stream.acknowledged, &held.refusals);
        let before = self.told.get(&node).filter(|(before, ..)| *before == since);
        let nothing = Acknowledged::default();
        let (old, old_refusals) = before.map_or((&nothing, None), |(_, old, refusals)| (old, Some(refusals)));
        let mut holds = Vec::new();
        for kind in ResourceType::ALL {
            let (old, new) = (&old[kind.index()], &acknowledged[kind.index()]);
            let label = || kind.label().to_owned();
            let differs = new.iter().filter(|(name, version)| old.get(*name) != Some(*version));
            holds.extend(differs.map(|(name, version)| (label(), Arc::clone(name), Some(Arc::clone(version)))));
            let dropped = old.keys().filter(|name| !new.contains_key(*name));
            holds.extend(dropped.map(|name| (label(), Arc::clone(name), None)));
        }
        if before.is_some() && holds.is_empty() && old_refusals == Some(refusals) {
            return None;
        }
        let report = Report {
            node: node.to_string(),
            since: Some(since),
            user_agent: held.user_agent.clone(),
            sotw: stream.sotw,
            anew: before.is_none(),
            holds,
            refusals: refusals.clone(),
        };
        self.told.insert(node, (since, acknowledged.clone(), refusals.clone()));
        Some(report)
    }
}

/// The proxies of another replica, as it reports them. Dropped, they are gone.
#[derive(Debug)]
pub struct Elsewhere {
    proxies: Proxies,
    connections: HashMap<NodeKey, Connection>,
}

impl Elsewhere {
    /// Nobody yet.
    #[must_use]
    pub fn new(proxies: Proxies) -> Self {
        Self { proxies, connections: HashMap::new() }
    }

    /// Takes reports in. One of a node id that makes no sense is passed over.
    pub fn take(&mut self, reports: Vec<Report>) {
        for Report { node, since, user_agent, sotw, anew, holds, refusals } in reports {
            let Ok(node) = node.parse::<NodeKey>() else { continue };
            let Some(since) = since else {
                self.connections.remove(&node);
                continue;
            };
            if anew {
                self.connections.remove(&node);
            }
            let opened = || self.proxies.open(&node, user_agent, since, false);
            let connection = self.connections.entry(node.clone()).or_insert_with(opened);
            if sotw {
                connection.mark_sotw();
            }
            for kind in ResourceType::ALL {
                let of_kind = holds.iter().filter(|(label, ..)| label == kind.label());
                let of_kind: Vec<_> = of_kind.map(|(_, name, version)| (name.clone(), version.clone())).collect();
                if !of_kind.is_empty() {
                    connection.holds(kind, of_kind);
                }
            }
            connection.update(|_, held| *held = refusals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::known::{Known, Skipped, read};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn node() -> NodeKey {
        NodeKey::new("shop", "cart", "cart-0")
    }

    fn acknowledge(connection: &Connection, version: &str) {
        connection.holds(ResourceType::Cluster, vec![("in".into(), Some(version.into()))]);
    }

    #[test]
    fn who_asks_for_the_whole_state_is_told_apart_elsewhere_too() {
        let (here, there) = (Proxies::new(), Proxies::new());
        let (mut reporter, mut elsewhere) = (Reporter::new(here.clone()), Elsewhere::new(there.clone()));
        let connection = here.connect(&node(), String::new(), at(1));
        connection.mark_sotw();
        assert!(here.speaks_sotw(&node()) && !there.speaks_sotw(&node()));
        carry(&mut reporter, &mut elsewhere);
        assert!(there.speaks_sotw(&node()));
        drop(connection);
        let _delta = here.connect(&node(), String::new(), at(2));
        carry(&mut reporter, &mut elsewhere);
        assert!(!here.speaks_sotw(&node()) && !there.speaks_sotw(&node()));
    }

    fn programmed(proxies: &Proxies, version: &str) -> bool {
        proxies.programmed(&node(), &[(ResourceType::Cluster, "in", version)])
    }

    /// A message of reports alone.
    #[derive(Serialize)]
    struct All {
        reports: Vec<Report>,
    }

    impl Known for All {
        fn known(parts: &mut Parts<'_>) -> Self {
            Self { reports: parts.take_list_of("reports", Report::known) }
        }

        fn skipped(&mut self, skipped: Skipped) {
            assert_eq!(skipped, Skipped::default());
        }
    }

    /// Brings what is new from one replica to the other, as text.
    fn carry(reporter: &mut Reporter, elsewhere: &mut Elsewhere) -> usize {
        let reports = reporter.take();
        let count = reports.len();
        let text = serde_json::to_string(&All { reports }).expect("our own types");
        elsewhere.take(read::<All>(text.as_bytes()).expect("what was just written").reports);
        count
    }

    #[test]
    fn what_a_proxy_said_there_is_known_here() {
        let (there, here) = (Proxies::new(), Proxies::new());
        let connection = there.connect(&node(), "envoy 1.40.0".to_owned(), at(1));
        acknowledge(&connection, "v1");
        let (mut reporter, mut elsewhere) = (Reporter::new(there.clone()), Elsewhere::new(here.clone()));
        assert_eq!(carry(&mut reporter, &mut elsewhere), 1);
        assert!(programmed(&here, "v1"));
        assert_eq!(carry(&mut reporter, &mut elsewhere), 0, "only what is new");
        acknowledge(&connection, "v2");
        let resources = vec![("out".to_owned(), "v9".to_owned())];
        let refusal = Refusal { resource_type: ResourceType::Route, resources, message: "no".to_owned(), at: at(2) };
        connection.refused(refusal.clone());
        assert_eq!(carry(&mut reporter, &mut elsewhere), 1);
        assert!(programmed(&here, "v2") && here.refusals(&node()) == [refusal]);
        assert_eq!((here.connected(), here.streams()), (1, 0), "it is known here, and open there");

        drop(connection);
        carry(&mut reporter, &mut elsewhere);
        assert_eq!(here.connected(), 0);
    }

    #[test]
    fn an_older_stream_elsewhere_takes_nothing_from_ours() {
        let (there, here) = (Proxies::new(), Proxies::new());
        let stale = there.connect(&node(), String::new(), at(1));
        let ours = here.connect(&node(), String::new(), at(2));
        acknowledge(&ours, "v2");
        let (mut reporter, mut elsewhere) = (Reporter::new(there.clone()), Elsewhere::new(here.clone()));
        carry(&mut reporter, &mut elsewhere);
        assert!(programmed(&here, "v2"), "it is told late of one from before");
        drop(stale);
        carry(&mut reporter, &mut elsewhere);
        assert!(programmed(&here, "v2"), "which ends");
        drop(elsewhere);
        assert!(programmed(&here, "v2"));
    }

    #[test]
    fn what_was_told_is_not_told_back() {
        let (there, here) = (Proxies::new(), Proxies::new());
        let _connection = there.connect(&node(), String::new(), at(1));
        let (mut reporter, mut elsewhere) = (Reporter::new(there), Elsewhere::new(here.clone()));
        carry(&mut reporter, &mut elsewhere);
        assert_eq!(Reporter::new(here).take(), []);
    }

    #[test]
    fn a_node_that_makes_no_sense_costs_only_itself() {
        let here = Proxies::new();
        let report = |node: &str| Report { node: node.to_owned(), since: Some(at(1)), ..Report::default() };
        let mut elsewhere = Elsewhere::new(here.clone());
        elsewhere.take(vec![report("nonsense"), report("shop/cart/cart-0")]);
        assert_eq!(here.connected(), 1);
    }
}

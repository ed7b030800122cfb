//! Who calls whom, as far as proxies start with less than everything: what they have asked for, or what was learned of them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    build::Builder,
    index::asked::Why,
    intent::{Called, ServiceKey},
    xds::NodeKey,
};

/// One Service, or one host, that pods of a Service call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallReport {
    /// `<namespace>/<service>` of the pods that call.
    pub from: String,
    /// `<namespace>/<service>/<port>`; `<host>:<port>` outside; a host that is nothing as it was called.
    pub to: String,
    /// Whether that is something.
    pub known: bool,
    /// Why their proxies have it.
    pub why: Why,
    /// How many of the pods; none, when it is only remembered of pods that are gone.
    pub pods: usize,
    /// When the first of them called it, as far back as is known.
    pub since: Timestamp,
    /// When it was called last, as far as is known.
    pub last_used: Timestamp,
}

/// All calls, by who calls, then by who is called.
pub(super) fn calls(builder: &Builder) -> Vec<CallReport> {
    let index = builder.index();
    let mut found: BTreeMap<(&ServiceKey, String), CallReport> = BTreeMap::new();
    for service in index.asking() {
        for (pod, asked) in index.asks_of(service) {
            let uses = builder.uses(&NodeKey::of(service, pod));
            for (called, ask) in asked.called.iter().filter(|(_, ask)| !ask.leaving) {
                let last = match (called, uses) {
                    (Called::Destination(key), Some(uses)) => uses.of(key).and_then(|seen| seen.last),
                    _ => None,
                };
                let last_used = last.map_or(ask.used, |last| last.max(ask.used));
                let to = target(called);
                let report = found.entry((service, to.clone())).or_insert_with(|| CallReport {
                    from: service.to_string(),
                    to,
                    known: !matches!(called, Called::Host(_)),
                    why: ask.why,
                    pods: 0,
                    since: ask.since,
                    last_used,
                });
                report.pods += 1;
                report.since = report.since.min(ask.since);
                report.last_used = report.last_used.max(last_used);
            }
        }
        for (key, known) in index.memory(service) {
            let report = found.entry((service, key.named())).or_insert_with(|| CallReport {
                from: service.to_string(),
                to: key.named(),
                known: true,
                why: known.why,
                pods: 0,
                since: known.since,
                last_used: known.used,
            });
            report.since = report.since.min(known.since);
            report.last_used = report.last_used.max(known.used);
        }
    }
    found.into_values().collect()
}

fn target(called: &Called) -> String {
    match called {
        Called::Destination(key) => key.named(),
        Called::Host(host) => host.clone(),
        other => other.to_string(),
    }
}

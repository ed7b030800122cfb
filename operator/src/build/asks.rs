//! What proxies ask for that is not there yet.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::Builder;
use crate::{
    index::asked::Why,
    intent::ServiceKey,
    xds::{
        NodeKey, ResourceType,
        asks::{Answer, Ask, Wish},
        names,
        proxies::Report,
    },
};

impl Builder {
    /// Takes in what proxies ask for, publishes it, then answers.
    pub fn ask(&mut self, asks: Vec<Ask>, now: Timestamp) {
        let mut services = BTreeSet::new();
        let mut answers = Vec::new();
        for Ask { node, wish, reply_tx } in asks {
            let service = node.service_key();
            let answer = match wish {
                Wish::Host(asked) => {
                    let Some((_, host)) = names::asked(&node, &asked) else { continue };
                    let found = self.index.ask(&service, node.pod(), host, Why::OnDemand, now);
                    // A proxy that has everything does not ask; one that did a moment ago asks again.
                    let Some((called, dirty)) = found else { continue };
                    services.extend(dirty.services);
                    let configuration = &asked[..asked.len() - host.len() - 1];
                    let host = names::virtual_host(configuration, &called.to_string()).into();
                    Answer::Host { asked, host }
                }
                Wish::Nothing => {
                    services.extend(self.index.starts(&service, node.pod()).services);
                    Answer::Looked
                }
                Wish::Stream(called) => {
                    services.extend(self.index.ask_stream(&service, node.pod(), called, now).services);
                    // The cluster answers it.
                    continue;
                }
                Wish::Has(called, round) => {
                    let held =
                        called.into_iter().flat_map(|one| self.index.holds(&service, node.pod(), one, now).services);
                    services.extend(held);
                    let round = round.map(|round| self.index.holds_round(&service, node.pod(), round));
                    services.extend(round.into_iter().flat_map(|dirty| dirty.services));
                    Answer::Looked
                }
            };
            answers.push((reply_tx, answer));
        }
        services.extend(self.index.let_go(now).services);
        self.publish_all(&services);
        for (reply_tx, answer) in answers {
            // The stream may have ended.
            let _ = reply_tx.send(answer);
        }
        self.keep_memories(now);
    }

    /// Takes in what proxies of other replicas are said to have, so that they are known here should they come, and the status is of all.
    pub fn mirror(&mut self, reports: &[Report], now: Timestamp) {
        let mut services = BTreeSet::new();
        for report in reports {
            let Ok(node) = report.node.parse::<NodeKey>() else { continue };
            let service = node.service_key();
            if self.index.lazy(&service, node.pod()).is_none() {
                continue;
            }
            for (kind, name, version) in &report.holds {
                let dirty = if kind == ResourceType::VirtualHost.label() {
                    let Some(called) = names::called(&node, ResourceType::VirtualHost, name) else { continue };
                    match version {
                        Some(_) => self.index.holds(&service, node.pod(), called, now),
                        None => self.index.dropped(&service, node.pod(), &called),
                    }
                } else if kind == ResourceType::Route.label()
                    && let Some(round) = version.as_deref().and_then(names::round)
                {
                    self.index.holds_round(&service, node.pod(), round)
                } else {
                    continue;
                };
                services.extend(dirty.services);
            }
        }
        services.extend(self.index.let_go(now).services);
        self.publish_all(&services);
        self.keep_memories(now);
    }

    /// Whoever keeps what workloads call is told what is new.
    pub(super) fn keep_memories(&mut self, now: Timestamp) {
        for (service, memory) in self.index.take_memories(now) {
            self.keepers.iter().for_each(|keeper| keeper.remember(&service, memory.clone(), now));
        }
    }

    pub(super) fn publish_all(&mut self, services: &BTreeSet<ServiceKey>) {
        services.iter().for_each(|service| self.publish(service, None));
    }
}

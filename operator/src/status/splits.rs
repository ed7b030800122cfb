//! What Weir says of a split: who declares, who gets what and why, and its four conditions. Of a `TrafficSplit` it stands in a `SplitReport`.

use std::collections::BTreeSet;

use crds::{
    Condition, SmartSplitStatus, Time,
    conditions::{ConditionReason as Reason, ConditionType},
    smart_split::{ArmStatus, SplitProxies},
};
use jiff::Timestamp;
use limiter::{
    policy::Mode,
    split::{
        Kind, Split,
        shares::TOTAL,
        steer::{Verdict as Judged, Why},
        trimmed,
    },
};
use serde::{Deserialize, Serialize};

use super::conditions::{Verdict, refused};
use crate::{
    build::{
        Builder,
        splits::{Steered, Teller, ready_endpoints},
    },
    index::{
        Index, SplitEntry,
        splits::{Declared, Shadowed, root},
    },
    intent::{DestinationKey, ServiceKey},
    translate::split::{Portion, SplitRule, Standing, declared_shares, division, portions, steered_portions},
    xds::{NodeKey, proxies::Proxies},
};

/// One split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SplitReport {
    /// `smartsplits.weir.dev/<namespace>/<name>`, or that of a `TrafficSplit`.
    pub key: String,
    /// File and line.
    pub origin: String,
    /// Counts the texts of the object.
    pub generation: i64,
    /// As the object's own status would say it.
    pub status: SmartSplitStatus,
}

/// The proxies that carry a split out.
#[derive(Debug, Default)]
struct Served {
    connected: usize,
    programmed: usize,
    /// Node and what it said of a version that it refused.
    refused: Vec<(NodeKey, String)>,
}

/// A split in the light of all that is known.
struct Standpoint<'a> {
    split: &'a Split,
    index: &'a Index,
    root: ServiceKey,
    /// The first port of the root; all are alike but for who has which port.
    port: Option<u16>,
    shadowed: Option<Shadowed>,
    portions: Vec<Portion>,
    steered: Option<&'a Steered>,
    paused: bool,
    served: Served,
}

pub(super) fn split_status(
    entry: &SplitEntry,
    builder: &Builder,
    proxies: &Proxies,
    now: Timestamp,
) -> SmartSplitStatus {
    let standpoint = entry.accepted.as_deref().map(|split| Standpoint::of(split, builder, proxies));
    let verdicts = [
        (ConditionType::Accepted, accepted(entry, standpoint.as_ref())),
        (ConditionType::Programmed, programmed(standpoint.as_ref())),
        (ConditionType::MetricsAvailable, metrics(standpoint.as_ref(), now)),
        (ConditionType::Degraded, degraded(standpoint.as_ref())),
    ];
    let condition = |(type_, (status, reason, message)): (ConditionType, Verdict)| Condition {
        type_: type_.to_string(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_string(),
        message,
        observed_generation: Some(entry.generation),
        last_transition_time: Time(now),
    };
    let mut status = SmartSplitStatus {
        observed_generation: Some(entry.generation),
        conditions: verdicts.into_iter().map(condition).collect(),
        ..SmartSplitStatus::default()
    };
    if let Some(standpoint) = standpoint {
        standpoint.numbers(&mut status);
    }
    status
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn percent(share: u32) -> f64 {
    f64::from(share) * 100.0 / f64::from(TOTAL)
}

impl<'a> Standpoint<'a> {
    fn of(split: &'a Split, builder: &'a Builder, proxies: &Proxies) -> Self {
        let index = builder.index();
        let root = root(split);
        let port = index.ports_of(&root).first().map(|port| port.key.port);
        let holds = index.steering(&root).filter(|holding| holding.key == split.key);
        let portions = match holds {
            Some(holding) => steered_portions(index, holding),
            None => portions(index, split, port.unwrap_or_default()),
        };
        Self {
            split,
            index,
            port,
            shadowed: index.shadowed(split),
            portions,
            // Also of a TrafficSplit that something steers within.
            steered: builder.steered(&root).filter(|it| it.split.steer.is_some()),
            paused: builder.pauses().covers(&root),
            served: served(&root, builder, proxies),
            root,
        }
    }

    /// What each arm has of the requests that this split is about, as callers in the root's namespace have it.
    fn effective(&self) -> Vec<u32> {
        let key = DestinationKey { service: self.root.clone(), port: self.port.unwrap_or_default() };
        let division = division(self.index, &key, &self.root.namespace);
        let names: BTreeSet<&ServiceKey> = self.portions.iter().map(|it| &it.key.service).collect();
        let rules = division.iter().flat_map(|division| &division.rules);
        let of_ours = |rule: &&SplitRule| {
            rule.to.iter().filter(|(key, share)| *share > 0 && names.contains(&key.service)).count()
        };
        let name = self.split.key.name.as_str();
        let rule = match self.split.key.kind {
            // Each has rules of its own; one whose groups match nothing has none.
            Kind::TrafficSplit => rules.into_iter().find(|rule| rule.is_of(name)),
            Kind::SmartSplit => rules.rev().max_by_key(of_ours),
        };
        let share = |portion: &Portion| {
            let of_arm =
                rule.into_iter().flat_map(|rule| &rule.to).filter(|(key, _)| key.service == portion.key.service);
            of_arm.map(|(_, share)| *share).sum::<u32>()
        };
        let shares: Vec<u32> = self.portions.iter().map(share).collect();
        // The root alone has all by a weight of its own.
        let sum: u32 = rule.into_iter().flat_map(|rule| &rule.to).map(|(_, share)| *share).sum();
        shares.iter().map(|share| (u64::from(*share) * u64::from(TOTAL) / u64::from(sum.max(1))) as u32).collect()
    }

    fn numbers(&self, status: &mut SmartSplitStatus) {
        let Served { connected, programmed, .. } = self.served;
        status.proxies = Some(SplitProxies { total: count(connected), programmed: count(programmed) });
        status.declared_by = self.declared_by();
        if matches!(self.shadowed, Some(Shadowed::By(_))) || self.port.is_none() {
            return;
        }
        let declared = declared_shares(&self.portions).unwrap_or_else(|| vec![0; self.portions.len()]);
        let effective = self.effective();
        let text: Vec<String> = effective.iter().map(|share| trimmed(percent(*share))).collect();
        status.shares = Some(text.join(" / "));
        let (why, message) = self.why();
        (status.why, status.message) = (Some(why.to_owned()), Some(message));
        status.since = self.steered.map(|steered| Time(steered.since));
        let inflight: Vec<f64> = self.steered.map(|steered| steered.inflight().collect()).unwrap_or_default();
        for (place, portion) in self.portions.iter().enumerate() {
            let mut arm = ArmStatus {
                service: portion.key.service.name.clone(),
                declared_percent: percent(declared[place]),
                percent: percent(effective[place]),
                ready_endpoints: count(ready_endpoints(portion)),
                message: said(portion),
                ..ArmStatus::default()
            };
            if let Some((steered, at)) =
                self.steered.and_then(|steered| Some((steered, steered.place(&portion.key.service)?)))
            {
                let decision = steered.decision.as_ref();
                arm.target_percent = decision.and_then(|it| it.aims.get(at)).map(|aim| percent(*aim));
                arm.verdict = decision.and_then(|it| it.verdicts.get(at)).map(|verdict| word(*verdict).to_owned());
                arm.realised_percent = steered.realised(at).map(|part| (part * 10_000.0).round() / 100.0);
                if let Some((requests, ratio, latency)) =
                    steered.state.seen(at).filter(|(requests, ..)| *requests > 0.0)
                {
                    arm.requests = Some(requests.round());
                    arm.error_ratio = Some((ratio * 1e4).round() / 1e4);
                    arm.latency_ms = latency.map(|latency| (latency * 10.0).round() / 10.0);
                }
                arm.inflight = inflight.get(at).copied();
                if let (Some(verdict), None) = (decision.and_then(|it| it.verdicts.get(at)), &arm.message) {
                    arm.message = self.judged(*verdict, steered);
                }
            }
            status.arms.push(arm);
        }
    }

    fn declared_by(&self) -> Option<String> {
        Some(match self.index.declared(&self.root, self.port?, &self.root.namespace)? {
            Declared::Routes(routes) => routes.first()?.0.to_string(),
            Declared::Splits(splits) => match splits.iter().find(|it| it.key == self.split.key) {
                Some(own) => own.key.to_string(),
                None => splits.last()?.key.to_string(),
            },
            Declared::Smart(split) => split.key.to_string(),
        })
    }

    /// In a fixed word, and in a sentence.
    fn why(&self) -> (&'static str, String) {
        let declared = || ("Declared", "the shares are as they are declared, among those that are ready".to_owned());
        let Some(steered) = self.steered else { return declared() };
        if self.paused {
            return ("Paused", "an operator has paused it: the shares are as they are declared".to_owned());
        }
        if steered.split.mode == Mode::Shadow {
            return (
                "Shadow",
                "mode is Shadow: the shares are as they are declared, and targetPercent says what would be".to_owned(),
            );
        }
        let Some(decision) = &steered.decision else { return declared() };
        let law = steered.split.steer.unwrap_or_default();
        let minutes = |time: jiff::SignedDuration| limiter::language::write_duration(time.unsigned_abs());
        if steered.state.rolled_back {
            return (
                "RolledBack",
                "what was to grow failed too much and fell back; it stays there until the SmartSplit is edited"
                    .to_owned(),
            );
        }
        match decision.why {
            Why::Steered | Why::Early => ("Steered", "the shares follow what the backends do".to_owned()),
            Why::Bounded => (
                "Bounded",
                "all splits together have moved as much as they may in a minute: the shares follow what the backends do as soon as they may"
                    .to_owned(),
            ),
            Why::Held => (
                "Held",
                format!(
                    "nothing was heard of the backends' answers for {}: the shares hold for {}",
                    minutes(law.expiry),
                    minutes(law.hold)
                ),
            ),
            Why::Gliding => (
                "Gliding",
                "nothing was heard of the backends' answers for long: the shares go back to the declared ones"
                    .to_owned(),
            ),
            Why::AllAlike => (
                "AllAlike",
                "all backends fail alike, so what they depend on is at fault, and nothing moves".to_owned(),
            ),
            Why::NoneReady => ("NoneReady", "no backend is ready: the shares stay".to_owned()),
        }
    }

    fn judged(&self, verdict: Judged, steered: &Steered) -> Option<String> {
        let law = steered.split.steer.unwrap_or_default();
        let of = |ratio: f64| format!("{} %", trimmed(ratio * 100.0));
        Some(match verdict {
            Judged::Unseen => "no caller has told of an answer of it lately".to_owned(),
            Judged::Inconclusive => format!("fewer than {} requests were seen: too few to judge it", law.fewest),
            Judged::Well => return None,
            Judged::OverObjective => format!("it is sure to fail more than {}", of(law.objective)),
            Judged::WorseThan(best) => {
                let best = steered.portions.get(best).map_or("another", |it| it.key.service.name.as_str());
                format!("it is sure to fail more than {best}, by more than {}", of(law.margin))
            }
            Judged::NotReady => "none of its endpoints is ready".to_owned(),
        })
    }
}

const fn word(verdict: Judged) -> &'static str {
    match verdict {
        Judged::Unseen => "Unseen",
        Judged::Inconclusive => "Inconclusive",
        Judged::Well => "Well",
        Judged::OverObjective => "OverObjective",
        Judged::WorseThan(_) => "WorseThanPeer",
        Judged::NotReady => "NotReady",
    }
}

/// What is wrong with an arm, whatever it does.
fn said(portion: &Portion) -> Option<String> {
    let DestinationKey { service, port } = &portion.key;
    Some(match portion.standing {
        Standing::Ready(_) => return None,
        Standing::Empty => "none of its endpoints is ready, so it gets nothing".to_owned(),
        Standing::Missing => format!("there is no Service {service} with the port {port}, so it takes no part"),
        Standing::Unlike => {
            format!("the port {port} of {service} speaks another protocol than the root, so it takes no part")
        }
    })
}

fn served(root: &ServiceKey, builder: &Builder, proxies: &Proxies) -> Served {
    let mut served = Served::default();
    let mut seen = BTreeSet::new();
    for owner in builder.index().sharing_out(root) {
        let Some(built) = builder.built(&owner) else { continue };
        let calling = built.intent.pods.iter().filter(|(_, pod)| !pod.outbound.is_empty());
        for node in calling.map(|(pod, _)| NodeKey::of(&owner, pod)).filter(|node| proxies.is_connected(node)) {
            if !seen.insert(node.clone()) {
                continue;
            }
            served.connected += 1;
            if let Some(refusal) = proxies.refusals(&node).pop() {
                served.refused.push((node, refusal.message));
            } else if proxies.programmed(&node, &builder.table().versions(&node)) {
                served.programmed += 1;
            }
        }
    }
    served
}

fn accepted(entry: &SplitEntry, standpoint: Option<&Standpoint<'_>>) -> Verdict {
    if let Some(verdict) = refused(&entry.problems, entry.accepted.as_ref().map(|it| it.generation)) {
        return verdict;
    }
    let Some(standpoint) = standpoint else {
        return (false, Reason::Invalid, "nothing of this object was ever accepted".to_owned());
    };
    if standpoint.port.is_none() {
        let message =
            format!("there is no Service {} with a port: create it, or name one that exists", standpoint.root);
        return (false, Reason::TargetNotFound, message);
    }
    if let Some(Shadowed::By(other)) = &standpoint.shadowed {
        let help = match standpoint.split.key.kind {
            Kind::SmartSplit => "remove one",
            Kind::TrafficSplit => "remove one, or have each match others",
        };
        let message =
            format!("{other}, which is older or of as old the first by its name, shares out the same requests: {help}");
        return (false, Reason::Conflicted, message);
    }
    let message = match standpoint.index.dangling_groups(standpoint.split).as_slice() {
        [] => "the split is understood and its Service exists".to_owned(),
        missing => format!(
            "the split is understood; there is no HTTPRouteGroup {}, so no request matches it and all stay with {}",
            missing.join(", "),
            standpoint.root.name
        ),
    };
    (true, Reason::Accepted, message)
}

fn programmed(standpoint: Option<&Standpoint<'_>>) -> Verdict {
    let Some(standpoint) = standpoint else {
        return (false, Reason::NotAccepted, "nothing of this object was ever accepted".to_owned());
    };
    match &standpoint.shadowed {
        Some(Shadowed::By(other)) => return (false, Reason::Overridden, format!("{other} holds in its place")),
        Some(Shadowed::ByRoute(route)) => {
            let message = format!("{route} names the Service as its parent, and routes come before a TrafficSplit");
            return (false, Reason::Overridden, message);
        }
        None => {}
    }
    let Served { connected, programmed, refused } = &standpoint.served;
    if let Some((node, message)) = refused.first() {
        return (false, Reason::Rejected, format!("the proxy {node} refused it and keeps what it had: {message}"));
    }
    if *connected == 0 {
        let message = "no proxy of a caller is connected: annotate the callers' Pods with outbound.weir.dev/listen, or lead a Gateway's \
                       route to the Service";
        return (false, Reason::NoProxies, message.to_owned());
    }
    if programmed < connected {
        return (false, Reason::Pending, "some proxies have not acknowledged the newest version yet".to_owned());
    }
    (true, Reason::Programmed, "every connected proxy of the callers has what it should".to_owned())
}

fn metrics(standpoint: Option<&Standpoint<'_>>, now: Timestamp) -> Verdict {
    let Some(standpoint) = standpoint else {
        return (false, Reason::NotAccepted, "nothing of this object was ever accepted".to_owned());
    };
    let Some(steered) = standpoint.steered.filter(|_| standpoint.split.key.kind == Kind::SmartSplit) else {
        return (true, Reason::NotNeeded, "nothing is steered, so no metric is read".to_owned());
    };
    match steered.heard(now) {
        Some(Teller::Callers) => {
            return (true, Reason::Available, "the callers' proxies tell how the backends answer".to_owned());
        }
        Some(Teller::Arms(source)) => {
            let message = format!(
                "the callers' proxies tell nothing; what is measured of the backends themselves counts ({})",
                source.name()
            );
            return (true, Reason::Available, message);
        }
        None => {}
    }
    let message = "no proxy of a caller has told how a backend answers: nobody calls the Service through a proxy, or the proxies were started with \
                   a bootstrap of an older Weir (make it again by `weir bootstrap`)";
    (false, Reason::Missing, message.to_owned())
}

fn degraded(standpoint: Option<&Standpoint<'_>>) -> Verdict {
    let healthy = || (false, Reason::Healthy, "every backend can take part".to_owned());
    let Some(standpoint) = standpoint.filter(|it| it.shadowed.is_none() && it.port.is_some()) else { return healthy() };
    let missing: Vec<String> = standpoint.portions.iter().filter(|it| !it.takes_part()).filter_map(said).collect();
    if declared_shares(&standpoint.portions).is_none() {
        let message = format!("nobody who is there has any weight, so all requests stay with {}", standpoint.root.name);
        return (true, Reason::NothingDeclared, message);
    }
    if !missing.is_empty() {
        return (true, Reason::BackendNotFound, missing.join("; "));
    }
    if standpoint.portions.iter().all(|it| !it.is_ready()) {
        return (true, Reason::NoEndpoints, "no backend has a ready endpoint: requests are answered 503".to_owned());
    }
    if let Some((steered, off)) = standpoint.steered.and_then(|it| Some((it, it.deviation()?))) {
        let of = |part: f64| format!("{} %", trimmed(part * 100.0));
        let arm = steered.portions.get(off.arm).map_or("a backend", |it| it.key.service.name.as_str());
        let sticky = if steered.split.sticky.is_some() { "few users make most of the requests, or " } else { "" };
        let message = format!(
            "{arm} gets {} of the requests and should get {}: {sticky}callers call a backend by its own name",
            of(off.seen),
            of(off.expected)
        );
        return (true, Reason::NotRealised, message);
    }
    if standpoint.portions.iter().any(|it| it.key.service == standpoint.root)
        && standpoint.split.key.kind == Kind::TrafficSplit
    {
        let message =
            "the Service is one of its own backends, which means its own endpoints: it is not split again".to_owned();
        return (false, Reason::SelfReference, message);
    }
    healthy()
}

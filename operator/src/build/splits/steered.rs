//! One split that is steered, or whose users stay: its arms, what is remembered of them, and its steps.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use limiter::split::{
    Split,
    layout::Layout,
    realised::{Deviation, Realised},
    shares::Bounds,
    steer::{self, Arm, Decision, Law, Seen, State, Verdict, Why},
};
use tracing::info;
use xxhash_rust::xxh3::xxh3_64;

use super::tally::Tally;
use crate::{
    index::splits,
    intent::ServiceKey,
    metrics::Source,
    translate::split::{Heard, Portion, Standing, ToldSplit, declared_shares, told_shares},
};

/// A split that is steered, or whose users stay.
#[derive(Debug)]
pub struct Steered {
    /// The object.
    pub split: Arc<Split>,
    /// Its arms as they are declared.
    pub portions: Vec<Portion>,
    /// What is remembered of them.
    pub state: State,
    /// What was decided last.
    pub decision: Option<Decision>,
    /// Since when the shares are what they are.
    pub since: Timestamp,
    /// Which users are whose.
    layout: Layout<ServiceKey>,
    pub(super) tallies: Vec<Tally>,
    /// Requests to each that were seen in the last step.
    requests: Vec<f64>,
    /// What callers' proxies are told, if that is one thing, since the step before.
    effective: Option<Vec<u32>>,
    realised: Realised,
    /// When somebody told of an answer last, and who.
    heard: Option<(Timestamp, Teller)>,
    /// When the next step is due.
    pub(super) next: Timestamp,
}

/// Who tells how the arms answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teller {
    /// The proxies of callers.
    Callers,
    /// What is measured of the arms themselves, by this source.
    Arms(Source),
}

impl Teller {
    /// As it is told to others.
    pub(super) fn told(self, heard: Timestamp, now: Timestamp) -> Heard {
        let source = match self {
            Self::Callers => None,
            Self::Arms(source) => Some(source.name().to_owned()),
        };
        Heard { ago_ms: u64::try_from(now.duration_since(heard).as_millis()).unwrap_or(0), source }
    }

    /// As somebody else has told it; `None`: by a source that is not known here.
    pub(super) fn taken(Heard { ago_ms, source }: &Heard, now: Timestamp) -> Option<(Timestamp, Self)> {
        let teller = match source {
            None => Self::Callers,
            Some(name) => Self::Arms(Source::named(name)?),
        };
        let ago = SignedDuration::from_millis(i64::try_from(*ago_ms).ok()?);
        Some((now.checked_sub(ago).ok()?, teller))
    }
}

/// What an object says of who gets what, in short: whether it was edited.
pub(super) fn declared(split: &Split) -> u64 {
    // Both can be written as JSON.
    xxh3_64(&serde_json::to_vec(&(&split.arms, &split.steer)).unwrap_or_default())
}

/// When a split is to be stepped next, if it ever is.
pub(super) fn next(split: &Split, now: Timestamp) -> Timestamp {
    split.steer.and_then(|law| now.checked_add(law.every).ok()).unwrap_or(Timestamp::MAX)
}

fn arms(portions: &[Portion]) -> Vec<Arm> {
    let arm = |it: &Portion| Arm {
        weight: if it.takes_part() { it.weight } else { 0 },
        bounds: if it.takes_part() { it.bounds } else { Bounds { least: 0, most: 0 } },
        ready: it.is_ready(),
        capacity: it.capacity.map(|rate| f64::from(rate) * ready_endpoints(it) as f64),
    };
    portions.iter().map(arm).collect()
}

impl Steered {
    pub(super) fn new(split: &Arc<Split>, portions: Vec<Portion>, now: Timestamp) -> Option<Self> {
        let state = State::declared(&arms(&portions), now)?;
        let tallies = portions.iter().map(|_| Tally::default()).collect();
        let next = next(split, now);
        Some(Self {
            split: Arc::clone(split),
            portions,
            state,
            decision: None,
            since: now,
            layout: Layout::default(),
            tallies,
            requests: Vec::new(),
            effective: None,
            realised: Realised::default(),
            heard: None,
            next,
        })
    }

    /// Takes up what is declared now. Where nothing was steered away from what was declared before, it holds at once.
    pub(super) fn redeclare(&mut self, split: &Arc<Split>, portions: Vec<Portion>, now: Timestamp) {
        let is_as_declared = declared_shares(&self.portions).as_deref() == Some(self.state.shares.as_slice());
        self.rearrange(&portions, now);
        if let Some(shares) = declared_shares(&portions) {
            // One that was found out and had nothing for a while, being away, comes back as who it is.
            let mut pairs = shares.iter().zip(&self.state.shares).enumerate();
            let spares = pairs.any(|(place, (new, old))| new > old && self.state.is_harmful(place));
            let holds = split.steer.is_none() || (is_as_declared && !spares);
            if holds && shares != self.state.shares {
                (self.state.shares, self.since) = (shares, now);
            }
        }
        let is_edited = declared(&self.split) != declared(split);
        self.next = if split.steer.is_some() { self.next.min(next(split, now)) } else { Timestamp::MAX };
        self.tallies.resize_with(portions.len(), Tally::default);
        (self.split, self.portions) = (Arc::clone(split), portions);
        if is_edited {
            self.retry();
        }
    }

    /// Who was rolled back may try again once its object is edited.
    pub(super) fn retry(&mut self) {
        let Some(law) = self.split.steer.filter(|_| self.state.rolled_back) else { return };
        self.state.retry(&law);
        // What it has answered before the edit.
        if let Some(tally) = law.ramp.and_then(|ramp| self.tallies.get_mut(ramp.arm)) {
            *tally = Tally::default();
        }
    }

    /// What is remembered goes on for these arms, by their names, and within their bounds, which hold at once.
    fn rearrange(&mut self, portions: &[Portion], now: Timestamp) {
        let places: Vec<Option<usize>> = portions.iter().map(|it| self.place(&it.key.service)).collect();
        self.set(self.state.carried(&places, &arms(portions)), now);
        if places.iter().copied().ne((0..self.portions.len()).map(Some)) {
            // It speaks of others.
            (self.decision, self.tallies, self.requests) = (None, Vec::new(), Vec::new());
            (self.effective, self.realised) = (None, Realised::default());
        }
    }

    fn set(&mut self, state: State, now: Timestamp) {
        if self.state.shares != state.shares {
            self.since = now;
        }
        self.state = state;
    }

    /// What each arm has.
    pub(super) fn shares(&self) -> BTreeMap<ServiceKey, u32> {
        let services = self.portions.iter().map(|it| it.key.service.clone());
        services.zip(self.state.shares.iter().copied()).collect()
    }

    pub(super) fn told(&self, now: Timestamp) -> ToldSplit {
        ToldSplit {
            split: self.split.key.clone(),
            arms: self.portions.iter().map(|it| it.key.service.name.clone()).collect(),
            declared: declared(&self.split),
            state: self.state.clone(),
            decision: self.decision.clone(),
            heard: self.heard.map(|(heard, teller)| teller.told(heard, now)),
            layout: self.layout.map(|arm| arm.name.clone()),
        }
    }

    /// Goes on from what somebody else has decided, by the names of the arms.
    pub(super) fn take_up(&mut self, told: &ToldSplit, now: Timestamp) {
        if told.split != self.split.key || told.state.shares.len() != told.arms.len() {
            return;
        }
        let place = |portion: &Portion| told.arms.iter().position(|arm| *arm == portion.key.service.name);
        let places: Vec<Option<usize>> = self.portions.iter().map(place).collect();
        let same = places.iter().copied().eq((0..told.arms.len()).map(Some));
        // What is not steered is declared, and what is declared is known here.
        if self.split.steer.is_some() {
            self.set(told.state.carried(&places, &arms(&self.portions)), now);
            self.decision = told.decision.clone().filter(|_| same);
            self.heard = told.heard.as_ref().and_then(|heard| Teller::taken(heard, now));
        }
        let namespace = &self.split.key.namespace;
        self.layout = told.layout.map(|arm| ServiceKey { namespace: namespace.clone(), name: arm.clone() });
    }

    /// What callers' proxies are told: what was decided if that `holds`, else what is declared. `None`: nobody has anything.
    pub(super) fn told_shares(&self, holds: bool) -> Option<Vec<u32>> {
        told_shares(&self.portions, holds.then(|| self.shares()).as_ref(), false)
    }

    /// What is to be carried out. Users stay as far as that lets them.
    pub(super) fn laid_out(&mut self, holds: bool) -> splits::Steered {
        let shares = holds.then(|| self.shares());
        if self.split.sticky.is_some() {
            // As callers' proxies are told, so that users move from what holds now.
            let services = self.portions.iter().map(|it| it.key.service.clone());
            let told = services.zip(self.told_shares(holds).unwrap_or_default());
            self.layout = self.layout.moved(&told.collect::<Vec<_>>());
        } else {
            self.layout = Layout::default();
        }
        splits::Steered { shares, layout: self.layout.clone() }
    }

    /// The clock was set back to this time.
    pub(super) fn set_back(&mut self, now: Timestamp) {
        self.next = self.next.min(now);
        self.state.set_back(now);
        self.heard = self.heard.map(|(heard, teller)| (heard.min(now), teller));
    }

    /// The place of an arm.
    #[must_use]
    pub fn place(&self, arm: &ServiceKey) -> Option<usize> {
        self.portions.iter().position(|it| it.key.service == *arm)
    }

    /// An arm's part of the requests that were seen in the last step, of which there were some.
    #[must_use]
    pub fn realised(&self, arm: usize) -> Option<f64> {
        let all: f64 = self.requests.iter().sum();
        self.requests.get(arm).filter(|_| all > 0.0).map(|own| own / all)
    }

    /// An arm that has not got lately what it should.
    #[must_use]
    pub fn deviation(&self) -> Option<Deviation> {
        self.realised.deviation()
    }

    /// Who has told of an answer, for as long as that counts.
    #[must_use]
    pub fn heard(&self, now: Timestamp) -> Option<Teller> {
        let expiry = self.split.steer.unwrap_or_default().expiry;
        self.heard.filter(|(heard, _)| now.duration_since(*heard) <= expiry).map(|(_, teller)| teller)
    }

    /// Requests to each arm that have not ended, as callers have told lately.
    pub fn inflight(&self) -> impl Iterator<Item = f64> {
        // A sum of nothing is -0, which is no count.
        self.tallies.iter().map(|tally| tally.inflight.values().map(|(_, count)| count).sum::<f64>() + 0.0)
    }

    /// `measured` tells of the arms themselves, where callers do not. `effective`: what callers' proxies are told, if that is one thing.
    /// At most `room` shares are moved for what arms do; how many were moved.
    pub(super) fn step(
        &mut self,
        measured: impl Fn(&ServiceKey) -> Option<(Seen, Source)>,
        effective: Option<Vec<u32>>,
        room: u32,
        now: Timestamp,
    ) -> u32 {
        self.next = next(&self.split, now);
        let Some(law) = self.split.steer else { return 0 };
        let mut seen: Vec<Option<Seen>> = self.tallies.iter_mut().map(|tally| tally.seen(&law, now)).collect();
        let mut teller = Teller::Callers;
        if seen.iter().all(Option::is_none) {
            for (seen, portion) in seen.iter_mut().zip(&self.portions) {
                let Some((of_arm, source)) = measured(&portion.key.service) else { continue };
                (*seen, teller) = (Some(of_arm), Teller::Arms(source));
            }
        }
        if seen.iter().any(Option::is_some) {
            self.requests = seen.iter().map(|seen| seen.map_or(0.0, |seen| seen.requests)).collect();
            self.heard = Some((now, teller));
            // What ended after a move may have begun before it.
            let settled =
                effective.as_ref().filter(|it| self.effective.as_ref() == Some(it) && teller == Teller::Callers);
            if let Some(shares) = settled {
                let kept = 0.5_f64.powf(law.every.as_secs_f64() / law.half_life.as_secs_f64().max(1e-3));
                self.realised.take(shares, &self.requests, kept);
            }
        }
        self.effective = effective;
        if self.effective.is_none() || self.heard(now).is_none() {
            // What was seen says nothing of now.
            self.realised = Realised::default();
        }
        let bounded = Law { up: law.up.min(room), down: law.down.min(room), ..law };
        let (state, mut decision) = steer::step(&bounded, &arms(&self.portions), &self.state, &seen, now);
        // What leaves an arm that is not ready is no matter of metrics.
        let pairs = state.shares.iter().zip(&self.state.shares).zip(&decision.verdicts);
        let by_choice = pairs.filter(|(_, verdict)| **verdict != Verdict::NotReady);
        let moved: u32 = by_choice.map(|((new, old), _)| old.saturating_sub(*new)).sum();
        if decision.why == Why::Steered && moved >= room && room < law.down && decision.shares != decision.aims {
            decision.why = Why::Bounded;
        }
        self.note(&decision);
        self.set(state, now);
        self.decision = Some(decision);
        moved
    }

    /// A verdict or a reason that turns is worth a line; a share that moves is not.
    fn note(&self, new: &Decision) {
        let Some(old) = &self.decision else { return };
        if old.verdicts != new.verdicts || (old.why != new.why && new.why != Why::Early) {
            let arms: Vec<_> = self.portions.iter().map(|it| it.key.service.name.as_str()).collect();
            info!(split = %self.split.key, ?arms, verdicts = ?new.verdicts, why = ?new.why, shares = ?new.shares, "a split turned");
        }
    }
}

/// Of how many endpoints a portion is, for people.
#[must_use]
pub const fn ready_endpoints(portion: &Portion) -> usize {
    match portion.standing {
        Standing::Ready(count) => count,
        Standing::Empty | Standing::Missing | Standing::Unlike => 0,
    }
}

//! Splits that are steered: what was seen of each arm since the last step, the step, and who carries it out.
//!
//! One replica steps; the others are told what it has decided, and go on from there should it end.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use limiter::{
    metric::{Metric, Observations, Reduce, Word},
    policy::Mode,
    split::{
        Split,
        layout::Layout,
        realised::{Deviation, Realised},
        shares::{Bounds, TOTAL},
        steer::{self, Arm, Decision, Law, Seen, State, Verdict, Why},
    },
};
use tracing::info;
use xxhash_rust::xxh3::xxh3_64;

use super::{Builder, Built};
use crate::{
    index::{Index, gateway::RootModel, splits},
    intent::{DestinationKey, ServiceKey},
    metrics::{Histogram, Measure, PodSample, Source, store},
    translate::{
        decide::Decides,
        split::{Heard, Portion, Standing, ToldSplit, declared_shares, division, steered_portions, told_shares},
    },
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
    tallies: Vec<Tally>,
    /// Requests to each that were seen in the last step.
    requests: Vec<f64>,
    /// What callers' proxies are told, if that is one thing, since the step before.
    effective: Option<Vec<u32>>,
    realised: Realised,
    /// When somebody told of an answer last, and who.
    heard: Option<(Timestamp, Teller)>,
    /// When the next step is due.
    next: Timestamp,
}

/// What was seen of an arm since the last step.
#[derive(Debug, Default)]
struct Tally {
    completed: f64,
    failed: f64,
    latency: Histogram,
    /// Requests that have not ended, by caller.
    inflight: BTreeMap<String, (Timestamp, f64)>,
    heard: bool,
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
    fn told(self, heard: Timestamp, now: Timestamp) -> Heard {
        let source = match self {
            Self::Callers => None,
            Self::Arms(source) => Some(source.name().to_owned()),
        };
        Heard { ago_ms: u64::try_from(now.duration_since(heard).as_millis()).unwrap_or(0), source }
    }

    /// As somebody else has told it; `None`: by a source that is not known here.
    fn taken(Heard { ago_ms, source }: &Heard, now: Timestamp) -> Option<(Timestamp, Self)> {
        let teller = match source {
            None => Self::Callers,
            Some(name) => Self::Arms(Source::ALL.into_iter().find(|source| source.name() == name)?),
        };
        let ago = SignedDuration::from_millis(i64::try_from(*ago_ms).ok()?);
        Some((now.checked_sub(ago).ok()?, teller))
    }
}

/// By root.
#[derive(Debug, Default)]
pub(super) struct Splits {
    by_root: BTreeMap<ServiceKey, Steered>,
    /// How many shares were moved lately for what arms do, and when.
    moves: VecDeque<(Timestamp, u32)>,
}

/// All splits together move at most this much of a split's requests in [`BOUND_OVER`], for each that is steered: a fault of what is
/// measured would move all of them at once.
const MOST_OF_EACH: u32 = TOTAL / 5;
/// As few splits as there may be, they move so much.
const MOST_OF_FEW: u32 = 2 * TOTAL;
const BOUND_OVER: SignedDuration = SignedDuration::from_mins(1);

impl Tally {
    fn take(&mut self, sample: &PodSample) {
        let Measure::Called { completed, failed, inflight, latency, .. } = &sample.measure else { return };
        self.heard = true;
        self.completed += completed;
        self.failed += failed;
        self.latency = Histogram::merged([&self.latency, latency]);
        if let Some(caller) = &sample.pod {
            self.inflight.insert(caller.clone(), (sample.at, *inflight));
        }
    }

    fn seen(&mut self, law: &Law, now: Timestamp) -> Option<Seen> {
        let lately = now.checked_sub(law.expiry).unwrap_or(Timestamp::MIN);
        self.inflight.retain(|_, (at, _)| *at >= lately);
        if !std::mem::take(&mut self.heard) {
            return None;
        }
        let latency = std::mem::take(&mut self.latency);
        Some(Seen {
            requests: std::mem::take(&mut self.completed),
            bad: std::mem::take(&mut self.failed),
            latency_ms: latency.quantile(f64::from(law.percentile) / 100.0).map(|seconds| seconds * 1e3),
        })
    }
}

/// What an object says of who gets what, in short: whether it was edited.
fn declared(split: &Split) -> u64 {
    // Both can be written as JSON.
    xxh3_64(&serde_json::to_vec(&(&split.arms, &split.steer)).unwrap_or_default())
}

/// When a split is to be stepped next, if it ever is.
fn next(split: &Split, now: Timestamp) -> Timestamp {
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
    fn new(split: &Arc<Split>, portions: Vec<Portion>, now: Timestamp) -> Option<Self> {
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
    fn redeclare(&mut self, split: &Arc<Split>, portions: Vec<Portion>, now: Timestamp) {
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
    fn retry(&mut self) {
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
    fn shares(&self) -> BTreeMap<ServiceKey, u32> {
        let services = self.portions.iter().map(|it| it.key.service.clone());
        services.zip(self.state.shares.iter().copied()).collect()
    }

    fn told(&self, now: Timestamp) -> ToldSplit {
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
    fn take_up(&mut self, told: &ToldSplit, now: Timestamp) {
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

    /// What is to be carried out. `holds`: what was decided, else what is declared. Users stay as far as that lets them.
    fn laid_out(&mut self, holds: bool) -> splits::Steered {
        let shares = holds.then(|| self.shares());
        if self.split.sticky.is_some() {
            // As callers' proxies are told, so that users move from what holds now.
            let told = told_shares(&self.portions, shares.as_ref(), false);
            let services = self.portions.iter().map(|it| it.key.service.clone());
            self.layout = self.layout.moved(&services.zip(told.unwrap_or_default()).collect::<Vec<_>>());
        } else {
            self.layout = Layout::default();
        }
        splits::Steered { shares, layout: self.layout.clone() }
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
    fn step(
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

impl Splits {
    pub(super) fn get(&self, root: &ServiceKey) -> Option<&Steered> {
        self.by_root.get(root)
    }

    /// The clock was set back to this time.
    pub(super) fn set_back(&mut self, now: Timestamp) {
        self.by_root.values_mut().filter(|it| it.split.steer.is_some()).for_each(|it| it.next = it.next.min(now));
    }

    fn due(&self, now: Timestamp) -> Vec<ServiceKey> {
        self.by_root.iter().filter(|(_, steered)| steered.next <= now).map(|(root, _)| root.clone()).collect()
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.by_root.values().map(|steered| steered.next).filter(|next| *next < Timestamp::MAX).min()
    }

    /// How many shares may still be moved now.
    fn room(&mut self, now: Timestamp) -> u32 {
        // Of a clock that was set back nothing is known.
        self.moves.retain(|(at, _)| *at <= now && now.duration_since(*at) < BOUND_OVER);
        let count = u32::try_from(self.by_root.len()).unwrap_or(u32::MAX);
        let most = MOST_OF_EACH.saturating_mul(count).max(MOST_OF_FEW);
        most.saturating_sub(self.moves.iter().map(|(_, moved)| moved).sum())
    }

    /// Takes in how a caller was answered by an arm of whichever of its roots are steered.
    fn observe(&mut self, roots: impl Iterator<Item = ServiceKey>, sample: &PodSample, now: Timestamp) {
        if !store::makes_sense(&sample.measure) {
            return;
        }
        let (age, fresh_for) = (
            now.duration_since(sample.at),
            SignedDuration::from_millis(sample.fresh_for_ms.try_into().unwrap_or(i64::MAX)),
        );
        for root in roots {
            let Some(steered) = self.by_root.get_mut(&root) else { continue };
            // What lay at a replica until it found one that decides says nothing of now.
            if age > steered.split.steer.unwrap_or_default().every.max(fresh_for) {
                continue;
            }
            let arms = steered.portions.iter().zip(&mut steered.tallies);
            arms.filter(|(it, _)| it.key.service == *sample.service).for_each(|(_, tally)| tally.take(sample));
        }
    }
}

/// The words by which a service is judged as an arm, where its callers' proxies tell nothing: none, if nothing steers it.
pub(super) fn words(index: &Index, service: &ServiceKey) -> Vec<Word> {
    let laws = index.roots_of(service).filter_map(|root| index.steering(root)?.steer);
    let mut words = Vec::new();
    for law in laws {
        let latency = law.by_latency.then_some(Word::Latency(law.percentile));
        words.extend([Word::Requests, Word::Errors].into_iter().chain(latency));
    }
    words
}

/// What is measured of an arm itself, as if it were what was seen in a step.
fn measured(built: &Built, law: &Law, now: Timestamp) -> Option<(Seen, Source)> {
    let metric = |word, reduce| Metric { word, reduce };
    let requests = metric(Word::Requests, Reduce::Sum);
    let [errors, latency] = [Word::Errors, Word::Latency(law.percentile)].map(Metric::plain);
    let names: Vec<_> = [&requests, &errors, &latency].into_iter().map(|it| (it.clone(), it.clone())).collect();
    let mut seen = Observations::default();
    built.store.observe(&built.ready, &names, &mut seen, now);
    let fresh = |metric| seen.samples.get(metric).filter(|sample| sample.is_fresh(now));
    let count = fresh(&requests)?.value.max(0.0) * law.every.as_secs_f64();
    let ratio = fresh(&errors)?;
    let source = Source::ALL.into_iter().find(|source| source.name() == ratio.source)?;
    let latency_ms = fresh(&latency).map(|sample| sample.value * 1e3);
    Some((Seen { requests: count, bad: ratio.value.clamp(0.0, 1.0) * count, latency_ms }, source))
}

impl Builder {
    /// A split as it is steered, by its root.
    #[must_use]
    pub fn steered(&self, root: &ServiceKey) -> Option<&Steered> {
        self.splits.get(root)
    }

    /// Takes up which splits are steered now; the services whose proxies carry out something else.
    pub(super) fn replan_splits(&mut self, now: Timestamp) -> BTreeSet<ServiceKey> {
        let wanted: Vec<_> =
            self.index.steered_roots().map(|(root, split)| (root.clone(), Arc::clone(split))).collect();
        let mut touched = BTreeSet::new();
        let there: BTreeSet<&ServiceKey> = wanted.iter().map(|(root, _)| root).collect();
        let gone = self.splits.by_root.keys().filter(|root| !there.contains(root));
        for root in gone.cloned().collect::<Vec<_>>() {
            self.splits.by_root.remove(&root);
            touched.extend(self.index.steer(&root, None));
            self.keepers.iter().for_each(|keeper| keeper.keep_split(&root, None, now));
        }
        for (root, split) in wanted {
            let portions = steered_portions(&self.index, &split);
            match self.splits.by_root.get_mut(&root).filter(|held| held.split.key == split.key) {
                Some(held) if held.split == split && held.portions == portions => {}
                Some(held) => held.redeclare(&split, portions, now),
                None => {
                    let Some(mut steered) = Steered::new(&split, portions, now) else {
                        self.splits.by_root.remove(&root);
                        touched.extend(self.index.steer(&root, None));
                        continue;
                    };
                    if let Some(told) = self.kept_splits.remove(&root) {
                        steered.take_up(&ToldSplit { state: told.state.clone().resume(now), ..told }, now);
                        if told.declared != declared(&split) {
                            steered.retry();
                        }
                    }
                    self.splits.by_root.insert(root.clone(), steered);
                }
            }
            let changed = self.carry_out(&root);
            // Where users stay it counts by which way the shares came to be.
            if let Some(steered) =
                self.splits.by_root.get(&root).filter(|it| !changed.is_empty() && it.split.sticky.is_some())
            {
                self.keepers.iter().for_each(|keeper| keeper.keep_split(&root, Some(steered.told(now)), now));
            }
            touched.extend(changed);
        }
        touched
    }

    /// What was decided of a split is carried out, or not; the services whose proxies do something else then.
    fn carry_out(&mut self, root: &ServiceKey) -> BTreeSet<ServiceKey> {
        let holds = self.holds(root);
        let Some(steered) = self.splits.by_root.get_mut(root) else { return BTreeSet::new() };
        self.index.steer(root, Some(steered.laid_out(holds)))
    }

    /// Whether what is decided of a split is carried out, and not only told.
    fn holds(&self, root: &ServiceKey) -> bool {
        let enforces = self.steered(root).is_some_and(|steered| steered.split.mode == Mode::Enforce);
        enforces && !self.pauses.covers(root)
    }

    /// What the proxies of callers in the root's own namespace are told of its arms, if that is the same for all requests.
    fn effective(&self, root: &ServiceKey) -> Option<Vec<u32>> {
        let steered = self.splits.by_root.get(root)?;
        let names_it = |roots: &[RootModel]| roots.iter().any(|it| it.service == *root);
        let mut routes = self.index.routes_of_services();
        let is_of_all = !routes.any(|(key, route)| key.namespace != root.namespace && names_it(&route.roots));
        // What an arm of several has is not told apart by who was called.
        let is_of_one = steered.portions.iter().all(|it| self.index.roots_of(&it.key.service).nth(1).is_none());
        if !is_of_all || !is_of_one {
            return None;
        }
        let port = self.index.ports_of(root).first()?.key.port;
        let division = division(&self.index, &DestinationKey { service: root.clone(), port }, &root.namespace)?;
        let [rule] = division.rules.as_slice() else { return None };
        let share = |portion: &Portion| {
            let of_arm = rule.to.iter().filter(|(key, _)| key.service == portion.key.service);
            of_arm.map(|(_, share)| *share).sum::<u32>()
        };
        let shares: Vec<u32> = steered.portions.iter().map(share).collect();
        (shares.iter().sum::<u32>() == TOTAL).then_some(shares)
    }

    /// The kill switch was moved.
    pub(super) fn carry_out_splits(&mut self) -> BTreeSet<ServiceKey> {
        let roots: Vec<_> = self.splits.by_root.keys().cloned().collect();
        roots.iter().flat_map(|root| self.carry_out(root)).collect()
    }

    /// Takes in how a caller was answered by an arm.
    pub(super) fn observe_arm(&mut self, sample: &PodSample, now: Timestamp) {
        let roots: Vec<_> = self.index.roots_of(&sample.service).cloned().collect();
        self.splits.observe(roots.into_iter(), sample, now);
    }

    /// Steps the splits whose time has come.
    pub(super) fn step_splits(&mut self, now: Timestamp) {
        if self.decides == Decides::Unmeasured {
            self.splits.by_root.values_mut().filter(|it| it.next <= now).for_each(|it| it.next = next(&it.split, now));
            return;
        }
        let mut touched = BTreeSet::new();
        for root in self.splits.due(now) {
            let (holds, effective) = (self.holds(&root), self.effective(&root));
            let room = if holds { self.splits.room(now) } else { TOTAL };
            let Some(steered) = self.splits.by_root.get_mut(&root) else { continue };
            let law = steered.split.steer.unwrap_or_default();
            let built = &self.built;
            let before = steered.since;
            let moved = steered.step(|arm| measured(built.get(arm)?, &law, now), effective, room, now);
            let is_new = steered.since != before;
            self.splits.moves.extend((holds && moved > 0).then_some((now, moved)));
            touched.extend(self.carry_out(&root));
            let Some(told) = self.splits.by_root.get(&root).map(|it| it.told(now)) else { continue };
            for keeper in &self.keepers {
                keeper.keep_split_as(&root, &told, is_new, now);
            }
            if let Some(news) = &mut self.news {
                news.services.insert(root.clone());
                news.splits = true;
            }
        }
        self.publish_all(&touched);
    }

    /// Carries out what the replica that decides has told of splits.
    pub(super) fn take_up_splits(&mut self, told: BTreeMap<ServiceKey, Option<ToldSplit>>, now: Timestamp) {
        let mut touched = BTreeSet::new();
        for (root, told) in told {
            // Gone there: it goes here, too, when the watch says so.
            let Some(told) = told else { continue };
            self.keepers.iter().for_each(|keeper| keeper.keep_split(&root, Some(told.clone()), now));
            match self.splits.by_root.get_mut(&root) {
                Some(steered) => {
                    steered.take_up(&told, now);
                    touched.extend(self.carry_out(&root));
                }
                // The watch is behind the one that decides.
                None => drop(self.kept_splits.insert(root.clone(), told)),
            }
            if let Some(news) = &mut self.news {
                news.services.insert(root);
                news.splits = true;
            }
        }
        self.publish_all(&touched);
    }

    /// To be called when everything was read once: what a run before has decided of splits that are not there is forgotten.
    pub(super) fn forget_unseen_splits(&mut self, now: Timestamp) {
        for root in std::mem::take(&mut self.kept_splits).into_keys() {
            self.keepers.iter().for_each(|keeper| keeper.keep_split(&root, None, now));
        }
    }

    /// Gives these keepers all splits that are steered.
    pub(super) fn keep_all_splits(&self, keepers: &[crate::checkpoint::Keeper], now: Timestamp) {
        for (root, steered) in &self.splits.by_root {
            keepers.iter().for_each(|keeper| keeper.keep_split(root, Some(steered.told(now)), now));
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

#[cfg(test)]
mod tests;

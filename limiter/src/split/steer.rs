//! How the shares of a split follow what its arms do.
//!
//! Each step: take in what was seen since the one before, judge each arm, aim, and move a bounded way there.
//!
//! - *Judging.* Of an arm `bad` of `n` requests were bad; older ones count less, by half each [`Law::half_life`]. What its ratio may be is a Beta
//!   distribution with Jeffreys' prior, Beta(bad + 1/2, n - bad + 1/2). It is harmful when that is above the objective, or above the best peer's
//!   ratio by more than [`Law::margin`], with [`Law::confidence`]: both by the normal approximation, which is good where at least [`Law::fewest`]
//!   requests were seen; with fewer nobody is judged. Once harmful, it is well again when it is as likely as not below both. Who was surely
//!   harmful in the last step alone ([`SURE_AT_ONCE`]) has changed, and what was before is forgotten: how long an arm was well must not make
//!   it slower to see that it is no longer.
//! - *Aiming.* At the declared weights; where latency counts, times the mean latency over the arm's own, and times its good ratio: an arm that
//!   fails fast must not win by its latency (gRPC proposal A58 has such a penalty). A harmful arm is left what probes it.
//! - *Moving.* Not within the dead band; at most [`Law::up`] to an arm that is preferred, and [`Law::down`] from one that is harmful, which is more.
//! - *Ramping.* An arm that is to grow aims at its cap while it is well, and at its least share once it is harmful: it then stays there until what is
//!   declared is edited. While too little is seen of it, it keeps what it has, and at least what it began with.
//! - *Not being able.* An arm gets no more than what its ready endpoints can serve of all that is seen to come, as far as others can take it.
//! - *Not seeing.* An arm without requests is not judged. When no arm that has a share was seen for [`Law::expiry`], the metrics are away: the
//!   shares hold for [`Law::hold`], then go back to the declared ones, step by step. When all arms are over the objective alike, what they depend
//!   on is at fault, and nothing moves.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::shares::{Bounds, TOTAL, apportion, apportion_within};

/// What a policy says of an arm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arm {
    /// Its declared weight.
    pub weight: u64,
    /// What it may have, whatever it does.
    pub bounds: Bounds,
    /// Some of its endpoints are ready: without any it gets nothing.
    pub ready: bool,
    /// Requests a second that these can serve, if that is known.
    pub capacity: Option<f64>,
}

/// Who was found to be harmful stays so until this is no more.
const AS_LIKELY_AS_NOT: f64 = 0.5;

/// How sure what was seen in a single step must make it that an arm is harmful.
pub const SURE_AT_ONCE: f64 = 0.999;

/// How to steer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Law {
    /// Between two steps.
    pub every: SignedDuration,
    /// The highest ratio of bad requests of an arm that is well.
    pub objective: f64,
    /// By how much more an arm may fail than its best peer.
    pub margin: f64,
    /// How sure it must be that an arm is harmful: below one.
    pub confidence: f64,
    /// Requests below which an arm is not judged.
    pub fewest: f64,
    /// After this a request counts half.
    pub half_life: SignedDuration,
    /// Latency counts.
    pub by_latency: bool,
    /// By this percentile.
    pub percentile: u8,
    /// Most shares that go to an arm in a step because it is preferred.
    pub up: u32,
    /// Most shares that leave a harmful arm in a step.
    pub down: u32,
    /// An arm is not moved by less than this part of what it has.
    pub dead_band: f64,
    /// What a harmful arm keeps, to be seen.
    pub probe: u32,
    /// What was seen counts for so long.
    pub expiry: SignedDuration,
    /// The shares hold for so long without any metric.
    pub hold: SignedDuration,
    /// Who is to grow.
    pub ramp: Option<Ramp>,
}

/// An arm that grows while it is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ramp {
    /// Its place.
    pub arm: usize,
    /// How many shares it grows to.
    pub to: u32,
}

impl Default for Law {
    fn default() -> Self {
        Self {
            every: SignedDuration::from_secs(5),
            objective: 0.05,
            margin: 0.05,
            confidence: 0.95,
            fewest: 30.0,
            half_life: SignedDuration::from_secs(60),
            by_latency: false,
            percentile: 99,
            up: 500,
            down: 3_000,
            dead_band: 0.1,
            probe: 300,
            expiry: SignedDuration::from_secs(30),
            hold: SignedDuration::from_secs(180),
            ramp: None,
        }
    }
}

/// What was seen of an arm since the step before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Requests that have ended.
    pub requests: f64,
    /// Those of them that failed.
    pub bad: f64,
    /// Their latency, in milliseconds, if it is known.
    pub latency_ms: Option<f64>,
}

/// What is remembered of an arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmState {
    #[serde(flatten)]
    memory: Tally,
    /// In the last step.
    #[serde(default)]
    last: Tally,
    latency_ms: Option<f64>,
    seen: Option<Timestamp>,
    /// It was, when it was judged last.
    #[serde(default)]
    harmful: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Tally {
    requests: f64,
    bad: f64,
}

/// What is remembered of a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What each arm has now.
    pub shares: Vec<u32>,
    /// Who was to grow was harmful, and stays at its least share.
    #[serde(default)]
    pub rolled_back: bool,
    arms: Vec<ArmState>,
    heard: Timestamp,
    stepped: Timestamp,
}

/// What is thought of an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Nothing was seen of it lately.
    Unseen,
    /// Too few requests to say.
    Inconclusive,
    /// It does what it should.
    Well,
    /// It is over the objective.
    OverObjective,
    /// It fails more than its best peer, at this place.
    WorseThan(usize),
    /// None of its endpoints is ready.
    NotReady,
}

impl Verdict {
    fn is_harmful(self) -> bool {
        matches!(self, Self::OverObjective | Self::WorseThan(_))
    }
}

/// Why the shares are what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// They are where the arms' behaviour wants them, or on the way there.
    Steered,
    /// All splits together have moved as much as they may for now.
    Bounded,
    /// It is not time for a step yet.
    Early,
    /// Metrics are away, and the shares hold.
    Held,
    /// Metrics are away for long: the shares go back to the declared ones.
    Gliding,
    /// All arms fail alike.
    AllAlike,
    /// No arm is ready: the shares stay.
    NoneReady,
}

/// What a step gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What each arm gets.
    pub shares: Vec<u32>,
    /// What each arm would get without bounds on the way.
    pub aims: Vec<u32>,
    /// What is thought of each.
    pub verdicts: Vec<Verdict>,
    /// Why.
    pub why: Why,
}

impl State {
    /// At the declared weights; within the bounds, unless those leave no way without who is not ready. `None`: nothing has any weight, or
    /// no shares are within all bounds.
    #[must_use]
    pub fn declared(arms: &[Arm], now: Timestamp) -> Option<Self> {
        let weights: Vec<u64> = arms.iter().map(|arm| arm.weight).collect();
        let is_short = arms.iter().any(|arm| !arm.ready);
        let shares = declared(arms).or_else(|| if is_short { apportion(&weights) } else { None })?;
        Some(Self { shares, rolled_back: false, arms: vec![ArmState::default(); arms.len()], heard: now, stepped: now })
    }

    /// What is seen of an arm counts so many requests still; what part of them is thought to be bad; how long they take, in milliseconds.
    #[must_use]
    pub fn seen(&self, arm: usize) -> Option<(f64, f64, Option<f64>)> {
        let state = self.arms.get(arm)?;
        Some((state.memory.requests, state.memory.posterior().0, state.latency_ms))
    }

    /// Whether an arm was harmful when it was judged last.
    #[must_use]
    pub fn is_harmful(&self, arm: usize) -> bool {
        self.arms.get(arm).is_some_and(|arm| arm.harmful)
    }

    /// The same for other arms, each of which was at this place before, or was none: bounds hold at once. An arm that is new has its declared
    /// part of what the others had.
    #[must_use]
    pub fn carried(&self, places: &[Option<usize>], arms: &[Arm]) -> Self {
        let before = |place: &Option<usize>| place.and_then(|place| self.arms.get(place).copied());
        let declared = declared(arms).unwrap_or_else(|| vec![0; arms.len()]);
        let share = |(place, declared): (&Option<usize>, &u32)| {
            place.and_then(|place| self.shares.get(place)).unwrap_or(declared).to_owned()
        };
        let weights: Vec<u64> = places.iter().zip(&declared).map(share).map(u64::from).collect();
        let bounds: Vec<Bounds> = arms.iter().map(|arm| arm.bounds).collect();
        let shares = apportion_within(&weights, &bounds)
            .or_else(|| apportion_within(&weights, &vec![Bounds::default(); arms.len()]));
        Self {
            shares: shares.unwrap_or(declared),
            arms: places.iter().map(|place| before(place).unwrap_or_default()).collect(),
            ..self.clone()
        }
    }

    /// Who was to grow and fell back may try again, as if nothing had been seen of it.
    pub fn retry(&mut self, law: &Law) {
        self.rolled_back = false;
        if let Some(arm) = law.ramp.and_then(|ramp| self.arms.get_mut(ramp.arm)) {
            *arm = ArmState::default();
        }
    }

    /// The clock was set back to this time: what was seen was seen by then.
    pub fn set_back(&mut self, now: Timestamp) {
        for arm in &mut self.arms {
            arm.seen = arm.seen.map(|seen| seen.min(now));
        }
        (self.heard, self.stepped) = (self.heard.min(now), self.stepped.min(now));
    }

    /// Goes on at `now` from where another run was: what it saw last counts as seen now, so that the shares hold as long as they would.
    #[must_use]
    pub fn resume(mut self, now: Timestamp) -> Self {
        for arm in self.arms.iter_mut().filter(|arm| arm.seen.is_some()) {
            arm.seen = Some(now);
        }
        (self.heard, self.stepped) = (now, now);
        self
    }
}

fn declared(arms: &[Arm]) -> Option<Vec<u32>> {
    let weights: Vec<u64> = arms.iter().map(|arm| arm.weight).collect();
    let bounds: Vec<Bounds> = arms.iter().map(|arm| arm.bounds).collect();
    apportion_within(&weights, &bounds)
}

/// Where the shares go without metrics: to the declared ones, but for who was rolled back.
fn at_rest(law: &Law, arms: &[Arm], state: &State) -> Option<Vec<u32>> {
    let mut arms = arms.to_vec();
    if let Some(arm) = law.ramp.filter(|_| state.rolled_back).and_then(|ramp| arms.get_mut(ramp.arm)) {
        arm.weight = 0;
        arm.bounds.most = arm.bounds.least;
    }
    declared(&arms)
}

/// One step at `now`. `seen` and the state are of the same arms in the same order; `None`: nothing was heard of that arm.
#[must_use]
pub fn step(law: &Law, arms: &[Arm], state: &State, seen: &[Option<Seen>], now: Timestamp) -> (State, Decision) {
    let mut state = state.clone();
    let elapsed = now.duration_since(state.stepped);
    take_in(law, &mut state.arms, seen, now.duration_since(state.heard), now);
    state.heard = now;
    let judged = judged(law, arms, &state.arms, now);
    forget(law, &judged, &mut state.arms);
    let judged: Vec<usize> =
        judged.into_iter().filter(|place| state.arms[*place].memory.requests >= law.fewest).collect();
    let verdicts = verdicts(law, arms, &judged, &state.arms, now);
    for place in judged {
        state.arms[place].harmful = verdicts[place].is_harmful();
    }
    let stay = |state: State, verdicts: Vec<Verdict>, why| {
        let shares = state.shares.clone();
        (state, Decision { aims: shares.clone(), shares, verdicts, why })
    };
    // A clock that was set back must not silence it.
    if (SignedDuration::ZERO..law.every).contains(&elapsed) {
        // What was seen is remembered; when the step before was, too.
        return stay(state, verdicts, Why::Early);
    }
    state.stepped = now;
    if !arms.iter().any(|arm| arm.ready) {
        return stay(state, verdicts, Why::NoneReady);
    }
    let last_seen =
        state.arms.iter().zip(&state.shares).filter(|(_, share)| **share > 0).map(|(arm, _)| arm.seen).max();
    let blind_for = last_seen.flatten().map_or(SignedDuration::MAX, |last| now.duration_since(last));
    let (aims, why) = match blind_for {
        blind if blind > law.expiry.saturating_add(law.hold) => (at_rest(law, arms, &state), Why::Gliding),
        blind if blind > law.expiry => return stay(state, verdicts, Why::Held),
        _ if all_alike(law, &verdicts) => return stay(state, verdicts, Why::AllAlike),
        _ => {
            let turns_bad = law.ramp.is_some_and(|ramp| verdicts.get(ramp.arm).is_some_and(|it| it.is_harmful()));
            state.rolled_back |= turns_bad;
            (aims(law, arms, &state, &verdicts), Why::Steered)
        }
    };
    let Some(aims) = aims else { return stay(state, verdicts, Why::NoneReady) };
    let dead_band = if why == Why::Gliding || law.ramp.is_some() { 0.0 } else { law.dead_band };
    let shares = moved(law, dead_band, &state.shares, &aims, &verdicts);
    state.shares.clone_from(&shares);
    (state, Decision { shares, aims, verdicts, why })
}

fn take_in(law: &Law, states: &mut [ArmState], seen: &[Option<Seen>], elapsed: SignedDuration, now: Timestamp) {
    let halves = elapsed.as_secs_f64().max(0.0) / law.half_life.as_secs_f64().max(1e-3);
    let kept = 0.5_f64.powf(halves);
    for (state, seen) in states.iter_mut().zip(seen) {
        state.memory.requests *= kept;
        state.memory.bad *= kept;
        state.last = Tally::default();
        let Some(seen) = seen.filter(|seen| seen.requests.is_finite() && seen.bad.is_finite()) else { continue };
        state.seen = Some(now);
        let requests = seen.requests.max(0.0);
        let before = state.memory.requests;
        state.last = Tally { requests, bad: seen.bad.clamp(0.0, requests) };
        state.memory.requests += state.last.requests;
        state.memory.bad += state.last.bad;
        if let Some(latency) =
            seen.latency_ms.filter(|latency| latency.is_finite() && *latency >= 0.0 && requests > 0.0)
        {
            // The mean of all that counts still.
            let mean = |old: f64| (old * before + latency * requests) / (before + requests);
            state.latency_ms = Some(state.latency_ms.map_or(latency, mean));
        }
    }
}

impl Tally {
    /// Mean and variance of what the ratio of bad requests may be.
    fn posterior(&self) -> (f64, f64) {
        let (a, b) = (self.bad + 0.5, self.requests - self.bad + 0.5);
        let sum = a + b;
        (a / sum, a * b / (sum * sum * (sum + 1.0)))
    }
}

/// Who is ready, was seen lately, and often enough to be judged.
fn judged(law: &Law, arms: &[Arm], states: &[ArmState], now: Timestamp) -> Vec<usize> {
    let is_judged = |place: &usize| {
        arms[*place].ready && is_fresh(law, &states[*place], now) && states[*place].memory.requests >= law.fewest
    };
    (0..arms.len()).filter(is_judged).collect()
}

fn is_fresh(law: &Law, state: &ArmState, now: Timestamp) -> bool {
    state.seen.is_some_and(|seen| now.duration_since(seen) <= law.expiry)
}

/// Whoever was harmful in the last step alone, surely, and was not before, has changed: what was before is forgotten of all but those that
/// are known to be harmful, so that nobody is compared with what another was before.
fn forget(law: &Law, judged: &[usize], states: &mut [ArmState]) {
    let of_memory: Vec<(usize, Tally)> = judged.iter().map(|place| (*place, states[*place].memory)).collect();
    let is_enough = |last: &Tally| last.requests >= law.fewest;
    // Who was hardly called in the last step is compared by what is remembered of it.
    let of_last: Vec<(usize, Tally)> = of_memory
        .iter()
        .map(|(place, memory)| (*place, Some(states[*place].last).filter(is_enough).unwrap_or(*memory)))
        .collect();
    let has_changed = |(place, memory): &&(usize, Tally)| {
        let last = states[*place].last;
        is_enough(&last)
            && harm(law, SURE_AT_ONCE, *place, last, &of_last).is_some()
            && (!states[*place].harmful || harm(law, law.confidence, *place, *memory, &of_memory).is_none())
    };
    let changed: Vec<usize> = of_memory.iter().filter(has_changed).map(|(place, _)| *place).collect();
    if changed.is_empty() {
        return;
    }
    for place in judged {
        if !states[*place].harmful || changed.contains(place) {
            states[*place].memory = states[*place].last;
        }
    }
}

fn verdicts(law: &Law, arms: &[Arm], judged: &[usize], states: &[ArmState], now: Timestamp) -> Vec<Verdict> {
    let all: Vec<(usize, Tally)> = judged.iter().map(|place| (*place, states[*place].memory)).collect();
    let verdict = |place: usize| {
        if !arms[place].ready {
            return Verdict::NotReady;
        }
        if !is_fresh(law, &states[place], now) {
            return Verdict::Unseen;
        }
        if !judged.contains(&place) {
            return Verdict::Inconclusive;
        }
        // At the edge it would be harmful and well by turns.
        let sure = if states[place].harmful { AS_LIKELY_AS_NOT } else { law.confidence };
        harm(law, sure, place, states[place].memory, &all).unwrap_or(Verdict::Well)
    };
    (0..arms.len()).map(verdict).collect()
}

/// Whether an arm is harmful by its tally, compared with those of all that are judged. `sure`: with this confidence.
fn harm(law: &Law, sure: f64, place: usize, tally: Tally, all: &[(usize, Tally)]) -> Option<Verdict> {
    let sure = quantile(sure);
    let (mean, variance) = tally.posterior();
    let best = all.iter().min_by(|(_, a), (_, b)| a.posterior().0.total_cmp(&b.posterior().0));
    if let Some((best, of_best)) = best.filter(|(best, _)| *best != place) {
        let (mean_of_best, variance_of_best) = of_best.posterior();
        if mean - mean_of_best - law.margin > sure * (variance + variance_of_best).sqrt() {
            return Some(Verdict::WorseThan(*best));
        }
    }
    (mean - law.objective > sure * variance.sqrt()).then_some(Verdict::OverObjective)
}

/// The place below which a standard normal value is with this probability: by Winitzki's approximation of the inverse of the error
/// function, right within one percent where it is used.
fn quantile(probability: f64) -> f64 {
    let x = (2.0 * probability - 1.0).clamp(-0.999_999, 0.999_999);
    let a = 0.147;
    let log = (1.0 - x * x).ln();
    let first = 2.0 / (std::f64::consts::PI * a) + log / 2.0;
    x.signum() * ((first * first - log / a).sqrt() - first).sqrt() * std::f64::consts::SQRT_2
}

/// Some are over the objective, none is worse than another, and nobody is known to do better. Who is to grow is tried all the same: it
/// takes no more than it may.
fn all_alike(law: &Law, verdicts: &[Verdict]) -> bool {
    let grows = law.ramp.and_then(|ramp| verdicts.get(ramp.arm)).is_some_and(|it| !it.is_harmful());
    let is_better = |it: &Verdict| matches!(it, Verdict::Well | Verdict::WorseThan(_));
    verdicts.len() > 1 && !grows && verdicts.contains(&Verdict::OverObjective) && !verdicts.iter().any(is_better)
}

fn aims(law: &Law, arms: &[Arm], state: &State, verdicts: &[Verdict]) -> Option<Vec<u32>> {
    let states = &state.arms;
    let well = || states.iter().zip(verdicts).filter(|(_, verdict)| **verdict == Verdict::Well);
    let latencies: Vec<f64> = well().filter_map(|(state, _)| state.latency_ms).filter(|it| *it > 0.0).collect();
    let mean_latency = latencies.iter().sum::<f64>() / latencies.len().max(1) as f64;
    let score = |state: &ArmState| match state.latency_ms.filter(|latency| *latency > 0.0 && latencies.len() > 1) {
        Some(latency) => (1.0 - state.memory.posterior().0) * mean_latency / latency,
        None => 1.0,
    };
    let mut weights = Vec::new();
    let (mut bounds, mut able) = (Vec::new(), Vec::new());
    let rate = total_rate(law, states);
    let is_idle = states.iter().all(|state| state.last.requests == 0.0);
    for (place, ((arm, of_arm), verdict)) in arms.iter().zip(states).zip(verdicts).enumerate() {
        let score = if law.by_latency && *verdict == Verdict::Well { score(of_arm) } else { 1.0 };
        // Six digits are more than there are shares.
        let steered = arm.weight as f64 * score * 1e6;
        let floor = arm.bounds.least.max(law.probe).min(arm.bounds.most);
        let ramp = law.ramp.filter(|ramp| ramp.arm == place);
        let (weight, mut bounded) = match verdict {
            Verdict::NotReady => (0, Bounds { least: 0, most: 0 }),
            _ if ramp.is_some() && state.rolled_back => (0, Bounds { least: arm.bounds.least, most: arm.bounds.least }),
            _ if let Some(Ramp { to, .. }) = ramp => {
                let grown = if *verdict == Verdict::Well { to } else { state.shares[place].max(law.probe.min(to)) };
                let share = grown.clamp(arm.bounds.least, arm.bounds.most);
                (1, Bounds { least: share, most: share })
            }
            harmful if harmful.is_harmful() => (0, Bounds { least: floor, most: floor }),
            // What is known of it is too old to judge by, and while nobody is called nothing is learnt.
            Verdict::Inconclusive if of_arm.harmful && is_idle => {
                let share = state.shares[place].clamp(arm.bounds.least, arm.bounds.most);
                (0, Bounds { least: share, most: share })
            }
            _ => (steered.max(0.0) as u64, arm.bounds),
        };
        let unlimited = bounded;
        if let Some(capacity) = arm.capacity.filter(|_| rate > 0.0) {
            let can = (capacity / rate * f64::from(TOTAL)).min(f64::from(TOTAL)) as u32;
            bounded = Bounds { least: bounded.least.min(can), most: bounded.most.min(can) };
        }
        weights.push(weight);
        bounds.push(unlimited);
        able.push(bounded);
    }
    // Where all together cannot serve what comes, nobody is spared.
    apportion_within(&weights, &able).or_else(|| apportion_within(&weights, &bounds)).or_else(|| {
        // The others may not have it all, so the harmful ones keep the rest: those last that are worse than another, or were rolled back.
        let is_back = |place: usize| state.rolled_back && law.ramp.is_some_and(|ramp| ramp.arm == place);
        let guilt = |place: usize| match verdicts[place] {
            verdict if !verdict.is_harmful() => 0,
            _ if is_back(place) => 3,
            Verdict::OverObjective => 1,
            _ => 2,
        };
        for guilty in 1..=3 {
            for place in (0..arms.len()).filter(|place| guilt(*place) == guilty) {
                (weights[place], bounds[place].most) = (arms[place].weight.max(1), arms[place].bounds.most);
            }
            if let Some(shares) = apportion_within(&weights, &bounds) {
                return Some(shares);
            }
        }
        if arms.iter().all(|arm| arm.ready) {
            return None;
        }
        // Who is not ready leaves more than the bounds of the others allow.
        for place in (0..arms.len()).filter(|place| arms[*place].ready && guilt(*place) == 0 && !is_back(*place)) {
            bounds[place].most = TOTAL;
        }
        apportion_within(&weights, &bounds)
    })
}

/// Requests a second that are seen to come, of all arms: what counts still, each request half after each half-life.
fn total_rate(law: &Law, states: &[ArmState]) -> f64 {
    let counted: f64 = states.iter().map(|state| state.memory.requests).sum();
    counted * std::f64::consts::LN_2 / law.half_life.as_secs_f64().max(1e-3)
}

/// From `shares` towards `aims`, as far as a step goes.
fn moved(law: &Law, dead_band: f64, shares: &[u32], aims: &[u32], verdicts: &[Verdict]) -> Vec<u32> {
    let must = |verdict: Verdict| verdict.is_harmful() || verdict == Verdict::NotReady;
    let (mut gives, mut takes) = (vec![0_u32; shares.len()], vec![0_u32; shares.len()]);
    let (mut forced, mut free) = (0_u32, 0_u32);
    let is_small = |place: usize| {
        let (share, aim) = (shares[place], aims[place]);
        share > 0 && f64::from(share.abs_diff(aim)) <= dead_band * f64::from(share)
    };
    // What one gives another takes, so that is not held up by the other's band; nor is what probes a harmful one that has nothing.
    let rests =
        (0..shares.len()).filter(|place| !must(verdicts[*place]) || aims[*place] > shares[*place]).all(is_small);
    for (place, (share, aim)) in shares.iter().zip(aims).enumerate() {
        match verdicts[place] {
            Verdict::NotReady => gives[place] = share.saturating_sub(*aim),
            verdict if verdict.is_harmful() => {
                gives[place] = share.saturating_sub(*aim).min(law.down);
                // The others may not have it all.
                takes[place] = aim.saturating_sub(*share);
            }
            _ if rests => {}
            _ => {
                gives[place] = share.saturating_sub(*aim).min(law.up);
                takes[place] = aim.saturating_sub(*share);
            }
        }
        if must(verdicts[place]) { forced += gives[place] } else { free += gives[place] }
    }
    // Whoever may take what must go, if all that are left are where they want to be.
    if takes.iter().sum::<u32>() < forced {
        for (place, (share, aim)) in shares.iter().zip(aims).enumerate() {
            if !must(verdicts[place]) {
                takes[place] = takes[place].max(aim.saturating_sub(*share));
            }
        }
    }
    let room: u32 = takes.iter().sum();
    // What must go goes; of the rest at most `up` goes to each.
    let of_choice = takes.iter().map(|take| (*take).min(law.up)).sum::<u32>().min(free);
    let total = (forced + of_choice).min(room);
    let given = scaled(&gives, total, |place| must(verdicts[place]));
    let by_choice: Vec<u32> = takes.iter().map(|take| (*take).min(law.up)).collect();
    let mut taken = scaled(&by_choice, of_choice, |_| false);
    let left: Vec<u32> = takes.iter().zip(&taken).map(|(take, taken)| take - taken).collect();
    taken.iter_mut().zip(scaled(&left, total - of_choice, |_| false)).for_each(|(taken, more)| *taken += more);
    (0..shares.len()).map(|place| shares[place] - given[place] + taken[place]).collect()
}

/// Parts of `amounts` that add up to `total`, which is at most their sum: those that come `first` whole, if they fit, the others in proportion.
fn scaled(amounts: &[u32], total: u32, first: impl Fn(usize) -> bool) -> Vec<u32> {
    let sum = |wanted: bool| {
        (0..amounts.len()).filter(|place| first(*place) == wanted).map(|place| amounts[place]).sum::<u32>()
    };
    let of_first = sum(true).min(total);
    let mut parts = vec![0; amounts.len()];
    for (wanted, total) in [(true, of_first), (false, total - of_first)] {
        let all = sum(wanted);
        let mut left = total;
        for place in (0..amounts.len()).filter(|place| first(*place) == wanted) {
            if all > 0 {
                let part = (u64::from(amounts[place]) * u64::from(total) / u64::from(all)) as u32;
                parts[place] = part;
                left -= part;
            }
        }
        for place in (0..amounts.len()).filter(|place| first(*place) == wanted) {
            let more = left.min(amounts[place] - parts[place]);
            parts[place] += more;
            left -= more;
        }
    }
    parts
}

#[cfg(test)]
mod tests;

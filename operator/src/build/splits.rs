//! Splits that are steered: who is due, who carries it out, and who is told.
//!
//! One replica steps; the others are told what it has decided, and go on from there should it end.

mod bound;
mod meters;
mod steered;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bound::Bound;
use jiff::{SignedDuration, Timestamp};
use limiter::{
    metric::{Metric, Observations, Reduce, Word},
    policy::Mode,
    split::{
        shares::TOTAL,
        steer::{Law, Seen},
    },
};
pub use meters::Meters;
use meters::Shown;
pub use steered::{Steered, Teller, ready_endpoints};

use super::{Builder, Built};
use crate::{
    index::Index,
    intent::{DestinationKey, ServiceKey},
    metrics::{PodSample, Source, store},
    translate::{
        decide::Decides,
        split::{Portion, ToldSplit, division, steered_portions},
    },
};

/// By root.
#[derive(Debug, Default)]
pub(super) struct Splits {
    by_root: BTreeMap<ServiceKey, Steered>,
    bound: Bound,
    shown: Shown,
}

impl Splits {
    pub(super) fn get(&self, root: &ServiceKey) -> Option<&Steered> {
        self.by_root.get(root)
    }

    fn remove(&mut self, root: &ServiceKey) {
        self.by_root.remove(root);
        self.shown.forget(root);
    }

    /// The clock was set back to this time.
    pub(super) fn set_back(&mut self, now: Timestamp) {
        self.by_root.values_mut().filter(|it| it.split.steer.is_some()).for_each(|it| it.set_back(now));
    }

    /// How many shares may still be moved now.
    fn room(&mut self, now: Timestamp) -> u32 {
        self.bound.room(self.by_root.values().filter(|it| it.split.steer.is_some()).count(), now)
    }

    fn due(&self, now: Timestamp) -> Vec<ServiceKey> {
        self.by_root.iter().filter(|(_, steered)| steered.next <= now).map(|(root, _)| root.clone()).collect()
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.by_root.values().map(|steered| steered.next).filter(|next| *next < Timestamp::MAX).min()
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
    let source = Source::named(&ratio.source)?;
    let latency_ms = fresh(&latency).map(|sample| sample.value * 1e3);
    Some((Seen { requests: count, bad: ratio.value.clamp(0.0, 1.0) * count, latency_ms }, source))
}

impl Builder {
    /// Shows the shares of splits from now on. To be called before anything is applied.
    #[must_use]
    pub fn with_split_meters(mut self, meters: Meters) -> Self {
        self.splits.shown = Shown::new(meters);
        self
    }

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
            self.splits.remove(&root);
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
                        self.splits.remove(&root);
                        touched.extend(self.index.steer(&root, None));
                        continue;
                    };
                    if let Some(told) = self.kept_splits.remove(&root) {
                        steered.take_up(&ToldSplit { state: told.state.clone().resume(now), ..told }, now);
                        if told.declared != steered::declared(&split) {
                            steered.retry();
                        }
                    }
                    self.splits.by_root.insert(root.clone(), steered);
                }
            }
            let changed = self.carry_out(&root);
            // What holds at once outlives this process, too; and where users stay it counts by which way the shares came to be.
            if let Some(steered) = self.splits.by_root.get(&root).filter(|_| !changed.is_empty()) {
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
        let told = steered.told_shares(holds);
        let share = |place: usize| told.as_ref().map_or(0, |told| told[place]);
        let arms = steered.portions.iter().enumerate().map(|(place, it)| (&it.key.service, share(place)));
        self.splits.shown.show(root, &steered.split.key, arms);
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
        let is_of_all = !self.index.is_declared_from_elsewhere(root);
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
            self.splits
                .by_root
                .values_mut()
                .filter(|it| it.next <= now)
                .for_each(|it| it.next = steered::next(&it.split, now));
            return;
        }
        let mut touched = BTreeSet::new();
        for root in self.splits.due(now) {
            let (holds, effective) = (self.holds(&root), self.effective(&root));
            let room = if holds { self.splits.room(now) } else { TOTAL };
            let Some(steered) = self.splits.by_root.get_mut(&root) else { continue };
            let law = steered.split.steer.unwrap_or_default();
            let built = &self.built;
            let before = (steered.since, steered.state.rolled_back);
            let moved = steered.step(|arm| measured(built.get(arm)?, &law, now), effective, room, now);
            let is_new = (steered.since, steered.state.rolled_back) != before;
            if holds {
                self.splits.bound.take(moved, now);
            }
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

#[cfg(test)]
mod tests;

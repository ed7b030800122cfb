//! The builder: the one owner of the index, which runs the pure stages and publishes what they give.
//!
//! In: changes, samples and the passing of time. Out: resources in the mesh-wide table, targets to scrape, a status on request.
//! Only services that a change or a sample touches are decided and translated again; [`Counts`] tells how many were.

mod asks;
pub mod calls;
mod follow;
mod pace;
pub mod splits;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use foldhash::HashMap;
use jiff::{SignedDuration, Timestamp};
use limiter::{
    engine::Phase,
    lazy::LazyKey,
    metric::{Metric, Observations},
    policy::{EnforceAt, PolicyKey, tenants::Tenants},
    problem::Problem,
};
use tracing::{info, warn};

use self::{
    pace::{Pace, Paced},
    splits::Splits,
};
use crate::{
    checkpoint::{Detail, Keeper, Kept},
    index::{Change, Index, Object, ServiceView},
    intent::{Pauses, ServiceIntent, ServiceKey},
    metrics::{
        Measure, PodSample, Wanted,
        store::{Store, Traffic},
    },
    telemetry::traces::{Decided, Tracer},
    translate::{
        self, Report, RuleKey,
        decide::{Decides, Move, Rules, States, Stepped, Told},
        split::ToldSplit,
    },
    xds::{
        resources::{self, Resource},
        table::Table,
        trail::Traced,
    },
};

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services that were translated again.
    pub builds: u64,
    /// Services whose rules were stepped.
    pub decisions: u64,
    /// Resources that differed and were published.
    pub resources: u64,
    /// What proxies had asked for and was forgotten.
    pub forgotten: u64,
}

/// One service as it was last built.
#[derive(Debug, Default)]
pub struct Built {
    /// Its rules.
    pub rules: Rules,
    /// What its proxies should do.
    pub intent: Arc<ServiceIntent>,
    /// What translation said.
    pub reports: Vec<Report>,
    /// What was published.
    pub resources: Vec<Resource>,
    /// What its rules need measured.
    wanted: Wanted,
    /// Names of its ready pods, in order.
    ready: Vec<String>,
    /// What was measured of it.
    store: Store,
    paced: Paced,
    /// Where it stands among the timers.
    timer: Option<Timestamp>,
}

/// What status may say something else of since it was last asked.
#[derive(Debug, Default)]
pub struct News {
    /// Services that were built again, or of whose rules something turned.
    pub services: BTreeSet<ServiceKey>,
    /// Policies that were applied.
    pub policies: BTreeSet<PolicyKey>,
    /// `LazyConfig`s that were applied or are gone.
    pub lazies: BTreeSet<LazyKey>,
    /// Something that shares out requests was applied or is gone, or a split was stepped.
    pub splits: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Builder {
    /// Absent where nobody asks for it.
    news: Option<News>,
    pace: Pace,
    index: Index,
    built: HashMap<ServiceKey, Built>,
    /// Services by the time at which time alone can change a decision, or earlier: what moves on with every sample is not moved here
    /// each time, but looked at when its time comes.
    timers: BTreeSet<(Timestamp, ServiceKey)>,
    table: Table,
    counts: Counts,
    pauses: Pauses,
    /// Decisions of a run before about services and rules that have not been seen yet, and when they were written.
    kept: Unseen,
    /// Who is told what is decided: the checkpoint, and other replicas.
    keepers: Vec<Keeper>,
    /// How far this replica decides by itself.
    decides: Decides,
    tracer: Option<Tracer>,
    /// Only metrics pages that a Pod's annotations name are read.
    annotated_pages: bool,
    /// The most requests of each service are kept.
    looks_at_traffic: bool,
    /// What proxies say of the calls that their applications make.
    heard: calls::Heard,
    splits: Splits,
    /// Splits of a run before that have not been seen yet.
    kept_splits: BTreeMap<ServiceKey, ToldSplit>,
}

/// Decisions about a service or rule that is not there are kept for this long: a folder may be incomplete for a while.
const KEPT_UNSEEN: SignedDuration = SignedDuration::from_hours(24);

impl Builder {
    /// A builder that publishes to `table`.
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self {
            index: Index::default(),
            built: HashMap::default(),
            timers: BTreeSet::new(),
            table,
            counts: Counts::default(),
            pauses: Pauses::default(),
            kept: BTreeMap::new(),
            keepers: Vec::new(),
            decides: Decides::All,
            tracer: None,
            news: None,
            pace: Pace::default(),
            annotated_pages: false,
            looks_at_traffic: false,
            heard: calls::Heard::default(),
            splits: Splits::default(),
            kept_splits: BTreeMap::new(),
        }
    }

    /// Of whose objects those of a namespace may do what `tenants` says. To be called before anything is applied.
    #[must_use]
    pub fn with_tenants(self, tenants: Tenants) -> Self {
        Self { index: Index::of(tenants), ..self }
    }

    /// For pods on other machines: of their metrics pages only those are read that their annotations name.
    #[must_use]
    pub fn with_annotated_pages(self) -> Self {
        Self { annotated_pages: true, ..self }
    }

    /// Collects from now on what status may say something else of; to be taken often.
    #[must_use]
    pub fn with_news(self) -> Self {
        Self { news: Some(News::default()), ..self }
    }

    /// Keeps from now on the most requests that are seen of each service.
    #[must_use]
    pub fn with_traffic(self) -> Self {
        Self { looks_at_traffic: true, ..self }
    }

    /// Traces decisions from now on.
    #[must_use]
    pub fn with_tracer(self, tracer: Tracer) -> Self {
        Self { tracer: Some(tracer), ..self }
    }

    /// Goes on from what a run before has decided, and gives `keeper` what is decided from now on.
    #[must_use]
    pub fn with_checkpoint(self, kept: Kept, keeper: Keeper) -> Self {
        if !kept.pauses.is_empty() {
            warn!(paused = ?kept.pauses, "what an operator had paused before the restart is paused still");
        }
        let mut restored = self.with_keeper(keeper);
        for (service, memory) in &kept.memories {
            restored.index.recall(service, memory);
        }
        Self { kept: kept.decisions, kept_splits: kept.splits, pauses: kept.pauses, ..restored }
    }

    /// Gives `keeper` what it wants from now on.
    #[must_use]
    pub fn with_keeper(mut self, keeper: Keeper) -> Self {
        self.keepers.push(keeper);
        self
    }

    /// To be called when everything was read once: forgets old decisions about services that are not there.
    pub fn forget_unseen(&mut self, now: Timestamp) {
        let keepers = &self.keepers;
        self.kept.retain(|service, (written, _)| {
            let recent = now.duration_since(*written) < KEPT_UNSEEN;
            if !recent {
                keepers.iter().for_each(|keeper| keeper.forget(service, now));
            }
            recent
        });
        if let Ok(end) = now.checked_sub(KEPT_UNSEEN) {
            self.index.forget_unseen_memories(end);
        }
        self.forget_unseen_splits(now);
        self.keep_memories(now);
    }

    /// Gives the keepers everything, also what was not worth a write of its own. To be called at the end.
    pub fn keep_all(&self, now: Timestamp) {
        self.keep_all_by(&self.keepers, now);
    }

    fn keep_all_by(&self, keepers: &[Keeper], now: Timestamp) {
        for (service, built) in self.built.iter().filter(|_| !keepers.is_empty()) {
            let told = with_unseen(&self.kept, service, &built.rules);
            keepers.iter().for_each(|keeper| keeper.keep(service, Arc::clone(&told), now));
        }
        self.keep_all_splits(keepers, now);
        for (service, memory) in self.index.memories().into_iter().filter(|_| !keepers.is_empty()) {
            keepers.iter().for_each(|keeper| keeper.remember(&service, memory.clone(), now));
        }
    }

    /// Takes changes in, and builds every service that they touch, once. Returns whether the targets may differ.
    pub fn apply(&mut self, changes: Vec<Change>, now: Timestamp) -> bool {
        let mut services = BTreeSet::new();
        for change in changes {
            if self.knows_better(&change) {
                continue;
            }
            // Only what differs is news: the status that is written to an API server comes back as a change of its object.
            let applied = match &change {
                Change::Apply { key, origin, object } => Some((key.clone(), origin.clone(), refusals(object))),
                _ => None,
            };
            let lazy = match &change {
                Change::Apply { key, .. } | Change::Delete(key) => key.lazy(),
                Change::Source { .. } => None,
            };
            let scope = match &change {
                Change::Apply { key, object: Object::Scope(..), .. } => Some(key.clone()),
                _ => None,
            };
            let shares_out = match &change {
                Change::Apply { key, .. } | Change::Delete(key) => key.kind.shares_out(),
                Change::Source { .. } => false,
            };
            let dirty = self.index.apply(change);
            if let Some(key) = scope.filter(|_| self.decides != Decides::All) {
                // Should this replica come to write it, then as it is by now.
                self.index.tell_again(&ServiceKey { namespace: key.namespace, name: key.name });
            }
            if let Some(news) = self.news.as_mut().filter(|_| dirty.any) {
                news.lazies.extend(lazy);
                news.splits |= shares_out;
            }
            if let Some((key, origin, problems)) = applied.filter(|_| dirty.any) {
                if let Some(news) = &mut self.news {
                    news.policies.extend(key.policy());
                }
                for problem in problems {
                    warn!(object = %key, %origin, %problem, "an object is refused; what was accepted before stays in force");
                }
            }
            services.extend(dirty.services);
        }
        services.extend(self.index.let_go(now).services);
        services.extend(self.replan_splits(now));
        self.build(&services, now, true);
        self.keep_memories(now);
        !services.is_empty()
    }

    /// Whether that is what somebody wrote of a workload's calls, which we know ourselves: the one that decides writes them, and is shown
    /// what it has written.
    fn knows_better(&self, change: &Change) -> bool {
        let Change::Apply { key, object: Object::Scope(_, problems), .. } = change else { return false };
        let workload = ServiceKey { namespace: key.namespace.clone(), name: key.name.clone() };
        self.decides == Decides::All && problems.is_empty() && self.index.memory(&workload).next().is_some()
    }

    /// Takes samples in and decides their services again, those that were decided a moment ago in the next [`Self::tick`] that is due.
    pub fn observe(&mut self, samples: Vec<PodSample>, now: Timestamp) {
        let mut services = BTreeSet::new();
        for sample in samples {
            if matches!(sample.measure, Measure::Called { .. }) {
                self.observe_arm(&sample, now);
                continue;
            }
            // One that was under way when its service went does not bring it back; the store knows of pods.
            let Some(built) = self.built.get_mut(&sample.service) else { continue };
            let Some(service) = built.store.insert(sample, now) else { continue };
            if self.looks_at_traffic {
                built.store.look_at_traffic(now);
            }
            if self.pace.admits(&service, &mut built.paced, now) {
                services.insert(ServiceKey::clone(&service));
            }
        }
        self.build(&services, now, false);
    }

    /// Decides again whatever is due by time alone.
    pub fn tick(&mut self, now: Timestamp) {
        let mut due: BTreeSet<ServiceKey> = self.pace.due(now).cloned().collect();
        while self.timers.first().is_some_and(|(time, _)| *time <= now)
            && let Some((_, service)) = self.timers.pop_first()
        {
            let Some(built) = self.built.get_mut(&service) else { continue };
            built.timer = built.rules.next.filter(|next| *next > now);
            match built.timer {
                Some(next) => drop(self.timers.insert((next, service))),
                None => drop(due.insert(service)),
            }
        }
        for service in &due {
            if let Some(built) = self.built.get_mut(service) {
                self.pace.decided(service, &mut built.paced, now);
            }
        }
        self.build(&due, now, false);
        self.step_splits(now);
    }

    /// The clock was set back: decides again whatever waits for a time, which may be far off now.
    pub fn set_back(&mut self, now: Timestamp) {
        let waiting = self.timers.iter().map(|(_, service)| service.clone()).collect();
        self.build(&waiting, now, false);
        self.splits.set_back(now);
    }

    /// Pauses exactly these, and publishes what that changes. Rules go on being decided.
    pub fn set_pauses(&mut self, pauses: Pauses, now: Timestamp) {
        let before = std::mem::replace(&mut self.pauses, pauses);
        self.keepers.iter().for_each(|keeper| keeper.keep_pauses(&self.pauses, now));
        let differs = |service: &&ServiceKey| before.covers(service) != self.pauses.covers(service);
        let services: BTreeSet<ServiceKey> = self.built.keys().filter(differs).cloned().collect();
        // Callers and gateways let go of it, too.
        let elsewhere = services.iter().flat_map(|service| self.enforcing(service));
        let mut services: BTreeSet<ServiceKey> = elsewhere.chain(services.iter().cloned()).collect();
        services.extend(self.carry_out_splits());
        self.build(&services, now, true);
    }

    /// Other services whose proxies enforce what is decided about `service`.
    fn enforcing(&self, service: &ServiceKey) -> BTreeSet<ServiceKey> {
        let places = [EnforceAt::Client, EnforceAt::Gateway].into_iter();
        places.flat_map(|place| self.index.enforcing(service, place)).collect()
    }

    /// What is paused.
    #[must_use]
    pub fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    /// When `tick` is due.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(time, _)| *time);
        timer.into_iter().chain(self.pace.next()).chain(self.splits.next()).min()
    }

    /// Decides services, all of them first, since callers carry out what is decided about others; then translates and publishes
    /// those that `changed`, those whose numbers moved, and the callers and gateways that enforce such a number.
    fn build(&mut self, services: &BTreeSet<ServiceKey>, now: Timestamp, changed: bool) {
        let mut different = BTreeMap::new();
        for key in services {
            let Moved { numbers, traced } = self.decide(key, now, changed);
            if numbers {
                for other in self.enforcing(key) {
                    different.entry(other).or_insert(None);
                }
            }
            if numbers || changed {
                different.insert(key.clone(), traced);
            }
        }
        for (key, traced) in different {
            self.publish(&key, traced);
        }
    }

    /// Decides one service, which and whose policies are as they were unless they have `changed`.
    fn decide(&mut self, key: &ServiceKey, now: Timestamp, changed: bool) -> Moved {
        let gone = changed && self.plan(key, now);
        let Some(built) = self.built.get_mut(key) else { return Moved::default() };
        let began = self.tracer.as_ref().map(|_| SystemTime::now());
        let (store, ready) = (&built.store, &built.ready);
        let observe = |metrics: &[(Metric, Metric)], seen: &mut Observations| store.observe(ready, metrics, seen, now);
        let Stepped { numbers, turned, news, moves } =
            built.rules.step(observe, self.decides, !self.keepers.is_empty(), now);
        self.counts.decisions += 1;
        moves.iter().for_each(|moved| log_transition(key, moved, &built.rules));
        self.keepers.retain(|keeper| !keeper.is_closed());
        let mut told = None;
        for keeper in &self.keepers {
            let is_news = match keeper.detail() {
                None => continue,
                Some(Detail::Restart) => news || gone,
                Some(Detail::Numbers) => news || gone || numbers || turned,
            };
            if is_news {
                let told = told.get_or_insert_with(|| with_unseen(&self.kept, key, &built.rules));
                keeper.keep(key, Arc::clone(told), now);
            }
        }
        let numbers = numbers || gone;
        if let Some(news) = self.news.as_mut().filter(|_| changed || numbers || turned) {
            news.services.insert(key.clone());
        }
        let tracing = self.tracer.as_ref().filter(|_| numbers).zip(began);
        let traced = tracing.and_then(|(tracer, began)| tracer.decided(key, began, &moves, &built.rules));
        if let Some(next) = built.rules.next.filter(|next| built.timer.is_none_or(|timer| *next < timer)) {
            forget_timer(&mut self.timers, key, built.timer.replace(next));
            self.timers.insert((next, key.clone()));
        }
        Moved { numbers, traced }
    }

    /// Takes up a service as it is now, and what its policies are. Returns whether a rule is gone.
    fn plan(&mut self, key: &ServiceKey, now: Timestamp) -> bool {
        let Some(view) = self.index.service(key) else {
            self.forget(key, now);
            self.index.forget_asks_of(key, |_| false);
            return false;
        };
        let built = self.built.entry(key.clone()).or_default();
        built.ready = view.ready_pods().map(str::to_owned).collect();
        let mut calling = view.endpoints.iter().filter(|(_, endpoint)| endpoint.outbound.is_some());
        let forgets = calling.any(|(pod, _)| self.index.lazy(key, pod).is_some());
        let of_arm = splits::words(&self.index, key);
        built.wanted = wanted::of(&view, self.annotated_pages, self.heard.wants_all || forgets, &of_arm);
        let pods: Vec<String> = view.endpoints.keys().map(|pod| (*pod).to_owned()).collect();
        let gone = built.rules.plan(&view, resumed(&mut self.kept, &view, now));
        self.index.forget_asks_of(key, |pod| pods.iter().any(|there| there == pod));
        self.heard.keep(key, &pods);
        built.store.set_pods(pods);
        gone
    }

    /// Forgets a service that is not there any more.
    fn forget(&mut self, key: &ServiceKey, now: Timestamp) {
        self.heard.keep(key, &[]);
        if let Some(built) = self.built.remove(key) {
            self.kept.remove(key);
            forget_timer(&mut self.timers, key, built.timer);
            self.pace.forget(key, built.paced);
            self.table.remove(key);
            self.keepers.iter().for_each(|keeper| keeper.forget(key, now));
        }
        if let Some(news) = &mut self.news {
            news.services.insert(key.clone());
        }
    }

    /// Translates one service and publishes what is different.
    fn publish(&mut self, key: &ServiceKey, traced: Option<Arc<Decided>>) {
        let Some(view) = self.index.service(key) else { return };
        let mut built = self.built.remove(key).unwrap_or_default();
        let (mut intent, mut reports) = translate::translate(&view, &built.rules);
        let decided = |service: &ServiceKey| match service == key {
            _ if self.pauses.covers(service) => None,
            true => Some(&built.rules),
            false => self.built.get(service).map(|built| &built.rules),
        };
        reports.extend(translate::outbound(&view, &self.index, &decided, &mut intent));
        let paused = self.pauses.covers(key);
        intent.pods.values_mut().for_each(|pod| pod.paused = paused);
        self.counts.builds += 1;
        if let Some(news) = &mut self.news {
            news.services.insert(key.clone());
        }
        if intent != *built.intent || built.resources.is_empty() {
            built.resources = resources::rebuild(key, &built.intent, std::mem::take(&mut built.resources), &intent);
            let translated = traced.as_ref().map(|_| SystemTime::now());
            let follows = traced.clone().map(|traced| traced as Arc<dyn Traced>);
            let published = self.table.replace_traced(key, built.resources.clone(), follows);
            if let Some((traced, translated)) = traced.zip(translated) {
                traced.published(translated, published.resources, published.nodes);
            }
            self.counts.resources += published.resources as u64;
            built.intent = Arc::new(intent);
            self.table.intend(key, built.intent.clone());
        }
        built.reports = reports;
        self.built.insert(key.clone(), built);
    }

    /// What the rules need measured.
    #[must_use]
    pub fn wanted(&self) -> Arc<Wanted> {
        let mut built: Vec<_> = self.built.iter().collect();
        built.sort_unstable_by_key(|(service, _)| *service);
        let all = wanted::all(built.into_iter().map(|(_, built)| &built.wanted));
        Arc::new(match self.decides {
            Decides::All => all,
            // The rest is measured by the one that decides.
            Decides::Unmeasured => Wanted { streamed: all.streamed, called: all.called, ..Wanted::default() },
        })
    }

    /// What status may say something else of since this was last asked.
    #[must_use]
    pub fn take_news(&mut self) -> News {
        self.news.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The index, for status.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The most requests that were seen of a service, if it is kept and they are measured.
    #[must_use]
    pub fn traffic(&self, service: &ServiceKey) -> Option<&Traffic> {
        self.built.get(service)?.store.traffic()
    }

    /// A service as it was last built.
    #[must_use]
    pub fn built(&self, key: &ServiceKey) -> Option<&Built> {
        self.built.get(key)
    }

    /// Where everything is published.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What was done since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { forgotten: self.index.forgotten(), ..self.counts }
    }
}

/// What deciding a service gave.
#[derive(Default)]
struct Moved {
    /// A number is another one.
    numbers: bool,
    /// Follows such a number to the proxies.
    traced: Option<Arc<Decided>>,
}

fn forget_timer(timers: &mut BTreeSet<(Timestamp, ServiceKey)>, key: &ServiceKey, timer: Option<Timestamp>) {
    if let Some(time) = timer {
        timers.remove(&(time, key.clone()));
    }
}

/// What a run before knew of a service's rules, by service, and when it was written.
type Unseen = BTreeMap<ServiceKey, (Timestamp, States)>;

/// What a run before knew of the rules that are there now, as they go on. Those whose policy has not come yet stay.
fn resumed(kept: &mut Unseen, view: &ServiceView<'_>, now: Timestamp) -> States {
    let Some((written, states)) = kept.remove(view.key) else { return States::new() };
    let is_there = |key: &RuleKey| {
        let mut policies = view.policies.iter().filter(|policy| policy.key == key.policy);
        policies.any(|policy| policy.rules.iter().any(|rule| rule.name == key.rule))
    };
    let (there, unseen): (States, States) = states.into_iter().partition(|(key, _)| is_there(key));
    if !unseen.is_empty() && now.duration_since(written) < KEPT_UNSEEN {
        kept.insert(view.key.clone(), (written, unseen));
    }
    there.into_iter().map(|(key, state)| (key, state.resume(now))).collect()
}

/// What is to be written of a service: a record is written whole.
fn with_unseen(kept: &Unseen, key: &ServiceKey, rules: &Rules) -> Arc<Vec<Told>> {
    let unseen = kept.get(key).into_iter().flat_map(|(_, unseen)| unseen);
    let unseen = unseen.map(|(RuleKey { policy, rule, .. }, state)| Told {
        policy: policy.clone(),
        rule: rule.clone(),
        state: state.clone(),
        decision: None,
    });
    Arc::new(unseen.chain(rules.told()).collect())
}

/// What is wrong with an object.
fn refusals(object: &Object) -> Vec<Problem> {
    match object {
        Object::Policy { problems, .. }
        | Object::Lazy { problems, .. }
        | Object::Gateway(_, problems)
        | Object::Scope(_, problems)
        | Object::Undecodable(problems) => problems.clone(),
        _ => Vec::new(),
    }
}

/// A rule that begins or ends to limit is worth a line; a number that moves is not.
fn log_transition(service: &ServiceKey, Move { policy, rule, from, .. }: &Move, rules: &Rules) {
    let Some(ruling) = rules.get(policy, rule) else { return };
    let to = ruling.decision.phase;
    let limits = |phase| matches!(phase, Phase::Limiting | Phase::Releasing);
    if *from != to && (limits(*from) || limits(to)) {
        info!(%service, %policy, %rule, ?from, ?to, why = %ruling.explain(), "a rule moved");
    }
}

#[cfg(test)]
mod tests;

//! The events of a run, in order of time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Guard, Row, Scenario,
    measures::{self, Counts},
    queue::{Enforced, Pod, Stage},
    random::Random,
    value_at, working,
};
use crate::{
    engine::{self, Decision, RuleState},
    metric::{Metric, Observations, Reduce, Sample, Word},
    policy::{Action, Rule, Scope, default_burst},
};

/// Requests of a lower class that may pass at once.
const LOWER_BURST: f64 = 5.0;

/// Nanoseconds from the start; whole numbers, so that events have one order.
type Time = u64;

struct Request {
    came: Time,
    pod: usize,
    class: usize,
    stage: Stage,
}

pub(super) struct World<'a> {
    scenario: &'a Scenario,
    random: Random,
    now: Time,
    pods: Vec<Pod>,
    /// Workers that work, at each pod.
    workers: u32,
    enforced: Enforced,
    requests: Vec<Request>,
    /// Ends of services by time.
    ends: BinaryHeap<Reverse<(Time, usize)>>,
    /// When clients give up: in order, because all wait equally long.
    timeouts: VecDeque<(Time, usize)>,
    counts: Vec<Counts>,
    counted_from: Time,
    reports: VecDeque<(Time, Vec<(Metric, Sample)>)>,
    observations: Observations,
    state: RuleState,
    rows: Vec<Row>,
}

fn nanoseconds(duration: Duration) -> Time {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn seconds(time: Time) -> f64 {
    time as f64 / 1e9
}

/// The model's time as the engine's. The start is arbitrary.
fn timestamp(time: Time) -> Timestamp {
    Timestamp::UNIX_EPOCH.checked_add(Duration::from_nanos(time)).unwrap_or(Timestamp::MAX)
}

impl<'a> World<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Self {
        let classes = match &scenario.guard {
            Guard::Rule(rule, _) if !rule.classes.is_empty() => rule.classes.len() + 1,
            _ => 0,
        };
        let pods = scenario.service.pods.max(1);
        let enforced = match &scenario.guard {
            Guard::Fixed { limit, bound } => {
                // A tenth of a second, at least five requests: the default burst.
                let burst = limit.map_or(0.0, |limit| (5.0 / limit).max(0.1));
                Enforced { limit: *limit, burst, bounds: [*bound; 2], ..Enforced::default() }
            }
            Guard::Rule(..) => Enforced::default(),
        };
        Self {
            scenario,
            random: Random::new(scenario.seed),
            now: 0,
            pods: (0..pods).map(|_| Pod::new(classes)).collect(),
            workers: scenario.service.workers,
            enforced,
            requests: Vec::new(),
            ends: BinaryHeap::new(),
            timeouts: VecDeque::new(),
            counts: vec![Counts::new(classes); pods as usize],
            counted_from: 0,
            reports: VecDeque::new(),
            observations: Observations { pods, ..Observations::default() },
            state: RuleState::default(),
            rows: Vec::new(),
        }
    }

    pub(super) fn play(mut self) -> Vec<Row> {
        self.decide();
        let end = nanoseconds(self.scenario.length);
        let every = nanoseconds(self.scenario.observe_every).max(1);
        let mut arrival = self.next_arrival();
        let mut tick = every;
        while self.now < end {
            let report = self.reports.front().map(|(at, _)| *at);
            let service = self.ends.peek().map(|Reverse((at, _))| *at);
            let timeout = self.timeouts.front().map(|(at, _)| *at);
            let next = [Some(tick), report, service, timeout, arrival].into_iter().flatten().min().unwrap_or(end);
            self.advance(next);
            if next == tick {
                self.observe();
                tick += every;
            } else if report == Some(next) {
                self.receive();
            } else if service == Some(next) {
                self.finish();
            } else if timeout == Some(next) {
                self.give_up();
            } else {
                self.arrive();
                arrival = self.next_arrival();
            }
        }
        self.rows
    }

    /// Lets time pass, in which workers work.
    fn advance(&mut self, to: Time) {
        let passed = seconds(to - self.now);
        for (pod, counts) in self.pods.iter().zip(&mut self.counts) {
            counts.busy += f64::from(pod.busy) * passed;
        }
        self.now = to;
        let part = value_at(&self.scenario.working, Duration::from_nanos(to)).unwrap_or(1.0);
        let workers = working(self.scenario.service.workers, part);
        if workers != self.workers {
            self.workers = workers;
            (0..self.pods.len()).for_each(|pod| self.begin(pod));
        }
    }

    /// The next request after now, by the load of its own time.
    fn next_arrival(&mut self) -> Option<Time> {
        let mut from = self.now;
        loop {
            let rate = value_at(&self.scenario.offered, Duration::from_nanos(from)).unwrap_or(0.0);
            let change = self.scenario.offered.iter().map(|(at, _)| nanoseconds(*at)).find(|at| *at > from);
            let at = (rate > 0.0)
                .then(|| from.saturating_add((self.random.exponential(rate) * 1e9) as u64).max(self.now + 1));
            match (at, change) {
                // Memoryless: what has not come by the change is drawn anew from there.
                (Some(at), Some(change)) if at >= change => from = change,
                (None, Some(change)) => from = change,
                (at, _) => return at,
            }
        }
    }

    fn arrive(&mut self) {
        let pod = self.random.below(self.pods.len());
        let class = self.class();
        let high = is_high(&self.counts[pod], class);
        let counts = &mut self.counts[pod];
        counts.offered += 1;
        if let Some(class) = counts.classes.get_mut(class) {
            class.0 += 1;
        }
        if !self.pods[pod].admits(&self.enforced, class, high, seconds(self.now)) {
            counts.refused += 1;
            return;
        }
        let request = self.requests.len();
        self.requests.push(Request { came: self.now, pod, class, stage: Stage::Waiting });
        self.timeouts.push_back((self.now + nanoseconds(self.scenario.timeout), request));
        self.pods[pod].queue.push_back(request);
        self.begin(pod);
    }

    fn class(&mut self) -> usize {
        if self.scenario.classes.is_empty() {
            return 0;
        }
        let mut place = self.random.unit();
        for (class, part) in self.scenario.classes.iter().enumerate() {
            if place <= *part {
                return class;
            }
            place -= part;
        }
        self.scenario.classes.len()
    }

    /// Gives work to idle workers of a pod.
    fn begin(&mut self, pod: usize) {
        let service = &self.scenario.service;
        while self.pods[pod].busy < self.workers {
            let Some(request) = self.pods[pod].queue.pop_front() else { return };
            match self.requests[request].stage {
                Stage::Abandoned if !service.works_on_abandoned => continue,
                Stage::Abandoned => self.requests[request].stage = Stage::AbandonedInService,
                _ => self.requests[request].stage = Stage::InService,
            }
            self.pods[pod].busy += 1;
            let time = self.random.lognormal(service.mean.as_secs_f64(), service.variation);
            self.ends.push(Reverse((self.now + (time * 1e9) as u64, request)));
        }
    }

    fn finish(&mut self) {
        let Some(Reverse((_, id))) = self.ends.pop() else { return };
        let request = &mut self.requests[id];
        let (pod, class, came, stage) = (request.pod, request.class, request.came, request.stage);
        request.stage = Stage::Done;
        self.pods[pod].busy -= 1;
        if stage == Stage::InService {
            let latency = seconds(self.now - came);
            let counts = &mut self.counts[pod];
            let high = is_high(counts, class);
            let good = u32::from(latency <= self.scenario.wanted_within.as_secs_f64());
            counts.completed += 1;
            counts.good += good;
            counts.latencies.push(latency);
            if let Some(class) = counts.classes.get_mut(class) {
                class.1 += good;
            }
            self.pods[pod].ended(high);
        }
        self.begin(pod);
    }

    fn give_up(&mut self) {
        let Some((_, id)) = self.timeouts.pop_front() else { return };
        let request = &mut self.requests[id];
        request.stage = match request.stage {
            Stage::Waiting => Stage::Abandoned,
            Stage::InService => Stage::AbandonedInService,
            _ => return,
        };
        let counts = &mut self.counts[request.pod];
        counts.timed_out += 1;
        let high = is_high(counts, request.class);
        self.pods[request.pod].ended(high);
    }

    /// Ends an interval: one row, and one report on its way.
    fn observe(&mut self) {
        let passed = seconds(self.now - self.counted_from);
        let classes = self.counts[0].classes.len();
        let mut all = Counts::new(classes);
        self.counts.iter().for_each(|counts| all.add(counts));
        let pods = self.pods.len() as f64;
        let cpu = all.busy / (passed * f64::from(self.workers.max(1)) * pods);
        // The capacity that the interval began with.
        let capacity = self.scenario.capacity(Duration::from_nanos(self.counted_from));
        let mut row = measures::row(&mut all, passed);
        row = Row {
            t: seconds(self.now),
            capacity,
            cpu,
            limit: self.enforced.limit.map(|limit| limit * pods),
            bound: self.enforced.bounds[1].map(|bound| bound * pods as u32),
            ..row
        };
        self.rows.push(row);
        if let Guard::Rule(rule, _) = &self.scenario.guard {
            let samples = rule.metrics().into_iter().filter_map(|metric| {
                let value = self.measure(rule, &metric, &mut all, passed)?;
                let fresh_for_ms = 3 * self.scenario.observe_every.as_millis() as u64;
                let sample = Sample { value, at: timestamp(self.now), fresh_for_ms, source: "simulation".into() };
                Some((metric, sample))
            });
            let samples: Vec<_> = samples.collect();
            self.reports.push_back((self.now + nanoseconds(self.scenario.delay).max(1), samples));
        }
        self.counts.fill(Counts::new(classes));
        self.counted_from = self.now;
    }

    /// What `metric` was in the interval that ends; `None` when the model does not know or nothing measures it.
    fn measure(&self, rule: &Rule, metric: &Metric, all: &mut Counts, passed: f64) -> Option<f64> {
        if self.scenario.unmeasured.contains(&metric.word) {
            return None;
        }
        if let Word::Latency(percentile) = metric.word {
            return all.quantile(f64::from(percentile) / 100.0);
        }
        let workers = f64::from(self.workers.max(1));
        let of_pod = |(counts, pod): (&Counts, &Pod)| {
            Some(match &metric.word {
                Word::Cpu => counts.busy / (passed * workers),
                Word::Requests => f64::from(counts.offered) / passed,
                Word::Answers => f64::from(counts.completed) / passed,
                Word::Refused => f64::from(counts.refused) / passed,
                Word::ErrorsPerSecond => f64::from(counts.timed_out) / passed,
                Word::Errors => f64::from(counts.timed_out) / f64::from((counts.completed + counts.timed_out).max(1)),
                Word::Inflight => f64::from(pod.inflight()),
                Word::Demand(name) => {
                    let class = rule.classes.iter().position(|class| name.ends_with(&format!("/{}", class.name)))?;
                    f64::from(counts.classes.get(class)?.0) / passed
                }
                Word::Memory | Word::Pods | Word::Latency(_) | Word::Excess(_) | Word::Named(_) => return None,
            })
        };
        let values: Vec<f64> = self.counts.iter().zip(&self.pods).map(of_pod).collect::<Option<_>>()?;
        let sum: f64 = values.iter().sum();
        Some(match metric.reduce {
            Reduce::Sum => sum,
            Reduce::Mean => sum / values.len() as f64,
            Reduce::Max => values.into_iter().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    fn receive(&mut self) {
        if let Some((_, samples)) = self.reports.pop_front() {
            self.observations.samples.extend(samples);
            self.decide();
        }
    }

    fn decide(&mut self) {
        let Guard::Rule(rule, on_missing) = &self.scenario.guard else { return };
        let now = timestamp(self.now);
        let (state, decision) =
            engine::step(rule, on_missing, std::mem::take(&mut self.state), &self.observations, now);
        self.state = state;
        self.enforced = enforced(rule, &decision, self.pods.len() as f64);
    }
}

/// Whether a request counts against the bound of the first class.
fn is_high(counts: &Counts, class: usize) -> bool {
    class == 0 && !counts.classes.is_empty()
}

/// What each pod's proxy enforces of a decision.
fn enforced(rule: &Rule, decision: &Decision, pods: f64) -> Enforced {
    let share = match rule.action.scope() {
        Scope::PerPod => 1.0,
        Scope::AcrossAllPods => pods,
    };
    let lowest = decision.lowest.or(decision.limit);
    let burst = lowest.map_or(0.0, |lowest| {
        let requests = rule.burst.unwrap_or_else(|| default_burst(lowest));
        f64::from(requests) / lowest.per_second()
    });
    let bound = decision.bound.map(|bound| (f64::from(bound) / share).ceil());
    // The lower classes may fill as much of the queue as they have of the limit.
    let below = match (decision.limit, decision.classes.get(1)) {
        (Some(limit), Some(below)) => below.per_second() / limit.per_second(),
        _ => 1.0,
    };
    Enforced {
        limit: decision.limit.map(|limit| limit.per_second() / share),
        burst,
        lower_burst: lowest.map_or(0.0, |lowest| (LOWER_BURST / lowest.per_second()).min(burst)),
        classes: decision.classes.iter().map(|limit| limit.per_second() / share).collect(),
        first_apart: matches!(rule.action, Action::Adapt(_)),
        bounds: [bound.map(|bound| (bound * below).ceil().max(1.0) as u32), bound.map(|bound| bound as u32)],
    }
}

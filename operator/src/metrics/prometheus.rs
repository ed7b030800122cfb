//! Prometheus: asks the queries of objects and those of the language's own words, each text once an interval however many share it.
//!
//! ```text
//! Wanted.queries -> plan (text -> askers) -> one task a text: gate -> client (I/O) -> answer -> outbox -> samples
//! ```
//!
//! One task a text, so that a query that is slow, wrong or huge costs only itself; a bound on how many are under way at once. A
//! server that cannot be reached is tried by one question at a time (`gate`). What a value's age is worth stands in
//! docs/reference/prometheus.md.

mod answer;
pub mod calls;
mod client;
mod due;
mod gate;
mod meters;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use limiter::promql::{self, Template};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use self::{
    answer::MAX_SERIES,
    client::{ConfigError, MAX_ANSWER_BYTES},
    meters::Meters,
    words::{Builtin, By, builtin},
};
use self::{
    answer::{Answer, Asker, Data},
    client::Client,
    due::{Dropped, Due},
    gate::Gate,
};
use super::{
    HealthBoard, PodSample, Provider, Query, Source, Wanted,
    backoff::{backoff, spread},
    outbox::Outbox,
};

/// Questions that may be under way at once.
pub const CONCURRENCY: usize = 16;
/// Longest pause before a query that failed is asked again.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How to ask.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server, or what `/api/v1/query` stands below; may hold user and password.
    pub url: String,
    /// Time between two questions of one query.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How old a sample may be that stands for now.
    pub lookback: Duration,
    /// File with a bearer token.
    pub token_file: Option<PathBuf>,
    /// Sent with every question.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Asks Prometheus.
#[derive(Clone)]
pub struct Prometheus {
    client: Client,
    config: Config,
    meters: Meters,
}

impl Prometheus {
    /// A provider that asks the server of `config`.
    ///
    /// # Errors
    ///
    /// When its URL is none.
    pub fn new(config: Config, meters: Meters) -> Result<Self, ConfigError> {
        Ok(Self { client: Client::new(&config)?, config, meters })
    }
}

impl Provider for Prometheus {
    fn source(&self) -> Source {
        Source::Prometheus
    }

    fn spawn(
        self,
        wanted: watch::Receiver<Arc<Wanted>>,
        samples: mpsc::Sender<Vec<PodSample>>,
        health: HealthBoard,
        shutdown: CancellationToken,
    ) -> JoinHandle<()> {
        health.set_prometheus();
        let Self { client, config, meters } = self;
        let shared = Shared {
            client,
            config,
            meters,
            health,
            gate: Mutex::default(),
            reopened: Notify::new(),
            permits: Semaphore::new(CONCURRENCY),
            outbox: Outbox::default(),
        };
        tokio::spawn(supervise(Arc::new(shared), wanted, samples, shutdown))
    }
}

/// What the tasks of all texts share.
struct Shared {
    client: Client,
    config: Config,
    meters: Meters,
    health: HealthBoard,
    gate: Mutex<Gate>,
    reopened: Notify,
    permits: Semaphore,
    outbox: Outbox,
}

/// A text that is asked. Its task ends when this is dropped, after the question that is under way.
struct Running {
    askers: watch::Sender<Arc<Vec<Asker>>>,
    due: Arc<Mutex<Due>>,
}

async fn supervise(
    shared: Arc<Shared>,
    mut wanted: watch::Receiver<Arc<Wanted>>,
    samples: mpsc::Sender<Vec<PodSample>>,
    shutdown: CancellationToken,
) {
    let mut running: BTreeMap<Arc<str>, Running> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    wanted.mark_changed();
    let draining = shared.outbox.drain(&samples);
    tokio::pin!(draining);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = &mut draining => return,
            Some(_) = tasks.join_next() => {}
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let now_wanted = Arc::clone(&wanted.borrow_and_update());
                reconcile(&shared, &mut running, &mut tasks, plan(&now_wanted.queries, shared.config.lookback));
            }
        }
    }
}

/// Each text once, with those who share it.
fn plan(queries: &[Query], lookback: Duration) -> BTreeMap<Arc<str>, Vec<Asker>> {
    let mut plan: BTreeMap<Arc<str>, Vec<Asker>> = BTreeMap::new();
    for Query { service, word, promql, pods, amounts } in queries {
        let (text, by) = match promql {
            Some(promql) => (promql.clone(), None),
            None => match builtin(word, !amounts.is_empty()) {
                Some(Builtin { promql, by }) => (promql, Some(by)),
                None => continue,
            },
        };
        // An object whose query has a mistake was not accepted.
        let Ok(template) = Template::parse(&text) else { continue };
        let mut text = template.render(&service.namespace, &service.name, pods);
        if promql::is_selector(&text) {
            let seconds = lookback.as_secs_f64();
            text = format!("{text} and timestamp({text}) > time() - {seconds}");
        }
        let (service, word, pods, amounts) = (service.clone().into(), word.clone(), pods.clone(), amounts.clone());
        let asker = Asker { service, word, pods, amounts, by };
        plan.entry(text.into()).or_default().push(asker);
    }
    plan
}

/// Starts tasks for new texts, lets those end that nobody asks, and tells the others who asks now.
fn reconcile(
    shared: &Arc<Shared>,
    running: &mut BTreeMap<Arc<str>, Running>,
    tasks: &mut JoinSet<()>,
    mut plan: BTreeMap<Arc<str>, Vec<Asker>>,
) {
    let asked: BTreeSet<_> = plan.values().flatten().map(|asker| (asker.service.clone(), asker.word.clone())).collect();
    let (mut left, mut dropped) = (Vec::new(), Dropped::default());
    running.retain(|text, task| {
        let before = Arc::clone(&task.askers.borrow());
        let Some(askers) = plan.remove(text) else {
            dropped.note(&before, *task.due.lock());
            return false;
        };
        if *before != askers {
            left.extend(before.iter().map(|asker| (asker.service.clone(), asker.word.clone())));
            task.askers.send_replace(Arc::new(askers));
        }
        true
    });
    for (service, word) in left.iter().chain(dropped.purposes()).filter(|one| !asked.contains(one)) {
        shared.health.turn_query(service, word, None);
    }
    for (text, askers) in plan {
        let (now, interval) = (Instant::now(), shared.config.interval);
        let fresh = || Due { at: now + interval.mul_f64(spread(&text, 0)), failures: 0 };
        let due = Arc::new(Mutex::new(dropped.heir(&askers, now + interval).unwrap_or_else(fresh)));
        let (askers_tx, askers_rx) = watch::channel(Arc::new(askers));
        tasks.spawn(ask(Arc::clone(shared), Arc::clone(&text), askers_rx, Arc::clone(&due)));
        running.insert(text, Running { askers: askers_tx, due });
    }
}

/// Asks one text for as long as it is wanted. What is under way when it no longer is still counts: the text that takes its place
/// is not asked before the next time.
async fn ask(shared: Arc<Shared>, text: Arc<str>, askers: watch::Receiver<Arc<Vec<Asker>>>, due: Arc<Mutex<Due>>) {
    let Config { interval, timeout, .. } = shared.config;
    let mut dropped = askers.clone();
    let dropped = async move { while dropped.changed().await.is_ok() {} };
    tokio::pin!(dropped);
    loop {
        let Due { at, failures } = *due.lock();
        tokio::select! {
            () = &mut dropped => return,
            () = tokio::time::sleep_until(at) => {}
        }
        let tick = Instant::now();
        let admitted = shared.gate.lock().pass(tick, timeout);
        if let Err((until, why)) = admitted {
            shared.report(&text, &askers, Some(&why));
            let next = tokio::select! {
                () = &mut dropped => return,
                () = tokio::time::sleep_until(until) => Instant::now(),
                // Everyone is woken at once, and spreads again.
                () = shared.reopened.notified() => Instant::now() + interval.mul_f64(spread(&text, 0)),
            };
            due.lock().at = next;
            continue;
        }
        due.lock().at = tick + interval;
        let (asked, given) = {
            let _permit = shared.permits.acquire().await.expect("the semaphore is never closed");
            (Instant::now(), shared.client.ask(&text).await)
        };
        let mut body = None;
        let outcome = match given {
            Ok(given) => body.insert(given).read(),
            Err(error) => Err(error),
        };
        let ended = match &outcome {
            Ok(Data::Vector(series)) if series.is_empty() => "empty",
            Ok(_) => "ok",
            Err(client::Error::Deadline(_)) => "timeout",
            Err(client::Error::Refused(_) | client::Error::Text) => "refused",
            Err(client::Error::TooLarge) => "too_large",
            Err(_) => "unreachable",
        };
        shared.meters.count(ended, asked.elapsed().as_secs_f64());
        let jitter = spread(&text, failures + 1);
        // What is wrong, and how long the pause may get.
        let wrong = match outcome {
            Ok(data) => {
                shared.reopen();
                // A value counts until the third question after it, and questions wait for each other.
                let fresh_for = (interval + tick.elapsed()) * 3;
                let fresh_for_ms = u64::try_from(fresh_for.as_millis()).unwrap_or(u64::MAX);
                match Answer::new(data, fresh_for_ms, Timestamp::now()) {
                    Ok(answer) => {
                        shared.take(&text, &askers, &answer);
                        None
                    }
                    Err(wrong) => Some((wrong, MAX_PAUSE)),
                }
            }
            Err(error) if error.concerns_all() => {
                let why = error.to_string();
                if shared.gate.lock().failed(Instant::now(), interval, jitter, why.clone()) {
                    tracing::warn!(%error, "Prometheus gives no answers; what is in force holds");
                }
                shared.report(&text, &askers, Some(&why));
                due.lock().at = Instant::now();
                continue;
            }
            // Slow or hung: who can tell. It may be back at any moment.
            Err(error @ client::Error::Deadline(_)) => Some((error.to_string(), gate::MAX_PAUSE)),
            Err(error) => {
                shared.reopen();
                Some((error.to_string(), MAX_PAUSE))
            }
        };
        let (failures, pause) = match wrong {
            None => (0, interval),
            Some((trouble, most)) => {
                shared.report(&text, &askers, Some(&trouble));
                let failures = failures.saturating_add(1);
                (failures, backoff(interval, failures, most.max(interval), jitter))
            }
        };
        *due.lock() = Due { at: (tick + pause).max(Instant::now()), failures };
    }
}

impl Shared {
    fn reopen(&self) {
        if self.gate.lock().reached() {
            tracing::info!("Prometheus answers again");
            self.reopened.notify_waiters();
        }
    }

    fn take(&self, text: &str, askers: &watch::Receiver<Arc<Vec<Asker>>>, answer: &Answer<'_>) {
        let wanted = is_wanted(askers);
        let askers = Arc::clone(&askers.borrow());
        let mut samples = Vec::with_capacity(askers.len());
        for asker in askers.iter() {
            let trouble = answer.read(asker, &mut samples);
            if wanted {
                self.report_one(text, asker, trouble.as_deref());
            }
        }
        if !samples.is_empty() {
            self.outbox.put(samples);
        }
    }

    /// Keeps what is wrong for each asker, and logs when it turns, not at every question.
    fn report(&self, text: &str, askers: &watch::Receiver<Arc<Vec<Asker>>>, trouble: Option<&str>) {
        if is_wanted(askers) {
            askers.borrow().iter().for_each(|asker| self.report_one(text, asker, trouble));
        }
    }

    fn report_one(&self, text: &str, Asker { service, word, by, .. }: &Asker, trouble: Option<&str>) {
        let turned = self.health.turn_query(service, word, trouble);
        match (trouble, by) {
            _ if !turned => {}
            (None, _) => tracing::info!(%service, %word, "Prometheus gives a value again"),
            // Not every mesh has the exporters of every word, and another source may have it.
            (Some(why), Some(_)) => tracing::debug!(%service, %word, why, text, "Prometheus gives no value"),
            (Some(why), None) => tracing::warn!(%service, %word, why, text, "Prometheus gives no value"),
        }
    }
}

/// Of a text that nobody asks any longer nothing is said: the text in its place speaks for itself.
fn is_wanted(askers: &watch::Receiver<Arc<Vec<Asker>>>) -> bool {
    askers.has_changed().is_ok()
}

#[cfg(test)]
mod tests;

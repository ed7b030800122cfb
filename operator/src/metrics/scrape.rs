//! Direct scraping: reads each target's own metrics page, every 250 ms unless told otherwise.
//!
//! One task a target, so that a page that hangs, never ends or lies costs only itself; one request in flight for each.
//! Starts are spread over the interval by a hash of the target's name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use jiff::Timestamp;
use limiter::metric::Word;
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    HealthBoard, Measure, PodSample, Provider, Source, Target, TargetError, Wanted, outbox::Outbox, rates::PodRates,
};
use crate::intent::ServiceKey;

/// The name of this source in status.
pub const NAME: &str = "scrape";
/// Time between two reads of a target, unless told otherwise.
pub const DEFAULT_INTERVAL: Duration = Duration::from_millis(250);
/// Largest page that is read, in bytes.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

/// Reads targets' own metrics pages.
#[derive(Clone, Copy, Debug)]
pub struct Scraper {
    /// Time between two reads of a target.
    pub interval: Duration,
}

impl Default for Scraper {
    fn default() -> Self {
        Self { interval: DEFAULT_INTERVAL }
    }
}

/// Why a page could not be read.
#[derive(Debug, Error)]
enum Error {
    #[error("the address {url:?} is not a URL: {reason}")]
    Url { url: String, reason: String },
    #[error(
        "{url} is served over TLS, and Weir knows no authority to check it by: serve it over HTTP, or leave it to Prometheus or the \
         metrics API and set prometheus.io/scrape to \"false\""
    )]
    Tls { url: String },
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{url} did not answer in full within {} ms", deadline.as_millis())]
    Deadline { url: String, deadline: Duration },
    #[error("{url} answered {status} instead of 200")]
    Status { url: String, status: StatusCode },
    #[error("the page at {url} is larger than {} MiB", MAX_PAGE_BYTES >> 20)]
    TooLarge { url: String },
    #[error("the answer of {url} broke off: {reason}")]
    BrokenOff { url: String, reason: String },
    #[error("the page at {url} holds none of the series looked for ({series}); is it a Prometheus metrics page?")]
    NothingFound { url: String, series: String },
}

type HttpClient = Client<HttpConnector, Empty<Bytes>>;
type Key = (ServiceKey, String);

impl Provider for Scraper {
    fn source(&self) -> Source {
        Source::Scrape
    }

    fn spawn(
        self,
        wanted: watch::Receiver<Arc<Wanted>>,
        samples: mpsc::Sender<Vec<PodSample>>,
        health: HealthBoard,
        shutdown: CancellationToken,
    ) -> JoinHandle<()> {
        tokio::spawn(supervise(self.interval, wanted, samples, health, shutdown))
    }
}

async fn supervise(
    interval: Duration,
    mut wanted: watch::Receiver<Arc<Wanted>>,
    samples: mpsc::Sender<Vec<PodSample>>,
    health: HealthBoard,
    shutdown: CancellationToken,
) {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(interval * 4)
        .build(connector);
    let outbox = Arc::new(Outbox::default());
    let mut running: BTreeMap<Key, (Target, AbortOnDropHandle<()>)> = BTreeMap::new();
    wanted.mark_changed();
    let drained = outbox.drain(&samples);
    tokio::pin!(drained);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            // Until the receiver is gone.
            () = &mut drained => return,
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let now_wanted = Arc::clone(&wanted.borrow_and_update());
                reconcile(&mut running, &now_wanted.targets, |target| {
                    let reader = Reader { interval, client: client.clone(), outbox: Arc::clone(&outbox), health: health.clone() };
                    AbortOnDropHandle::new(tokio::spawn(reader.run(target)))
                }, &health, &outbox);
            }
        }
    }
}

/// Starts tasks for new or changed targets and ends those of targets that are gone.
fn reconcile(
    running: &mut BTreeMap<Key, (Target, AbortOnDropHandle<()>)>,
    wanted: &[Target],
    start: impl Fn(Target) -> AbortOnDropHandle<()>,
    health: &HealthBoard,
    outbox: &Outbox,
) {
    let wanted: BTreeMap<Key, &Target> =
        wanted.iter().map(|target| ((target.service.clone(), target.pod.clone()), target)).collect();
    running.retain(|key, (target, _)| {
        let stays = wanted.get(key).is_some_and(|wanted| *wanted == target);
        if !stays {
            health.forget(&key.0, &key.1);
            outbox.forget(&key.0, &key.1);
        }
        stays
    });
    for (key, target) in wanted {
        running.entry(key).or_insert_with(|| (target.clone(), start(target.clone())));
    }
}

/// Reads one target for as long as it is wanted.
struct Reader {
    interval: Duration,
    client: HttpClient,
    outbox: Arc<Outbox>,
    health: HealthBoard,
}

impl Reader {
    async fn run(self, target: Target) {
        let name = format!("{}/{}", target.service, target.pod);
        let spread = xxhash_rust::xxh3::xxh3_64(name.as_bytes()) % 1000;
        tokio::time::sleep(self.interval.mul_f64(spread as f64 / 1000.0)).await;
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut rates = PodRates::new(self.interval);
        let origin = Instant::now();
        let deadline = (self.interval * 3).min(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            let url = || target.url.clone();
            let read = tokio::time::timeout(deadline, self.fetch(&target.url)).await;
            let outcome = read.unwrap_or_else(|_| Err(Error::Deadline { url: url(), deadline })).and_then(|page| {
                let reading = rates.read(&target, &page.body, page.at.duration_since(origin));
                if reading.nothing_found {
                    let mut series = vec![super::rates::CPU_SERIES, super::rates::MEMORY_SERIES];
                    series.extend(target.series.iter().map(|series| series.series.as_str()));
                    return Err(Error::NothingFound { url: url(), series: series.join(", ") });
                }
                Ok((page.wall, reading))
            });
            match outcome {
                Ok((at, reading)) => {
                    self.report(&target, Ok(reading.unavailable));
                    self.put(&target, at, reading.values);
                }
                Err(error) => self.report(&target, Err(error)),
            }
        }
    }

    async fn fetch(&self, url: &str) -> Result<Page, Error> {
        let uri: Uri = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| Error::Url { url: url.to_owned(), reason: error.to_string() })?;
        if uri.scheme_str() == Some("https") {
            return Err(Error::Tls { url: url.to_owned() });
        }
        let request = Request::get(uri)
            .header(header::ACCEPT, "text/plain;version=0.0.4")
            .header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| Error::Url { url: url.to_owned(), reason: error.to_string() })?;
        let asked = Instant::now();
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| Error::Unreachable { url: url.to_owned(), reason: chain(&error) })?;
        // The page was true somewhere between question and answer.
        let half = asked.elapsed() / 2;
        let (at, wall) = (asked + half, Timestamp::now() - half);
        if response.status() != StatusCode::OK {
            return Err(Error::Status { url: url.to_owned(), status: response.status() });
        }
        let body = Limited::new(response.into_body(), MAX_PAGE_BYTES).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Error::TooLarge { url: url.to_owned() }
            } else {
                Error::BrokenOff { url: url.to_owned(), reason: chain(error.as_ref()) }
            }
        })?;
        Ok(Page { body: body.to_bytes(), at, wall })
    }

    fn put(&self, target: &Target, at: Timestamp, values: Vec<(Word, f64)>) {
        if values.is_empty() {
            return;
        }
        let fresh_for_ms = u64::try_from((self.interval * 3).as_millis()).unwrap_or(u64::MAX);
        let service = Arc::new(target.service.clone());
        self.outbox.put(values.into_iter().map(|(word, value)| PodSample {
            service: Arc::clone(&service),
            pod: Some(target.pod.clone()),
            measure: Measure::Number(word, value),
            at,
            fresh_for_ms,
            source: Source::Scrape,
        }));
    }

    /// Keeps the target's health and logs when it turns, not at every read.
    fn report(&self, target: &Target, outcome: Result<BTreeMap<Word, String>, Error>) {
        let now = Timestamp::now();
        let service = &target.service;
        self.health.update(service, &target.pod, |health| match outcome {
            Ok(unavailable) => {
                if health.last_error.take().is_some() {
                    tracing::info!(%service, pod = target.pod, "metrics can be read again");
                }
                if health.unavailable != unavailable {
                    // Whether any rule needs the word is not known here; where one does, its status says so.
                    for (word, reason) in &unavailable {
                        tracing::debug!(%service, pod = target.pod, %word, reason, "metric is unavailable");
                    }
                    health.unavailable = unavailable;
                }
                health.last_success = Some(now);
            }
            Err(error) => {
                let message = error.to_string();
                match &mut health.last_error {
                    Some(last) => last.message = message,
                    none => {
                        tracing::warn!(%service, pod = target.pod, %error, "metrics cannot be read");
                        *none = Some(TargetError { message, since: now });
                    }
                }
            }
        });
    }
}

struct Page {
    body: Bytes,
    at: Instant,
    wall: Timestamp,
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;

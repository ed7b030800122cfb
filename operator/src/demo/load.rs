//! An open-loop load generator over HTTP/1.1 with kept-alive connections.
//!
//! Requests are due at moments fixed beforehand, whatever the answers do; latency counts from those moments, so a slow
//! server cannot hide its queue by slowing the client. Counts are kept for each target and second of arrival.

mod counts;
mod schedule;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use self::{
    counts::{Report, Second, Summary, TargetReport},
    schedule::{Arrivals, Phase},
};

/// What to send where, and when.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each gets every phase's rate.
    pub targets: Vec<Target>,
    /// One after the other.
    pub phases: Vec<Phase>,
    /// How requests are spread over a phase.
    pub arrivals: Arrivals,
    /// A request without a whole answer after this (from the moment it was sent) has failed.
    pub timeout: Duration,
    /// An answer that comes later than this after its moment is not counted as good.
    pub slo: Duration,
    /// Sent with each request; `host` is the target's address unless it is here.
    pub headers: HeaderMap,
    /// Path and query.
    pub path: Uri,
    /// Method; no body is sent.
    pub method: Method,
    /// Requests in flight for each target; what is due above that is counted as dropped.
    pub max_in_flight: usize,
    /// Gets every request of every target once its end is known, for those who need more than counts by second.
    pub exchanges: Option<mpsc::UnboundedSender<Exchange>>,
}

impl Plan {
    /// GET `/` at a constant schedule with a timeout of one second.
    #[must_use]
    pub fn new(targets: Vec<Target>, phases: Vec<Phase>) -> Self {
        Self {
            targets,
            phases,
            arrivals: Arrivals::Constant,
            timeout: Duration::from_secs(1),
            slo: Duration::from_secs(1),
            headers: HeaderMap::new(),
            path: Uri::from_static("/"),
            method: Method::GET,
            max_in_flight: 4000,
            exchanges: None,
        }
    }

    /// Sum of the phases.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.phases.iter().map(|phase| phase.duration).sum()
    }
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    /// For reports.
    pub name: String,
    /// TCP address.
    pub address: SocketAddr,
}

/// One request and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// When it was due, since the start of the run.
    pub due: Duration,
    /// From then to its end.
    pub latency: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer of this status.
    Answer(StatusCode),
    /// Without an answer in time.
    Timeout,
    /// The connection was refused, reset or broken.
    Error,
    /// Not sent: too many were waiting already.
    Dropped,
}

/// How a run goes; published about every 200 ms.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Time since the start.
    pub elapsed: Duration,
    /// For each target, in the plan's order, its seconds so far. Those younger than the timeout may still change.
    pub targets: Vec<Vec<Summary>>,
}

/// Runs a plan to its end, or until `stop`; then waits for the answers that are still out. For live numbers subscribe to
/// `live` beforehand; without subscribers nothing is computed.
pub async fn run(plan: Plan, live: watch::Sender<Live>, stop: CancellationToken) -> Report {
    let start = Instant::now();
    let seconds = usize::try_from(plan.duration().as_millis().div_ceil(1000)).unwrap_or(0);
    let lanes: Vec<Arc<Lane>> = plan.targets.iter().map(|target| Arc::new(Lane::new(&plan, target, seconds))).collect();
    let mut drivers = JoinSet::new();
    for (index, lane) in lanes.iter().enumerate() {
        let schedule = schedule::Schedule::new(plan.phases.clone(), plan.arrivals, index, lanes.len());
        drivers.spawn(Arc::clone(lane).drive(schedule, start, stop.clone()));
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            driver = drivers.join_next() => if driver.is_none() { break },
            _ = ticks.tick(), if live.receiver_count() > 0 => {
                let now = usize::try_from(start.elapsed().as_secs()).unwrap_or(usize::MAX).saturating_add(1);
                let targets = lanes.iter().map(|lane| lane.summaries(now)).collect();
                live.send_replace(Live { elapsed: start.elapsed(), targets });
            }
        }
    }
    lanes.iter().for_each(|lane| lane.count_closed());
    let report = |lane: &Arc<Lane>| TargetReport { name: lane.name.clone(), seconds: lane.seconds.lock().clone() };
    Report { targets: lanes.iter().map(report).collect() }
}

/// One target's connections and counts.
struct Lane {
    name: String,
    address: SocketAddr,
    request: Request<()>,
    timeout: Duration,
    slo: Duration,
    max_in_flight: usize,
    in_flight: AtomicUsize,
    /// Connections without a request. Tasks take one and give it back.
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    seconds: Mutex<Vec<Second>>,
    /// Summaries of seconds that can no longer change, so that live numbers stay cheap in long runs.
    settled: Mutex<Vec<Summary>>,
    exchanges: Option<mpsc::UnboundedSender<Exchange>>,
}

impl Lane {
    fn new(plan: &Plan, target: &Target, seconds: usize) -> Self {
        let mut request = Request::new(());
        *request.method_mut() = plan.method.clone();
        *request.uri_mut() = plan.path.clone();
        *request.headers_mut() = plan.headers.clone();
        if !plan.headers.contains_key(header::HOST) {
            let host = HeaderValue::from_str(&target.address.to_string()).expect("an address is a valid header value");
            request.headers_mut().insert(header::HOST, host);
        }
        Self {
            name: target.name.clone(),
            address: target.address,
            request,
            timeout: plan.timeout,
            slo: plan.slo,
            max_in_flight: plan.max_in_flight.max(1),
            in_flight: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
            seconds: Mutex::new(vec![Second::default(); seconds]),
            settled: Mutex::new(Vec::new()),
            exchanges: plan.exchanges.clone(),
        }
    }

    async fn drive(self: Arc<Self>, schedule: schedule::Schedule, start: Instant, stop: CancellationToken) {
        let mut requests = JoinSet::new();
        for due in schedule {
            let moment = start + due;
            if moment > Instant::now() {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep_until(moment) => {}
                }
            } else if stop.is_cancelled() {
                break;
            }
            while requests.try_join_next().is_some() {}
            self.count(due, |second| second.offered += 1);
            if self.in_flight.load(Ordering::Relaxed) >= self.max_in_flight {
                self.ended(Exchange { due, latency: moment.elapsed(), outcome: Outcome::Dropped });
            } else {
                self.in_flight.fetch_add(1, Ordering::Relaxed);
                requests.spawn(Arc::clone(&self).request(due, moment));
            }
        }
        while requests.join_next().await.is_some() {}
    }

    async fn request(self: Arc<Self>, due: Duration, moment: Instant) {
        let outcome = tokio::time::timeout(self.timeout, self.exchange(due)).await.unwrap_or(Outcome::Timeout);
        let latency = moment.elapsed();
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.ended(Exchange { due, latency, outcome });
    }

    fn ended(&self, exchange: Exchange) {
        self.count(exchange.due, |second| match exchange.outcome {
            Outcome::Answer(StatusCode::TOO_MANY_REQUESTS) => second.limited += 1,
            Outcome::Answer(status) if status.is_success() => {
                second.ok += 1;
                second.good += u64::from(exchange.latency <= self.slo);
                let latency_us = u64::try_from(exchange.latency.as_micros()).unwrap_or(u64::MAX);
                second.latency_us.saturating_record(latency_us.max(1));
            }
            Outcome::Answer(status) => *second.other.entry(status.as_u16()).or_default() += 1,
            Outcome::Timeout => second.timeouts += 1,
            Outcome::Error => second.errors += 1,
            Outcome::Dropped => second.dropped += 1,
        });
        if let Some(exchanges) = &self.exchanges {
            // Whoever listened may have heard enough.
            let _ = exchanges.send(exchange);
        }
    }

    /// One request and its whole answer. A connection that fails or is not given back is closed.
    async fn exchange(&self, due: Duration) -> Outcome {
        loop {
            let kept = self.idle.lock().pop();
            let reused = kept.is_some();
            let connection = match kept {
                Some(connection) => Ok(connection),
                None => self.connect().await,
            };
            let Ok(mut connection) = connection else { return Outcome::Error };
            // The server may have closed a kept connection in the meantime: that is no failure of this request.
            if connection.ready().await.is_err() {
                if reused {
                    self.count(due, |second| second.closed += 1);
                    continue;
                }
                return Outcome::Error;
            }
            let (parts, ()) = self.request.clone().into_parts();
            let mut response = match connection.try_send_request(Request::from_parts(parts, Empty::new())).await {
                Ok(response) => response,
                Err(mut error) => {
                    // Given back unsent: the connection closed first.
                    if reused && error.take_message().is_some() {
                        self.count(due, |second| second.closed += 1);
                        continue;
                    }
                    return Outcome::Error;
                }
            };
            let status = response.status();
            while let Some(frame) = response.frame().await {
                if frame.is_err() {
                    return Outcome::Error;
                }
            }
            self.idle.lock().push(connection);
            return Outcome::Answer(status);
        }
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, ()> {
        let stream = TcpStream::connect(self.address).await.map_err(drop)?;
        stream.set_nodelay(true).map_err(drop)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(drop)?;
        // Ends when the sender is dropped.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Counts those of the connections without a request that are closed by now.
    fn count_closed(&self) {
        let closed = self.idle.lock().iter().filter(|connection| connection.is_closed()).count() as u64;
        self.count(Duration::MAX, |second| second.closed += closed);
    }

    fn count(&self, due: Duration, change: impl FnOnce(&mut Second)) {
        let second = usize::try_from(due.as_secs()).unwrap_or(usize::MAX);
        let mut seconds = self.seconds.lock();
        if let Some(last) = seconds.len().checked_sub(1) {
            change(&mut seconds[second.min(last)]);
        }
    }

    fn summaries(&self, now: usize) -> Vec<Summary> {
        let seconds = self.seconds.lock();
        let mut settled = self.settled.lock();
        let report = |range: std::ops::Range<usize>| counts::summarise(&seconds[range]);
        let old = now.saturating_sub(2 + usize::try_from(self.timeout.as_secs()).unwrap_or(0)).min(seconds.len());
        for second in settled.len()..old {
            settled.push(report(second..second + 1));
        }
        let young = (settled.len()..now.min(seconds.len())).map(|second| report(second..second + 1));
        settled.iter().cloned().chain(young).collect()
    }
}

#[cfg(test)]
mod tests;

//! A service of known capacity that costs almost no CPU: some workers, one queue, and times that vary as real ones do.
//!
//! A worker waits where a real one would work. Requests whose client has left are worked on all the same, as most services do.
//! `PUT /workers` with a number changes how many there are. `/metrics` is answered beside the queue; its `process_cpu_seconds_total` is the busy share of the workers, as if all of them
//! together were one core.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router, extract,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, put},
};
use parking_lot::{Condvar, Mutex};
use tokio::{net::TcpListener, sync::oneshot, task::AbortHandle};

use super::random::Random;

/// Service times are drawn from a deck of so many cards, shuffled anew each time that it is used up: they vary, and their
/// mean over a second or two does not.
const DECK: usize = 400;
/// A worker that was woken late catches up by so much at most, so that a busy machine does not lower the capacity.
const CATCH_UP: Duration = Duration::from_millis(20);

/// What the service can do.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Requests that are worked on at once.
    pub workers: usize,
    /// Mean time that a worker needs.
    pub mean: Duration,
    /// Standard deviation of that time, as a part of the mean; the times are lognormal.
    pub variation: f64,
    /// Requests that may wait; the next one is answered 500.
    pub queue: usize,
    /// For the times.
    pub seed: u64,
}

impl Config {
    /// Requests per second that it can answer.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        self.workers as f64 / self.mean.as_secs_f64()
    }
}

/// The running service, as its owner sees it. Dropped, it ends.
#[derive(Debug)]
pub struct Queue {
    shared: Arc<Shared>,
    server: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    limit: usize,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<oneshot::Sender<()>>,
    /// Workers that may take a request.
    workers: usize,
    busy: usize,
    /// Integral of the busy share, and the moment up to which it is taken.
    used: Duration,
    since: Instant,
    times: Times,
    ended: bool,
}

impl Queue {
    /// Starts the workers, and serves on `listener` until dropped. Needs a tokio runtime.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn serve(listener: TcpListener, config: Config) -> anyhow::Result<Self> {
        let state = State {
            waiting: VecDeque::new(),
            workers: config.workers,
            busy: 0,
            used: Duration::ZERO,
            since: Instant::now(),
            times: Times::new(config),
            ended: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), limit: config.queue });
        let app = Router::new()
            .route("/metrics", get(async |extract::State(shared): extract::State<Arc<Shared>>| shared.metrics()))
            .route("/workers", put(set_workers))
            .fallback(answer)
            .with_state(shared.clone());
        let server = tokio::spawn(axum::serve(listener, app).into_future()).abort_handle();
        let queue = Self { shared, server };
        for number in 0..config.workers {
            let shared = queue.shared.clone();
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || shared.work(number))?;
        }
        Ok(queue)
    }

    /// From now on so many workers take requests, at most those that it began with. What is being worked on is finished.
    pub fn set_workers(&self, workers: usize) {
        self.shared.change(|state| state.workers = workers);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.change(|state| state.ended = true);
        self.server.abort();
    }
}

impl Shared {
    /// Changes something that workers wait for.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        state.account();
        change(&mut state);
        self.work.notify_all();
    }

    /// One of the workers: first come, first served.
    fn work(&self, number: usize) {
        let mut free_at = None;
        let mut state = self.state.lock();
        while !state.ended {
            let job = if number < state.workers { state.waiting.pop_front() } else { None };
            let Some(job) = job else {
                free_at = None;
                self.work.wait(&mut state);
                continue;
            };
            state.account();
            state.busy += 1;
            let now = Instant::now();
            let start = free_at.map_or(now, |free_at: Instant| free_at.max(now.checked_sub(CATCH_UP).unwrap_or(now)));
            let end = start + state.times.draw();
            drop(state);
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
            // The client may have left.
            let _ = job.send(());
            state = self.state.lock();
            state.account();
            state.busy -= 1;
            free_at = Some(end);
        }
    }

    fn metrics(&self) -> String {
        let mut state = self.state.lock();
        state.account();
        format!(
            "# HELP process_cpu_seconds_total Busy share of the workers, in seconds of one core.\n\
             # TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {}\n",
            state.used.as_secs_f64()
        )
    }
}

impl State {
    /// Takes the busy share up to now; to be called before `busy` or `workers` changes.
    fn account(&mut self) {
        let now = Instant::now();
        let share = if self.workers == 0 { 0.0 } else { (self.busy as f64 / self.workers as f64).min(1.0) };
        self.used += now.saturating_duration_since(self.since).mul_f64(share);
        self.since = now;
    }
}

async fn set_workers(extract::State(shared): extract::State<Arc<Shared>>, number: String) -> Response {
    let Ok(workers) = number.trim().parse() else {
        return (StatusCode::BAD_REQUEST, "expected a number\n").into_response();
    };
    shared.change(|state| state.workers = workers);
    "done\n".into_response()
}

async fn answer(extract::State(shared): extract::State<Arc<Shared>>) -> Response {
    let (done, finished) = oneshot::channel();
    {
        let mut state = shared.state.lock();
        // Not 503: that is what an Envoy answers which sheds load by itself.
        if state.waiting.len() >= shared.limit {
            return (StatusCode::INTERNAL_SERVER_ERROR, "the queue is full\n").into_response();
        }
        state.waiting.push_back(done);
    }
    // Any worker may be one that must not take it.
    shared.work.notify_all();
    match finished.await {
        Ok(()) => "done\n".into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the service has ended\n").into_response(),
    }
}

/// Service times, without end.
#[derive(Debug)]
struct Times {
    deck: Vec<Duration>,
    next: usize,
    random: Random,
}

impl Times {
    fn new(config: Config) -> Self {
        let mut random = Random::new(config.seed);
        let sigma = (1.0 + config.variation * config.variation).ln().sqrt();
        let drawn: Vec<f64> = (0..DECK).map(|_| (sigma * random.normal()).exp()).collect();
        let scale = config.mean.as_secs_f64() * DECK as f64 / drawn.iter().sum::<f64>();
        let deck = drawn.into_iter().map(|time| Duration::from_secs_f64(time * scale)).collect();
        Self { deck, next: DECK, random }
    }

    fn draw(&mut self) -> Duration {
        if self.next == DECK {
            for last in (1..DECK).rev() {
                let other = (self.random.uniform() * (last + 1) as f64) as usize;
                self.deck.swap(last, other.min(last));
            }
            self.next = 0;
        }
        self.next += 1;
        self.deck[self.next - 1]
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use futures::future::join_all;
    use tokio::net::TcpListener;

    use super::{Config, DECK, Queue, Times};
    use crate::demo::get;

    const CONFIG: Config = Config { workers: 4, mean: Duration::from_millis(10), variation: 0.5, queue: 20, seed: 1 };
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn times_vary_and_keep_their_mean() {
        let mut times = Times::new(CONFIG);
        let mut drawn: Vec<f64> = (0..DECK).map(|_| times.draw().as_secs_f64()).collect();
        let mean = drawn.iter().sum::<f64>() / DECK as f64;
        let deviation = (drawn.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / DECK as f64).sqrt();
        assert!((mean - 0.01).abs() < 1e-6, "{mean}");
        assert!((deviation / mean - 0.5).abs() < 0.1, "{deviation}");
        let mut again: Vec<f64> = (0..DECK).map(|_| times.draw().as_secs_f64()).collect();
        assert_ne!(drawn, again, "shuffled");
        drawn.sort_by(f64::total_cmp);
        again.sort_by(f64::total_cmp);
        assert_eq!(drawn, again);
    }

    #[tokio::test]
    async fn serves_at_its_capacity_refuses_what_does_not_fit_and_says_how_busy_it_was() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mean = Duration::from_millis(50);
        let queue = Queue::serve(listener, Config { mean, variation: 0.0, ..CONFIG }).unwrap();
        queue.set_workers(2);
        let begin = Instant::now();
        let answers = join_all((0..30).map(|_| get(address, "/", PATIENCE))).await;
        let ok = answers.iter().filter(|answer| answer.as_ref().is_ok_and(|(status, _)| *status == 200)).count();
        // Twenty wait and two are worked on, or will be once they wake; the rest is refused unless it comes late.
        assert!((20..=29).contains(&ok), "{ok}");
        let least = mean.mul_f64((ok / 2) as f64 - 1.0);
        assert!(begin.elapsed() >= least, "{ok} in {:?}", begin.elapsed());
        let (_, page) = get(address, "/metrics", PATIENCE).await.unwrap();
        let used: f64 = page.lines().last().unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
        let expected = mean.as_secs_f64() * ok as f64 / 2.0;
        assert!((expected * 0.8..expected * 2.0).contains(&used), "{used} of {expected}");
    }
}

//! A version of the service: how it answers, which can be changed while it runs, and what it received.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::put,
};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    task::AbortHandle,
    time::{Instant, sleep},
};

/// See the module. Dropped: it ends.
#[derive(Debug)]
pub(super) struct Arm {
    shared: Arc<Shared>,
    server: AbortHandle,
}

/// Requests of one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) requests: u64,
    /// Those of them that were answered 500.
    pub(super) failed: u64,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    /// Before an answer that is not an error; those are given at once.
    time: Duration,
    state: Mutex<Behaviour>,
}

#[derive(Debug, Default)]
struct Behaviour {
    /// Requests that fail, in percent.
    errors: u64,
    requests: u64,
    /// Absent: nothing is counted yet.
    begin: Option<Instant>,
    seconds: Vec<Received>,
}

impl Arm {
    /// Listens, and answers with its name after `time`.
    pub(super) async fn start(name: &'static str, at: SocketAddr, time: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))?;
        let shared = Arc::new(Shared { name, time, state: Mutex::default() });
        let app = Router::new().route("/errors", put(set_errors)).fallback(answer).with_state(Arc::clone(&shared));
        let server = tokio::spawn(axum::serve(listener, app).into_future()).abort_handle();
        Ok(Self { shared, server })
    }

    /// From now on requests are counted, by seconds since then.
    pub(super) fn count_from(&self, begin: Instant) {
        self.shared.state.lock().begin = Some(begin);
    }

    /// From now on so many of a hundred requests fail.
    pub(super) fn fail(&self, percent: u64) {
        self.shared.state.lock().errors = percent.min(100);
    }

    /// What it received so far.
    pub(super) fn received(&self) -> Vec<Received> {
        self.shared.state.lock().seconds.clone()
    }
}

impl Drop for Arm {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Behaviour {
    /// Counts a request; whether it fails. Those that do are spread evenly.
    fn take(&mut self) -> bool {
        let fails = |number: u64| number * self.errors / 100;
        let failed = fails(self.requests + 1) > fails(self.requests);
        self.requests += 1;
        if let Some(second) = self.begin.and_then(|begin| usize::try_from(begin.elapsed().as_secs()).ok()) {
            if self.seconds.len() <= second {
                self.seconds.resize(second + 1, Received::default());
            }
            self.seconds[second].requests += 1;
            self.seconds[second].failed += u64::from(failed);
        }
        failed
    }
}

async fn answer(State(shared): State<Arc<Shared>>) -> Response {
    let failed = shared.state.lock().take();
    if failed {
        return (StatusCode::INTERNAL_SERVER_ERROR, "broken\n").into_response();
    }
    sleep(shared.time).await;
    format!("{}\n", shared.name).into_response()
}

async fn set_errors(State(shared): State<Arc<Shared>>, percent: String) -> Response {
    let Some(percent) = percent.trim().parse().ok().filter(|percent| *percent <= 100) else {
        return (StatusCode::BAD_REQUEST, "expected a number from 0 to 100\n").into_response();
    };
    shared.state.lock().errors = percent;
    "done\n".into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;
    use tokio::time::Instant;

    use super::{Arm, Behaviour};
    use crate::demo::{get, send};

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn those_that_fail_are_spread_evenly() {
        let mut half = Behaviour { errors: 50, ..Behaviour::default() };
        assert_eq!([0; 4].map(|_| half.take()), [false, true, false, true]);
        assert!(half.seconds.is_empty(), "nothing was counted");
        half.errors = 0;
        assert!(!(0..100).any(|_| half.take()));
        half.errors = 100;
        assert!((0..100).all(|_| half.take()));
    }

    #[tokio::test]
    async fn how_it_answers_can_be_changed_and_what_it_received_is_counted() {
        let at = ([127, 0, 0, 1], 0).into();
        // Where it listens is not known then, so a port that was free is taken.
        let at = tokio::net::TcpListener::bind::<std::net::SocketAddr>(at).await.unwrap().local_addr().unwrap();
        let arm = Arm::start("reviews-v9", at, Duration::from_millis(1)).await.unwrap();
        assert_eq!(get(at, "/", PATIENCE).await.unwrap(), (200, "reviews-v9\n".to_owned()));
        arm.count_from(Instant::now());
        let put = async |text: &str| send(at, Method::PUT, "/errors", text.to_owned(), PATIENCE).await.unwrap().0;
        assert_eq!((put("101").await, put("x").await, put("100").await), (400, 400, 200));
        assert_eq!(get(at, "/", PATIENCE).await.unwrap().0, 500);
        arm.fail(0);
        assert_eq!(get(at, "/", PATIENCE).await.unwrap().0, 200);
        let sums = arm.received().iter().fold((0, 0), |(all, failed), it| (all + it.requests, failed + it.failed));
        assert_eq!(sums, (2, 1));
    }
}

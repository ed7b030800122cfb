//! A small scripted HTTP application: it answers as it is told (to `/hold` when told; to `/answer/429` with that status),
//! counts that, and its `/metrics` says what a test wants.
//!
//! It speaks bytes rather than a framework's HTTP, so that it can break off, never answer or never end.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// The header of an answer that says which application gave it: its address.
pub const ANSWERED_BY: &str = "x-answered-by";

/// What `/metrics` does.
#[derive(Clone, Debug, PartialEq)]
pub enum Page {
    /// `process_cpu_seconds_total` rises as [`App::burn`] says.
    Cpu,
    /// This text, and nothing else.
    Text(String),
    /// Bytes that are no text.
    Garbage,
    /// Takes the request and never answers.
    Hang,
    /// Answers and never ends.
    Endless,
    /// Closes the connection without an answer.
    Close,
    /// This status, with an empty body.
    Status(u16),
}

/// A running application. Stopped when dropped, its open connections too.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// How often [`App::release`] was called.
    releases: watch::Sender<u64>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    page: Page,
    /// CPU time counted until `since`, in seconds.
    counted: f64,
    since: Instant,
    /// Cores in use since then.
    cores: f64,
    served: u64,
    reads: u64,
    /// Requests that are kept waiting now.
    held: u64,
    /// What is answered to everything else, and how long that takes.
    answers: (u16, Duration),
    /// `grpc-status` of these answers.
    grpc_status: Option<u8>,
    /// Which of them are 500 instead.
    failing: Option<Failing>,
}

/// Answers that are 500.
#[derive(Debug)]
struct Failing {
    /// Of those to paths that begin with this.
    under: String,
    /// Every so manieth.
    nth: u64,
    /// How many there were.
    seen: u64,
}

impl State {
    /// Whether the answer to this request is 500.
    fn fails(&mut self, request: &[u8]) -> bool {
        let path = request.splitn(2, |byte| *byte == b' ').nth(1).unwrap_or_default();
        let asked = |failing: &&mut Failing| path.starts_with(failing.under.as_bytes());
        self.failing.as_mut().filter(asked).is_some_and(|failing| {
            failing.seen += 1;
            failing.seen.is_multiple_of(failing.nth)
        })
    }

    fn seconds(&self) -> f64 {
        self.counted + self.cores * self.since.elapsed().as_secs_f64()
    }
}

impl App {
    /// Starts on `address`, idle.
    ///
    /// # Panics
    ///
    /// When the address is taken.
    pub async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = State {
            page: Page::Cpu,
            counted: 100.0,
            since: Instant::now(),
            cores: 0.0,
            served: 0,
            reads: 0,
            held: 0,
            answers: (200, Duration::ZERO),
            grpc_status: None,
            failing: None,
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let releases = watch::Sender::new(0);
        let released = releases.subscribe();
        let task = tokio::spawn(async move {
            // Aborted with the task that owns it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(serve(stream, Arc::clone(&shared), released.clone()));
            }
        });
        Self { address, state, releases, task }
    }

    /// From now on this many cores are in use.
    pub fn burn(&self, cores: f64) {
        let mut state = self.state.lock();
        state.counted = state.seconds();
        state.since = Instant::now();
        state.cores = cores;
    }

    /// The counter begins again at zero, as after a restart of the process.
    pub fn reset_counter(&self) {
        let mut state = self.state.lock();
        state.counted = 0.0;
        state.since = Instant::now();
    }

    /// From now on `/metrics` does this.
    pub fn page(&self, page: Page) {
        self.state.lock().page = page;
    }

    /// From now on requests are answered with this status after this time; at first with 200 at once. Those for `/hold` wait for
    /// [`Self::release`] before.
    pub fn answers(&self, status: u16, after: Duration) {
        self.state.lock().answers = (status, after);
    }

    /// From now on answers have this `grpc-status`.
    pub fn grpc_status(&self, status: Option<u8>) {
        self.state.lock().grpc_status = status;
    }

    /// From now on every `nth` answer is 500; 0: none is.
    pub fn fails_every(&self, nth: u64) {
        self.fails_every_under("/", nth);
    }

    /// As [`Self::fails_every`], only where the path begins with this.
    pub fn fails_every_under(&self, path: &str, nth: u64) {
        let failing = Failing { under: path.to_owned(), nth, seen: 0 };
        self.state.lock().failing = (nth > 0).then_some(failing);
    }

    /// Requests that were answered, reads of `/metrics` left out.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.state.lock().served
    }

    /// Requests for `/hold` that wait for [`Self::release`].
    #[must_use]
    pub fn held(&self) -> u64 {
        self.state.lock().held
    }

    /// Answers every request that is held now.
    pub fn release(&self) {
        self.releases.send_modify(|releases| *releases += 1);
    }

    /// Reads of `/metrics`.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.state.lock().reads
    }

    /// Ends it, as dropping it does, and keeps what it has counted.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>, mut released: watch::Receiver<u64>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            let mut part = [0; 4096];
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => return,
                Ok(length) => buffer.extend_from_slice(&part[..length]),
            }
        };
        let is_metrics = buffer.starts_with(b"GET /metrics");
        if buffer.starts_with(b"GET /hold") {
            released.mark_unchanged();
            state.lock().held += 1;
            let answered = released.changed().await;
            state.lock().held -= 1;
            if answered.is_err() {
                return;
            }
        }
        let status = std::str::from_utf8(&buffer).ok().and_then(|text| text.strip_prefix("GET /answer/"));
        let status = status.and_then(|text| text.get(..3)?.parse().ok());
        let request: Vec<u8> = buffer.drain(..end).collect();
        let written = if is_metrics {
            let page = {
                let mut state = state.lock();
                state.reads += 1;
                state.page.clone()
            };
            metrics(&mut stream, page, &state).await
        } else {
            let ((answers, after), grpc_status) = {
                let mut state = state.lock();
                state.served += 1;
                let fails = state.fails(&request);
                let (status, after) = state.answers;
                ((if fails { 500 } else { status }, after), state.grpc_status)
            };
            if !after.is_zero() {
                // Nothing else to wait for: this is the time that the work takes.
                let _ = tokio::time::timeout(after, std::future::pending::<()>()).await;
            }
            match grpc_status {
                Some(grpc_status) => answer_grpc(&mut stream, grpc_status).await,
                None => answer(&mut stream, status.unwrap_or(answers), b"ok\n").await,
            }
        };
        if written.is_err() {
            return;
        }
    }
}

async fn answer(stream: &mut TcpStream, status: u16, body: &[u8]) -> std::io::Result<()> {
    let (by, length) = (stream.local_addr()?, body.len());
    let head = format!(
        "HTTP/1.1 {status} said\r\ncontent-type: text/plain\r\n{ANSWERED_BY}: {by}\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    stream.write_all(&bytes).await
}

/// Trailers alone, as a call that fails at once.
async fn answer_grpc(stream: &mut TcpStream, grpc_status: u8) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 said\r\ncontent-type: application/grpc\r\ngrpc-status: {grpc_status}\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await
}

async fn metrics(stream: &mut TcpStream, page: Page, state: &Mutex<State>) -> std::io::Result<()> {
    match page {
        Page::Cpu => {
            let seconds = state.lock().seconds();
            let text = format!("# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {seconds}\n");
            answer(stream, 200, text.as_bytes()).await
        }
        Page::Text(text) => answer(stream, 200, text.as_bytes()).await,
        Page::Garbage => answer(stream, 200, &[0xff, 0, b'\n', 0xfe, b'{', b'}', b'\n', b'1', b' ', b'x']).await,
        Page::Status(status) => answer(stream, status, b"").await,
        Page::Close => Err(std::io::ErrorKind::ConnectionAborted.into()),
        Page::Hang => std::future::pending().await,
        Page::Endless => {
            stream
                .write_all(b"HTTP/1.1 200 said\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
                .await?;
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            loop {
                ticks.tick().await;
                stream.write_all(b"10\r\nnever_ending 1 \n\r\n").await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{App, Page};
    use crate::{eventually, http};

    #[tokio::test]
    async fn says_what_it_is_told() {
        let app = App::start(([127, 0, 0, 1], 0).into()).await;
        app.burn(1.0);
        eventually(Duration::from_secs(5), "the counter rises", async || {
            let page = http::get(app.address, "/metrics").await.map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(page.body()).into_owned();
            let value: f64 = text.lines().last().unwrap().split(' ').next_back().unwrap().parse().unwrap();
            if value > 100.1 { Ok(()) } else { Err(text) }
        })
        .await;
        app.page(Page::Text("a 1\n".to_owned()));
        assert_eq!(&http::get(app.address, "/metrics").await.unwrap().body()[..], b"a 1\n");
        app.page(Page::Close);
        assert!(http::get(app.address, "/metrics").await.is_err());
        let reads = app.reads();
        assert_eq!(http::get(app.address, "/anything").await.unwrap().status(), 200);
        assert_eq!((app.served(), app.reads()), (1, reads));
    }
}

//! The smallest HTTP/1.1 there is: a server that always answers 200, and keep-alive connections that count 200s and 429s.
//! It costs a few microseconds a request, so that on a small machine the proxy is what is measured.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::clock;

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Starts a server on a thread of its own, which lives as long as the process; gives its address.
pub(crate) fn spawn_upstream() -> anyhow::Result<SocketAddr> {
    spawn_upstream_that(ANSWER)
}

/// As [`spawn_upstream`], with these bytes as its answer.
pub(crate) fn spawn_upstream_that(says: &'static str) -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(answer(stream, says));
            }
            #[expect(unreachable_code, reason = "says what `?` returns above")]
            Ok::<(), std::io::Error>(())
        })
    });
    Ok(address)
}

async fn answer(mut stream: TcpStream, says: &'static str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let mut answers = Vec::new();
        while let Some(end) = find(&buffer, END_OF_HEAD) {
            buffer.drain(..end + END_OF_HEAD.len());
            answers.extend_from_slice(says.as_bytes());
        }
        stream.write_all(&answers).await?;
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// A kept-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects, from this address if given.
    pub(crate) async fn open(address: SocketAddr, from: Option<SocketAddr>) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = from {
            socket.bind(from)?;
        }
        let stream = socket.connect(address).await.with_context(|| format!("cannot reach {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(1 << 16) })
    }

    /// Sends a request.
    pub(crate) async fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(request).await?)
    }

    /// The status of the next answer, once all of it is here.
    pub(crate) async fn status(&mut self) -> anyhow::Result<u16> {
        loop {
            if let Some((status, length)) = parse(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(status);
            }
            anyhow::ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed");
        }
    }
}

/// Status and length of the first answer, if it is whole.
fn parse(text: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let Some(end) = find(text, END_OF_HEAD) else { return Ok(None) };
    let head = std::str::from_utf8(&text[..end])?;
    let status =
        head.get(9..12).and_then(|status| status.parse().ok()).with_context(|| format!("not an answer: {head:?}"))?;
    let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.with_context(|| format!("no content-length in {head:?}"))?.parse()?;
    let whole = end + END_OF_HEAD.len() + length;
    Ok((text.len() >= whole).then_some((status, whole)))
}

/// A GET request. One at a time: Envoy closes a connection on which another request waits behind one that it refuses.
pub(crate) fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: checkout\r\n\r\n").into_bytes()
}

/// Load on one path: every connection sends a request, waits for the answer, then for `pause`.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) from: Option<SocketAddr>,
    pub(crate) path: &'static str,
    pub(crate) connections: usize,
    pub(crate) pause: Duration,
}

/// What became of a load's requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    pub(crate) admitted: u64,
    pub(crate) limited: u64,
    /// When the first request was sent and the last answer came.
    pub(crate) first: Duration,
    pub(crate) last: Duration,
}

impl Tally {
    pub(crate) fn offered(&self) -> u64 {
        self.admitted + self.limited
    }

    pub(crate) fn seconds(&self) -> f64 {
        (self.last.saturating_sub(self.first)).as_secs_f64()
    }

    fn and(self, other: Self) -> Self {
        Self {
            admitted: self.admitted + other.admitted,
            limited: self.limited + other.limited,
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }
}

impl Load {
    /// Runs for `window` from now. Any status but 200 and 429, and any closed connection, is an error.
    pub(crate) async fn run(self, window: Duration) -> anyhow::Result<Tally> {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(self.address, self.from).await?);
        }
        let end = clock::now() + window;
        let tallies = connections.into_iter().map(|connection| self.one(connection, end));
        let tallies = futures::future::try_join_all(tallies).await?;
        tallies.into_iter().reduce(Tally::and).context("a load has at least one connection")
    }

    async fn one(&self, mut connection: Connection, end: Duration) -> anyhow::Result<Tally> {
        let request = request(self.path);
        let first = clock::now();
        let mut tally = Tally { admitted: 0, limited: 0, first, last: first };
        while clock::now() < end {
            connection.send(&request).await?;
            match connection.status().await? {
                200 => tally.admitted += 1,
                429 => tally.limited += 1,
                other => anyhow::bail!("the proxy answered {other}"),
            }
            tally.last = clock::now();
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
        }
        Ok(tally)
    }
}

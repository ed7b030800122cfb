//! One changed limit to 1,000 connected delta streams.
//!
//! Weir's builder and xDS server run in a process of their own, on as many threads as the machine has cores, like
//! `weir run`; the clients are 1,000 TCP connections of this process on one thread. The limit is `per pod`, so each change is
//! 1,000 different route configurations, one for each stream. Time runs from before the builder takes the change.

pub(crate) mod server;

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use operator::xds::{
    ResourceType,
    client::{DeltaClient, versions},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};

use crate::{
    clock, mesh,
    report::{Durations, Row, ms, us},
};

const STREAMS: usize = 1000;
const WARM_UP: usize = 5;
const ROUNDS: usize = 40;
/// Between rounds, so that the answers of one are not counted in the next.
const QUIET: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure())
}

/// What all clients together have seen in a round.
#[derive(Debug, Default)]
struct Arrivals {
    count: AtomicUsize,
    last_ns: AtomicU64,
    all: Notify,
}

impl Arrivals {
    fn begin(&self) {
        self.count.store(0, Ordering::Relaxed);
        self.last_ns.store(0, Ordering::Relaxed);
    }

    fn arrived(&self) {
        let now = u64::try_from(clock::now().as_nanos()).unwrap_or(u64::MAX);
        self.last_ns.fetch_max(now, Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == STREAMS {
            self.all.notify_one();
        }
    }

    /// When the last client had it.
    async fn all(&self) -> anyhow::Result<Duration> {
        let waited = timeout(PATIENCE, self.all.notified()).await;
        waited.with_context(|| format!("only {} of {STREAMS} clients have it", self.count.load(Ordering::Relaxed)))?;
        Ok(Duration::from_nanos(self.last_ns.load(Ordering::Relaxed)))
    }
}

async fn measure() -> anyhow::Result<Vec<Row>> {
    let (mut server, address) = Server::start().await?;
    let empty = server.number("memory").await?;
    eprintln!("connecting {STREAMS} streams");
    let arrivals = Arc::new(Arrivals::default());
    let mut clients = JoinSet::new();
    for pod in 0..STREAMS {
        let node = format!("{}/{}/{}-{pod}", mesh::NAMESPACE, mesh::SERVICE, mesh::SERVICE);
        let arrivals = arrivals.clone();
        clients.spawn(async move {
            let outcome = client(address, &node, arrivals).await;
            outcome.with_context(|| format!("the client of {node}"))
        });
    }
    tokio::select! {
        all = arrivals.all() => drop(all?),
        Some(ended) = clients.join_next() => {
            let seen = arrivals.count.load(Ordering::Relaxed);
            ended?.with_context(|| format!("{seen} of {STREAMS} clients have the first state"))?;
        }
    }
    // Freed memory of the start has time to be used again or returned.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = server.number("memory").await?;

    let mut total = Vec::new();
    let mut building = Vec::new();
    let (mut push_cpu, mut build_cpu) = (Duration::ZERO, Duration::ZERO);
    for round in 0..WARM_UP + ROUNDS {
        arrivals.begin();
        let before = server.number("cpu").await?;
        let [start, built, cpu] = server.change().await?;
        let last = arrivals.all().await?;
        tokio::time::sleep(QUIET).await;
        let after = server.number("cpu").await?;
        if round >= WARM_UP {
            total.push(last.saturating_sub(start));
            building.push(built.saturating_sub(start));
            push_cpu += Duration::from_nanos(after - before);
            build_cpu += cpu;
        }
    }
    let busy = server.number("memory").await?;
    drop(server);

    let (total, building) = (Durations::new(total)?, Durations::new(building)?);
    let pushes = u32::try_from(ROUNDS * STREAMS)?;
    let (push_cpu, build_cpu) = (push_cpu / pushes, build_cpu / pushes);
    let (median, cpu_goal) = (total.percentile(50), Duration::from_micros(46));
    let kb = |after: u64| after.saturating_sub(empty) as f64 / STREAMS as f64 / 1000.0;
    Ok(vec![
        Row::goal(
            format!("changed limit to the last of {STREAMS} streams, median (max) of {ROUNDS} changes"),
            "at most 60 ms",
            format!("{} ({})", ms(median), ms(total.max())),
            median <= Duration::from_millis(60),
        ),
        Row::plain(
            "of it: to decide, translate and encode all 1,000 and wake their streams, median",
            ms(building.percentile(50)),
        ),
        Row::goal(
            "server CPU for each push, its ACK and its part of the build",
            "at most 46 µs",
            us(push_cpu),
            push_cpu <= cpu_goal,
        ),
        Row::plain("of it: the build", us(build_cpu)),
        Row::goal(
            "server memory for each idle stream",
            "at most 50 KB",
            format!("{:.1} KB", kb(idle)),
            kb(idle) <= 50.0,
        ),
        Row::plain(format!("the same after {} changes", WARM_UP + ROUNDS), format!("{:.1} KB", kb(busy))),
    ])
}

/// Subscribes as Envoy does, takes everything and acknowledges it, for ever.
async fn client(address: SocketAddr, node: &str, arrivals: Arc<Arrivals>) -> anyhow::Result<()> {
    let mut client = DeltaClient::connect(address, node).await?;
    client.subscribe(ResourceType::Cluster, &[]).await?;
    client.subscribe(ResourceType::Listener, &[]).await?;
    loop {
        let response = client.next().await?;
        let follows = match ResourceType::from_type_url(&response.type_url) {
            Some(ResourceType::Cluster) => Some(ResourceType::Endpoints),
            Some(ResourceType::Listener) => Some(ResourceType::Route),
            Some(ResourceType::Route) => {
                arrivals.arrived();
                None
            }
            _ => None,
        };
        client.ack(&response).await?;
        if let Some(follows) = follows {
            // Everything that belongs to one port has one name.
            let names = versions(&response);
            let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
            client.subscribe(follows, &names).await?;
        }
    }
}

/// The other process. It ends when its stdin does.
struct Server {
    _child: Child,
    commands: ChildStdin,
    replies: Lines<BufReader<ChildStdout>>,
}

impl Server {
    async fn start() -> anyhow::Result<(Self, SocketAddr)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["fanout-server", &STREAMS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let commands = child.stdin.take().context("stdin was piped")?;
        let replies = BufReader::new(child.stdout.take().context("stdout was piped")?).lines();
        let mut server = Self { _child: child, commands, replies };
        let port = server.reply().await?.parse()?;
        Ok((server, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
    }

    async fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        self.reply().await
    }

    async fn reply(&mut self) -> anyhow::Result<String> {
        timeout(PATIENCE, self.replies.next_line())
            .await
            .context("the server does not answer")??
            .context("the server ended")
    }

    async fn number(&mut self, command: &str) -> anyhow::Result<u64> {
        Ok(self.ask(command).await?.parse()?)
    }

    /// When it began and was built, and the CPU time of that.
    async fn change(&mut self) -> anyhow::Result<[Duration; 3]> {
        let reply = self.ask("change").await?;
        let numbers: Vec<u64> = reply.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let numbers: [u64; 3] =
            numbers.try_into().ok().with_context(|| format!("expected 3 numbers, found {reply:?}"))?;
        Ok(numbers.map(Duration::from_nanos))
    }
}

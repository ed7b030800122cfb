//! One changed limit to 1,000 connected delta streams.
//!
//! Weir's builder and xDS server run in a process of their own, on as many threads as the machine has cores, like
//! `weir run`; the clients are 1,000 TCP connections of this process on one thread. The limit is `per pod`, so each change is
//! 1,000 different route configurations, one for each stream. Time runs from before the builder takes the change.

pub(crate) mod server;

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use operator::xds::client::DeltaClient;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinSet,
    time::timeout,
};

use crate::{
    mesh,
    report::{Durations, Row, ms, us},
    streams::{self, Arrivals},
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

async fn measure() -> anyhow::Result<Vec<Row>> {
    let (mut server, address) = Server::start().await?;
    let empty = server.number("memory").await?;
    eprintln!("connecting {STREAMS} streams");
    let arrivals = Arc::new(Arrivals::new(STREAMS));
    let mut clients = JoinSet::new();
    for pod in 0..STREAMS {
        let node = format!("{}/{}/{}-{pod}", mesh::NAMESPACE, mesh::SERVICE, mesh::SERVICE);
        let arrivals = arrivals.clone();
        clients.spawn(async move {
            let client = DeltaClient::connect(address, &node).await?;
            let outcome = streams::follow(client, &arrivals).await;
            outcome.with_context(|| format!("the client of {node}"))
        });
    }
    tokio::select! {
        all = arrivals.all() => drop(all?),
        Some(ended) = clients.join_next() => {
            let seen = arrivals.count();
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

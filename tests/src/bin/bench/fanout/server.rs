//! The measured process: the real builder and the real xDS server, without a folder or metrics.
//!
//! Commands come on stdin, one a line; each is answered by one line on stdout. `change`: toggles the limit; when it began, when
//! it was built, CPU time of the build. `cpu`: CPU time so far. `memory`: resident bytes. All times in nanoseconds.

use std::{
    io::{BufRead, Write},
    net::Ipv4Addr,
};

use jiff::Timestamp;
use operator::{
    args::{LogArgs, LogFormat},
    build::Builder,
    telemetry,
    xds::{proxies::Proxies, server, table::Table},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{clock, mesh};

pub(crate) fn serve(pods: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Spans and log lines cost memory and time too.
    telemetry::init(&LogArgs { log: "info".to_owned(), log_format: LogFormat::Text });
    let (commands_tx, commands_rx) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if commands_tx.blocking_send(line).is_err() {
                return;
            }
        }
    });
    // On a worker thread, as in `weir run`.
    runtime.block_on(async move { tokio::spawn(run(pods, commands_rx)).await? })
}

async fn run(pods: usize, mut commands_rx: mpsc::Receiver<String>) -> anyhow::Result<()> {
    let table = Table::new();
    let listener = operator::identity::bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let port = listener.local_addr()?.port();
    let mut builder = Builder::new(table.clone());
    builder.apply(mesh::changes(&mesh::service(mesh::SERVICE, pods))?, Timestamp::now());
    let limits = [10, 11].map(|limit| {
        let rule = format!("name: all, limit: {limit} requests per second per pod");
        mesh::changes(&mesh::policy("all", mesh::SERVICE, &[rule]))
    });
    let [one, other] = limits;
    let mut limits = [one?, other?].into_iter().cycle();
    builder.apply(limits.next().unwrap_or_default(), Timestamp::now());
    // Nobody asks for what is not there.
    let (asks_tx, _) = mpsc::channel(1);
    tokio::spawn(server::serve(
        server::Served { table, proxies: Proxies::new(), asks_tx },
        tonic::service::Routes::default(),
        listener.into(),
        operator::identity::Door::open(),
        server::Leaving::at_once(CancellationToken::new()),
    ));
    say(&port.to_string())?;
    while let Some(command) = commands_rx.recv().await {
        match command.as_str() {
            "change" => {
                let changes = limits.next().unwrap_or_default();
                let (start, cpu) = (clock::now(), clock::thread_cpu());
                builder.apply(changes, Timestamp::now());
                let (built, cpu) = (clock::now(), clock::thread_cpu() - cpu);
                say(&format!("{} {} {}", start.as_nanos(), built.as_nanos(), cpu.as_nanos()))?;
            }
            "cpu" => say(&clock::process_cpu().as_nanos().to_string())?,
            "memory" => say(&clock::resident_bytes()?.to_string())?,
            other => anyhow::bail!("unknown command {other:?}"),
        }
    }
    Ok(())
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

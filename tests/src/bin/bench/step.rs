//! From a step of a metric to the first 429, through a whole `weir run`, by each source.
//!
//! The application is scripted. For a page that Weir reads, its `process_cpu_seconds_total` grows by 0.1 of the pod's one core,
//! then, from the step on, by all of it, and the rule says `cpu > 80%`. For what Envoy streams it answers 200, then 500, and the
//! rule says `errors > 10%`. A real Prometheus reads a gauge, and the rule asks it for that. In each round the rule has a new name, so that it starts idle with a full bucket; the step comes at
//! a moment that has no fixed place between two reads.

use std::time::Duration;

use anyhow::Context;
use testkit::{
    app::{App, Page},
    ports,
    prometheus::{Prometheus, Target},
    weir::Weir,
};
use tokio::time::timeout;

use crate::{
    clock,
    http::{Connection, request},
    in_a_task, mesh,
    report::{Durations, Row, ms},
    rig,
};

const IDLE: f64 = 0.1;
const BUSY: f64 = 1.0;
/// How often Prometheus reads; Weir asks it by default twice a second.
const SCRAPED_EVERY: Duration = Duration::from_secs(1);
/// From a written file to the rule in the proxy, with much to spare.
const APPLIED: Duration = Duration::from_millis(500);
/// Requests before the step, all of which must pass.
const EARLY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

/// A source of metrics, and a step that it shows.
struct Signal {
    what: &'static str,
    condition: &'static str,
    /// What the policy has after its rules.
    metrics: &'static str,
    goal: Duration,
    rounds: usize,
    /// After this nothing is known of the last round. Rates are taken over half a second.
    forgotten: Duration,
    quiet: fn(&App),
    step: fn(&App),
}

const SIGNALS: [Signal; 3] = [
    Signal {
        what: "step of the CPU, read from the application's page, to the first 429",
        condition: "cpu > 80%",
        metrics: "",
        goal: Duration::from_secs(1),
        rounds: 25,
        forgotten: Duration::from_millis(1200),
        quiet: |app| app.burn(IDLE),
        step: |app| app.burn(BUSY),
    },
    Signal {
        what: "step of the errors, streamed by Envoy, to the first 429",
        condition: "errors > 10%",
        metrics: "",
        goal: Duration::from_millis(500),
        rounds: 25,
        forgotten: Duration::from_millis(1200),
        quiet: |app| app.answers(200, Duration::ZERO),
        step: |app| app.answers(500, Duration::ZERO),
    },
    Signal {
        what: "step of a gauge, read by Prometheus each second, to the first 429",
        condition: "depth > 100",
        metrics: "  metrics: [{name: depth, type: Count, reduce: Max, prometheus: {query: depth}}]\n",
        goal: Duration::from_secs(2),
        rounds: 15,
        forgotten: Duration::from_millis(2500),
        quiet: |app| app.page(Page::Text("depth 10\n".to_owned())),
        step: |app| app.page(Page::Text("depth 200\n".to_owned())),
    },
];

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    SIGNALS.iter().map(|signal| in_a_task(measure(signal))).collect()
}

async fn measure(signal: &Signal) -> anyhow::Result<Row> {
    let app = App::start(([127, 0, 0, 1], 0).into()).await;
    let address = ports::free();
    let (config, folder) = (testkit::temp_dir(), testkit::temp_dir());
    std::fs::write(config.path().join("pod.yaml"), rig::pod(address, app.address, app.address))?;
    write_rule(config.path(), signal, 0)?;
    let by_prometheus = !signal.metrics.is_empty();
    let mut arguments = Vec::new();
    let _prometheus = if by_prometheus {
        (signal.quiet)(&app);
        let labels = vec![("namespace", mesh::NAMESPACE.to_owned()), ("pod", format!("{}-0", mesh::SERVICE))];
        let server = Prometheus::start(&[Target { address: app.address, labels }], SCRAPED_EVERY).await;
        arguments.extend(["--prometheus".to_owned(), server.url()]);
        Some(server)
    } else {
        None
    };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let weir = Weir::start(config.path(), &arguments).await;
    let _envoy = rig::start_envoy(weir.xds, &folder).await?;
    if by_prometheus {
        // It begins to read seconds after it answers.
        let is_read = async || if app.reads() > 0 { Ok(()) } else { Err("it has read nothing".to_owned()) };
        testkit::eventually(PATIENCE, "Prometheus reads the page", is_read).await;
    }

    let mut times = Vec::new();
    for round in 1..=signal.rounds {
        (signal.quiet)(&app);
        tokio::time::sleep(signal.forgotten).await;
        write_rule(config.path(), signal, round)?;
        // Steps are spread over the interval of reads.
        let interval = if by_prometheus { 1000 } else { 250 };
        let spread = Duration::from_millis(((round * 97) % interval) as u64);
        // Until then the rule of the last round may still limit.
        tokio::time::sleep(APPLIED).await;
        let mut connection = Connection::open(address, None).await?;
        let early = until_limited(&mut connection, EARLY + spread).await?;
        anyhow::ensure!(early.is_none(), "limited before the step; the log of weir:\n{}", weir.log());
        let start = clock::now();
        (signal.step)(&app);
        let limited = until_limited(&mut connection, PATIENCE).await?;
        let Some(limited) = limited else {
            anyhow::bail!("no 429 within {PATIENCE:?}; the log of weir:\n{}", weir.log())
        };
        times.push(limited - start);
    }
    weir.stop().await?;

    let times = Durations::new(times)?;
    let worst = times.max();
    Ok(Row::goal(
        format!("{}, worst of {}", signal.what, times.count()),
        format!("at most {} s", signal.goal.as_secs_f64()),
        format!("{} (p50 {}, best {})", ms(worst), ms(times.percentile(50)), ms(times.percentile(1))),
        worst <= signal.goal,
    ))
}

/// Replaces the file at once, as editors that mean well do.
fn write_rule(config: &std::path::Path, signal: &Signal, round: usize) -> anyhow::Result<()> {
    let rule = format!("name: hot-{round}, when: {}, limit: 10 requests per second per pod", signal.condition);
    let hidden = config.join(".policy");
    std::fs::write(&hidden, mesh::policy("hot", mesh::SERVICE, &[rule]) + signal.metrics)?;
    std::fs::rename(hidden, config.join("policy.yaml"))?;
    Ok(())
}

/// Sends a request a millisecond until one is refused, and says when that was.
async fn until_limited(connection: &mut Connection, patience: Duration) -> anyhow::Result<Option<Duration>> {
    let request = request("/");
    let end = clock::now() + patience;
    while clock::now() < end {
        connection.send(&request).await?;
        let answer = timeout(PATIENCE, connection.status()).await.context("the proxy does not answer")?;
        match answer? {
            200 | 500 => tokio::time::sleep(Duration::from_millis(1)).await,
            429 => return Ok(Some(clock::now())),
            other => anyhow::bail!("the proxy answered {other}"),
        }
    }
    Ok(None)
}

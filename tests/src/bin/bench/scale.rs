//! What many policies cost: 500 services with five rules each, decided four times a second, all from a real Prometheus.
//!
//! The page that Prometheus reads is scripted: counters rise as they do in 500 pods, of which every tenth is too busy. No proxies
//! are connected, so what is measured is asking, reading, deciding, translating and keeping.

use std::{fmt::Write as _, time::Duration};

use anyhow::Context;
use testkit::{
    app::{App, Page},
    prometheus::{Prometheus, Target},
    weir::Weir,
};

use crate::{clock, in_a_task, mesh, report::Row};

const SERVICES: usize = 500;
/// None reads cpu or memory, for which Weir would also read the pages of 500 pods.
const RULES: [&str; 5] = [
    "name: busy, when: requests > 150 for 1s, limit: 100 requests per second across all pods",
    "name: failing, when: errors > 5% for 1s, limit: 50 requests per second across all pods",
    "name: broken, when: errors per second > 100, limit: 20 requests per second across all pods",
    "name: full, when: inflight > 100 and requests > 10, limit: 80 requests per second across all pods",
    "name: steer, adapt: \"keep inflight below 20, between 20 and 500 requests per second per pod\"",
];
const INTERVAL: &str = "250ms";
const READ_EVERY: Duration = Duration::from_secs(2);
/// Until every rule has all that it reads: two reads of Prometheus, and one of Weir.
const PATIENCE: Duration = Duration::from_secs(60);
const WINDOW: Duration = Duration::from_secs(20);
const CPU_GOAL: f64 = 0.05;

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    in_a_task(measure())
}

async fn measure() -> anyhow::Result<Vec<Row>> {
    let config = testkit::temp_dir();
    let rules = RULES.map(str::to_owned);
    for number in 0..SERVICES {
        let name = service(number);
        let text = mesh::service(&name, 1) + &mesh::policy(&name, &name, &rules);
        std::fs::write(config.path().join(format!("{name}.yaml")), text)?;
    }
    let app = App::start(([127, 0, 0, 1], 0).into()).await;
    let begin = clock::now();
    app.page(Page::Text(page(Duration::ZERO)));
    let prometheus = Prometheus::start(&[Target { address: app.address, labels: Vec::new() }], READ_EVERY).await;
    // As in a cluster, what is decided is kept.
    let state = testkit::temp_dir();
    let folder = state.path().to_string_lossy();
    let arguments = ["--prometheus", &prometheus.url(), "--prometheus-interval", INTERVAL, "--state-dir", &folder];
    let weir = Weir::start(config.path(), &arguments).await;
    let process = weir.id().context("weir has ended")?;

    let cpu = || clock::cpu_of(process).context("weir has ended");
    let turn = || app.page(Page::Text(page(clock::now() - begin)));
    let deadline = clock::now() + PATIENCE;
    loop {
        tokio::time::sleep(READ_EVERY / 4).await;
        turn();
        let (limiting, blind) = phases(&weir).await?;
        // The busy ones limit, and no rule lacks a metric.
        if blind == 0 && limiting >= SERVICES / 10 {
            break;
        }
        anyhow::ensure!(clock::now() < deadline, "after {PATIENCE:?} {blind} rules lack a metric, {limiting} limit");
    }

    let (decided, asked) = ("weir_decisions_total", "weir_prometheus_queries_total");
    let before = (clock::now(), cpu()?, weir.metric(decided).await, weir.metric(asked).await);
    while clock::now() < before.0 + WINDOW {
        tokio::time::sleep(READ_EVERY / 4).await;
        turn();
    }
    let after = (clock::now(), cpu()?, weir.metric(decided).await, weir.metric(asked).await);
    weir.stop().await?;

    let seconds = (after.0 - before.0).as_secs_f64();
    let used = (after.1 - before.1).as_secs_f64() / seconds;
    let decisions = (after.2 - before.2) / seconds / SERVICES as f64;
    let queries = (after.3 - before.3) / seconds;
    Ok(vec![
        Row::goal(
            format!("CPU of Weir for {SERVICES} policies with {} rules each", RULES.len()),
            "at most 5 % of one core",
            format!("{:.1} %", used * 100.0),
            used <= CPU_GOAL,
        ),
        Row::goal(
            "decisions for each of them",
            "4 a second",
            format!("{decisions:.2} a second"),
            (3.6..=4.6).contains(&decisions),
        ),
        Row::plain("queries to Prometheus, for all of them", format!("{queries:.1} a second")),
    ])
}

fn service(number: usize) -> String {
    format!("s{number}")
}

/// Rules that limit because a condition holds, and rules that lack a metric.
async fn phases(weir: &Weir) -> anyhow::Result<(usize, usize)> {
    let status = weir.status().await?;
    let policies = status["policies"].as_array().context("no policies in the status")?;
    let rules = policies.iter().flat_map(|policy| {
        let rules = policy.pointer("/status/rules").or_else(|| policy.get("rules"));
        rules.and_then(serde_json::Value::as_array).into_iter().flatten()
    });
    let (mut limiting, mut blind) = (0, 0);
    for rule in rules {
        limiting += usize::from(rule["name"] == "busy" && rule["phase"] == "Limiting");
        let message = rule["message"].as_str().unwrap_or_default();
        blind += usize::from(message.is_empty() || message.contains("missing") || message.contains("not known"));
    }
    Ok((limiting, blind))
}

/// What the exporters of a cluster say after so long, in the names that Weir asks for.
fn page(after: Duration) -> String {
    let seconds = after.as_secs_f64();
    let mut text = String::new();
    for number in 0..SERVICES {
        let (name, namespace) = (service(number), mesh::NAMESPACE);
        let pod = format!("namespace=\"{namespace}\",pod=\"{name}-0\"");
        let asked = format!(
            "reporter=\"destination\",{pod},destination_service_namespace=\"{namespace}\",destination_service_name=\"{name}\""
        );
        // Not quite constant, so that no value equals the last one.
        let wave = 0.05 * (seconds + number as f64).sin();
        let rate = if number.is_multiple_of(10) { 200.0 } else { 100.0 };
        let (ok, failed) = (rate * seconds + wave, 0.005 * rate * seconds);
        let _ = write!(
            text,
            "istio_requests_total{{{asked},response_code=\"200\",response_flags=\"-\"}} {ok}\n\
             istio_requests_total{{{asked},response_code=\"503\",response_flags=\"-\"}} {failed}\n\
             envoy_http_downstream_rq_active{{{pod},envoy_http_conn_manager_prefix=\"in_8080\"}} {}\n",
            (3.0 * (1.0 + wave)).round(),
        );
    }
    text
}

//! From a version turning bad to the end of its traffic: by Flagger, and by a SmartSplit.
//!
//! A caller sends 200 requests a second through one real Envoy that Weir configures. A fifth of them goes to a new version, until every
//! second of its answers is an error. The two versions answer with statuses of their own, so that all is taken from what the caller got.
//!
//! Flagger has its fastest settings: an interval of 10 s, one failed check, and a Prometheus that reads the Envoy every second. It looks at
//! what it has given a fifth 10 s later; within those the version turns bad, early, halfway and late. In the runs of a SmartSplit it does so
//! as long after its first answer.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use testkit::{
    app::App,
    cluster::Cluster,
    eventually,
    flagger::{
        Flagger,
        podinfo::{Page, Podinfo},
    },
    mesh::without_proxy,
    ports::Network,
};
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};

use crate::{clock, http::Connection, in_a_task, report::Row};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: podinfo\r\n\r\n";
const CONNECTIONS: u32 = 8;
/// Of each connection: 200 a second in all.
const BETWEEN: Duration = Duration::from_millis(40);
/// The image of the version that is there before.
const FIRST: &str = "podinfo:1";
/// What the versions answer when they are well.
const OLD: u16 = 200;
const NEW: u16 = 201;
/// What the new one answers every second time once it is bad.
const BAD: u16 = 500;
/// How long the new version has had requests when it turns bad.
const WELL: [Duration; 3] = [Duration::from_millis(1_700), Duration::from_secs(5), Duration::from_millis(8_300)];
const MINUTE: Duration = Duration::from_secs(60);
/// What it is given, and the floor of a SmartSplit.
const GIVEN: f64 = 0.2;
const FLOOR: f64 = 0.03;
/// How long the caller goes on when the new version should have lost its traffic.
const AFTER: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    in_a_task(measure())
}

async fn measure() -> anyhow::Result<Vec<Row>> {
    let cluster = Cluster::start().await;
    cluster.install_crds().await;
    let mut rows = vec![row(
        "Flagger 1.36.1, interval 10 s, threshold 1: bad to the last answer of the version",
        &by_flagger(&cluster).await?,
    )];
    let sentences = [
        ("SmartSplit, `prefer lower errors`", "prefer lower errors", Duration::ZERO),
        ("SmartSplit, with `every 1s`", "prefer lower errors, every 1s", Duration::ZERO),
        ("SmartSplit, `prefer lower errors`, a minute of being well before", "prefer lower errors", MINUTE),
        ("SmartSplit, with `every 1s`, a minute of being well before", "prefer lower errors, every 1s", MINUTE),
    ];
    for (what, steer, before) in sentences {
        let mut ends = Vec::new();
        for well in WELL {
            ends.push(by_weir(&cluster, steer, before + well).await?);
        }
        rows.push(row(&format!("{what}: bad to its share at the floor of 3 %"), &ends));
    }
    Ok(rows)
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
struct End {
    /// From turning bad to the end.
    after: Duration,
    /// Errors that the caller got until then.
    errors: usize,
}

fn row(what: &str, ends: &[End]) -> Row {
    let mut ends = ends.to_vec();
    let all = ends.iter().map(|end| format!("{:.1}", end.after.as_secs_f64())).collect::<Vec<_>>().join(", ");
    let errors = ends.iter().map(|end| end.errors.to_string()).collect::<Vec<_>>().join(", ");
    ends.sort_unstable_by_key(|end| end.after);
    let median = ends[ends.len() / 2].after.as_secs_f64();
    Row::plain(what, format!("median {median:.1} s (early, halfway, late: {all} s; {errors} errors at the caller)"))
}

/// Each version after the other in the same place: none is promoted.
async fn by_flagger(cluster: &Cluster) -> anyhow::Result<Vec<End>> {
    let podinfo = Podinfo::start(cluster, |image, app| app.answers(status_of(image), Duration::ZERO)).await;
    let page = Page::start(cluster, &podinfo.namespace).await;
    let prometheus = page.prometheus(Duration::from_secs(1)).await;
    let flagger = Flagger::start(cluster, &podinfo.namespace, "smi:v1alpha2", &prometheus.url()).await;
    podinfo.deploy(FIRST).await;
    let metric = podinfo.measure(&prometheus, "5s").await;
    let analysis = json!({"interval": "10s", "threshold": 1, "stepWeight": 20, "maxWeight": 60, "metrics": [metric]});
    podinfo.canary(json!({}), &analysis).await;
    phase(&flagger, "Initialized").await;
    let mut ends = Vec::new();
    for (number, well) in WELL.iter().enumerate() {
        let mut caller = Caller::start(page.outbound()).await;
        let image = format!("podinfo:{}", number + 2);
        podinfo.deploy(&image).await;
        caller.new_version().await;
        sleep(*well).await;
        let status = flagger.status("podinfo").await;
        anyhow::ensure!(status["canaryWeight"] == 20, "Flagger looked too early: {status}");
        let turned = clock::now();
        let pods = podinfo.apps.placed().into_iter().filter(|placed| placed.runs && placed.image == image);
        pods.for_each(|placed| placed.app.fails_every(2));
        phase(&flagger, "Failed").await;
        sleep(AFTER).await;
        let answers = caller.stop()?;
        let last = answers.iter().rev().find(|(_, status)| *status != OLD).map_or(turned, |(at, _)| *at);
        ends.push(end(&answers, turned, last)?);
    }
    Ok(ends)
}

fn status_of(image: &str) -> u16 {
    if image == FIRST { OLD } else { NEW }
}

async fn phase(flagger: &Flagger<'_>, phase: &str) {
    eventually(PATIENCE, &format!("Flagger says {phase}"), async || {
        let status = flagger.status("podinfo").await;
        if status["phase"] == phase { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// In a place of its own: a SmartSplit remembers what it has seen.
async fn by_weir(cluster: &Cluster, steer: &str, well: Duration) -> anyhow::Result<End> {
    let (namespace, network) = (cluster.namespace("bench").await, Network::routable());
    let [old, new] =
        [App::start((network.address(1), 0).into()).await, App::start((network.address(2), 0).into()).await];
    new.answers(NEW, Duration::ZERO);
    let services = [("podinfo", &old), ("podinfo-primary", &old), ("podinfo-canary", &new)];
    for (name, app) in services {
        cluster.apply(&without_proxy(&namespace, name, "http", app.address)).await?;
    }
    let page = Page::start(cluster, &namespace).await;
    let mut caller = Caller::start(page.outbound()).await;
    cluster
        .apply(&format!(
            "apiVersion: weir.dev/v1alpha1\nkind: SmartSplit\nmetadata: {{name: podinfo, namespace: {namespace}}}\nspec:\n\
             \x20 targetRefs: [{{kind: Service, name: podinfo}}]\n\
             \x20 backendRefs: [{{name: podinfo-primary, weight: 80}}, {{name: podinfo-canary, weight: 20}}]\n\
             \x20 steer: {steer}\n"
        ))
        .await?;
    caller.new_version().await;
    sleep(well).await;
    let turned = clock::now();
    new.fails_every(2);
    eventually(PATIENCE, "the new version is at its floor", async || {
        let arguments = ["get", "smartsplit", "podinfo", "--namespace", &namespace, "--output=json"];
        let text = cluster.kubectl(&arguments).await.map_err(|error| format!("{error:#}"))?;
        let object: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let arm = &object["status"]["arms"][1];
        if arm["percent"] == 100.0 * FLOOR { Ok(()) } else { Err(arm.to_string()) }
    })
    .await;
    sleep(AFTER).await;
    let answers = caller.stop()?;
    let since: Vec<_> = answers.iter().copied().filter(|(at, _)| *at >= turned).collect();
    end(&answers, turned, moved(&since))
}

/// When what was given a share of [`GIVEN`] had [`FLOOR`]: the answer that best parts those before from those after.
fn moved(answers: &[(Duration, u16)]) -> Duration {
    let by = |share: f64, status: u16| if status == OLD { (1.0 - share).ln() } else { share.ln() };
    let (mut sum, mut best) = (0.0, (0.0, answers.last().map_or(Duration::ZERO, |(at, _)| *at)));
    for (at, status) in answers.iter().rev() {
        sum += by(FLOOR, *status) - by(GIVEN, *status);
        if sum > best.0 {
            best = (sum, *at);
        }
    }
    best.1
}

/// Says the shares before and after too: they are to be what they should be.
fn end(answers: &[(Duration, u16)], turned: Duration, ended: Duration) -> anyhow::Result<End> {
    let first = answers.iter().find(|(_, status)| *status == NEW).map_or(turned, |(at, _)| *at);
    let share = |from: Duration, to: Duration| {
        let within: Vec<_> = answers.iter().filter(|(at, _)| (from..to).contains(at)).collect();
        100.0 * within.iter().filter(|(_, status)| *status != OLD).count() as f64 / within.len().max(1) as f64
    };
    let after = ended.saturating_sub(turned);
    let until = share(first, ended);
    eprintln!(
        "{:.1} s: had {until:.1} % until then, and {:.1} % since",
        after.as_secs_f64(),
        share(ended + Duration::from_nanos(1), Duration::MAX)
    );
    // Of some hundred answers at least: far from any other share that it may be given.
    anyhow::ensure!((12.0..28.0).contains(&until), "the new version had {until} %");
    let errors = answers.iter().filter(|(at, status)| *status == BAD && *at <= ended).count();
    Ok(End { after, errors })
}

/// Who sends 200 requests a second, from when all is answered as it is at first.
struct Caller {
    answers: Arc<Mutex<Vec<(Duration, u16)>>>,
    connections: JoinSet<anyhow::Result<()>>,
}

impl Caller {
    async fn start(address: SocketAddr) -> Self {
        eventually(PATIENCE, "podinfo answers", async || {
            let mut connection = Connection::open(address, None).await?;
            connection.send(REQUEST).await?;
            let status = connection.status().await?;
            anyhow::ensure!(status == OLD, "{status}");
            Ok::<_, anyhow::Error>(())
        })
        .await;
        let answers = Arc::<Mutex<_>>::default();
        let mut connections = JoinSet::new();
        for number in 0..CONNECTIONS {
            let answers = Arc::clone(&answers);
            connections.spawn(async move {
                sleep(BETWEEN * number / CONNECTIONS).await;
                ask(address, &answers).await
            });
        }
        Self { answers, connections }
    }

    /// Waits for the first answer of the new version.
    async fn new_version(&self) {
        eventually(PATIENCE, "the new version answers", async || {
            let found = self.answers.lock().iter().any(|(_, status)| *status == NEW);
            if found { Ok(()) } else { Err("not yet") }
        })
        .await;
    }

    /// When each answer came, and its status.
    fn stop(&mut self) -> anyhow::Result<Vec<(Duration, u16)>> {
        if let Some(ended) = self.connections.try_join_next() {
            ended??;
        }
        self.connections.abort_all();
        let mut answers = self.answers.lock().clone();
        answers.sort_unstable();
        Ok(answers)
    }
}

/// One request after the other, each at its time or as soon as the one before is answered.
async fn ask(address: SocketAddr, answers: &Mutex<Vec<(Duration, u16)>>) -> anyhow::Result<()> {
    let mut connection = Connection::open(address, None).await?;
    let mut times = interval(BETWEEN);
    loop {
        times.tick().await;
        connection.send(REQUEST).await?;
        let status = connection.status().await?;
        anyhow::ensure!([OLD, NEW, BAD].contains(&status), "the proxy answered {status}");
        answers.lock().push((clock::now(), status));
    }
}

//! Wiring: opens the sockets, starts the rooms as tasks, runs the builder until told to stop.

mod among;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use jiff::Timestamp;
use limiter::{
    policy::tenants::Tenants,
    problem::{Problem, Reason},
};
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{info, warn};

use self::among::Among;
use crate::{
    admin::{
        self,
        pauses::{self, LookRequest, PauseRequest},
    },
    admission::{self, Sound},
    build::{self, Builder},
    checkpoint::{self, Folder, Kept, scopes},
    identity::{self, Door},
    index::Change,
    metrics::{
        HealthBoard, PodSample, Provider, Wanted,
        calls::{self, Calls},
        kubernetes::MetricsApi,
        logs,
        prometheus::{self, Prometheus, calls::Learned},
        scrape::Scraper,
        stream,
    },
    replicas::{self, Replicas},
    status::{self, Status, writer},
    telemetry::traces::{self, Traces},
    watch::{Batch, files, kubernetes, live::Live},
    xds::{
        asks::Ask,
        proxies::Proxies,
        server::{self, Leaving, Served},
        table::Table,
    },
};

/// How long open streams and requests may take to end after SIGTERM, and after proxies were handed over.
const DRAIN: Duration = Duration::from_secs(5);

/// Proxies leave for other replicas within this.
const HAND_OVER: Duration = Duration::from_secs(5);

/// What is to be measured is looked up at most this often while objects change: that is a look at every service.
const LOOK_UP: Duration = Duration::from_millis(250);

/// What `weir run` was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where objects come from.
    pub source: Source,
    /// Where xDS is served.
    pub xds_address: identity::Listen,
    /// Where health, metrics and status are served.
    pub admin_address: SocketAddr,
    /// Who Weir is, and how proxies prove who they are.
    pub identity: identity::Config,
    /// The webhook that the API server asks, if there is one.
    pub webhook: Option<admission::Config>,
    /// What objects may do beyond their own services.
    pub tenants: Tenants,
    /// How often the metrics API of a cluster is asked.
    pub metrics_api_interval: Duration,
    /// How often metrics pages are read.
    pub scrape_interval: Duration,
    /// The Prometheus to ask, if there is one.
    pub prometheus: Option<prometheus::Config>,
    /// The query by which calls are learned from it. `None`: none.
    pub learn_calls: Option<String>,
    /// Where decisions are kept for the next start. `None`: nowhere.
    pub state_folder: Option<PathBuf>,
    /// Where a cluster keeps them. `None`: nowhere.
    pub checkpoint: Option<checkpoint::object::Place>,
    /// The replicas among which this is one. `None`: it is alone.
    pub replicas: Option<replicas::Config>,
    /// Where decisions are traced to. `None`: nowhere.
    pub traces: Option<traces::Config>,
}

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of YAML.
    Folder(PathBuf),
    /// An API server.
    Kubernetes(kubernetes::Config),
}

/// What the builder answers when there is nothing else to do, in the order asked.
#[derive(Debug)]
pub enum Question {
    /// The status of everything.
    Status(oneshot::Sender<Status>),
    /// How far a pause, or its end, has come.
    Pauses(LookRequest),
}

/// Runs Weir until it is `leaving`, then drains.
///
/// # Errors
/// When an address is taken, a certificate's file cannot be used, the folder cannot be listed, the state folder cannot be used, or a task ends by itself.
pub async fn run(config: Config, leaving: CancellationToken) -> anyhow::Result<()> {
    let xds = config.xds_address.bind();
    let xds = xds.with_context(|| format!("--xds-address: xDS cannot be served on {}", config.xds_address))?;
    let admin = bind(config.admin_address, "--admin-address", "the admin page")?;
    let webhook = config.webhook.as_ref();
    let webhook = webhook.map(|webhook| bind(webhook.address, "--webhook-address", "the webhook")).transpose()?;
    let link = config.replicas.as_ref();
    let link = link.map(|replicas| bind(replicas.address, "--replica-address", "the replica link")).transpose()?;
    let (xds_address, admin_address) = (xds.to_string(), admin.local_addr()?);
    // Without another replica there is nobody to hand proxies over to, so there is no use in taking time.
    let within = if config.replicas.is_some() { HAND_OVER } else { Duration::ZERO };
    let begins = leaving.clone();
    let leaving = Leaving { begins: leaving, within };
    let shutdown = CancellationToken::new();

    let mut registry = Registry::default();
    let table = Table::new();
    let proxies = Proxies::new();
    proxies.register(&mut registry);
    let health = HealthBoard::default();
    let counters = Arc::new(status::Counters::default());
    counters.register(&mut registry);

    let (batches_tx, batches_rx) = mpsc::channel(16);
    let (samples_tx, samples_rx) = mpsc::channel(1024);
    let (wanted_tx, wanted_rx) = watch::channel(Arc::default());
    let (question_tx, question_rx) = mpsc::channel(16);
    let (pause_tx, pause_rx) = mpsc::channel(16);
    let (looks_tx, looks_rx) = mpsc::channel(1);
    let (asks_tx, asks_rx) = mpsc::channel(16);
    let (wishes_tx, wishes_rx) = mpsc::channel(1024);
    let (learned_tx, learned_rx) = mpsc::channel(1);
    let refusals = writer::Refusals::default();
    let (ready_tx, ready_rx) = watch::channel(false);
    let (events_tx, events_rx) = mpsc::channel(16);

    let mut tasks = JoinSet::new();
    let meters = identity::Meters::default();
    meters.register(&mut registry);
    let live = Live::default();
    let cluster = match &config.source {
        Source::Kubernetes(source) => Some((source.client.clone(), live.clone())),
        Source::Folder(_) => None,
    };
    tasks.spawn(hand_over(leaving.clone(), proxies.clone(), shutdown.clone()));
    let identity = identity::spawn(config.identity, cluster, meters, &mut tasks, &shutdown);
    let (held, door, desk) = identity.context("--xds-client-ca")?;
    let shares = build::splits::Meters::default();
    shares.register(&mut registry);
    let mut builder = Builder::new(table.clone()).with_tenants(config.tenants).with_split_meters(shares);
    if let Some(folder) = &config.state_folder {
        let (held, kept) = Folder::open(folder, Timestamp::now()).context("--state-dir")?;
        info!(folder = %folder.display(), services = kept.decisions.len(), "decisions are kept");
        builder.apply(damages(&kept), Timestamp::now());
        let metrics = checkpoint::Metrics::default();
        let (keeper, writing) = checkpoint::spawn(held, metrics.clone());
        metrics.register(&keeper, &kept, &mut registry);
        builder = builder.with_checkpoint(kept, keeper);
        tasks.spawn(async move { drop(writing.await) });
    }
    let traces = config.traces.as_ref().map(Traces::start).transpose().context("--otlp-endpoint")?;
    if let Some(traces) = &traces {
        builder = builder.with_tracer(traces.tracer());
    }
    let mut scopes = None;
    match config.source {
        Source::Folder(folder) => {
            let watching = files::spawn(folder.clone(), batches_tx, shutdown.clone());
            watching.with_context(|| format!("--config: the folder {} cannot be listed", folder.display()))?;
        }
        Source::Kubernetes(source) => {
            builder = builder.with_annotated_pages().with_news();
            proxies.collect_news();
            let provider = MetricsApi {
                client: source.client.clone(),
                interval: config.metrics_api_interval,
                all_namespaces: source.namespaces.is_empty(),
            };
            let asking = provider.spawn(wanted_rx.clone(), samples_tx.clone(), health.clone(), shutdown.clone());
            tasks.spawn(async move { drop(asking.await) });
            let meters = writer::Meters::default();
            meters.register(&mut registry);
            let (client, refusals) = (source.client.clone(), refusals.clone());
            let writing = writer::spawn(client, live.clone(), looks_tx, refusals, meters, shutdown.clone());
            tasks.spawn(async move { drop(writing.await) });
            let meters = scopes::Meters::default();
            meters.register(&mut registry);
            let (keeper, writer) = scopes::Writer::new(meters);
            builder = builder.with_keeper(keeper);
            scopes = Some((writer, source.client.clone()));
            let watching = kubernetes::spawn(source, live, batches_tx, shutdown.clone());
            tasks.spawn(async move { drop(watching.await) });
        }
    }
    let drained = CancellationToken::new();
    let replicas = match config.replicas.zip(link) {
        Some((config, listener)) => {
            let meters = replicas::Meters::default();
            meters.register(&mut registry);
            let shared = replicas::Shared {
                proxies: proxies.clone(),
                samples_tx: samples_tx.clone(),
                health: health.clone(),
                events_tx,
                meters,
            };
            let ends = replicas::Ends { leaving: begins.clone(), shutdown: shutdown.clone(), drained: drained.clone() };
            let spawned = replicas::spawn(config, listener, held.clone(), shared, &mut tasks, ends);
            Some(spawned.context("--replica-address")?)
        }
        None => None,
    };
    if let Some((writer, client)) = scopes {
        let epoch = replicas::epochs(replicas.as_ref());
        tasks.spawn(writer.run(client, epoch));
    }
    let mut restores = None;
    if let Some(place) = config.checkpoint {
        let metrics = checkpoint::Metrics::default();
        let (keeper, writer) = place.clone().writer(metrics.clone());
        metrics.register(&keeper, &Kept::default(), &mut registry);
        let epoch = replicas::epochs(replicas.as_ref());
        let drained = drained.clone();
        tasks.spawn(async move {
            writer.run(epoch).await;
            drained.cancel();
        });
        restores = Some((place, keeper));
    } else {
        drained.cancel();
    }
    let scraper = Scraper { interval: config.scrape_interval };
    let learns = config.learn_calls;
    if let Some(config) = config.prometheus {
        let meters = prometheus::Meters::default();
        meters.register(&mut registry);
        if let Some(query) = learns {
            let calls = prometheus::calls::Calls::new(&config, query).context("--prometheus")?;
            tasks.spawn(calls.run(learned_tx, shutdown.clone()));
        }
        let provider = Prometheus::new(config, meters).context("--prometheus")?;
        let asking = provider.spawn(wanted_rx.clone(), samples_tx.clone(), health.clone(), shutdown.clone());
        tasks.spawn(async move { drop(asking.await) });
    }
    let scraping = scraper.spawn(wanted_rx.clone(), samples_tx.clone(), health.clone(), shutdown.clone());
    tasks.spawn(async move { drop(scraping.await) });
    let calls = Arc::new(calls::Outbox::default());
    let outlets = stream::Outlets { samples: samples_tx, calls: calls.clone() };
    let (streams, streaming) =
        stream::spawn(wanted_rx, outlets, health.clone(), door.gate.clone(), table.clone(), shutdown.clone());
    tasks.spawn(async move { drop(streaming.await) });
    let meters = logs::Meters::default();
    meters.register(&mut registry);
    let streams = logs::beside(streams, calls.clone(), meters, door.gate.clone(), table.clone(), shutdown.clone());
    let (calls_tx, calls_rx) = mpsc::channel(1);
    let stop = shutdown.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(calls.drain(&calls_tx)).await;
    });
    if let Some((config, listener)) = config.webhook.zip(webhook) {
        let meters = admission::Meters::default();
        meters.register(&mut registry);
        info!(address = %listener.local_addr()?, "the webhook is served");
        // It warns of a limit above all of it.
        builder = builder.with_traffic();
        tasks.spawn(admission::run(config, listener, held, asks_tx, meters, shutdown.clone()));
    }
    let ready = ready_rx.clone();
    let page = admin::Page {
        registry: Arc::new(registry),
        question_tx,
        pause_tx,
        ready_rx: ready,
        leaving: leaving.begins.clone(),
    };
    tasks.spawn(admin::serve(admin, desk, page, shutdown.clone()));
    let inputs = Inputs {
        batches_rx,
        samples_rx,
        calls_rx,
        question_rx,
        pause_rx,
        looks_rx,
        asks_rx,
        wishes_rx,
        learned_rx,
        wanted_tx,
        ready_tx,
        events_rx,
        health,
        counters,
        refusals,
        replicas,
    };
    let (stop, of_builder) = (shutdown.clone(), proxies.clone());
    tasks.spawn(async move {
        if let Some((place, keeper)) = restores {
            let Some(kept) = stop.run_until_cancelled(place.read()).await else { return };
            builder.apply(damages(&kept), Timestamp::now());
            builder = builder.with_checkpoint(kept, keeper);
        }
        build(builder, of_builder, inputs, stop).await;
    });
    let served = Served { table, proxies, asks_tx: wishes_tx };
    tasks.spawn(serve_when_ready(ready_rx, served, streams, xds, door, leaving));
    info!(xds = %xds_address, admin = %admin_address, "weir is running");

    let mut failure = None;
    while let Some(ended) = tasks.join_next().await {
        if !shutdown.is_cancelled() && begins.is_cancelled() {
            // The xDS server, whose proxies have left.
            continue;
        }
        if !shutdown.is_cancelled() {
            failure = Some(anyhow::anyhow!("a task of Weir ended by itself: {ended:?}"));
            shutdown.cancel();
        }
        // The first task that ended starts the clock for the others.
        if tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            warn!("streams were still open after {DRAIN:?}; ending them");
            tasks.abort_all();
        }
    }
    if let Some(traces) = traces {
        let _ = tokio::task::spawn_blocking(|| traces.stop()).await;
    }
    info!("weir has stopped; proxies keep what they have");
    failure.map_or(Ok(()), Err)
}

/// Damages as status shows them: by file, until the next start.
fn damages(kept: &Kept) -> Vec<Change> {
    let problem = |damage: &checkpoint::Damage| Problem {
        field: damage.place(),
        reason: Reason::Invalid,
        message: damage.reason.clone(),
        help: Some("what the line decided is lost and begins anew; the file was copied aside".to_owned()),
        place: None,
    };
    let of_file = |(path, damages): (&PathBuf, &Vec<checkpoint::Damage>)| Change::Source {
        origin: path.display().to_string(),
        problems: damages.iter().map(problem).collect(),
    };
    kept.damaged.iter().map(of_file).collect()
}

fn bind(address: SocketAddr, flag: &str, what: &str) -> anyhow::Result<TcpListener> {
    identity::bind(address).with_context(|| format!("{flag}: {what} cannot be served on {address}"))
}

/// Nothing is served before the first look at all objects and one build.
async fn serve_when_ready(
    mut ready_rx: watch::Receiver<bool>,
    served: Served,
    streams: Routes,
    listener: identity::Listener,
    door: Door,
    leaving: Leaving,
) {
    tokio::select! {
        () = leaving.begins.cancelled() => return,
        ready = ready_rx.wait_for(|ready| *ready) => if ready.is_err() { return },
    }
    if let Err(error) = server::serve(served, streams, listener, door, leaving).await {
        warn!(%error, "the xDS server ended");
    }
}

/// Ends everything once the proxies have left.
async fn hand_over(leaving: Leaving, proxies: Proxies, shutdown: CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = leaving.begins.cancelled() => {}
    }
    let mut changes = proxies.changes();
    let empty = async { while proxies.streams() > 0 && changes.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(leaving.within, empty).await;
    shutdown.cancel();
}

struct Inputs {
    batches_rx: mpsc::Receiver<Batch>,
    samples_rx: mpsc::Receiver<Vec<PodSample>>,
    calls_rx: mpsc::Receiver<Vec<Calls>>,
    question_rx: mpsc::Receiver<Question>,
    pause_rx: mpsc::Receiver<PauseRequest>,
    looks_rx: mpsc::Receiver<writer::Look>,
    asks_rx: mpsc::Receiver<admission::Ask>,
    wishes_rx: mpsc::Receiver<Ask>,
    learned_rx: mpsc::Receiver<Vec<Learned>>,
    events_rx: mpsc::Receiver<replicas::Event>,
    wanted_tx: watch::Sender<Arc<Wanted>>,
    ready_tx: watch::Sender<bool>,
    health: HealthBoard,
    counters: Arc<status::Counters>,
    refusals: writer::Refusals,
    replicas: Option<Replicas>,
}

/// The only task that touches the builder.
async fn build(mut builder: Builder, proxies: Proxies, mut inputs: Inputs, shutdown: CancellationToken) {
    let mut transitions = status::Transitions::default();
    let mut lookup = Lookup::default();
    let mut latest = Timestamp::MIN;
    let mut among = Among::new(inputs.replicas.take());
    let mut is_read = false;
    loop {
        if among.judge(&mut builder) {
            lookup.ask(&builder, &inputs);
        }
        if is_read && among.is_settled() {
            inputs.ready_tx.send_if_modified(|ready| !std::mem::replace(ready, true));
        }
        let now = Timestamp::now();
        if now < std::mem::replace(&mut latest, now) {
            builder.set_back(now);
        }
        let due = builder.next().map(|next| {
            let wait = now.duration_until(next);
            Instant::now() + Duration::try_from(wait).unwrap_or_default()
        });
        let due = due.into_iter().chain(lookup.due).min();
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // In this order: the kill switch waits for nothing, a decision for no long list of files that came at the same time.
            biased;
            () = shutdown.cancelled() => {
                builder.keep_all(Timestamp::now());
                return;
            }
            Some(PauseRequest { switch, service, reply_tx }) = inputs.pause_rx.recv() => {
                let answer = pauses::switch(&mut builder, &proxies, switch, service.as_ref(), Timestamp::now());
                if answer.is_ok() {
                    among.switched(&builder, replicas::wire::Switch { pause: switch == pauses::Switch::Pause, service });
                }
                let _ = reply_tx.send(answer);
            }
            // A request is held for each of these.
            Some(wish) = inputs.wishes_rx.recv() => {
                let mut wishes = vec![wish];
                while let Ok(wish) = inputs.wishes_rx.try_recv() {
                    wishes.push(wish);
                }
                builder.ask(wishes, Timestamp::now());
            }
            Some(mut samples) = inputs.samples_rx.recv() => {
                for _ in 0..inputs.samples_rx.len() {
                    samples.extend(inputs.samples_rx.try_recv().into_iter().flatten());
                }
                among.judge(&mut builder);
                among.observe(&mut builder, samples);
                // Samples may come without end; whatever else waits has its turn after them.
                builder.tick(Timestamp::now());
                lookup.tick(&builder, &inputs);
                if let Ok(event) = inputs.events_rx.try_recv() {
                    among.hear(&mut builder, &proxies, event);
                }
                if let Ok(calls) = inputs.calls_rx.try_recv() {
                    builder.hear_calls(calls, Timestamp::now());
                }
                if let Ok(batch) = inputs.batches_rx.try_recv() {
                    is_read |= take(&mut builder, &mut lookup, &inputs, batch);
                }
                if let Ok(question) = inputs.question_rx.try_recv() {
                    answer(&builder, &proxies, &inputs, &among, &mut transitions, question);
                }
                if let Ok(ask) = inputs.asks_rx.try_recv() {
                    warn_of(&builder, &inputs, ask);
                }
                if let Ok(look) = inputs.looks_rx.try_recv()
                    && among.reports()
                {
                    show(&mut builder, &proxies, &inputs, look);
                }
            }
            Some(calls) = inputs.calls_rx.recv() => builder.hear_calls(calls, Timestamp::now()),
            Some(learned) = inputs.learned_rx.recv() => builder.learn(learned, Timestamp::now()),
            Some(event) = inputs.events_rx.recv() => among.hear(&mut builder, &proxies, event),
            () = among.changed() => {}
            () = timer => {
                among.judge(&mut builder);
                builder.tick(Timestamp::now());
                lookup.tick(&builder, &inputs);
            }
            Some(batch) = inputs.batches_rx.recv() => is_read |= take(&mut builder, &mut lookup, &inputs, batch),
            Some(question) = inputs.question_rx.recv() => {
                answer(&builder, &proxies, &inputs, &among, &mut transitions, question);
            }
            Some(ask) = inputs.asks_rx.recv() => warn_of(&builder, &inputs, ask),
            // Only the one that leads writes statuses.
            Some(look) = inputs.looks_rx.recv() => if among.reports() {
                show(&mut builder, &proxies, &inputs, look);
            },
            else => return,
        }
        inputs.counters.set(builder.counts());
    }
}

/// Takes in what the source of objects says now. Returns whether everything has been read once.
fn take(builder: &mut Builder, lookup: &mut Lookup, inputs: &Inputs, batch: Batch) -> bool {
    if builder.apply(batch.changes, Timestamp::now()) {
        lookup.ask(builder, inputs);
    }
    if batch.initial {
        builder.forget_unseen(Timestamp::now());
    }
    batch.initial
}

/// Tells the providers what the rules need measured: at once after a quiet time, else at the end of [`LOOK_UP`].
#[derive(Default)]
struct Lookup {
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Lookup {
    fn ask(&mut self, builder: &Builder, inputs: &Inputs) {
        let next = self.last.map_or_else(Instant::now, |last| last + LOOK_UP);
        self.due = Some(next);
        self.tick(builder, inputs);
    }

    fn tick(&mut self, builder: &Builder, inputs: &Inputs) {
        let now = Instant::now();
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        *self = Self { last: Some(now), due: None };
        let wanted = builder.wanted();
        inputs.wanted_tx.send_if_modified(|old| {
            let differs = **old != *wanted;
            *old = wanted;
            differs
        });
    }
}

/// Gives the writer of statuses what may be new.
fn show(builder: &mut Builder, proxies: &Proxies, inputs: &Inputs, look: writer::Look) {
    if *inputs.ready_tx.borrow() {
        let statuses = status::statuses(builder, proxies, &inputs.health, look.all, Timestamp::now());
        let _ = look.reply_tx.send(statuses);
    }
}

/// Tells the webhook what is odd about a policy. Before everything was read nobody knows.
fn warn_of(builder: &Builder, inputs: &Inputs, ask: admission::Ask) {
    if *inputs.ready_tx.borrow() {
        let _ = ask.reply_tx.send(match &ask.object {
            Sound::Policy(policy) => admission::warnings(policy, builder, &inputs.health),
            Sound::Lazy(lazy) => admission::lazy_warnings(lazy, builder.index()),
            Sound::Split(split) => {
                let warnings = admission::split_warnings(split, builder.index()).into_iter();
                warnings.map(|(field, message)| format!("{field}: {message}")).collect()
            }
        });
    }
}

fn answer(
    builder: &Builder,
    proxies: &Proxies,
    inputs: &Inputs,
    among: &Among,
    transitions: &mut status::Transitions,
    question: Question,
) {
    match question {
        Question::Status(reply_tx) => {
            let mut status = status::status(builder, proxies, &inputs.health, Timestamp::now());
            status.replica = among.report();
            status.problems.extend(inputs.refusals.problems());
            transitions.keep(&mut status);
            let _ = reply_tx.send(status);
        }
        Question::Pauses(LookRequest { service, reply_tx }) => {
            let _ = reply_tx.send(pauses::look_at(builder, proxies, service.as_ref()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{CART, changes};

    const POLICY: &str = "apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {name: cart, namespace: a}
spec: {targetRefs: [{kind: Service, name: cart}], rules: [{name: all, limit: 10 requests per second per pod}]}
";

    #[tokio::test]
    async fn looks_wait_for_files_and_the_switch_does_not() {
        let (batches_tx, batches_rx) = mpsc::channel(1);
        let (_samples_tx, samples_rx) = mpsc::channel(1);
        let (_calls_tx, calls_rx) = mpsc::channel(1);
        let (question_tx, question_rx) = mpsc::channel(1);
        let (pause_tx, pause_rx) = mpsc::channel(1);
        let (wanted_tx, _wanted_rx) = watch::channel(Arc::default());
        let (ready_tx, _ready_rx) = watch::channel(false);
        let (look_tx, look_rx) = oneshot::channel();
        let (moved_tx, moved_rx) = oneshot::channel();

        // All three are there before the builder looks for the first time.
        question_tx.send(Question::Pauses(LookRequest { service: None, reply_tx: look_tx })).await.unwrap();
        let changes = changes(&format!("{CART}{POLICY}"));
        batches_tx.send(Batch { changes, initial: true }).await.unwrap();
        let pause = PauseRequest { switch: pauses::Switch::Pause, service: None, reply_tx: moved_tx };
        pause_tx.send(pause).await.unwrap();

        let (health, counters) = (HealthBoard::default(), Arc::default());
        let (_looks_tx, looks_rx) = mpsc::channel(1);
        let (_asks_tx, asks_rx) = mpsc::channel(1);
        let (_wishes_tx, wishes_rx) = mpsc::channel(1);
        let (_events_tx, events_rx) = mpsc::channel(1);
        let refusals = writer::Refusals::default();
        let inputs = Inputs {
            batches_rx,
            samples_rx,
            calls_rx,
            question_rx,
            pause_rx,
            looks_rx,
            asks_rx,
            wishes_rx,
            learned_rx: mpsc::channel(1).1,
            wanted_tx,
            ready_tx,
            health,
            counters,
            refusals,
            events_rx,
            replicas: None,
        };
        let shutdown = CancellationToken::new();
        let building = tokio::spawn(build(Builder::new(Table::new()), Proxies::new(), inputs, shutdown.clone()));
        assert_eq!(moved_rx.await.unwrap().unwrap().proxies, 0, "before the files");
        let looked = look_rx.await.unwrap().unwrap();
        assert_eq!((looked.proxies, looked.paused.all), (1, true), "after them");
        shutdown.cancel();
        building.await.unwrap();
    }
}

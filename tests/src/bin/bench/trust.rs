//! What it costs that nobody else can read, and that everybody proves who it is: the same streams in plain text, over TLS with a
//! client certificate, and over TLS with a token, each from a `weir run` of its own, on one real API server.
//!
//! All streams are of one pod, so that they differ in nothing else. Tokens are all different, so that the API server judges each.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use operator::xds::client::DeltaClient;
use serde_json::json;
use testkit::{
    authority::{Authority, Signed},
    cluster::Cluster,
    dial,
    mesh::{Service, limiter, put},
    ports::Network,
    temp_dir,
    weir::Weir,
};
use tokio::task::JoinSet;
use tonic::metadata::MetadataMap;

use crate::{
    clock, in_a_task,
    report::{Durations, Row, ms, us},
    streams::{self, Arrivals},
};

const STREAMS: usize = 1000;
const CHANGES: usize = 20;
const NAME: &str = "weir.example";
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    in_a_task(measure())
}

/// How clients come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    Certificate,
    Token,
}

impl Way {
    const ALL: [Self; 3] = [Self::Plain, Self::Certificate, Self::Token];

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain text",
            Self::Certificate => "TLS and a client certificate",
            Self::Token => "TLS and a token",
        }
    }
}

/// What was measured of one way.
struct Cost {
    connection: Duration,
    first: Duration,
    push: Duration,
    last: Duration,
    memory: f64,
}

/// What clients need.
struct Place {
    cluster: Cluster,
    namespace: String,
    service: Service,
    certificates: tempfile::TempDir,
    authorities: String,
    own: Signed,
    token: String,
}

async fn measure() -> anyhow::Result<Vec<Row>> {
    let cluster = Cluster::start().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("bench").await;
    let service = Service::start_in(Network::routable(), &namespace, "cart", 1).await;
    cluster.put(&service).await;
    let (servers, clients, certificates) = (Authority::new("servers"), Authority::new("clients"), temp_dir());
    let signed = servers.server(NAME, -1, 30);
    put(certificates.path(), "tls.crt", &signed.certificate);
    put(certificates.path(), "tls.key", &signed.key);
    put(certificates.path(), "clients.crt", clients.pem());
    let own = clients.client(&format!("{namespace}/{}", service.pods[0].name), None);
    let token = cluster.pod_token(&namespace, &service.pods[0].name).await;
    let authorities = servers.pem().to_owned();
    let place = Place { cluster, namespace, service, certificates, authorities, own, token };
    let mut costs = Vec::new();
    for way in Way::ALL {
        eprintln!("{STREAMS} streams: {}", way.name());
        costs.push((way, cost(&place, way).await?));
    }
    let plain = &costs[0].1;
    let times = |one: f64, plain: f64| format!("{:.2} x", one / plain);
    let mut rows = Vec::new();
    for (way, cost) in &costs {
        let beside = |one: Duration, plain: Duration| match way {
            Way::Plain => String::new(),
            _ => format!(" ({})", times(one.as_secs_f64(), plain.as_secs_f64())),
        };
        let name = way.name();
        let memory =
            if *way == Way::Plain { String::new() } else { format!(" ({})", times(cost.memory, plain.memory)) };
        rows.extend([
            Row::plain(
                format!("{name}: CPU of Weir for each connection, to its first state"),
                format!("{}{}", us(cost.connection), beside(cost.connection, plain.connection)),
            ),
            Row::plain(
                format!("{name}: one connection alone, from nothing to its first answer, median"),
                format!("{}{}", ms(cost.first), beside(cost.first, plain.first)),
            ),
            Row::plain(
                format!("{name}: CPU of Weir for each push and its ACK"),
                format!("{}{}", us(cost.push), beside(cost.push, plain.push)),
            ),
            Row::plain(
                format!("{name}: first to last of {STREAMS} streams that have a change, median"),
                format!("{}{}", ms(cost.last), beside(cost.last, plain.last)),
            ),
            Row::plain(format!("{name}: memory of each idle stream"), format!("{:.1} KB{memory}", cost.memory)),
        ]);
    }
    Ok(rows)
}

impl Place {
    async fn weir(&self, way: Way) -> Weir {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let (folder, clients) =
            (text(self.certificates.path().to_owned()), text(self.certificates.path().join("clients.crt")));
        let mut arguments = vec!["--namespace", self.namespace.as_str()];
        arguments.extend(match way {
            Way::Plain => vec!["--xds-plaintext"],
            Way::Certificate => vec!["--certificate-dir", &folder, "--xds-client-ca", &clients],
            Way::Token => vec!["--certificate-dir", &folder],
        });
        let (xds, admin) = (testkit::ports::free(), testkit::ports::free());
        let mut weir = Weir::spawn_trusted(self.cluster.kubeconfig(), xds, admin, &arguments);
        weir.ready().await;
        weir
    }

    /// The metadata of so many streams.
    fn credentials(&self, way: Way, number: usize) -> MetadataMap {
        match way {
            Way::Token => {
                // As a new token is: another text, and as good.
                let token =
                    self.cluster.resigned(&self.token, |claims| claims["jti"] = json!(format!("bench-{number}")));
                dial::bearer(&token)
            }
            Way::Plain | Way::Certificate => MetadataMap::new(),
        }
    }

    async fn connect(&self, weir: &Weir, way: Way, metadata: MetadataMap) -> anyhow::Result<DeltaClient> {
        let node = self.service.node(0);
        if way == Way::Plain {
            return Ok(DeltaClient::connect(weir.xds, &node).await?);
        }
        let own = (way == Way::Certificate).then_some(&self.own);
        let channel = dial::dial(weir.xds, NAME, &self.authorities, own).await?;
        Ok(DeltaClient::open_with(channel, &node, metadata).await?)
    }

    async fn limit(&self, number: usize) -> anyhow::Result<()> {
        let rule = format!("- name: all\n  limit: {} requests per second per pod", 10 + number);
        self.cluster.apply(&limiter(&self.namespace, "cart", &rule)).await.map(drop)
    }
}

async fn cost(place: &Place, way: Way) -> anyhow::Result<Cost> {
    place.limit(0).await?;
    let weir = place.weir(way).await;
    let process = weir.id().context("it runs")?;
    let cpu = || clock::cpu_of(process).context("it runs");
    // One after another first: that is what a proxy waits for. What is new to the process is new no more.
    let mut alone = Vec::new();
    for number in 0..100 {
        let metadata = place.credentials(way, 10_000 + number);
        let began = clock::now();
        let mut client = place.connect(&weir, way, metadata).await?;
        client.subscribe(operator::xds::ResourceType::Cluster, &[]).await?;
        client.next().await?;
        alone.push(clock::now().saturating_sub(began));
    }
    let credentials: Vec<MetadataMap> = (0..STREAMS).map(|number| place.credentials(way, number)).collect();
    tokio::time::sleep(SETTLE).await;
    let (before, empty) = (cpu()?, clock::resident_of(process)?);
    let arrivals = Arc::new(Arrivals::new(STREAMS));
    let mut clients = JoinSet::new();
    for metadata in credentials {
        // One connection after another; their first states come meanwhile.
        let client = place.connect(&weir, way, metadata).await?;
        let arrivals = arrivals.clone();
        clients.spawn(async move { streams::follow(client, &arrivals).await });
    }
    let all = async |clients: &mut JoinSet<anyhow::Result<()>>| {
        tokio::select! {
            all = arrivals.all() => all,
            Some(ended) = clients.join_next() => { ended??; anyhow::bail!("a client ended") }
        }
    };
    all(&mut clients).await?;
    let connected = cpu()? - before;
    tokio::time::sleep(SETTLE).await;
    let idle = clock::resident_of(process)?;
    let mut spread = Vec::new();
    let before = cpu()?;
    for number in 1..=CHANGES {
        arrivals.begin();
        place.limit(number).await?;
        let last = all(&mut clients).await?;
        spread.push(last.saturating_sub(arrivals.first()));
    }
    // What Weir does by itself meanwhile is the same for all.
    let pushed = cpu()? - before;
    drop(clients);
    weir.stop().await?;
    let (streams, pushes) = (u32::try_from(STREAMS)?, u32::try_from(STREAMS * CHANGES)?);
    Ok(Cost {
        connection: connected / streams,
        first: Durations::new(alone)?.percentile(50),
        push: pushed / pushes,
        last: Durations::new(spread)?.percentile(50),
        memory: idle.saturating_sub(empty) as f64 / STREAMS as f64 / 1000.0,
    })
}

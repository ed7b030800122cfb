//! One real Envoy under the real builder and xDS server, all fed by hand: no folder, no metrics.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use jiff::Timestamp;
use operator::{
    build::Builder,
    demo::envoy::Envoy,
    index::Change,
    xds::{NodeKey, bootstrap, proxies::Proxies, server, table::Table},
};
use tempfile::TempDir;
use testkit::ports;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::{http, mesh};

const PATIENCE: Duration = Duration::from_secs(20);
/// From a proxy's ACK, given by its main thread, to its workers' use of it, with much to spare.
const SETTLED: Duration = Duration::from_millis(200);

/// See the module. Everything ends when it is dropped.
pub(crate) struct Rig {
    /// Where the proxy takes requests.
    pub(crate) address: SocketAddr,
    /// Before the port, in the names of statistics of its connections.
    side: &'static str,
    pub(crate) builder: Builder,
    runtime: Runtime,
    proxies: Proxies,
    node: NodeKey,
    envoy: Envoy,
    _folder: TempDir,
}

/// Pod `checkout-0` with its proxy on this port of loopback.
pub(crate) fn pod(address: SocketAddr, application: SocketAddr, metrics: SocketAddr) -> String {
    let (namespace, service, port) = (mesh::NAMESPACE, mesh::SERVICE, address.port());
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: {namespace}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1], targetRef: {{kind: Pod, name: {service}-0}}}}]
---
apiVersion: v1
kind: Pod
metadata:
  name: {service}-0
  namespace: {namespace}
  annotations: {{inbound.weir.dev/{port}: \"{application}\", prometheus.io/port: \"{}\"}}
spec:
  containers: [{{name: app, image: app, resources: {{limits: {{cpu: \"1\", memory: 128Mi}}}}}}]
",
        metrics.port()
    )
}

/// Starts Envoy for pod `checkout-0`, its files in `folder`, and waits until it is live.
pub(crate) async fn start_envoy(xds_address: SocketAddr, folder: &TempDir) -> anyhow::Result<Envoy> {
    let written = bootstrap::bootstrap(&bootstrap::Options {
        service: mesh::SERVICE.to_owned(),
        namespace: mesh::NAMESPACE.to_owned(),
        pod: format!("{}-0", mesh::SERVICE),
        xds_address: xds_address.into(),
        trust: None,
        admin_address: ports::free(),
        protocol: bootstrap::Protocol::Delta,
        metrics_interval: bootstrap::DEFAULT_METRICS_INTERVAL,
    });
    let mut envoy = Envoy::start(&written, folder.path(), "envoy", &[])?;
    envoy.wait_ready(PATIENCE).await?;
    Ok(envoy)
}

impl Rig {
    /// Starts everything, without any limit, and waits until the proxy has it.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (address, application) = (ports::free(), http::spawn_upstream()?);
        Self::start_with(address, "in", &pod(address, application, application))
    }

    /// The same, of a proxy that takes what its application sends to others, of which `others` are the manifests.
    pub(crate) fn start_calling(others: &str) -> anyhow::Result<Self> {
        let (inbound, address, application) = (ports::free(), ports::free(), http::spawn_upstream()?);
        let annotation = "annotations: {";
        let calling = format!("{annotation}outbound.weir.dev/listen: \"{address}\", ");
        let text = pod(inbound, application, application).replace(annotation, &calling);
        Self::start_with(address, "out", &(text + others))
    }

    fn start_with(address: SocketAddr, side: &'static str, manifests: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let (table, proxies) = (Table::new(), Proxies::new());
        let mut builder = Builder::new(table.clone());
        builder.apply(mesh::changes(manifests)?, Timestamp::now());
        let folder = testkit::temp_dir();
        let (serving, folder_of_envoy) = (proxies.clone(), &folder);
        let envoy = runtime.block_on(async move {
            let listener = operator::identity::bind((Ipv4Addr::LOCALHOST, 0).into())?;
            let xds_address = listener.local_addr()?;
            tokio::spawn(server::serve(
                // Nobody asks for what is not there.
                server::Served { table, proxies: serving, asks_tx: tokio::sync::mpsc::channel(1).0 },
                Default::default(),
                listener.into(),
                operator::identity::Door::open(),
                server::Leaving::at_once(CancellationToken::new()),
            ));
            start_envoy(xds_address, folder_of_envoy).await
        })?;
        let node = NodeKey::new(mesh::NAMESPACE, mesh::SERVICE, format!("{}-0", mesh::SERVICE));
        let rig = Self { address, side, builder, runtime, proxies, node, envoy, _folder: folder };
        rig.settle()?;
        Ok(rig)
    }

    /// Hands changes to the builder, which pushes them.
    pub(crate) fn apply(&mut self, changes: Vec<Change>) {
        self.builder.apply(changes, Timestamp::now());
    }

    /// Waits until the proxy has acknowledged and uses what was pushed.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        let wanted = self.builder.table().versions(&self.node);
        let mut waited = Duration::ZERO;
        while !self.proxies.programmed(&self.node, &wanted) {
            anyhow::ensure!(
                waited < PATIENCE,
                "the proxy does not acknowledge: {:?}",
                self.proxies.refusals(&self.node)
            );
            std::thread::sleep(Duration::from_millis(10));
            waited += Duration::from_millis(10);
        }
        std::thread::sleep(SETTLED);
        Ok(())
    }

    /// Sum of the proxy's counters of its clients' connections whose name ends so.
    pub(crate) fn connections(&self, counter: &str) -> anyhow::Result<u64> {
        let path = format!("/stats?filter=http.{}_{}.{counter}$", self.side, self.address.port());
        let (status, text) = self.runtime.block_on(self.envoy.admin(&path))?;
        anyhow::ensure!(status == 200, "Envoy's admin page answers {status}");
        let numbers = text.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok());
        let numbers: Vec<u64> = numbers.collect();
        numbers.iter().copied().reduce(|sum, number| sum + number).with_context(|| format!("Envoy has no {path}"))
    }
}

//! A caller's proxy.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use operator::{demo::envoy::Envoy, xds::bootstrap};
use serde_json::json;
use tempfile::TempDir;
use testkit::{mesh::put, ports};

use super::{USED, host};
use crate::{http, mesh::NAMESPACE};

const PATIENCE: Duration = Duration::from_secs(180);
/// Envoy's own longest: what is measured is not disturbed by what it streams.
const SELDOM: Duration = Duration::from_secs(299);

/// How a caller's proxy comes to know services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Not at all: it has no way out.
    Nothing,
    /// It has all, and Envoy counts all that it can of each.
    Everything,
    /// It has all, and counts what `weir bootstrap` says.
    Statistics,
    /// As that, and what it counts of a service it counts from the first call on.
    Deferred,
    /// It has what is listed.
    Declared,
    /// It has what was called.
    OnDemand,
}

impl Form {
    pub(super) const ALL: [Self; 6] =
        [Self::Nothing, Self::Everything, Self::Statistics, Self::Deferred, Self::Declared, Self::OnDemand];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no way out",
            Self::Everything => "everything, with all statistics",
            Self::Statistics => "everything, with the statistics of `weir bootstrap`",
            Self::Deferred => "everything, with those, created at the first call",
            Self::Declared => "load Declared",
            Self::OnDemand => "load OnDemand",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Everything => "everything",
            Self::Statistics => "statistics",
            Self::Deferred => "deferred",
            Self::Declared => "declared",
            Self::OnDemand => "on-demand",
        }
    }

    /// The `LazyConfig` of such callers.
    fn lazy_config(self) -> String {
        let spec = match self {
            Self::Nothing | Self::Everything | Self::Statistics | Self::Deferred => return String::new(),
            Self::Declared => {
                let used: Vec<String> = (0..USED).map(host).collect();
                format!("load: Declared, always: [{}]", used.join(", "))
            }
            Self::OnDemand => "load: OnDemand".to_owned(),
        };
        let label = self.label();
        format!(
            "---
apiVersion: weir.dev/v1alpha1
kind: LazyConfig
metadata: {{name: {label}, namespace: {NAMESPACE}}}
spec: {{workloadSelector: {{matchLabels: {{app: {label}}}}}, {spec}}}
"
        )
    }
}

/// What Envoy says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// Bytes.
    pub(super) allocated: u64,
    pub(super) clusters: u64,
}

/// See the module.
pub(super) struct Caller {
    /// Where its application sends requests.
    pub(super) address: SocketAddr,
    /// From the start of the process to the answer to its first request; without a way out, until it is live.
    pub(super) first_answer: Duration,
    envoy: Envoy,
    _home: TempDir,
}

impl Caller {
    /// Starts it once Weir knows it, and waits until `host` is answered.
    pub(super) async fn start(
        form: Form,
        folder: &Path,
        xds: SocketAddr,
        application: SocketAddr,
        host: &str,
    ) -> anyhow::Result<Self> {
        let (inbound, address, label) = (ports::free(), ports::free(), form.label());
        let way_out = match form {
            Form::Nothing => String::new(),
            _ => format!(", outbound.weir.dev/listen: \"{address}\""),
        };
        let port = inbound.port();
        let text = format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {label}, namespace: {NAMESPACE}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {label}-1, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: {label}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1], targetRef: {{kind: Pod, name: {label}-0}}}}]
---
apiVersion: v1
kind: Pod
metadata:
  name: {label}-0
  namespace: {NAMESPACE}
  labels: {{app: {label}}}
  annotations: {{inbound.weir.dev/{port}: \"{application}\"{way_out}}}
spec: {{containers: [{{name: app, image: app}}]}}
{}",
            form.lazy_config()
        );
        put(folder, &format!("caller.{label}.yaml"), &text);
        let mut written = bootstrap::bootstrap(&bootstrap::Options {
            service: label.to_owned(),
            namespace: NAMESPACE.to_owned(),
            pod: format!("{label}-0"),
            xds_address: xds.into(),
            trust: None,
            admin_address: ports::free(),
            protocol: bootstrap::Protocol::Delta,
            metrics_interval: SELDOM,
        });
        match form {
            Form::Everything => drop(written.as_object_mut().context("a bootstrap")?.remove("stats_config")),
            Form::Deferred => written["deferred_stat_options"] = json!({"enable_deferred_creation_stats": true}),
            _ => {}
        }
        // What is known of the pod is then what its proxy begins with.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let home = testkit::temp_dir();
        let begun = Instant::now();
        let mut envoy = Envoy::start(&written, home.path(), "envoy", &[])?;
        envoy.wait_ready(PATIENCE).await?;
        let mut caller = Self { address, first_answer: begun.elapsed(), envoy, _home: home };
        if form != Form::Nothing {
            loop {
                if matches!(caller.get(host).await, Ok(200)) {
                    break;
                }
                anyhow::ensure!(begun.elapsed() < PATIENCE, "{}: {host} is not answered", form.name());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            caller.first_answer = begun.elapsed();
        }
        Ok(caller)
    }

    /// GETs from a service: the status.
    pub(super) async fn get(&self, host: &str) -> anyhow::Result<u16> {
        let mut connection = http::Connection::open(self.address, None).await?;
        connection.send(&request(host)).await?;
        connection.status().await
    }

    /// What it has allocated, once it has settled.
    pub(super) async fn memory(&self) -> anyhow::Result<Memory> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let text = self.page("/memory").await?;
        let memory: serde_json::Value = serde_json::from_str(&text)?;
        let allocated = memory["allocated"].as_str().context("/memory says what is allocated")?.parse()?;
        Ok(Memory { allocated, clusters: self.sum("^cluster_manager.active_clusters$").await? })
    }

    /// Bytes that it received from Weir since its start, by whatever stream.
    pub(super) async fn received(&self) -> anyhow::Result<u64> {
        self.sum("^cluster.weir.upstream_cx_rx_bytes_total$").await
    }

    async fn sum(&self, filter: &str) -> anyhow::Result<u64> {
        let text = self.page(&format!("/stats?filter={filter}")).await?;
        Ok(text.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok()).sum())
    }

    async fn page(&self, path: &str) -> anyhow::Result<String> {
        let (status, text) = self.envoy.admin(path).await?;
        anyhow::ensure!(status == 200, "Envoy's admin page answers {status} to {path}");
        Ok(text)
    }
}

/// A GET request of this host.
pub(super) fn request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes()
}

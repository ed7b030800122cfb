//! Real Envoys in front of the pods of a [`Service`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use operator::{
    demo::envoy::Envoy,
    xds::bootstrap::{DEFAULT_METRICS_INTERVAL, Options, Protocol, Trust, Upstream, bootstrap},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{mesh::Service, ports, temp_dir, weir::Weir};

const START: Duration = Duration::from_secs(30);

/// A running Envoy in front of one pod. Killed when dropped; its log is printed when the test is failing.
#[derive(Debug)]
pub struct Proxy {
    envoy: Envoy,
    // Holds its configuration and its log.
    home: TempDir,
}

impl Proxy {
    /// Starts the proxy of a pod and waits until it is live.
    ///
    /// # Panics
    ///
    /// When it does not get live.
    pub async fn start(weir: &Weir, service: &Service, pod: usize) -> Self {
        Self::start_with(weir, service, pod, |_| {}).await
    }

    /// Starts the proxies of all pods.
    ///
    /// # Panics
    ///
    /// When one does not get live.
    pub async fn start_all(weir: &Weir, service: &Service) -> Vec<Self> {
        let mut proxies = Vec::new();
        for pod in 0..service.pods.len() {
            proxies.push(Self::start(weir, service, pod).await);
        }
        proxies
    }

    /// As [`Self::start`], after a change of the bootstrap.
    ///
    /// # Panics
    ///
    /// When it does not get live.
    pub async fn start_with(weir: &Weir, service: &Service, pod: usize, change: impl FnOnce(&mut Value)) -> Self {
        Self::start_at(weir.xds, service, pod, change).await
    }

    /// As [`Self::start_with`], of whoever serves xDS at this address.
    ///
    /// # Panics
    ///
    /// When it does not get live.
    pub async fn start_at(
        xds_address: SocketAddr,
        service: &Service,
        pod: usize,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let node = (service.namespace.as_str(), service.name.as_str(), service.pods[pod].name.as_str());
        Self::start_as(xds_address, node, change).await
    }

    /// As [`Self::start_at`], of a namespace, service and pod that only manifests know.
    ///
    /// # Panics
    ///
    /// When it does not get live.
    pub async fn start_as(xds_address: SocketAddr, node: (&str, &str, &str), change: impl FnOnce(&mut Value)) -> Self {
        Self::start_trusting(xds_address, node, None, change).await
    }

    /// As [`Self::start_as`], with TLS and a credential. Whether Weir accepts that is another matter: a proxy gets live without it.
    ///
    /// # Panics
    ///
    /// When it does not get live.
    pub async fn start_trusting(
        xds_address: impl Into<Upstream>,
        (namespace, service, pod): (&str, &str, &str),
        trust: Option<Trust>,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        for (name, secret) in trust.iter().flat_map(Trust::secrets) {
            let folder = trust.as_ref().map(|trust| trust.secrets_folder.clone()).unwrap_or_default();
            std::fs::write(folder.join(name), secret.to_string()).expect("the folder for secrets can be written");
        }
        let mut configuration = bootstrap(&Options {
            service: service.to_owned(),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            xds_address: xds_address.into(),
            trust,
            admin_address: ports::free(),
            protocol: Protocol::Delta,
            metrics_interval: DEFAULT_METRICS_INTERVAL,
        });
        change(&mut configuration);
        let home = temp_dir();
        let envoy = Envoy::start(&configuration, home.path(), "envoy", &[]).expect("Envoy starts");
        let mut proxy = Self { envoy, home };
        proxy.envoy.wait_ready(START).await.expect("Envoy gets live");
        proxy
    }

    /// Where its admin page is.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.envoy.admin_address()
    }

    /// What its admin page says at `path`.
    ///
    /// # Panics
    ///
    /// When it does not answer 200.
    pub async fn admin(&self, path: &str) -> String {
        let (status, text) = self.envoy.admin(path).await.expect("Envoy's admin page answers");
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    /// What Weir has given it and since when, as its configuration dump says it.
    ///
    /// # Panics
    ///
    /// When its admin page does not answer.
    pub async fn held(&self) -> String {
        let mut dump: Value = serde_json::from_str(&self.admin("/config_dump?include_eds").await).expect("it is JSON");
        let configs = dump["configs"].as_array_mut().expect("a dump has configs");
        configs.retain(|config| !config["@type"].as_str().unwrap_or_default().contains("Bootstrap"));
        for config in configs.iter_mut().filter_map(Value::as_object_mut) {
            // What it thinks of the addresses of Weir.
            config.remove("static_endpoint_configs");
        }
        dump.to_string()
    }

    /// `<namespace>/<service>/<port>` of the clusters that it has of other services.
    ///
    /// # Panics
    ///
    /// When its admin page does not answer.
    pub async fn destinations(&self) -> BTreeSet<String> {
        let text = self.admin("/clusters").await;
        let names = text.lines().filter_map(|line| line.split_once("::")).map(|(name, _)| name);
        // Behind the namespace, the Service and the pod of the proxy itself.
        let own = names.filter_map(|name| name.strip_prefix("out/")?.splitn(4, '/').nth(3));
        own.map(str::to_owned).collect()
    }

    /// Counters and gauges whose names match the regular expression.
    ///
    /// # Panics
    ///
    /// When its admin page does not answer.
    pub async fn stats(&self, filter: &str) -> BTreeMap<String, u64> {
        let text = self.admin(&format!("/stats?filter={filter}")).await;
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    /// One counter or gauge; 0 where there is none of this name.
    ///
    /// # Panics
    ///
    /// When its admin page does not answer.
    pub async fn stat(&self, name: &str) -> u64 {
        self.stats(&format!("^{}$", name.replace('.', "%5C."))).await.remove(name).unwrap_or(0)
    }
}

/// Makes an Envoy with this bootstrap go to `other` as long as Weir is not at the address that it has: one after the other, so that
/// it is known where it is.
///
/// # Panics
///
/// When it is no bootstrap of Weir's.
pub fn then_at(bootstrap: &mut Value, other: SocketAddr) {
    let weir = &mut bootstrap["static_resources"]["clusters"][0];
    weir["outlier_detection"] = json!({
        "consecutive_5xx": 1, "interval": "0.1s", "base_ejection_time": "2s", "max_ejection_percent": 100,
    });
    weir["common_lb_config"] = json!({"healthy_panic_threshold": {"value": 0}});
    let load = &mut weir["load_assignment"]["endpoints"];
    let mut next = load[0].clone();
    next["priority"] = 1.into();
    next["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"] = other.port().into();
    load.as_array_mut().expect("a list of endpoints").push(next);
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.home.path().join("envoy.log")).unwrap_or_default();
            eprintln!("--- log of Envoy\n{log}");
        }
    }
}

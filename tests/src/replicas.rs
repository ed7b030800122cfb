//! A namespace with the chart and two Weirs in it that share its proxies: one decides, the other carries it out.

use std::{net::SocketAddr, time::Duration};

use crate::{
    app::Page,
    clock::Clock,
    cluster::Cluster,
    eventually,
    http::Connection,
    mesh::{Service, limiter},
    mount::Mount,
    ports::{self, Network},
    proxy::{Proxy, then_at},
    weir::{self, Weir},
};

const SOON: Duration = Duration::from_secs(40);

/// Where a replica serves.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// Where proxies connect.
    pub xds: SocketAddr,
    /// Health, status and metrics.
    pub admin: SocketAddr,
    /// Where the other replica connects.
    pub link: SocketAddr,
}

/// A namespace with the chart, a Service of two pods with a limit in it, and two Weirs.
pub struct Pair<'a> {
    /// The control plane.
    pub cluster: &'a Cluster,
    /// Where all of it is.
    pub namespace: String,
    /// The Service.
    pub service: Service,
    /// Where each replica serves, whether it runs or not.
    pub seats: [Seat; 2],
    /// The replicas that run.
    pub weirs: [Option<Weir>; 2],
    kubeconfig: std::path::PathBuf,
    mounts: Vec<Mount>,
    /// Each has a wall clock of its own.
    clocks: Option<[Clock; 2]>,
}

impl<'a> Pair<'a> {
    /// Installs it all, with these rules, and starts both.
    ///
    /// # Panics
    ///
    /// When a part does not get ready.
    pub async fn install(cluster: &'a Cluster, rules: &str) -> Self {
        Self::install_by(cluster, rules, None).await
    }

    /// As [`Self::install`], with a proxy at each replica and the limit `hot` in force at both, since the pods burn 0.9 cores; and which
    /// replica leads.
    ///
    /// # Panics
    ///
    /// As [`Self::install`], and when the limit does not get there.
    pub async fn limiting(cluster: &'a Cluster, rules: &str) -> (Self, [Proxy; 2], usize) {
        let mut pair = Self::install(cluster, rules).await;
        let proxies = pair.proxies().await;
        let leader = pair.leader().await;
        pair.linked(1 - leader).await;
        pair.service.burn(0.9);
        pair.until(leader, "Limiting").await;
        (pair, proxies, leader)
    }

    /// As [`Self::install`], with wall clocks that the test sets.
    ///
    /// # Panics
    ///
    /// As [`Self::install`].
    pub async fn install_by(cluster: &'a Cluster, rules: &str, clocks: Option<[Clock; 2]>) -> Self {
        cluster.install_crds().await;
        let namespace = cluster.namespace("replicas").await;
        let watched = format!("namespaces={{{namespace}}}");
        let chart =
            ["install", "weir", "charts/weir", "--namespace", &namespace, "--set", &watched, "--set", "replicas=2"];
        cluster.helm(&chart).await.expect("the control plane takes it");
        let service = Service::start_in(Network::routable(), &namespace, "cart", 2).await;
        cluster.put(&service).await;
        cluster.apply(&limiter(&namespace, "cart", rules)).await.expect("the control plane takes it");
        let kubeconfig = cluster.service_account_kubeconfig(&namespace, "weir").await;
        let seats = [(); 2].map(|()| Seat { xds: ports::free(), admin: ports::free(), link: ports::free() });
        let mut pair =
            Self { cluster, namespace, service, kubeconfig, seats, weirs: [None, None], mounts: Vec::new(), clocks };
        pair.start(0).await;
        pair.start(1).await;
        pair
    }

    /// Starts a replica in its place and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not get ready.
    pub async fn start(&mut self, which: usize) {
        let Seat { xds, admin, link } = self.seats[which];
        let places = format!("--ca-config-map={}/weir-ca", self.namespace);
        let (link, name) = (format!("--replica-address={link}"), format!("--replica-name=weir-{which}"));
        let arguments = [
            "--namespace",
            &self.namespace,
            "--certificate-service=weir",
            "--certificate-secret=weir-certificate",
            &places,
            "--checkpoint-config-map=weir-checkpoint",
            "--lease=weir",
            &link,
            &name,
        ];
        let binary = [weir::binary, weir::other_binary][which]();
        let clock = self.clocks.as_ref().map(|clocks| &clocks[which]);
        let mut weir = Weir::spawn_replica((binary, clock), &self.kubeconfig, xds, admin, &arguments);
        weir.ready().await;
        self.weirs[which] = Some(weir);
    }

    /// A replica that runs.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    pub fn weir(&self, which: usize) -> &Weir {
        self.weirs[which].as_ref().expect("it runs")
    }

    /// Key of the limiter in status.
    #[must_use]
    pub fn key(&self) -> String {
        format!("smartlimiters.weir.dev/{}/cart", self.namespace)
    }

    /// The replica that leads, once exactly one does.
    ///
    /// # Panics
    ///
    /// When that does not come.
    pub async fn leader(&self) -> usize {
        eventually(SOON, "one replica leads", async || {
            let mut leads = Vec::new();
            for (which, weir) in self.weirs.iter().enumerate() {
                if let Some(weir) = weir
                    && weir.metric("weir_replica_leads").await > 0.5
                {
                    leads.push(which);
                }
            }
            match leads[..] {
                [one] => Ok(one),
                _ => Err(format!("{leads:?}")),
            }
        })
        .await
    }

    /// Whom proxies are told to trust.
    async fn authorities(&self) -> String {
        self.cluster.authorities(&self.namespace).await
    }

    /// The proxy of a pod, which begins with this replica and knows the other.
    ///
    /// # Panics
    ///
    /// When it does not get live.
    pub async fn proxy(&mut self, pod: usize, first: usize) -> Proxy {
        self.proxy_by(pod, [self.seats[first].xds, self.seats[1 - first].xds]).await
    }

    /// The proxy of a pod, which reaches Weir at the first of these addresses, or else at the second.
    ///
    /// # Panics
    ///
    /// When it does not get live.
    pub async fn proxy_by(&mut self, pod: usize, [first, second]: [SocketAddr; 2]) -> Proxy {
        let token = self.cluster.pod_token(&self.namespace, &self.service.pods[pod].name).await;
        let mount = Mount::new(&self.authorities().await, &token);
        let Service { namespace, name, pods, .. } = &self.service;
        let trust = mount.trust(&format!("weir.{}.svc", self.namespace));
        let node = (namespace.as_str(), name.as_str(), pods[pod].name.as_str());
        let proxy = Proxy::start_trusting(first, node, Some(trust), |bootstrap| then_at(bootstrap, second)).await;
        self.mounts.push(mount);
        proxy
    }

    /// Two proxies, one at each replica.
    ///
    /// # Panics
    ///
    /// When one does not get there.
    pub async fn proxies(&mut self) -> [Proxy; 2] {
        let proxies = [self.proxy(0, 0).await, self.proxy(1, 1).await];
        for which in [0, 1] {
            self.streams(which, 1.0).await;
        }
        proxies
    }

    /// Waits until so many proxies are at a replica.
    ///
    /// # Panics
    ///
    /// When that does not come.
    pub async fn streams(&self, which: usize, wanted: f64) {
        eventually(SOON, "so many proxies are there", async || {
            let streams = self.weir(which).metric("weir_xds_streams").await;
            if (streams - wanted).abs() < 0.5 { Ok(()) } else { Err(format!("{streams} at weir-{which}")) }
        })
        .await;
    }

    /// Waits until the leader says that the limit is in this phase and that both proxies have it.
    ///
    /// # Panics
    ///
    /// When that does not come.
    pub async fn until(&self, leader: usize, phase: &str) {
        let key = self.key();
        self.weir(leader).until(SOON, phase, |status| status.phase(&key, "hot", phase).map(drop)).await;
        self.weir(leader)
            .until(SOON, "both proxies have it", |status| {
                status.programmed(&key, 1)?;
                let proxies = &status.policy(&key)?["status"]["proxies"];
                if proxies["programmed"] == 2 { Ok(()) } else { Err(proxies.to_string()) }
            })
            .await;
    }

    /// Waits until the follower is told what the leader decides.
    ///
    /// # Panics
    ///
    /// When that does not come.
    pub async fn linked(&self, follower: usize) {
        eventually(SOON, "it is told", async || {
            let linked = self.weir(follower).metric("weir_replica_linked").await;
            if linked > 0.5 { Ok(()) } else { Err(self.weir(follower).log()) }
        })
        .await;
    }

    /// Waits until everything decided is in the checkpoint.
    ///
    /// # Panics
    ///
    /// When that does not come.
    pub async fn kept(&self, leader: usize) {
        eventually(SOON, "everything decided is kept", async || {
            let age = self.weir(leader).metric("weir_checkpoint_age_seconds").await;
            let writes = self.weir(leader).metric("weir_checkpoint_writes_total").await;
            if age == 0.0 && writes > 0.5 {
                Ok(())
            } else {
                Err(format!("{age} {writes}\n{}", self.weir(leader).log()))
            }
        })
        .await;
    }

    /// How many of so many requests each pod's proxy admits.
    ///
    /// # Panics
    ///
    /// When a request is not answered by 200 or 429.
    pub async fn admitted(&self, requests: usize) -> [usize; 2] {
        let mut admitted = [0; 2];
        for (admitted, pod) in admitted.iter_mut().zip(&self.service.pods) {
            *admitted = Connection::open(pod.inbound, None)
                .await
                .expect("the proxy listens")
                .burst("/", requests)
                .await
                .expect("the proxy answers")
                .0;
        }
        admitted
    }

    /// What the pages of all pods do from now on.
    pub fn page(&self, page: &Page) {
        for pod in &self.service.pods {
            pod.app.page(page.clone());
        }
    }
}

/// What the proxies hold and since when.
///
/// # Panics
///
/// When an admin page does not answer.
pub async fn held(proxies: &[Proxy; 2]) -> [String; 2] {
    [proxies[0].held().await, proxies[1].held().await]
}

//! A real Kubernetes control plane: etcd, kube-apiserver and kube-controller-manager as processes, with RBAC, the audit log,
//! service accounts and API aggregation on, and kubectl and helm for the user's side.
//!
//! All of it runs in a network namespace that `scripts/in-namespace` makes. A test takes [`Cluster::shared`] and a namespace
//! of its own; one that breaks servers takes a whole [`Cluster::start`]. Pods are objects without containers ([`pods`]), which
//! stand for processes that the test itself runs ([`stand_ins`] for those that controllers make), or, where there is a [`node`], run
//! as processes of this machine.

pub mod audit;
mod binaries;
mod certificates;
pub mod credentials;
mod network;
pub mod node;
pub mod pods;
mod server;
pub mod stand_ins;
mod tools;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use parking_lot::Mutex;
pub use server::Server;
use server::Servers;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{eventually, project_root, temp_dir};

const START: Duration = Duration::from_secs(60);

/// A running control plane, ended when dropped; the ends of its logs are printed when the test is failing.
#[derive(Debug)]
pub struct Cluster {
    /// Where the API server answers pods and tests alike; `127.0.0.1` with the same port works too.
    pub api_server: SocketAddr,
    /// What ClusterIPs are taken from.
    pub service_range: String,
    etcd: SocketAddr,
    service_ip: IpAddr,
    programs: &'static Path,
    kubeconfig: PathBuf,
    servers: Mutex<Servers>,
    definitions: OnceCell<()>,
    node: OnceCell<()>,
    home: TempDir,
}

impl Cluster {
    /// Starts one and waits until it is of use: the API server ready, and what the controller manager makes in a fresh
    /// namespace made.
    ///
    /// # Panics
    ///
    /// When it does not get ready, or the test does not run in a namespace of its own.
    pub async fn start() -> Self {
        network::check();
        let programs = binaries::folder().await;
        let home = temp_dir();
        let place = network::place();
        certificates::write(home.path(), &place);
        let kubeconfig = home.path().join("admin.kubeconfig");
        let servers = Servers::new(home.path(), programs, &place);
        let cluster = Self {
            api_server: place.api_server,
            service_range: place.service_range,
            etcd: place.etcd,
            service_ip: place.service_ip,
            programs,
            kubeconfig,
            servers: Mutex::new(servers),
            definitions: OnceCell::new(),
            node: OnceCell::new(),
            home,
        };
        credentials::admin(cluster.home.path(), cluster.api_server.port(), &cluster.kubeconfig);
        for server in Server::ALL {
            cluster.servers.lock().spawn(server);
        }
        cluster.ready(Server::ApiServer).await;
        cluster.ready(Server::ControllerManager).await;
        cluster
    }

    /// The one that the tests of this process share. It ends with the namespace that the tests run in.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// A kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Where a program of the control plane is: `kubectl`, `helm`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Where a program is that not every cluster needs: `flagger`. Built if it is not there.
    ///
    /// # Panics
    ///
    /// When it cannot be built.
    pub async fn part(&self, name: &str) -> PathBuf {
        binaries::find(self.programs, name).await
    }

    /// A client with the administrator's rights. Each test makes its own: a client lives in the runtime that made it.
    ///
    /// # Panics
    ///
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig).await
    }

    /// Makes a namespace named `<prefix>-<number>` that no other test of this process has, and waits until pods can be made
    /// in it.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub async fn namespace(&self, prefix: &str) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let client = self.client().await;
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.clone());
        let namespaces = Api::<Namespace>::all(client.clone());
        namespaces.create(&PostParams::default(), &namespace).await.expect("a fresh name can be taken");
        let accounts = Api::<ServiceAccount>::namespaced(client, &name);
        eventually(START, "the namespace has its default service account", async || {
            accounts.get("default").await.map_err(|error| error.to_string())
        })
        .await;
        name
    }

    /// Applies the custom resource definitions and waits until kubectl knows them. Done once, however often it is called.
    ///
    /// # Panics
    ///
    /// When the API server refuses them or warns of something in them.
    pub async fn install_crds(&self) {
        let install = async || {
            let folder = definitions();
            let folder = folder.to_str().expect("the project's path is UTF-8");
            self.kubectl(&["apply", "--server-side", "--warnings-as-errors", "-f", folder]).await.expect("accepted");
            // Established is not enough: kubectl finds kinds by discovery and their fields by OpenAPI, which follow later.
            for definition in crds::all() {
                let version = format!("--api-version={}/{}", definition.spec.group, definition.spec.versions[0].name);
                eventually(START, "kubectl knows the kind", async || {
                    self.kubectl(&["explain", &definition.spec.names.plural, &version]).await
                })
                .await;
            }
        };
        self.definitions.get_or_init(install).await;
    }

    /// Applies what a project other than Weir brings to a cluster, `flagger` or `gateway-api`, and waits until kubectl knows its kinds.
    ///
    /// # Panics
    ///
    /// When the API server refuses them.
    pub async fn install_manifests(&self, of: &str) {
        let folder = self.part(&format!("manifests/{of}")).await;
        let folder = folder.to_str().expect("the project's path is UTF-8");
        let apply = ["apply", "--server-side", "--filename", folder, "--output=name"];
        let applied = self.kubectl(&apply).await.expect("accepted");
        for definition in applied.lines().filter_map(|line| line.strip_prefix("customresourcedefinition")) {
            let (_, kind) = definition.split_once('/').expect("kubectl prints types and names");
            eventually(START, &format!("kubectl knows {kind}"), async || {
                self.kubectl(&["get", kind, "--namespace", "default"]).await
            })
            .await;
        }
    }

    /// Ends a server with SIGKILL.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn kill(&self, server: Server) {
        self.servers.lock().kill(server);
    }

    /// Suspends a server: connections stand, nothing is answered.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn stop(&self, server: Server) {
        self.servers.lock().signal(server, nix::sys::signal::Signal::SIGSTOP);
    }

    /// Lets a suspended server go on.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn cont(&self, server: Server) {
        self.servers.lock().signal(server, nix::sys::signal::Signal::SIGCONT);
    }

    /// Starts a server again in the same place, after its end if it still runs, and waits until it is of use.
    ///
    /// # Panics
    ///
    /// When it does not get ready.
    pub async fn restart(&self, server: Server) {
        {
            let mut servers = self.servers.lock();
            if servers.runs(server) {
                servers.kill(server);
            }
            servers.spawn(server);
        }
        self.ready(server).await;
    }

    /// Makes etcd forget all but the newest version of everything. A watch that asks for more, once the API server has been
    /// restarted and does not remember either, is answered 410.
    ///
    /// # Panics
    ///
    /// When etcd does not answer.
    pub async fn forget_history(&self) {
        let ask = async |path: &str, body: serde_json::Value| {
            let request = http::Request::post(format!("http://{}{path}", self.etcd)).body(body.to_string().into());
            let answer = crate::http::send(request.expect("a plain request")).await.expect("etcd answers");
            assert!(answer.status().is_success(), "{path}: {answer:?}");
            serde_json::from_slice::<serde_json::Value>(answer.body()).expect("etcd answers with JSON")
        };
        // Any question's answer tells the newest revision.
        let newest = ask("/v3/kv/range", serde_json::json!({"key": "AA=="})).await["header"]["revision"].clone();
        ask("/v3/kv/compaction", serde_json::json!({"revision": newest, "physical": true})).await;
    }

    /// What a server wrote so far.
    #[must_use]
    pub fn log(&self, server: Server) -> String {
        std::fs::read_to_string(server.log(self.home.path())).unwrap_or_default()
    }

    /// All that was asked of the API server since `mark`, in the order of its log.
    ///
    /// # Panics
    ///
    /// When the log cannot be read.
    #[must_use]
    pub fn audit(&self, mark: audit::Mark) -> Vec<audit::Entry> {
        audit::read(&server::audit_log(self.home.path()), mark)
    }

    /// This moment, as a place in the audit log.
    #[must_use]
    pub fn mark(&self) -> audit::Mark {
        audit::mark(&server::audit_log(self.home.path()))
    }

    /// Waits until a server does its work.
    async fn ready(&self, server: Server) {
        let what = format!("{} is of use", server.name());
        let client = self.client().await;
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "kube-public");
        if server == Server::ControllerManager {
            // It makes this one again. Not there yet is as good.
            let _ = accounts.delete("default", &DeleteParams::default()).await;
        }
        eventually(START, &what, async || {
            if !self.servers.lock().runs(server) {
                panic!("{} ended instead of getting ready", server.name());
            }
            match server {
                // The API server says that it is not ready while it misses etcd.
                Server::Etcd | Server::ApiServer => {
                    let request = http::Request::get("/readyz").body(Vec::new()).expect("a plain request");
                    client.request_text(request).await.map(drop)
                }
                Server::ControllerManager => accounts.get("default").await.map(drop),
            }
            .map_err(|error| error.to_string())
        })
        .await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for server in Server::ALL {
                eprintln!("--- end of the log of {}\n{}", server.name(), tail(&self.log(server)));
            }
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &str) -> &str {
    let start = log.rmatch_indices('\n').nth(20).map_or(0, |(at, _)| at + 1);
    &log[start..]
}

/// A client by a kubeconfig.
async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig was written by the kit");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("the kubeconfig is whole");
    Client::try_from(config).expect("the kubeconfig's certificates can be read")
}

/// Where the generated definitions are.
fn definitions() -> PathBuf {
    project_root().join("charts/weir-crds/templates")
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn the_end_of_a_log_is_its_last_lines() {
        let log: String = (0..50).map(|line| format!("{line}\n")).collect();
        assert!(tail(&log).starts_with("30\n") && tail(&log).ends_with("49\n"), "{}", tail(&log));
        assert_eq!(tail("one\n"), "one\n");
    }
}

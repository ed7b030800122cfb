//! The servers as processes, and how each is started.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::network::Place;

/// One of a cluster's servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// etcd: the objects.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager: EndpointSlices, garbage, namespaces, Deployments, service accounts.
    ControllerManager,
}

impl Server {
    pub(super) const ALL: [Self; 3] = [Self::Etcd, Self::ApiServer, Self::ControllerManager];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
        }
    }

    pub(super) fn log(self, home: &Path) -> PathBuf {
        home.join(format!("{}.log", self.name()))
    }
}

pub(super) fn audit_log(home: &Path) -> PathBuf {
    home.join("audit.log")
}

/// Everything that is asked, once it is answered; of a watch also when it begins.
const AUDIT_POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

/// What tests, helm and Flagger need. Node lifecycle is not among them: it would evict pods from nodes without a kubelet.
const CONTROLLERS: [&str; 15] = [
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
];

/// The processes. Killed when dropped.
#[derive(Debug)]
pub(super) struct Servers {
    home: PathBuf,
    programs: PathBuf,
    arguments: BTreeMap<Server, Vec<String>>,
    running: BTreeMap<Server, Child>,
}

impl Servers {
    pub(super) fn new(home: &Path, programs: &Path, place: &Place) -> Self {
        std::fs::write(home.join("audit-policy.yaml"), AUDIT_POLICY).expect("a fresh folder can be written");
        let arguments = BTreeMap::from([
            (Server::Etcd, etcd(home, place)),
            (Server::ApiServer, api_server(home, place)),
            (Server::ControllerManager, controller_manager(home)),
        ]);
        Self { home: home.to_owned(), programs: programs.to_owned(), arguments, running: BTreeMap::new() }
    }

    pub(super) fn spawn(&mut self, server: Server) {
        let log = File::options().create(true).append(true).open(server.log(&self.home)).expect("a log can be written");
        let child = Command::new(self.programs.join(server.name()))
            .args(&self.arguments[&server])
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be copied"))
            .stderr(log)
            .spawn()
            .expect("a program of the control plane runs");
        self.running.insert(server, child);
    }

    /// Whether it was started and has not ended.
    pub(super) fn runs(&mut self, server: Server) -> bool {
        self.running.get_mut(&server).is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub(super) fn signal(&mut self, server: Server, signal: Signal) {
        let child = self.running.get(&server).unwrap_or_else(|| panic!("{} does not run", server.name()));
        let id = i32::try_from(child.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).unwrap_or_else(|error| panic!("{} does not run: {error}", server.name()));
    }

    pub(super) fn kill(&mut self, server: Server) {
        let mut child = self.running.remove(&server).unwrap_or_else(|| panic!("{} does not run", server.name()));
        child.kill().and_then(|()| child.wait()).expect("a child can be ended");
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // First those that would miss the others.
        for server in Server::ALL.into_iter().rev() {
            if self.running.contains_key(&server) {
                self.kill(server);
            }
        }
    }
}

fn etcd(home: &Path, place: &Place) -> Vec<String> {
    let (client, peer) = (format!("http://{}", place.etcd), format!("http://{}", place.etcd_peer));
    [
        format!("--data-dir={}", home.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
    .into()
}

fn api_server(home: &Path, place: &Place) -> Vec<String> {
    let file = |name: &str| home.join(name).display().to_string();
    [
        format!("--etcd-servers=http://{}", place.etcd),
        // On every address: tests use 127.0.0.1, pods the one that it advertises, which may not be loopback.
        "--bind-address=0.0.0.0".to_owned(),
        format!("--advertise-address={}", place.api_server.ip()),
        format!("--secure-port={}", place.api_server.port()),
        format!("--tls-cert-file={}", file("api-server.crt")),
        format!("--tls-private-key-file={}", file("api-server.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--service-account-key-file={}", file("service-account.pub")),
        format!("--service-account-signing-key-file={}", file("service-account.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--api-audiences=https://kubernetes.default.svc,weir".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        format!("--service-cluster-ip-range={}", place.service_range),
        "--allow-privileged=true".to_owned(),
        format!("--audit-policy-file={}", file("audit-policy.yaml")),
        format!("--audit-log-path={}", audit_log(home).display()),
        // Aggregated servers and webhooks are reached by their endpoints: no kube-proxy is needed for them.
        "--enable-aggregator-routing=true".to_owned(),
        format!("--requestheader-client-ca-file={}", file("ca.crt")),
        "--requestheader-allowed-names=front-proxy".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        format!("--proxy-client-cert-file={}", file("front-proxy.crt")),
        format!("--proxy-client-key-file={}", file("front-proxy.key")),
        "--profiling=false".to_owned(),
    ]
    .into()
}

fn controller_manager(home: &Path) -> Vec<String> {
    let file = |name: &str| home.join(name).display().to_string();
    [
        format!("--kubeconfig={}", file("admin.kubeconfig")),
        format!("--service-account-private-key-file={}", file("service-account.key")),
        format!("--root-ca-file={}", file("ca.crt")),
        format!("--controllers={}", CONTROLLERS.join(",")),
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=false".to_owned(),
        "--secure-port=0".to_owned(),
        // Tests make and delete whole namespaces; by default it would wait for its turn.
        "--kube-api-qps=300".to_owned(),
        "--kube-api-burst=600".to_owned(),
    ]
    .into()
}

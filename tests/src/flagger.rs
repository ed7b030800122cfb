//! A real Flagger as a process, with the rights that its own manifests give it.
//!
//! Flagger looks at a `Canary` once per analysis interval, of which 10 s is the least; and at once when the interval is changed.
//! [`Flagger::step`] does that.

pub mod podinfo;

use std::{
    fs::File,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Child;

use crate::{
    cluster::{self, Cluster, audit::Entry},
    eventually, http, ports, temp_dir,
};

const START: Duration = Duration::from_secs(30);
const NAME: &str = "flagger";

/// A running Flagger, for one namespace, until it is dropped; the end of its log is printed when the test is failing.
#[derive(Debug)]
pub struct Flagger<'a> {
    /// Health and metrics.
    pub address: SocketAddr,
    cluster: &'a Cluster,
    namespace: String,
    steps: AtomicU32,
    child: Child,
    home: TempDir,
}

impl<'a> Flagger<'a> {
    /// Installs its definitions, starts it for the Canaries of a namespace, and waits until it looks after them. `provider`: who carries
    /// weights out where a Canary does not say so, for example `smi:v1alpha2`. `prometheus`: whom it asks.
    ///
    /// # Panics
    ///
    /// When it does not get ready.
    pub async fn start(cluster: &'a Cluster, namespace: &str, provider: &str, prometheus: &str) -> Self {
        cluster.install_manifests(NAME).await;
        let account = ["create", "serviceaccount", NAME, "--namespace", namespace];
        let (binding, subject) = (format!("{NAME}-{namespace}"), format!("--serviceaccount={namespace}:{NAME}"));
        let binding = ["create", "clusterrolebinding", &binding, "--clusterrole=flagger", &subject];
        for arguments in [account, binding] {
            cluster.kubectl(&arguments).await.expect("Flagger can be given its rights");
        }
        let kubeconfig = cluster.service_account_kubeconfig(namespace, NAME).await;
        let home = temp_dir();
        let address = ports::free();
        let arguments = [
            format!("-kubeconfig={}", kubeconfig.display()),
            format!("-namespace={namespace}"),
            format!("-mesh-provider={provider}"),
            format!("-metrics-server={prometheus}"),
            format!("-port={}", address.port()),
            // How often it looks for new and changed Canaries.
            "-control-loop-interval=200ms".to_owned(),
            "-log-level=debug".to_owned(),
        ];
        let child = spawn(&cluster.part(NAME).await, &arguments, home.path());
        let (namespace, steps) = (namespace.to_owned(), AtomicU32::new(0));
        let mut flagger = Self { address, cluster, namespace, steps, child, home };
        flagger.ready().await;
        flagger
    }

    /// Lets it look at a Canary now, and waits until it does.
    ///
    /// # Panics
    ///
    /// When there is no such Canary, or it does not look.
    pub async fn step(&self, canary: &str) {
        let mark = self.cluster.mark();
        // Never one that it has had: it compares with what its last look was by, and may see two changes as one.
        let seconds = 3601 + self.steps.fetch_add(1, Ordering::Relaxed);
        let patch = format!(r#"{{"spec": {{"analysis": {{"interval": "{seconds}s"}}}}}}"#);
        let arguments =
            ["patch", "canary", canary, "--namespace", &self.namespace, "--type=merge", "--patch", patch.as_str()];
        self.cluster.kubectl(&arguments).await.expect("a Canary can be changed");
        let user = format!("system:serviceaccount:{}:{NAME}", self.namespace);
        let asks = |entry: &Entry| {
            let what = [&entry.user, &entry.verb, &entry.resource, &entry.namespace, &entry.name];
            what == [user.as_str(), "get", "canaries", &self.namespace, canary]
        };
        eventually(START, &format!("Flagger looks at {canary}"), async || {
            if self.cluster.audit(mark).iter().any(asks) { Ok(()) } else { Err("not yet") }
        })
        .await;
    }

    /// Lets it look at a Canary again and again until its status says this phase; what its status is then.
    ///
    /// # Panics
    ///
    /// When that does not come in time.
    pub async fn step_to(&self, canary: &str, phase: &str, deadline: Duration) -> Value {
        eventually(deadline, &format!("Flagger says {phase} of {canary}"), async || {
            let status = self.status(canary).await;
            if status["phase"] == phase {
                return Ok(status);
            }
            self.step(canary).await;
            Err(status.to_string())
        })
        .await
    }

    /// The status of a Canary.
    ///
    /// # Panics
    ///
    /// When there is no such Canary.
    pub async fn status(&self, canary: &str) -> Value {
        let arguments = ["get", "canary", canary, "--namespace", &self.namespace, "--output=json"];
        let text = self.cluster.kubectl(&arguments).await.expect("it is there");
        serde_json::from_str::<Value>(&text).expect("kubectl prints JSON")["status"].clone()
    }

    /// What it wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    async fn ready(&mut self) {
        let address = self.address;
        eventually(START, "Flagger is ready", || {
            let ended = self.child.try_wait().ok().flatten();
            let log = ended.map(|_| self.log()).unwrap_or_default();
            async move {
                assert!(ended.is_none(), "Flagger ended instead of getting ready: {ended:?}\n{log}");
                // It listens once it has listed what it watches.
                let answer = http::get(address, "/healthz").await.map_err(|error| format!("{error:#}"))?;
                if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
            }
        })
        .await;
    }
}

fn spawn(program: &Path, arguments: &[String], home: &Path) -> Child {
    let log = File::options().create(true).append(true).open(home.join("log")).expect("a fresh folder can be written");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file handle can be copied"))
        .stderr(log);
    tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("Flagger runs")
}

impl Drop for Flagger<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of the log of Flagger\n{}", cluster::tail(&self.log()));
        }
    }
}

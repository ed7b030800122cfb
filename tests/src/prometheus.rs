//! A real Prometheus as a process, and a peer that takes questions and never answers.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    process::Child,
    task::{JoinHandle, JoinSet},
};

use crate::{eventually, http, ports, project_root, temp_dir};

const START: Duration = Duration::from_secs(30);

/// The Prometheus that tests run: `PROMETHEUS_BIN` if set, else the one that `make prometheus` installed.
///
/// # Panics
///
/// When there is none: a test that needs Prometheus fails without it, it does not skip.
#[must_use]
pub fn binary() -> PathBuf {
    let path =
        std::env::var_os("PROMETHEUS_BIN").map_or_else(|| project_root().join(".cache/bin/prometheus"), PathBuf::from);
    assert!(path.is_file(), "no Prometheus at {}; run `make prometheus`, or set PROMETHEUS_BIN to one", path.display());
    path
}

/// A page that Prometheus reads, and the labels that it gives to the page's series that have none of that name.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where `/metrics` is.
    pub address: SocketAddr,
    /// For example `namespace` and `pod`.
    pub labels: Vec<(&'static str, String)>,
}

/// A running Prometheus, until it is dropped; its log is printed when the test is failing.
#[derive(Debug)]
pub struct Prometheus {
    /// Where it answers.
    pub address: SocketAddr,
    child: Child,
    home: TempDir,
}

impl Prometheus {
    /// Starts one that reads these pages every `interval`, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not get ready.
    pub async fn start(targets: &[Target], interval: Duration) -> Self {
        Self::start_with(targets, interval, "").await
    }

    /// As [`Self::start`], with this as its `web.yml`: who may ask.
    ///
    /// # Panics
    ///
    /// When it does not get ready.
    pub async fn start_with(targets: &[Target], interval: Duration, web: &str) -> Self {
        let home = temp_dir();
        std::fs::write(home.path().join("web.yml"), web).expect("a fresh folder can be written");
        let mut config = format!(
            "global: {{scrape_interval: {0}ms, scrape_timeout: {0}ms}}\nscrape_configs:\n- job_name: test\n  honor_labels: true\n  \
             static_configs:\n",
            interval.as_millis()
        );
        for Target { address, labels } in targets {
            let labels =
                labels.iter().map(|(name, value)| format!("{name}: \"{value}\"")).collect::<Vec<_>>().join(", ");
            writeln!(config, "  - {{targets: [\"{address}\"], labels: {{{labels}}}}}")
                .expect("a String can be written");
        }
        std::fs::write(home.path().join("prometheus.yml"), config).expect("a fresh folder can be written");
        let address = ports::free();
        let mut prometheus = Self { address, child: spawn(&home, address), home };
        prometheus.ready().await;
        prometheus
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The `data` of its answer to a query.
    ///
    /// # Errors
    ///
    /// When it does not answer, or that it does not understand the query.
    pub async fn ask(&self, query: &str) -> anyhow::Result<Value> {
        let encoded = query.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        // A query that is refused has a status of its own, and says why.
        let answer = http::get(self.address, &format!("/api/v1/query?query={encoded}")).await?;
        let answer: Value = serde_json::from_slice(answer.body())?;
        anyhow::ensure!(answer["status"] == "success", "{}", answer["error"]);
        Ok(answer["data"].clone())
    }

    /// The one number that a query finds; `None`: nothing, or none that is a number.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub async fn number(&self, query: &str) -> anyhow::Result<Option<f64>> {
        let found = self.ask(query).await?["result"][0]["value"][1].as_str().and_then(|text| text.parse().ok());
        Ok(found.filter(|number: &f64| number.is_finite()))
    }

    /// Ends it with SIGKILL.
    ///
    /// # Panics
    ///
    /// When it cannot be ended.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it can be ended");
    }

    /// Starts it again in the same place, with what it had stored.
    ///
    /// # Panics
    ///
    /// When it does not get ready.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.home, self.address);
        self.ready().await;
    }

    async fn ready(&mut self) {
        let address = self.address;
        eventually(START, "Prometheus is ready", || {
            let ended = self.child.try_wait().ok().flatten();
            async move {
                assert!(ended.is_none(), "Prometheus ended instead of getting ready: {ended:?}");
                match http::get(address, "/-/ready").await {
                    // Where a password is asked for, the answer to a stranger is all that can be had.
                    Ok(response) if response.status().is_success() || response.status() == 401 => Ok(()),
                    Ok(response) => Err(response.status().to_string()),
                    Err(error) => Err(format!("{error:#}")),
                }
            }
        })
        .await;
    }
}

fn spawn(home: &TempDir, address: SocketAddr) -> Child {
    let log =
        std::fs::File::options().create(true).append(true).open(home.path().join("log")).expect("it can be written");
    let mut command = Command::new(binary());
    command
        .arg(format!("--config.file={}", home.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", home.path().join("data").display()))
        .arg(format!("--web.config.file={}", home.path().join("web.yml").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("Prometheus runs")
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- log of Prometheus\n{}",
                std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
            );
        }
    }
}

/// Takes questions, remembers them and never answers: a server that is hung.
#[derive(Debug)]
pub struct Silent {
    /// Where it listens.
    pub address: SocketAddr,
    heard: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Silent {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// When loopback has no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let heard = Arc::<Mutex<String>>::default();
        let shared = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            // Aborted with the task that owns it.
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let heard = Arc::clone(&shared);
                connections.spawn(async move {
                    let mut part = [0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut part).await {
                        heard.lock().push_str(&String::from_utf8_lossy(&part[..length]));
                    }
                });
            }
        });
        Self { address, heard, task }
    }

    /// All that was sent to it so far.
    #[must_use]
    pub fn heard(&self) -> String {
        self.heard.lock().clone()
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

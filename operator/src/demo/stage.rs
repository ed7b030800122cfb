//! The processes of the demonstration, and their folder.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::{process::Command, time::Instant};

use super::{
    cast::{Addresses, Cast, NAMESPACE},
    envoy::{self, Envoy},
    get,
    process::Process,
};
use crate::xds::bootstrap::{DEFAULT_METRICS_INTERVAL, Options, Protocol, bootstrap};

/// How long each part may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that runs. Dropped: every process is killed, then the folder is removed.
pub(super) struct Stage {
    proxies: Vec<Envoy>,
    weir: Process,
    replicas: Vec<Process>,
    folder: Folder,
}

impl Stage {
    /// Starts everything and waits until requests get through every proxy.
    pub(super) async fn start(cast: &Cast, addresses: &Addresses, with_policy: bool) -> anyhow::Result<Self> {
        envoy::find_envoy()?;
        let program = std::env::current_exe().context("the path of this program is unknown")?;
        let folder = Folder::create()?;
        let config = folder.path.join("config");
        std::fs::create_dir(&config).with_context(|| format!("cannot create {}", config.display()))?;
        addresses.write_manifests(&config, cast, with_policy)?;

        let mut replicas = Vec::new();
        for (replica, address) in addresses.applications.iter().enumerate() {
            let mut command = Command::new(&program);
            command.args(["demo-service", "--listen", &address.to_string()]).args((cast.arguments)());
            replicas.push(Process::start(&cast.pod(replica), &mut command, &folder.path)?);
        }
        let mut command = Command::new(&program);
        command.args(["run", "--xds-address", &addresses.xds.to_string(), "--admin-address"]);
        command.arg(addresses.admin.to_string()).arg("--config").arg(&config);
        let weir = Process::start("weir", &mut command, &folder.path)?;
        let mut stage = Self { proxies: Vec::new(), weir, replicas, folder };

        for address in &addresses.applications {
            stage.answered(*address, "/metrics").await?;
        }
        stage.answered(addresses.admin, "/readyz").await?;
        for replica in 0..addresses.proxies.len() {
            let bootstrap = proxy_bootstrap(cast, addresses, replica);
            stage.proxies.push(Envoy::start(&bootstrap, &stage.folder.path, &format!("envoy-{replica}"), &[])?);
        }
        for proxy in &mut stage.proxies {
            proxy.wait_ready(PATIENCE).await?;
        }
        for address in &addresses.proxies {
            stage.answered(*address, "/").await?;
        }
        Ok(stage)
    }

    /// Waits until `address` answers 200.
    async fn answered(&mut self, address: SocketAddr, path: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check()?;
            let state = match get(address, path, Duration::from_secs(5)).await {
                Ok((200, _)) => return Ok(()),
                Ok((status, text)) => format!("it answers {status} {}", text.trim()),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                bail!("http://{address}{path} is not ready after {} s: {state}", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// An error when one of the processes has ended by itself.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        self.weir.check()?;
        self.replicas.iter_mut().try_for_each(Process::check)?;
        self.proxies.iter_mut().try_for_each(|proxy| proxy.process().check())
    }

    /// Ends everything in order.
    pub(super) async fn stop(mut self) {
        let patience = Duration::from_secs(3);
        let proxies = self.proxies.iter_mut().map(Envoy::process);
        let all = proxies.chain(std::iter::once(&mut self.weir)).chain(&mut self.replicas);
        futures::future::join_all(all.map(|process| process.stop(patience))).await;
    }

    /// The folder with logs, bootstraps and configuration.
    pub(super) fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// The folder that Weir reads.
    pub(super) fn config(&self) -> PathBuf {
        self.folder.path.join("config")
    }

    /// Leaves the folder there.
    pub(super) fn keep_folder(&mut self) {
        self.folder.keep = true;
    }
}

fn proxy_bootstrap(cast: &Cast, addresses: &Addresses, replica: usize) -> Value {
    bootstrap(&Options {
        service: cast.service.to_owned(),
        namespace: NAMESPACE.to_owned(),
        pod: cast.pod(replica),
        xds_address: addresses.xds.into(),
        trust: None,
        admin_address: addresses.proxy_admins[replica],
        protocol: Protocol::Delta,
        metrics_interval: DEFAULT_METRICS_INTERVAL,
    })
}

/// A folder of our own in the system's place for such, removed when dropped.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn create() -> anyhow::Result<Self> {
        let parent = std::env::temp_dir();
        let names = (0..100).map(|number| parent.join(format!("weir-demo-{}-{number}", std::process::id())));
        for path in names {
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path, keep: false }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
            }
        }
        bail!("{} is full of folders named weir-demo-…; remove them", parent.display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // At worst a few small files stay where the system cleans up.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

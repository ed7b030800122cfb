//! The processes of the demonstration, and their folder.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
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
    /// Absent before its start, and while it is killed.
    weir: Option<Process>,
    replicas: Vec<Process>,
    folder: Folder,
    xds: SocketAddr,
    admin: SocketAddr,
}

impl Stage {
    /// Starts everything and waits until requests get through every proxy.
    pub(super) async fn start(cast: &Cast, addresses: &Addresses, with_policy: bool) -> anyhow::Result<Self> {
        let mut stage = Self::empty(addresses.xds, addresses.admin)?;
        addresses.write_manifests(&stage.config(), cast, with_policy)?;
        for (replica, address) in addresses.applications.iter().enumerate() {
            let mut command = Command::new(program()?);
            command.args(["demo-service", "--listen", &address.to_string()]).args((cast.arguments)());
            stage.replicas.push(Process::start(&cast.pod(replica), &mut command, stage.folder())?);
        }
        stage.start_weir("weir")?;
        for address in &addresses.applications {
            stage.answered(*address, "/metrics").await?;
        }
        stage.weir_is_ready().await?;
        for (replica, admin) in addresses.proxy_admins.iter().enumerate() {
            stage.start_proxy(cast.service, &cast.pod(replica), *admin)?;
        }
        for proxy in &mut stage.proxies {
            proxy.wait_ready(PATIENCE).await?;
        }
        for address in &addresses.proxies {
            stage.answered(*address, "/").await?;
        }
        Ok(stage)
    }

    /// Nothing runs yet; Weir is to listen at these addresses. An error at once when there is no Envoy.
    pub(super) fn empty(xds: SocketAddr, admin: SocketAddr) -> anyhow::Result<Self> {
        envoy::find_envoy()?;
        let folder = Folder::create()?;
        let stage = Self { proxies: Vec::new(), weir: None, replicas: Vec::new(), folder, xds, admin };
        let config = stage.config();
        std::fs::create_dir(&config).with_context(|| format!("cannot create {}", config.display()))?;
        Ok(stage)
    }

    /// Starts Weir on what is in the folder. Its log has this name.
    pub(super) fn start_weir(&mut self, name: &str) -> anyhow::Result<()> {
        let mut command = Command::new(program()?);
        command.args(["run", "--xds-address", &self.xds.to_string(), "--admin-address"]);
        command.arg(self.admin.to_string()).arg("--config").arg(self.config());
        self.weir = Some(Process::start(name, &mut command, &self.folder.path)?);
        Ok(())
    }

    /// Waits until Weir serves proxies.
    pub(super) async fn weir_is_ready(&mut self) -> anyhow::Result<()> {
        self.answered(self.admin, "/readyz").await
    }

    /// Kills Weir as a crash does.
    pub(super) async fn kill_weir(&mut self) {
        if let Some(mut weir) = self.weir.take() {
            weir.signal(Signal::SIGKILL);
            weir.stop(PATIENCE).await;
        }
    }

    /// Starts the proxy of a pod.
    pub(super) fn start_proxy(&mut self, service: &str, pod: &str, admin: SocketAddr) -> anyhow::Result<()> {
        let bootstrap = bootstrap(&Options {
            service: service.to_owned(),
            namespace: NAMESPACE.to_owned(),
            pod: pod.to_owned(),
            xds_address: self.xds.into(),
            trust: None,
            admin_address: admin,
            protocol: Protocol::Delta,
            metrics_interval: DEFAULT_METRICS_INTERVAL,
        });
        self.proxies.push(Envoy::start(&bootstrap, &self.folder.path, &format!("envoy-{pod}"), &[])?);
        Ok(())
    }

    /// Waits until `address` answers 200.
    pub(super) async fn answered(&mut self, address: SocketAddr, path: &str) -> anyhow::Result<()> {
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
        self.weir.iter_mut().chain(&mut self.replicas).try_for_each(Process::check)?;
        self.proxies.iter_mut().try_for_each(|proxy| proxy.process().check())
    }

    /// Ends everything in order.
    pub(super) async fn stop(mut self) {
        let patience = Duration::from_secs(3);
        let proxies = self.proxies.iter_mut().map(Envoy::process);
        let all = proxies.chain(&mut self.weir).chain(&mut self.replicas);
        futures::future::join_all(all.map(|process| process.stop(patience))).await;
    }

    /// Weir's admin page.
    pub(super) fn admin(&self) -> SocketAddr {
        self.admin
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

    /// What went wrong, with where the logs are; they stay there.
    pub(super) fn failed(&mut self, error: anyhow::Error) -> anyhow::Error {
        self.keep_folder();
        error.context(format!("logs are in {}", self.folder.path.display()))
    }
}

fn program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("the path of this program is unknown")
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

//! The built `weir` binary as a process.

use std::{
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::process::Child;

use crate::{eventually, http, ports, project_root, temp_dir};

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(20);

/// Path of the `weir` binary: `WEIR_BIN` if set, else built by cargo, once per process (a moment when it is fresh).
///
/// # Panics
///
/// When it cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("WEIR_BIN").map_or_else(build, PathBuf::from))
}

/// Cargo tells a test where a binary is only within the binary's own package, so ask it by its messages.
fn build() -> PathBuf {
    let profile = if cfg!(debug_assertions) { "dev" } else { "bench" };
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(project_root())
        .args(["build", "--locked", "--package", "operator", "--bin", "weir", "--profile", profile])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo could not build the weir binary ({})", output.status);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "weir")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the executable that it built")
}

/// A running `weir run`. Dropped, it is killed; its log is printed when the test is failing.
pub struct Weir {
    /// Where proxies connect.
    pub xds: SocketAddr,
    /// Health, status and metrics.
    pub admin: SocketAddr,
    child: Child,
    home: TempDir,
}

impl Weir {
    /// Starts `weir run` on the folder `config` and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not get ready in time; the log is in the message.
    pub async fn start(config: &Path, arguments: &[&str]) -> Self {
        let (xds, admin) = (ports::free(), ports::free());
        let home = temp_dir();
        let log = std::fs::File::create(home.path().join("log")).expect("a fresh folder can be written");
        let child = tokio::process::Command::new(binary())
            .arg("run")
            .arg("--config")
            .arg(config)
            .args(["--xds-address", &xds.to_string(), "--admin-address", &admin.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be copied"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the weir binary runs");
        let mut weir = Self { xds, admin, child, home };
        let (deadline, what) = (START, "weir is ready");
        let mut exited = None;
        eventually(deadline, what, || {
            exited = exited.or_else(|| weir.child.try_wait().ok().flatten());
            async move {
                if let Some(status) = exited {
                    return Ok(Err(format!("weir ended at once: {status}")));
                }
                match http::get(admin, "/readyz").await {
                    Ok(response) if response.status().is_success() => Ok(Ok(())),
                    Ok(response) => Err(format!("/readyz: {}", response.status())),
                    Err(error) => Err(format!("{error:#}")),
                }
            }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", weir.log()));
        weir
    }

    /// What the process wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Everything in force and why, as `GET /status` says it.
    ///
    /// # Errors
    ///
    /// When the process does not answer with JSON.
    pub async fn status(&self) -> anyhow::Result<serde_json::Value> {
        http::get_json(self.admin, "/status").await
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    ///
    /// When the process is gone already, does not end in time, or was ended by a signal instead of draining.
    pub async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        let id = self.child.id().context("weir has ended before it was asked to")?;
        kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGTERM)?;
        let status = tokio::time::timeout(STOP, self.child.wait())
            .await
            .with_context(|| format!("weir still runs {STOP:?} after SIGTERM\n{}", self.log()))??;
        anyhow::ensure!(status.signal().is_none(), "weir died of the signal instead of draining: {status}");
        Ok(status)
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of weir\n{}", self.log());
        }
    }
}

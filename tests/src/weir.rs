//! The built `weir` binary as a process.

use std::{
    ffi::OsStr,
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

use crate::{clock::Clock, eventually, http, ports, project_root, temp_dir};

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

/// Path of the `weir` that runs beside that as the second of two replicas: `WEIR_OTHER_BIN` if set, as `make skew` does, else the same.
pub fn other_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("WEIR_OTHER_BIN").map_or_else(|| binary().to_owned(), PathBuf::from))
}

/// Cargo tells a test where a binary is only within the binary's own package, so ask it by its messages.
fn build() -> PathBuf {
    let profile = if cfg!(debug_assertions) { "dev" } else { "bench" };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo tells a test of the test's own package makes ring's build script run again, and with it the half of the workspace.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|of_package| name.to_string_lossy().starts_with(of_package)) {
            cargo.env_remove(name);
        }
    }
    let output = cargo
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

/// `weir` with these arguments, ready to be run to its end: for `validate`, `explain`, `translate` and their like.
pub fn command<Argument: AsRef<OsStr>>(arguments: impl IntoIterator<Item = Argument>) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(project_root()).args(arguments).stdin(Stdio::null());
    command
}

/// Where a Weir is to serve xDS.
enum Xds {
    Address(SocketAddr),
    Socket(PathBuf),
}

impl From<SocketAddr> for Xds {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

/// A running `weir run`. Dropped, it is killed; its log is printed when the test is failing.
pub struct Weir {
    /// Where proxies connect; port 0 where they do so by a Unix socket.
    pub xds: SocketAddr,
    /// Health, status and metrics.
    pub admin: SocketAddr,
    child: Child,
    home: TempDir,
}

impl Weir {
    /// Starts `weir run` on the folder `config`, on free ports, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it ends or does not get ready in time.
    pub async fn start(config: &Path, arguments: &[&str]) -> Self {
        let mut weir = Self::spawn(config, ports::free(), ports::free(), arguments);
        weir.ready().await;
        weir
    }

    /// Starts `weir run` at these addresses and waits for nothing: for a restart in the same place, or a start that must fail.
    ///
    /// # Panics
    ///
    /// When the binary cannot be started at all.
    #[must_use]
    pub fn spawn(config: &Path, xds: SocketAddr, admin: SocketAddr, arguments: &[&str]) -> Self {
        Self::spawn_program(tokio::process::Command::new(binary()), &folder(config), xds.into(), admin, arguments)
    }

    /// As [`Self::spawn`], with xDS on a Unix socket.
    ///
    /// # Panics
    ///
    /// When the binary cannot be started at all.
    #[must_use]
    pub fn spawn_on_socket(config: &Path, socket: &Path, arguments: &[&str]) -> Self {
        let program = tokio::process::Command::new(binary());
        Self::spawn_program(program, &folder(config), Xds::Socket(socket.to_owned()), ports::free(), arguments)
    }

    /// Starts `weir run --kubernetes` with the rights of a kubeconfig, on free ports, and waits until it is ready. Proxies need not
    /// prove who they are; [`Self::spawn_trusted`] is as in a cluster.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub async fn watch(kubeconfig: &Path, arguments: &[&str]) -> Self {
        let mut weir = Self::spawn_watch(kubeconfig, ports::free(), ports::free(), arguments);
        weir.ready().await;
        weir
    }

    /// As [`Self::watch`], with a wall clock that the test sets.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub async fn watch_by(clock: &Clock, kubeconfig: &Path, arguments: &[&str]) -> Self {
        let mut program = tokio::process::Command::new(binary());
        program.envs(clock.environment());
        let arguments = [&["--xds-plaintext"], arguments].concat();
        let mut weir =
            Self::spawn_program(program, &kubernetes(kubeconfig), ports::free().into(), ports::free(), &arguments);
        weir.ready().await;
        weir
    }

    /// As [`Self::watch`], at these addresses, and waits for nothing.
    ///
    /// # Panics
    ///
    /// When the binary cannot be started at all.
    #[must_use]
    pub fn spawn_watch(kubeconfig: &Path, xds: SocketAddr, admin: SocketAddr, arguments: &[&str]) -> Self {
        Self::spawn_trusted(kubeconfig, xds, admin, &[&["--xds-plaintext"], arguments].concat())
    }

    /// As [`Self::spawn_watch`], but proxies prove who they are: the arguments say with which certificate.
    ///
    /// # Panics
    ///
    /// When the binary cannot be started at all.
    #[must_use]
    pub fn spawn_trusted(kubeconfig: &Path, xds: SocketAddr, admin: SocketAddr, arguments: &[&str]) -> Self {
        let program = tokio::process::Command::new(binary());
        Self::spawn_program(program, &kubernetes(kubeconfig), xds.into(), admin, arguments)
    }

    /// As [`Self::spawn_trusted`], with this binary and, if the test sets one, a wall clock of its own.
    ///
    /// # Panics
    ///
    /// When the binary cannot be started at all.
    #[must_use]
    pub fn spawn_replica(
        (binary, clock): (&Path, Option<&Clock>),
        kubeconfig: &Path,
        xds: SocketAddr,
        admin: SocketAddr,
        arguments: &[&str],
    ) -> Self {
        let mut program = tokio::process::Command::new(binary);
        program.envs(clock.map(Clock::environment).into_iter().flatten());
        Self::spawn_program(program, &kubernetes(kubeconfig), xds.into(), admin, arguments)
    }

    fn spawn_program(
        mut program: tokio::process::Command,
        source: &[&OsStr],
        xds: Xds,
        admin: SocketAddr,
        arguments: &[&str],
    ) -> Self {
        let (xds, listen) = match xds {
            Xds::Address(address) => (address, address.to_string()),
            Xds::Socket(path) => (([127, 0, 0, 1], 0).into(), format!("unix:{}", path.display())),
        };
        let home = temp_dir();
        let log = std::fs::File::create(home.path().join("log")).expect("a fresh folder can be written");
        let child = program
            .arg("run")
            .args(source)
            .args(["--xds-address", &listen, "--admin-address", &admin.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be copied"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the weir binary runs");
        Self { xds, admin, child, home }
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Panics
    ///
    /// When the process ends or does not get ready in time.
    pub async fn ready(&mut self) {
        let admin = self.admin;
        let ready = eventually(START, "weir is ready", || {
            let ended = self.child.try_wait().ok().flatten();
            async move {
                if let Some(status) = ended {
                    return Ok(Err(status));
                }
                match http::get(admin, "/readyz").await {
                    Ok(response) if response.status().is_success() => Ok(Ok(())),
                    Ok(response) => Err(format!("/readyz: {}", response.status())),
                    Err(error) => Err(format!("{error:#}")),
                }
            }
        })
        .await;
        if let Err(status) = ready {
            panic!("weir ended instead of getting ready: {status}");
        }
    }

    /// The process, for what the system counts of it; `None` once it has ended.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for a start that must fail: the status and everything it wrote.
    ///
    /// # Errors
    ///
    /// When it still runs after the time that a stop may take.
    pub async fn ended(mut self) -> anyhow::Result<(ExitStatus, String)> {
        let status = tokio::time::timeout(STOP, self.child.wait())
            .await
            .with_context(|| format!("weir still runs after {STOP:?}\n{}", self.log()))??;
        Ok((status, self.log()))
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

    /// One number of `/metrics`: the sum of all series of this name, 0 where there are none.
    ///
    /// # Panics
    ///
    /// When the page cannot be read.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = http::get(self.admin, "/metrics").await.expect("the metrics page answers");
        let text = String::from_utf8_lossy(page.body()).into_owned();
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
        });
        values.sum()
    }

    /// Waits until [`metric`](Self::metric) is so much.
    ///
    /// # Panics
    ///
    /// When it does not come to that in time.
    pub async fn until_metric(&self, deadline: Duration, name: &str, wanted: f64) {
        eventually(deadline, &format!("{name} is {wanted}"), async || {
            let now = self.metric(name).await;
            if (now - wanted).abs() < 0.1 { Ok(()) } else { Err(format!("{now}\n{}", self.log())) }
        })
        .await;
    }

    /// Waits until the status says so; `look` gives what was seen instead.
    ///
    /// # Panics
    ///
    /// When it does not come to that in time.
    pub async fn until<T>(
        &self,
        deadline: Duration,
        what: &str,
        look: impl Fn(&crate::status::View) -> Result<T, String>,
    ) -> T {
        eventually(deadline, what, async || {
            let status = self.status().await.map_err(|error| format!("{error:#}"))?;
            look(&crate::status::View(status))
        })
        .await
    }

    /// Sends SIGKILL and waits for the end: the crash that a proxy must bear.
    ///
    /// # Errors
    ///
    /// When it cannot be ended.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Sends a signal and waits for nothing: SIGSTOP for a process that stands still, SIGCONT for one that goes on.
    ///
    /// # Panics
    ///
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).expect("weir runs");
        kill(Pid::from_raw(id), signal).expect("a process of our own takes signals");
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

/// What says that objects come from the API server of a kubeconfig.
fn kubernetes(kubeconfig: &Path) -> [&OsStr; 3] {
    [OsStr::new("--kubernetes"), OsStr::new("--kubeconfig"), kubeconfig.as_os_str()]
}

/// What says that objects come from a folder.
fn folder(config: &Path) -> [&OsStr; 2] {
    [OsStr::new("--config"), config.as_os_str()]
}

impl Drop for Weir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of weir\n{}", self.log());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Weir, eventually, folder, ports, temp_dir};

    /// A script in place of weir, which is not built when only the kit is tested.
    fn spawn(config: &Path, script: &str) -> Weir {
        let mut shell = tokio::process::Command::new("sh");
        shell.arg("-c").arg(script);
        Weir::spawn_program(shell, &folder(config), ports::free().into(), ports::free(), &["--extra"])
    }

    #[tokio::test]
    async fn gives_status_and_output_of_a_start_that_fails() {
        let folder = temp_dir();
        let weir = spawn(folder.path(), "echo \"$0 $1 $3 $5 $7\"; echo port taken >&2; exit 3");
        let (status, log) = weir.ended().await.unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(log, "run --config --xds-address --admin-address --extra\nport taken\n");
    }

    #[tokio::test]
    async fn does_not_wait_for_a_process_that_is_gone() {
        let folder = temp_dir();
        let mut weir = spawn(folder.path(), "exit 3");
        let error = tokio::spawn(async move { weir.ready().await }).await.unwrap_err();
        let message = *error.into_panic().downcast::<String>().unwrap();
        assert!(message.contains("ended instead of getting ready: exit status: 3"), "{message}");
    }

    #[tokio::test]
    async fn tells_draining_from_dying() {
        // Waits for a pipe that nobody writes, so that no process is left behind.
        const WAIT: &str = "while :; do read -r nothing < \"$2/pipe\"; done 2>/dev/null";
        for (trap, drains) in [("trap 'exit 0' TERM", true), (":", false)] {
            let folder = temp_dir();
            let weir = spawn(folder.path(), &format!("{trap}; mkfifo \"$2/pipe\"; echo up; {WAIT}"));
            eventually(std::time::Duration::from_secs(5), "the script is up", || {
                std::future::ready(if weir.log() == "up\n" { Ok(()) } else { Err(weir.log()) })
            })
            .await;
            assert_eq!(weir.stop().await.is_ok(), drains, "{trap}");
        }
    }
}

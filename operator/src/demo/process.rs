//! A child process that writes to a log file and does not outlive its owner.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::{Child, Command};

/// A running child in a process group of its own, so that Ctrl-C in the terminal reaches only its owner, who then ends
/// it in order. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    group: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to `<dir>/<name>.log`.
    ///
    /// # Errors
    /// When the log file cannot be created or the program cannot be started.
    pub fn start(name: &str, command: &mut Command, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("cannot share the log file")?)
            .stderr(file)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", command.as_std().get_program().display()))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("the child has no process id")?;
        Ok(Self { name: name.to_owned(), child, group: Pid::from_raw(pid), log })
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The file that holds what it printed.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// An error with the end of its log, when it has ended by itself.
    ///
    /// # Errors
    /// As said.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().with_context(|| format!("cannot ask for {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; its last words:\n{}", self.name, self.last_words()),
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].iter().map(|line| format!("  | {line}\n")).collect()
    }

    /// Sends a signal to its process group, as long as it runs.
    pub fn signal(&self, signal: Signal) {
        if self.child.id().is_some() {
            // It may just have ended.
            let _ = killpg(self.group, signal);
        }
    }

    /// Asks it to end, and makes it after `patience`. Absent: it could not be waited for.
    pub async fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.signal(Signal::SIGTERM);
        if let Ok(status) = tokio::time::timeout(patience, self.child.wait()).await {
            return status.ok();
        }
        self.signal(Signal::SIGKILL);
        self.child.wait().await.ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::process::Command;

    use super::Process;

    #[tokio::test]
    async fn a_child_that_ends_says_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo starting; echo 'no such port' >&2; exit 3"]);
        let mut process = Process::start("peer", &mut command, dir.path()).unwrap();
        let ended = async {
            loop {
                if let Err(error) = process.check() {
                    return error.to_string();
                }
                tokio::task::yield_now().await;
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
        assert!(error.contains("exit status: 3") && error.contains("no such port"), "{error}");
    }

    #[tokio::test]
    async fn one_that_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
        let mut process = Process::start("deaf", &mut command, dir.path()).unwrap();
        let ready = async {
            while !process.last_words().contains("ready") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ready).await.unwrap();
        let status = process.stop(Duration::from_millis(100)).await.unwrap();
        assert!(!status.success());
        assert_eq!(process.id(), None);
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let error = Process::start("x", &mut Command::new("/no/such/program"), dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/program"));
    }
}

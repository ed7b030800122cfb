//! The user's side: kubectl and helm as the administrator.

use std::{ffi::OsStr, path::Path, process::Stdio};

use anyhow::Context;
use tokio::{io::AsyncWriteExt, process::Command};

use super::Cluster;
use crate::project_root;

impl Cluster {
    /// Runs kubectl in the project's folder: what it printed.
    ///
    /// # Errors
    ///
    /// When it fails, with what it wrote to standard error.
    pub async fn kubectl<Argument: AsRef<OsStr>>(&self, arguments: &[Argument]) -> anyhow::Result<String> {
        self.run("kubectl", arguments, "").await
    }

    /// As [`Self::kubectl`], with this as its standard input: `["apply", "-f", "-"]`.
    ///
    /// # Errors
    ///
    /// As [`Self::kubectl`].
    pub async fn kubectl_with<Argument: AsRef<OsStr>>(
        &self,
        arguments: &[Argument],
        input: &str,
    ) -> anyhow::Result<String> {
        self.run("kubectl", arguments, input).await
    }

    /// Applies manifests, as a user does; a field that the API does not know is an error.
    ///
    /// # Errors
    ///
    /// As [`Self::kubectl`].
    pub async fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        self.run("kubectl", &["apply", "--validate=strict", "-f", "-"], manifests).await
    }

    /// Runs helm in the project's folder: what it printed.
    ///
    /// # Errors
    ///
    /// As [`Self::kubectl`].
    pub async fn helm<Argument: AsRef<OsStr>>(&self, arguments: &[Argument]) -> anyhow::Result<String> {
        self.run("helm", arguments, "").await
    }

    async fn run<Argument: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: &[Argument],
        input: &str,
    ) -> anyhow::Result<String> {
        let line = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
        let home = self.home.path();
        let mut child = command(&self.program(program), home)
            .env("KUBECONFIG", self.kubeconfig())
            .args(arguments)
            .spawn()
            .with_context(|| format!("running {program}"))?;
        let mut stdin = child.stdin.take().context("its standard input is a pipe")?;
        // A program that fails early does not read it all; what it says of that is worth more than the broken pipe.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "{program} {line}: {}\n{printed}{errors}", output.status);
        Ok(printed.into_owned())
    }
}

/// With helm's folders in the cluster's. kubectl keeps no cache: it would not see kinds that another test has just installed.
fn command(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(project_root())
        .env("HOME", home)
        .env("KUBECACHEDIR", "/dev/null")
        .env("HELM_CACHE_HOME", home.join("helm/cache"))
        .env("HELM_CONFIG_HOME", home.join("helm/config"))
        .env("HELM_DATA_HOME", home.join("helm/data"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

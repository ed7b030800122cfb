//! The programs of the control plane, where `scripts/install-control-plane` puts them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::sync::OnceCell;

use crate::project_root;

const PROGRAMS: [&str; 5] = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "helm"];

/// The folder that holds them all: `KUBEBUILDER_ASSETS` when nothing is missing there, else the project's own, filled
/// once per process (a moment when nothing is to be done).
///
/// # Panics
///
/// When they cannot be built.
pub(super) async fn folder() -> &'static Path {
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    let find = async || {
        let given = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let own = project_root().join(".cache/control-plane");
        match given.into_iter().chain([own.clone()]).find(|folder| complete(folder)) {
            Some(folder) => folder,
            None => {
                build().await;
                own
            }
        }
    };
    FOLDER.get_or_init(find).await
}

/// Where something of these programs' kind is that no cluster needs to start: with them, or in the project's own folder.
///
/// # Panics
///
/// When it cannot be built.
pub(super) async fn find(programs: &Path, name: &str) -> PathBuf {
    let own = project_root().join(".cache/control-plane");
    let there = || [programs, &own].map(|folder| folder.join(name)).into_iter().find(|path| path.exists());
    if there().is_none() {
        build().await;
    }
    there().unwrap_or_else(|| panic!("`make control-plane` makes no {name}"))
}

fn complete(folder: &Path) -> bool {
    PROGRAMS.iter().all(|program| folder.join(program).is_file())
}

/// Its progress goes to the terminal, past the test's captured output.
async fn build() {
    let status = tokio::process::Command::new(project_root().join("scripts/install-control-plane"))
        .stdin(Stdio::null())
        .status()
        .await
        .expect("bash runs");
    assert!(status.success(), "the control plane could not be built ({status}); run `make control-plane` to see why");
}

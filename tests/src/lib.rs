//! Weir's test kit: what every test on real servers needs, once.
//!
//! Real parts only: the built `weir` binary ([`weir`]) or its xDS server alone ([`xds`]), Envoy ([`proxy`]), [`prometheus`] and
//! the load generator as the demo ships them (`operator::demo`), scripted applications ([`app`], [`echo`]) with their manifests ([`mesh`]), a
//! name server ([`dns`]), a trace [`collector`], a wall [`clock`] that jumps, a Kubernetes control plane ([`cluster`]) with its [`metrics_api`] and [`flagger`], two [`replicas`] of Weir on it and two [`peers`] without it, free [`ports`], [`http`] requests, and [`wait::eventually`] in
//! place of every sleep. [`tidy`] holds the checks of the repository itself, as functions of what they read, so that each can be shown a made-up tree that it must refuse.
//!
//! Nothing here decides what is right; the tests in `tests/it` do.

pub mod app;
pub mod authority;
pub mod clock;
pub mod cluster;
pub mod collector;
pub mod dial;
pub mod dns;
pub mod echo;
pub mod flagger;
pub mod http;
pub mod mesh;
pub mod metrics_api;
pub mod mount;
pub mod peers;
pub mod ports;
pub mod prometheus;
pub mod proxy;
pub mod relay;
pub mod replicas;
pub mod status;
pub mod tidy;
pub mod wait;
pub mod weir;
pub mod xds;

use std::path::{Path, PathBuf};

pub use wait::eventually;

/// The folder that holds the workspace's `Cargo.toml`.
#[must_use]
pub fn project_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is a folder of the workspace").to_path_buf()
}

/// A fresh folder, removed when dropped.
///
/// # Panics
///
/// When the system's temporary folder cannot be written.
#[must_use]
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("weir-test-").tempdir().expect("the temporary folder can be written")
}

/// The Envoy that tests run: `ENVOY_BIN` if set, else the one that `make envoy` installed.
///
/// # Panics
///
/// When there is none: a test that needs Envoy fails without it, it does not skip.
#[must_use]
pub fn envoy_bin() -> PathBuf {
    let path = std::env::var_os("ENVOY_BIN").map_or_else(|| project_root().join(".cache/bin/envoy"), PathBuf::from);
    assert!(path.is_file(), "no Envoy at {}; run `make envoy`, or set ENVOY_BIN to one", path.display());
    path
}

//! Two Weirs without Kubernetes that are replicas of each other, and proxies that prove to them who they are.

use std::{net::SocketAddr, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    authority::Authority,
    mesh::{Service, put},
    mount::Mount,
    ports,
    proxy::Proxy,
    temp_dir,
    weir::Weir,
};

/// What their certificates name.
pub const NAME: &str = "weir.example";

/// Where a replica serves.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// Where proxies connect.
    pub xds: SocketAddr,
    /// Health, status and metrics.
    pub admin: SocketAddr,
    /// Where the other replica connects.
    pub link: SocketAddr,
}

/// What the two need to trust each other, and where each serves, whether it runs or not. The first decides while it is alive.
pub struct Peers {
    /// Of each.
    pub seats: [Seat; 2],
    /// `tls.crt`, `tls.key`, `ca.crt` and `clients.crt` of both.
    pub certificates: TempDir,
    /// Signs their certificates.
    pub servers: Authority,
    /// Signs those of proxies.
    pub clients: Authority,
}

impl Peers {
    /// Two, of which none runs yet.
    #[must_use]
    pub fn new() -> Self {
        let peers = Self {
            seats: [(); 2].map(|()| Seat { xds: ports::free(), admin: ports::free(), link: ports::free() }),
            certificates: temp_dir(),
            servers: Authority::new("servers"),
            clients: Authority::new("clients"),
        };
        let own = peers.servers.server(NAME, -1, 30);
        for (name, text) in [
            ("tls.crt", own.certificate.as_str()),
            ("tls.key", own.key.as_str()),
            ("ca.crt", peers.servers.pem()),
            ("clients.crt", peers.clients.pem()),
        ] {
            put(peers.certificates.path(), name, text);
        }
        peers
    }

    /// Starts one of them in its place and waits for nothing.
    ///
    /// # Panics
    ///
    /// When the binary cannot be started at all.
    #[must_use]
    pub fn spawn(&self, which: usize, config: &Path) -> Weir {
        self.spawn_with(which, config, self.certificates.path())
    }

    /// As [`Self::spawn`], with other certificates.
    ///
    /// # Panics
    ///
    /// When the binary cannot be started at all.
    #[must_use]
    pub fn spawn_with(&self, which: usize, config: &Path, certificates: &Path) -> Weir {
        let folder = certificates.to_str().expect("a folder of ours has a plain name");
        let clients = format!("--xds-client-ca={folder}/clients.crt");
        let Seat { xds, admin, link } = self.seats[which];
        let (own, all) = (link.to_string(), self.seats.map(|seat| seat.link.to_string()).join(","));
        let arguments = ["--certificate-dir", folder, &clients, "--replica-address", &own, "--peers", &all];
        Weir::spawn(config, xds, admin, &arguments)
    }

    /// As [`Self::spawn`], and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not get ready.
    pub async fn start(&self, which: usize, config: &Path) -> Weir {
        let mut weir = self.spawn(which, config);
        weir.ready().await;
        weir
    }

    /// The proxy of a pod, which knows of this replica alone unless `change` has its bootstrap say otherwise. The mount must live as long.
    ///
    /// # Panics
    ///
    /// When it does not get live.
    pub async fn proxy(
        &self,
        which: usize,
        service: &Service,
        pod: usize,
        change: impl FnOnce(&mut Value),
    ) -> (Proxy, Mount) {
        let Service { namespace, name, pods, .. } = service;
        let pod = &pods[pod].name;
        let own = self.clients.client(&format!("{namespace}/{pod}"), None);
        let mount = Mount::new(self.servers.pem(), "");
        mount.put("tls.crt", &own.certificate);
        mount.put("tls.key", &own.key);
        let trust = mount.trust_by_certificate(NAME);
        let proxy = Proxy::start_trusting(self.seats[which].xds, (namespace, name, pod), Some(trust), change).await;
        (proxy, mount)
    }
}

impl Default for Peers {
    fn default() -> Self {
        Self::new()
    }
}

//! What stands on the stage: a Service with its replicas and its policy, and where everything listens.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
};

use anyhow::Context;

use super::load;
use crate::intent::ServiceKey;

/// Namespace of everything.
pub const NAMESPACE: &str = "demo";
const PROXY_PORT: u16 = 8080;
const APPLICATION_PORT: u16 = 9000;
/// Where Weir's xDS listens, if that is free.
pub(super) const XDS_PORT: u16 = 18000;
/// Where Weir's admin page listens, if that is free.
pub(super) const ADMIN_PORT: u16 = 18100;

/// A Service with a policy.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// Name of the Service and of the policy.
    pub service: &'static str,
    /// Replicas, each with a proxy.
    pub replicas: u8,
    /// Arguments of `weir demo-service` beside `--listen`.
    pub arguments: fn() -> Vec<String>,
    /// Manifests of the Service, on the usual ports.
    pub workload: &'static str,
    /// Name and text of the policy's file.
    pub policy: (&'static str, &'static str),
}

impl Cast {
    /// Name of a replica's pod.
    #[must_use]
    pub fn pod(&self, replica: usize) -> String {
        format!("{}-{replica}", self.service)
    }

    /// Key of the Service.
    #[must_use]
    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: NAMESPACE.to_owned(), name: self.service.to_owned() }
    }
}

/// Where everything listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The proxies.
    pub proxies: Vec<SocketAddr>,
    /// The replicas behind them.
    pub applications: Vec<SocketAddr>,
    /// The proxies' admin pages.
    pub proxy_admins: Vec<SocketAddr>,
    /// Weir's xDS.
    pub xds: SocketAddr,
    /// Weir's admin page.
    pub admin: SocketAddr,
}

impl Addresses {
    /// The proxies, as the load calls them by their replicas' names.
    #[must_use]
    pub fn load_targets(&self, cast: &Cast) -> Vec<load::Target> {
        let proxies = self.proxies.iter().enumerate();
        proxies.map(|(replica, address)| load::Target { name: cast.pod(replica), address: *address }).collect()
    }

    /// Takes the usual ports, or free ones where those are taken.
    ///
    /// # Errors
    /// When the loopback addresses of the replicas cannot be listened on.
    pub fn choose(cast: &Cast) -> anyhow::Result<Self> {
        let pods: Vec<IpAddr> = (1..=cast.replicas).map(|last| Ipv4Addr::new(127, 0, 1, last).into()).collect();
        let (proxy, application) = (common_port(&pods, PROXY_PORT)?, common_port(&pods, APPLICATION_PORT)?);
        let at = |port: u16| pods.iter().map(|pod| (*pod, port).into()).collect();
        Ok(Self {
            proxies: at(proxy),
            applications: at(application),
            proxy_admins: proxy_admins(pods.len())?,
            xds: loopback(XDS_PORT)?,
            admin: loopback(ADMIN_PORT)?,
        })
    }

    /// Writes the manifests into `folder`, with these ports.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_manifests(&self, folder: &Path, cast: &Cast, with_policy: bool) -> anyhow::Result<()> {
        let workload = cast
            .workload
            .replace(&PROXY_PORT.to_string(), &self.proxies[0].port().to_string())
            .replace(&APPLICATION_PORT.to_string(), &self.applications[0].port().to_string());
        let write = |name: &str, text: &str| {
            let file = folder.join(name);
            std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        write("workload.yaml", &workload)?;
        if with_policy {
            let (name, text) = cast.policy;
            write(name, text)?;
        }
        Ok(())
    }
}

/// The first port from `usual` on that is free on all of these addresses.
pub(super) fn common_port(addresses: &[IpAddr], usual: u16) -> anyhow::Result<u16> {
    (usual..usual + 100)
        .find(|port| addresses.iter().all(|address| is_free((*address, *port).into())))
        .with_context(|| format!("no port from {usual} on is free on all of {addresses:?}"))
}

/// An address of 127.0.0.1 whose port is free, the first from `usual` on.
pub(super) fn loopback(usual: u16) -> anyhow::Result<SocketAddr> {
    let host: IpAddr = Ipv4Addr::LOCALHOST.into();
    Ok((host, common_port(&[host], usual)?).into())
}

/// Addresses for the admin pages of so many proxies.
pub(super) fn proxy_admins(proxies: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let mut next = 15001;
    let admin = |_| -> anyhow::Result<SocketAddr> {
        let admin = loopback(next)?;
        next = admin.port() + 1;
        Ok(admin)
    };
    (0..proxies).map(admin).collect()
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::Addresses;
    use crate::demo::scenario::CAST;

    #[test]
    fn the_manifests_follow_the_ports() {
        let dir = tempfile::tempdir().unwrap();
        let at = |port: u16| -> Vec<SocketAddr> { vec![(Ipv4Addr::LOCALHOST, port).into(); 3] };
        let addresses = Addresses {
            proxies: at(7001),
            applications: at(7002),
            proxy_admins: at(7003),
            xds: at(7004)[0],
            admin: at(7005)[0],
        };
        addresses.write_manifests(dir.path(), &CAST, false).unwrap();
        let text = std::fs::read_to_string(dir.path().join("workload.yaml")).unwrap();
        assert!(text.contains("inbound.weir.dev/7001: \"127.0.1.3:7002\", prometheus.io/port: \"7002\""), "{text}");
        assert!(!text.contains("8080") && !text.contains("9000"));
        assert!(!dir.path().join("limit.yaml").exists());
        addresses.write_manifests(dir.path(), &CAST, true).unwrap();
        assert!(dir.path().join("limit.yaml").exists());
    }

    #[test]
    fn addresses_differ() {
        let addresses = Addresses::choose(&CAST).unwrap();
        let mut all = [addresses.proxies, addresses.applications, addresses.proxy_admins].concat();
        all.extend([addresses.xds, addresses.admin]);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 3 * 3 + 2);
    }
}

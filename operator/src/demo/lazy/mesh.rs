//! The mesh: many Services, of which a few are called. Those have an application each, which answers with the Service's name.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::Context;
use axum::Router;
use tokio::{net::TcpListener, task::JoinSet};

use super::{CALLERS, caller::Caller};
use crate::demo::cast::{NAMESPACE, common_port};

/// Services that are called.
pub(super) const CALLED: usize = 20;

/// The manifests of the callers and their proxies, on the usual ports.
const CALLERS_TEXT: &str = include_str!("../../../../examples/demo-lazy/callers.yaml");
const LAZY_TEXT: &str = include_str!("../../../../examples/demo-lazy/lazy.yaml");
const INBOUND_PORT: u16 = 8080;
const WAY_OUT_PORT: u16 = 15001;
const APPLICATION_PORT: u16 = 9000;

/// The `LazyConfig` without its comments.
pub(super) fn lazy_config() -> String {
    LAZY_TEXT.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// See the module. Dropped: the applications end.
pub(super) struct Mesh {
    /// Services in all, the callers' two among them.
    services: usize,
    /// Where all applications listen, each at its Service's address.
    port: u16,
    applications: JoinSet<std::io::Result<()>>,
}

impl Mesh {
    /// Starts the applications of the Services that are called. `services` is at least [`CALLED`] and the callers.
    pub(super) async fn start(services: usize) -> anyhow::Result<Self> {
        let mut mesh = Self { services, port: 0, applications: JoinSet::new() };
        let addresses: Vec<IpAddr> = mesh.called_numbers().map(address).collect();
        mesh.port = common_port(&addresses, APPLICATION_PORT)?;
        for number in mesh.called_numbers() {
            let at = (address(number), mesh.port);
            let listener =
                TcpListener::bind(at).await.with_context(|| format!("cannot listen on {}:{}", at.0, at.1))?;
            let answer = name(number);
            let application = Router::new().fallback(move || std::future::ready(answer.clone()));
            mesh.applications.spawn(axum::serve(listener, application).into_future());
        }
        Ok(mesh)
    }

    /// Services in all.
    pub(super) fn services(&self) -> usize {
        self.services
    }

    /// Names of the Services that are called, spread over all of them.
    pub(super) fn called(&self) -> Vec<String> {
        self.called_numbers().map(name).collect()
    }

    fn called_numbers(&self) -> impl Iterator<Item = usize> + use<> {
        let others = self.others();
        (0..CALLED).map(move |which| which * others / CALLED)
    }

    /// Services beside the callers' own.
    fn others(&self) -> usize {
        self.services - CALLERS
    }

    /// Writes all manifests into the folder that Weir reads.
    pub(super) fn write(&self, folder: &Path, [eager, lazy]: &[Caller; CALLERS]) -> anyhow::Result<()> {
        let mut callers = CALLERS_TEXT.to_owned();
        let inbound = common_port(&[eager.way_out.ip(), lazy.way_out.ip()], INBOUND_PORT)?;
        for (usual, port) in [(WAY_OUT_PORT, eager.way_out.port()), (INBOUND_PORT, inbound)] {
            callers = callers.replace(&usual.to_string(), &port.to_string());
        }
        let services = self.services_text();
        for (file, text) in [("callers.yaml", &*callers), ("lazy.yaml", LAZY_TEXT), ("services.yaml", &*services)] {
            let file = folder.join(file);
            std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    fn services_text(&self) -> String {
        let mut text = String::new();
        for number in 0..self.others() {
            let (name, address, port) = (name(number), address(number), self.port);
            let _ = write!(
                text,
                "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec: {{ports: [{{name: http, port: 80, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [{address}], targetRef: {{kind: Pod, name: {name}-0}}}}]
"
            );
        }
        text
    }
}

/// The callers' addresses as their manifests say them, on a port that is free on both.
pub(super) fn ways_out() -> anyhow::Result<[SocketAddr; CALLERS]> {
    let addresses: [IpAddr; CALLERS] = [1, 2].map(|last| Ipv4Addr::new(127, 0, 21, last).into());
    let port = common_port(&addresses, WAY_OUT_PORT)?;
    Ok(addresses.map(|address| (address, port).into()))
}

fn name(number: usize) -> String {
    format!("s{number}")
}

/// One for each Service, all of this machine.
fn address(number: usize) -> IpAddr {
    let byte = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
    Ipv4Addr::new(127, 1, byte(number / 250), byte(1 + number % 250)).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::task::JoinSet;

    use super::{CALLED, CALLERS_TEXT, Mesh, WAY_OUT_PORT, address, lazy_config};

    #[test]
    fn the_largest_mesh_has_an_address_for_each_service() {
        let mesh = Mesh { services: 5000, port: 9000, applications: JoinSet::new() };
        let addresses: BTreeSet<_> = (0..mesh.others()).map(address).collect();
        assert_eq!(addresses.len(), mesh.others());
        assert_eq!(mesh.services_text().matches("kind: Service\n").count(), mesh.others());
        let called: BTreeSet<_> = mesh.called().into_iter().collect();
        assert!(called.len() == CALLED && called.contains("s0"), "{called:?}");
    }

    #[test]
    fn the_callers_listen_where_they_are_called() {
        for last in [1, 2] {
            assert!(CALLERS_TEXT.contains(&format!("outbound.weir.dev/listen: \"127.0.21.{last}:{WAY_OUT_PORT}\"")));
        }
        assert!(lazy_config().starts_with("apiVersion: ") && lazy_config().contains("forgetAfter: 10s"));
    }
}

//! Where a proxy finds Weir.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use serde_json::{Value, json};

use crate::identity::socket_path;

/// An address, a Unix socket, or a name that the proxy looks up, again and again: `weir.weir-system.svc:15010`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// IP address and port.
    Address(SocketAddr),
    /// DNS name and port.
    Name(String, u16),
    /// Path of a socket on the proxy's machine.
    Unix(PathBuf),
    /// Several replicas, one of which each proxy talks to: `10.0.0.7:18000,10.0.0.8:18000`.
    Several(Vec<Upstream>),
}

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

/// What was given is neither an address nor a name, with a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected ADDRESS:PORT, NAME:PORT, such as weir.weir-system.svc:15010, or unix:/PATH, such as unix:/run/weir/xds.sock; or several of \
     them with commas between"
)]
pub struct NoUpstream;

impl FromStr for Upstream {
    type Err = NoUpstream;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(',') {
            return Ok(Self::Several(text.split(',').map(str::parse).collect::<Result<_, _>>()?));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(Self::Unix).map_err(|_| NoUpstream);
        }
        let (name, port) = text.split_once(':').ok_or(NoUpstream)?;
        match port.parse() {
            Ok(port) if port > 0 && is_name(name) => Ok(Self::Name(name.to_owned(), port)),
            _ => Err(NoUpstream),
        }
    }
}

/// A DNS name. What looks like an IP address but is none is no name either.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let labels = || name.strip_suffix('.').unwrap_or(name).split('.');
    let last = labels().next_back().unwrap_or_default();
    name.len() <= 253 && labels().all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl Upstream {
    /// Each as Envoy's `core.v3.Address`.
    pub(super) fn addresses(&self) -> Vec<Value> {
        let (host, port) = match self {
            Self::Address(address) => (address.ip().to_string(), address.port()),
            Self::Name(name, port) => (name.clone(), *port),
            Self::Unix(path) => return vec![json!({"pipe": {"path": path}})],
            Self::Several(several) => return several.iter().flat_map(Self::addresses).collect(),
        };
        vec![json!({"socket_address": {"address": host, "port_value": port}})]
    }

    /// Whether one of them is a name, which has to be looked up.
    pub(super) fn has_name(&self) -> bool {
        match self {
            Self::Address(_) | Self::Unix(_) => false,
            Self::Name(..) => true,
            Self::Several(several) => several.iter().any(Self::has_name),
        }
    }

    /// The first name, by which a certificate may be checked.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Address(_) | Self::Unix(_) => None,
            Self::Name(name, _) => Some(name),
            Self::Several(several) => several.iter().find_map(Self::name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{NoUpstream, Upstream};

    #[test]
    fn reads_addresses_and_names() {
        let name = |name: &str, port| Ok(Upstream::Name(name.to_owned(), port));
        assert_eq!("127.0.0.1:18000".parse(), Ok(Upstream::Address(([127, 0, 0, 1], 18000).into())));
        assert!(matches!("[::1]:18000".parse(), Ok(Upstream::Address(_))));
        assert_eq!("weir.weir-system.svc:15010".parse(), name("weir.weir-system.svc", 15010));
        assert_eq!("localhost:1".parse(), name("localhost", 1));
        let two: Upstream = "127.0.0.1:1,weir.example:2".parse().unwrap();
        assert_eq!((two.addresses().len(), two.name()), (2, Some("weir.example")));
        assert_eq!("weir.example.:1".parse(), name("weir.example.", 1));
        assert_eq!("unix:/run/xds.sock".parse(), Ok(Upstream::Unix("/run/xds.sock".into())));
        for bad in [
            "unix:xds.sock",
            "unix:/run/",
            "",
            "weir",
            "weir:",
            "weir:1,",
            "weir:1,weir",
            ":1",
            "weir:0",
            "weir:70000",
            "a..b:1",
            "a_b:1",
            "-a:1",
            "300.1.1.1:1",
            "::1:1",
            "a:1:2",
        ] {
            assert_eq!(bad.parse::<Upstream>(), Err(NoUpstream), "{bad}");
        }
    }
}

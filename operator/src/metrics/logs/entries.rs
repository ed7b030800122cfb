//! From the entries of an access log to the hosts that were called and that nothing was known of.
//!
//! Pure. Which entries Envoy sends stands in `xds::resources`; what else comes is counted and left alone.

use std::{collections::BTreeSet, net::IpAddr};

use super::wire::{Address, Common, HttpEntry, SocketAddress, StreamAccessLogsMessage, TcpEntry};
use crate::{metrics::calls::MOST_UNKNOWN, xds::names};

/// Longest authority: a name of 253 bytes with a trailing dot, a colon and a port, and brackets for whoever writes them.
const LONGEST_AUTHORITY: usize = 262;

/// What became of the entries of one message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Hosts that were called, see [`crate::metrics::calls::Calls::unknown`].
    pub(super) unknown: BTreeSet<String>,
    /// Entries that name one of them.
    pub(super) taken: usize,
    /// Entries of calls that went where they were to go.
    pub(super) known: usize,
    /// Entries that name no host, or for which there was no room.
    pub(super) dropped: usize,
}

/// What the entries of a message say.
pub(super) fn read(message: StreamAccessLogsMessage) -> Taken {
    let mut taken = Taken::default();
    for entry in message.http.into_iter().flat_map(|http| http.entries) {
        if is_unknown(&entry) {
            taken.take(entry.request.and_then(|request| authority(request.authority)));
        } else {
            taken.known += 1;
        }
    }
    for entry in message.tcp.into_iter().flat_map(|tcp| tcp.entries) {
        taken.take(destination(entry));
    }
    taken
}

impl Taken {
    fn take(&mut self, host: Option<String>) {
        match host {
            Some(host) if self.unknown.len() < MOST_UNKNOWN || self.unknown.contains(&host) => {
                self.unknown.insert(host);
                self.taken += 1;
            }
            _ => self.dropped += 1,
        }
    }
}

/// Whether the request took a route for hosts that nothing is known of, or none at all.
fn is_unknown(entry: &HttpEntry) -> bool {
    entry.common.as_ref().is_some_and(|Common { route_name, response_flags, .. }| {
        names::UNKNOWN_ROUTES.contains(&route_name.as_str())
            || route_name.is_empty() && response_flags.is_some_and(|flags| flags.no_route_found)
    })
}

fn authority(authority: String) -> Option<String> {
    let mut authority = authority;
    let is_one = !authority.is_empty()
        && authority.len() <= LONGEST_AUTHORITY
        && authority.bytes().all(|byte| byte.is_ascii_graphic());
    is_one.then(|| {
        authority.make_ascii_lowercase();
        authority
    })
}

/// The server name that a client of TLS asked for, else the address that it went to, with the port.
fn destination(entry: TcpEntry) -> Option<String> {
    let Common { downstream_local_address, tls, .. } = entry.common?;
    let Address { socket_address: Some(SocketAddress { address, port }) } = downstream_local_address? else {
        return None;
    };
    let server_name = tls.map(|tls| tls.sni_hostname).filter(|name| !name.is_empty());
    let host = match server_name {
        Some(name) => format!("{name}:{port}"),
        None => match address.parse().ok()? {
            IpAddr::V4(address) => format!("{address}:{port}"),
            IpAddr::V6(address) => format!("[{address}]:{port}"),
        },
    };
    authority(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::logs::wire::{HttpEntries, HttpRequest, ResponseFlags, TcpEntries, Tls};

    fn http(route_name: &str, authority: &str) -> HttpEntry {
        HttpEntry {
            common: Some(Common { route_name: route_name.into(), ..Common::default() }),
            request: Some(HttpRequest { authority: authority.into() }),
        }
    }

    fn tcp(address: &str, port: u32, server_name: Option<&str>) -> TcpEntry {
        let address = SocketAddress { address: address.into(), port };
        let tls = server_name.map(|name| Tls { sni_hostname: name.into() });
        let downstream_local_address = Some(Address { socket_address: Some(address) });
        TcpEntry { common: Some(Common { downstream_local_address, tls, ..Common::default() }) }
    }

    fn read_all(http: Vec<HttpEntry>, tcp: Vec<TcpEntry>) -> Taken {
        read(StreamAccessLogsMessage {
            identifier: None,
            http: Some(HttpEntries { entries: http }),
            tcp: Some(TcpEntries { entries: tcp }),
        })
    }

    fn hosts(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|host| (*host).to_owned()).collect()
    }

    #[test]
    fn hosts_are_those_of_requests_that_took_no_route_of_a_known_one() {
        let mut none = http("", "nowhere");
        none.common.as_mut().unwrap().response_flags = Some(ResponseFlags { no_route_found: true });
        let longest = format!("{}:65535", "x".repeat(256));
        let entries = vec![
            http(names::UNKNOWN_HOST, "Cart.Shop:8080"),
            http(names::UNKNOWN_HOST, "cart.shop:8080"),
            http(names::FALLBACK, "api.stripe.example"),
            none,
            http("", "answered-by-a-filter"),
            http("region-0", "known"),
            http(names::UNKNOWN_HOST, ""),
            http(names::UNKNOWN_HOST, "two words"),
            http(names::UNKNOWN_HOST, "gr\u{fc}n"),
            http(names::UNKNOWN_HOST, &longest),
            http(names::UNKNOWN_HOST, &format!("x{longest}")),
            HttpEntry::default(),
        ];
        let expected = Taken {
            unknown: hosts(&["cart.shop:8080", "api.stripe.example", "nowhere", &longest]),
            taken: 5,
            known: 3,
            dropped: 4,
        };
        assert_eq!(read_all(entries, Vec::new()), expected);
    }

    #[test]
    fn bytes_go_to_the_server_that_they_name_or_to_an_address() {
        let entries = vec![
            tcp("10.0.0.7", 443, Some("API.stripe.example")),
            tcp("10.0.0.7", 5432, Some("")),
            tcp("fd00::7", 5432, None),
            tcp("not an address", 1, None),
            TcpEntry::default(),
        ];
        let unknown = hosts(&["api.stripe.example:443", "10.0.0.7:5432", "[fd00::7]:5432"]);
        assert_eq!(read_all(Vec::new(), entries), Taken { unknown, taken: 3, known: 0, dropped: 2 });
    }

    #[test]
    fn hosts_of_one_message_are_bounded() {
        let entries = (0..1_500).map(|n| http(names::UNKNOWN_HOST, &format!("host-{}", n % 1_200))).collect();
        let taken = read_all(entries, Vec::new());
        assert_eq!((taken.unknown.len(), taken.taken, taken.dropped), (1_000, 1_300, 200));
    }
}

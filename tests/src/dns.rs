//! A small scripted name server: every host below one domain has one address, and no other host is there.
//!
//! Asked over UDP, one question at a time, as resolvers do.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{net::UdpSocket, task::JoinHandle};

/// Octets of a message before its question.
const HEAD: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];

/// A running name server. Stopped when dropped.
#[derive(Debug)]
pub struct Dns {
    /// Where it is asked.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Dns {
    /// Starts on a free port of loopback: whatever is below `domain` has the address `host`.
    ///
    /// # Panics
    ///
    /// When there is no free port.
    pub async fn start(domain: &'static str, host: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let task = tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                if let Some(answer) = answer(&buffer[..length], domain, host) {
                    // Who is not there any more asks again, or does not.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Self { address, task }
    }

    /// What makes an Envoy with this bootstrap ask here.
    pub fn asked_by(&self, bootstrap: &mut serde_json::Value) {
        let (address, port) = (self.address.ip().to_string(), self.address.port());
        bootstrap["typed_dns_resolver_config"] = serde_json::json!({
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [{"socket_address": {"address": address, "port_value": port}}],
                "dns_resolver_options": {"no_default_search_domain": true},
            },
        });
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer to a question. `None`: it is none.
fn answer(query: &[u8], domain: &str, host: Ipv4Addr) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = HEAD;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(std::str::from_utf8(query.get(at..at + length)?).ok()?.to_ascii_lowercase());
        at += length;
    }
    let question = query.get(HEAD..at + 4)?;
    let is_there = labels.join(".").strip_suffix(domain).is_some_and(|below| below.len() > 1 && below.ends_with('.'));
    let has_answer = is_there && query[at..at + 2] == TYPE_A;
    let mut answer = query[..2].to_vec();
    // A response of who knows best; NXDOMAIN for what is not there. One question, and one answer or none.
    answer.extend([0x85, if is_there { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
    answer.extend(question);
    if has_answer {
        // The name of the question; type, class, a minute to live, four octets.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(host.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::answer;

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    #[test]
    fn hosts_below_the_domain_are_there_and_no_others() {
        let host = Ipv4Addr::new(127, 9, 9, 9);
        let said = |name: &str, kind: u8| answer(&query(name, kind), "domain.example", host).unwrap();
        for (name, kind, code, answers) in [
            ("a.domain.example", 1, 0x80, 1),
            ("B.a.Domain.example", 1, 0x80, 1),
            ("a.domain.example", 28, 0x80, 0),
            ("domain.example", 1, 0x83, 0),
            ("adomain.example", 1, 0x83, 0),
        ] {
            let said = said(name, kind);
            assert_eq!((said[..2].to_vec(), said[3], said[7]), (vec![7, 9], code, answers), "{name} {kind}");
        }
        assert!(said("a.domain.example", 1).ends_with(&host.octets()));
        assert_eq!(answer(&[7, 9, 1], "domain.example", host), None);
    }
}

//! Who is called, as people write it: `cart`, `cart.shop:8080`, `*.shop`, `api.stripe.example`, `*`.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::Callee;
use crate::policy::is_dns_label;

/// What is wrong with an entry, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// The domain that Services of a cluster have.
const CLUSTER: &str = "svc.cluster.local";
/// The most letters that a host's name has.
const LONGEST: usize = 253;

type Result<T> = std::result::Result<T, Mistake>;

fn mistake<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T> {
    Err(Mistake { message: message.into(), help: help.into() })
}

impl Callee {
    /// Reads an entry of an object in `namespace`, where `cart` is a Service of it. Upper case is taken as lower.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, namespace: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        strange(&lower)?;
        if let Ok(address) = lower.parse::<Ipv6Addr>() {
            return Ok(Self::Domain { name: address.to_string(), port: None });
        }
        if let Some(rest) = lower.strip_prefix('[') {
            return in_brackets(&lower, rest);
        }
        let (host, port) = match lower.split_once(':') {
            Some((host, port)) => (host, Some(self::port(&lower, host, port)?)),
            None => (lower.as_str(), None),
        };
        if host == "*" || host.starts_with("*.") {
            return match port {
                None => many(&lower, host),
                Some(port) => {
                    let message = format!("{lower:?} has a port, and many hosts have no port in common");
                    mistake(message, format!("write `{host}`, or name single ones with `:{port}`"))
                }
            };
        }
        if host.contains('*') {
            return mistake(
                format!("{lower:?} has a `*` that is not first"),
                "write `*` for every Service, `*.shop` for those of a namespace, `*.stripe.example` for hosts below a domain",
            );
        }
        one(&lower, host, port, namespace)
    }
}

/// What no entry has, and people write.
fn strange(text: &str) -> Result<()> {
    if text.is_empty() {
        return mistake("the entry is empty", "write a Service such as `cart` or `cart.shop`, or leave the entry out");
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = if scheme == "https" && !host.contains(':') { format!("{host}:443") } else { host.to_owned() };
        return mistake(
            format!("{text:?} is a URL, and a host is wanted"),
            format!("drop `{scheme}://`: write `{host}`"),
        );
    }
    if let Some((before, after)) = text.split_once('/') {
        let help = if is_dns_label(before) && is_dns_label(after) {
            format!("a Service has its namespace behind it: `{after}.{before}`")
        } else {
            format!("drop all from the `/` on: write `{before}`")
        };
        return mistake(format!("{text:?} has a `/`, and hosts have none"), help);
    }
    if !text.is_ascii() {
        return mistake(
            format!("{text:?} has letters that no host has"),
            "write it in punycode, as DNS has it: `xn--bcher-kva.example` for `bücher.example`",
        );
    }
    if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        return mistake(format!("{text:?} has a space"), "write one host in each entry, without spaces");
    }
    Ok(())
}

/// `[2001:db8::1]:8080`, of which `rest` is what follows the first bracket.
fn in_brackets(text: &str, rest: &str) -> Result<Callee> {
    let read = || {
        let (address, after) = rest.split_once(']')?;
        Some((address.parse::<Ipv6Addr>().ok()?, after))
    };
    let Some((address, after)) = read() else {
        return mistake(format!("{text:?} is no IPv6 address in brackets"), "write for example `[2001:db8::1]:8080`");
    };
    let port = match (after, after.strip_prefix(':')) {
        ("", _) => None,
        (_, Some(port)) => Some(self::port(text, &format!("[{address}]"), port)?),
        (_, None) => {
            return mistake(
                format!("{text:?} has {after:?} after the address"),
                format!("write `[{address}]` or `[{address}]:8080`"),
            );
        }
    };
    Ok(Callee::Domain { name: address.to_string(), port })
}

fn port(text: &str, host: &str, port: &str) -> Result<u16> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(number) if digits && number > 0 => Ok(number),
        _ if port.contains(':') => mistake(
            format!("{text:?} has more than one `:`, and is no IPv6 address"),
            "write `cart.shop:8080`, or an IPv6 address with a port as `[2001:db8::1]:8080`",
        ),
        _ => mistake(
            format!("{text:?}: expected a port from 1 to 65535 after the `:`, found {port:?}"),
            format!("write for example `{host}:8080`, or `{host}` for all of its ports"),
        ),
    }
}

/// `*`, `*.shop`, `*.stripe.example`.
fn many(text: &str, host: &str) -> Result<Callee> {
    let Some(domain) = host.strip_prefix("*.") else { return Ok(Callee::Everything) };
    if domain.contains('*') {
        return mistake(format!("{text:?} has two `*`"), "write one, first: `*.shop`, `*.stripe.example`");
    }
    let (name, is_absolute) = match domain.strip_suffix('.') {
        Some(name) => (name, true),
        None => (domain, false),
    };
    labels(text, name, name.contains('.') || is_absolute)?;
    if name == CLUSTER {
        return mistake(format!("{text:?} is every Service"), "write `*`");
    }
    // `*.svc` is a namespace of that name.
    match name.strip_suffix(&format!(".{CLUSTER}")).or_else(|| name.strip_suffix(".svc")) {
        Some(namespace) if is_dns_label(namespace) => return Ok(Callee::Namespace(namespace.to_owned())),
        Some(service) => {
            let help = format!("name the Service: `{service}`; its pods come with it");
            return mistake(format!("{text:?} is hosts below a Service"), help);
        }
        None => {}
    }
    match (name.contains('.'), is_absolute) {
        (true, _) => Ok(Callee::Domains(name.to_owned())),
        (false, false) => Ok(Callee::Namespace(name.to_owned())),
        (false, true) => mistake(
            format!("{text:?} is every host below {name:?}, which is too much"),
            format!(
                "write `*.{name}` for the Services of the namespace {name:?}, or a longer domain such as `*.stripe.{name}`"
            ),
        ),
    }
}

/// `cart`, `cart.shop`, `cart.shop.svc`, `api.stripe.example`, `example.com.`, `10.0.0.1`.
fn one(text: &str, host: &str, port: Option<u16>, namespace: &str) -> Result<Callee> {
    let (name, is_absolute) = match host.strip_suffix('.') {
        Some(name) => (name, true),
        None => (host, false),
    };
    if name.parse::<Ipv4Addr>().is_ok() {
        return Ok(Callee::Domain { name: name.to_owned(), port });
    }
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    let of_cluster =
        name.strip_suffix(&format!(".{CLUSTER}")).or_else(|| name.strip_suffix(".svc").filter(|_| dots > 1));
    labels(text, name, of_cluster.is_none() && (is_absolute || dots > 1))?;
    let service = |name: &str, namespace: &str| {
        Ok(Callee::Service { namespace: namespace.to_owned(), name: name.to_owned(), port })
    };
    if let Some(short) = of_cluster {
        return match short.split_once('.') {
            Some((name, namespace)) if is_dns_label(namespace) => service(name, namespace),
            Some((_, of)) => mistake(
                format!("{text:?} is a host below a Service"),
                format!("name the Service: `{of}`; its pods come with it"),
            ),
            None => mistake(format!("{text:?} names no Service"), "write `cart.shop`: its name and its namespace"),
        };
    }
    match name.split_once('.') {
        _ if is_absolute || dots > 1 => {
            let last = name.rsplit('.').next().unwrap_or_default();
            if last.bytes().all(|byte| byte.is_ascii_digit()) {
                return mistake(format!("{text:?} is no IP address"), "write four numbers from 0 to 255: `10.0.0.1`");
            }
            Ok(Callee::Domain { name: name.to_owned(), port })
        }
        None => service(name, namespace),
        Some((name, namespace)) => service(name, namespace),
    }
}

/// Checks the parts between the dots. Hosts outside may have `_` in theirs.
fn labels(text: &str, name: &str, is_outside: bool) -> Result<()> {
    if name.len() > LONGEST {
        let message = format!("a host has at most {LONGEST} letters, and this one has {}", name.len());
        return mistake(message, "write it as DNS has it");
    }
    for label in name.split('.') {
        let plain = label.replace('_', "x");
        if is_dns_label(if is_outside { &plain } else { label }) {
            continue;
        }
        if label.is_empty() {
            let help = "write names with one dot between them: `cart.shop`, `api.stripe.example`, `*.shop`";
            return mistake(format!("{text:?} has a dot with nothing on one side"), help);
        }
        if label.len() > 63 {
            let message = format!("{label:?} has {} letters, and at most 63 stand between two dots", label.len());
            return mistake(message, "write it as DNS has it");
        }
        let message = format!("{text:?}: {label:?} is no part of a host");
        return mistake(message, "use letters, digits and `-`, with a letter or digit at both ends");
    }
    Ok(())
}

/// As it is written where no namespace is understood; read again it is the same.
impl fmt::Display for Callee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self {
            Self::Service { namespace, name, port } => {
                write!(f, "{name}.{namespace}")?;
                port
            }
            Self::Namespace(namespace) => return write!(f, "*.{namespace}"),
            Self::Domain { name, port } => {
                if name.contains(':') {
                    write!(f, "[{name}]")?;
                } else {
                    f.write_str(name)?;
                    if name.bytes().filter(|byte| *byte == b'.').count() < 2 {
                        f.write_str(".")?;
                    }
                }
                port
            }
            Self::Domains(domain) => return write!(f, "*.{domain}"),
            Self::Everything => return f.write_str("*"),
        };
        port.iter().try_for_each(|port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests;

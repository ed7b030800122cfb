//! What a `LazyConfig` means, in plain English.

use super::{Callee, Fallback, Lazy, Load, UnknownHosts};
use crate::language::write_duration;

/// Plain sentences that say what `lazy` means: for whom it is, what loads, what is forgotten.
#[must_use]
pub fn explain(lazy: &Lazy) -> Vec<String> {
    let mut lines = vec![whom(lazy), load(lazy)];
    if !lazy.always.is_empty() && lazy.load != Load::Declared {
        lines.push(format!("There from the start and never forgotten: {}.", list(&lazy.always)));
    }
    if !lazy.never.is_empty() {
        lines.push(format!("Never there, whatever else says so: {}.", list(&lazy.never)));
    }
    lines.push(match lazy.unknown_hosts {
        UnknownHosts::Refuse => "Calls to hosts that nothing is known of are answered 404 at once.".to_owned(),
        UnknownHosts::Passthrough => {
            "Calls to hosts that nothing is known of go to the host that they name, by DNS or their original destination."
                .to_owned()
        }
    });
    if lazy.load != Load::Declared {
        lines.push(match lazy.forget_after {
            Some(after) => format!(
                "What was not called for {} is forgotten, and fetched again at the next call.",
                write_duration(after)
            ),
            None => "Nothing is ever forgotten.".to_owned(),
        });
        if lazy.prewarm {
            lines.push("The pods of a Service share what they call: a proxy that starts has it at once.".to_owned());
        }
    }
    lines
}

fn whom(lazy: &Lazy) -> String {
    let namespace = &lazy.key.namespace;
    match &lazy.selector {
        Some(labels) => {
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("Holds for the pods of namespace {namespace} that have the labels {}.", labels.join(", "))
        }
        None => format!(
            "Holds for the pods of namespace {namespace} that no object with a selector is for; of the whole mesh, if that is the \
             mesh's namespace."
        ),
    }
}

fn load(lazy: &Lazy) -> String {
    match &lazy.load {
        Load::OnDemand => format!(
            "Their proxies start without any service; the first call to one is held until it is there, at most {}.",
            write_duration(lazy.hold)
        ),
        Load::Learned(fallback) => {
            let meanwhile = match fallback {
                Fallback::Passthrough => "to the host that they name, by DNS or their original destination".to_owned(),
                Fallback::Service { namespace, name, port } => format!("to Service {name}.{namespace}, port {port}"),
                Fallback::Refuse => "nowhere: they are refused".to_owned(),
            };
            format!(
                "Their proxies start without any service; no call is held. First calls go {meanwhile}; what they name is loaded then."
            )
        }
        Load::Declared if lazy.always.is_empty() => "Their proxies have no service, and load none.".to_owned(),
        Load::Declared => format!("Their proxies have these and load nothing else: {}.", list(&lazy.always)),
    }
}

fn list(callees: &[Callee]) -> String {
    let words: Vec<String> = callees.iter().map(words).collect();
    words.join(", ")
}

/// An entry in words.
fn words(callee: &Callee) -> String {
    let on = |port: &Option<u16>| port.map(|port| format!(", port {port}")).unwrap_or_default();
    match callee {
        Callee::Service { namespace, name, port } => format!("Service {name}.{namespace}{}", on(port)),
        Callee::Namespace(namespace) => format!("every Service of namespace {namespace}"),
        Callee::Domain { name, port } => format!("the host {name}{}", on(port)),
        Callee::Domains(domain) => format!("every host below {domain}"),
        Callee::Everything => "every Service".to_owned(),
    }
}

//! Manifests of what the benchmarks measure, read as Weir reads them.

use std::fmt::Write;

use operator::{
    index::{Change, ObjectKey},
    watch::decode,
};

/// Namespace of everything.
pub(crate) const NAMESPACE: &str = "bench";
/// Name of the service.
pub(crate) const SERVICE: &str = "checkout";

/// The changes that a folder with this text would give.
pub(crate) fn changes(text: &str) -> anyhow::Result<Vec<Change>> {
    let file = decode::decode(text.as_bytes()).map_err(|unreadable| anyhow::anyhow!("{}", unreadable.0))?;
    let objects = file.objects.into_iter();
    objects
        .map(|decoded| {
            use operator::index::Object;
            if let Object::Policy { problems, .. } | Object::Undecodable(problems) = &decoded.object
                && let Some(problem) = problems.first()
            {
                anyhow::bail!("{}: {problem}", decoded.key);
            }
            Ok(Change::Apply { key: decoded.key, origin: String::new(), object: decoded.object })
        })
        .collect()
}

/// Keys of the objects in these changes.
pub(crate) fn keys(changes: &[Change]) -> Vec<ObjectKey> {
    let applied = changes.iter().filter_map(|change| match change {
        Change::Apply { key, .. } => Some(key.clone()),
        _ => None,
    });
    applied.collect()
}

/// A service with this many pods, each on an address of its own.
pub(crate) fn service(name: &str, pods: usize) -> String {
    let mut text = format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints:
"
    );
    for pod in 0..pods {
        let (high, low) = (pod / 250, pod % 250 + 1);
        let _ = writeln!(text, "- {{addresses: [127.1.{high}.{low}], targetRef: {{kind: Pod, name: {name}-{pod}}}}}");
    }
    text
}

/// A policy on a service. `rules` are YAML list items in flow style, one a line.
pub(crate) fn policy(object: &str, service: &str, rules: &[String]) -> String {
    let mut text = format!(
        "---
apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {{name: {object}, namespace: {NAMESPACE}}}
spec:
  targetRefs: [{{kind: Service, name: {service}}}]
  rules:
"
    );
    for rule in rules {
        let _ = writeln!(text, "  - {{{rule}}}");
    }
    text
}

//! What objects of a namespace may do beyond the services of their own: whoever runs Weir says it, and nobody else.
//!
//! Objects have no field that reaches over to another namespace. Three things do all the same: a query to Prometheus, which knows
//! the whole cluster, a limit at callers, whose proxies may be anybody's, and what the mesh's own namespace says of all proxies.

use std::collections::BTreeSet;

use super::{MetricSource, Policy};
use crate::{
    problem::{Place, Problem, Reason},
    promql,
};

/// Namespaces, as whoever runs Weir lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// Every one.
    All,
    /// These.
    Of(BTreeSet<String>),
}

impl Namespaces {
    /// No namespace at all.
    #[must_use]
    pub const fn none() -> Self {
        Self::Of(BTreeSet::new())
    }

    /// Whether the namespace is one of them.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of(names) => names.contains(namespace),
        }
    }
}

/// What objects may do beyond their own services, by their namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenants {
    /// Whose objects may ask Prometheus anything.
    pub promql: Namespaces,
    /// The label of series that says their namespace: everybody else's queries are held to it. `None`: they may not ask at all.
    pub promql_label: Option<String>,
    /// Whose limits with `enforceAt: Client` concern callers of every namespace.
    pub client_limits: Namespaces,
    /// Whose `LazyConfig`s without a selector are for every pod of the mesh. `None`: nobody's.
    pub mesh: Option<String>,
}

impl Default for Tenants {
    /// All objects are of the one who runs Weir, as in a folder. Limits at callers still stay in their own namespace.
    fn default() -> Self {
        Self { promql: Namespaces::All, promql_label: None, client_limits: Namespaces::none(), mesh: None }
    }
}

impl Tenants {
    /// What the policy says that its namespace may not. Holds its queries to its namespace where they are to be.
    pub fn hold(&self, policy: &mut Policy) -> Vec<Problem> {
        let namespace = &policy.key.namespace;
        if self.promql.contains(namespace) {
            return Vec::new();
        }
        let mut problems = Vec::new();
        for definition in policy.metrics.values_mut() {
            let MetricSource::Prometheus { query, position } = &mut definition.source else { continue };
            let field = format!("spec.metrics[{position}].prometheus");
            let Some(label) = &self.promql_label else {
                problems.push(Problem {
                    field,
                    reason: Reason::NotAllowed,
                    message: format!(
                        "objects of the namespace {namespace:?} may not ask Prometheus, which knows other namespaces, too"
                    ),
                    help: Some(format!(
                        "use `scrape`, or have whoever runs Weir allow it with --allow-promql {namespace}, or for series of the \
                         namespace with --promql-namespace-label (prometheus.allowNamespaces and prometheus.namespaceLabel of the chart)"
                    )),
                    place: None,
                });
                continue;
            };
            match promql::hold(query, label, namespace) {
                Ok(held) => *query = held,
                // What is no query at all is told without this.
                Err(_) if promql::Template::parse(query).is_err() => {}
                Err(promql::Mistake { message, help, start, end }) => problems.push(Problem {
                    field: format!("{field}.query"),
                    reason: Reason::NotAllowed,
                    message,
                    help: Some(help.to_owned()),
                    place: Some(Place { text: query.clone(), start, end }),
                }),
            }
        }
        problems
    }

    /// Whether limits of objects in `namespace` concern callers that live in `callers`.
    #[must_use]
    pub fn concerns_callers(&self, namespace: &str, callers: &str) -> bool {
        namespace == callers || self.client_limits.contains(namespace)
    }
}

#[cfg(test)]
mod tests;

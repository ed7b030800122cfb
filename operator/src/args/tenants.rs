//! What objects of a namespace may do beyond the services of their own.

use limiter::policy::{
    is_dns_label,
    tenants::{Namespaces, Tenants},
};

/// What objects of a namespace may do beyond the services of their own.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TenantArgs {
    /// Let objects of this namespace ask Prometheus anything in PromQL, of other namespaces, too; may be given several times, `*` is
    /// every namespace. With --kubernetes none may unless told so here, or by --promql-namespace-label; of a folder all may.
    #[arg(long = "allow-promql", env = "WEIR_ALLOW_PROMQL", value_name = "NAMESPACE", value_delimiter = ',', value_parser = namespace)]
    pub promql: Vec<String>,
    /// Let objects of all other namespaces ask Prometheus, too, about series that have this label with the name of their namespace as
    /// its value, such as namespace: every selector of their queries gets that matcher.
    #[arg(long, env = "WEIR_PROMQL_NAMESPACE_LABEL", value_name = "LABEL", value_parser = label)]
    pub promql_namespace_label: Option<String>,
    /// Let limits with `enforceAt: Client` in objects of this namespace concern callers of every namespace; may be given several
    /// times, `*` is every namespace. Without it they concern callers of their own.
    #[arg(long = "allow-client-limits", env = "WEIR_ALLOW_CLIENT_LIMITS", value_name = "NAMESPACE", value_delimiter = ',', value_parser = namespace)]
    pub client_limits: Vec<String>,
    /// Namespace whose LazyConfigs without a workloadSelector are for every pod of the mesh, where its own namespace has none; the
    /// chart gives Weir's own. Without it there is none.
    #[arg(long, env = "WEIR_MESH_NAMESPACE", value_name = "NAMESPACE", value_parser = super::namespace)]
    pub mesh_namespace: Option<String>,
}

impl TenantArgs {
    /// What was typed, in a cluster or of a folder.
    #[must_use]
    pub fn tenants(self, in_cluster: bool) -> Tenants {
        let Self { promql, promql_namespace_label: promql_label, client_limits, mesh_namespace: mesh } = self;
        let said = in_cluster || !promql.is_empty() || promql_label.is_some();
        Tenants {
            promql: if said { namespaces(promql) } else { Namespaces::All },
            promql_label,
            client_limits: namespaces(client_limits),
            mesh,
        }
    }
}

fn namespaces(names: Vec<String>) -> Namespaces {
    if names.iter().any(|name| name == "*") { Namespaces::All } else { Namespaces::Of(names.into_iter().collect()) }
}

fn namespace(text: &str) -> Result<String, String> {
    if text == "*" || is_dns_label(text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected the name of a namespace (a-z, 0-9, `-`, at most 63 characters), or * for all, found {text:?}"
    ))
}

fn label(text: &str) -> Result<String, String> {
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if first && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && text != "__name__" {
        return Ok(text.to_owned());
    }
    Err(format!("expected the name of a label (a-z, A-Z, 0-9, `_`), such as namespace, found {text:?}"))
}

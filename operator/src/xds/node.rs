//! Who a proxy says it is.

use std::{fmt, str::FromStr, sync::Arc};

use crate::intent::ServiceKey;

/// Longest part of a node id that is accepted (Kubernetes' bound for names).
const MAX_PART: usize = 253;

/// Stands for the service in the id of a proxy that leaves it to Weir to find out. No Service can be called so.
const UNNAMED: &str = "-";

/// A proxy: the pod that it stands in front of. Its node id in Envoy's bootstrap is `<namespace>/<service>/<pod>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(Arc<Parts>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    namespace: String,
    service: String,
    pod: String,
}

/// A node id that is not of the expected form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not three parts.
    #[error(
        "node.id {0:?} is not of the form \"<namespace>/<service>/<pod>\", for example \"shop/cart/cart-0\"; `weir bootstrap` writes it"
    )]
    Form(String),
    /// A part is empty, too long or holds a control character.
    #[error(
        "node.id {id:?}: the {part} must have 1 to 253 characters without control characters; expected \"<namespace>/<service>/<pod>\""
    )]
    Part {
        /// The id, cut.
        id: String,
        /// Which part.
        part: &'static str,
    },
}

impl NodeKey {
    /// The proxy of `pod` of a service.
    #[must_use]
    pub fn new(namespace: impl Into<String>, service: impl Into<String>, pod: impl Into<String>) -> Self {
        Self(Arc::new(Parts { namespace: namespace.into(), service: service.into(), pod: pod.into() }))
    }

    /// The proxy of `pod` of `service`.
    #[must_use]
    pub fn of(service: &ServiceKey, pod: &str) -> Self {
        Self::new(&service.namespace, &service.name, pod)
    }

    /// The proxy of `pod`, whatever service it stands behind.
    #[must_use]
    pub fn unnamed(namespace: impl Into<String>, pod: impl Into<String>) -> Self {
        Self::new(namespace, UNNAMED, pod)
    }

    /// Whether Weir is to find out which service it is.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        self.0.service == UNNAMED
    }

    /// Namespace of the service and the pod.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Name of the service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// Name of the pod.
    #[must_use]
    pub fn pod(&self) -> &str {
        &self.0.pod
    }

    /// The service that the pod belongs to.
    #[must_use]
    pub fn service_key(&self) -> ServiceKey {
        ServiceKey { namespace: self.0.namespace.clone(), name: self.0.service.clone() }
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.0.namespace, self.0.service, self.0.pod)
    }
}

impl FromStr for NodeKey {
    type Err = Error;

    fn from_str(id: &str) -> Result<Self, Error> {
        let shown = || id.chars().take(100).collect::<String>();
        let parts: Vec<&str> = id.splitn(4, '/').collect();
        let [namespace, service, pod] = parts[..] else { return Err(Error::Form(shown())) };
        for (part, text) in [("namespace", namespace), ("service", service), ("pod", pod)] {
            if text.is_empty() || text.len() > MAX_PART || text.chars().any(char::is_control) {
                return Err(Error::Part { id: shown(), part });
            }
        }
        Ok(Self::new(namespace, service, pod))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_shows() {
        let node = NodeKey::new("ns-a", "checkout", "checkout-0");
        assert_eq!(node.to_string(), "ns-a/checkout/checkout-0");
        assert_eq!("ns-a/checkout/checkout-0".parse(), Ok(node));
    }

    #[test]
    fn refuses_other_forms_and_names_the_expected_one() {
        for id in ["", "checkout", "ns-a/checkout", "ns-a/checkout/p/q", "//", "ns-a//p", "ns-a/checkout/a\nb", "*"] {
            let error = id.parse::<NodeKey>().expect_err(id).to_string();
            assert!(error.contains("<namespace>/<service>/<pod>"), "{id}: {error}");
        }
        let long = format!("ns-a/checkout/{}", "x".repeat(254));
        assert!(long.parse::<NodeKey>().is_err());
    }
}

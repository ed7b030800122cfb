//! How proxies come to know the services that their applications call: what a `LazyConfig` becomes.
//!
//! ```text
//! LazyConfig (crds) -> weir -> Lazy, or Problems
//!                       `-> callee: `cart.shop`, `*.shop`, `api.stripe.example`
//! ```
//!
//! Values only. Which configuration holds for a workload is decided by [`Lazy::scope`], then by age.

pub mod callee;
mod explain;
pub mod weir;

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

pub use self::explain::explain;

/// Identity of the object. Displays as `lazyconfigs.weir.dev/<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct LazyKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for LazyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lazyconfigs.weir.dev/{}/{}", self.namespace, self.name)
    }
}

/// A validated `LazyConfig`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lazy {
    /// The object it came from.
    pub key: LazyKey,
    /// `metadata.generation` of the object (0 when the source has none).
    pub generation: i64,
    /// `metadata.creationTimestamp`; of two for the same pods the older one holds.
    pub created: Option<Timestamp>,
    /// Labels of the pods it is for, all of which must match. `None`: every pod of the namespace, or of the mesh when the object
    /// is in the mesh's own namespace.
    pub selector: Option<BTreeMap<String, String>>,
    /// How what is called gets to the proxy.
    pub load: Load,
    /// What is there from the start and never forgotten.
    pub always: Vec<Callee>,
    /// What is never there: a call is answered as one to an unknown host. Wins over `always`.
    pub never: Vec<Callee>,
    /// What becomes of calls to hosts that nothing is known of.
    pub unknown_hosts: UnknownHosts,
    /// What was not called for this long is forgotten. `None`: never.
    pub forget_after: Option<Duration>,
    /// The longest that a first call is held while its configuration is on its way.
    pub hold: Duration,
    /// A new proxy gets at once what others of its workload have called.
    pub prewarm: bool,
}

/// How what is called gets to the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Load {
    /// The first call is held until it is there.
    #[default]
    OnDemand,
    /// Calls to what is not there go this way meanwhile, and are learned from.
    Learned(Fallback),
    /// Only `always`, nothing else.
    Declared,
}

/// Where calls go that are not known yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Fallback {
    /// To the host that they name, found by DNS or by their original destination.
    #[default]
    Passthrough,
    /// To a port of a Service, usually a gateway that knows everything.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its port.
        port: u16,
    },
    /// Nowhere: they are refused.
    Refuse,
}

/// Who is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Callee {
    /// A Service: `cart` (of the object's namespace), `cart.shop`, `cart.shop.svc` or `cart.shop.svc.cluster.local`, all its
    /// ports or one.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// One of its ports; `None`: all.
        port: Option<u16>,
    },
    /// Every Service of a namespace: `*.shop`.
    Namespace(String),
    /// A host outside, found by DNS: `api.stripe.example`, `api.stripe.example:8080`; with a trailing dot when it has fewer than
    /// two dots else (`example.com.`).
    Domain {
        /// Lower case, without the trailing dot.
        name: String,
        /// `None`: the port that the call names, 80 without one.
        port: Option<u16>,
    },
    /// Every host below a domain, with at least two labels: `*.stripe.example`, `*.example.com.`
    Domains(String),
    /// `*`: every Service.
    Everything,
}

impl Callee {
    /// Whether it means a port of this Service, or of this host outside, whose `namespace` is empty.
    #[must_use]
    pub fn names(&self, namespace: &str, name: &str) -> bool {
        match self {
            Self::Service { namespace: of, name: wanted, .. } => of == namespace && wanted == name,
            Self::Domain { name: wanted, .. } => namespace.is_empty() && wanted == name,
            Self::Domains(suffix) => {
                let below = name.strip_suffix(suffix.as_str()).and_then(|before| before.strip_suffix('.'));
                namespace.is_empty() && below.is_some_and(|label| !label.is_empty())
            }
            Self::Namespace(of) => of == namespace,
            Self::Everything => !namespace.is_empty(),
        }
    }

    /// Whether it means this port of a Service, or of a host outside, whose `namespace` is empty.
    #[must_use]
    pub fn covers(&self, namespace: &str, name: &str, port: u16) -> bool {
        let wanted = match self {
            Self::Service { port, .. } | Self::Domain { port, .. } => *port,
            Self::Namespace(_) | Self::Domains(_) | Self::Everything => None,
        };
        self.names(namespace, name) && wanted.is_none_or(|wanted| wanted == port)
    }
}

/// What becomes of calls to hosts that nothing is known of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum UnknownHosts {
    /// They are answered 404 at once.
    #[default]
    Refuse,
    /// They go to the host that they name, found by DNS or by their original destination.
    Passthrough,
}

/// How narrow a configuration is: of those that fit a pod the narrowest holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Scope {
    /// Every pod of the mesh.
    Mesh,
    /// Every pod of its namespace.
    Namespace,
    /// Pods by their labels.
    Workload,
}

impl Lazy {
    /// How narrow it is, where `mesh_namespace` is the one whose objects without a selector are for the whole mesh.
    #[must_use]
    pub fn scope(&self, mesh_namespace: Option<&str>) -> Scope {
        match &self.selector {
            Some(_) => Scope::Workload,
            None if mesh_namespace == Some(self.key.namespace.as_str()) => Scope::Mesh,
            None => Scope::Namespace,
        }
    }
}

/// The default of [`Lazy::hold`].
pub const DEFAULT_HOLD: Duration = Duration::from_secs(300);
/// The default of [`Lazy::forget_after`].
pub const DEFAULT_FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

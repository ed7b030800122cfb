//! Splits: how the requests for a Service, the *root*, are shared out among others, its *arms*, and how that follows what those do.
//!
//! ```text
//! SmartSplit (crds) -----> weir --> Split, or Problems
//! TrafficSplit (crds) ---> smi ---^
//! Split, what was seen of its arms -> steer -> shares -> whole numbers of a constant total
//! ```
//!
//! Values only.

mod explain;
pub mod layout;
pub mod realised;
pub mod shares;
pub mod smi;
pub mod steer;
pub mod weir;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::explain::{explain, trimmed};
use self::{shares::Bounds, steer::Law};
use crate::policy::Mode;

/// Kinds of objects that become a [`Split`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `SmartSplit` of `weir.dev`.
    SmartSplit,
    /// `TrafficSplit` of `split.smi-spec.io`, in any version.
    TrafficSplit,
}

/// Identity of the object. Displays as `smartsplits.weir.dev/<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SplitKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for SplitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resource = match self.kind {
            Kind::SmartSplit => "smartsplits.weir.dev",
            Kind::TrafficSplit => "trafficsplits.split.smi-spec.io",
        };
        write!(f, "{resource}/{}/{}", self.namespace, self.name)
    }
}

/// A validated object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Split {
    /// The object it came from.
    pub key: SplitKey,
    /// `metadata.generation` of the object (0 when the source has none).
    pub generation: i64,
    /// `metadata.creationTimestamp`; of two for the same Service the older one holds.
    pub created: Option<Timestamp>,
    /// The Service whose requests are shared out, of the object's own namespace.
    pub root: String,
    /// Names of the `HTTPRouteGroup`s that say which requests, any of them. Empty: all requests.
    pub groups: Vec<String>,
    /// Who gets them, in the object's order; each Service once.
    pub arms: Vec<Arm>,
    /// How the shares follow what the arms do. `None`: they are as declared.
    pub steer: Option<Law>,
    /// Whether what is steered is carried out, or only told.
    pub mode: Mode,
    /// Whose requests stay with an arm. `None`: each request is by itself.
    pub sticky: Option<Sticky>,
}

/// Whom requests are shared out to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Arm {
    /// The Service, of the object's own namespace.
    pub service: String,
    /// Its port. `None`: that of the same number as the root's.
    pub port: Option<u16>,
    /// Its declared weight, relative to that of the others.
    pub weight: u64,
    /// What it may have, whatever it does.
    pub bounds: Bounds,
    /// Requests a second that each of its ready endpoints can serve. `None`: nothing is known of that.
    pub capacity: Option<u32>,
}

/// What tells users apart, each of whom stays with an arm while the shares are as they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Sticky {
    /// The value of a header.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
    /// The client's address.
    ClientIp,
}

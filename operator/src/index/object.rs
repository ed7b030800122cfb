//! What a source of objects says: which object, what it is now, and what is wrong.

use limiter::{
    lazy::{Lazy, LazyKey},
    policy::{Kind, Policy, PolicyKey, RequestMatch},
    problem::Problem,
    split::{self, Split, SplitKey},
};
use serde::Serialize;

use super::{
    asked::Remembered,
    gateway::{GatewayModel, RouteModel},
    model::{EndpointSliceModel, PodModel, ServiceModel},
};

/// Kinds of objects that Weir reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ObjectKind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Pod.
    Pod,
    /// `gateway.networking.k8s.io/v1` Gateway.
    Gateway,
    /// `gateway.networking.k8s.io/v1` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1` GRPCRoute.
    GrpcRoute,
    /// `TrafficSplit` of `split.smi-spec.io` in any version, or `SmartSplit` of `weir.dev/v1alpha1`.
    Split(split::Kind),
    /// `HTTPRouteGroup` of `specs.smi-spec.io` in any version.
    RouteGroup,
    /// An object that becomes a policy.
    Policy(Kind),
    /// `LazyConfig` of `weir.dev/v1alpha1`.
    Lazy,
    /// `WorkloadScope` of `weir.dev/v1alpha1`, which Weir writes.
    Scope,
}

/// Identity of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// Kind.
    pub kind: ObjectKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKind {
    /// Whether it is a kind of ours that says what Weir is to do, and has a status about that.
    #[must_use]
    pub fn is_own(self) -> bool {
        matches!(self, Self::Policy(_) | Self::Lazy | Self::Split(split::Kind::SmartSplit))
    }
}

impl ObjectKind {
    /// Whether it says how requests for Services are shared out.
    #[must_use]
    pub fn shares_out(self) -> bool {
        matches!(self, Self::Split(_) | Self::RouteGroup | Self::HttpRoute | Self::GrpcRoute)
    }

    /// Whether it is a route of Gateway API, in whose status every controller has a part.
    #[must_use]
    pub fn is_route(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute)
    }

    /// Whether Weir says somewhere on the API server what has become of it.
    #[must_use]
    pub fn is_told(self) -> bool {
        self.is_own() || self.is_route() || matches!(self, Self::Split(_))
    }
}

impl ObjectKey {
    /// The split that an object of this key becomes, if its kind does.
    #[must_use]
    pub fn split(&self) -> Option<SplitKey> {
        let ObjectKind::Split(kind) = self.kind else { return None };
        Some(SplitKey { kind, namespace: self.namespace.clone(), name: self.name.clone() })
    }

    /// The policy that an object of this key becomes, if its kind does.
    #[must_use]
    pub fn policy(&self) -> Option<PolicyKey> {
        let ObjectKind::Policy(kind) = self.kind else { return None };
        Some(PolicyKey { kind, namespace: self.namespace.clone(), name: self.name.clone() })
    }

    /// The key of the object as a `LazyConfig`, if it is one.
    #[must_use]
    pub fn lazy(&self) -> Option<LazyKey> {
        let is_lazy = self.kind == ObjectKind::Lazy;
        is_lazy.then(|| LazyKey { namespace: self.namespace.clone(), name: self.name.clone() })
    }
}

impl From<&PolicyKey> for ObjectKey {
    fn from(PolicyKey { kind, namespace, name }: &PolicyKey) -> Self {
        Self { kind: ObjectKind::Policy(*kind), namespace: namespace.clone(), name: name.clone() }
    }
}

impl From<&SplitKey> for ObjectKey {
    fn from(SplitKey { kind, namespace, name }: &SplitKey) -> Self {
        Self { kind: ObjectKind::Split(*kind), namespace: namespace.clone(), name: name.clone() }
    }
}

impl From<&LazyKey> for ObjectKey {
    fn from(LazyKey { namespace, name }: &LazyKey) -> Self {
        Self { kind: ObjectKind::Lazy, namespace: namespace.clone(), name: name.clone() }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let resource = match self.kind {
            ObjectKind::Service => "services",
            ObjectKind::EndpointSlice => "endpointslices.discovery.k8s.io",
            ObjectKind::Pod => "pods",
            ObjectKind::Gateway => "gateways.gateway.networking.k8s.io",
            ObjectKind::HttpRoute => "httproutes.gateway.networking.k8s.io",
            ObjectKind::GrpcRoute => "grpcroutes.gateway.networking.k8s.io",
            ObjectKind::RouteGroup => "httproutegroups.specs.smi-spec.io",
            ObjectKind::Split(kind) => {
                let (namespace, name) = (self.namespace.clone(), self.name.clone());
                return SplitKey { kind, namespace, name }.fmt(f);
            }
            ObjectKind::Lazy => "lazyconfigs.weir.dev",
            ObjectKind::Scope => "workloadscopes.weir.dev",
            ObjectKind::Policy(kind) => {
                let (namespace, name) = (self.namespace.clone(), self.name.clone());
                return PolicyKey { kind, namespace, name }.fmt(f);
            }
        };
        write!(f, "{resource}/{}/{}", self.namespace, self.name)
    }
}

/// An object as a source read it, already converted to its model.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service.
    Service(ServiceModel),
    /// An EndpointSlice.
    EndpointSlice(EndpointSliceModel),
    /// A Pod.
    Pod(PodModel),
    /// A Gateway, and what is wrong with listeners that are left out of it.
    Gateway(GatewayModel, Vec<Problem>),
    /// An HTTPRoute or a GRPCRoute.
    Route(RouteModel),
    /// A split; `None` when it could not be understood, with the problems that say why.
    Split {
        /// What it says, as far as it could be understood.
        split: Option<Box<Split>>,
        /// What is wrong with it. Any problem means that it is not accepted.
        problems: Vec<Problem>,
    },
    /// What an `HTTPRouteGroup` matches: any of these.
    RouteGroup(Vec<RequestMatch>),
    /// A policy; `None` when it could not be understood, with the problems that say why.
    Policy {
        /// The policy, as far as it could be understood.
        policy: Option<Box<Policy>>,
        /// What is wrong with it. Any problem means that it is not accepted.
        problems: Vec<Problem>,
    },
    /// A `LazyConfig`; `None` when it could not be understood, with the problems that say why.
    Lazy {
        /// What it says, as far as it could be understood.
        lazy: Option<Box<Lazy>>,
        /// What is wrong with it. Any problem means that it is not accepted.
        problems: Vec<Problem>,
    },
    /// What the pods of the Service of this name call, and what of it cannot be understood.
    Scope(Vec<Remembered>, Vec<Problem>),
    /// The object could not be read as its kind at all.
    Undecodable(Vec<Problem>),
    /// The object is right as it is, and not for Weir: as if it were not there.
    Foreign(Problem),
}

/// One change, from any source.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// An object is new or different.
    Apply {
        /// Which.
        key: ObjectKey,
        /// Where it stands, for people: a file and line, or nothing.
        origin: String,
        /// What it is now.
        object: Object,
    },
    /// An object is gone.
    Delete(ObjectKey),
    /// Something outside any object is wrong with the source (a file that is not UTF-8); an empty list clears it.
    Source {
        /// The file or watch.
        origin: String,
        /// What is wrong.
        problems: Vec<Problem>,
    },
}

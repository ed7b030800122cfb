//! `WorkloadScope` of `weir.dev/v1alpha1`: what the pods of a Service were seen to call.
//!
//! Weir alone writes these objects, so that what was learned outlives it; nobody else has to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most hosts that one object holds: two thousand of them are below half of what etcd takes of one object.
pub const MOST_HOSTS: usize = 2000;

/// What the pods of the Service of this name call. Written by Weir alone; deleting it makes Weir forget what was learned.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "WorkloadScope",
    namespaced,
    status = "WorkloadScopeStatus",
    derive = "PartialEq",
    shortname = "wws",
    category = "weir",
    doc = "What the pods of the Service of this name call. Written by Weir alone; deleting it makes Weir forget what was learned.",
    printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.count"),
    printcolumn(name = "LeftOut", type_ = "integer", json_path = ".status.hostsLeftOut", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct WorkloadScopeSpec {}

/// What the pods of a Service call.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadScopeStatus {
    /// How many hosts they call, those that are left out of `hosts` among them.
    #[serde(default)]
    pub count: i64,

    /// Each host that they call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["host".into()]))]
    pub hosts: Vec<HostScope>,

    /// Hosts that are left out of `hosts`, since the object would be too large with them: those called least recently. Absent:
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts_left_out: Option<i64>,
}

/// A host that is called.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostScope {
    /// The host as it is called, with its port when that is named: `cart.shop:8080`.
    #[schemars(length(min = 1, max = 262))]
    pub host: String,

    /// The ports of Services that it stands for: `shop/cart:8080`. Absent: none that is known, it is a host outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub services: Vec<String>,

    /// Why it is loaded.
    pub why: Why,

    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// When it was last called, to some minutes. Absent: not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Time>,
}

/// Why a host is loaded.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Why {
    /// `always` of a LazyConfig says so.
    Declared,
    /// A call waited for it.
    #[default]
    OnDemand,
    /// A call that went elsewhere was seen.
    Learned,
}

//! `WorkloadScope` of `weir.dev/v1alpha1`: what the pods of a Service were seen to call.
//!
//! Weir alone writes these objects, so that what was learned outlives it; nobody else has to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most destinations that one object holds: two thousand of them are below half of what etcd takes of one object.
pub const MOST_DESTINATIONS: usize = 2000;

/// What the pods of the Service of this name call. Written by Weir alone; deleting it makes Weir forget what they do not have now.
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
    doc = "What the pods of the Service of this name call. Written by Weir alone; deleting it makes Weir forget what they do not have now.",
    printcolumn(name = "Calls", type_ = "integer", json_path = ".status.count"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct WorkloadScopeSpec {}

/// What the pods of a Service call.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadScopeStatus {
    /// How many destinations they call.
    #[serde(default)]
    pub count: i64,

    /// Each destination that they call; of more than 2,000 those called last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["to".into()]))]
    pub calls: Vec<CallScope>,
}

/// A destination that is called.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallScope {
    /// A port of a Service, as `namespace/name/port`, or a host outside, as `host:port`.
    #[schemars(length(min = 1, max = 262))]
    pub to: String,

    /// Why it is loaded.
    pub why: Why,

    /// Since when.
    pub since: Time,

    /// When it was last called, to some minutes.
    pub last_used: Time,
}

/// Why a destination is loaded.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// A call waited for it.
    OnDemand,
    /// A call that went elsewhere was seen.
    Learned,
}

//! `LazyConfig` of `weir.dev/v1alpha1`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the proxies of some pods come to know the services that their applications call.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "LazyConfig",
    namespaced,
    status = "LazyConfigStatus",
    derive = "PartialEq",
    shortname = "wlc",
    category = "weir",
    doc = "How the proxies of some pods come to know the services that their applications call.",
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(name = "Load", type_ = "string", json_path = ".spec.load"),
    printcolumn(name = "Workloads", type_ = "integer", json_path = ".status.workloads"),
    printcolumn(name = "Loaded", type_ = "integer", json_path = ".status.services.loaded"),
    printcolumn(name = "Known", type_ = "integer", json_path = ".status.services.known"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Proxies", type_ = "integer", json_path = ".status.proxies.total", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.fallback) || self.load == 'Learned'")
    .message("fallback says where calls go that are learned from; it stands beside load Learned only"))]
pub struct LazyConfigSpec {
    /// Which pods it is for, of the object's own namespace. Absent: all of the namespace, or of the whole mesh when the object
    /// is in the mesh's own namespace. Of several objects for one pod the one with a selector holds, then the namespace's,
    /// then the mesh's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<WorkloadSelector>,

    /// How what an application calls gets to its proxy.
    #[serde(default)]
    pub load: Load,

    /// Where calls go meanwhile that are learned from. Only with load Learned; absent there: Passthrough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,

    /// What is there from the start and is never forgotten: Services (`cart`, `cart.shop`, `cart.shop.svc:8080`), all of a
    /// namespace (`*.shop`), hosts outside (`api.stripe.example`, `example.com.`, `*.stripe.example`) or every Service (`*`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), inner(length(min = 1, max = 262)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub always: Vec<String>,

    /// What is never there, in the forms of `always`: a call is answered as one to an unknown host. It wins over `always`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), inner(length(min = 1, max = 262)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub never: Vec<String>,

    /// What becomes of calls to hosts that nothing is known of.
    #[serde(default)]
    pub unknown_hosts: UnknownHosts,

    /// What was not called for this long is forgotten, and fetched again at the next call: `24h`, at least `10s`. `0s` or
    /// `Never`: it is never forgotten.
    #[serde(default = "default_forget_after")]
    #[schemars(length(max = 32), regex(pattern = r"^(Never|([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+)$"))]
    pub forget_after: String,

    /// The longest that a first call is held while its configuration is on its way, from `100ms` to `1h`.
    #[serde(default = "default_hold")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"))]
    pub hold: String,

    /// Whether the pods of a Service share what they call: a proxy that starts has at once what any of them has called before.
    #[serde(default)]
    pub prewarm: bool,
}

fn default_forget_after() -> String {
    "24h".to_owned()
}

fn default_hold() -> String {
    "5m".to_owned()
}

impl Default for LazyConfigSpec {
    fn default() -> Self {
        Self {
            workload_selector: None,
            load: Load::default(),
            fallback: None,
            always: Vec::new(),
            never: Vec::new(),
            unknown_hosts: UnknownHosts::default(),
            forget_after: default_forget_after(),
            hold: default_hold(),
            prewarm: false,
        }
    }
}

/// Chooses pods by their labels.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSelector {
    /// Labels that a pod must have, all of them.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
}

/// How what an application calls gets to its proxy.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Load {
    /// At the first call, which is held until it is there.
    #[default]
    OnDemand,
    /// After the first call, which goes where `fallback` says.
    Learned,
    /// Never: only `always` is there.
    Declared,
}

/// Where calls go that are not known yet.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(self.type == 'Service') == has(self.service)")
    .message("service is set exactly when the type is Service"))]
pub struct Fallback {
    /// Where to.
    #[serde(default, rename = "type")]
    pub kind: FallbackType,

    /// The Service, with type Service: usually a gateway that knows everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<FallbackService>,
}

/// Kinds of places for calls that are not known yet.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FallbackType {
    /// To the host that they name, found by DNS or by their original destination.
    #[default]
    Passthrough,
    /// To a port of a Service.
    Service,
    /// Nowhere: they are refused.
    Refuse,
}

/// A port of a Service.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FallbackService {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// Its namespace. Absent: the object's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,

    /// The number of its port.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
}

/// What becomes of calls to hosts that nothing is known of.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnknownHosts {
    /// They are answered 404 at once.
    #[default]
    Refuse,
    /// They go to the host that they name, found by DNS or by their original destination.
    Passthrough,
}

/// What Weir has made of a `LazyConfig`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LazyConfigStatus {
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Accepted and Programmed. Numbers that move stand in the other fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// How many pods it is in force for: those that it is for, without those that a narrower or older object holds for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<i64>,

    /// The proxies of these pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<LazyProxies>,

    /// The Services that these proxies know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<LazyServices>,
}

/// How many proxies have what they should have.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LazyProxies {
    /// Proxies of the pods that are connected.
    pub total: i64,
    /// Those that have acknowledged the newest configuration.
    pub programmed: i64,
}

/// How much of the mesh is loaded.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LazyServices {
    /// Services that at least one of the proxies has loaded.
    pub loaded: i64,
    /// Services that there are.
    pub known: i64,
    /// How much less memory the connected proxies take together than with every service, in bytes: an estimate by what Envoy takes for
    /// one.
    #[serde(default)]
    pub saved_bytes: i64,
}

//! `SmartSplit` of `weir.dev/v1alpha1`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::smart_limiter::{Mode, TargetRef};

/// How the requests for a Service are shared out among others, and how that follows what those do.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "SmartSplit",
    namespaced,
    status = "SmartSplitStatus",
    derive = "PartialEq",
    shortname = "wss",
    category = "weir",
    doc = "How the requests for a Service are shared out among others, and how that follows what those do.",
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
    printcolumn(name = "Service", type_ = "string", json_path = ".spec.targetRefs[0].name"),
    printcolumn(name = "Shares", type_ = "string", json_path = ".status.shares"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.why"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SmartSplitSpec {
    /// The Service whose requests are shared out, in the object's own namespace.
    #[schemars(length(min = 1, max = 1))]
    pub target_refs: Vec<TargetRef>,

    /// Who gets them. Where an HTTPRoute, a GRPCRoute or a TrafficSplit of the same Service declares weights, those count in the place of
    /// these; the bounds here hold all the same.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub backend_refs: Vec<SplitBackend>,

    /// How the shares follow what the backends do, as a sentence: `prefer lower errors and p99 latency, at most 5% per step, every 5s`, or
    /// `ramp up reviews-v2 to 50%, at most 5% per step, every 30s`. Absent: they are as declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub steer: Option<String>,

    /// Whether what is steered is carried out, or only told in the status.
    #[serde(default)]
    pub mode: Mode,

    /// Whose requests stay with a backend while the shares are as they are. Absent: each request is by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<StickyBy>,
}

/// A Service that gets requests.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.minPercent) || !has(self.maxPercent) || self.minPercent <= self.maxPercent")
    .message("minPercent is at most maxPercent"))]
pub struct SplitBackend {
    /// Its name, in the object's own namespace.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// The number of its port. Absent: the same as that which is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,

    /// Its declared weight, relative to that of the others.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i64,

    /// The least that it has, in percent, to a hundredth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub min_percent: Option<f64>,

    /// The most that it has, in percent, to a hundredth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_percent: Option<f64>,

    /// Requests a second that each of its ready endpoints can serve: it gets no more than that, as far as others can take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_endpoint: Option<i64>,
}

const fn one() -> i64 {
    1
}

impl Default for SplitBackend {
    fn default() -> Self {
        Self {
            name: String::new(),
            port: None,
            weight: one(),
            min_percent: None,
            max_percent: None,
            requests_per_endpoint: None,
        }
    }
}

/// What tells users apart.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(self.type == 'ClientIP') != has(self.name)")
    .message("name is that of the header or the cookie; ClientIP has none"))]
pub struct StickyBy {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: StickyType,

    /// Name of the header or the cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub name: Option<String>,
}

/// Kinds of what tells users apart.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StickyType {
    /// The value of a request's header.
    #[default]
    Header,
    /// The value of a cookie; who has none is given one for the time of its session.
    Cookie,
    /// The address that the connection comes from.
    #[serde(rename = "ClientIP")]
    ClientIp,
}

/// What Weir has made of a split. `SplitReport` has the same, of objects without a status.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SmartSplitStatus {
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Accepted, Programmed, MetricsAvailable and Degraded. Numbers that move stand in the other fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The proxies that carry it out: those of the root's callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<SplitProxies>,

    /// Who declares the weights: `smartsplits.weir.dev/<namespace>/<name>`, or a TrafficSplit, an HTTPRoute or a GRPCRoute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared_by: Option<String>,

    /// The shares in short, in the declared order: `90 / 10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<String>,

    /// Why they are so, in a fixed word: Declared, Steered, Bounded, Held, Gliding, AllAlike, NoneReady, RolledBack, Shadow or Paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,

    /// The same in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// Since when they are so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// Each backend, in the declared order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["service".into()]))]
    pub arms: Vec<ArmStatus>,
}

/// How many proxies have what they should have.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SplitProxies {
    /// Proxies of the callers that are connected.
    pub total: i64,
    /// Those that have acknowledged the newest configuration.
    pub programmed: i64,
}

/// One backend, as it stands now.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArmStatus {
    /// The Service.
    pub service: String,

    /// Its part as it is declared, in percent.
    pub declared_percent: f64,

    /// Its part as it is in force, in percent.
    pub percent: f64,

    /// What it would have without bounds on the way there, in percent. Absent: nothing steers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_percent: Option<f64>,

    /// Its part of the requests that callers have told of since the last step, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realised_percent: Option<f64>,

    /// What is thought of it, in a fixed word: Well, OverObjective, WorseThanPeer, Inconclusive, Unseen or NotReady.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,

    /// Requests that the verdict rests on; older ones count less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<f64>,

    /// What part of them is thought to fail, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_ratio: Option<f64>,

    /// How long they take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,

    /// Requests that have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inflight: Option<f64>,

    /// Its endpoints that are ready.
    #[serde(default)]
    pub ready_endpoints: i64,

    /// One sentence that explains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What is in force of the `TrafficSplit` of this name, which has no status of its own. Written by Weir alone.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "SplitReport",
    namespaced,
    status = "SmartSplitStatus",
    derive = "PartialEq",
    shortname = "wsr",
    category = "weir",
    doc = "What is in force of the `TrafficSplit` of this name, which has no status of its own. Written by Weir alone.",
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
    printcolumn(name = "Shares", type_ = "string", json_path = ".status.shares"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.why"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct SplitReportSpec {}

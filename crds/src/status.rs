//! The status that every kind of limiter has.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What Weir has made of a limiter.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SmartLimiterStatus {
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Accepted, Programmed, MetricsAvailable and Limiting. Numbers that move stand in the other fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The proxies of the targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ProxyCounts>,

    /// Each rule on each target, as it stands now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into(), "target".into()]))]
    pub rules: Vec<RuleStatus>,

    /// Entries of `rules` that are left out, since the object would be too large with them; `weir status` has all. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules_left_out: Option<i64>,
}

/// How many proxies carry the limits.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyCounts {
    /// Pods of the targets; each has one proxy.
    pub total: i64,
    /// Proxies that are connected and have acknowledged the newest configuration.
    pub programmed: i64,
    /// With `enforceAt: Client`: pods of other namespaces that call through their proxies and are not limited, since whoever runs
    /// Weir does not allow it to this namespace. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlimited: Option<i64>,
}

/// One rule, as it stands now.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// Name of the rule in the spec.
    pub name: String,

    /// Name of the Service that this entry speaks of.
    #[serde(default)]
    pub target: String,

    /// Where the rule stands.
    pub phase: RulePhase,

    /// The limit in force, in words: `30 requests per second across all pods`. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,

    /// The limit in force in requests per second, in the scope of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,

    /// How a limit across all pods is divided: `34 x1, 33 x2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<String>,

    /// The limit of each priority class, that of requests of no class last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<ClassStatus>,

    /// Requests per second that a rule in shadow mode would refuse, as the proxies count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess: Option<f64>,

    /// Most requests that may be in flight to the application, in the scope of the rule. Absent: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<i64>,

    /// The measured values that the decision rests on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observed: Vec<ObservedValue>,

    /// When the phase began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// One sentence that explains the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A priority class, as it stands now.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassStatus {
    /// Name of the class in the spec; absent for the requests that fit none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The most that its requests may take of the rule's limit, in requests per second and the scope of the rule.
    pub per_second: f64,
}

/// Where a rule stands.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RulePhase {
    /// The condition does not hold; no limit.
    #[default]
    Idle,
    /// The condition is true, but not yet for long enough; no limit.
    Pending,
    /// The limit is in force.
    Limiting,
    /// The condition has ended; the limit doubles each second until it vanishes.
    Releasing,
}

/// One measured value.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedValue {
    /// The metric as the sentence spells it: `cpu`, `p99 latency`, `cpu.max`.
    pub metric: String,
    /// The value in the metric's base unit: fraction, count, per second, seconds or bytes.
    pub value: f64,
    /// Which provider gave it.
    pub source: String,
    /// When it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

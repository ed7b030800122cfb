//! `SmartLimiter` of `weir.dev/v1alpha1`.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::SmartLimiterStatus;

/// Limits that switch on, tighten and relax with live metrics.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "SmartLimiter",
    namespaced,
    status = "SmartLimiterStatus",
    derive = "PartialEq",
    shortname = "wsl",
    category = "weir",
    doc = "Limits that switch on, tighten and relax with live metrics.",
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
    printcolumn(
        name = "Limiting",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Limiting")].status"#
    ),
    printcolumn(
        name = "Limit",
        type_ = "string",
        json_path = r#".status.rules[?(@.limit)].limit"#,
        description = "The first limit that is in force."
    ),
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
#[x_kube(validation = Rule::new("has(self.targetRefs) != has(self.selector)")
    .message("exactly one of targetRefs and selector must be set"))]
pub struct SmartLimiterSpec {
    /// What the limits apply to, by name, in the object's own namespace. Exactly one of `targetRefs` and `selector`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,

    /// What the limits apply to, by the labels of Services in the object's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,

    /// Whose proxies enforce the limits.
    #[serde(default)]
    pub enforce_at: EnforceAt,

    /// How the limits reach the proxies.
    #[serde(default)]
    pub via: Via,

    /// Whether the limits reject requests or only report what they would do. A rule may say otherwise.
    #[serde(default)]
    pub mode: Mode,

    /// The rules. All apply at once: a request must pass each that concerns it.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<RuleSpec>,

    /// More words for the sentences of this object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub metrics: Vec<Metric>,

    /// What happens to a rule whose metric is missing.
    #[serde(default)]
    pub on_missing_metric: OnMissingMetric,
}

/// Names a target in the object's own namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.kind != 'Service' || self.group == ''").message("the group of kind Service is empty"))]
pub struct TargetRef {
    /// API group of the kind; empty for Service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253), extend("default" = ""))]
    pub group: String,

    /// Kind of the target.
    pub kind: TargetKind,

    /// Name of the target.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// A listener of a Gateway or a rule of an HTTPRoute, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// Kinds that a limiter may be attached to.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetKind {
    /// A Service.
    Service,
    /// A Gateway of Gateway API.
    Gateway,
    /// An HTTPRoute of Gateway API.
    HTTPRoute,
}

/// Chooses Services by their labels.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels that a Service must have, all of them.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
}

/// Whose proxies enforce a limit.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnforceAt {
    /// The target's own proxies.
    #[default]
    Server,
    /// The proxies of its callers, before a request leaves: of those in the object's namespace, or in all where whoever runs Weir allows it.
    Client,
    /// The gateways whose routes lead to it.
    Gateway,
}

/// How limits reach the proxies.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    /// Weir's own streams.
    #[default]
    Weir,
    /// Istio's objects.
    Istio,
}

/// Enforced or only reported.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Requests over the limit are answered 429.
    #[default]
    Enforce,
    /// Decide, count and report; never reject.
    Shadow,
}

/// One rule.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.limit) != has(self.adapt)").message("a rule has exactly one of limit and adapt"))]
#[x_kube(validation = Rule::new("!has(self.law) || has(self.adapt)").message("law says how adapt moves; it stands beside adapt only"))]
pub struct RuleSpec {
    /// Name of the rule, unique in the object: a DNS label.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// When the rule holds: `cpu > 80% for 10s until cpu < 70% for 30s`. Absent: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub when: Option<String>,

    /// The limit while the rule holds: `30 requests per second across all pods`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub limit: Option<String>,

    /// A limit that steers itself: `keep cpu below 70%, between 20 and 500 requests per second per pod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub adapt: Option<String>,

    /// How `adapt` moves its limit. Absent: `CompletionRate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub law: Option<Law>,

    /// Classes of requests, the one that is shed last first. A request belongs to the first class that fits it; what fits
    /// none is shed first. Absent: all requests are equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub priorities: Vec<Priority>,

    /// Which requests the rule concerns; any of the entries. Absent: all requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub matches: Vec<RequestMatch>,

    /// Requests that may pass at once. Absent: the larger of 5 requests and 0.1 s of the limit; 1 below one a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<i64>,

    /// Whether this rule rejects or only reports. Absent: as the object says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

/// How a limit that steers itself moves.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Law {
    /// Cuts to what the application was measured to complete.
    CompletionRate,
    /// Additive increase, multiplicative decrease.
    Aimd,
}

/// A class of requests.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Priority {
    /// Name of the class, unique in the rule: a DNS label.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Which requests belong to it; any of the entries.
    #[schemars(length(min = 1, max = 16))]
    pub matches: Vec<RequestMatch>,
}

/// Which requests: all that is given must match. The fields of Gateway API's HTTPRouteMatch, and the client's address.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMatch {
    /// The path, without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,

    /// The method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,

    /// Headers, each of which must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<ValueMatch>,

    /// Query parameters, each of which must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub query_params: Vec<ValueMatch>,

    /// Addresses of clients in CIDR notation, any of which must match.
    #[serde(default, rename = "sourceCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub source_cidrs: Vec<String>,
}

/// How a path is matched.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.type == 'RegularExpression' || self.value.startsWith('/')")
    .message("a path begins with /"))]
pub struct PathMatch {
    /// The kind of match.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,

    /// The path, or the regular expression (RE2, over the whole path).
    #[serde(default = "root_path")]
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

fn root_path() -> String {
    "/".to_owned()
}

/// Kinds of path matches.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatchType {
    /// The whole path.
    Exact,
    /// Path elements from the start: `/a` matches `/a` and `/a/b`, not `/ab`.
    #[default]
    PathPrefix,
    /// RE2 over the whole path.
    RegularExpression,
}

/// How a header or query parameter is matched.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueMatch {
    /// The kind of match.
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,

    /// Name of the header (any case) or query parameter.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,

    /// The value, or the regular expression (RE2, over the whole value).
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}

/// Kinds of value matches.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueMatchType {
    /// The whole value.
    #[default]
    Exact,
    /// RE2 over the whole value.
    RegularExpression,
}

/// HTTP methods.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

impl Method {
    /// The method as it stands in a request: upper case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }
}

/// A word that the object defines for its own sentences.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.prometheus) != has(self.scrape)")
    .message("a metric has exactly one of prometheus and scrape"))]
pub struct Metric {
    /// The word, not one of the language's own.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z][a-z0-9_]*$"))]
    pub name: String,

    /// What its numbers mean.
    #[serde(rename = "type")]
    pub kind: MetricType,

    /// How the values of the pods become one.
    #[serde(default)]
    pub reduce: Reduce,

    /// Take it from Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,

    /// Take it from the targets' own metrics page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrape: Option<Scrape>,
}

/// What a metric's numbers mean.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetricType {
    /// A fraction: 0.8 is 80%.
    Ratio,
    /// A plain count.
    Count,
    /// Something per second.
    PerSecond,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// How the values of the pods become one.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reduce {
    /// Arithmetic mean.
    #[default]
    Mean,
    /// Largest.
    Max,
    /// Sum.
    Sum,
}

/// A query to Prometheus.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prometheus {
    /// The query in PromQL.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
}

/// A series of the targets' own metrics page.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scrape {
    /// Name of the series; samples of one pod with this name are added up.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[a-zA-Z_:][a-zA-Z0-9_:]*$"))]
    pub series: String,

    /// Labels that a sample must have, all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub labels: BTreeMap<String, String>,

    /// Take the increase per second, for counters.
    #[serde(default)]
    pub rate: bool,
}

/// What happens to a rule whose metric is missing.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(self.action == 'Floor') == has(self.floor)")
    .message("floor is set exactly when the action is Floor"))]
pub struct OnMissingMetric {
    /// What is done.
    #[serde(default)]
    pub action: MissingAction,

    /// How long the metric must be missing first: `15s`.
    #[serde(default = "default_after")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"))]
    pub after: String,

    /// The limit that then applies, with action Floor: `10 requests per second per pod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub floor: Option<String>,
}

fn default_after() -> String {
    "15s".to_owned()
}

impl Default for OnMissingMetric {
    fn default() -> Self {
        Self { action: MissingAction::Hold, after: default_after(), floor: None }
    }
}

/// What is done when a metric is missing.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MissingAction {
    /// Keep what was last decided.
    #[default]
    Hold,
    /// Apply the limit in `floor`.
    Floor,
    /// Let go.
    Release,
}

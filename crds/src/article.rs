//! `SmartLimiter` of `microservice.netease.com/v1alpha1`: the form of the founding article.
//!
//! It names no target: its own name and namespace are those of the Service.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::status::SmartLimiterStatus;

/// Limits for the Service that has the object's own name and namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "microservice.netease.com",
    version = "v1alpha1",
    kind = "SmartLimiter",
    root = "ArticleSmartLimiter",
    namespaced,
    status = "SmartLimiterStatus",
    derive = "PartialEq",
    category = "weir",
    doc = "Limits for the Service that has this object's name and namespace, in the form of the founding article.",
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
#[serde(deny_unknown_fields)]
pub struct ArticleSmartLimiterSpec {
    /// Limits, all of which apply.
    #[schemars(length(min = 1, max = 32))]
    pub descriptors: Vec<Descriptor>,
}

/// One limit and when it holds.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// What is limited while the condition holds.
    pub action: Action,

    /// When the limit holds, as an expression such as `{cpu}>0.8`. Absent: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub condition: Option<String>,
}

/// A quota for each interval.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// The interval that the quota is for. Required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill_interval: Option<FillInterval>,

    /// What one pod may serve per interval: a number or an expression such as `30/{pod}`.
    #[schemars(length(min = 1, max = 4096))]
    pub quota: String,
}

/// A length of time, from 1 ms to one day.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.seconds > 0 || self.nanos > 0").message("fill_interval must be longer than nothing"))]
pub struct FillInterval {
    /// Whole seconds.
    #[serde(default)]
    #[schemars(range(min = 0, max = 86_400))]
    pub seconds: i64,

    /// Nanoseconds on top of the seconds.
    #[serde(default)]
    #[schemars(range(min = 0, max = 999_999_999))]
    pub nanos: i64,
}

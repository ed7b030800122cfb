//! What Weir says of a route: two conditions for each Service that is its parent. They stand in the route's own status, beside those of
//! other controllers.

use crds::{Condition, Time};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    index::{Index, ObjectKey, gateway::RootModel},
    intent::ServiceKey,
    watch::live::LiveObject,
};

/// Whose entries are Weir's.
pub(super) const CONTROLLER: &str = "weir.dev/controller";

/// What is said of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(into = "Entries")]
pub struct RouteStatus {
    /// The Services that are its parents.
    pub(super) parents: Vec<ParentRef>,
    /// Two for each of them, in their order: `Accepted` and `ResolvedRefs`.
    pub(super) conditions: Vec<Condition>,
    /// Why the route is not taken; whom it names then, only the API server knows.
    refused: Option<String>,
}

/// A Service as a route names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ParentRef {
    #[serde(default)]
    group: String,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    section_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<i64>,
}

/// As it stands on the API server.
#[derive(Serialize)]
struct Entries {
    parents: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    parent_ref: ParentRef,
    controller_name: String,
    conditions: Vec<Condition>,
}

/// Status, reason and message.
type Verdict = (&'static str, &'static str, String);

impl From<RouteStatus> for Entries {
    fn from(status: RouteStatus) -> Self {
        let conditions = status.conditions.chunks(2).map(<[Condition]>::to_vec);
        let entry = |(parent_ref, conditions)| Entry { parent_ref, controller_name: CONTROLLER.to_owned(), conditions };
        Self { parents: status.parents.into_iter().zip(conditions).map(entry).collect() }
    }
}

impl ParentRef {
    fn of(root: &RootModel, namespace: &str) -> Self {
        let ServiceKey { namespace: of, name } = root.service.clone();
        Self {
            group: String::new(),
            kind: "Service".to_owned(),
            namespace: (of != namespace).then_some(of),
            name,
            section_name: None,
            port: root.port.map(i64::from),
        }
    }
}

/// Whether an entry of `status.parents` is Weir's.
pub(super) fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER
}

impl RouteStatus {
    /// What stands in the status of a route; `None`: something of ours that cannot be read.
    pub(super) fn read(status: &Value) -> Option<Self> {
        let mut found = Self::default();
        for entry in status["parents"].as_array().into_iter().flatten().filter(|entry| is_ours(entry)) {
            let Entry { parent_ref, conditions, .. } = serde_json::from_value(entry.clone()).ok()?;
            if !conditions.iter().map(|condition| condition.type_.as_str()).eq(["Accepted", "ResolvedRefs"]) {
                return None;
            }
            found.parents.push(parent_ref);
            found.conditions.extend(conditions);
        }
        Some(found)
    }

    /// Completes what is said of a route that is not taken, with what the API server knows of it.
    pub(super) fn complete(&mut self, live: &LiveObject, now: Timestamp) {
        let Some(message) = self.refused.take() else { return };
        for parent in
            live.parents.as_array().into_iter().flatten().filter(|it| it["group"] == "" && it["kind"] == "Service")
        {
            let Ok(parent) = serde_json::from_value(parent.clone()) else { continue };
            let refs = ("Unknown", "Pending", "the route is not taken".to_owned());
            self.push(parent, live.generation, ("False", "UnsupportedValue", message.clone()), refs, now);
        }
    }

    /// What is said of the parent of which `other` says something at `place`.
    pub(super) fn counterpart(&self, other: &Self, place: usize) -> Option<&Condition> {
        let parent = other.parents.get(place / 2)?;
        let position = self.parents.iter().position(|it| it == parent)?;
        self.conditions.get(position * 2 + place % 2)
    }

    fn push(&mut self, parent: ParentRef, generation: i64, accepted: Verdict, refs: Verdict, now: Timestamp) {
        for (type_, (status, reason, message)) in [("Accepted", accepted), ("ResolvedRefs", refs)] {
            self.conditions.push(Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
                message,
                observed_generation: Some(generation),
                last_transition_time: Time(now),
            });
        }
        self.parents.push(parent);
    }
}

pub(super) fn route_status(key: &ObjectKey, index: &Index, now: Timestamp) -> RouteStatus {
    let mut status = RouteStatus::default();
    if let Some(problem) = index.refusal(key) {
        status.refused = Some(problem.to_string());
        return status;
    }
    let Some(route) = index.route_of_services(key) else { return status };
    let missing = index.without_backend(route);
    let refs = || match missing.first() {
        Some((field, message)) => ("False", "BackendNotFound", format!("{field}: {message}")),
        None => ("True", "ResolvedRefs", "all backends are there".to_owned()),
    };
    for root in &route.roots {
        let accepted = if let Some(message) = index.no_such_root(root) {
            ("False", "NoMatchingParent", message)
        } else if let Some(other) = index.stands_before(key, root) {
            ("False", "Conflicted", format!("{other} stands before it"))
        } else {
            ("True", "Accepted", "it says how requests for the Service are shared out".to_owned())
        };
        status.push(ParentRef::of(root, &key.namespace), route.generation, accepted, refs(), now);
    }
    status
}

#[cfg(test)]
mod tests;

//! What turned, as an Event says it.
//!
//! Pure. Only conditions turn, and their messages hold no numbers that move.

use crds::conditions::ConditionType;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    core::ApiResource,
    runtime::events::{Event, EventType},
};

use crate::{index::ObjectKey, status::bounded::shorten};

/// The most that an Event's note may hold, in bytes.
const LONGEST_NOTE: usize = 1024;

/// A condition that is another one than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    is_warning: bool,
    reason: String,
    action: &'static str,
    note: String,
}

impl Turn {
    pub(super) fn event(&self) -> Event {
        let type_ = if self.is_warning { EventType::Warning } else { EventType::Normal };
        let mut note = self.note.clone();
        shorten(&mut note, LONGEST_NOTE);
        Event { type_, reason: self.reason.clone(), note: Some(note), action: self.action.to_owned(), secondary: None }
    }
}

/// What turned from `before` to `after`. An object without a status says only what is wrong or limits.
pub(super) fn turns(before: Option<&[Condition]>, after: &[Condition]) -> Vec<Turn> {
    let turn = |condition: &Condition| {
        let before = before.and_then(|before| find(before, &condition.type_));
        turned(before, condition)
    };
    after.iter().filter_map(turn).collect()
}

fn turned(before: Option<&Condition>, after: &Condition) -> Option<Turn> {
    let same = before.is_some_and(|before| before.status == after.status && before.reason == after.reason);
    let holds = after.status == "True";
    let kind = ConditionType::ALL.into_iter().find(|kind| kind.as_str() == after.type_)?;
    let (action, is_warning, is_worth) = match kind {
        ConditionType::Accepted => ("Accept", !holds, !holds || before.is_some()),
        // Proxies come and go; what they refuse and what cannot be carried out needs a person.
        ConditionType::Programmed => {
            let is_bad = |condition: &Condition| matches!(condition.reason.as_str(), "Rejected" | "NotCarriedOut");
            ("Program", is_bad(after), is_bad(after) || (holds && before.is_some_and(is_bad)))
        }
        // Before the first measurement everything is missing.
        ConditionType::MetricsAvailable => {
            let is_missing = after.reason == "Missing";
            ("Measure", is_missing, before.is_some_and(|before| before.status != after.status))
        }
        ConditionType::Limiting => {
            let held = before.is_some_and(|before| before.status == "True");
            // Proxies come and go here, too.
            ("Limit", false, (holds || held) && !(held && after.reason == "NotEnforced"))
        }
        ConditionType::Degraded => ("Split", holds, holds || before.is_some_and(|before| before.status == "True")),
    };
    (!same && is_worth).then(|| Turn {
        is_warning,
        reason: after.reason.clone(),
        action,
        note: format!("{}: {}", after.type_, after.message),
    })
}

fn find<'a>(conditions: &'a [Condition], name: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == name)
}

/// The object that an Event speaks of, as `kubectl describe` looks for it.
pub(super) fn regarding(key: &ObjectKey, uid: &str, resource: &ApiResource) -> ObjectReference {
    ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(resource.kind.clone()),
        namespace: Some(key.namespace.clone()),
        name: Some(key.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

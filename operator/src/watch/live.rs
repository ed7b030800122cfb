//! What an API server holds of our own objects beside what they ask for: identity, and the status that stands there now.
//!
//! Written by the watch alone; read by who writes statuses and events. Never the source of a decision.

use std::{collections::BTreeMap, sync::Arc};

use kube::core::ObjectMeta;
use limiter::policy::PolicyKey;
use parking_lot::Mutex;
use serde_json::Value;

/// One object, as it stands on the API server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveObject {
    /// `metadata.uid`: another one of the same name is another object.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `status`, as it was last seen; null when there is none.
    pub status: Value,
}

impl LiveObject {
    pub(super) fn new(metadata: &ObjectMeta, data: &Value) -> Self {
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            status: data.get("status").cloned().unwrap_or_default(),
        }
    }
}

/// All of them; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<Mutex<BTreeMap<PolicyKey, LiveObject>>>);

impl Live {
    /// The object, if there is one.
    #[must_use]
    pub fn get(&self, key: &PolicyKey) -> Option<LiveObject> {
        self.0.lock().get(key).cloned()
    }

    pub(super) fn set(&self, key: PolicyKey, object: LiveObject) {
        self.0.lock().insert(key, object);
    }

    pub(super) fn remove(&self, key: &PolicyKey) {
        self.0.lock().remove(key);
    }
}

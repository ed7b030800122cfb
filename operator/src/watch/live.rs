//! What an API server holds of our own objects beside what they ask for: identity, the status that stands there now, and what their
//! definitions do not know; and which pods there are.
//!
//! Written by the watch alone; read by who writes statuses and events, and by who must tell pods of one name apart. Never the source of a decision.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::core::ObjectMeta;
use parking_lot::Mutex;
use serde_json::Value;

use crate::index::{ObjectKey, ObjectKind};

/// One object, as it stands on the API server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveObject {
    /// `metadata.uid`: another one of the same name is another object.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `status`, as it was last seen; null when there is none.
    pub status: Value,
    /// Its status stands in an object of its own, which is not seen.
    pub status_elsewhere: bool,
    /// `spec.parentRefs` of a route, as it is written; null otherwise.
    pub parents: Value,
}

impl LiveObject {
    pub(super) fn new(metadata: &ObjectMeta, data: &Value) -> Self {
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            status: data.get("status").cloned().unwrap_or_default(),
            status_elsewhere: false,
            parents: data.pointer("/spec/parentRefs").cloned().unwrap_or_default(),
        }
    }
}

/// All of them; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    objects: BTreeMap<ObjectKey, LiveObject>,
    /// Fields that the definition of a kind does not know.
    dropped: BTreeMap<ObjectKind, Arc<[String]>>,
    /// `metadata.uid` of pods, by namespace and name.
    pods: BTreeMap<(String, String), Box<str>>,
    /// Namespaces whose pods are all known; `None`: those of every namespace.
    listed: BTreeSet<Option<String>>,
}

impl Live {
    /// The object, if there is one.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<LiveObject> {
        self.0.lock().objects.get(key).cloned()
    }

    /// Whether this pod is known to be gone: there is none of the name now, or another one.
    #[must_use]
    pub fn is_gone(&self, namespace: &str, pod: &str, uid: &str) -> bool {
        let known = self.0.lock();
        match known.pods.get(&(namespace.to_owned(), pod.to_owned())) {
            Some(other) => **other != *uid,
            None => known.listed.contains(&None) || known.listed.contains(&Some(namespace.to_owned())),
        }
    }

    /// Takes out of an object what its definition does not know: the API server would refuse to apply it.
    pub fn prune(&self, kind: ObjectKind, object: &mut Value) {
        let dropped = self.0.lock().dropped.get(&kind).cloned();
        for path in dropped.iter().flat_map(|paths| paths.iter()) {
            remove(object, path);
        }
    }

    pub(super) fn set(&self, key: ObjectKey, object: LiveObject) {
        self.0.lock().objects.insert(key, object);
    }

    pub(super) fn remove(&self, key: &ObjectKey) {
        self.0.lock().objects.remove(key);
    }

    /// A pod is there, or is no more.
    pub(super) fn set_pod(&self, namespace: String, pod: String, uid: Option<String>) {
        let mut known = self.0.lock();
        match uid {
            Some(uid) => drop(known.pods.insert((namespace, pod), uid.into())),
            None => drop(known.pods.remove(&(namespace, pod))),
        }
    }

    /// Whether all pods of this namespace, or of all of them, are known.
    pub(super) fn set_listed(&self, namespace: Option<String>, listed: bool) {
        let mut known = self.0.lock();
        if listed {
            known.listed.insert(namespace)
        } else {
            known.listed.remove(&namespace)
        };
    }

    pub(super) fn set_dropped(&self, kind: ObjectKind, fields: Vec<String>) {
        self.0.lock().dropped.insert(kind, fields.into());
    }
}

/// Removes a field by its path, such as `status.rules[].shares`.
fn remove(value: &mut Value, path: &str) {
    let Some((head, rest)) = path.split_once('.') else {
        if let Value::Object(fields) = value {
            fields.remove(path);
        }
        return;
    };
    match head.strip_suffix("[]") {
        None => value.get_mut(head).into_iter().for_each(|value| remove(value, rest)),
        Some(list) => {
            let items = value.get_mut(list).and_then(Value::as_array_mut);
            items.into_iter().flatten().for_each(|item| remove(item, rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use limiter::policy::Kind;
    use serde_json::json;

    use super::*;

    const OURS: ObjectKind = ObjectKind::Policy(Kind::SmartLimiter);

    #[test]
    fn a_pod_is_gone_when_there_is_none_or_another_of_its_name() {
        let live = Live::default();
        assert!(!live.is_gone("shop", "cart-0", "1"), "nothing is known");
        live.set_pod("shop".to_owned(), "cart-0".to_owned(), Some("1".to_owned()));
        assert!(!live.is_gone("shop", "cart-0", "1"));
        assert!(live.is_gone("shop", "cart-0", "2"), "another of its name");
        assert!(!live.is_gone("shop", "cart-1", "1"), "it may not have been listed");
        live.set_listed(Some("shop".to_owned()), true);
        assert!(live.is_gone("shop", "cart-1", "1"));
        assert!(!live.is_gone("till", "cart-1", "1"), "of a namespace that is not watched");
        live.set_pod("shop".to_owned(), "cart-0".to_owned(), None);
        assert!(live.is_gone("shop", "cart-0", "1"));
        live.set_listed(Some("shop".to_owned()), false);
        assert!(!live.is_gone("shop", "cart-0", "1"), "pods may not be watched any more");
    }

    #[test]
    fn what_a_definition_does_not_know_is_taken_out() {
        let live = Live::default();
        let whole = json!({"status": {"left": 1, "rules": [{"name": "a", "shares": "1"}, {"name": "b"}]}});
        let mut object = whole.clone();
        live.prune(OURS, &mut object);
        assert_eq!(object, whole);
        let dropped = ["status.left", "status.rules[].shares", "status.absent[].a", "spec.rules[].b", "status.rules.c"];
        live.set_dropped(OURS, dropped.map(str::to_owned).to_vec());
        live.prune(ObjectKind::Lazy, &mut object);
        assert_eq!(object, whole, "of another kind");
        live.prune(OURS, &mut object);
        assert_eq!(object, json!({"status": {"rules": [{"name": "a"}, {"name": "b"}]}}));
    }
}

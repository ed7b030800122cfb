//! One watch: which objects, how they are listed and followed, and what its failures mean.

use std::{fmt, pin::pin};

use futures::StreamExt;
use kube::{
    Api,
    core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, Status},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use limiter::problem::{Problem, Reason};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Config, pauses::Pauses};
use crate::{
    index::{Object, ObjectKey, ObjectKind},
    watch::{
        decode::{self, KINDS},
        live::LiveObject,
    },
};

/// What a watch says.
#[derive(Debug)]
pub(super) enum Seen {
    /// A list begins.
    Begin,
    /// An object is there, new or not.
    Object {
        /// Which.
        key: ObjectKey,
        /// What it is now.
        object: Box<Object>,
        /// What the API server says of it besides, if it is one of ours.
        live: Option<LiveObject>,
        /// Its `metadata.uid`, if it is a pod.
        pod: Option<String>,
    },
    /// An object is gone.
    Gone(ObjectKey),
    /// The list is complete.
    End,
    /// It does not go on for now.
    Failed(Failure),
    /// The fields that the definition of the kind does not know.
    Definition(Vec<String>),
}

/// Why a watch does not go on.
#[derive(Debug)]
pub(super) struct Failure {
    /// The API server is there and refuses: nothing to wait for.
    pub(super) refused: bool,
    /// Many clusters do not have the kind, and that is well.
    pub(super) optional: bool,
    /// For people.
    pub(super) problem: Problem,
}

/// One kind of objects, in one namespace or all.
#[derive(Clone)]
pub(super) struct Resource {
    kind: ObjectKind,
    resource: ApiResource,
    namespace: Option<String>,
    api: Api<DynamicObject>,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plural())?;
        self.namespace.iter().try_for_each(|namespace| write!(f, " in {namespace}"))
    }
}

/// All that Weir watches.
pub(super) fn all(Config { client, namespaces }: &Config) -> Vec<Resource> {
    let mut scopes: Vec<Option<String>> = namespaces.iter().cloned().map(Some).collect();
    scopes.sort();
    scopes.dedup();
    if scopes.is_empty() {
        scopes.push(None);
    }
    let resource = |api_version: &str, kind: &str, object_kind, namespace: &Option<String>| {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        Resource { kind: object_kind, resource, namespace: namespace.clone(), api }
    };
    let in_scopes = |(api_version, kind, object_kind)| {
        scopes.iter().map(move |namespace| resource(api_version, kind, object_kind, namespace))
    };
    let first = |place: usize, kind: ObjectKind| !KINDS[..place].iter().any(|(.., other)| *other == kind);
    let watched = KINDS.into_iter().enumerate().filter(|(place, (.., kind))| first(*place, *kind));
    watched.map(|(_, kind)| kind).flat_map(in_scopes).collect()
}

impl Resource {
    /// Watches for ever.
    pub(super) async fn watch(self, place: usize, seen_tx: mpsc::Sender<(usize, Seen)>) {
        let mut config = watcher::Config::default().streaming_lists();
        loop {
            let mut events = pin!(watcher(self.api.clone(), config.clone()).backoff(Pauses::default()));
            let old_server = loop {
                let seen = match events.next().await {
                    Some(Ok(Event::Init)) => Seen::Begin,
                    Some(Ok(Event::InitApply(object) | Event::Apply(object))) => self.object(object),
                    Some(Ok(Event::InitDone)) => Seen::End,
                    Some(Ok(Event::Delete(object))) => Seen::Gone(self.key(&object.metadata)),
                    Some(Err(error)) if cannot_stream_lists(&error) => break true,
                    Some(Err(error)) => match self.failure(&error) {
                        Some(failure) => Seen::Failed(failure),
                        None => continue,
                    },
                    None => break false,
                };
                if seen_tx.send((place, seen)).await.is_err() {
                    return;
                }
            };
            if old_server {
                tracing::debug!(watch = %self, "the API server does not stream lists; reading pages");
                config = watcher::Config::default();
            }
        }
    }

    /// What it watches, if the definition of that is Weir's own. A definition is that of all namespaces.
    pub(super) fn own_kind(&self) -> Option<(ObjectKind, GroupVersionKind)> {
        let ApiResource { group, version, kind, .. } = &self.resource;
        self.kind.is_own().then(|| (self.kind, GroupVersionKind::gvk(group, version, kind)))
    }

    /// Whose pods it watches, if it does: `None` stands for all namespaces.
    pub(super) fn pods(&self) -> Option<&Option<String>> {
        (self.kind == ObjectKind::Pod).then_some(&self.namespace)
    }

    fn key(&self, metadata: &ObjectMeta) -> ObjectKey {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        ObjectKey { kind: self.kind, namespace: text(&metadata.namespace), name: text(&metadata.name) }
    }

    fn object(&self, DynamicObject { mut metadata, data, .. }: DynamicObject) -> Seen {
        metadata.managed_fields = None;
        let key = self.key(&metadata);
        let live = self.kind.is_told().then(|| {
            let status_elsewhere = !self.kind.is_own() && !self.kind.is_route();
            LiveObject { status_elsewhere, ..LiveObject::new(&metadata, &data) }
        });
        let pod = metadata.uid.clone().filter(|_| self.kind == ObjectKind::Pod);
        let object = match (data, serde_json::to_value(&metadata)) {
            (Value::Object(mut fields), Ok(metadata)) => {
                fields.insert("metadata".to_owned(), metadata);
                decode::object(self.kind, Value::Object(fields))
            }
            _ => Object::Undecodable(Vec::new()),
        };
        Seen::Object { key, object: Box::new(object), live, pod }
    }

    /// `PLURAL.GROUP`, which is also the name of the definition.
    pub(super) fn plural(&self) -> String {
        let ApiResource { plural, group, .. } = &self.resource;
        if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") }
    }

    /// What a failure means; nothing when the watch only begins anew, as it must from time to time.
    fn failure(&self, error: &watcher::Error) -> Option<Failure> {
        let code = status(error).map(|status| status.code);
        if code == Some(410) {
            return None;
        }
        let plural = self.plural();
        let (message, help) = match code {
            Some(403) => (
                status(error).map(|status| status.message.clone()).unwrap_or_default(),
                Some(format!("allow `list` and `watch` of {plural} to Weir's service account")),
            ),
            Some(404) => (
                format!("the API server does not know {} {}", self.resource.api_version, self.resource.kind),
                Some("apply its CustomResourceDefinition; the watch begins within ten seconds".to_owned()),
            ),
            _ => (cause(error), None),
        };
        Some(Failure {
            refused: matches!(code, Some(403 | 404)),
            optional: code == Some(404)
                && (self.resource.group == "gateway.networking.k8s.io" || self.resource.group.ends_with("smi-spec.io")),
            problem: Problem { field: self.to_string(), reason: Reason::Invalid, message, help, place: None },
        })
    }
}

fn status(error: &watcher::Error) -> Option<&Status> {
    use watcher::Error;
    match error {
        Error::WatchError(status) => Some(status),
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status)) => Some(status),
        _ => None,
    }
}

/// Servers before 1.32 answer so to `sendInitialEvents`, unless a feature gate is on.
fn cannot_stream_lists(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| matches!(status.code, 400 | 422) && status.message.contains("sendInitialEvents"))
}

/// What is behind a failure of the client, without the names of the client's own stages.
fn cause(error: &watcher::Error) -> String {
    use watcher::Error;
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
            cause_of_client(error)
        }
        other => chain(other),
    }
}

/// What the API server, or the way to it, says.
pub(crate) fn cause_of_client(error: &kube::Error) -> String {
    match error {
        kube::Error::Service(error) => chain(error.as_ref()),
        kube::Error::Api(status) => status.message.clone(),
        kube::Error::HyperError(error) => chain(error),
        kube::Error::ReadEvents(error) => chain(error),
        other => chain(other),
    }
}

/// An error with what is behind it, each once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api_error(code: u16, message: &str) -> watcher::Error {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        watcher::Error::WatchStartFailed(kube::Error::Api(Box::new(status)))
    }

    #[tokio::test]
    async fn a_namespace_that_is_named_twice_is_watched_once() {
        let nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = kube::Client::try_from(nowhere).unwrap();
        let namespaces = ["shop", "billing", "shop"].map(str::to_owned).to_vec();
        // Of SMI's kinds the newest version alone.
        assert_eq!(all(&Config { client, namespaces }).len(), 2 * (KINDS.len() - 6));
    }

    #[test]
    fn only_the_words_of_an_old_server_change_how_lists_are_read() {
        let words = "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden \
                     for watch unless the WatchList feature gate is enabled";
        assert!(cannot_stream_lists(&api_error(422, words)));
        assert!(!cannot_stream_lists(&api_error(422, "something else")));
        assert!(!cannot_stream_lists(&api_error(403, "forbidden")));
    }
}

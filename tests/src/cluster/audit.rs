//! The API server's audit log: who asked for what, and what the answer was.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use jiff::Timestamp;
use serde::Deserialize;

/// A place in the log. The default is its beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64);

/// One request, at one stage of its life.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// When the stage was reached.
    pub at: Timestamp,
    /// `ResponseComplete`; of a watch also `ResponseStarted`; `Panic`.
    pub stage: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Who asked: `system:serviceaccount:weir-system:weir`.
    pub user: String,
    /// With which program.
    pub user_agent: String,
    /// API group, empty for the core.
    pub group: String,
    /// Plural of the resource; empty for requests such as `/readyz`.
    pub resource: String,
    /// `status`, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name, or empty.
    pub name: String,
    /// Path and query.
    pub uri: String,
    /// HTTP status of the answer, 0 without one.
    pub code: u16,
}

impl Entry {
    /// Whether it was a request to change something.
    #[must_use]
    pub fn writes(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    #[serde(rename = "requestURI")]
    uri: String,
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    response_status: Response,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Object {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Response {
    code: u16,
}

pub(super) fn mark(log: &Path) -> Mark {
    Mark(std::fs::metadata(log).expect("a server that was ready once has a log").len())
}

pub(super) fn read(log: &Path, mark: Mark) -> Vec<Entry> {
    let mut file = File::open(log).expect("a server that was ready once has a log");
    file.seek(SeekFrom::Start(mark.0)).expect("a mark is inside the log");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("the log is UTF-8");
    // The last line may still be written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(entry).collect()
}

fn entry(line: &str) -> Entry {
    let Line { stage, uri, verb, user, user_agent, object_ref, response_status, stage_timestamp } =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the audit log: {line}"));
    let Object { api_group, resource, subresource, namespace, name } = object_ref;
    Entry {
        at: stage_timestamp,
        stage,
        verb,
        user: user.username,
        user_agent,
        group: api_group,
        resource,
        subresource,
        namespace,
        name,
        uri,
        code: response_status.code,
    }
}

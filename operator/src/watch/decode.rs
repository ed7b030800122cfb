//! Text to objects: YAML documents to the models of the index, with every mistake placed.
//!
//! Pure. Used by the folder source, by `weir validate` and by every other command that reads files.

use std::fmt;

use crds::{
    ArticleSmartLimiter, LazyConfig, SmartLimiter, SmartSplit, WorkloadScope,
    smi::{HttpRouteGroup, TrafficSplit},
};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use limiter::{
    lazy,
    policy::{self, Kind},
    problem::{Problem, Reason},
    split,
};
use saphyr::{LoadableYamlNode, MarkedYaml};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::index::{
    Object, ObjectKey, ObjectKind,
    gateway::{Gateway, GrpcRoute, HttpRoute},
    model::{EndpointSliceModel, PodModel, ServiceModel, owner},
    scope,
};

/// Groups in which every kind must be one of ours; a kind of another group is simply not for Weir.
const OUR_GROUPS: [&str; 2] = ["weir.dev", "microservice.netease.com"];
/// What is read, as `apiVersion kind`.
pub(super) const KINDS: [(&str, &str, ObjectKind); 19] = [
    ("v1", "Service", ObjectKind::Service),
    ("discovery.k8s.io/v1", "EndpointSlice", ObjectKind::EndpointSlice),
    ("v1", "Pod", ObjectKind::Pod),
    ("gateway.networking.k8s.io/v1", "Gateway", ObjectKind::Gateway),
    ("gateway.networking.k8s.io/v1", "HTTPRoute", ObjectKind::HttpRoute),
    ("gateway.networking.k8s.io/v1", "GRPCRoute", ObjectKind::GrpcRoute),
    ("weir.dev/v1alpha1", "SmartLimiter", ObjectKind::Policy(Kind::SmartLimiter)),
    ("microservice.netease.com/v1alpha1", "SmartLimiter", ObjectKind::Policy(Kind::ArticleSmartLimiter)),
    ("weir.dev/v1alpha1", "LazyConfig", ObjectKind::Lazy),
    ("weir.dev/v1alpha1", "WorkloadScope", ObjectKind::Scope),
    ("weir.dev/v1alpha1", "SmartSplit", ObjectKind::Split(split::Kind::SmartSplit)),
    // One kind, in whichever version somebody writes it; the newest is watched.
    ("split.smi-spec.io/v1alpha4", "TrafficSplit", ObjectKind::Split(split::Kind::TrafficSplit)),
    ("split.smi-spec.io/v1alpha3", "TrafficSplit", ObjectKind::Split(split::Kind::TrafficSplit)),
    ("split.smi-spec.io/v1alpha2", "TrafficSplit", ObjectKind::Split(split::Kind::TrafficSplit)),
    ("split.smi-spec.io/v1alpha1", "TrafficSplit", ObjectKind::Split(split::Kind::TrafficSplit)),
    ("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup", ObjectKind::RouteGroup),
    ("specs.smi-spec.io/v1alpha3", "HTTPRouteGroup", ObjectKind::RouteGroup),
    ("specs.smi-spec.io/v1alpha2", "HTTPRouteGroup", ObjectKind::RouteGroup),
    ("specs.smi-spec.io/v1alpha1", "HTTPRouteGroup", ObjectKind::RouteGroup),
];

/// The kind of objects that has this `apiVersion` and `kind`, if Weir reads it.
#[must_use]
pub fn kind(api_version: &str, kind: &str) -> Option<ObjectKind> {
    KINDS.iter().find(|(version, name, _)| *version == api_version && *name == kind).map(|(.., object)| *object)
}

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Which object.
    pub key: ObjectKey,
    /// Line of the file on which its document begins, from 1.
    pub line: usize,
    /// What it is.
    pub object: Object,
}

/// All that a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// Objects in the order of the file.
    pub objects: Vec<Decoded>,
    /// Documents of kinds that Weir does not read, as `line, apiVersion kind`.
    pub ignored: Vec<(usize, String)>,
    /// Documents that name no object at all, and mistakes of the whole file.
    pub problems: Vec<Problem>,
}

/// Why nothing of a file can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub Problem);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unreadable {}

fn problem(field: impl Into<String>, message: impl Into<String>, help: Option<String>) -> Problem {
    Problem { field: field.into(), reason: Reason::Invalid, message: message.into(), help, place: None }
}

/// Reads the bytes of a YAML (or JSON) file.
///
/// # Errors
/// When the bytes are not UTF-8, empty, or not YAML: a file that is being written looks so, and what was read from it before
/// should stay in force.
pub fn decode(bytes: &[u8]) -> Result<File, Unreadable> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        let help = Some("save the file as UTF-8".to_owned());
        Unreadable(problem("file", format!("line {line} is not UTF-8"), help))
    })?;
    if text.trim().is_empty() {
        let help = Some("delete the file to remove its objects".to_owned());
        return Err(Unreadable(problem("file", "the file is empty", help)));
    }
    // A folder may keep a whole mesh in one file, so allow more than the parser's own bounds; what aliases may blow up to
    // stays bounded.
    let budget = serde_saphyr::budget! { max_documents: 100_000, max_events: 8_000_000, max_nodes: 4_000_000 };
    let options = serde_saphyr::options! { budget: budget };
    let documents =
        serde_saphyr::from_multiple_with_options::<serde_saphyr::Spanned<Value>>(text, options).map_err(|error| {
            let message = error.to_string();
            let first = message.lines().next().unwrap_or("not YAML").to_owned();
            Unreadable(problem("file", format!("not YAML: {first}"), None))
        })?;
    let mut file = File::default();
    for document in documents {
        let line = usize::try_from(document.referenced.line()).unwrap_or(1).max(1);
        decode_document(document.value, line, &mut file);
    }
    Ok(file)
}

fn decode_document(value: Value, line: usize, file: &mut File) {
    if value.is_null() {
        return;
    }
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    if kind == "List"
        && let Some(items) = value.get("items").and_then(Value::as_array)
    {
        for item in items {
            decode_document(item.clone(), line, file);
        }
        return;
    }
    if api_version.is_empty() || kind.is_empty() {
        let help = "every document is a Kubernetes object with apiVersion, kind and metadata.name".to_owned();
        let field = if api_version.is_empty() { "apiVersion" } else { "kind" };
        file.problems.push(problem(field, format!("line {line}: the field is missing"), Some(help)));
        return;
    }
    let Some(object_kind) = self::kind(&api_version, &kind) else {
        let group = api_version.split('/').next().unwrap_or_default();
        if OUR_GROUPS.contains(&group) {
            let known: Vec<_> = KINDS
                .iter()
                .filter(|(version, _, _)| version.starts_with(group))
                .map(|(version, name, _)| format!("{version} {name}"))
                .collect();
            let help = format!("this version of Weir reads {}", known.join(", "));
            file.problems.push(problem(
                "kind",
                format!("line {line}: unknown kind `{api_version} {kind}`"),
                Some(help),
            ));
        } else {
            file.ignored.push((line, format!("{api_version} {kind}")));
        }
        return;
    };
    let name = text("/metadata/name");
    if name.is_empty() {
        file.problems.push(problem("metadata.name", format!("line {line}: the field is missing"), None));
        return;
    }
    let namespace = Some(text("/metadata/namespace")).filter(|text| !text.is_empty());
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    for (field, text) in [("metadata.name", &name), ("metadata.namespace", &namespace)] {
        if !is_dns_name(text) {
            let message = format!("line {line}: expected a DNS name (a-z, 0-9, `-`, `.`), found {text:?}");
            file.problems.push(problem(field, message, None));
            return;
        }
    }
    let key = ObjectKey { kind: object_kind, namespace: namespace.clone(), name };
    let object = match object(object_kind, with_namespace(value, namespace)) {
        // In a cluster it is there for somebody else; nobody but Weir reads this file.
        Object::Foreign(reason) => Object::Undecodable(vec![reason]),
        object => object,
    };
    file.objects.push(Decoded { object, key, line });
}

fn with_namespace(mut value: Value, namespace: String) -> Value {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("namespace".to_owned(), Value::String(namespace));
    }
    value
}

/// Converts one object whose `metadata` has a name and a namespace.
pub(crate) fn object(kind: ObjectKind, value: Value) -> Object {
    let result = match kind {
        ObjectKind::Service => typed::<Service>(value).and_then(ServiceModel::try_from).map(Object::Service),
        ObjectKind::EndpointSlice => typed::<EndpointSlice>(value).and_then(|slice| match owner(&slice) {
            Ok(_) => EndpointSliceModel::try_from(slice).map(Object::EndpointSlice),
            Err(reason) => Ok(Object::Foreign(reason)),
        }),
        ObjectKind::Pod => typed::<Pod>(value).and_then(PodModel::try_from).map(Object::Pod),
        ObjectKind::Gateway => typed::<Gateway>(value).map(|gateway| {
            let (model, problems) = gateway.model();
            Object::Gateway(model, problems)
        }),
        ObjectKind::HttpRoute => typed::<HttpRoute>(value).and_then(HttpRoute::model).map(Object::Route),
        ObjectKind::GrpcRoute => typed::<GrpcRoute>(value).and_then(GrpcRoute::model).map(Object::Route),
        ObjectKind::Split(split::Kind::SmartSplit) => {
            typed::<SmartSplit>(value).map(|object| split_object(split::weir::split(&object)))
        }
        ObjectKind::Split(split::Kind::TrafficSplit) => {
            typed::<TrafficSplit>(value).map(|object| split_object(split::smi::split(&object)))
        }
        ObjectKind::RouteGroup => {
            typed::<HttpRouteGroup>(value).and_then(|group| split::smi::matches(&group)).map(Object::RouteGroup)
        }
        ObjectKind::Policy(Kind::SmartLimiter) => {
            typed::<SmartLimiter>(value).map(|object| policy_object(policy::weir::policy(&object)))
        }
        ObjectKind::Policy(Kind::ArticleSmartLimiter) => {
            typed::<ArticleSmartLimiter>(value).map(|object| policy_object(policy::article::policy(&object)))
        }
        ObjectKind::Lazy => typed::<LazyConfig>(value).map(|object| {
            let (lazy, problems) = lazy::weir::lazy(&object);
            Object::Lazy { lazy: lazy.map(Box::new), problems }
        }),
        ObjectKind::Scope => typed::<WorkloadScope>(value).map(|object| {
            let (memory, problems) = scope::memory(object);
            Object::Scope(memory, problems)
        }),
    };
    result.unwrap_or_else(Object::Undecodable)
}

fn policy_object((policy, problems): (Option<policy::Policy>, Vec<Problem>)) -> Object {
    Object::Policy { policy: policy.map(Box::new), problems }
}

fn split_object((split, problems): (Option<split::Split>, Vec<Problem>)) -> Object {
    Object::Split { split: split.map(Box::new), problems }
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Vec<Problem>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        let field = if field == "." { "object".to_owned() } else { field };
        let mut message = error.into_inner().to_string();
        // serde speaks of Rust's types.
        for integer in ["i32", "i64", "u16", "u32", "u64"] {
            message = message.replace(&format!("expected {integer}"), "expected a whole number");
        }
        let help = nearest_name(&message).map(|name| format!("did you mean `{name}`?"));
        vec![problem(field, message, help)]
    })
}

/// The known name nearest to the unknown one, out of serde's "unknown field `x`, expected one of `a`, `b`".
fn nearest_name(message: &str) -> Option<&str> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next().filter(|_| message.starts_with("unknown "))?;
    limiter::language::nearest(unknown, quoted)
}

/// RFC 1123 subdomain, as Kubernetes requires of names. Also what makes names safe as parts of xDS resource names.
fn is_dns_name(text: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.first().copied().is_some_and(alphanumeric)
                && bytes.last().copied().is_some_and(alphanumeric)
                && bytes.iter().all(|c| alphanumeric(*c) || *c == b'-')
        })
}

/// The line of a field (`spec.rules[0].when`) in the document that begins at `document_line`, as far as the path exists.
#[must_use]
pub fn field_line(text: &str, document_line: usize, field: &str) -> Option<usize> {
    let documents = MarkedYaml::load_from_str(text).ok()?;
    let mut node = documents.iter().rfind(|document| document.span.start.line() <= document_line)?;
    let mut line = None;
    for step in field.split(['.', '[']) {
        let step = step.trim_end_matches(']');
        let next = match step.parse::<usize>() {
            Ok(position) => node.data.as_sequence()?.get(position),
            Err(_) => node.data.as_mapping_get(step),
        };
        let Some(next) = next else { break };
        node = next;
        line = Some(node.span.start.line());
    }
    line
}

#[cfg(test)]
mod tests;

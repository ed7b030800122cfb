//! Collecting problems, and the checks that all kinds of objects share.

use crds::ObjectMeta;

use super::{Kind, PolicyKey};
use crate::{
    language::SentenceError,
    problem::{Place, Problem, Reason},
    promql::{Mistake, Template},
};

/// What is wrong with an object, in the order of its fields.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    fn push(&mut self, field: impl Into<String>, reason: Reason, message: impl Into<String>, help: Option<String>) {
        self.list.push(Problem { field: field.into(), reason, message: message.into(), help, place: None });
    }

    /// A value that can never be right.
    pub(crate) fn invalid(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.push(field, Reason::Invalid, message, None);
    }

    /// A value that can never be right, and how to mend it.
    pub(crate) fn add(&mut self, field: impl Into<String>, message: impl Into<String>, help: impl Into<String>) {
        self.push(field, Reason::Invalid, message, Some(help.into()));
    }

    /// A value that this version does not carry out, and what to do instead.
    pub(crate) fn not_yet(&mut self, field: impl Into<String>, message: impl Into<String>, help: impl Into<String>) {
        self.push(field, Reason::NotYetSupported, message, Some(help.into()));
    }

    /// The sentence, or its mistake as the problem of `field`.
    pub(crate) fn sentence<T>(
        &mut self,
        read: Result<T, SentenceError>,
        field: impl Into<String>,
        text: &str,
    ) -> Option<T> {
        read.map_err(|error| self.list.push(error.into_problem(field, text))).ok()
    }

    /// A query to Prometheus, or its mistake as the problem of `field`.
    pub(crate) fn promql(&mut self, field: impl Into<String>, query: &str) {
        if let Err(Mistake { message, help, start, end }) = Template::parse(query) {
            let place = Some(Place { text: query.to_owned(), start, end });
            let (field, help) = (field.into(), Some(help.to_owned()));
            self.list.push(Problem { field, reason: Reason::Invalid, message, help, place });
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.list
    }
}

/// The key of the policy object with this metadata.
pub(crate) fn key(kind: Kind, metadata: &ObjectMeta, problems: &mut Problems) -> Option<PolicyKey> {
    let (namespace, name) = names(metadata, problems)?;
    Some(PolicyKey { kind, namespace, name })
}

/// Namespace and name of the object with this metadata.
pub(crate) fn names(metadata: &ObjectMeta, problems: &mut Problems) -> Option<(String, String)> {
    let namespace = metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let name = metadata.name.clone().unwrap_or_default();
    if !is_dns_name(&name) {
        let message = if name.is_empty() {
            "the object has no name".to_owned()
        } else {
            format!("{name:?} is no name of an object")
        };
        problems.add("metadata.name", message, "use lower-case letters, digits, `-` and `.`");
        return None;
    }
    if !is_dns_label(&namespace) {
        problems.invalid("metadata.namespace", format!("{namespace:?} is no name of a namespace"));
        return None;
    }
    Some((namespace, name))
}

/// Whether `text` is a label of RFC 1123: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 bytes, as names of namespaces are.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 63
        && text.bytes().next().is_some_and(alphanumeric)
        && text.bytes().last().is_some_and(alphanumeric)
        && text.bytes().all(|b| alphanumeric(b) || b == b'-')
}

/// What is wrong with a label that objects are to have; Kubernetes lets none have an impossible one.
pub(crate) fn label(field: &str, key: &str, value: &str, problems: &mut Problems) {
    const LETTERS: &str = "use letters, digits, `-`, `_` and `.`, at most 63, with a letter or digit at both ends";
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let field = format!("{field}[{key}]");
    if let Some(prefix) = prefix.filter(|prefix| !is_dns_name(prefix)) {
        let message = format!("no object can have a label {key:?}: {prefix:?} before the `/` is no DNS name");
        problems.add(field, message, "write it as in `example.com/tier`, or leave prefix and `/` out");
    } else if !is_label_text(name) {
        problems.add(field, format!("no object can have a label {key:?}: {name:?} is no name of one"), LETTERS);
    } else if !value.is_empty() && !is_label_text(value) {
        let message = format!("no object can have this label with the value {value:?}");
        problems.add(field, message, LETTERS);
    }
}

/// Whether `text` is `[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?`, at most 63 bytes.
fn is_label_text(text: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.bytes().next())
        && ends(text.bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether `text` is labels of RFC 1123 joined by dots, at most 253 bytes, as names of objects are.
pub(crate) fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

//! A text of YAML documents: those with pods in them get the sidecar, the others stay as they are, letter by letter.

use limiter::problem::Problem;
use serde_json::Value;

use super::{Asked, Outcome, Settings, inject, invalid};

/// Where a pod, or a template of one, stands in objects of a kind.
const TEMPLATES: [(&str, &str); 9] = [
    ("Pod", ""),
    ("PodTemplate", "/template"),
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("ReplicationController", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
];

/// Groups of these kinds: others have kinds of the same names.
const VERSIONS: [&str; 3] = ["v1", "apps/v1", "batch/v1"];

/// What came of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The text with the sidecars.
    pub text: String,
    /// What has one now, as `Kind namespace/name`.
    pub injected: Vec<String>,
    /// What is odd, each with the object that it is about.
    pub warnings: Vec<(String, String)>,
    /// What is wrong, each with the object that it is about, or the line.
    pub problems: Vec<(String, Problem)>,
}

/// Puts the sidecar into every pod and template of a text, unless it says no. `drain_key` is a word that nobody guesses.
#[must_use]
pub fn documents(text: &str, drain_key: &str, settings: &Settings) -> Found {
    let mut found = Found::default();
    for (line, document) in split(text) {
        let says_nothing =
            |line: &str| line.trim_start().is_empty() || line.starts_with("---") || line.trim_start().starts_with('#');
        if document.lines().all(says_nothing) {
            found.text += document;
            continue;
        }
        match serde_saphyr::from_str::<Value>(document) {
            Err(error) => {
                let message = error.to_string();
                let message = format!("not YAML: {}", message.lines().next().unwrap_or_default());
                found.problems.push((format!("line {line}"), invalid("document", message, "mend it first")));
            }
            Ok(mut value) => {
                let before = found.injected.len();
                object(&mut value, drain_key, settings, &mut found);
                match serde_saphyr::to_string(&value) {
                    Ok(changed) if found.injected.len() > before => {
                        let marker = if document.starts_with("---") { "---\n" } else { "" };
                        found.text += &format!("{marker}{}\n", changed.trim_end());
                    }
                    _ => found.text += document,
                }
            }
        }
    }
    found
}

/// The documents with the lines at which they begin, each with the `---` before it: a line that begins with it is one, whatever
/// stands around.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut first, mut at) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\n', '\r', '\t']));
        if is_marker && at > start {
            documents.push((first, &text[start..at]));
            (start, first) = (at, number + 1);
        }
        at += line.len();
    }
    if at > start {
        documents.push((first, &text[start..at]));
    }
    documents
}

fn object(value: &mut Value, drain_key: &str, settings: &Settings, found: &mut Found) {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    if kind == "List" {
        for item in value.pointer_mut("/items").and_then(Value::as_array_mut).into_iter().flatten() {
            object(item, drain_key, settings, found);
        }
        return;
    }
    let version = value["apiVersion"].as_str().unwrap_or_default();
    let Some((_, place)) = TEMPLATES.iter().find(|(known, _)| *known == kind && VERSIONS.contains(&version)) else {
        return;
    };
    let metadata = &value["metadata"];
    let word = |name: &str| metadata[name].as_str();
    let name = word("name").or(word("generateName")).unwrap_or_default();
    let name =
        word("namespace").map_or_else(|| format!("{kind} {name}"), |namespace| format!("{kind} {namespace}/{name}"));
    let Some(pod) = value.pointer_mut(place) else { return };
    match inject(pod, Asked::ForAll, drain_key, settings) {
        Outcome::Unasked | Outcome::Already => {}
        Outcome::Injected(with, warnings) => {
            *pod = with;
            found.warnings.extend(warnings.into_iter().map(|warning| (name.clone(), warning)));
            found.injected.push(name);
        }
        Outcome::Refused(problems) => {
            let prefix = place.trim_start_matches('/').replace('/', ".");
            let below = |problem: Problem| match prefix.as_str() {
                "" => problem,
                prefix => Problem { field: format!("{prefix}.{}", problem.field), ..problem },
            };
            found.problems.extend(problems.into_iter().map(|problem| (name.clone(), below(problem))));
        }
    }
}

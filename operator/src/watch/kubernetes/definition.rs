//! Whether the definition of a kind of ours, as the API server has it, knows all fields that this Weir knows. What it does not know the
//! API server drops: of what people write, and of what Weir writes.
//!
//! Told by the OpenAPI document of the kind, which every account may read.

use std::time::Duration;

use http::Request;
use kube::{Client, core::GroupVersionKind};
use limiter::problem::{Problem, Reason};
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::debug;

use super::{Pauses, cause, resource::Seen};

/// How often it is asked for; a definition changes when somebody upgrades.
const EVERY: Duration = Duration::from_secs(60);
/// The most fields that are named.
const SHOWN: usize = 6;

/// Asks for ever, and says what it found whenever that is something else.
pub(super) async fn follow(client: Client, kind: GroupVersionKind, place: usize, seen_tx: mpsc::Sender<(usize, Seen)>) {
    let Some(ours) = ours(&kind) else { return };
    let mut told = Vec::new();
    let mut pauses = Pauses::default();
    loop {
        let pause = match ask(&client, &kind).await {
            Ok(theirs) => {
                pauses = Pauses::default();
                let mut lacking = Vec::new();
                if let Some(theirs) = theirs {
                    compare(&ours, &theirs, "", &mut lacking);
                }
                if told != lacking {
                    told.clone_from(&lacking);
                    if seen_tx.send((place, Seen::Definition(lacking))).await.is_err() {
                        return;
                    }
                }
                EVERY
            }
            Err(error) => {
                debug!(?kind, error = %cause(&error), "the definition cannot be looked at");
                pauses.pause()
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The schema of a kind as this Weir has it.
fn ours(kind: &GroupVersionKind) -> Option<Value> {
    let definition =
        crds::all().into_iter().find(|it| it.spec.group == kind.group && it.spec.names.kind == kind.kind)?;
    let version = definition.spec.versions.into_iter().find(|version| version.name == kind.version)?;
    serde_json::to_value(version.schema?.open_api_v3_schema?).ok()
}

/// The schema of a kind as the API server has it; `None` while there is none.
async fn ask(client: &Client, kind: &GroupVersionKind) -> Result<Option<Value>, kube::Error> {
    let GroupVersionKind { group, version, kind: name } = kind;
    let request = Request::get(format!("/openapi/v3/apis/{group}/{version}")).body(Vec::new());
    let answer = client.request::<Value>(request.map_err(kube::Error::HttpError)?).await;
    let mut document = match answer {
        Ok(document) => document,
        // The watch says so.
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_it = |one: &Value| one["group"] == **group && one["version"] == **version && one["kind"] == **name;
    let names_it = |schema: &Value| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().any(is_it))
    };
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    Ok(schemas.and_then(|schemas| schemas.values_mut().find(|schema| names_it(schema))).map(Value::take))
}

/// Collects the fields of `ours` that `theirs` would drop.
fn compare(ours: &Value, theirs: &Value, path: &str, lacking: &mut Vec<String>) {
    if theirs["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    for (name, field) in ours["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match theirs["properties"].get(name) {
            Some(their) => compare(field, their, &path, lacking),
            // Theirs may take any name there.
            None if theirs.get("additionalProperties").is_some() => {}
            None => lacking.push(path),
        }
    }
    if let Some((items, their)) = ours.get("items").zip(theirs.get("items")) {
        compare(items, their, &format!("{path}[]"), lacking);
    }
}

/// That the definition of this name lacks these fields, as status shows it.
pub(super) fn problem(name: &str, lacking: &[String]) -> Problem {
    let mut fields = lacking[..lacking.len().min(SHOWN)].join(", ");
    if lacking.len() > SHOWN {
        fields.push_str(&format!(" and {} more", lacking.len() - SHOWN));
    }
    Problem {
        field: format!("definition {name}"),
        reason: Reason::Invalid,
        message: format!(
            "it is older than this Weir, or another's: the API server drops what it does not know, which is {fields}"
        ),
        help: Some(
            "upgrade the chart weir-crds to the version of Weir; what was dropped has to be applied again".to_owned(),
        ),
        place: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let ours = ours(&GroupVersionKind::gvk("weir.dev", "v1alpha1", "SmartLimiter")).unwrap();
        let mut theirs = ours.clone();
        change(&mut theirs);
        let mut lacking = Vec::new();
        compare(&ours, &theirs, "", &mut lacking);
        lacking
    }

    fn remove(schema: &mut Value, pointer: &str, field: &str) {
        schema.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(field).unwrap();
    }

    #[test]
    fn the_fields_that_would_be_dropped_are_named() {
        assert_eq!(lacking(|_| {}), Vec::<String>::new());
        let rules = "/properties/spec/properties/rules/items/properties";
        let found = lacking(|schema| {
            remove(schema, rules, "priorities");
            remove(schema, "/properties/status/properties", "rulesLeftOut");
        });
        assert_eq!(found, ["spec.rules[].priorities", "status.rulesLeftOut"]);
        assert_eq!(lacking(|schema| remove(schema, "/properties", "status")), ["status"]);
    }

    #[test]
    fn one_that_keeps_what_it_does_not_know_drops_nothing() {
        let any = |schema: &mut Value| *schema = serde_json::json!({"x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(lacking(any), Vec::<String>::new());
    }

    #[test]
    fn a_long_list_is_cut() {
        let fields: Vec<String> = (0..8).map(|number| format!("f{number}")).collect();
        assert!(problem("a", &fields).message.ends_with("which is f0, f1, f2, f3, f4, f5 and 2 more"));
    }
}

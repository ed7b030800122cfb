use std::{collections::BTreeSet, fs, path::Path};

use conditions::ConditionType;
use serde_json::{Value, json};

use crate::*;

/// The schema of the property at `path`, from the first version's root.
fn schema(definition: &CustomResourceDefinition, path: &[&str]) -> Value {
    let definition = serde_json::to_value(definition).unwrap();
    let root = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    path.iter().fold(root, |schema, name| match *name {
        "[]" => schema["items"].clone(),
        name => schema["properties"][name].clone(),
    })
}

#[test]
fn the_charts_files_are_the_generated_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/weir-crds/templates");
    let mut names: BTreeSet<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for definition in all() {
        let name = file_name(&definition);
        let text = fs::read_to_string(folder.join(&name)).unwrap();
        assert_eq!(text, template(&definition).unwrap(), "{name} is stale: run `make crds`");
        let read: CustomResourceDefinition = serde_saphyr::from_str(&text.replace(&verbatim("{{"), "{{")).unwrap();
        assert_eq!(read, definition);
        names.remove(&name);
    }
    assert_eq!(names, BTreeSet::new(), "files of no definition");
}

#[test]
fn helm_renders_two_braces_as_themselves() {
    assert_eq!(verbatim("a: \"{{b}} {c}\""), "a: \"{{ `{{` }}b}} {c}\"");
}

/// Structural schemas may not have these, and every field is documented.
fn check_schema(schema: &Value, path: &str) {
    for forbidden in ["$ref", "additionalItems", "patternProperties", "definitions", "uniqueItems"] {
        assert!(schema.get(forbidden).is_none(), "{path} has {forbidden}");
    }
    assert!(schema["description"].is_string() || path.is_empty(), "{path} has no description");
    assert!(schema["type"].is_string(), "{path} has no type");
    assert_ne!(schema["additionalProperties"], false, "{path}: the API server takes no such schema");
    if let Some(properties) = schema["properties"].as_object() {
        assert!(schema.get("additionalProperties").is_none(), "{path} has properties and additionalProperties");
        for (name, property) in properties.iter().filter(|(name, _)| *name != "metadata") {
            check_schema(property, &format!("{path}.{name}"));
        }
    }
    if let Some(items) = schema.get("items").filter(|items| items["type"] == "object") {
        check_schema(items, &format!("{path}[]"));
    }
}

#[test]
fn schemas_are_structural_and_documented() {
    // SMI's are lenient, and have no status.
    for definition in all().iter().filter(|it| !it.spec.group.ends_with("smi-spec.io")) {
        check_schema(&schema(definition, &["spec"]), "spec");
        check_schema(&schema(definition, &["status"]), "status");
    }
}

#[test]
fn rules_stand_beside_the_fields_they_guard() {
    let definition = &all()[0];
    for (path, count) in [
        (&["spec"][..], 1),
        (&["spec", "targetRefs", "[]"], 1),
        (&["spec", "rules", "[]"], 2),
        (&["spec", "rules", "[]", "matches", "[]", "path"], 1),
        (&["spec", "metrics", "[]"], 1),
        (&["spec", "onMissingMetric"], 1),
    ] {
        let rules = schema(definition, path)["x-kubernetes-validations"].clone();
        assert_eq!(rules.as_array().map(Vec::len), Some(count), "{path:?}");
        assert!(rules.as_array().unwrap().iter().all(|rule| rule["message"].is_string()), "{path:?}");
    }
    for (path, key) in [
        (&["spec", "rules"][..], "name"),
        (&["spec", "rules", "[]", "priorities"], "name"),
        (&["spec", "metrics"], "name"),
        (&["status", "conditions"], "type"),
    ] {
        let list = schema(definition, path);
        assert_eq!(list["x-kubernetes-list-type"], "map", "{path:?}");
        assert_eq!(list["x-kubernetes-list-map-keys"], json!([key]), "{path:?}");
    }
}

#[test]
fn rules_of_a_lazy_config_stand_beside_the_fields_they_guard() {
    let definition = &LazyConfig::crd();
    for path in [&["spec"][..], &["spec", "fallback"]] {
        let rules = schema(definition, path)["x-kubernetes-validations"].clone();
        assert_eq!(rules.as_array().map(Vec::len), Some(1), "{path:?}");
        assert!(rules[0]["message"].is_string(), "{path:?}");
    }
    for list in ["always", "never"] {
        let list = schema(definition, &["spec", list]);
        assert_eq!(list["x-kubernetes-list-type"], "set");
        assert_eq!((&list["maxItems"], &list["items"]["maxLength"]), (&json!(512), &json!(262)));
    }
    let calls = schema(&WorkloadScope::crd(), &["status", "calls"]);
    assert_eq!(calls["x-kubernetes-list-map-keys"], json!(["to"]));
    assert_eq!(calls["maxItems"], json!(workload_scope::MOST_DESTINATIONS));
}

#[test]
fn no_two_definitions_share_a_short_name_or_a_kind_of_one_group() {
    let all = all();
    let names: Vec<_> = all.iter().flat_map(|it| it.spec.names.short_names.iter().flatten()).collect();
    assert_eq!(names, ["wsl", "wlc", "wws", "wss", "wsr", "ts", "htr"]);
    let files: BTreeSet<_> = all.iter().map(file_name).collect();
    assert_eq!(files.len(), all.len());
}

#[test]
fn defaults_stand_in_the_schema() {
    let lazy = &LazyConfig::crd();
    for (field, default) in [
        ("load", json!("OnDemand")),
        ("unknownHosts", json!("Refuse")),
        ("forgetAfter", json!("24h")),
        ("hold", json!("5m")),
        ("prewarm", json!(false)),
    ] {
        assert_eq!(schema(lazy, &["spec", field])["default"], default, "{field}");
    }
    assert_eq!(schema(lazy, &["spec", "fallback", "type"])["default"], "Passthrough");
    assert!(schema(lazy, &["spec", "fallback"]).get("default").is_none(), "it would stand beside every load");
    assert_eq!(serde_json::from_value::<LazyConfigSpec>(json!({})).unwrap(), LazyConfigSpec::default());
    let definition = &all()[0];
    assert_eq!(schema(definition, &["spec", "enforceAt"])["default"], "Server");
    assert_eq!(schema(definition, &["spec", "via"])["default"], "Weir");
    assert_eq!(schema(definition, &["spec", "mode"])["default"], "Enforce");
    assert_eq!(schema(definition, &["spec", "onMissingMetric"])["default"], json!({"action": "Hold", "after": "15s"}));
    assert_eq!(schema(definition, &["spec", "targetRefs", "[]", "group"])["default"], "");
    assert!(schema(definition, &["spec", "targetRefs"]).get("default").is_none(), "an empty list would be refused");
}

#[test]
fn unknown_fields_and_values_are_refused_by_name() {
    let spec = |extra: Value| {
        let mut spec =
            json!({"targetRefs": [{"kind": "Service", "name": "a"}], "rules": [{"name": "a", "limit": "x"}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value::<SmartLimiterSpec>(spec)
    };
    assert!(spec(json!({})).is_ok());
    for (extra, said) in [
        (json!({"targetRef": 1}), "unknown field `targetRef`, expected one of `targetRefs`"),
        (json!({"mode": "Shdow"}), "unknown variant `Shdow`, expected `Enforce` or `Shadow`"),
        (json!({"rules": [{"name": "a", "limits": "x"}]}), "unknown field `limits`"),
        (json!({"rules": [{"name": "a", "matches": [{"method": "post"}]}]}), "unknown variant `post`"),
        (json!({"targetRefs": [{"kind": "Pod", "name": "a"}]}), "unknown variant `Pod`"),
        (json!({"onMissingMetric": {"actions": "Hold"}}), "unknown field `actions`"),
    ] {
        let error = spec(extra).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn every_reason_belongs_to_a_condition() {
    let listed: BTreeSet<_> = ConditionType::ALL.iter().flat_map(|kind| kind.reasons()).copied().collect();
    for reason in listed {
        // What the API server demands of a reason.
        assert!(reason.as_str().bytes().all(|b| b.is_ascii_alphanumeric()), "{reason}");
        assert_eq!(format!("{reason:?}"), reason.to_string());
    }
}

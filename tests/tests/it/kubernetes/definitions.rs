//! The custom resource definitions, as a real API server takes them.

use std::collections::BTreeSet;

use crds::{ArticleSmartLimiter, SmartLimiter};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
    core::Resource as _,
};
use serde_json::{Value, json};
use testkit::{cluster::Cluster, project_root, tidy};

/// What the API server says to an object, without keeping it. Unknown fields are an error.
async fn tried(cluster: &Cluster, namespace: &str, object: &Value) -> Result<Value, String> {
    let kind = GroupVersionKind::try_from(&kube::core::TypeMeta {
        api_version: object["apiVersion"].as_str().unwrap().to_owned(),
        kind: object["kind"].as_str().unwrap().to_owned(),
    })
    .unwrap();
    let resource = ApiResource::from_gvk(&kind);
    let objects = Api::<DynamicObject>::namespaced_with(cluster.client().await, namespace, &resource);
    let parameters = PatchParams { dry_run: true, ..PatchParams::apply("test").validation_strict() };
    match objects.patch(object["metadata"]["name"].as_str().unwrap(), &parameters, &Patch::Apply(object)).await {
        Ok(object) => Ok(serde_json::to_value(object).unwrap()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn are_accepted_without_a_warning_and_explain_themselves() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let rules = cluster.kubectl(&["explain", "wsl.spec.rules"]).await.unwrap();
    for text in ["limit\t<string>", "30 requests per second across all pods", "keep cpu below 70%"] {
        assert!(rules.contains(text), "{text} in:\n{rules}");
    }
    let article = cluster
        .kubectl(&[
            "explain",
            "smartlimiters.spec.descriptors.action",
            "--api-version=microservice.netease.com/v1alpha1",
        ])
        .await
        .unwrap();
    assert!(article.contains("`30/{pod}`"), "{article}");
}

#[tokio::test]
async fn every_example_is_accepted() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("examples").await;
    let mut kinds = BTreeSet::new();
    for file in tidy::files(&project_root()).iter().filter(|file| file.path.starts_with("examples/")) {
        for mut object in serde_saphyr::from_multiple::<Value>(&file.text).unwrap_or_default() {
            if object["kind"] != "SmartLimiter" {
                continue;
            }
            object["metadata"]["namespace"] = namespace.as_str().into();
            kinds.insert(object["apiVersion"].as_str().unwrap().to_owned());
            if let Err(message) = tried(cluster, &namespace, &object).await {
                panic!("{}: {message}", file.path);
            }
        }
    }
    assert_eq!(kinds.len(), 2, "examples of both kinds: {kinds:?}");
}

fn limiter(spec: &Value) -> Value {
    json!({"apiVersion": "weir.dev/v1alpha1", "kind": "SmartLimiter", "metadata": {"name": "a"}, "spec": spec})
}

fn article(descriptors: &Value) -> Value {
    json!({"apiVersion": "microservice.netease.com/v1alpha1", "kind": "SmartLimiter", "metadata": {"name": "a"},
        "spec": {"descriptors": descriptors}})
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_field_and_the_reason() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("refused").await;
    let targets = json!([{"kind": "Service", "name": "a"}]);
    let rules = json!([{"name": "r", "limit": "1 request per second per pod"}]);
    let rule = |rule: Value| limiter(&json!({"targetRefs": targets, "rules": [rule]}));
    let matching = |entry: Value| rule(json!({"name": "r", "limit": "x", "matches": [entry]}));
    let spec = |field: &str, value: Value| {
        let mut spec = json!({"targetRefs": targets, "rules": rules});
        spec[field] = value;
        limiter(&spec)
    };
    let many =
        |count: usize| (0..count).map(|number| json!({"name": format!("r{number}"), "limit": "x"})).collect::<Value>();
    tried(cluster, &namespace, &spec("rules", many(32))).await.unwrap();
    tried(cluster, &namespace, &article(&json!([{"action": {"fill_interval": {"seconds": 1}, "quota": "1"}}])))
        .await
        .unwrap();

    let mut wrong = Vec::new();
    for (object, expected) in [
        (limiter(&json!({"rules": rules})), "spec: Invalid value: exactly one of targetRefs and selector must be set"),
        (spec("selector", json!({"matchLabels": {"a": "b"}})), "exactly one of targetRefs and selector must be set"),
        (limiter(&json!({"selector": {"matchLabels": {}}, "rules": rules})), "spec.selector.matchLabels"),
        (spec("targetRefs", json!([])), "spec.targetRefs: Invalid value: 0"),
        (spec("targetRefs", json!([{"kind": "Service", "name": ""}])), "spec.targetRefs[0].name"),
        (
            spec("targetRefs", json!([{"kind": "Pod", "name": "a"}])),
            "spec.targetRefs[0].kind: Unsupported value: \"Pod\"",
        ),
        (
            spec("targetRefs", json!([{"kind": "Service", "group": "apps", "name": "a"}])),
            "the group of kind Service is empty",
        ),
        (spec("rules", json!([])), "spec.rules: Invalid value: 0"),
        (spec("rules", many(33)), "spec.rules: Too many: 33: must have at most 32 items"),
        (spec("rules", json!([{"name": "r", "limit": "x"}, {"name": "r", "limit": "y"}])), "spec.rules"),
        (
            rule(json!({"name": "r", "limit": "x", "adapt": "y"})),
            "spec.rules[0]: Invalid value: a rule has exactly one of limit and adapt",
        ),
        (rule(json!({"name": "r"})), "a rule has exactly one of limit and adapt"),
        (rule(json!({"name": "r", "limit": "x", "law": "Aimd"})), "it stands beside adapt only"),
        (rule(json!({"name": "", "limit": "x"})), "spec.rules[0].name"),
        (rule(json!({"name": "Not_a_label", "limit": "x"})), "spec.rules[0].name"),
        (rule(json!({"name": "r", "limit": ""})), "spec.rules[0].limit"),
        (rule(json!({"name": "r", "limit": "x", "burst": 0})), "spec.rules[0].burst"),
        (rule(json!({"name": "r", "limit": "x", "limitt": "y"})), ".limitt: field not declared in schema"),
        (rule(json!({"name": "r", "limit": 30})), ".limit: expected string, got"),
        (
            matching(json!({"path": {"value": "cart"}})),
            "spec.rules[0].matches[0].path: Invalid value: a path begins with /",
        ),
        (matching(json!({"method": "post"})), "spec.rules[0].matches[0].method: Unsupported value: \"post\""),
        (spec("metrics", json!([{"name": "a", "type": "Count"}])), "a metric has exactly one of prometheus and scrape"),
        (spec("onMissingMetric", json!({"action": "Floor"})), "floor is set exactly when the action is Floor"),
        (
            spec("onMissingMetric", json!({"floor": "1 request per second per pod"})),
            "floor is set exactly when the action is Floor",
        ),
        (spec("onMissingMetric", json!({"after": "soon"})), "spec.onMissingMetric.after"),
        (article(&json!([])), "spec.descriptors"),
        (
            article(&json!([{"action": {"fill_interval": {"seconds": 0}, "quota": "1"}}])),
            "fill_interval must be longer than nothing",
        ),
        (
            article(&json!([{"action": {"fill_interval": {"seconds": 1}}}])),
            "spec.descriptors[0].action.quota: Required value",
        ),
        (article(&json!([{"action": {"fill_interval": {"seconds": 1}, "quota": 30}}])), ".quota: expected string, got"),
    ] {
        let said = tried(cluster, &namespace, &object).await.map_or_else(|message| message, |_| "accepted".to_owned());
        if !said.contains(expected) {
            wrong.push(format!("{object}\n  expected: {expected}\n  said: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every field of the status, each with a value.
fn full_status() -> Value {
    json!({
        "observedGeneration": 1,
        "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "ok", "observedGeneration": 1,
             "lastTransitionTime": "2026-01-02T03:04:05Z"},
            {"type": "Programmed", "status": "True", "reason": "Programmed", "message": "3 of 3", "observedGeneration": 1,
             "lastTransitionTime": "2026-01-02T03:04:05Z"},
            {"type": "Limiting", "status": "False", "reason": "Idle", "message": "", "observedGeneration": 1,
             "lastTransitionTime": "2026-01-02T03:04:05Z"},
        ],
        "proxies": {"total": 3, "programmed": 2},
        "rules": [{
            "name": "r", "target": "a", "phase": "Limiting", "limit": "30 requests per second across all pods",
            "perSecond": 30.5, "shares": "10 x3", "excess": 1.5, "inFlight": 7, "since": "2026-01-02T03:04:05Z",
            "classes": [{"name": "paid", "perSecond": 20.5}, {"perSecond": 10.25}],
            "observed": [{"metric": "cpu", "value": 0.85, "source": "scrape", "at": "2026-01-02T03:04:05Z"}],
            "message": "cpu is 85%",
        }],
    })
}

#[tokio::test]
async fn a_status_comes_back_as_it_was_written() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("status").await;
    let ours =
        limiter(&json!({"targetRefs": [{"kind": "Service", "name": "a"}], "rules": [{"name": "r", "limit": "x"}]}));
    let theirs = article(&json!([{"action": {"fill_interval": {"seconds": 1}, "quota": "1"}}]));
    let status: crds::SmartLimiterStatus = serde_json::from_value(full_status()).unwrap();
    assert_eq!(serde_json::to_value(&status).unwrap(), full_status(), "the test names every field");
    for object in [ours, theirs] {
        cluster
            .apply(&{
                let mut object = object.clone();
                object["metadata"]["namespace"] = namespace.as_str().into();
                object.to_string()
            })
            .await
            .unwrap();
        let kind = if object["apiVersion"] == SmartLimiter::api_version(&()).as_ref() {
            ApiResource::erase::<SmartLimiter>(&())
        } else {
            ApiResource::erase::<ArticleSmartLimiter>(&())
        };
        let objects = Api::<DynamicObject>::namespaced_with(cluster.client().await, &namespace, &kind);
        let patch = json!({"apiVersion": object["apiVersion"], "kind": "SmartLimiter", "status": full_status()});
        let parameters = PatchParams::apply("weir").validation_strict();
        let written = objects.patch_status("a", &parameters, &Patch::Apply(&patch)).await.unwrap();
        assert_eq!(written.data["status"], full_status());
        // The spec is not the status' business, nor the other way round.
        let mut renamed = patch.clone();
        renamed["spec"] = json!({"rules": []});
        let _ = objects.patch_status("a", &PatchParams::apply("weir"), &Patch::Apply(&renamed)).await;
        assert_eq!(objects.get("a").await.unwrap().data["spec"], written.data["spec"]);
    }
}

#[tokio::test]
async fn the_columns_tell_the_state_at_a_glance() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("columns").await;
    let mut object =
        limiter(&json!({"targetRefs": [{"kind": "Service", "name": "a"}], "rules": [{"name": "r", "limit": "x"}]}));
    object["metadata"]["namespace"] = namespace.as_str().into();
    cluster.apply(&object.to_string()).await.unwrap();
    let columns = async |arguments: &[&str]| {
        let table = cluster.kubectl(&[&["get", "-n", &namespace], arguments].concat()).await.unwrap();
        table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    // Nobody has looked at it yet.
    let fresh = columns(&["wsl"]).await;
    assert_eq!(fresh[0], ["NAME", "ACCEPTED", "PROGRAMMED", "LIMITING", "LIMIT", "AGE"]);
    assert_eq!(fresh[1].len(), 2, "{fresh:?}");

    let limiters = Api::<SmartLimiter>::namespaced(cluster.client().await, &namespace);
    let status = json!({"status": full_status()});
    limiters.patch_status("a", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    let table = columns(&["smartlimiters.weir.dev"]).await;
    let expected = ["a", "True", "True", "False", "30", "requests", "per", "second", "across", "all", "pods"];
    assert_eq!(table[1][..expected.len()], expected);
    let wide = columns(&["wsl", "-o", "wide"]).await;
    assert_eq!(wide[0][5..7], ["REASON", "PROXIES"]);
    assert_eq!(columns(&["weir"]).await.len(), 2, "the category names it too");
}

//! The custom resource definitions, as a real API server takes them.

use std::{collections::BTreeSet, time::Duration};

use crds::{ArticleSmartLimiter, SmartLimiter};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
    core::Resource as _,
};
use serde_json::{Value, json};
use testkit::{
    cluster::Cluster,
    eventually,
    mesh::{self, Service},
    ports::Network,
    project_root,
    proxy::Proxy,
    tidy,
    weir::Weir,
};
use tokio::time::Instant;

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
            if !["SmartLimiter", "LazyConfig", "SmartSplit", "TrafficSplit", "HTTPRouteGroup"]
                .contains(&object["kind"].as_str().unwrap_or_default())
            {
                continue;
            }
            object["metadata"]["namespace"] = namespace.as_str().into();
            kinds.insert([object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()].join(" "));
            if let Err(message) = tried(cluster, &namespace, &object).await {
                panic!("{}: {message}", file.path);
            }
        }
    }
    assert_eq!(kinds.len(), 8, "examples of each kind, in each version that others write: {kinds:?}");
}

#[tokio::test]
async fn a_split_that_cannot_be_meant_is_refused_by_the_definition() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("splits").await;
    let split = |change: Value| {
        let mut spec = json!({
            "targetRefs": [{"kind": "Service", "name": "a"}],
            "backendRefs": [{"name": "v1", "weight": 3, "minPercent": 0.5}, {"name": "v2", "maxPercent": 50}],
        });
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"apiVersion": "weir.dev/v1alpha1", "kind": "SmartSplit", "metadata": {"name": "a"}, "spec": spec})
    };
    let read = tried(cluster, &namespace, &split(json!({}))).await.unwrap();
    assert_eq!((&read["spec"]["backendRefs"][1]["weight"], &read["spec"]["mode"]), (&json!(1), &json!("Enforce")));
    for (change, said) in [
        (json!({"targetRefs": []}), "should have at least 1 items"),
        (json!({"backendRefs": []}), "should have at least 1 items"),
        (json!({"backendRefs": [{"name": "v1"}, {"name": "v1"}]}), "duplicate"),
        (json!({"backendRefs": [{"name": "v1", "weight": -1}]}), "greater than or equal to 0"),
        (
            json!({"backendRefs": [{"name": "v1", "minPercent": 60, "maxPercent": 50}]}),
            "minPercent is at most maxPercent",
        ),
        (json!({"sticky": {"type": "ClientIP", "name": "x"}}), "ClientIP has none"),
        (json!({"sticky": {"type": "Cookie"}}), "ClientIP has none"),
        (json!({"mode": "Loud"}), "supported values"),
        (json!({"steering": "x"}), "steering"),
    ] {
        let refused = tried(cluster, &namespace, &split(change.clone())).await.expect_err(&change.to_string());
        assert!(refused.contains(said), "{change}: {refused}");
    }
}

#[tokio::test]
async fn a_traffic_split_is_read_in_every_version_as_it_was_written_in_one() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("smi").await;
    for (written, weight) in [("v1alpha1", json!("500m")), ("v1alpha2", json!(10)), ("v1alpha4", json!(10))] {
        let spec = json!({
            "service": "web",
            "matches": [{"kind": "HTTPRouteGroup", "name": "g"}],
            "backends": [{"service": "v1", "weight": weight}],
        });
        let object = json!({
            "apiVersion": format!("split.smi-spec.io/{written}"), "kind": "TrafficSplit",
            "metadata": {"name": written, "namespace": namespace}, "spec": spec,
        });
        cluster.apply(&object.to_string()).await.unwrap();
        for read in ["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"] {
            let name = format!("trafficsplits.{read}.split.smi-spec.io/{written}");
            let text = cluster.kubectl(&["get", &name, "--namespace", &namespace, "--output=json"]).await.unwrap();
            let found: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&found["spec"], &found["apiVersion"]), (&spec, &json!(format!("split.smi-spec.io/{read}"))));
        }
    }
    let listed = cluster.kubectl(&["get", "ts", "--namespace", &namespace]).await.unwrap();
    assert!(listed.starts_with("NAME") && listed.contains("SERVICE") && listed.contains("web"), "{listed}");
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

/// The definition of an older version, which did not know of these fields.
fn without(definition: &impl serde::Serialize, fields: &[&str]) -> String {
    let mut definition = serde_json::to_value(definition).unwrap();
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties";
    for field in fields {
        let (parent, name) = field.rsplit_once('/').unwrap();
        let fields = definition.pointer_mut(&format!("{schema}{parent}")).unwrap().as_object_mut().unwrap();
        fields.remove(name).unwrap();
    }
    definition.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_definition_is_named_and_costs_only_its_fields() {
    const SOON: Duration = Duration::from_secs(30);
    let cluster = Cluster::start().await;
    let of_rules = "/spec/properties/rules/items/properties/priorities";
    let of_status = ["/status/properties/rulesLeftOut", "/status/properties/rules/items/properties/shares"];
    let fields = [of_rules, of_status[0], of_status[1], "/status/properties/rules/items/properties/classes"];
    let old = without(&crds::all()[0], &fields);
    cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], &old).await.unwrap();
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/smartlimiters.weir.dev"]).await.unwrap();
    let namespace = cluster.namespace("older").await;
    let service = Service::start_in(Network::routable(), &namespace, "cart", 2).await;
    cluster.put(&service).await;
    let rules = "- name: calm\n  limit: 30 requests per second across all pods\n  \
                 priorities: [{name: paid, matches: [{headers: [{name: x-tier, value: paid}]}]}]";
    let text = mesh::limiter(&namespace, "cart", rules);
    let applied = eventually(SOON, "kubectl knows the kind", async || {
        cluster
            .kubectl_with(&["apply", "--validate=warn", "-f", "-"], &text)
            .await
            .map_err(|error| format!("{error:#}"))
    })
    .await;
    assert!(applied.contains("created"), "{applied}");

    let weir = Weir::watch(cluster.kubeconfig(), &[]).await;
    let _proxies = Proxy::start_all(&weir, &service).await;
    let key = format!("smartlimiters.weir.dev/{namespace}/cart");
    let dropped = "spec.rules[].priorities, status.rules[].classes, status.rules[].shares, status.rulesLeftOut";
    weir.until(SOON, "what is dropped is named, and the rest works", |status| {
        let said = status.0["problems"]["API server"].to_string();
        for words in ["definition smartlimiters.weir.dev", dropped, "upgrade the chart weir-crds"] {
            if !said.contains(words) {
                return Err(format!("no {words:?} in {said}"));
            }
        }
        status.programmed(&key, 1)?;
        let rule = status.phase(&key, "calm", "Limiting")?;
        if rule["shares"] == "15 x2" && rule.get("classes").is_none() { Ok(()) } else { Err(rule.to_string()) }
    })
    .await;
    assert_eq!(weir.log().matches("a definition does not know all fields").count(), 1, "{}", weir.log());
    let stored = async || -> Value {
        let text = cluster.kubectl(&["get", "wsl", "cart", "-n", &namespace, "-o", "json"]).await.unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["status"].clone()
    };
    eventually(SOON, "the status is written as far as it goes", async || {
        let status = stored().await;
        let programmed = status["conditions"][1]["status"] == "True" && status["proxies"]["programmed"] == 2;
        let rule = &status["rules"][0];
        if programmed && rule["perSecond"] == 30.0 && rule.get("shares").is_none() { Ok(()) } else { Err(status) }
    })
    .await;
    // More than the time after which all is looked at again.
    let (mark, end) = (cluster.mark(), Instant::now() + Duration::from_secs(35));
    eventually(SOON * 2, "time passes", async || if Instant::now() < end { Err("not yet") } else { Ok(()) }).await;
    let writes: Vec<_> =
        cluster.audit(mark).into_iter().filter(|it| it.user_agent.starts_with("weir/") && it.writes()).collect();
    assert_eq!(writes, [], "what is dropped is not written again");

    cluster.install_crds().await;
    weir.until(SOON * 3, "the upgraded one is found", |status| match status.0["problems"].get("API server") {
        None => Ok(()),
        Some(said) => Err(said.to_string()),
    })
    .await;
    cluster.apply(&text.replace("30 requests", "50 requests")).await.unwrap();
    eventually(SOON, "all of it is kept now", async || {
        let status = stored().await;
        let rule = &status["rules"][0];
        let classes = rule["classes"].as_array().map_or(0, Vec::len);
        if rule["shares"] == "25 x2" && classes == 2 { Ok(()) } else { Err(status) }
    })
    .await;
    weir.stop().await.unwrap();
}

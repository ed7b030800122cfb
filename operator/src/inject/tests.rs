use clap::Parser;
use serde_json::{Value, json};

use super::{Asked, LABEL, MARK, Outcome, REFUSED, Settings, documents, inject, refused};
use crate::args::{Args, Command};

/// As the command has them by default.
pub(crate) fn settings(arguments: &[&str]) -> Settings {
    let line = ["weir", "inject", "--file", "-"].iter().chain(arguments);
    match Args::try_parse_from(line).unwrap().command {
        Command::Inject(args) => args.sidecar.settings(),
        other => panic!("{other:?}"),
    }
}

fn pod(metadata: Value, spec: Value) -> Value {
    let mut pod = json!({"metadata": metadata, "spec": {"containers": [{"name": "app", "image": "app"}]}});
    spec.as_object().unwrap().iter().for_each(|(name, value)| pod["spec"][name] = value.clone());
    pod
}

fn injected(pod: &Value) -> (Value, Vec<String>) {
    match inject(pod, Asked::ForAll, "key", &settings(&[])) {
        Outcome::Injected(pod, warnings) => (pod, warnings),
        other => panic!("{other:?}"),
    }
}

fn annotated(name: &str, value: &str, spec: Value) -> Value {
    pod(json!({"annotations": {name: value}}), spec)
}

#[test]
fn who_asks_gets_one_and_who_says_no_gets_none() {
    let labelled = |text: Value| pod(json!({"labels": {LABEL: text}}), json!({}));
    let of = |pod: &Value, asked| inject(pod, asked, "key", &settings(&[]));
    let gets = |outcome: Outcome| matches!(outcome, Outcome::Injected(..));
    assert!(gets(of(&labelled(json!("true")), Asked::ByPod)));
    assert!(gets(of(&pod(json!({}), json!({})), Asked::ForAll)));
    assert_eq!(of(&pod(json!({}), json!({})), Asked::ByPod), Outcome::Unasked);
    for asked in [Asked::ByPod, Asked::ForAll] {
        assert_eq!(of(&labelled(json!("false")), asked), Outcome::Unasked);
        let Outcome::Refused(problems) = of(&labelled(json!("yes")), asked) else { panic!("it is no answer") };
        assert_eq!(problems[0].field, "metadata.labels[weir.dev/inject]");
    }
}

#[test]
fn twice_is_once() {
    let (once, _) = injected(&pod(json!({}), json!({})));
    assert_eq!(inject(&once, Asked::ForAll, "other", &settings(&[])), Outcome::Already);
    assert_eq!(once["metadata"]["annotations"][MARK], "Redirect");
}

#[test]
fn what_cannot_have_one_is_told_by_its_field() {
    let named = |name: &str| json!({"containers": [{"name": name, "image": "x"}]});
    for (pod, field, words) in [
        (pod(json!({}), json!({"hostNetwork": true})), "spec.hostNetwork", "the network of its node"),
        (pod(json!({}), json!({"os": {"name": "windows"}})), "spec.os.name", "Linux"),
        (pod(json!({}), named("istio-proxy")), "spec.containers[0].name", "a proxy already"),
        (
            pod(json!({}), json!({"initContainers": [{"name": "envoy"}]})),
            "spec.initContainers[0].name",
            "a proxy already",
        ),
        (pod(json!({}), json!({"volumes": [{"name": "weir-proxy"}]})), "spec.volumes[0].name", "has the name"),
        (
            pod(json!({}), json!({"containers": [{"name": "app", "ports": [{"containerPort": 15021}]}]})),
            "spec.containers[0].ports[0].containerPort",
            "among them 15021",
        ),
        (
            annotated("inject.weir.dev/mode", "None", json!({})),
            "metadata.annotations[inject.weir.dev/mode]",
            "not known",
        ),
        (
            annotated("inject.weir.dev/interception", "none", json!({})),
            "metadata.annotations[inject.weir.dev/interception]",
            "expected Redirect or None, found \"none\"",
        ),
        (
            annotated("inject.weir.dev/resources", "{limits: {memory: lots}}", json!({})),
            "metadata.annotations[inject.weir.dev/resources]",
            "limits.memory: expected a quantity",
        ),
        (
            annotated("inject.weir.dev/exclude-ports", "5432,", json!({})),
            "metadata.annotations[inject.weir.dev/exclude-ports]",
            "separated by commas",
        ),
        (
            annotated("inject.weir.dev/drain", "40s", json!({})),
            "metadata.annotations[inject.weir.dev/drain]",
            "does not fit into the 30s",
        ),
        (
            annotated("inject.weir.dev/service", "Cart!", json!({})),
            "metadata.annotations[inject.weir.dev/service]",
            "expected the name of a Service",
        ),
    ] {
        let Outcome::Refused(problems) = inject(&pod, Asked::ForAll, "key", &settings(&[])) else { panic!("{pod}") };
        assert!(problems.len() == 1 && problems[0].field == field, "{problems:?}");
        assert!(problems[0].message.contains(words) && problems[0].help.is_some(), "{problems:?}");
        let told = refused(&pod, &problems);
        assert!(told["metadata"]["annotations"][REFUSED].as_str().unwrap().contains(words), "{told}");
        assert_eq!(told["spec"], pod["spec"]);
    }
}

#[test]
fn kubelet_and_prometheus_get_past_envoy_and_nobody_else() {
    let (pod, warnings) = injected(&pod(
        json!({"annotations": {"prometheus.io/port": "9100", "inject.weir.dev/exclude-ports": "5432"}}),
        json!({
            "containers": [{
                "name": "app", "image": "app", "ports": [{"name": "web", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "web"}},
                "livenessProbe": {"tcpSocket": {"port": 8080}},
                "startupProbe": {"grpc": {"port": 9000}},
                "lifecycle": {"preStop": {"httpGet": {"path": "/stop", "port": 8080}}},
            }, {
                "name": "other", "image": "app",
                "readinessProbe": {"exec": {"command": ["true"]}},
                "livenessProbe": {"httpGet": {"path": "/", "port": 8080, "host": "example.org"}},
                "startupProbe": {"tcpSocket": {"port": 5432}},
            }],
        }),
    ));
    assert_eq!(warnings, [""; 0]);
    let app = &pod["spec"]["containers"][0];
    assert_eq!(app["readinessProbe"]["httpGet"], json!({"path": "/ready", "port": 15030}));
    assert_eq!(app["livenessProbe"]["tcpSocket"]["port"], 15030);
    assert_eq!(app["startupProbe"]["grpc"]["port"], 15031);
    assert_eq!(app["lifecycle"]["preStop"], json!({"httpGet": {"path": "/stop", "port": 15030}}), "a way of its own");
    let other = &pod["spec"]["containers"][1];
    assert_eq!(other["livenessProbe"]["httpGet"]["port"], 8080, "another host");
    assert_eq!(other["startupProbe"]["tcpSocket"]["port"], 5432, "not intercepted");
    assert_eq!(other["lifecycle"]["preStop"], json!({"sleep": {"seconds": 5}}));
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], "15032");
    let rules = "*nat\n:WEIR - [0:0]\n-A PREROUTING -p tcp -j WEIR\n-A WEIR -p tcp --dport 15021 -j RETURN\n\
                 -A WEIR -p tcp --dport 15030 -j REDIRECT --to-ports 8080\n\
                 -A WEIR -p tcp --dport 15031 -j REDIRECT --to-ports 9000\n\
                 -A WEIR -p tcp --dport 15032 -j REDIRECT --to-ports 9100\n\
                 -A WEIR -p tcp --dport 5432 -j RETURN\n-A WEIR -p tcp -j REDIRECT --to-ports 15006\nCOMMIT\n";
    assert_eq!(annotations["sidecar.weir.dev/rules"], rules);
}

#[test]
fn what_the_application_sends_goes_to_envoy_where_that_is_wanted() {
    let annotations = json!({
        "inject.weir.dev/outbound": "Redirect", "inject.weir.dev/exclude-outbound-ports": "5432, 6379",
    });
    let (redirected, warnings) = injected(&pod(json!({"annotations": annotations}), json!({})));
    assert_eq!(warnings, [""; 0]);
    let annotations = &redirected["metadata"]["annotations"];
    assert_eq!(annotations["outbound.weir.dev/intercept"], "15001");
    let rules = "*nat\n:WEIR - [0:0]\n:WEIR_OUT - [0:0]\n-A PREROUTING -p tcp -j WEIR\n\
                 -A WEIR -p tcp --dport 15021 -j RETURN\n-A WEIR -p tcp -j REDIRECT --to-ports 15006\n\
                 -A OUTPUT -p tcp -j WEIR_OUT\n-A WEIR_OUT -p tcp -o lo -j RETURN\n\
                 -A WEIR_OUT -p tcp -m owner --uid-owner 15001 -j RETURN\n\
                 -A WEIR_OUT -p tcp --dport 5432 -j RETURN\n-A WEIR_OUT -p tcp --dport 6379 -j RETURN\n\
                 -A WEIR_OUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n";
    assert_eq!(annotations["sidecar.weir.dev/rules"], rules);
    let inits = redirected["spec"]["initContainers"].as_array().unwrap();
    let users: Vec<_> = inits.iter().map(|init| &init["securityContext"]["runAsUser"]).collect();
    assert_eq!(users, [&json!(0), &json!(15001)], "nobody else is this user");

    // A default is for those who can have it.
    let by_default = settings(&["--outbound-interception=redirect"]);
    let rules = |pod: &Value| match inject(pod, Asked::ForAll, "key", &by_default) {
        Outcome::Injected(pod, _) => pod["metadata"]["annotations"]["sidecar.weir.dev/rules"].to_string(),
        other => panic!("{other:?}"),
    };
    assert!(rules(&pod(json!({}), json!({}))).contains("WEIR_OUT"));
    for (name, value) in [
        ("inject.weir.dev/outbound", "None"),
        ("inject.weir.dev/interception", "None"),
        ("outbound.weir.dev/listen", "127.0.0.1:15002"),
    ] {
        assert!(!rules(&annotated(name, value, json!({}))).contains("WEIR_OUT"), "{name}");
    }
    let both = |name: &str, value: &str| json!({"annotations": {"inject.weir.dev/outbound": "Redirect", name: value}});
    for (pod, field) in [
        (
            pod(both("inject.weir.dev/interception", "None"), json!({})),
            "metadata.annotations[inject.weir.dev/outbound]",
        ),
        (
            pod(both("outbound.weir.dev/listen", "127.0.0.1:15002"), json!({})),
            "metadata.annotations[inject.weir.dev/outbound]",
        ),
        (
            annotated("inject.weir.dev/outbound", "redirect", json!({})),
            "metadata.annotations[inject.weir.dev/outbound]",
        ),
        (
            pod(both("inject.weir.dev/exclude-outbound-ports", "0"), json!({})),
            "metadata.annotations[inject.weir.dev/exclude-outbound-ports]",
        ),
        (
            annotated("inject.weir.dev/outbound", "Redirect", json!({"securityContext": {"runAsUser": 15001}})),
            "spec.securityContext.runAsUser",
        ),
    ] {
        let Outcome::Refused(problems) = inject(&pod, Asked::ForAll, "key", &settings(&[])) else { panic!("{pod}") };
        assert!(problems.len() == 1 && problems[0].field == field && problems[0].help.is_some(), "{problems:?}");
    }
}

#[test]
fn without_interception_nothing_has_a_privilege_and_the_port_says_when_it_is_ready() {
    let probe = json!({"readinessProbe": {"tcpSocket": {"port": 8080}}, "name": "app", "image": "app"});
    let metadata = json!({"annotations": {"inject.weir.dev/interception": "None", "inbound.weir.dev/8080": "9000"}});
    let (pod, warnings) = injected(&pod(metadata, json!({"containers": [probe]})));
    let inits = pod["spec"]["initContainers"].as_array().unwrap();
    assert_eq!(inits.len(), 1);
    assert_eq!(inits[0]["readinessProbe"]["tcpSocket"]["port"], 8080);
    assert!(!pod.to_string().contains("NET_ADMIN"));
    assert_eq!(pod["spec"]["containers"][0]["readinessProbe"]["tcpSocket"]["port"], 8080);
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("spec.containers[0].readinessProbe.tcpSocket asks port 8080")
    );
}

#[test]
fn a_short_life_is_not_made_longer_by_default() {
    let (pod, _) = injected(&pod(json!({}), json!({"terminationGracePeriodSeconds": 5})));
    assert_eq!(pod["spec"]["containers"][0].get("lifecycle"), None);
    let (pod, _) = injected(&annotated("inject.weir.dev/drain", "0s", json!({})));
    assert_eq!(pod["spec"]["containers"][0].get("lifecycle"), None, "nor where it says so");
    assert_eq!(settings(&["--application-drain=0s"]).drain_seconds, 0);
}

#[test]
fn whatever_a_file_holds_it_is_told_and_nothing_panics() {
    let odd = [json!(null), json!(5), json!("text"), json!([1]), json!({"a": 1})];
    for path in [
        "",
        "/metadata",
        "/metadata/labels",
        "/metadata/annotations",
        "/spec",
        "/spec/containers",
        "/spec/containers/0",
        "/spec/containers/0/name",
        "/spec/containers/0/ports",
        "/spec/containers/0/ports/0",
        "/spec/containers/0/lifecycle",
        "/spec/containers/0/lifecycle/preStop",
        "/spec/containers/0/readinessProbe",
        "/spec/containers/0/readinessProbe/httpGet",
        "/spec/containers/0/readinessProbe/httpGet/port",
        "/spec/initContainers",
        "/spec/volumes",
        "/spec/volumes/0",
        "/spec/terminationGracePeriodSeconds",
        "/spec/os",
    ] {
        for odd in &odd {
            let mut pod = pod(
                json!({"labels": {}, "annotations": {}}),
                json!({
                    "os": {}, "terminationGracePeriodSeconds": 30, "volumes": [{}], "initContainers": [{}],
                    "containers": [{"name": "a", "ports": [{}], "lifecycle": {"preStop": {}}, "readinessProbe": {"httpGet": {"port": 1}}}],
                }),
            );
            *pod.pointer_mut(path).unwrap() = odd.clone();
            let outcome = inject(&pod, Asked::ForAll, "key", &settings(&[]));
            assert!(matches!(outcome, Outcome::Injected(..) | Outcome::Refused(_)), "{path} {odd}");
        }
    }
}

#[test]
fn documents_that_get_none_stay_letter_by_letter() {
    let text = "# first\n---\nkind: Service # mine\napiVersion: v1\nmetadata: {name: a}\n---\napiVersion: apps/v1\nkind: Deployment\n\
                metadata: {name: a, namespace: b}\nspec: {template: {spec: {containers: [{name: app, image: 'x:1'}]}}}\n---\n\
                {apiVersion: v1, kind: Pod, metadata: {name: c, labels: {weir.dev/inject: 'false'}}, spec: {containers: []}}\n";
    let found = documents(text, "key", &settings(&[]));
    assert_eq!(found.injected, ["Deployment b/a"]);
    assert!(found.text.starts_with("# first\n---\nkind: Service # mine\napiVersion: v1\nmetadata: {name: a}\n---\n"));
    assert!(found.text.ends_with("labels: {weir.dev/inject: 'false'}}, spec: {containers: []}}\n"), "{}", found.text);
    let again = documents(&found.text, "other", &settings(&[]));
    assert_eq!((again.text, again.injected.len()), (found.text, 0), "twice is once");

    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: batch/v1, kind: CronJob, metadata: {name: d}, spec: {jobTemplate: \
                {spec: {template: {spec: {hostNetwork: true, containers: []}}}}}}\n---\nkind: [\n";
    let found = documents(list, "key", &settings(&[]));
    let said: Vec<_> = found.problems.iter().map(|(object, problem)| format!("{object}: {}", problem.field)).collect();
    assert_eq!(said, ["CronJob d: spec.jobTemplate.spec.template.spec.hostNetwork", "line 5: document"]);
}

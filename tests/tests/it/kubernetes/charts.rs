//! What the charts render: accepted by the API server, understood by the binary, and refused by field when a value is wrong.

use std::{collections::BTreeSet, time::Duration};

use clap::Parser;
use operator::{
    args::Args,
    xds::{ResourceType, client::DeltaClient},
};
use serde_json::{Value, json};
use testkit::{
    authority::Authority,
    cluster::Cluster,
    eventually, http,
    mesh::{Service, limiter, put},
    ports, project_root, temp_dir,
    weir::Weir,
};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

const OWN_CERTIFICATE: &str =
    "webhook.enabled=true,certificate.secretName=own,certificate.caBundle=-----BEGIN CERTIFICATE-----";
const WEBHOOK: &str = "webhook.enabled=true";
const NO_WEBHOOK: &str = "webhook.enabled=false";
const TWO: &str = "namespaces={charts-a,charts-b}";
const EVERYTHING: &str = "logFormat=text,log=info\\,operator::xds=debug,scrapeInterval=1s,\
    prometheus.url=http://prometheus.monitoring:9090,prometheus.token.secretName=token,prometheus.headers.X-Scope-OrgID=a: b,\
    prometheus.allowNamespaces={shop,billing},prometheus.namespaceLabel=namespace,clientLimits.allowNamespaces={*},meshNamespace=mesh,\
    otlp.endpoint=http://collector:4317,otlp.sample=0.5,networkPolicy.httpFrom={monitoring},serviceMonitor.enabled=true,\
    serviceMonitor.labels.release=prometheus,grafanaDashboard.enabled=true,imagePullSecrets[0].name=pull,\
    podAnnotations.a=b,podLabels.c=d,nodeSelector.e=f,tolerations[0].operator=Exists,priorityClassName=high,\
    affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=a,\
    injection.interception=None,injection.image=envoy:1,injection.resources.limits.cpu=1,injection.applicationDrain=0s,\
    injection.excludedNamespaces={kube-flannel},extraArgs[0]=--prometheus-header=A: b,extraEnv[0].name=RUST_BACKTRACE,extraEnv[0].value=\"1\",webhook.annotations.a=b";

/// The main values in all their combinations, and everything else that can be said in one.
const COMBINATIONS: [&[&str]; 11] = [
    &["injection.enabled=false"],
    &[WEBHOOK],
    &[NO_WEBHOOK],
    &[OWN_CERTIFICATE],
    &[TWO, WEBHOOK],
    &[TWO, NO_WEBHOOK],
    &[TWO, OWN_CERTIFICATE],
    &["networkPolicy.enabled=false"],
    &["replicas=3"],
    &[EVERYTHING],
    &[
        EVERYTHING,
        TWO,
        OWN_CERTIFICATE,
        "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    ],
];

async fn template(cluster: &Cluster, values: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut arguments = vec!["template", "weir", "charts/weir", "--namespace", "charts-weir"];
    values.iter().for_each(|value| arguments.extend(["--set", value]));
    let text = cluster.helm(&arguments).await?;
    let documents = serde_saphyr::from_multiple::<Value>(&text)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

fn find<'a>(objects: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn arguments(objects: &[Value]) -> Vec<&str> {
    let deployment = find(objects, "Deployment").next().expect("one Deployment");
    let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().expect("arguments");
    arguments.iter().map(|argument| argument.as_str().expect("text")).collect()
}

#[tokio::test]
async fn every_combination_of_the_main_values_is_accepted() {
    let cluster = Cluster::shared().await;
    for namespace in ["charts-weir", "charts-a", "charts-b"] {
        cluster.kubectl(&["create", "namespace", namespace]).await.unwrap();
    }
    for values in COMBINATIONS {
        let objects = template(cluster, values).await.unwrap();
        // A kind of the Prometheus operator's.
        let known = objects.iter().filter(|object| object["kind"] != "ServiceMonitor");
        let manifests: String = known.map(|object| format!("---\n{object}\n")).collect();
        let dry = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        let said = cluster.kubectl_with(&dry, &manifests).await.unwrap_or_else(|error| panic!("{values:?}: {error:#}"));
        assert!(said.lines().all(|line| line.ends_with("created (server dry run)")), "{values:?}: {said}");

        // As kubelet gives them.
        let given = arguments(&objects).into_iter().map(|argument| argument.replace("$(POD_IP)", "10.0.0.7"));
        let line = std::iter::once("weir".to_owned()).chain(given);
        Args::try_parse_from(line).unwrap_or_else(|error| panic!("{values:?}: {error}"));
        let image = objects.iter().find_map(|object| object.pointer("/spec/template/spec/containers/0/image"));
        let digest = values.iter().any(|value| value.starts_with("image.digest"));
        let version = if digest { "@sha256:" } else { concat!(":", env!("CARGO_PKG_VERSION")) };
        assert!(image.unwrap().as_str().unwrap().starts_with(&format!("localhost/weir{version}")), "{image:?}");
    }
}

#[tokio::test]
async fn namespaces_take_the_place_of_rights_in_the_whole_cluster() {
    let cluster = Cluster::shared().await;
    let objects = template(cluster, &[TWO, WEBHOOK]).await.unwrap();
    let namespaces = arguments(&objects).into_iter().filter(|argument| argument.starts_with("--namespace"));
    assert_eq!(namespaces.collect::<Vec<_>>(), ["--namespace=charts-a", "--namespace=charts-b"]);
    let watched = |object: &&Value| object["metadata"]["name"] == "weir.charts-weir";
    let roles = find(&objects, "Role").filter(watched).map(|role| role["metadata"]["namespace"].as_str().unwrap());
    assert_eq!(roles.collect::<Vec<_>>(), ["charts-a", "charts-b"]);
    let cluster_wide = find(&objects, "ClusterRole").next().unwrap()["rules"].as_array().unwrap();
    let ours = |rule: &&Value| rule["resourceNames"][0] == "weir.charts-weir" || rule["verbs"] == json!(["create"]);
    assert_eq!(cluster_wide.iter().filter(|rule| !ours(rule)).collect::<Vec<_>>(), [&Value::Null; 0]);
    let told = find(&objects, "ConfigMap").filter(|map| map["metadata"]["name"] == "weir-ca");
    let told = told.map(|map| map["metadata"]["namespace"].as_str().unwrap());
    assert_eq!(
        told.collect::<Vec<_>>(),
        ["charts-a", "charts-b", "charts-weir"],
        "where proxies are told whom to trust"
    );

    let objects = template(cluster, &[TWO, NO_WEBHOOK]).await.unwrap();
    let mut rules = find(&objects, "ClusterRole").flat_map(|role| role["rules"].as_array().unwrap());
    assert!(rules.all(|rule| rule["verbs"] == json!(["create"])), "reviews, and nothing else: {objects:?}");
    assert_eq!(find(&objects, "ValidatingWebhookConfiguration").count(), 0);
    let objects = template(cluster, &["certificate.secretName=own"]).await.unwrap();
    assert_eq!(find(&objects, "Secret").count(), 0);
}

#[tokio::test]
async fn no_rule_grants_everything_or_a_secret_of_others() {
    let cluster = Cluster::shared().await;
    for values in COMBINATIONS {
        let objects = template(cluster, values).await.unwrap();
        let roles = find(&objects, "Role").chain(find(&objects, "ClusterRole"));
        for rule in roles.flat_map(|role| role["rules"].as_array().unwrap()) {
            assert!(!rule.to_string().contains("\"*\""), "{rule}");
            let guarded = rule["resources"].as_array().unwrap().iter().any(|it| it == "secrets" || it == "configmaps");
            assert!(!guarded || rule["resourceNames"].as_array().is_some_and(|names| names.len() == 1), "{rule}");
        }
    }
}

#[tokio::test]
async fn a_wrong_value_is_refused_by_its_field() {
    let cluster = Cluster::shared().await;
    for (value, said) in [
        ("networkPolicy.enbled=false", "at '/networkPolicy': additional properties 'enbled' not allowed"),
        ("replicas=0", "at '/replicas': minimum: got 0, want 1"),
        ("logFormat=xml", "at '/logFormat': value must be one of 'text', 'json'"),
        ("scrapeInterval=3", "at '/scrapeInterval': got number, want string"),
        ("prometheus.interval=fast", "at '/prometheus/interval': 'fast' does not match pattern"),
        ("prometheus.url=prometheus:9090", "at '/prometheus/url': 'prometheus:9090' does not match pattern"),
        ("prometheus.allowNamespaces=shop", "at '/prometheus/allowNamespaces': got string, want array"),
        (
            "prometheus.namespaceLabel=name-space",
            "at '/prometheus/namespaceLabel': 'name-space' does not match pattern",
        ),
        ("meshNamespace=Mesh", "at '/meshNamespace': 'Mesh' does not match pattern"),
        ("clientLimits.allowNamespaces={**}", "at '/clientLimits/allowNamespaces/0': '**' does not match pattern"),
        ("otlp.endpoint=https://collector:4317", "at '/otlp/endpoint': 'https://collector:4317' does not match"),
        ("otlp.sample=2", "at '/otlp/sample': maximum: got 2, want 1"),
        ("namespaces=default", "at '/namespaces': got string, want array"),
        ("namespaces={Default}", "at '/namespaces/0': 'Default' does not match pattern"),
        ("webhook.timeoutSeconds=60", "at '/webhook/timeoutSeconds': maximum: got 60, want 30"),
        ("certificate.caBundle=-----BEGIN CERTIFICATE-----", "at '/certificate/secretName': minLength"),
        ("injection.interception=Tproxy", "at '/injection/interception': value must be one of 'Redirect', 'None'"),
        ("injection.applicationDrain=1.5s", "at '/injection/applicationDrain': '1.5s' does not match pattern"),
        ("image.tag=a b", "at '/image/tag': 'a b' does not match pattern"),
        ("extraArgs=--log=debug", "at '/extraArgs': got string, want array"),
    ] {
        let error = template(cluster, &[value]).await.expect_err(value).to_string();
        assert!(error.contains(said), "{value}: {error}");
    }
}

#[tokio::test]
async fn the_charts_are_linted_and_of_this_version() {
    let cluster = Cluster::shared().await;
    for values in COMBINATIONS {
        let mut arguments = vec!["lint", "--strict", "charts/weir", "charts/weir-crds"];
        values.iter().for_each(|value| arguments.extend(["--set", value]));
        cluster.helm(&arguments).await.unwrap();
    }
    for chart in ["charts/weir", "charts/weir-crds"] {
        let metadata: Value = serde_saphyr::from_str(&cluster.helm(&["show", "chart", chart]).await.unwrap()).unwrap();
        for field in ["version", "appVersion"] {
            assert_eq!(metadata[field], env!("CARGO_PKG_VERSION"), "{chart} {field}");
        }
    }
}

#[tokio::test]
async fn the_chart_of_definitions_renders_them_as_they_are() {
    let cluster = Cluster::shared().await;
    let text = cluster.helm(&["template", "weir-crds", "charts/weir-crds"]).await.unwrap();
    let mut rendered: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let name = |definition: &Value| definition["metadata"]["name"].to_string();
    rendered.sort_by_key(name);
    let mut expected: Vec<_> = crds::all().iter().map(|definition| serde_json::to_value(definition).unwrap()).collect();
    expected.sort_by_key(name);
    assert_eq!(rendered, expected);
}

/// A page with every metric that is there only once it has counted: a push that is taken, one that is refused, a question.
#[tokio::test]
async fn the_dashboard_shows_what_weir_exports() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    let rules = "- name: deep\n  when: depth > 5\n  limit: 1 request per second per pod\nmetrics:\n\
                 - {name: depth, type: Count, reduce: Max, prometheus: {query: 'max(depth)'}}";
    put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", rules));
    let split = "apiVersion: weir.dev/v1alpha1\nkind: SmartSplit\nmetadata: {name: web, namespace: ns-a}\n\
                 spec: {targetRefs: [{kind: Service, name: checkout}], backendRefs: [{name: checkout}], steer: prefer lower errors}";
    put(folder.path(), "split.yaml", split);
    let weir = Weir::start(folder.path(), &["--prometheus", "http://127.0.0.1:1"]).await;
    let mut client = DeltaClient::connect(weir.xds, &service.node(0)).await.unwrap();
    client.subscribe(ResourceType::Cluster, &[&service.resource(0)]).await.unwrap();
    let first = timeout(SOON, client.next()).await.unwrap().unwrap();
    client.ack(&first).await.unwrap();
    client.subscribe(ResourceType::Listener, &[&service.resource(0)]).await.unwrap();
    let second = timeout(SOON, client.next()).await.unwrap().unwrap();
    client.nack(&second, "no").await.unwrap();

    // What replicas count of each other is exported by one of several.
    let (servers, certificates) = (Authority::new("servers"), temp_dir());
    let own = servers.server("weir.example", -1, 30);
    for (file, text) in [("tls.crt", &*own.certificate), ("tls.key", &*own.key), ("ca.crt", servers.pem())] {
        put(certificates.path(), file, text);
    }
    let (place, link) = (certificates.path().to_str().unwrap(), ports::free().to_string());
    let clients = format!("--xds-client-ca={place}/ca.crt");
    let arguments = ["--certificate-dir", place, &clients, "--replica-address", &link, "--peers", &link];
    let replica = Weir::start(folder.path(), &arguments).await;

    let dashboard = std::fs::read_to_string(project_root().join("charts/weir/dashboards/weir.json")).unwrap();
    let words = dashboard.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let shown: BTreeSet<_> = words.filter(|word| word.starts_with("weir_")).map(str::to_owned).collect();
    assert!(shown.len() > 5, "{shown:?}");
    eventually(SOON, "everything that is shown is exported", async || {
        let mut text = String::new();
        for admin in [weir.admin, replica.admin] {
            let page = http::get(admin, "/metrics").await.map_err(|error| format!("{error:#}"))?;
            text += &String::from_utf8_lossy(page.body());
        }
        let exported: BTreeSet<_> =
            text.lines().filter_map(|line| Some(line.split([' ', '{']).next()?.to_owned())).collect();
        let missing: Vec<_> = shown.difference(&exported).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} are not among {exported:?}")) }
    })
    .await;
}

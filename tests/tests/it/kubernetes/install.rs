//! Both charts from installation to removal, by helm, on an API server of their own; Weir runs as the chart says, with its rights.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use testkit::{
    cluster::{Cluster, audit::Entry},
    eventually,
    http::Connection,
    mesh::Service,
    ports::Network,
    proxy::Proxy,
    weir::Weir,
};

const SOON: Duration = Duration::from_secs(30);
const HOME: &str = "weir-system";
const USER: &str = "system:serviceaccount:weir-system:weir";

/// Rights that are granted and that this test does not see used, each for a reason.
const UNUSED: [(&[&str], &[&str]); 6] = [
    // An API server before 1.32 streams no lists: there they are read, then watched.
    (
        &["list"],
        &[
            "services.",
            "pods.",
            "endpointslices.discovery.k8s.io",
            "gateways.gateway.networking.k8s.io",
            "httproutes.gateway.networking.k8s.io",
            "smartlimiters.weir.dev",
            "smartlimiters.microservice.netease.com",
        ],
    ),
    // Weir does not write statuses and events yet.
    (&["patch"], &["smartlimiters/status.weir.dev", "smartlimiters/status.microservice.netease.com"]),
    (&["create", "patch"], &["events.events.k8s.io"]),
    // It does not ask the metrics API yet.
    (&["get", "list"], &["pods.metrics.k8s.io"]),
    // It serves no webhook yet.
    (&["get", "update", "patch"], &["secrets."]),
    (&["get", "watch", "patch"], &["validatingwebhookconfigurations.admissionregistration.k8s.io"]),
];

/// Every object that there is, by kind, namespace and name; without what the control plane does for itself.
async fn objects(cluster: &Cluster) -> BTreeSet<String> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "--output=name"]).await.unwrap();
    let kinds: Vec<_> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let list = ["get", &kinds.join(","), "--all-namespaces", "--output=json", "--ignore-not-found"];
    let list: Value = serde_json::from_str(&cluster.kubectl(&list).await.unwrap()).unwrap();
    let name = |object: &Value| {
        let metadata = &object["metadata"];
        format!("{} {} {} {}", object["apiVersion"], object["kind"], metadata["namespace"], metadata["name"])
    };
    list["items"].as_array().unwrap().iter().map(name).collect()
}

/// The command line of the Deployment, as a process beside the cluster can have it: at addresses of its own.
async fn deployed(cluster: &Cluster) -> Vec<String> {
    let deployment = ["get", "deployment", "weir", "--namespace", HOME, "--output=json"];
    let deployment: Value = serde_json::from_str(&cluster.kubectl(&deployment).await.unwrap()).unwrap();
    let arguments = deployment.pointer("/spec/template/spec/containers/0/args").unwrap().as_array().unwrap();
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.as_str().unwrap().to_owned()).collect();
    assert_eq!(arguments[..2], ["run", "--kubernetes"]);
    let elsewhere = ["--xds-address", "--admin-address", "--webhook-"];
    let ours = |argument: &&String| elsewhere.iter().any(|flag| argument.starts_with(flag));
    arguments[2..].iter().filter(|argument| !ours(argument)).cloned().collect()
}

async fn start(cluster: &Cluster) -> Weir {
    let rights = cluster.service_account_kubeconfig(HOME, "weir").await;
    let arguments = deployed(cluster).await;
    Weir::watch(&rights, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// The webhook's certificate, and the authority that the API server is to trust.
async fn certificate(cluster: &Cluster) -> [String; 2] {
    let secret = ["get", "secret", "weir-webhook-certificate", "--namespace", HOME, "--output=jsonpath={.data}"];
    let authority = "--output=jsonpath={.webhooks[*].clientConfig.caBundle}";
    let authority = ["get", "validatingwebhookconfiguration", "weir.weir-system", authority];
    [cluster.kubectl(&secret).await.unwrap(), cluster.kubectl(&authority).await.unwrap()]
}

/// Writes both with Weir's rights, and says what stands there then.
async fn write_certificate(cluster: &Cluster) -> [String; 2] {
    let rights = cluster.service_account_kubeconfig(HOME, "weir").await;
    let rights = format!("--kubeconfig={}", rights.display());
    let secret = ["patch", "secret", "weir-webhook-certificate", "--namespace", HOME, &rights, "--type=merge"];
    cluster.kubectl(&[&secret[..], &["--patch={\"data\": {\"tls.crt\": \"YQ==\"}}"]].concat()).await.unwrap();
    let authority = ["patch", "validatingwebhookconfiguration", "weir.weir-system", &rights, "--type=json"];
    // `-----BEGIN CERTIFICATE-----` and its end, around nothing.
    let pem = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K";
    let patch =
        format!("--patch=[{{\"op\": \"add\", \"path\": \"/webhooks/0/clientConfig/caBundle\", \"value\": \"{pem}\"}}]");
    cluster.kubectl(&[&authority[..], &[&patch]].concat()).await.unwrap();
    let written = certificate(cluster).await;
    assert_eq!(written, ["{\"tls.crt\":\"YQ==\"}", pem]);
    written
}

type Right = (String, String);

/// `verb` and `resource[/subresource].group` of every rule.
async fn granted(cluster: &Cluster) -> BTreeSet<Right> {
    let roles =
        ["get", "clusterroles,roles", "--all-namespaces", "--output=json", "--selector=app.kubernetes.io/name=weir"];
    let roles: Value = serde_json::from_str(&cluster.kubectl(&roles).await.unwrap()).unwrap();
    let roles = roles["items"].as_array().unwrap();
    assert_eq!(roles.len(), 2);
    let mut granted = BTreeSet::new();
    for rule in roles.iter().flat_map(|role| role["rules"].as_array().unwrap()) {
        let list = |field: &str| rule[field].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned());
        for group in list("apiGroups") {
            for resource in list("resources") {
                granted.extend(list("verbs").map(|verb| (verb, format!("{resource}.{group}"))));
            }
        }
    }
    granted
}

fn used(entries: &[Entry]) -> BTreeMap<Right, BTreeSet<u16>> {
    let mut used = BTreeMap::<_, BTreeSet<_>>::new();
    let by_weir = |entry: &&Entry| entry.user == USER && entry.user_agent.starts_with("weir/");
    for entry in entries.iter().filter(by_weir).filter(|entry| !entry.resource.is_empty()) {
        let Entry { verb, resource, subresource, group, code, .. } = entry;
        let slash = if subresource.is_empty() { "" } else { "/" };
        used.entry((verb.clone(), format!("{resource}{slash}{subresource}.{group}"))).or_default().insert(*code);
    }
    used
}

#[tokio::test(flavor = "multi_thread")]
async fn installed_upgraded_and_removed_with_nothing_left_behind() {
    let cluster = Cluster::start().await;
    cluster.kubectl(&["create", "namespace", HOME]).await.unwrap();
    let shop = cluster.namespace("shop").await;
    let service = Service::start_in(Network::routable(), &shop, "a", 3).await;
    cluster.put(&service).await;
    let before = objects(&cluster).await;
    let mark = cluster.mark();

    cluster.helm(&["install", "weir-crds", "charts/weir-crds", "--namespace", HOME]).await.unwrap();
    let notes = cluster.helm(&["install", "weir", "charts/weir", "--namespace", HOME]).await.unwrap();
    assert!(notes.contains("weir.weir-system.svc:15010"), "{notes}");
    let weir = start(&cluster).await;
    let _proxies = Proxy::start_all(&weir, &service).await;
    let article = format!(
        "apiVersion: microservice.netease.com/v1alpha1\nkind: SmartLimiter\nmetadata: {{name: a, namespace: {shop}}}\n\
         spec: {{descriptors: [{{action: {{fill_interval: {{seconds: 60}}, quota: \"30/{{pod}}\"}}}}]}}\n"
    );
    // Known to the API server a moment after the chart is installed.
    eventually(SOON, "the article's object is taken", async || cluster.apply(&article).await).await;
    let key = format!("smartlimiters.microservice.netease.com/{shop}/a");
    weir.until(SOON, "it is programmed", |status| status.programmed(&key, 1).map(drop)).await;
    let (admitted, refused) =
        Connection::open(service.pods[0].inbound, None).await.unwrap().burst("/", 30).await.unwrap();
    assert!((1..=10).contains(&admitted) && refused >= 20, "{admitted} admitted, {refused} refused");

    weir.stop().await.unwrap();
    let written = write_certificate(&cluster).await;
    cluster.helm(&["upgrade", "weir", "charts/weir", "--namespace", HOME, "--set", "logFormat=text"]).await.unwrap();
    assert!(deployed(&cluster).await.contains(&"--log-format=text".to_owned()));
    assert_eq!(certificate(&cluster).await, written, "an upgrade leaves what Weir has written");
    let weir = start(&cluster).await;
    weir.until(SOON, "it is known again", |status| status.policy(&key).map(drop)).await;
    weir.stop().await.unwrap();

    let granted = granted(&cluster).await;
    let used = used(&cluster.audit(mark));
    let refused: Vec<_> = used.iter().filter(|(_, codes)| codes.contains(&403)).collect();
    assert!(refused.is_empty(), "what Weir asked for and may not do: {refused:?}");
    let unused: BTreeSet<_> = granted.iter().filter(|right| !used.contains_key(right)).cloned().collect();
    let listed = UNUSED.iter().flat_map(|(verbs, resources)| {
        verbs.iter().flat_map(|verb| resources.iter().map(|resource| ((*verb).to_owned(), (*resource).to_owned())))
    });
    let listed = listed.collect();
    assert_eq!(unused, listed, "left: granted and never used; right: those that have a reason");

    cluster.helm(&["uninstall", "weir", "--namespace", HOME]).await.unwrap();
    cluster.helm(&["uninstall", "weir-crds", "--namespace", HOME]).await.unwrap();
    eventually(SOON, "everything is gone", async || {
        let now = objects(&cluster).await;
        if now == before { Ok(()) } else { Err(format!("{:?}", now.symmetric_difference(&before))) }
    })
    .await;
}

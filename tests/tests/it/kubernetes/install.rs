//! The page "On Kubernetes", command by command: both charts from installation to removal by helm, with real pods and Envoys on a
//! cluster of their own; and the rights that Weir needs for that.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use testkit::{
    cluster::{
        Cluster,
        audit::Entry,
        node::{Node, Programs},
    },
    envoy_bin, eventually,
    mesh::limiter,
    project_root,
    weir::{self, Weir},
};

const SOON: Duration = Duration::from_secs(60);
const USER: &str = "system:serviceaccount:weir-system:weir";

/// Rights that are granted and that this test does not see used, each for a reason.
const UNUSED: [(&[&str], &[&str]); 8] = [
    // The chart makes the Lease; one that somebody deletes is made again.
    (&["create"], &["leases.coordination.k8s.io"]),
    // An API server before 1.32 streams no lists: there they are read, then watched.
    (
        &["list"],
        &[
            "services.",
            "pods.",
            "endpointslices.discovery.k8s.io",
            "gateways.gateway.networking.k8s.io",
            "httproutes.gateway.networking.k8s.io",
            "grpcroutes.gateway.networking.k8s.io",
            "trafficsplits.split.smi-spec.io",
            "httproutegroups.specs.smi-spec.io",
            "smartlimiters.weir.dev",
            "smartlimiters.microservice.netease.com",
            "lazyconfigs.weir.dev",
            "smartsplits.weir.dev",
            "workloadscopes.weir.dev",
        ],
    ),
    // No proxy of the page starts with less than everything.
    (&["create", "delete"], &["workloadscopes.weir.dev"]),
    (&["patch"], &["workloadscopes/status.weir.dev"]),
    // Nothing of the page is shared out.
    (&["create", "patch"], &["splitreports.weir.dev"]),
    (&["patch"], &["smartsplits/status.weir.dev", "splitreports/status.weir.dev"]),
    // Nobody reads /metrics or /status here.
    (&["create"], &["subjectaccessreviews.authorization.k8s.io"]),
    // No policy of the page is of Weir's own kind.
    (&["patch"], &["smartlimiters/status.weir.dev", "lazyconfigs/status.weir.dev"]),
];

/// Used when an Event repeats itself, which it may or may not here: it becomes a series then.
const AT_TIMES: (&str, &str) = ("patch", "events.events.k8s.io");

/// The commands of the page, block by block under each heading.
struct Page(BTreeMap<String, Vec<Vec<String>>>);

impl Page {
    fn read() -> Self {
        let text = std::fs::read_to_string(project_root().join("docs/kubernetes.md")).unwrap();
        let mut blocks = BTreeMap::<String, Vec<Vec<String>>>::new();
        let mut heading = String::new();
        let mut open = false;
        for line in text.lines() {
            match (open, line) {
                (false, "```sh") => {
                    open = true;
                    blocks.entry(heading.clone()).or_default().push(Vec::new());
                }
                (true, "```") => open = false,
                (true, command) => blocks.get_mut(&heading).unwrap().last_mut().unwrap().push(command.to_owned()),
                (false, line) => line.strip_prefix("## ").into_iter().for_each(|title| heading = title.to_owned()),
            }
        }
        Self(blocks)
    }

    /// Runs the next block under this heading: what its commands printed.
    async fn run(&mut self, cluster: &Cluster, heading: &str) -> String {
        let blocks = self.0.get_mut(heading).unwrap_or_else(|| panic!("the page has no commands under {heading:?}"));
        assert!(!blocks.is_empty(), "the page has no more commands under {heading:?}");
        let mut said = String::new();
        for command in blocks.remove(0) {
            let words: Vec<&str> = command.split_whitespace().collect();
            said += &match words[0] {
                "helm" => cluster.helm(&words[1..]).await,
                "kubectl" => cluster.kubectl(&words[1..]).await,
                _ => panic!("not a command of helm or kubectl: {command}"),
            }
            .unwrap_or_else(|error| panic!("{command}: {error:#}"));
        }
        said
    }
}

/// Every object that there is, by kind, namespace and name; without what the control plane keeps for itself. Fails while a kind is
/// going that is still listed.
async fn objects(cluster: &Cluster) -> anyhow::Result<BTreeSet<String>> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "--output=name"]).await?;
    let kinds: Vec<_> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let list = ["get", &kinds.join(","), "--all-namespaces", "--output=json", "--ignore-not-found"];
    let list: Value = serde_json::from_str(&cluster.kubectl(&list).await?)?;
    let name = |object: &Value| {
        let metadata = &object["metadata"];
        format!("{} {} {} {}", object["apiVersion"], object["kind"], metadata["namespace"], metadata["name"])
    };
    Ok(list["items"].as_array().unwrap().iter().map(name).collect())
}

/// What became of a second's requests, as the load tells it: asked, answered, refused, failed.
fn told(line: &str) -> Vec<u64> {
    line.split_whitespace().filter_map(|word| word.parse().ok()).filter(|number| *number != 429).collect()
}

/// The name of the one pod that runs with these labels: what was there before it may still be ending.
async fn pod(cluster: &Cluster, namespace: &str, labels: &str) -> String {
    let running =
        ["get", "pods", "--field-selector=status.phase=Running", "--output=jsonpath={.items[*].metadata.name}"];
    eventually(SOON, "one pod runs", async || {
        let names = cluster.kubectl(&[&running[..], &["--namespace", namespace, "--selector", labels]].concat()).await;
        match names {
            Ok(name) if !name.is_empty() && !name.contains(' ') => Ok(name),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

type Right = (String, String);

/// `verb` and `resource[/subresource].group` of every rule.
async fn granted(cluster: &Cluster) -> BTreeSet<Right> {
    let roles =
        ["get", "clusterroles,roles", "--all-namespaces", "--output=json", "--selector=app.kubernetes.io/name=weir"];
    let roles: Value = serde_json::from_str(&cluster.kubectl(&roles).await.unwrap()).unwrap();
    let mut granted = BTreeSet::new();
    for rule in roles["items"].as_array().unwrap().iter().flat_map(|role| role["rules"].as_array().unwrap()) {
        let list = |field: &str| rule[field].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned());
        for group in list("apiGroups") {
            for resource in list("resources") {
                granted.extend(list("verbs").map(|verb| (verb, format!("{resource}.{group}"))));
            }
        }
    }
    granted
}

/// What Weir asked for, and how it was answered.
fn used(entries: &[Entry]) -> BTreeMap<Right, BTreeSet<u16>> {
    let mut used = BTreeMap::<_, BTreeSet<_>>::new();
    for entry in entries.iter().filter(|entry| entry.user == USER && !entry.resource.is_empty()) {
        let Entry { verb, resource, subresource, group, code, .. } = entry;
        let slash = if subresource.is_empty() { "" } else { "/" };
        used.entry((verb.clone(), format!("{resource}{slash}{subresource}.{group}"))).or_default().insert(*code);
    }
    used
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_from_installation_to_removal() {
    let cluster = Cluster::start().await;
    let programs = [("weir", weir::binary().to_owned()), ("envoy", envoy_bin())];
    let programs = programs.map(|(name, program)| (name.to_owned(), vec![program.to_str().unwrap().to_owned()]));
    let node = Node::start(&cluster, Programs::from(programs)).await;
    cluster.kubectl(&["create", "namespace", "weir-system"]).await.unwrap();
    cluster.kubectl(&["wait", "node", "--all", "--for=condition=Ready", "--timeout=30s"]).await.unwrap();
    let before = objects(&cluster).await.unwrap();
    let mark = cluster.mark();
    let mut page = Page::read();

    let said = page.run(&cluster, "Install").await;
    assert!(said.contains("weir.weir-system.svc:15010") && said.contains("successfully rolled out"), "{said}");
    let said = page.run(&cluster, "A service with proxies").await;
    assert!(said.contains("successfully rolled out"), "{said}");
    page.run(&cluster, "A limit").await;
    let load = pod(&cluster, "default", "app=load").await;
    let limited = async || {
        let log = node.log("default", &load, "load");
        let holds = |line: &str| matches!(told(line)[..], [_, 1..=60, refused, _] if refused >= 100);
        if log.lines().any(holds) { Ok(()) } else { Err(log) }
    };
    eventually(SOON, "some 30 requests a second are answered, and the others refused", limited).await;
    let said = page.run(&cluster, "A limit").await;
    let words = ["SmartLimiter", "{cpu}>0.8", "in force: ", "every proxy of the targets has acknowledged", "Observed:"];
    words.iter().for_each(|word| assert!(said.contains(word), "no {word:?} in {said}"));

    let bad = std::fs::read_to_string(project_root().join("examples/kubernetes/policy.yaml")).unwrap();
    let bad = bad.replace("{cpu}", "{cpuu}");
    eventually(SOON, "a mistake is refused", async || {
        match cluster.kubectl_with(&["apply", "--dry-run=server", "-f", "-"], &bad).await {
            Err(error) if format!("{error:#}").contains("spec.descriptors[0].condition: ") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    page.run(&cluster, "Upgrade, uninstall").await;
    let text = ["upgrade", "weir", "charts/weir", "--namespace", "weir-system", "--set", "logFormat=text"];
    cluster.helm(&text).await.unwrap();
    let rolled_out = ["rollout", "status", "deployment/weir", "--namespace", "weir-system", "--timeout=60s"];
    cluster.kubectl(&rolled_out).await.unwrap();
    let now = pod(&cluster, "weir-system", "app.kubernetes.io/name=weir").await;
    let log = node.log("weir-system", &now, "weir");
    assert!(log.contains("INFO operator::app: weir is running"), "lines for people instead of JSON: {log}");

    let granted = granted(&cluster).await;
    let used = used(&cluster.audit(mark));
    let refused: Vec<_> = used.iter().filter(|(_, codes)| codes.contains(&403)).collect();
    assert!(refused.is_empty(), "what Weir asked for and may not do: {refused:?}");
    let at_times = |(verb, resource): &&Right| (verb.as_str(), resource.as_str()) == AT_TIMES;
    let unused = granted.iter().filter(|right| !used.contains_key(right) && !at_times(right));
    let unused: BTreeSet<_> = unused.cloned().collect();
    let listed = UNUSED.iter().flat_map(|(verbs, resources)| {
        verbs.iter().flat_map(|verb| resources.iter().map(|resource| ((*verb).to_owned(), (*resource).to_owned())))
    });
    assert_eq!(unused, listed.collect(), "left: granted and never used; right: those that have a reason");

    page.run(&cluster, "Upgrade, uninstall").await;
    page.run(&cluster, "Upgrade, uninstall").await;
    assert!(page.0.values().all(Vec::is_empty), "commands that nobody ran: {:?}", page.0);
    eventually(SOON, "everything is gone", async || {
        let now = objects(&cluster).await.map_err(|error| format!("{error:#}"))?;
        if now == before { Ok(()) } else { Err(format!("{:?}", now.symmetric_difference(&before))) }
    })
    .await;
}

/// The webhook's certificate, and the authority that the API server is to trust.
async fn certificate(cluster: &Cluster, namespace: &str) -> [String; 2] {
    let secret = ["get", "secret", "held-certificate", "--namespace", namespace, "--output=jsonpath={.data}"];
    let name = format!("held.{namespace}");
    let authority = "--output=jsonpath={.webhooks[*].clientConfig.caBundle}";
    let authority = ["get", "validatingwebhookconfiguration", &name, authority];
    [cluster.kubectl(&secret).await.unwrap(), cluster.kubectl(&authority).await.unwrap()]
}

#[tokio::test]
async fn an_upgrade_leaves_the_certificate_that_weir_has_written() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("certificate").await;
    // Only for objects of this namespace: the cluster is shared.
    let watched = format!("namespaces={{{namespace}}}");
    let chart = ["held", "charts/weir", "--namespace", &namespace, "--set", &watched];
    cluster.helm(&[&["install"], &chart[..]].concat()).await.unwrap();
    let name = format!("held.{namespace}");
    let rights = cluster.service_account_kubeconfig(&namespace, "held").await;
    let webhook = [
        "--webhook-address=127.0.0.1:0",
        "--certificate-service=held",
        "--certificate-secret=held-certificate",
        &format!("--webhook-configuration={name}"),
        &format!("--namespace={namespace}"),
    ];
    let weir = Weir::watch(&rights, &webhook).await;
    let written = eventually(SOON, "Weir has written both", async || {
        let written = certificate(cluster, &namespace).await;
        if written.iter().all(|text| text.len() > 500) { Ok(written) } else { Err(format!("{written:?}")) }
    })
    .await;
    weir.stop().await.unwrap();

    let changed = ["--set", "logFormat=text,webhook.timeoutSeconds=3"];
    cluster.helm(&[&["upgrade"], &chart[..], &changed].concat()).await.unwrap();
    assert_eq!(certificate(cluster, &namespace).await, written);
    let timeout = ["get", "validatingwebhookconfiguration", &name, "--output=jsonpath={.webhooks[0].timeoutSeconds}"];
    assert_eq!(cluster.kubectl(&timeout).await.unwrap(), "3");
    cluster.helm(&["uninstall", "held", "--namespace", &namespace]).await.unwrap();
}

/// The pods of Weir: name, whether it is ready, and whether its container has ended at least once.
async fn pods(cluster: &Cluster) -> Vec<(String, bool, bool)> {
    let list = ["get", "pods", "--namespace", "weir-system", "--output=json"];
    let list: Value = serde_json::from_str(&cluster.kubectl(&list).await.unwrap()).unwrap();
    let read = |pod: &Value| {
        let container = &pod["status"]["containerStatuses"][0];
        let ended = container["restartCount"].as_u64() > Some(0) || container["state"].get("terminated").is_some();
        (pod["metadata"]["name"].as_str().unwrap().to_owned(), container["ready"] == true, ended)
    };
    list["items"].as_array().unwrap().iter().map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_cannot_start_leaves_the_weir_that_runs() {
    let cluster = Cluster::start().await;
    let programs = [("weir".to_owned(), vec![weir::binary().to_str().unwrap().to_owned()])];
    let node = Node::start(&cluster, Programs::from(programs)).await;
    cluster.kubectl(&["create", "namespace", "weir-system"]).await.unwrap();
    cluster.install_crds().await;
    let chart = ["weir", "charts/weir", "--namespace", "weir-system"];
    cluster.helm(&[&["install"], &chart[..]].concat()).await.unwrap();
    let rolled_out = ["rollout", "status", "deployment/weir", "--namespace", "weir-system", "--timeout=60s"];
    cluster.kubectl(&rolled_out).await.unwrap();
    let [(old, true, false)] = &pods(&cluster).await[..] else { panic!("{:?}", pods(&cluster).await) };
    let answers = async |name: &str| {
        let policy = limiter("default", name, "- name: all\n  limit: 1 request per second per pod");
        cluster.apply(&policy).await.unwrap();
        let reason = r#"--output=jsonpath={.status.conditions[?(@.type=="Accepted")].reason}"#;
        eventually(SOON, "the status is written", async || {
            match cluster.kubectl(&["get", "wsl", name, "--namespace", "default", reason]).await.unwrap() {
                reason if reason == "TargetNotFound" => Ok(()),
                reason => Err(reason),
            }
        })
        .await;
    };
    answers("before").await;

    let wrong = ["--set", "extraArgs={--no-such-flag}"];
    cluster.helm(&[&["upgrade"], &chart[..], &wrong].concat()).await.unwrap();
    let new = eventually(SOON, "the new one ends", async || {
        let pods = pods(&cluster).await;
        let new = pods.iter().find(|(name, ready, ended)| name != old && !ready && *ended);
        new.map(|(name, ..)| name.clone()).ok_or(format!("{pods:?}"))
    })
    .await;
    let log = node.log("weir-system", &new, "weir");
    assert!(log.contains("--no-such-flag"), "{log}");
    assert!(pods(&cluster).await.contains(&(old.clone(), true, false)));
    answers("meanwhile").await;

    cluster.helm(&["rollback", "weir", "--namespace", "weir-system"]).await.unwrap();
    eventually(SOON, "the one that runs is left alone", async || match &pods(&cluster).await[..] {
        [(name, true, false)] if name == old => Ok(()),
        pods => Err(format!("{pods:?}")),
    })
    .await;

    // One that can start takes over without a word in any status.
    let mark = cluster.mark();
    cluster.helm(&[&["upgrade"], &chart[..], &["--set", "logFormat=text"]].concat()).await.unwrap();
    cluster.kubectl(&rolled_out).await.unwrap();
    eventually(SOON, "the old one is gone", async || match &pods(&cluster).await[..] {
        [(name, true, false)] if name != old => Ok(()),
        pods => Err(format!("{pods:?}")),
    })
    .await;
    let of_ours = |entry: &Entry| entry.user == USER && entry.writes() && entry.namespace == "default";
    let writes: Vec<_> = cluster.audit(mark).into_iter().filter(of_ours).collect();
    assert_eq!(writes, []);
    answers("after").await;
}

//! What a person reads with kubectl: the status of objects and their Events; and that nothing is written without a cause.

use std::time::Duration;

use testkit::{
    cluster::{Cluster, audit::Entry},
    eventually,
    http::Connection,
    mesh::{Service, limiter},
    ports::Network,
    proxy::Proxy,
    weir::Weir,
};

const SOON: Duration = Duration::from_secs(30);
const CALM: &str = "- name: calm\n  limit: 30 requests per second across all pods";

/// What kubectl prints, once it has all these words.
async fn said(cluster: &Cluster, arguments: &[&str], words: &[&str]) -> String {
    eventually(SOON, &format!("kubectl {} says so", arguments.join(" ")), async || {
        let text = cluster.kubectl(arguments).await.map_err(|error| format!("{error:#}"))?;
        let words = words.iter().find(|word| !text.contains(**word));
        words.map_or(Ok(text.clone()), |missing| Err(format!("no {missing:?} in\n{text}")))
    })
    .await
}

/// What Weir wrote in a namespace.
fn writes(entries: Vec<Entry>, namespace: &str) -> Vec<Entry> {
    let ours = |entry: &Entry| entry.user_agent.starts_with("weir/") && entry.writes() && entry.namespace == namespace;
    entries.into_iter().filter(ours).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_tells_what_is_so_and_why_and_nothing_is_written_without_a_cause() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("status").await;
    let service = Service::start_in(Network::routable(), &namespace, "cart", 1).await;
    cluster.put(&service).await;
    let rules = format!("{CALM}\n- name: hot\n  when: cpu > 80%\n  limit: 1 request per second per pod");
    let bad = limiter(&namespace, "bad", "- name: hot\n  when: cpu > 80\n  limit: 30 requests per second per pod");
    cluster.apply(&(limiter(&namespace, "cart", &rules) + "---\n" + &bad)).await.unwrap();
    let arguments = ["--namespace", &namespace, "--scrape-interval", "100ms"];
    let weir = Weir::watch(cluster.kubeconfig(), &arguments).await;
    let proxy = Proxy::start(&weir, &service, 0).await;

    let in_namespace = |words: &[&'static str]| [words, &["-n"]].concat();
    let get: Vec<&str> = in_namespace(&["get", "wsl"]).into_iter().chain([namespace.as_str()]).collect();
    let table = said(cluster, &get, &["ACCEPTED", "PROGRAMMED", "LIMITING", "LIMIT"]).await;
    let table = if table.contains("30 requests per second across all pods") {
        table
    } else {
        said(cluster, &get, &["30 requests per second across all pods"]).await
    };
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(row("bad").contains("False"), "{table}");
    assert!(row("cart").split_whitespace().nth(1) == Some("True"), "{table}");

    let describe = ["describe", "wsl", "cart", "-n", &namespace];
    let words =
        ["Observed Generation:     1", "every proxy of the targets has acknowledged", "Limiting", "Per Second:"];
    said(cluster, &describe, &words).await;
    // The mistake, its place and its mend: in the condition and in one Event.
    let words = ["spec.rules[0].when", "80%", "Warning", "Invalid"];
    let text = said(cluster, &["describe", "wsl", "bad", "-n", &namespace], &words).await;
    let warnings = text.lines().filter(|line| line.trim_start().starts_with("Warning")).count();
    assert_eq!(warnings, 1, "{text}");

    // A cause is written, though what is measured moves all the time.
    service.burn(0.95);
    said(cluster, &describe, &["in force: calm, hot"]).await;
    weir.until(SOON, "it limits", |status| {
        status.phase(&format!("smartlimiters.weir.dev/{namespace}/cart"), "hot", "Limiting").map(drop)
    })
    .await;
    let value = async || {
        let status = testkit::status::View(weir.status().await.unwrap());
        let rule = status.rule(&format!("smartlimiters.weir.dev/{namespace}/cart"), "hot").unwrap().clone();
        rule["observed"][0]["value"].clone()
    };
    let mut written = Vec::new();
    for round in 0..4 {
        let mark = cluster.mark();
        for cores in [0.91, 0.99, 0.93, 0.97] {
            let before = value().await;
            service.burn(cores);
            eventually(SOON, "another value is measured", async || {
                let now = value().await;
                if now == before { Err(now.to_string()) } else { Ok(()) }
            })
            .await;
        }
        written = writes(cluster.audit(mark), &namespace);
        // The first round may still see what follows the cause.
        if round > 0 && written.is_empty() {
            break;
        }
    }
    assert_eq!(written, [], "while only what is measured moves");

    // A restart finds that all is said already.
    weir.stop().await.unwrap();
    drop(proxy);
    service.burn(0.97);
    let mark = cluster.mark();
    let weir = Weir::watch(cluster.kubeconfig(), &arguments).await;
    let _proxy = Proxy::start(&weir, &service, 0).await;
    let (_, refused) = Connection::open(service.pods[0].inbound, None).await.unwrap().burst("/", 40).await.unwrap();
    assert!(refused > 0);
    weir.until(SOON, "it is as before", |status| {
        let key = format!("smartlimiters.weir.dev/{namespace}/cart");
        status.phase(&key, "hot", "Limiting")?;
        status.programmed(&key, 1)
    })
    .await;
    eventually(SOON, "nothing waits to be written", async || match weir.metric("weir_statuses_waiting").await {
        0.0 => Ok(()),
        waiting => Err(waiting),
    })
    .await;
    assert_eq!(writes(cluster.audit(mark), &namespace), [], "proxies that come back are no news");
}

#[tokio::test]
async fn two_hundred_objects_at_once_all_get_their_status() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("many").await;
    let weir = Weir::watch(cluster.kubeconfig(), &["--namespace", &namespace]).await;
    let all: String = (0..200).map(|number| limiter(&namespace, &format!("s{number}"), CALM) + "---\n").collect();
    cluster.apply(&all).await.unwrap();
    let reasons = r#"jsonpath={.items[*].status.conditions[?(@.type=="Accepted")].reason}"#;
    eventually(SOON, "each has its status", async || {
        let text = cluster.kubectl(&["get", "wsl", "-n", &namespace, "-o", reasons]).await.unwrap();
        let count = text.split_whitespace().filter(|reason| *reason == "TargetNotFound").count();
        if count == 200 { Ok(()) } else { Err(format!("{count} of 200")) }
    })
    .await;
    assert_eq!(weir.metric("weir_status_writes_total").await, 200.0, "each once");
}

/// A Role of the service account `weir`, with its binding.
fn role(namespace: &str, name: &str, rules: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: {name}, namespace: {namespace}}}\nrules: {rules}\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}\n\
         subjects: [{{kind: ServiceAccount, name: weir, namespace: {namespace}}}]\n---\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named_and_one_that_comes_is_used() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("rights").await;
    let account =
        format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: weir, namespace: {namespace}}}\n---\n");
    let reads = role(&namespace, "reads", r#"[{apiGroups: ["*"], resources: ["*"], verbs: [get, list, watch]}]"#);
    cluster.apply(&(account + &reads + &limiter(&namespace, "cart", CALM))).await.unwrap();
    let kubeconfig = cluster.service_account_kubeconfig(&namespace, "weir").await;
    let weir = Weir::watch(&kubeconfig, &["--namespace", &namespace]).await;
    let key = format!("smartlimiters.weir.dev/{namespace}/cart");
    let problem = |status: &testkit::status::View| status.0["problems"][&key].to_string();
    weir.until(SOON, "the missing right is named", |status| {
        let problem = problem(status);
        let words = ["cannot patch resource", "smartlimiters/status", "allow `patch` of the status"];
        if words.iter().all(|word| problem.contains(word)) { Ok(()) } else { Err(status.0["problems"].to_string()) }
    })
    .await;
    let status = r#"[{apiGroups: [weir.dev], resources: [smartlimiters/status], verbs: [patch]}]"#;
    cluster.apply(&role(&namespace, "status", status)).await.unwrap();
    let reason = r#"jsonpath={.status.conditions[?(@.type=="Accepted")].reason}"#;
    said(cluster, &["get", "wsl", "cart", "-n", &namespace, "-o", reason], &["TargetNotFound"]).await;
    weir.until(SOON, "nothing is missing any more", |status| match problem(status) {
        none if none == "null" => Ok(()),
        problem => Err(problem),
    })
    .await;
    assert_eq!(weir.log().matches("cannot be written").count(), 1, "{}", weir.log());
}

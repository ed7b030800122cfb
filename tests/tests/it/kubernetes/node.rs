//! Pods that run: Deployments, Jobs, Services and volumes on the kit's node.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use testkit::{
    cluster::{
        Cluster,
        node::{Node, Programs},
    },
    eventually, weir,
};

const SOON: Duration = Duration::from_secs(60);

fn programs(cluster: &Cluster) -> Programs {
    let line = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let weir = weir::binary().to_str().unwrap();
    let kubectl = cluster.program("kubectl");
    [("weir", line(&[weir])), ("kubectl", line(&[kubectl.to_str().unwrap()])), ("shell", line(&["sh", "-c"]))]
        .map(|(name, line)| (name.to_owned(), line))
        .into()
}

/// One cluster for all of it; each part in a namespace of its own, at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_runs_pods_as_processes_of_this_machine() {
    let cluster = Cluster::start().await;
    let node = Node::start(&cluster, programs(&cluster)).await;
    tokio::join!(
        a_deployment_serves_by_the_name_of_its_service(&cluster, &node),
        a_job_speaks_to_the_api_server_as_its_service_account(&cluster, &node),
        a_container_finds_what_its_manifest_says(&cluster, &node),
        sidecars_start_before_and_end_after(&cluster, &node),
        a_container_that_ends_is_started_again(&cluster),
    );
}

async fn pods(cluster: &Cluster, namespace: &str) -> Vec<Pod> {
    let pods = Api::<Pod>::namespaced(cluster.client().await, namespace);
    let mut pods = pods.list(&ListParams::default()).await.unwrap().items;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    pods
}

async fn a_deployment_serves_by_the_name_of_its_service(cluster: &Cluster, node: &Node) {
    let namespace = cluster.namespace("deployment").await;
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: echo, namespace: {namespace}}}\n\
             spec: {{selector: {{app: echo}}, ports: [{{port: 80, targetPort: http}}]}}\n---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: echo, namespace: {namespace}}}\nspec:\n  replicas: 2\n  \
             selector: {{matchLabels: {{app: echo}}}}\n  template:\n    metadata: {{labels: {{app: echo}}}}\n    spec:\n      \
             containers:\n      - name: app\n        image: registry.example/team/weir:1.2.3\n        \
             args: [demo-service, '--listen=$(POD_IP):8080', --cost=1ms]\n        \
             env: [{{name: POD_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}]\n        \
             ports: [{{name: http, containerPort: 8080}}]\n        \
             readinessProbe: {{httpGet: {{path: /, port: http}}}}\n"
        ))
        .await
        .unwrap();
    let rolled_out = ["rollout", "status", "deployment/echo", "--namespace", &namespace, "--timeout=60s"];
    cluster.kubectl(&rolled_out).await.unwrap();

    let first = pods(cluster, &namespace).await[0].name_any();
    let url = format!("http://echo.{namespace}.svc.cluster.local/");
    let ask = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "5",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        &url,
    ];
    eventually(SOON, "a pod reaches the Service by its name", async || {
        match node.exec(&namespace, &first, "app", &ask).await {
            Ok(code) if code == "200" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    cluster.kubectl(&["delete", "pod", &first, "--namespace", &namespace, "--timeout=30s"]).await.unwrap();
    cluster.kubectl(&rolled_out).await.unwrap();
    let after: Vec<_> = pods(cluster, &namespace).await.iter().map(ResourceExt::name_any).collect();
    assert!(after.len() == 2 && !after.contains(&first), "{first} is replaced: {after:?}");
}

async fn a_job_speaks_to_the_api_server_as_its_service_account(cluster: &Cluster, node: &Node) {
    let namespace = cluster.namespace("job").await;
    cluster
        .apply(&format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: who, namespace: {namespace}}}\nspec:\n  template:\n    spec:\n      \
             restartPolicy: Never\n      containers:\n      - {{name: kubectl, image: kubectl, args: [auth, whoami, -o, json]}}\n"
        ))
        .await
        .unwrap();
    let done = ["wait", "--for=condition=Complete", "job/who", "--namespace", &namespace, "--timeout=60s"];
    cluster.kubectl(&done).await.unwrap();
    let pod = &pods(cluster, &namespace).await[0];
    assert_eq!(pod.status.as_ref().unwrap().phase.as_deref(), Some("Succeeded"));
    let said = node.log(&namespace, &pod.name_any(), "kubectl");
    assert!(said.contains(&format!("\"system:serviceaccount:{namespace}:default\"")), "{said}");
    assert!(said.contains(&pod.name_any()), "the token tells the pod too: {said}");
}

async fn a_container_finds_what_its_manifest_says(cluster: &Cluster, node: &Node) {
    let namespace = cluster.namespace("manifest").await;
    let script = "id -u; cat /etc/app/greeting /etc/names/labels; echo $GREETING from $WHERE; echo kept >/kept/file; cat /kept/file; \
                  touch /file 2>/dev/null || echo read-only; cd /var/run/secrets/kubernetes.io/serviceaccount; cat namespace; ls";
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: words, namespace: {namespace}}}\n\
             data: {{greeting: \"hello\\n\", unused: x}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: {namespace}, labels: {{app: a}}}}\nspec:\n  \
             restartPolicy: Never\n  securityContext: {{runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532}}\n  containers:\n  \
             - name: app\n    image: shell\n    args: ['{script}']\n    securityContext: {{readOnlyRootFilesystem: true}}\n    env:\n    \
             - {{name: NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}\n    \
             - {{name: WHERE, value: 'pod a of $(NAMESPACE)'}}\n    \
             - {{name: GREETING, valueFrom: {{configMapKeyRef: {{name: words, key: greeting}}}}}}\n    volumeMounts:\n    \
             - {{name: words, mountPath: /etc/app, readOnly: true}}\n    - {{name: names, mountPath: /etc/names}}\n    \
             - {{name: kept, mountPath: /kept}}\n  volumes:\n  \
             - {{name: words, configMap: {{name: words, items: [{{key: greeting, path: greeting}}]}}}}\n  \
             - {{name: names, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}\n  \
             - {{name: kept, emptyDir: {{}}}}\n"
        ))
        .await
        .unwrap();
    let done =
        ["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/a", "--namespace", &namespace, "--timeout=60s"];
    if let Err(error) = cluster.kubectl(&done).await {
        panic!("{error}\n{}", node.log(&namespace, "a", "app"));
    }
    let said = node.log(&namespace, "a", "app");
    // Who is root in a user namespace only can be nobody else.
    let alone = std::fs::read_to_string("/proc/self/uid_map").unwrap().trim_end().ends_with(" 1");
    let user = if alone { 0 } else { 65532 };
    let expected = format!(
        "{user}\nhello\napp=\"a\"\nhello from pod a of {namespace}\nkept\nread-only\n{namespace}ca.crt\nnamespace\ntoken\n"
    );
    assert_eq!(said, expected);
}

async fn sidecars_start_before_and_end_after(cluster: &Cluster, node: &Node) {
    let namespace = cluster.namespace("order").await;
    let mount = "volumeMounts: [{name: shared, mountPath: /shared}]";
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: {namespace}}}\nspec:\n  initContainers:\n  \
             - {{name: init, image: shell, args: ['echo init >>/shared/order'], {mount}}}\n  \
             - {{name: side, image: shell, restartPolicy: Always, {mount}, args: ['trap \"echo side ends; exit 0\" TERM; \
             cat /shared/order; echo side >>/shared/order; while :; do sleep 0.1; done']}}\n  containers:\n  \
             - {{name: app, image: shell, {mount}, args: ['trap \"exit 0\" TERM; until grep side /shared/order; do sleep 0.1; done; \
             while :; do sleep 0.1; done']}}\n  volumes: [{{name: shared, emptyDir: {{}}}}]\n"
        ))
        .await
        .unwrap();
    let ready = ["wait", "--for=condition=Ready", "pod/a", "--namespace", &namespace, "--timeout=60s"];
    cluster.kubectl(&ready).await.unwrap();
    eventually(SOON, "the app sees the sidecar", async || match node.log(&namespace, "a", "app").as_str() {
        "side\n" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    cluster.kubectl(&["delete", "pod", "a", "--namespace", &namespace, "--timeout=30s"]).await.unwrap();
    assert_eq!(node.log(&namespace, "a", "side"), "init\nside ends\n");
}

async fn a_container_that_ends_is_started_again(cluster: &Cluster) {
    let namespace = cluster.namespace("ends").await;
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: {namespace}}}\nspec:\n  containers:\n  \
             - {{name: ends, image: shell, args: ['exit 3']}}\n  - {{name: unknown, image: nothing/of-this-name:1}}\n"
        ))
        .await
        .unwrap();
    eventually(SOON, "it was started again, and what cannot be started says why", async || {
        let pods = pods(cluster, &namespace).await;
        let statuses = pods[0].status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
        let restarts = statuses.iter().find(|status| status.name == "ends").map_or(0, |status| status.restart_count);
        let shown = format!("{statuses:?}");
        if restarts >= 2 && shown.contains("no program stands for the image") { Ok(()) } else { Err(shown) }
    })
    .await;
}

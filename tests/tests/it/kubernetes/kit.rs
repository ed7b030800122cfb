//! The kit itself: what the other tests take for granted.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use testkit::{cluster::Cluster, eventually};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_service_account_may_do_what_its_role_says_and_the_audit_log_tells_it() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("rbac").await;
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: reader, namespace: {namespace}}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: reader, namespace: {namespace}}}\n\
             rules: [{{apiGroups: [\"\"], resources: [configmaps], verbs: [list]}}]\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: reader, namespace: {namespace}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}}\n\
             subjects: [{{kind: ServiceAccount, name: reader, namespace: {namespace}}}]\n"
        ))
        .await
        .unwrap();
    let kubeconfig = Kubeconfig::read_from(cluster.service_account_kubeconfig(&namespace, "reader").await).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let reader = Client::try_from(config).unwrap();

    let mark = cluster.mark();
    let maps = Api::<ConfigMap>::namespaced(reader.clone(), &namespace);
    // The authority's certificate, for whoever wants to check the API server.
    eventually(SOON, "the certificate is published", async || {
        let names = maps.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        names
            .items
            .iter()
            .any(|map| map.metadata.name.as_deref() == Some("kube-root-ca.crt"))
            .then_some(())
            .ok_or("not yet".to_owned())
    })
    .await;
    let refused = maps.get("kube-root-ca.crt").await.unwrap_err().to_string();
    assert!(refused.contains("cannot get resource \"configmaps\""), "{refused}");

    let user = format!("system:serviceaccount:{namespace}:reader");
    let mut seen: Vec<_> = cluster
        .audit(mark)
        .into_iter()
        .filter(|entry| entry.user == user)
        .map(|entry| (entry.verb, entry.resource, entry.namespace, entry.name, entry.code))
        .collect();
    seen.dedup();
    let entry = |verb: &str, name: &str, code| {
        (verb.to_owned(), "configmaps".to_owned(), namespace.clone(), name.to_owned(), code)
    };
    assert_eq!(seen, [entry("list", "", 200), entry("get", "kube-root-ca.crt", 403)]);
}

#[tokio::test]
async fn a_deleted_namespace_takes_what_is_in_it_along() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("gone").await;
    cluster.kubectl(&["create", "configmap", "a", "--namespace", &namespace]).await.unwrap();
    cluster.kubectl(&["delete", "namespace", &namespace, "--timeout=30s"]).await.unwrap();
    let error = cluster.kubectl(&["get", "configmap", "a", "--namespace", &namespace]).await.unwrap_err().to_string();
    assert!(error.contains("NotFound"), "{error}");
}

#[tokio::test]
async fn a_token_for_weir_is_recognised_as_one() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("token").await;
    let token = cluster.token(&namespace, "default", &["weir"]).await;
    let review = format!(
        "{{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {{token: {token}, audiences: [weir]}}}}"
    );
    let answer = cluster.kubectl_with(&["create", "-f", "-", "-o", "jsonpath={.status}"], &review).await.unwrap();
    assert!(answer.contains("\"authenticated\":true") && answer.contains(&format!(":{namespace}:default")), "{answer}");
}

#[tokio::test]
async fn the_user_has_kubectl_and_helm_and_is_told_what_went_wrong() {
    let cluster = Cluster::shared().await;
    let version = cluster.kubectl(&["version"]).await.unwrap();
    assert_eq!(version.matches("v1.36.").count(), 2, "client and server, stamped: {version}");
    assert_eq!(cluster.helm(&["list", "--namespace", "kube-public", "--short"]).await.unwrap(), "");
    let error = cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, dada: {}}").await.unwrap_err();
    assert!(format!("{error:#}").contains("unknown field \"dada\""), "{error:#}");
}

//! Kubeconfigs: of the administrator by certificate, of service accounts by token. Tokens, also such as no API server gives.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{Api, api::PostParams};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};

use super::Cluster;
use crate::eventually;

/// As long as a Weir that has just started may take until proxies know whom to trust.
const TOLD: Duration = Duration::from_secs(40);

/// Writes the administrator's.
pub(super) fn admin(home: &Path, port: u16, to: &Path) {
    let user = json!({"client-certificate": home.join("admin.crt"), "client-key": home.join("admin.key")});
    write(home, port, "admin", &user, "default", to);
}

impl Cluster {
    /// Writes a kubeconfig of a service account, which must exist. Its token is good for an hour.
    ///
    /// # Panics
    ///
    /// When there is no such account.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> PathBuf {
        let token = self.token(namespace, name, &[]).await;
        let to = self.home.path().join(format!("{namespace}.{name}.kubeconfig"));
        write(self.home.path(), self.api_server.port(), name, &json!({"token": token}), namespace, &to);
        to
    }

    /// A token of a service account, good for an hour, for the API server or for these audiences.
    ///
    /// # Panics
    ///
    /// When there is no such account.
    pub async fn token(&self, namespace: &str, name: &str, audiences: &[&str]) -> String {
        self.requested(namespace, name, audiences, None).await
    }

    /// Whom proxies of a namespace are told to trust by its ConfigMap `weir-ca`, once they are.
    ///
    /// # Panics
    ///
    /// When nobody tells them in time.
    pub async fn authorities(&self, namespace: &str) -> String {
        let text = r#"--output=go-template={{index .data "ca.crt"}}"#;
        let map = ["get", "configmap", "weir-ca", "--namespace", namespace, text];
        eventually(TOLD, "proxies are told whom to trust", async || match self.kubectl(&map).await {
            Ok(text) if text.contains("BEGIN CERTIFICATE") => Ok(text),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// The token for Weir that a pod would have mounted, of its namespace's default service account.
    ///
    /// # Panics
    ///
    /// When there is no such pod.
    pub async fn pod_token(&self, namespace: &str, pod: &str) -> String {
        let object = Api::<Pod>::namespaced(self.client().await, namespace).get(pod).await;
        let object = object.unwrap_or_else(|error| panic!("{namespace}/{pod}: {error}"));
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: object.metadata.name,
            uid: object.metadata.uid,
        };
        self.requested(namespace, "default", &["weir"], Some(bound)).await
    }

    /// A token like this one after a change of its claims, signed with the cluster's own key: one that the API server would have to
    /// believe.
    ///
    /// # Panics
    ///
    /// When it is no token.
    #[must_use]
    pub fn resigned(&self, token: &str, change: impl FnOnce(&mut Value)) -> String {
        let pem = std::fs::read(self.home.path().join("service-account.key")).expect("the kit wrote it");
        resign(&PrivatePkcs8KeyDer::from_pem_slice(&pem).expect("it is PKCS 8"), token, change)
    }

    async fn requested(
        &self,
        namespace: &str,
        name: &str,
        audiences: &[&str],
        bound: Option<BoundObjectReference>,
    ) -> String {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: audiences.iter().map(|audience| (*audience).to_owned()).collect(),
                expiration_seconds: Some(3600),
                bound_object_ref: bound,
            },
            ..TokenRequest::default()
        };
        Api::<ServiceAccount>::namespaced(self.client().await, namespace)
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .unwrap_or_else(|error| panic!("a token for {namespace}/{name}: {error}"))
            .status
            .expect("an answered request has a status")
            .token
    }
}

/// As [`Cluster::resigned`], with any key.
///
/// # Panics
///
/// When it is no token, or the key is none of P-256.
#[must_use]
pub fn resign(key: &PrivatePkcs8KeyDer<'_>, token: &str, change: impl FnOnce(&mut Value)) -> String {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der(), &random);
    let mut parts = token.split('.');
    let (header, claims) = (parts.next().expect("a header"), parts.next().expect("claims"));
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).expect("claims are base64");
    let mut claims: Value = serde_json::from_slice(&claims).expect("claims are JSON");
    change(&mut claims);
    let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.expect("a key of P-256").sign(&random, signed.as_bytes()).expect("it signs");
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// JSON is YAML.
fn write(home: &Path, port: u16, name: &str, user: &Value, namespace: &str, to: &Path) {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": home.join("ca.crt"),
        }}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": "test", "user": name, "namespace": namespace}}],
        "current-context": name,
    });
    std::fs::write(to, kubeconfig.to_string()).expect("the cluster's folder can be written");
}

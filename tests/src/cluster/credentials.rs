//! Kubeconfigs: of the administrator by certificate, of service accounts by token.

use std::path::{Path, PathBuf};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use super::Cluster;

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
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: audiences.iter().map(|audience| (*audience).to_owned()).collect(),
                expiration_seconds: Some(3600),
                bound_object_ref: None,
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

//! How a proxy trusts Weir, and proves who it is: TLS, a credential, and the small files by which Envoy reads both again when they
//! are renewed.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What a proxy has for that. Paths are the proxy's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The name that Weir's certificate must have.
    pub server_name: String,
    /// The file with the authorities that are trusted.
    pub ca_file: PathBuf,
    /// What proves who the proxy is.
    pub credential: Credential,
    /// The folder with the files of [`Trust::secrets`].
    pub secrets_folder: PathBuf,
}

/// What proves who a proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A file with a token.
    Token(PathBuf),
    /// A client certificate.
    Certificate {
        /// The file with it, and those that lead to its authority.
        certificate: PathBuf,
        /// The file with its key.
        key: PathBuf,
    },
}

const CA: &str = "weir-ca";
const TOKEN: &str = "weir-token";
const CERTIFICATE: &str = "weir-certificate";

impl Trust {
    /// Files that Envoy reads by SDS, which is how it notices that what they name was replaced: their names and what is in them.
    #[must_use]
    pub fn secrets(&self) -> Vec<(String, Value)> {
        let secret = |name: &str, what: &str, value: Value| {
            let resource = json!({
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                "name": name,
                what: value,
            });
            (format!("{name}.json"), json!({"resources": [resource]}))
        };
        let file = |path: &Path| json!({"filename": path});
        let ca = json!({"trusted_ca": file(&self.ca_file), "watched_directory": folder(&self.ca_file)});
        let own = match &self.credential {
            Credential::Token(token) => secret(TOKEN, "generic_secret", json!({"secret": file(token)})),
            Credential::Certificate { certificate, key } => {
                let value = json!({
                    "certificate_chain": file(certificate),
                    "private_key": file(key),
                    "watched_directory": folder(certificate),
                });
                secret(CERTIFICATE, "tls_certificate", value)
            }
        };
        vec![secret(CA, "validation_context", ca), own]
    }

    /// Encrypts the connections of a cluster.
    pub(super) fn transport_socket(&self) -> Value {
        let name = json!([{"san_type": "DNS", "matcher": {"exact": self.server_name}}]);
        let mut context = json!({
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": name},
                "validation_context_sds_secret_config": self.source(CA, &self.ca_file),
            },
        });
        if let Credential::Certificate { certificate, .. } = &self.credential {
            context["tls_certificate_sds_secret_configs"] = json!([self.source(CERTIFICATE, certificate)]);
        }
        json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": self.server_name,
                "common_tls_context": context,
            },
        })
    }

    /// Filters of the cluster's own requests, which put the token into each.
    pub(super) fn http_filters(&self) -> Option<Value> {
        let Credential::Token(token) = &self.credential else { return None };
        Some(json!([
            {
                "name": "envoy.filters.http.credential_injector",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
                    "overwrite": true,
                    // Without a token a stream fails here, and Weir is not bothered.
                    "allow_request_without_credential": false,
                    "credential": {
                        "name": "envoy.http.injected_credentials.generic",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
                            "header": "authorization",
                            "header_value_prefix": "Bearer ",
                            "credential": self.source(TOKEN, token),
                        },
                    },
                },
            },
            {
                "name": "envoy.filters.http.upstream_codec",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
                },
            },
        ]))
    }

    /// A secret of the folder, read again when `file` is replaced.
    fn source(&self, name: &str, file: &Path) -> Value {
        json!({
            "name": name,
            "sds_config": {
                "resource_api_version": "V3",
                "path_config_source": {
                    "path": self.secrets_folder.join(format!("{name}.json")),
                    "watched_directory": folder(file),
                },
            },
        })
    }
}

/// What Kubernetes swaps when it renews a volume stands beside the files.
fn folder(file: &Path) -> Value {
    json!({"path": file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(credential: Credential) -> Trust {
        Trust {
            server_name: "weir.weir-system.svc".into(),
            ca_file: "/weir/ca.crt".into(),
            credential,
            secrets_folder: "/envoy".into(),
        }
    }

    #[test]
    fn a_token_goes_into_every_request_and_a_certificate_into_the_handshake() {
        let token = trust(Credential::Token("/weir/token".into()));
        let names: Vec<_> = token.secrets().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["weir-ca.json", "weir-token.json"]);
        let filters = token.http_filters().expect("filters").to_string();
        assert!(filters.contains("/envoy/weir-token.json") && filters.contains(r#"{"path":"/weir"}"#), "{filters}");
        assert!(!token.transport_socket().to_string().contains("tls_certificate_sds"), "{}", token.transport_socket());

        let own = trust(Credential::Certificate { certificate: "/own/tls.crt".into(), key: "/own/tls.key".into() });
        assert_eq!(own.http_filters(), None);
        let socket = own.transport_socket().to_string();
        assert!(socket.contains("/envoy/weir-certificate.json") && socket.contains("weir.weir-system.svc"), "{socket}");
        assert!(own.secrets()[1].1.to_string().contains("/own/tls.key"));
    }
}

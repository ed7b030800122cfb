//! A certificate that Weir makes: kept in a Secret of its namespace, so that a restart and another replica serve the same, and
//! trusted by way of the `caBundle` in the webhook's configuration.
//!
//! Whoever writes the Secret first has made the certificate; the others take it. All that it takes is to get and update that one
//! Secret, and to get, watch and patch that one configuration.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::ValidatingWebhookConfiguration, core::v1::Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    Held,
    certificate::{self, Certificate, Pem, Unusable},
};
use crate::watch::kubernetes::{Pauses, cause};

/// How often the Secret is looked at: another replica may have renewed the certificate, somebody may have damaged it.
const LOOK: Duration = Duration::from_secs(10);

/// Where the certificate is kept, and who is told to trust it.
#[derive(Clone)]
pub struct Kept {
    /// Speaks to the API server. The Service and the Secret are in its namespace.
    pub client: Client,
    /// Name of the Service by which the API server asks.
    pub service: String,
    /// Name of the Secret, which must exist.
    pub secret: String,
    /// Name of the `ValidatingWebhookConfiguration`, which must exist.
    pub configuration: String,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client: _, service, secret, configuration } = self;
        let mut debug = f.debug_struct("Kept");
        debug.field("service", service).field("secret", secret).field("configuration", configuration);
        debug.finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("Secret {0}: {why}; the chart makes it, empty, also anew by `helm upgrade`, and lets Weir get and update it", why = cause(.1))]
    Secret(String, kube::Error),
    #[error("ValidatingWebhookConfiguration {0}: {why}; the chart makes it, and lets Weir get, watch and patch it", why = cause(.1))]
    Configuration(String, kube::Error),
    #[error("no certificate can be made for {0}: {1}; a Service's name has letters, digits and `-`")]
    Make(String, rcgen::Error),
    #[error("what was just made cannot be used: {0}")]
    Made(Unusable),
}

impl Kept {
    /// Serves the certificate of the Secret, and sees to it that there is one which is trusted, for ever.
    pub(super) async fn keep(self, held: Held) {
        let mut said = String::new();
        let mut pauses = Pauses::default();
        loop {
            match self.follow(&held).await {
                Ok(()) => {
                    said.clear();
                    pauses = Pauses::default();
                }
                Err(trouble) => {
                    let trouble = trouble.to_string();
                    if trouble != said {
                        warn!(%trouble, "the webhook's certificate cannot be kept for now; trying again");
                        said = trouble;
                    }
                }
            }
            tokio::time::sleep(pauses.pause()).await;
        }
    }

    /// Puts everything right once, then waits until something of it may not be any more.
    async fn follow(&self, held: &Held) -> Result<(), Trouble> {
        let secrets = Api::<Secret>::default_namespaced(self.client.clone());
        let (certificate, secret_version) = self.certificate(&secrets, held).await?;
        let trusted = self.trust(&certificate.pem.authorities).await;
        // The API server must believe the next one before it meets it; but without any there is nothing to lose.
        if trusted.is_ok() || held.get().is_none() {
            held.set(certificate);
        }
        let version = trusted?;

        let failed = |error| Trouble::Configuration(self.configuration.clone(), error);
        let watched = WatchParams::default().fields(&format!("metadata.name={}", self.configuration));
        let configurations = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let mut events = pin!(configurations.watch(&watched, &version).await.map_err(failed)?);
        loop {
            match timeout(LOOK, events.next()).await {
                Ok(Some(Ok(WatchEvent::Bookmark(_)))) => {}
                Ok(Some(Ok(WatchEvent::Error(status)))) => return Err(failed(kube::Error::Api(status))),
                Ok(Some(Err(error))) => return Err(failed(error)),
                // Somebody wrote to it, or the watch has come to its end, as each does after some minutes.
                Ok(_) => return Ok(()),
                Err(_) => {
                    let now = secrets.get_metadata(&self.secret).await;
                    let now = now.map_err(|error| Trouble::Secret(self.secret.clone(), error))?;
                    if now.resource_version() != secret_version || held.is_due(Timestamp::now()) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The certificate of the Secret, with the Secret's version; made and written there first when there is none of use.
    async fn certificate(&self, secrets: &Api<Secret>, held: &Held) -> Result<(Certificate, Option<String>), Trouble> {
        let failed = |error| Trouble::Secret(self.secret.clone(), error);
        let name = format!("{}.{}.svc", self.service, self.client.default_namespace());
        loop {
            let mut secret = secrets.get(&self.secret).await.map_err(failed)?;
            let kept = certificate::read(pem(secret.data.take().unwrap_or_default()));
            let kept = kept.and_then(|kept| kept.check(&name).map(|()| kept));
            let now = Timestamp::now();
            let before = match kept {
                Ok(kept) if !kept.is_due(now) => return Ok((kept, secret.resource_version())),
                Ok(kept) => {
                    info!(secret = %self.secret, until = %kept.until, "renewing the webhook's certificate");
                    Some(kept)
                }
                Err(Unusable::Absent) => {
                    info!(secret = %self.secret, service = %name, "making the webhook's certificate");
                    held.get()
                }
                Err(reason) => {
                    warn!(secret = %self.secret, %reason, "the webhook's certificate is damaged; making it anew");
                    held.get()
                }
            };
            let before = before.map(|before| before.pem.authorities).unwrap_or_default();
            let made = certificate::make(&name, &before, now);
            let made = made.map_err(|error| Trouble::Make(name.clone(), error))?;
            secret.data = Some(data(&made));
            match secrets.replace(&self.secret, &PostParams::default(), &secret).await {
                Ok(written) => {
                    let made = certificate::read(made).map_err(Trouble::Made)?;
                    return Ok((made, written.resource_version()));
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    info!(secret = %self.secret, "another replica was first; taking its certificate");
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Has the API server trust the authorities: the configuration's version in which it does.
    async fn trust(&self, authorities: &str) -> Result<String, Trouble> {
        let failed = |error| Trouble::Configuration(self.configuration.clone(), error);
        let configurations = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let configuration = configurations.get(&self.configuration).await.map_err(failed)?;
        let bundle = ByteString(authorities.as_bytes().to_vec());
        let webhooks = configuration.webhooks.iter().flatten();
        let wrong = webhooks.filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&bundle));
        // Webhooks are merged by their names; what stands there beside stays.
        let wrong: Vec<_> =
            wrong.map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})).collect();
        if wrong.is_empty() {
            return Ok(configuration.resource_version().unwrap_or_default());
        }
        info!(configuration = %self.configuration, "writing whom the API server is to trust");
        let patch = Patch::Strategic(json!({"webhooks": wrong}));
        let written = configurations.patch(&self.configuration, &PatchParams::default(), &patch).await;
        Ok(written.map_err(failed)?.resource_version().unwrap_or_default())
    }
}

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITIES: &str = "ca.crt";

fn pem(mut data: BTreeMap<String, ByteString>) -> Pem {
    let mut text =
        |name| data.remove(name).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default();
    Pem { certificate: text(CERTIFICATE), key: text(KEY), authorities: text(AUTHORITIES) }
}

fn data(pem: &Pem) -> BTreeMap<String, ByteString> {
    let Pem { certificate, key, authorities } = pem;
    let texts = [(CERTIFICATE, certificate), (KEY, key), (AUTHORITIES, authorities)];
    texts.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.clone().into_bytes()))).collect()
}

//! A certificate that Weir makes: kept in a Secret of its namespace, so that a restart and another replica serve the same, and
//! trusted by the API server by way of the `caBundle` in the webhook's configuration.
//!
//! Whoever writes the Secret first has made the certificate; the others take it. All that it takes is to get and update that one
//! Secret, and to get, watch and patch that one configuration.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures::{StreamExt, future::select_all};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::Secret,
    },
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;
use tracing::{info, warn};

use super::{
    Held,
    certificate::{self, Certificate, Pem, Unusable},
};
use crate::watch::kubernetes::{Pauses, cause};

/// How often the Secret is looked at: another replica may have renewed the certificate, somebody may have damaged it.
const LOOK: Duration = Duration::from_secs(10);

/// Where the certificate is kept, and whose configuration says that the API server is to trust it.
#[derive(Clone)]
pub struct Kept {
    /// Speaks to the API server. The Service and the Secret are in its namespace.
    pub client: Client,
    /// Name of the Service by which Weir is reached.
    pub service: String,
    /// Name of the Secret, which must exist.
    pub secret: String,
    /// The configurations of webhooks, which must exist; none without a webhook.
    pub configurations: Vec<Configuration>,
}

/// What tells the API server to ask a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Its kind.
    pub webhooks: Webhooks,
    /// Its name.
    pub name: String,
}

/// The two kinds of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Webhooks {
    /// `ValidatingWebhookConfiguration`.
    Validating,
    /// `MutatingWebhookConfiguration`.
    Mutating,
}

impl Configuration {
    fn kind(&self) -> ApiResource {
        match self.webhooks {
            Webhooks::Validating => ApiResource::erase::<ValidatingWebhookConfiguration>(&()),
            Webhooks::Mutating => ApiResource::erase::<MutatingWebhookConfiguration>(&()),
        }
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        Api::all_with(client.clone(), &self.kind())
    }

    fn trouble(&self, error: kube::Error) -> Trouble {
        Trouble::Configuration(self.kind().kind, self.name.clone(), error)
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client: _, service, secret, configurations } = self;
        let mut debug = f.debug_struct("Kept");
        debug.field("service", service).field("secret", secret).field("configurations", configurations);
        debug.finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("Secret {0}: {why}; the chart makes it, empty, also anew by `helm upgrade`, and lets Weir get and update it", why = cause(.1))]
    Secret(String, kube::Error),
    #[error("{0} {1}: {why}; the chart makes it, and lets Weir get, watch and patch it", why = cause(.2))]
    Configuration(String, String, kube::Error),
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
                        warn!(%trouble, "Weir's certificate cannot be kept for now; trying again");
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
        let found = self.certificate(&secrets, held).await?;
        let mut trusted = Vec::new();
        for configuration in &self.configurations {
            trusted.push(self.trust(configuration, &found.certificate.pem.authorities).await);
        }
        // The API server must believe the next one before it meets it; but without any there is nothing to lose.
        if trusted.iter().all(Result::is_ok) || held.get().is_none() {
            held.set(found.certificate.clone());
        }
        let versions = trusted.into_iter().collect::<Result<Vec<_>, _>>();
        let changed = async {
            let versions = versions?;
            if versions.is_empty() {
                return std::future::pending().await;
            }
            let all = self.configurations.iter().zip(&versions);
            let all = all.map(|(configuration, version)| Box::pin(self.configuration_changes(configuration, version)));
            select_all(all).await.0
        };
        tokio::select! {
            changed = changed => changed,
            stale = self.secret_changes(&secrets, &found) => stale,
        }
    }

    /// Waits until somebody wrote to the configuration, or the watch has come to its end, as each does after some minutes.
    async fn configuration_changes(&self, configuration: &Configuration, version: &str) -> Result<(), Trouble> {
        let failed = |error| configuration.trouble(error);
        let watched = WatchParams::default().fields(&format!("metadata.name={}", configuration.name));
        let configurations = configuration.api(&self.client);
        let mut events = pin!(configurations.watch(&watched, version).await.map_err(failed)?);
        loop {
            match events.next().await {
                Some(Ok(WatchEvent::Bookmark(_))) => {}
                Some(Ok(WatchEvent::Error(status))) => return Err(failed(kube::Error::Api(status))),
                Some(Err(error)) => return Err(failed(error)),
                _ => return Ok(()),
            }
        }
    }

    /// Waits until the Secret is another, or it is time to do something about it.
    async fn secret_changes(&self, secrets: &Api<Secret>, found: &Found) -> Result<(), Trouble> {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = secrets.get_metadata(&self.secret).await;
            let now = now.map_err(|error| Trouble::Secret(self.secret.clone(), error))?;
            if now.resource_version() != found.version || Timestamp::now() >= found.until {
                return Ok(());
            }
        }
    }

    /// The certificate of the Secret; made and written there first when there is none of use.
    async fn certificate(&self, secrets: &Api<Secret>, held: &Held) -> Result<Found, Trouble> {
        let failed = |error| Trouble::Secret(self.secret.clone(), error);
        let name = format!("{}.{}.svc", self.service, self.client.default_namespace());
        loop {
            let mut secret = secrets.get(&self.secret).await.map_err(failed)?;
            let mut texts = Texts::of(secret.data.take().unwrap_or_default());
            let kept = usable(texts.current.clone(), &name);
            let next = usable(texts.next(), &name).ok();
            let now = Timestamp::now();
            match (kept, next) {
                (Ok(certificate), next)
                    if !certificate.is_due(now) && (next.is_some() || now < certificate.prepare()) =>
                {
                    let until = if next.is_some() { certificate.due() } else { certificate.prepare() };
                    return Ok(Found { certificate, version: secret.resource_version(), until });
                }
                (Ok(certificate), Some(next)) if certificate.is_due(now) && !next.is_due(now) => {
                    info!(secret = %self.secret, until = %certificate.until, "renewing Weir's certificate");
                    texts = Texts { current: next.pem, ..Texts::default() };
                }
                (Ok(certificate), _) if !certificate.is_due(now) => {
                    info!(secret = %self.secret, until = %certificate.until, "making Weir's next certificate, for later");
                    let next = self.make(&name, &certificate.pem.authorities, now)?;
                    texts.current.authorities = next.authorities;
                    (texts.next_certificate, texts.next_key) = (next.certificate, next.key);
                }
                (kept, _) => {
                    let before = match kept {
                        Ok(certificate) => {
                            info!(secret = %self.secret, until = %certificate.until, "renewing Weir's certificate");
                            Some(certificate)
                        }
                        Err(Unusable::Absent) => {
                            info!(secret = %self.secret, service = %name, "making Weir's certificate");
                            held.get()
                        }
                        Err(reason) => {
                            warn!(secret = %self.secret, %reason, "Weir's certificate is damaged; making it anew");
                            held.get()
                        }
                    };
                    let before = before.map(|before| before.pem.authorities).unwrap_or_default();
                    texts = Texts { current: self.make(&name, &before, now)?, ..Texts::default() };
                }
            }
            secret.data = Some(texts.data());
            match secrets.replace(&self.secret, &PostParams::default(), &secret).await {
                // Read again, as every replica reads it.
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    info!(secret = %self.secret, "another replica was first; taking its certificate");
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn make(&self, name: &str, before: &str, now: Timestamp) -> Result<Pem, Trouble> {
        let made = certificate::make(name, before, now).map_err(|error| Trouble::Make(name.to_owned(), error))?;
        usable(made.clone(), name).map_err(Trouble::Made)?;
        Ok(made)
    }

    /// Has the API server trust the authorities: the configuration's version in which it does.
    async fn trust(&self, configuration: &Configuration, authorities: &str) -> Result<String, Trouble> {
        let failed = |error| configuration.trouble(error);
        let configurations = configuration.api(&self.client);
        let found = configurations.get(&configuration.name).await.map_err(failed)?;
        let bundle = json!(ByteString(authorities.as_bytes().to_vec()));
        let webhooks = found.data["webhooks"].as_array().into_iter().flatten();
        let wrong = webhooks.filter(|webhook| webhook["clientConfig"]["caBundle"] != bundle);
        // Webhooks are merged by their names; what stands there beside stays.
        let wrong: Vec<_> =
            wrong.map(|webhook| json!({"name": webhook["name"], "clientConfig": {"caBundle": bundle}})).collect();
        if wrong.is_empty() {
            return Ok(found.resource_version().unwrap_or_default());
        }
        info!(configuration = %configuration.name, "writing whom the API server is to trust");
        let patch = Patch::Strategic(json!({"webhooks": wrong}));
        let written = configurations.patch(&configuration.name, &PatchParams::default(), &patch).await;
        Ok(written.map_err(failed)?.resource_version().unwrap_or_default())
    }
}

/// What was read, with its version, and when there is something to do about it.
struct Found {
    certificate: Certificate,
    version: Option<String>,
    until: Timestamp,
}

fn usable(pem: Pem, name: &str) -> Result<Certificate, Unusable> {
    let certificate = certificate::read(pem)?;
    certificate.check(name)?;
    Ok(certificate)
}

/// What the Secret holds.
#[derive(Default)]
struct Texts {
    /// What is served.
    current: Pem,
    /// What will be, once everybody knows its authority; empty before it is made.
    next_certificate: String,
    next_key: String,
}

impl Texts {
    const CERTIFICATE: &str = "tls.crt";
    const KEY: &str = "tls.key";
    const AUTHORITIES: &str = "ca.crt";
    const NEXT_CERTIFICATE: &str = "next.crt";
    const NEXT_KEY: &str = "next.key";

    fn of(mut data: BTreeMap<String, ByteString>) -> Self {
        let mut text =
            |name| data.remove(name).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default();
        let current =
            Pem { certificate: text(Self::CERTIFICATE), key: text(Self::KEY), authorities: text(Self::AUTHORITIES) };
        Self { current, next_certificate: text(Self::NEXT_CERTIFICATE), next_key: text(Self::NEXT_KEY) }
    }

    fn next(&self) -> Pem {
        Pem {
            certificate: self.next_certificate.clone(),
            key: self.next_key.clone(),
            authorities: self.current.authorities.clone(),
        }
    }

    fn data(self) -> BTreeMap<String, ByteString> {
        let Self { current: Pem { certificate, key, authorities }, next_certificate, next_key } = self;
        let texts = [
            (Self::CERTIFICATE, certificate),
            (Self::KEY, key),
            (Self::AUTHORITIES, authorities),
            (Self::NEXT_CERTIFICATE, next_certificate),
            (Self::NEXT_KEY, next_key),
        ];
        let there = texts.into_iter().filter(|(_, text)| !text.is_empty());
        there.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))).collect()
    }
}

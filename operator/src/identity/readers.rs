//! Who may read the admin page of a cluster's Weir: whoever the API server knows by a token, and lets read that path.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{
    AUDIENCE,
    digest::{Digest, digest},
};
use crate::watch::kubernetes::cause;

/// How long the API server's yes holds.
const HOLDS: SignedDuration = SignedDuration::from_secs(10);
/// How long it holds while the API server is away: what Weir does then is what people want to see.
const HOLDS_ALONE: SignedDuration = SignedDuration::from_hours(1);
/// The API server is away when it takes longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Answers that are remembered; beyond, the API server is asked again.
const MOST: usize = 1_000;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readers(Option<Arc<Inner>>);

struct Inner {
    client: Client,
    /// Who may do what, and when the API server said so.
    may: Mutex<BTreeMap<(Digest, String), Timestamp>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nobody proves who that is, and it may be anybody.
    #[error("this is answered on this machine alone, at a loopback address; elsewhere only /healthz and /readyz are")]
    Far,
    /// A token would be readable on its way.
    #[error("this is answered by HTTPS alone: anybody on the way could read the token")]
    PlainText,
    /// Nobody knows who that is.
    #[error("send a token that the API server knows, as `authorization: Bearer`: {0}")]
    Unknown(String),
    /// That one may not.
    #[error(
        "{user} may not {verb} {path}: give it a ClusterRole with the rule nonResourceURLs: [{path}], verbs: [{verb}]"
    )]
    Forbidden {
        /// Who.
        user: String,
        /// What.
        verb: String,
        /// Of what.
        path: String,
    },
    /// The API server does not say.
    #[error("the API server does not tell who that is, or what it may do: {0}")]
    Away(String),
}

impl Readers {
    /// Whoever is on this machine may read everything, and nobody else anything.
    #[must_use]
    pub const fn nearby() -> Self {
        Self(None)
    }

    pub(super) fn new(client: Client) -> Self {
        Self(Some(Arc::new(Inner { client, may: Mutex::default() })))
    }

    /// Whether somebody with this token may do that; `near` says that it comes by a loopback address. A verb is an HTTP method in
    /// small letters.
    ///
    /// # Errors
    ///
    /// Why not.
    pub async fn check(
        &self,
        near: bool,
        encrypted: bool,
        token: Option<&str>,
        verb: &str,
        path: &str,
    ) -> Result<(), Denied> {
        let Some(inner) = &self.0 else { return if near { Ok(()) } else { Err(Denied::Far) } };
        if !encrypted {
            return Err(Denied::PlainText);
        }
        let token = token.ok_or_else(|| Denied::Unknown("there is none".to_owned()))?;
        let key = (digest(token), format!("{verb} {path}"));
        let said = inner.may.lock().get(&key).copied();
        let held_until = |hold: SignedDuration| said.is_some_and(|said| Timestamp::now() < said + hold);
        if held_until(HOLDS) {
            return Ok(());
        }
        let answer = match timeout(PATIENCE, inner.ask(token, verb, path)).await {
            Ok(answer) => answer,
            Err(_) => Err(Denied::Away(format!("no answer within {PATIENCE:?}"))),
        };
        let mut may = inner.may.lock();
        match answer {
            Ok(()) => {
                let now = Timestamp::now();
                may.retain(|_, said| now < *said + HOLDS_ALONE);
                if may.len() < MOST {
                    may.insert(key, now);
                }
                Ok(())
            }
            Err(Denied::Away(_)) if held_until(HOLDS_ALONE) => Ok(()),
            Err(denied) => {
                may.remove(&key);
                Err(denied)
            }
        }
    }
}

impl Inner {
    async fn ask(&self, token: &str, verb: &str, path: &str) -> Result<(), Denied> {
        let user = match self.user(token, None).await {
            // One for Weir alone is as good, and of no use to whoever else gets hold of it.
            Err(Denied::Unknown(_)) => self.user(token, Some(AUDIENCE)).await?,
            user => user?,
        };
        let UserInfo { username, uid, groups, extra } = user;
        let name = username.clone().unwrap_or_default();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: username,
                uid,
                groups,
                extra,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some(verb.to_owned()),
                }),
                resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let reviews = Api::<SubjectAccessReview>::all(self.client.clone());
        let review = reviews.create(&PostParams::default(), &review).await;
        let status = review.map_err(|error| Denied::Away(cause(&error)))?.status.unwrap_or_default();
        if status.allowed {
            return Ok(());
        }
        Err(Denied::Forbidden { user: name, verb: verb.to_owned(), path: path.to_owned() })
    }

    async fn user(&self, token: &str, audience: Option<&str>) -> Result<UserInfo, Denied> {
        let reviews = Api::<TokenReview>::all(self.client.clone());
        let audiences = audience.map(|audience| vec![audience.to_owned()]);
        let question = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences },
            ..TokenReview::default()
        };
        let review = reviews.create(&PostParams::default(), &question).await;
        let status = review.map_err(|error| Denied::Away(cause(&error)))?.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(Denied::Unknown("it is not known, or has expired".to_owned()));
        }
        Ok(status.user.unwrap_or_default())
    }
}

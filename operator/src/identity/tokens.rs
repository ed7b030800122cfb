//! Checks tokens: by the API server, which also knows which pods are gone; while it is away, by its keys as it last gave them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, Client, api::PostParams};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};
use tracing::{debug, info, warn};

use super::{
    Meters,
    caller::{Pod, Refusal},
    digest::{Digest, digest},
    token::{self, AUDIENCE, Keys, Token},
};
use crate::watch::{kubernetes::cause, live::Live};

/// How long the API server's yes holds: a proxy opens two streams at once, and again after Weir's restart.
const HOLDS: SignedDuration = SignedDuration::from_secs(10);
/// The API server is away when it takes longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// While it is away it is asked this often; in between nobody waits for it.
const AWAY: SignedDuration = SignedDuration::from_secs(5);
/// Reviews at the same time.
const AT_ONCE: usize = 32;
/// How often the keys are asked for, and after a failure.
const KEYS: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(2));
/// Longer ones are none.
const LONGEST: usize = 16 << 10;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Tokens(Arc<Inner>);

struct Inner {
    client: Client,
    live: Live,
    meters: Meters,
    /// Written by [`Tokens::keep_keys`] alone.
    keys: RwLock<Option<Keys>>,
    /// A token came whose key is not among them.
    unknown_key: Notify,
    /// What was good, and until when it is so without another question.
    good: Mutex<BTreeMap<Digest, (Pod, Timestamp)>>,
    /// Until when the API server is not asked, because it was away.
    away: Mutex<Option<Timestamp>>,
    turns: Semaphore,
}

/// What the API server said.
enum Review {
    Good(Pod),
    Bad(String),
    /// It may not be asked, which only a person can mend.
    Forbidden(String),
    Away(String),
}

impl Tokens {
    pub(super) fn new(client: Client, live: Live, meters: Meters) -> Self {
        Self(Arc::new(Inner {
            client,
            live,
            meters,
            keys: RwLock::default(),
            unknown_key: Notify::new(),
            good: Mutex::default(),
            away: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
        }))
    }

    /// The pod that has this token.
    pub(super) async fn check(&self, text: &str) -> Result<Pod, Refusal> {
        let inner = &*self.0;
        if text.len() > LONGEST {
            return Err(Refusal::Invalid("it is too long for a token of a service account".to_owned()));
        }
        let token = token::read(text)?;
        // Before anybody is asked: what is wrong by its own words, or signed by nobody, costs the API server nothing.
        let says = token.pod(Timestamp::now())?;
        let digest = digest(text);
        if let Some(pod) = inner.remembered(&digest, Timestamp::now()) {
            inner.meters.accepted("memory");
            return Ok(pod);
        }
        let signed = inner.signed(&token);
        if signed == Some(false) {
            return Err(Refusal::Invalid("its signature is not the API server's".to_owned()));
        }
        let review = match inner.is_away(Timestamp::now()) {
            Some(why) => Review::Away(why),
            None => {
                let _turn = inner.turns.acquire().await;
                inner.review(text, &says).await
            }
        };
        let now = Timestamp::now();
        match review {
            Review::Good(pod) => {
                inner.remember(digest, &pod, now);
                inner.meters.accepted("review");
                Ok(pod)
            }
            Review::Bad(why) => Err(Refusal::Invalid(why)),
            Review::Forbidden(why) => Err(Refusal::Unknown(why)),
            Review::Away(why) => {
                inner.went_away(now, &why);
                if signed != Some(true) {
                    return Err(Refusal::Unknown(format!(
                        "the API server is away ({why}), and its keys are not known"
                    )));
                }
                // As the watch saw it last: a pod of the same name is another one.
                if inner.live.is_gone(&says.namespace, &says.name, token.uid()) {
                    return Err(Refusal::Invalid("its pod is gone, or another one has its name now".to_owned()));
                }
                debug!(pod = says.name, namespace = says.namespace, "a token is checked without the API server");
                inner.meters.accepted("signature");
                Ok(says)
            }
        }
    }

    /// Asks for the keys, again and again, for ever.
    pub(super) async fn keep_keys(&self) {
        let inner = &*self.0;
        let mut said = String::new();
        loop {
            let pause = match inner.fetch_keys().await {
                Ok(keys) => {
                    if inner.keys.write().replace(keys).is_none() {
                        info!("the API server's keys are known: tokens can be checked while it is away");
                    }
                    said.clear();
                    KEYS.0
                }
                Err(trouble) => {
                    if trouble != said {
                        warn!(trouble, "the API server's keys cannot be read; trying again");
                        said = trouble;
                    }
                    KEYS.1
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // At most this often: anybody can name a key.
                () = inner.unknown_key.notified() => tokio::time::sleep(KEYS.1).await,
            }
        }
    }
}

impl Inner {
    fn signed(&self, token: &Token<'_>) -> Option<bool> {
        let signed = self.keys.read().as_ref().and_then(|keys| keys.signed(token));
        if signed.is_none() {
            self.unknown_key.notify_one();
        }
        signed
    }

    fn remembered(&self, digest: &Digest, now: Timestamp) -> Option<Pod> {
        let good = self.good.lock();
        good.get(digest).filter(|(_, until)| *until > now).map(|(pod, _)| pod.clone())
    }

    fn remember(&self, digest: Digest, pod: &Pod, now: Timestamp) {
        let mut good = self.good.lock();
        good.retain(|_, (_, until)| *until > now);
        good.insert(digest, (pod.clone(), pod.until.min(now + HOLDS)));
    }

    fn is_away(&self, now: Timestamp) -> Option<String> {
        let until = (*self.away.lock())?;
        (now < until).then(|| "it did not answer a moment ago".to_owned())
    }

    fn went_away(&self, now: Timestamp, why: &str) {
        let mut away = self.away.lock();
        if away.is_none_or(|until| now >= until) {
            warn!(
                why,
                "the API server is away: tokens are checked by its keys alone, and pods that are gone are not noticed"
            );
            *away = Some(now + AWAY);
        }
    }

    async fn review(&self, text: &str, says: &Pod) -> Review {
        let reviews = Api::<TokenReview>::all(self.client.clone());
        let question = TokenReview {
            spec: TokenReviewSpec { token: Some(text.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) },
            ..TokenReview::default()
        };
        let status = match timeout(PATIENCE, reviews.create(&PostParams::default(), &question)).await {
            Ok(Ok(review)) => review.status.unwrap_or_default(),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403 | 404 | 422) => {
                warn!(
                    why = status.message,
                    "the API server does not review tokens for Weir; the chart gives it the right"
                );
                return Review::Forbidden(status.message);
            }
            Ok(Err(error)) => return Review::Away(cause(&error)),
            Err(_) => return Review::Away(format!("no answer within {PATIENCE:?}")),
        };
        if status.authenticated != Some(true) || !status.audiences.iter().flatten().any(|name| name == AUDIENCE) {
            let why = status.error.unwrap_or_else(|| "the API server does not know it".to_owned());
            return Review::Bad(format!("the API server refuses it: {why}"));
        }
        let user = status.user.unwrap_or_default();
        let account = user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:"));
        let namespace = account.and_then(|account| account.split_once(':')).map(|(namespace, _)| namespace);
        let pod = user.extra.as_ref().and_then(|extra| extra.get("authentication.kubernetes.io/pod-name")?.first());
        match (namespace, pod) {
            (Some(namespace), Some(name)) => {
                Review::Good(Pod { namespace: namespace.to_owned(), name: name.clone(), until: says.until })
            }
            _ => Review::Bad("the token is of no pod's service account".to_owned()),
        }
    }

    async fn fetch_keys(&self) -> Result<Keys, String> {
        let get = async |path: &str| {
            let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
            let answer = timeout(PATIENCE, self.client.request_text(request)).await;
            let answer = answer.map_err(|_| format!("{path}: no answer within {PATIENCE:?}"))?;
            answer.map_err(|error| format!("{path}: {}", cause(&error)))
        };
        let configuration = get("/.well-known/openid-configuration").await?;
        let keys = get("/openid/v1/jwks").await?;
        Keys::read(&configuration, &keys).map_err(|error| format!("the keys: {error}"))
    }
}

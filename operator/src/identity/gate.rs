//! Lets callers in, or says why not: once in the log, once in the metrics, and to the caller itself.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tonic::{Code, Request, Status, metadata::MetadataMap};
use tracing::{debug, warn};

use super::{Caller, Meters, Refusal, tls::Peer, tokens::Tokens};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate(Option<Arc<Guard>>);

struct Guard {
    tokens: Option<Tokens>,
    meters: Meters,
    /// When each reason was last told in the log, and how often it has come since.
    told: Mutex<BTreeMap<&'static str, (Instant, u64)>>,
}

/// Refusals are told at most this often for each reason: whoever is refused comes again twice a second, and anybody may.
const TELL: Duration = Duration::from_secs(1);

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("tokens", &self.tokens.is_some()).finish_non_exhaustive()
    }
}

/// What a caller has shown before it said anything. Holds a secret, so it cannot be printed.
pub struct Shown {
    token: Option<String>,
    peer: Option<Peer>,
}

impl Shown {
    /// Of a request, before its messages are read.
    #[must_use]
    pub fn of<T>(request: &Request<T>) -> Self {
        Self { token: bearer(request.metadata()), peer: request.extensions().get::<Peer>().cloned() }
    }

    /// Where the caller is, for logs.
    #[must_use]
    pub fn peer(&self) -> String {
        let address = self.peer.as_ref().map(|peer| peer.address);
        address.map_or_else(String::new, |address| address.map_or_else(|| "unix".to_owned(), |it| it.to_string()))
    }
}

fn bearer(metadata: &MetadataMap) -> Option<String> {
    let (scheme, token) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

impl Gate {
    /// Lets everybody in.
    #[must_use]
    pub const fn open() -> Self {
        Self(None)
    }

    pub(super) fn new(tokens: Option<Tokens>, meters: Meters) -> Self {
        Self(Some(Arc::new(Guard { tokens, meters, told: Mutex::default() })))
    }

    /// Who that is.
    ///
    /// # Errors
    ///
    /// Nobody knows, and so it gets nothing.
    pub async fn admit(&self, shown: Shown) -> Result<Caller, Status> {
        let Some(guard) = &self.0 else { return Ok(Caller::Anybody) };
        let pod = match (shown.peer.as_ref().and_then(|peer| peer.certificate.clone()), &shown.token, &guard.tokens) {
            (Some(certificate), ..) => certificate.inspect(|_| guard.meters.accepted("certificate")),
            // Boxed: a stream lives for days, and would keep the room for this question.
            (None, Some(token), Some(tokens)) => Box::pin(tokens.check(token)).await,
            (None, ..) => Err(Refusal::Absent),
        };
        match pod {
            Ok(pod) if pod.until > Timestamp::now() => {
                shown.peer.inspect(|peer| peer.welcome());
                Ok(Caller::Pod(pod))
            }
            Ok(_) => Err(guard.refuse(&Refusal::Invalid("it has expired".to_owned()), &shown.peer())),
            Err(refusal) => Err(guard.refuse(&refusal, &shown.peer())),
        }
    }

    /// Whether the caller may speak and hear for this pod.
    ///
    /// # Errors
    ///
    /// It is another one.
    pub fn claim(&self, caller: &Caller, namespace: &str, pod: &str) -> Result<(), Status> {
        let claimed = caller.may_be(namespace, pod);
        claimed.map_err(|refusal| match &self.0 {
            Some(guard) => guard.refuse(&refusal, ""),
            None => status(&refusal),
        })
    }
}

impl Guard {
    fn refuse(&self, refusal: &Refusal, peer: &str) -> Status {
        let reason = refusal.reason();
        self.meters.refused(reason);
        match self.tells(reason) {
            Some(untold) => warn!(reason, peer, %refusal, untold, "a caller gets nothing"),
            None => debug!(reason, peer, %refusal, "a caller gets nothing"),
        }
        status(refusal)
    }

    /// Whether this is to be told, with how many were not since the last.
    fn tells(&self, reason: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut told = self.told.lock();
        match told.get_mut(reason) {
            Some((last, untold)) if now.duration_since(*last) < TELL => {
                *untold += 1;
                None
            }
            before => {
                let untold = before.map_or(0, |(_, untold)| *untold);
                told.insert(reason, (now, 0));
                Some(untold)
            }
        }
    }
}

/// Envoy logs the message and connects again with its backoff, whatever the code is.
fn status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Absent | Refusal::Invalid(_) => Code::Unauthenticated,
        Refusal::Unknown(_) => Code::Unavailable,
        Refusal::Another { .. } => Code::PermissionDenied,
    };
    Status::new(code, refusal.to_string())
}

impl Caller {
    /// Waits until its proof is no longer good; what the stream then ends with, so that it comes again with a new one.
    pub async fn expired(&self) -> Status {
        let Self::Pod(pod) = self else { return std::future::pending().await };
        loop {
            let left = Timestamp::now().duration_until(pod.until);
            if left.is_negative() || left.is_zero() {
                return Status::unavailable(
                    "the credential of this stream has expired; connect again with the new one",
                );
            }
            // In steps, so that a clock that is set is noticed.
            tokio::time::sleep(Duration::try_from(left).unwrap_or_default().min(Duration::from_secs(30))).await;
        }
    }
}

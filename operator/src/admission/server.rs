//! HTTPS for the API server: three paths, bounded in size, time and number.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionReview},
};
use limiter::policy::tenants::Tenants;
use tokio::{
    net::TcpListener,
    sync::{Mutex, OwnedMutexGuard, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Ask, Meters, Sidecars, Sound, pods,
    review::{self, Verdict},
};
use crate::{
    identity::{
        Held, secret_word,
        tls::{self, Connection, Tls},
    },
    inject::Asked,
};

/// An object is at most 1.5 MiB where it is stored; of an update there are two.
const LARGEST: usize = 4 << 20;
/// For the body of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the head of a request, which is also how long a connection may be idle.
const IDLE: Duration = Duration::from_secs(60);
/// Connections at the same time. The API server needs one or two.
const CONNECTIONS: usize = 32;
/// How long an answer waits for the builder: it goes without its warnings then.
const WARNINGS: Duration = Duration::from_millis(200);

/// What an answer is made of.
#[derive(Clone, Debug)]
pub(super) struct Reviewer {
    pub(super) asks_tx: mpsc::Sender<Ask>,
    pub(super) meters: Meters,
    pub(super) namespaces: Arc<[String]>,
    pub(super) tenants: Arc<Tenants>,
    pub(super) sidecars: Arc<Sidecars>,
    /// One object is read at a time, so that large ones do not add up: as a tree an object takes many times its text.
    pub(super) turn: Arc<Mutex<()>>,
}

/// Serves until `shutdown`, then lets what is asked be answered.
pub(super) async fn serve(listener: TcpListener, held: Held, reviewer: Reviewer, shutdown: CancellationToken) {
    let tls = match Tls::webhook(held) {
        Ok(tls) => tls,
        Err(error) => {
            error!(%error, "the webhook cannot speak TLS");
            return shutdown.cancelled().await;
        }
    };
    let router = Router::new()
        .route("/validate", post(validate))
        .route("/inject", post(inject_asking))
        .route("/inject/all", post(inject_all))
        .with_state(reviewer);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut incoming = pin!(tls::incoming(listener.into(), Some(tls), shutdown.clone()));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, incoming.next().await)
        };
        let (place, stream) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            (place, Some(Ok(stream))) = next => (place, stream),
        };
        let connection = connection(stream, router.clone(), shutdown.clone());
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: Connection, router: Router, shutdown: CancellationToken) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection to the webhook ended");
    }
}

async fn inject_asking(State(reviewer): State<Reviewer>, body: Body) -> Response {
    reviewer.inject(Asked::ByPod, body).await
}

async fn inject_all(State(reviewer): State<Reviewer>, body: Body) -> Response {
    reviewer.inject(Asked::ForAll, body).await
}

async fn validate(State(reviewer): State<Reviewer>, body: Body) -> Response {
    let (request, turn) = match reviewer.question(body).await {
        Ok(question) => question,
        Err(refusal) => return refusal.answer(|result| reviewer.meters.count(result)),
    };
    let verdict = review::judge(&request, &reviewer.tenants);
    let request = AdmissionRequest { object: None, old_object: None, ..request };
    drop(turn);
    let warnings = match &verdict {
        Verdict::Good(object) => reviewer.warnings(object.clone()).await,
        _ => Vec::new(),
    };
    let (response, result) = review::answer(&request, &verdict, warnings);
    reviewer.meters.count(result);
    debug!(namespace = request.namespace, name = request.name, dry_run = request.dry_run, result, "reviewed");
    Json(response.into_review()).into_response()
}

fn read(bytes: &[u8]) -> Result<AdmissionRequest<DynamicObject>, String> {
    let review = serde_json::from_slice::<AdmissionReview<DynamicObject>>(bytes).map_err(|error| error.to_string())?;
    review.try_into().map_err(|_| "there is no request in it".to_owned())
}

/// Why a question cannot be answered.
struct Unreadable(StatusCode, String);

impl Unreadable {
    fn answer(self, count: impl FnOnce(&'static str)) -> Response {
        let Self(code, why) = self;
        count("unreadable");
        debug!(%why, "a question to the webhook cannot be answered");
        (code, [(header::CONNECTION, "close")], why).into_response()
    }
}

impl Reviewer {
    /// Reads the question of a request. Others wait with theirs until the guard is dropped.
    async fn question(&self, body: Body) -> Result<(AdmissionRequest<DynamicObject>, OwnedMutexGuard<()>), Unreadable> {
        let bytes = match timeout(PATIENCE, axum::body::to_bytes(body, LARGEST)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                return Err(Unreadable(StatusCode::PAYLOAD_TOO_LARGE, format!("more than {LARGEST} bytes: {error}")));
            }
            Err(_) => {
                return Err(Unreadable(StatusCode::REQUEST_TIMEOUT, format!("the body took longer than {PATIENCE:?}")));
            }
        };
        let turn = Arc::clone(&self.turn).lock_owned().await;
        match read(&bytes) {
            Ok(request) => Ok((request, turn)),
            Err(why) => Err(Unreadable(StatusCode::BAD_REQUEST, format!("expected an AdmissionReview: {why}"))),
        }
    }

    async fn inject(&self, asked: Asked, body: Body) -> Response {
        let (request, turn) = match self.question(body).await {
            Ok(question) => question,
            Err(refusal) => return refusal.answer(|result| self.meters.count_pod(result)),
        };
        let (response, result, why) = pods::answer(&request, asked, &secret_word(), &self.sidecars, &self.namespaces);
        drop(turn);
        self.meters.count_pod(result);
        let name = pods::name(&request);
        let namespace = request.namespace.as_deref().unwrap_or_default();
        match result {
            "refused" => warn!(namespace, name, why, "a pod that asks for a sidecar has none"),
            "injected" => info!(namespace, name, dry_run = request.dry_run, "a pod gets a sidecar"),
            _ => debug!(namespace, name, result, "a pod stays as it is"),
        }
        Json(response.into_review()).into_response()
    }

    /// What is odd about an object; nothing when the builder does not say so soon.
    async fn warnings(&self, object: Sound) -> Vec<String> {
        let (namespace, what) = match &object {
            Sound::Policy(policy) => (&policy.key.namespace, "policy"),
            Sound::Lazy(lazy) => (&lazy.key.namespace, "configuration"),
            Sound::Split(split) => (&split.key.namespace, "split"),
        };
        if !self.namespaces.is_empty() && !self.namespaces.contains(namespace) {
            return vec![format!("Weir does not watch the namespace {namespace}: the {what} has no effect there")];
        }
        let answer = async {
            let (reply_tx, reply_rx) = oneshot::channel();
            self.asks_tx.send(Ask { object, reply_tx }).await.ok()?;
            reply_rx.await.ok()
        };
        timeout(WARNINGS, answer).await.ok().flatten().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;

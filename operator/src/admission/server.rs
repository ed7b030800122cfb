//! HTTPS for the API server: one path, bounded in size, time and number.

use std::{sync::Arc, time::Duration};

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
use rustls::{ServerConfig, crypto::ring};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    Ask, Meters,
    review::{self, Verdict},
};
use crate::identity::Held;

/// An object is at most 1.5 MiB where it is stored; of an update there are two.
const LARGEST: usize = 4 << 20;
/// For a handshake, and for the body of a request.
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
    /// One object is read at a time, so that large ones do not add up: as a tree an object takes many times its text.
    pub(super) turn: Arc<Mutex<()>>,
}

/// Serves until `shutdown`, then lets what is asked be answered.
pub(super) async fn serve(listener: TcpListener, held: Held, reviewer: Reviewer, shutdown: CancellationToken) {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_no_client_auth().with_cert_resolver(Arc::new(held)));
    let tls = match config {
        Ok(config) => TlsAcceptor::from(Arc::new(config)),
        Err(error) => {
            error!(%error, "the webhook cannot speak TLS");
            return shutdown.cancelled().await;
        }
    };
    let router = Router::new().route("/validate", post(validate)).with_state(reviewer);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => (place, stream),
                Err(error) => {
                    // Out of file descriptors, for one: there will be some again.
                    warn!(%error, "the webhook cannot take a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let connection = connection(stream, tls.clone(), router.clone(), shutdown.clone());
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, router: Router, shutdown: CancellationToken) {
    let handshake = timeout(PATIENCE, tls.accept(stream));
    let stream = match shutdown.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err(error))) => return debug!(%error, "a TLS handshake with the webhook failed"),
        Some(Err(_)) | None => return,
    };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
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

async fn validate(State(reviewer): State<Reviewer>, body: Body) -> Response {
    let refuse = |code: StatusCode, why: String| {
        reviewer.meters.count("unreadable");
        debug!(%why, "a question to the webhook cannot be answered");
        (code, [(header::CONNECTION, "close")], why).into_response()
    };
    let bytes = match timeout(PATIENCE, axum::body::to_bytes(body, LARGEST)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, format!("more than {LARGEST} bytes: {error}")),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, format!("the body took longer than {PATIENCE:?}")),
    };
    let turn = reviewer.turn.lock().await;
    let request = match read(&bytes) {
        Ok(request) => request,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, format!("expected an AdmissionReview: {why}")),
    };
    let verdict = review::judge(&request, &reviewer.tenants);
    let request = AdmissionRequest { object: None, old_object: None, ..request };
    drop((turn, bytes));
    let warnings = match &verdict {
        Verdict::Good(policy) => reviewer.warnings(policy.clone()).await,
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

impl Reviewer {
    /// What is odd about a policy; nothing when the builder does not say so soon.
    async fn warnings(&self, policy: Box<limiter::policy::Policy>) -> Vec<String> {
        let namespace = &policy.key.namespace;
        if !self.namespaces.is_empty() && !self.namespaces.contains(namespace) {
            return vec![format!("Weir does not watch the namespace {namespace}: the policy has no effect there")];
        }
        let answer = async {
            let (reply_tx, reply_rx) = oneshot::channel();
            self.asks_tx.send(Ask { policy, reply_tx }).await.ok()?;
            reply_rx.await.ok()
        };
        timeout(WARNINGS, answer).await.ok().flatten().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;

//! The admin page: health, readiness, Prometheus metrics, the status of every object as JSON, and the kill switch.

mod desk;
pub mod pauses;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::IntoResponse,
    routing::{get, post},
    serve::ListenerExt,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::desk::{Origin, Reception};
use crate::{app::Question, identity::Desk};

/// What the page shows.
#[derive(Clone, Debug)]
pub struct Page {
    /// Weir's own metrics.
    pub registry: Arc<Registry>,
    /// Asks the builder what is so.
    pub question_tx: mpsc::Sender<Question>,
    /// Asks the builder to move the kill switch.
    pub pause_tx: mpsc::Sender<pauses::PauseRequest>,
    /// Whether everything was read and built once.
    pub ready_rx: watch::Receiver<bool>,
    /// Cancelled when this Weir begins to leave.
    pub leaving: CancellationToken,
}

/// Serves the page until `shutdown`: health to anybody, the rest to whom the desk lets read it.
pub async fn serve(listener: TcpListener, desk: Desk, page: Page, shutdown: CancellationToken) {
    let Desk { readers, tls } = desk;
    let reception = match Reception::open(listener, tls, shutdown.clone()) {
        Ok(reception) => reception,
        Err(error) => return warn!(%error, "the admin page has no address"),
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/pause", get(pauses::look).post(pauses::pause))
        .route("/resume", post(pauses::resume))
        .route_layer(middleware::from_fn_with_state(readers, desk::admit))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(page)
        .into_make_service_with_connect_info::<Origin>();
    // Only what is tapped tells axum where a connection comes from.
    let served = axum::serve(reception.tap_io(|_| {}), router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
    if let Err(error) = served {
        warn!(%error, "the admin page ended");
    }
}

async fn ready(State(page): State<Page>) -> (StatusCode, &'static str) {
    if page.leaving.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: this replica is leaving\n")
    } else if *page.ready_rx.borrow() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: not everything has been read and built yet\n")
    }
}

async fn metrics(State(page): State<Page>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &page.registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(page): State<Page>) -> impl IntoResponse {
    let (reply_tx, reply_rx) = oneshot::channel();
    if page.question_tx.send(Question::Status(reply_tx)).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "weir is stopping\n").into_response();
    }
    match reply_rx.await {
        Ok(status) => Json(status).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "weir is stopping\n").into_response(),
    }
}

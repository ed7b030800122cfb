//! `GET /pause`, `POST /pause` and `POST /resume`: the kill switch. Each answers with how far it has come among the proxies.
//!
//! Only a POST changes something, and only one from this machine that no web page has sent; in a cluster only with a token, too.

use std::net::SocketAddr;

use axum::{
    Json,
    extract::{ConnectInfo, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::oneshot;
use tracing::warn;

use super::{Page, desk::Origin};
use crate::{
    app::Question,
    build::Builder,
    intent::ServiceKey,
    status::pauses::{Progress, progress},
    xds::proxies::Proxies,
};

/// What to do with the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Enforce nothing.
    Pause,
    /// Enforce again.
    Resume,
}

/// Asks the builder to move the switch.
#[derive(Debug)]
pub struct PauseRequest {
    /// What to do.
    pub switch: Switch,
    /// With one service; absent: with everything.
    pub service: Option<ServiceKey>,
    /// Where the answer goes.
    pub reply_tx: oneshot::Sender<Result<Progress, Refused>>,
}

/// Asks the builder how far it has come. Anybody may, so that it waits for whatever else there is to do.
#[derive(Debug)]
pub struct LookRequest {
    /// Of one service; absent: of everything.
    pub service: Option<ServiceKey>,
    /// Where the answer goes.
    pub reply_tx: oneshot::Sender<Result<Progress, Refused>>,
}

/// Why the switch was not moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A service of this name is neither known nor paused.
    #[error("there is no Service {0}; `weir status` lists the policies with their targets")]
    Unknown(ServiceKey),
    /// One service cannot be resumed while everything is paused.
    #[error("everything is paused, Service {0} with it: `weir resume` without --service resumes everything")]
    AllPaused(ServiceKey),
}

/// Moves the switch and says how far that has come. Doing it again changes nothing.
///
/// # Errors
/// When the service is not known, or is paused with all others.
pub fn switch(
    builder: &mut Builder,
    proxies: &Proxies,
    switch: Switch,
    service: Option<&ServiceKey>,
    now: Timestamp,
) -> Result<Progress, Refused> {
    let mut pauses = builder.pauses().clone();
    known(builder, service)?;
    match (switch, service) {
        (Switch::Pause, None) => pauses.all = true,
        (Switch::Pause, Some(service)) => {
            pauses.services.insert(service.clone());
        }
        (Switch::Resume, None) => pauses = Default::default(),
        (Switch::Resume, Some(service)) if pauses.all => return Err(Refused::AllPaused(service.clone())),
        (Switch::Resume, Some(service)) => {
            pauses.services.remove(service);
        }
    }
    if pauses != *builder.pauses() {
        let services: Vec<_> = pauses.services.iter().map(ToString::to_string).collect();
        warn!(all = pauses.all, services = services.join(", "), "an operator has moved the kill switch");
        builder.set_pauses(pauses, now);
    }
    Ok(progress(builder, proxies, service))
}

/// Says how far it has come.
///
/// # Errors
/// When the service is not known.
pub fn look_at(builder: &Builder, proxies: &Proxies, service: Option<&ServiceKey>) -> Result<Progress, Refused> {
    known(builder, service)?;
    Ok(progress(builder, proxies, service))
}

fn known(builder: &Builder, service: Option<&ServiceKey>) -> Result<(), Refused> {
    match service {
        Some(service) if builder.index().service(service).is_none() && !builder.pauses().services.contains(service) => {
            Err(Refused::Unknown(service.clone()))
        }
        _ => Ok(()),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    service: Option<String>,
}

pub(super) async fn look(State(page): State<Page>, Query(parameters): Query<Parameters>) -> Response {
    ask(&page, None, parameters).await
}

pub(super) async fn pause(
    State(page): State<Page>,
    ConnectInfo(origin): ConnectInfo<Origin>,
    headers: HeaderMap,
    Query(parameters): Query<Parameters>,
) -> Response {
    match lock(origin.address, &headers) {
        None => ask(&page, Some(Switch::Pause), parameters).await,
        Some(refused) => refused,
    }
}

pub(super) async fn resume(
    State(page): State<Page>,
    ConnectInfo(origin): ConnectInfo<Origin>,
    headers: HeaderMap,
    Query(parameters): Query<Parameters>,
) -> Response {
    match lock(origin.address, &headers) {
        None => ask(&page, Some(Switch::Resume), parameters).await,
        Some(refused) => refused,
    }
}

/// Refuses what may not change anything. Browsers say which page a POST comes from, other clients do not.
fn lock(peer: SocketAddr, headers: &HeaderMap) -> Option<Response> {
    let reason = if !peer.ip().to_canonical().is_loopback() {
        "this is taken from the machine itself only: run `weir pause` or `weir resume` there\n"
    } else if headers.contains_key(header::ORIGIN) {
        "this is not taken from web pages\n"
    } else {
        return None;
    };
    Some((StatusCode::FORBIDDEN, reason).into_response())
}

async fn ask(page: &Page, switch: Option<Switch>, parameters: Parameters) -> Response {
    let service = match parameters.service.as_deref().map(str::parse) {
        None => None,
        Some(Ok(service)) => Some(service),
        Some(Err(error)) => return (StatusCode::BAD_REQUEST, format!("service: {error}\n")).into_response(),
    };
    let (reply_tx, reply_rx) = oneshot::channel();
    let stopping = || (StatusCode::SERVICE_UNAVAILABLE, "weir is stopping\n").into_response();
    let taken = match switch {
        Some(switch) => page.pause_tx.send(PauseRequest { switch, service, reply_tx }).await.is_ok(),
        None => page.question_tx.send(Question::Pauses(LookRequest { service, reply_tx })).await.is_ok(),
    };
    if !taken {
        return stopping();
    }
    match reply_rx.await {
        Ok(Ok(progress)) => Json(progress).into_response(),
        Ok(Err(refused @ Refused::Unknown(_))) => (StatusCode::NOT_FOUND, format!("{refused}\n")).into_response(),
        Ok(Err(refused @ Refused::AllPaused(_))) => (StatusCode::CONFLICT, format!("{refused}\n")).into_response(),
        Err(_) => stopping(),
    }
}

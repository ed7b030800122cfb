//! Who reads the admin page: connections with or without TLS, and the token of each request.

use std::{io, net::SocketAddr, pin::Pin};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    serve::Listener,
};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::identity::{
    Denied, Readers,
    tls::{self, Connection, Tls},
};

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    pub(super) encrypted: bool,
}

/// Takes connections for axum.
pub(super) struct Reception {
    incoming: Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>,
    own: SocketAddr,
}

impl Reception {
    pub(super) fn open(listener: TcpListener, tls: Option<Tls>, shutdown: CancellationToken) -> io::Result<Self> {
        let own = listener.local_addr()?;
        Ok(Self { incoming: Box::pin(tls::incoming(listener.into(), tls, shutdown)), own })
    }
}

impl Listener for Reception {
    type Io = Connection;
    type Addr = Origin;

    async fn accept(&mut self) -> (Connection, Origin) {
        match self.incoming.next().await {
            Some(Ok(connection)) => {
                let peer = connection.peer();
                // The page is served at addresses alone.
                let origin = Origin { address: peer.address.unwrap_or(self.own), encrypted: peer.encrypted };
                (connection, origin)
            }
            // It ends with Weir, which axum is told by another way.
            _ => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Origin> {
        Ok(Origin { address: self.own, encrypted: false })
    }
}

/// Lets a request through, or answers it.
pub(super) async fn admit(
    State(readers): State<Readers>,
    ConnectInfo(origin): ConnectInfo<Origin>,
    request: Request,
    next: Next,
) -> Response {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    let verb = request.method().as_str().to_ascii_lowercase();
    let near = origin.address.ip().to_canonical().is_loopback();
    let denied = match readers.check(near, origin.encrypted, token, &verb, request.uri().path()).await {
        Ok(()) => return next.run(request).await,
        Err(denied) => denied,
    };
    debug!(peer = %origin.address, path = request.uri().path(), %denied, "a reader gets nothing");
    let status = match denied {
        Denied::Unknown(_) => StatusCode::UNAUTHORIZED,
        Denied::Far | Denied::PlainText | Denied::Forbidden { .. } => StatusCode::FORBIDDEN,
        Denied::Away(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let challenge = (status == StatusCode::UNAUTHORIZED).then_some([(header::WWW_AUTHENTICATE, "Bearer")]);
    match challenge {
        Some(challenge) => (status, challenge, format!("{denied}\n")).into_response(),
        None => (status, format!("{denied}\n")).into_response(),
    }
}

//! The demonstration, and its reusable parts: real Envoys, a service that overloads, an open-loop load.

pub mod args;
pub mod envoy;
pub mod load;
pub mod process;
pub mod service;

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// GET over plain HTTP/1.1: status and text (at most 64 MiB).
pub(crate) async fn get(address: SocketAddr, path: &str, patience: Duration) -> anyhow::Result<(u16, String)> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot reach {address}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header(http::header::HOST, address.to_string()).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), 64 << 20).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    tokio::time::timeout(patience, exchange)
        .await
        .with_context(|| format!("http://{address}{path} did not answer within {} ms", patience.as_millis()))?
}

/// A future that cancels `stop` at SIGINT or SIGTERM. Signals count from the call of this function on.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    })
}

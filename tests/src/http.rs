//! Small HTTP/1.1 requests to servers on loopback. For load, use the demo's open-loop generator instead.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// Asks for `path` at `address` over a connection of its own.
///
/// # Errors
///
/// When the server cannot be reached or breaks off its answer. A status like 429 is an answer, not an error.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<http::Response<Bytes>> {
    let request = http::Request::get(format!("http://{address}{path}")).body(Full::default())?;
    send(request).await
}

/// Sends any request over a connection of its own.
///
/// # Errors
///
/// As [`get`].
pub async fn send(request: http::Request<Full<Bytes>>) -> anyhow::Result<http::Response<Bytes>> {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let uri = request.uri().clone();
    let (head, body) = client.request(request).await.with_context(|| format!("{uri}"))?.into_parts();
    let body = body.collect().await.with_context(|| format!("the body of {uri}"))?.to_bytes();
    Ok(http::Response::from_parts(head, body))
}

/// Asks for `path` at `address` and reads the answer as JSON.
///
/// # Errors
///
/// As [`get`], and for any status but 200 or a body that is not JSON, with the body in the message.
pub async fn get_json(address: SocketAddr, path: &str) -> anyhow::Result<serde_json::Value> {
    let response = get(address, path).await?;
    let text = String::from_utf8_lossy(response.body());
    anyhow::ensure!(response.status() == http::StatusCode::OK, "{path}: {}: {text}", response.status());
    serde_json::from_str(&text).with_context(|| format!("{path} is not JSON: {text}"))
}

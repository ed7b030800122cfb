//! Small HTTP/1.1 requests to servers on loopback. For load, use the demo's open-loop generator instead.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::{TcpSocket, TcpStream};

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

/// One connection that is kept. It is never opened again: once it is closed, every request fails.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Connects, from the address `source` if one is given.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached, or `source` is not an address of this machine.
    pub async fn open(address: SocketAddr, source: Option<IpAddr>) -> anyhow::Result<Self> {
        let stream = match source {
            None => TcpStream::connect(address).await,
            Some(source) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind((source, 0).into())?;
                socket.connect(address).await
            }
        };
        let stream = stream.with_context(|| format!("connecting to {address} from {source:?}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender.
        tokio::spawn(connection);
        Ok(Self { sender, host: address.to_string() })
    }

    /// Sends one request (only its path counts of the URI; its host is the address unless it has a header that says another) and waits for the whole answer.
    ///
    /// # Errors
    ///
    /// When the connection is closed or breaks.
    pub async fn send(&mut self, mut request: http::Request<Full<Bytes>>) -> anyhow::Result<http::Response<Bytes>> {
        self.sender.ready().await.context("the connection is closed")?;
        request.headers_mut().entry(http::header::HOST).or_insert(self.host.parse()?);
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok(http::Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    /// GETs `path`: the status.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub async fn get(&mut self, path: &str) -> anyhow::Result<u16> {
        let response = self.send(http::Request::get(path).body(Full::default())?).await?;
        Ok(response.status().as_u16())
    }

    /// GETs `path` so many times, one after the other: how many were answered 200, and how many 429.
    ///
    /// # Errors
    ///
    /// As [`Self::send`], and for any other status.
    pub async fn burst(&mut self, path: &str, requests: usize) -> anyhow::Result<(usize, usize)> {
        let (mut admitted, mut refused) = (0, 0);
        for _ in 0..requests {
            match self.get(path).await? {
                200 => admitted += 1,
                429 => refused += 1,
                other => anyhow::bail!("{path}: answered {other}"),
            }
        }
        Ok((admitted, refused))
    }
}

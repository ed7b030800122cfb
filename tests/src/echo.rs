//! A scripted application that speaks HTTP/1.1, HTTP/2 without TLS and gRPC, all at one address, and tells what came to it.
//!
//! Of gRPC it serves two methods; a message is a `google.protobuf.StringValue`, as prost makes it of a [`String`]. What a call has of
//! messages each way is not told on the wire, so a client may call [`WORDS`] with one message or with many.

use std::{convert::Infallible, future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_stream::Stream;
use tonic::{Code, Status, Streaming, body::Body, server::StreamingService};
use tonic_prost::ProstCodec;

/// Takes words until the client has said all, then answers one message with all of them.
pub const WORDS: &str = "/test.Echo/Words";
/// Takes one word, a number of milliseconds, and is silent for so long before it says anything at all, headers included; then it
/// answers [`LATE`].
pub const MUTE: &str = "/test.Echo/Mute";
/// As [`MUTE`], but it sends its headers at once.
pub const SLOW: &str = "/test.Echo/Slow";
/// The word that comes after silence.
pub const LATE: &str = "late";

/// A running application. Stopped when dropped, its open connections too.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    ends: Arc<Mutex<Code>>,
    task: JoinHandle<()>,
}

impl Echo {
    /// Starts on `address`.
    ///
    /// # Panics
    ///
    /// When the address is taken.
    pub async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().expect("a bound listener has an address");
        let ends = Arc::new(Mutex::new(Code::Ok));
        let of_calls = Arc::clone(&ends);
        let task = tokio::spawn(async move {
            // Aborted with the task that owns it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let ends = Arc::clone(&of_calls);
                connections.spawn(async move {
                    let answer = service_fn(|request| answer(request, *ends.lock()));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // Who breaks off gets no answer.
                    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { address, ends, task }
    }

    /// From now on calls of [`WORDS`] end with this code, after their answer.
    pub fn ends(&self, code: Code) {
        *self.ends.lock() = code;
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is answered to a request that is no gRPC, came in this version and had this body.
#[must_use]
pub fn summary(version: http::Version, body: &[u8]) -> String {
    let mut digest = Context::new(&SHA256);
    digest.update(body);
    written(version, body.len(), digest)
}

fn written(version: http::Version, length: usize, digest: Context) -> String {
    format!("{version:?} {length} {}", BASE64_STANDARD.encode(digest.finish()))
}

async fn answer(request: Request<Incoming>, ends: Code) -> Result<Response<Body>, Infallible> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let method = request.uri().path().to_owned();
        let codec = ProstCodec::<String, String>::default();
        return Ok(tonic::server::Grpc::new(codec).streaming(Method(method, ends), request).await);
    }
    let version = request.version();
    let (mut length, mut digest) = (0, Context::new(&SHA256));
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            let mut broken = Response::new(Body::empty());
            *broken.status_mut() = StatusCode::BAD_REQUEST;
            return Ok(broken);
        };
        if let Some(data) = frame.data_ref() {
            length += data.len();
            digest.update(data);
        }
    }
    Ok(Response::new(Body::new(Full::from(written(version, length, digest)))))
}

/// A method of gRPC, by its path, and how its calls end.
struct Method(String, Code);

impl StreamingService<String> for Method {
    type Response = String;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<String>>) -> Self::Future {
        let (method, ends) = (std::mem::take(&mut self.0), self.1);
        Box::pin(async move {
            let mut said = request.into_inner();
            let mut words = Vec::new();
            while let Some(word) = said.message().await? {
                words.push(word);
            }
            let silence = || {
                let millis = words.first().and_then(|word| word.parse().ok());
                millis.map(Duration::from_millis).ok_or_else(|| Status::invalid_argument("no number"))
            };
            let answers: Self::ResponseStream = match method.as_str() {
                WORDS => {
                    let end = (ends != Code::Ok).then(|| Err(Status::new(ends, "as it was told")));
                    Box::pin(tokio_stream::iter([Ok(words.join(" "))].into_iter().chain(end)))
                }
                MUTE => {
                    pass(silence()?).await;
                    Box::pin(tokio_stream::once(Ok(LATE.to_owned())))
                }
                SLOW => {
                    let silence = silence()?;
                    Box::pin(futures::stream::once(async move {
                        pass(silence).await;
                        Ok(LATE.to_owned())
                    }))
                }
                other => return Err(Status::unimplemented(other)),
            };
            Ok(tonic::Response::new(answers))
        })
    }
}

/// Nothing else to wait for: this is how long it has nothing to say.
async fn pass(silence: Duration) {
    let _ = timeout(silence, future::pending::<()>()).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Version, uri::PathAndQuery};
    use tokio::time::timeout;
    use tonic::{Code, client::Grpc, transport::Endpoint};
    use tonic_prost::ProstCodec;

    use super::{Echo, LATE, MUTE, SLOW, WORDS, summary};
    use crate::http::send;

    #[tokio::test]
    async fn tells_what_came_to_it() {
        let echo = Echo::start(([127, 0, 0, 1], 0).into()).await;
        let request = http::Request::post(format!("http://{}/", echo.address)).body("words".into()).unwrap();
        let answer = send(request).await.unwrap();
        assert_eq!(answer.body(), &summary(Version::HTTP_11, b"words"));
        assert_ne!(answer.body(), &summary(Version::HTTP_11, b"other"));

        let channel = Endpoint::try_from(format!("http://{}", echo.address)).unwrap().connect().await.unwrap();
        let codec = ProstCodec::<String, String>::default;
        let mut client = Grpc::new(channel);
        client.ready().await.unwrap();
        let words = tonic::Request::new(tokio_stream::iter(["a", "b"].map(str::to_owned)));
        let all = client.client_streaming(words, PathAndQuery::from_static(WORDS), codec()).await.unwrap();
        assert_eq!(all.into_inner(), "a b");
        for method in [MUTE, SLOW] {
            client.ready().await.unwrap();
            let request = tonic::Request::new("1".to_owned());
            let answers = client.server_streaming(request, PathAndQuery::from_static(method), codec()).await;
            let mut answers = answers.unwrap().into_inner();
            let first = timeout(Duration::from_secs(5), answers.message()).await.unwrap().unwrap();
            assert_eq!((first.as_deref(), answers.message().await.unwrap()), (Some(LATE), None));
        }
        let other = PathAndQuery::from_static("/test.Echo/Other");
        client.ready().await.unwrap();
        let refused = client.unary(tonic::Request::new(String::new()), other, codec()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    }
}

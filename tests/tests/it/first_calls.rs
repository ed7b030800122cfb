//! First calls of whatever protocol, where a `LazyConfig` has a proxy start with nothing: HTTP/1.1, HTTP/2, gRPC, and bodies that are
//! larger than what Envoy keeps of a connection.

use std::{collections::BTreeSet, convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Version, uri::PathAndQuery};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::BoxBody};
use hyper::{
    body::Frame,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use testkit::{
    echo::{self, Echo},
    eventually,
    mesh::{Service, lazy, put, without_proxy},
    proxy::Proxy,
    temp_dir,
    weir::Weir,
};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tonic::{Code, Status, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

const SOON: Duration = Duration::from_secs(30);
/// A large request: more than what Envoy keeps before it stops to read, which the test waits for. Of a stream of HTTP/2 it keeps more than of
/// a connection of HTTP/1.1.
const LARGE: usize = 8 << 20;
const LARGE_HTTP_2: usize = 20 << 20;
const PIECE: usize = 32 << 10;
/// Longer than Envoy's routes wait for a whole answer by default: 15 s.
const SILENCE: Duration = Duration::from_secs(20);

/// A caller whose proxy starts with nothing, and one application behind Services of many names, each of which is cold until it is called.
struct Shop {
    page: Service,
    weir: Weir,
    proxy: Proxy,
    _echo: Echo,
    _folder: tempfile::TempDir,
}

impl Shop {
    /// With these Services: their names, and what their ports are called, which says what is spoken there.
    async fn start(services: &[(&str, &str)]) -> Self {
        let folder = temp_dir();
        let page = Service::start("shop", "page", 1).await;
        put(folder.path(), "page.yaml", &page.calling());
        let echo = Echo::start((page.client(0), 0).into()).await;
        for (name, port) in services {
            put(folder.path(), &format!("{name}.yaml"), &without_proxy("shop", name, port, echo.address));
        }
        put(folder.path(), "lazy.yaml", &lazy("shop", "shop", "load: OnDemand"));
        let weir = Weir::start(folder.path(), &[]).await;
        let proxy = Proxy::start(&weir, &page, 0).await;
        assert_eq!(proxy.destinations().await, BTreeSet::new());
        Self { page, weir, proxy, _echo: echo, _folder: folder }
    }

    fn way_out(&self) -> SocketAddr {
        self.page.outbound(0)
    }

    async fn stat(&self, name: &str) -> u64 {
        self.proxy.stat(&format!("http.out_15001.{name}")).await
    }
}

/// A body in pieces, whose length is not said before.
fn pieces(whole: &Bytes) -> BoxBody<Bytes, Infallible> {
    let starts = (0..whole.len()).step_by(PIECE);
    let piece = |start: usize| Ok(Frame::data(whole.slice(start..whole.len().min(start + PIECE))));
    StreamBody::new(futures::stream::iter(starts.map(piece).collect::<Vec<_>>())).boxed()
}

/// Status and body of the answer to a request of this version, over a connection of its own. With a body it is a POST.
async fn send(way_out: SocketAddr, version: Version, host: &str, whole: Option<&Bytes>) -> (u16, String) {
    let stream = TokioIo::new(TcpStream::connect(way_out).await.unwrap());
    let method = if whole.is_some() { Method::POST } else { Method::GET };
    let body = whole.map_or_else(|| Empty::new().boxed(), pieces);
    let request = Request::builder().method(method);
    let answer = if version == Version::HTTP_2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        // Ends with the sender.
        tokio::spawn(connection);
        sender.send_request(request.uri(format!("http://{host}/")).body(body).unwrap()).await
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request.uri("/").header("host", host).body(body).unwrap()).await
    };
    let (head, body) = answer.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), String::from_utf8_lossy(&body).into_owned())
}

/// A client of gRPC whose calls go through the proxy, to this host.
pub(crate) async fn client(way_out: SocketAddr, host: &str) -> Grpc<tonic::transport::Channel> {
    let endpoint = Endpoint::try_from(format!("http://{way_out}")).unwrap();
    let mut client = Grpc::new(endpoint.origin(format!("http://{host}").parse().unwrap()).connect().await.unwrap());
    client.ready().await.unwrap();
    client
}

fn codec() -> ProstCodec<String, String> {
    ProstCodec::default()
}

/// All that the application has heard when it answers, sent as one message or, of several, as a stream.
pub(crate) async fn words(way_out: SocketAddr, host: &str, words: &[&str]) -> Result<String, Status> {
    let mut client = client(way_out, host).await;
    let path = PathAndQuery::from_static(echo::WORDS);
    let said: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let answer = match said.as_slice() {
        [one] => client.unary(tonic::Request::new(one.clone()), path, codec()).await,
        _ => client.client_streaming(tonic::Request::new(tokio_stream::iter(said)), path, codec()).await,
    };
    answer.map(tonic::Response::into_inner)
}

/// What the application says after this silence, all of it.
async fn after(
    way_out: SocketAddr,
    host: &str,
    method: &'static str,
    silence: Duration,
) -> Result<Vec<String>, Status> {
    let mut client = client(way_out, host).await;
    let request = tonic::Request::new(silence.as_millis().to_string());
    let answers = client.server_streaming(request, PathAndQuery::from_static(method), codec()).await?;
    let mut answers = answers.into_inner();
    let mut all: Vec<String> = Vec::new();
    while let Some(one) = answers.message().await? {
        all.push(one);
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn first_calls_of_every_protocol_are_held_and_served_whole() {
    const SERVICES: [(&str, &str); 9] = [
        ("one-one", "http"),
        ("two-one", "http"),
        ("two-two", "http2-web"),
        ("large-one-one", "http"),
        ("large-two-one", "http"),
        ("large-two-two", "http2-web"),
        ("unary", "grpc-api"),
        ("stream", "grpc-api"),
        ("silent", "grpc-api"),
    ];
    let shop = Shop::start(&SERVICES).await;
    let way_out = shop.way_out();
    // No two pieces are alike, so that none can be lost, doubled or moved.
    let mut numbers = Vec::with_capacity(LARGE_HTTP_2);
    (0..u32::MAX).take(LARGE_HTTP_2 / 4).for_each(|number| numbers.extend_from_slice(&number.to_le_bytes()));
    let larger = Bytes::from(numbers);

    // Weir stands still meanwhile, so that all of this is held for as long as it takes until bodies can go on no more.
    shop.weir.signal(Signal::SIGSTOP);
    let mut calls = JoinSet::new();
    for (host, version, body, upstream) in [
        ("one-one", Version::HTTP_11, None, Version::HTTP_11),
        ("two-one", Version::HTTP_2, None, Version::HTTP_11),
        ("two-two", Version::HTTP_2, None, Version::HTTP_2),
        ("large-one-one", Version::HTTP_11, Some(larger.slice(..LARGE)), Version::HTTP_11),
        ("large-two-one", Version::HTTP_2, Some(larger.clone()), Version::HTTP_11),
        ("large-two-two", Version::HTTP_2, Some(larger.clone()), Version::HTTP_2),
    ] {
        calls.spawn(async move {
            let found = send(way_out, version, host, body.as_ref()).await;
            (host, found, (200, echo::summary(upstream, body.as_deref().unwrap_or_default())))
        });
    }
    for (host, said) in [("unary", vec!["one"]), ("stream", vec!["a", "b", "c"])] {
        calls.spawn(async move {
            let found = words(way_out, host, &said).await;
            (host, (200, found.unwrap_or_else(|status| format!("{status:?}"))), (200, said.join(" ")))
        });
    }
    calls.spawn(async move {
        let found = after(way_out, "silent", echo::SLOW, Duration::ZERO).await;
        let found = found.map_or_else(|status| format!("{status:?}"), |words| words.join(" "));
        ("silent", (200, found), (200, echo::LATE.to_owned()))
    });
    eventually(SOON, "all calls are held, and Envoy reads no more of the three large ones", async || {
        let held = shop.stat("downstream_rq_active").await;
        let full = shop.stat("downstream_flow_control_paused_reading_total").await;
        if held == SERVICES.len() as u64 && full >= 3 { Ok(()) } else { Err(format!("{held} held, {full} full")) }
    })
    .await;
    assert!(calls.try_join_next().is_none(), "nobody can have been answered");
    shop.weir.signal(Signal::SIGCONT);
    let served = async {
        let mut wrong = Vec::new();
        while let Some(call) = calls.join_next().await {
            let (host, found, wanted) = call.unwrap();
            if found != wanted {
                wrong.push(format!("{host}: {found:?}, not {wanted:?}"));
            }
        }
        wrong
    };
    assert_eq!(timeout(SOON, served).await.expect("all are answered"), [""; 0]);
    let all = SERVICES.map(|(name, _)| format!("shop/{name}/80"));
    assert_eq!(shop.proxy.destinations().await, BTreeSet::from(all));

    // What is nothing is said in the caller's own terms.
    let refused = words(way_out, "nothing", &["one"]).await.unwrap_err();
    let said = "weir: no Service is known by this host";
    assert!(refused.code() == Code::Unimplemented && refused.message().starts_with(said), "{refused:?}");
    let (status, body) = send(way_out, Version::HTTP_2, "nothing.at.all", Some(&larger)).await;
    assert!(status == 404 && body.starts_with(said), "{status} {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_call_may_be_silent_for_longer_than_routes_wait_by_default() {
    let shop = Shop::start(&[("mute", "grpc-api"), ("slow", "grpc-api")]).await;
    let way_out = shop.way_out();
    // The first call of each host, and once that is under way one that is not held.
    let mut calls = JoinSet::new();
    for _ in ["first", "next"] {
        for (host, method) in [("mute", echo::MUTE), ("slow.shop", echo::SLOW)] {
            calls.spawn(async move { (host, after(way_out, host, method, SILENCE).await) });
        }
        eventually(SOON, "both hosts are there", async || {
            let there = shop.proxy.destinations().await;
            if there.len() == 2 { Ok(()) } else { Err(format!("{there:?}")) }
        })
        .await;
    }
    let answered = async {
        let mut answered = Vec::new();
        while let Some(call) = calls.join_next().await {
            let (host, words) = call.unwrap();
            answered.push((host, words.map_err(|status| format!("{status:?}"))));
        }
        answered.sort();
        answered
    };
    let answered = timeout(SILENCE + SOON, answered).await.expect("all are answered");
    assert_eq!(
        answered,
        ["mute", "mute", "slow.shop", "slow.shop"].map(|host| (host, Ok::<_, String>(vec![echo::LATE.to_owned()])))
    );
}

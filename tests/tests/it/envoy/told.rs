//! What a refused request is told, over HTTP/1.1 and as a gRPC call, and what is left alone.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use operator::intent::Protocol;
use testkit::{
    eventually,
    http::Connection,
    mesh::{Service, limiter, put},
    proxy::Proxy,
    temp_dir,
    weir::Weir,
    xds::Server,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";
const OVER_LIMIT: &str = "refused by weir: over the rate limit";
const QUEUE_FULL: &str = "refused by weir: the queue is full";

type Response = http::Response<Bytes>;

async fn get(connection: &mut Connection, path: &str) -> Response {
    connection.send(http::Request::get(path).body(Full::default()).unwrap()).await.unwrap()
}

/// GETs until one is answered so.
async fn answered(connection: &mut Connection, path: &str, status: u16) -> Response {
    for _ in 0..1000 {
        let response = get(connection, path).await;
        if response.status() == status {
            return response;
        }
    }
    panic!("{path} is never answered {status}");
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let mut values = response.headers().get_all(name).iter();
    let value = values.next().map(|value| value.to_str().unwrap());
    assert_eq!(values.next(), None, "{name} stands there twice");
    value
}

/// `Retry-After`, `RateLimit-Policy` and `RateLimit`.
fn told(response: &Response) -> [Option<&str>; 3] {
    ["retry-after", "ratelimit-policy", "ratelimit"].map(|name| header(response, name))
}

/// A call as gRPC clients make it: HTTP/2 without TLS, and the whole answer.
async fn call(address: SocketAddr, path: &str) -> Response {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        // An empty message.
        .body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 0])))
        .unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_says_by_whom_and_when_to_try_again_and_the_applications_own_is_left_alone() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    let rules = |few: &str, all: &str| {
        let rules = format!(
            "- name: few\n  matches: [{{path: {{type: PathPrefix, value: /few}}}}]\n  limit: {few}\n  burst: 1\n\
             - name: each-client\n  matches: [{{path: {{type: PathPrefix, value: /few}}}}]\n  limit: 900 requests per second per client ip per pod\n\
             - name: all\n  limit: {all}\n  burst: 50"
        );
        put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", &rules));
    };
    rules("5 requests per hour per pod", "20 requests per second per pod");
    let weir = Weir::start(folder.path(), &[]).await;
    let proxy = Proxy::start(&weir, &service, 0).await;
    weir.until(DEADLINE, "the policy is programmed", |status| status.programmed(KEY, 1)).await;
    let inbound = service.pods[0].inbound;
    let mut connection = Connection::open(inbound, None).await.unwrap();

    // The application's own, while nothing is refused.
    let own = get(&mut connection, "/answer/429").await;
    assert_eq!((own.status().as_u16(), told(&own), &own.body()[..]), (429, [None; 3], &b"ok\n"[..]));
    // Nor does an answer that is let through say anything.
    assert_eq!(told(&get(&mut connection, "/few").await), [None; 3]);

    let forged = "/few?%REQ(x-evil)%&q=%METADATA(ROUTE:rl:bucket-plain-0)%";
    for path in ["/few", forged] {
        let few = get(&mut connection, path).await;
        assert_eq!(few.status(), 429);
        assert_eq!(told(&few), [Some("720"), Some("\"weir\";q=5;w=3600"), Some("\"weir\";r=0;t=720")]);
        assert_eq!((header(&few, "content-type"), &few.body()[..]), (Some("text/plain"), OVER_LIMIT.as_bytes()));
        assert!(few.headers().keys().all(|name| !name.as_str().starts_with("x-ratelimit")), "{few:?}");
    }
    let all = answered(&mut connection, "/", 429).await;
    assert_eq!(told(&all), [Some("1"), Some("\"weir\";q=20;w=1"), Some("\"weir\";r=0;t=1")]);

    let refused = call(inbound, "/few.Service/Call").await;
    assert_ne!(refused.status(), 429);
    let refused = call(inbound, "/few/Call").await;
    assert_eq!(refused.status(), 200, "gRPC says it in grpc-status");
    assert_eq!(header(&refused, "grpc-status"), Some("8"), "RESOURCE_EXHAUSTED");
    assert!(header(&refused, "grpc-message").unwrap().starts_with("refused by weir"), "{refused:?}");
    assert_eq!((header(&refused, "retry-after"), refused.body().len()), (Some("720"), 0));

    // The numbers move with the limit, and the listener stays.
    let listeners = proxy.stat("listener_manager.lds.update_success").await;
    rules("30 requests per minute per pod", "7 requests per second per pod");
    weir.until(DEADLINE, "the change is programmed", |status| status.programmed(KEY, 2)).await;
    let few = answered(&mut connection, "/few", 429).await;
    assert_eq!(told(&few), [Some("2"), Some("\"weir\";q=30;w=60"), Some("\"weir\";r=0;t=2")]);
    let all = answered(&mut connection, "/", 429).await;
    assert_eq!(told(&all), [Some("1"), Some("\"weir\";q=7;w=1"), Some("\"weir\";r=0;t=1")]);
    assert_eq!(proxy.stat("listener_manager.lds.update_success").await, listeners);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_which_there_is_no_room_is_told_so() {
    let service = Service::start("ns-a", "checkout", 1).await;
    let server = Server::start();
    server.bound(&service, Some(1));
    let _proxy = Proxy::start_at(server.address, &service, 0, |_| {}).await;
    server.programmed(&service).await;
    let (inbound, app) = (service.pods[0].inbound, &service.pods[0].app);
    let mut connection = Connection::open(inbound, None).await.unwrap();
    let own = get(&mut connection, "/answer/503").await;
    assert_eq!((own.status().as_u16(), header(&own, "retry-after"), &own.body()[..]), (503, None, &b"ok\n"[..]));

    let one = tokio::spawn(async move { get(&mut Connection::open(inbound, None).await.unwrap(), "/hold").await });
    eventually(DEADLINE, "it is held", async || if app.held() == 1 { Ok(()) } else { Err(app.held()) }).await;
    let full = get(&mut connection, "/").await;
    assert_eq!((full.status().as_u16(), header(&full, "retry-after")), (503, Some("1")));
    assert_eq!((header(&full, "x-envoy-overloaded"), &full.body()[..]), (Some("true"), QUEUE_FULL.as_bytes()));
    assert_eq!(told(&full)[1..], [None; 2], "it is no quota");
    app.release();
    assert_eq!(one.await.unwrap().status(), 200);
}

/// An application that speaks HTTP/2 and answers when told; how many wait.
async fn http2_application() -> (SocketAddr, watch::Sender<bool>, watch::Receiver<usize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (release, released) = watch::channel(false);
    let (held_tx, held_rx) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (released, held_tx) = (released.clone(), held_tx.clone());
            let answer = service_fn(move |_| {
                let (mut released, held_tx) = (released.clone(), held_tx.clone());
                async move {
                    held_tx.send_modify(|held| *held += 1);
                    let _ = released.wait_for(|released| *released).await;
                    let response = http::Response::builder().header("content-type", "application/grpc");
                    Ok::<_, Infallible>(response.header("grpc-status", "0").body(Full::<Bytes>::default()).unwrap())
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
        }
    });
    (address, release, held_rx)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_for_which_there_is_no_room_is_unavailable() {
    let service = Service::start("ns-a", "checkout", 1).await;
    let (application, release, mut held) = http2_application().await;
    let server = Server::start();
    server.bound_at(&service, application, Protocol::Http2, Some(2));
    let _proxy = Proxy::start_at(server.address, &service, 0, |_| {}).await;
    server.programmed(&service).await;
    let inbound = service.pods[0].inbound;
    let waiting = [0, 1].map(|_| tokio::spawn(call(inbound, "/shop.Cart/Get")));
    tokio::time::timeout(DEADLINE, held.wait_for(|held| *held == 2)).await.expect("both are held").unwrap();
    for _ in 0..5 {
        let full = call(inbound, "/shop.Cart/Get").await;
        assert_eq!((full.status().as_u16(), header(&full, "grpc-status")), (200, Some("14")), "UNAVAILABLE: {full:?}");
        assert!(header(&full, "grpc-message").unwrap().starts_with("refused by weir"), "{full:?}");
        assert_eq!(header(&full, "retry-after"), Some("1"));
    }
    release.send_replace(true);
    for waited in waiting {
        assert_eq!(header(&waited.await.unwrap(), "grpc-status"), Some("0"));
    }
    assert_eq!(*held.borrow(), 2, "none of the others reached the application");
}

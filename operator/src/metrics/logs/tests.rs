//! Streams over real sockets, spoken by a client that says what it likes. What Envoy itself says is shown in `testkit`.

use std::time::Duration;

use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code,
    transport::{Server, server::TcpIncoming},
};

use super::{
    wire::{
        Common, HttpEntries, HttpEntry, HttpRequest, Identifier, Node,
        service::access_log_service_client::AccessLogServiceClient,
    },
    *,
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Weir {
    address: String,
    calls: mpsc::Receiver<Vec<Calls>>,
    meters: Meters,
    shutdown: CancellationToken,
}

async fn weir() -> Weir {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (calls_tx, calls) = mpsc::channel(1);
    let (meters, shutdown, outbox) = (Meters::default(), CancellationToken::new(), Arc::new(Outbox::default()));
    let routes = Routes::default();
    let routes = beside(routes, outbox.clone(), meters.clone(), Gate::open(), Table::new(), shutdown.clone());
    tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(TcpIncoming::from(listener)));
    tokio::spawn(async move { outbox.drain(&calls_tx).await });
    Weir { address, calls, meters, shutdown }
}

type Ended = JoinHandle<Result<Response<StreamAccessLogsResponse>, Status>>;

impl Weir {
    async fn open(&self) -> (mpsc::Sender<StreamAccessLogsMessage>, Ended) {
        let mut client = AccessLogServiceClient::connect(self.address.clone()).await.unwrap();
        let (messages, messages_rx) = mpsc::channel(64);
        let ended = tokio::spawn(async move { client.stream_access_logs(ReceiverStream::new(messages_rx)).await });
        (messages, ended)
    }

    async fn heard(&mut self) -> Vec<Calls> {
        timeout(PATIENCE, self.calls.recv()).await.unwrap().unwrap()
    }
}

fn identifier(id: Option<&str>, log_name: &str) -> Identifier {
    Identifier { node: id.map(|id| Node { id: id.into() }), log_name: log_name.into() }
}

fn message(identifier: Option<Identifier>, calls: &[(&str, &str)]) -> StreamAccessLogsMessage {
    let entry = |&(route_name, authority): &(&str, &str)| HttpEntry {
        common: Some(Common { route_name: route_name.into(), ..Common::default() }),
        request: Some(HttpRequest { authority: authority.into() }),
    };
    StreamAccessLogsMessage {
        identifier,
        http: Some(HttpEntries { entries: calls.iter().map(entry).collect() }),
        tcp: None,
    }
}

#[tokio::test]
async fn a_stream_that_does_not_say_who_it_is_of_or_of_another_log_is_refused() {
    let weir = weir().await;
    for (id, log, words) in [
        (None, names::UNKNOWN_LOG, "identifier.node.id"),
        (Some("checkout"), names::UNKNOWN_LOG, "<namespace>/<service>/<pod>"),
        (Some("ns-a/checkout/checkout-0"), "everything", "identifier.log_name \"weir.unknown\""),
    ] {
        let (messages, ended) = weir.open().await;
        messages.send(message(Some(identifier(id, log)), &[])).await.unwrap();
        let status = timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(words), "{id:?}: {status}");
    }
}

#[tokio::test]
async fn hosts_come_of_the_pod_and_the_rest_is_counted() {
    let mut weir = weir().await;
    let (messages, ended) = weir.open().await;
    let first = identifier(Some("ns-a/checkout/checkout-0"), names::UNKNOWN_LOG);
    let calls = [(names::FALLBACK, "Cart:80"), ("known", "api"), (names::UNKNOWN_HOST, "")];
    messages.send(message(Some(first), &calls)).await.unwrap();
    let heard = weir.heard().await;
    let node = NodeKey::new("ns-a", "checkout", "checkout-0");
    assert_eq!(heard, [Calls { node, at: heard[0].at, used_at: None, used: vec![], unknown: vec!["cart:80".into()] }]);
    assert!(Timestamp::now().duration_since(heard[0].at).as_secs() < 20);

    // Later messages say no more whose they are, and what names no host is not heard of.
    messages.send(message(None, &calls[1..])).await.unwrap();
    messages.send(message(None, &[(names::FALLBACK, "later")])).await.unwrap();
    assert_eq!(weir.heard().await[0].unknown, ["later"]);
    drop(messages);
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    weir.meters.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "weir_unknown_entries_total{outcome=\"taken\"} 2",
        "weir_unknown_entries_total{outcome=\"known\"} 2",
        "weir_unknown_entries_total{outcome=\"dropped\"} 2",
        "weir_unknown_hosts_dropped_total 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_stream_and_shutdown_ends_all() {
    let weir = weir().await;
    let (messages, ended) = weir.open().await;
    let large = "a".repeat(MAX_MESSAGE_BYTES);
    messages.send(message(Some(identifier(Some("a/b/c"), names::UNKNOWN_LOG)), &[("x", &large)])).await.unwrap();
    assert_eq!(timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap_err().code(), Code::OutOfRange);

    let (messages, ended) = weir.open().await;
    messages.send(message(Some(identifier(Some("a/b/c"), names::UNKNOWN_LOG)), &[])).await.unwrap();
    weir.shutdown.cancel();
    assert_eq!(timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap_err().code(), Code::Unavailable);
}

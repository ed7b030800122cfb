//! Streams over real sockets, spoken by a client that says what it likes. What Envoy itself says is shown in `testkit`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use limiter::metric::Word;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code,
    transport::{Server, server::TcpIncoming},
};

use super::{
    families::tests::counter_at,
    wire::{Identifier, Node, StreamMetricsMessage, service::metrics_service_client::MetricsServiceClient},
    *,
};
use crate::{intent::ServiceKey, metrics::Measure};

const PATIENCE: Duration = Duration::from_secs(20);

struct Weir {
    address: String,
    wanted: watch::Sender<Arc<Wanted>>,
    samples: mpsc::Receiver<Vec<PodSample>>,
    calls: mpsc::Receiver<Vec<Calls>>,
    health: HealthBoard,
    shutdown: CancellationToken,
}

fn service() -> ServiceKey {
    ServiceKey { namespace: "ns-a".into(), name: "checkout".into() }
}

fn wanting() -> Arc<Wanted> {
    Arc::new(Wanted { streamed: [service()].into(), ..Wanted::default() })
}

async fn weir() -> Weir {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (wanted, wanted_rx) = watch::channel(wanting());
    let (samples_tx, samples) = mpsc::channel(1);
    let (health, shutdown) = (HealthBoard::default(), CancellationToken::new());
    let (outbox, (calls_tx, calls)) = (Arc::new(calls::Outbox::default()), mpsc::channel(1));
    let outlets = Outlets { samples: samples_tx, calls: outbox.clone() };
    let (routes, _) = spawn(wanted_rx, outlets, health.clone(), Gate::open(), Table::new(), shutdown.clone());
    tokio::spawn(async move { outbox.drain(&calls_tx).await });
    let server = Server::builder().add_routes(routes).serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
    Weir { address, wanted, samples, calls, health, shutdown }
}

type Ended = JoinHandle<Result<Response<StreamMetricsResponse>, Status>>;

impl Weir {
    async fn open(&self) -> (mpsc::Sender<StreamMetricsMessage>, Ended) {
        let mut client = MetricsServiceClient::connect(self.address.clone()).await.unwrap();
        let (messages, messages_rx) = mpsc::channel(64);
        let ended = tokio::spawn(async move { client.stream_metrics(ReceiverStream::new(messages_rx)).await });
        (messages, ended)
    }

    /// The newest value of `requests` in the next batch that has one.
    async fn requests(&mut self) -> PodSample {
        timeout(PATIENCE, async {
            loop {
                let batch = self.samples.recv().await.unwrap();
                let is_requests = |sample: &PodSample| matches!(sample.measure, Measure::Number(Word::Requests, _));
                if let Some(sample) = batch.into_iter().rfind(is_requests) {
                    return sample;
                }
            }
        })
        .await
        .unwrap()
    }
}

fn message(id: Option<&str>, families: Vec<Bytes>) -> StreamMetricsMessage {
    let identifier = id.map(|id| Identifier { node: Some(Node { id: id.into() }) });
    StreamMetricsMessage { identifier, families }
}

fn offered(at_ms: i64, total: f64) -> StreamMetricsMessage {
    let id = (at_ms == 1).then_some("ns-a/checkout/checkout-0");
    message(id, vec![counter_at("http.in_15080.downstream_rq_total", total, at_ms)])
}

#[tokio::test]
async fn a_stream_that_does_not_say_who_it_is_of_is_refused() {
    let weir = weir().await;
    for (id, words) in
        [(None, "identifier.node.id"), (Some("checkout"), "<namespace>/<service>/<pod>"), (Some("a//b"), "1 to 253")]
    {
        let (messages, ended) = weir.open().await;
        messages.send(message(id, Vec::new())).await.unwrap();
        let status = timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(words), "{id:?}: {status}");
    }
}

#[tokio::test]
async fn samples_come_of_the_pod_by_our_clock_and_only_while_wanted() {
    let mut weir = weir().await;
    let (messages, ended) = weir.open().await;
    messages.send(offered(1, 0.0)).await.unwrap();
    messages.send(offered(501, 100.0)).await.unwrap();
    let sample = weir.requests().await;
    assert_eq!((&*sample.service, sample.pod.as_deref()), (&service(), Some("checkout-0")));
    assert_eq!((sample.measure, sample.source), (Measure::Number(Word::Requests, 200.0), Source::Envoy));
    assert!(Timestamp::now().duration_since(sample.at).as_secs() < 20);
    assert_eq!(sample.fresh_for_ms, 1_500);
    assert!(weir.health.streams(&service(), "checkout-0"));

    weir.wanted.send_replace(Arc::default());
    messages.send(offered(1_001, 900.0)).await.unwrap();
    // Answered in order: once the end is seen, what came before it was read too.
    drop(messages);
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
    assert!(weir.samples.try_recv().is_err());
    assert!(!weir.health.streams(&service(), "checkout-0"));
}

#[tokio::test]
async fn calls_are_told_only_while_wanted_and_begin_anew() {
    let mut weir = weir().await;
    let called = |total| {
        let id = (total < 2.0).then_some("ns-a/checkout/checkout-0");
        message(id, vec![counter_at("cluster.out_ns-a_cart_80.upstream_rq_total", total, 1)])
    };
    let (messages, ended) = weir.open().await;
    messages.send(called(1.0)).await.unwrap();
    messages.send(called(5.0)).await.unwrap();
    // Nobody wants them yet; once somebody does, the next message is the first.
    drop(messages);
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
    assert!(weir.calls.try_recv().is_err());

    weir.wanted.send_replace(Arc::new(Wanted { called: [service()].into(), ..Wanted::default() }));
    let (messages, ended) = weir.open().await;
    messages.send(called(1.0)).await.unwrap();
    let heard = timeout(PATIENCE, weir.calls.recv()).await.unwrap().unwrap();
    let [Calls { node, at, used_at, used, unknown }] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((node.to_string().as_str(), *used_at, unknown.len()), ("ns-a/checkout/checkout-0", Some(*at), 0));
    assert_eq!((&*used[0].stat_name, used[0].requests), ("out_ns-a_cart_80", 0));
    assert!(!weir.health.streams(&service(), "checkout-0"), "what rules read is none of it");
    let mut total = 2.0;
    let more = timeout(PATIENCE, async {
        loop {
            messages.send(called(total)).await.unwrap();
            total += 1.0;
            if let Ok(more) = timeout(Duration::from_millis(100), weir.calls.recv()).await {
                return more.unwrap();
            }
        }
    });
    assert_eq!(more.await.unwrap()[0].used[0].requests, total as u64 - 2);
    drop(messages);
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_slow_receiver_gets_the_newest_and_holds_up_nobody() {
    let mut weir = weir().await;
    let (messages, ended) = weir.open().await;
    // One batch waits in the channel, one in the outbox.
    for n in 0..1_000 {
        messages.send(offered(1 + 500 * n, 50.0 * (n * n) as f64)).await.unwrap();
    }
    drop(messages);
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
    let mut last = weir.requests().await;
    let Measure::Number(_, mut rate) = last.measure else { unreachable!("requests are a number") };
    while rate < 199_700.0 {
        last = weir.requests().await;
        let Measure::Number(_, next) = last.measure else { unreachable!("requests are a number") };
        assert!(next > rate);
        rate = next;
    }
    assert_eq!(rate, 100.0 * (999.0 * 999.0 - 998.0 * 998.0));
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_stream_and_shutdown_ends_all() {
    let weir = weir().await;
    let (messages, ended) = weir.open().await;
    let large = Bytes::from(vec![b'a'; MAX_MESSAGE_BYTES]);
    messages.send(message(Some("ns-a/checkout/checkout-0"), vec![large])).await.unwrap();
    assert_eq!(timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap_err().code(), Code::OutOfRange);

    let (messages, ended) = weir.open().await;
    messages.send(offered(1, 0.0)).await.unwrap();
    weir.shutdown.cancel();
    assert_eq!(timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap_err().code(), Code::Unavailable);
}

//! The gRPC server: one task per stream, as thin as possible around [`Session`].

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, service::Routes, transport::Server};
use tracing::{Instrument, debug, info, info_span, warn};
use xxhash_rust::xxh3::xxh3_64;

use crate::identity::{Door, Gate, Listener, Shown, tls};
use crate::xds::{
    NodeKey, ResourceType,
    asks::{Answer, Ask, Pace, Wish, Wishes},
    names,
    proxies::{Connection, Proxies, Refusal, said},
    session::{Meaning, Protocol, Push, Session},
    sotw::SotwSession,
    subscription::Outcome,
    table::{Seeker, Table, Watcher},
    trail::Trail,
    wire::{
        Asks, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Says,
        service::{
            aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
            extension_config_discovery_service_server::{
                ExtensionConfigDiscoveryService, ExtensionConfigDiscoveryServiceServer,
            },
        },
    },
};

/// A peer that vanished without a word is noticed within the sum of the two.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Envoy uses one stream on one connection; a shared connection of a test or bench may hold many.
const MAX_STREAMS_PER_CONNECTION: u32 = 2_000;
/// A stream must say who it is within this.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Connections get this long to take the end of their streams.
const DRAIN: Duration = Duration::from_secs(2);
/// Largest request: 50,000 names with their versions fit.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// The server failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transport failed.
    #[error("the xDS server on {address} ended")]
    Transport {
        /// Where it listened.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// How the server ends.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// When it begins to.
    pub begins: CancellationToken,
    /// Its proxies leave within that, one after the other, so that those who serve them then do not meet all at once. Zero where
    /// nobody else does.
    pub within: Duration,
}

impl Leaving {
    /// All proxies leave when `begins` says so.
    #[must_use]
    pub const fn at_once(begins: CancellationToken) -> Self {
        Self { begins, within: Duration::ZERO }
    }

    /// Waits for the turn of `node`.
    async fn turn(&self, node: &str) {
        self.begins.cancelled().await;
        let part = f64::from(u16::try_from(xxh3_64(node.as_bytes()) >> 48).unwrap_or_default()) / f64::from(u16::MAX);
        tokio::time::sleep(self.within.mul_f64(part)).await;
    }
}

/// What streams see, and where they say what proxies say.
#[derive(Clone, Debug)]
pub struct Served {
    /// What there is for proxies.
    pub table: Table,
    /// What they have answered.
    pub proxies: Proxies,
    /// Where they ask for more.
    pub asks_tx: mpsc::Sender<Ask>,
}

/// Serves the table, and `beside` it other services, on `listener` to who comes in by the `door`, until it is `leaving`, then ends every stream (`UNAVAILABLE`:
/// Envoy keeps what it has and connects again) and returns.
///
/// # Errors
///
/// The transport failed as a whole; a failure of one connection ends only that one.
pub async fn serve(
    served: Served,
    beside: Routes,
    listener: Listener,
    door: Door,
    leaving: Leaving,
) -> Result<(), Error> {
    let address = listener.to_string();
    info!(%address, "xds server listens");
    let Door { gate, tls } = door;
    let begins = leaving.begins.clone();
    let drain = leaving.within + DRAIN;
    let streams = Streams { served, gate, leaving };
    let ads = AggregatedDiscoveryServiceServer::new(streams.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
    let ecds = ExtensionConfigDiscoveryServiceServer::new(streams).max_decoding_message_size(MAX_REQUEST_BYTES);
    let incoming = tls::incoming(listener, tls, begins.clone());
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(Some(MAX_STREAMS_PER_CONNECTION))
        .add_routes(beside.add_service(ads).add_service(ecds))
        // New streams go elsewhere from then on; those that are open end in their turn.
        .serve_with_incoming_shutdown(incoming, begins.clone().cancelled_owned());
    tokio::pin!(server);
    let ended = tokio::select! {
        ended = &mut server => ended,
        () = begins.cancelled() => match timeout(drain, server).await {
            Ok(ended) => ended,
            Err(_) => Ok(()), // a peer that does not take its end is cut off
        },
    };
    ended.map_err(|source| Error::Transport { address, source })
}

#[derive(Clone, Debug)]
struct Streams {
    served: Served,
    gate: Gate,
    leaving: Leaving,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Streams {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(self.stream::<SotwSession>(request, Seat::Node))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.stream::<Session>(request, Seat::Node))
    }
}

#[tonic::async_trait]
impl ExtensionConfigDiscoveryService for Streams {
    type StreamExtensionConfigsStream = Responses<DiscoveryResponse>;
    type DeltaExtensionConfigsStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_extension_configs(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamExtensionConfigsStream>, Status> {
        Ok(self.stream::<SotwSession>(request, Seat::Extension))
    }

    async fn delta_extension_configs(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaExtensionConfigsStream>, Status> {
        Ok(self.stream::<Session>(request, Seat::Extension))
    }
}

/// What a stream sees, and by what it says for whom it is.
#[derive(Clone, Copy, Debug)]
enum Seat {
    /// Everything of the node in its first request.
    Node,
    /// The one extension configuration that its first request names; the node is another control plane's.
    Extension,
}

impl Seat {
    /// Who is there, by the first request.
    fn node(self, first: &impl Asks) -> Result<NodeKey, Status> {
        match self {
            Self::Node => {
                // Envoy logs this and reconnects with backoff.
                let said = first.node().ok_or_else(|| {
                    Status::invalid_argument(
                        "the first request of a stream must carry node.id of the form \"<namespace>/<service>/<pod>\"",
                    )
                })?;
                said.id.parse().map_err(|error: crate::xds::node::Error| {
                    warn!(%error, "node id refused");
                    Status::invalid_argument(error.to_string())
                })
            }
            Self::Extension => first.names().iter().find_map(|name| names::extension_node(name)).ok_or_else(|| {
                let name: String = first.names().first().into_iter().flat_map(|name| name.chars()).take(100).collect();
                warn!(name, "extension configuration refused");
                Status::invalid_argument(
                    "the first request of a stream for extension configurations must name \
                     \"limits/<namespace>/<service>/<pod>\": give the HTTP filter that name (`weir attachment` writes it)",
                )
            }),
        }
    }
}

impl Streams {
    /// Starts the task of a stream.
    fn stream<P>(&self, request: Request<Streaming<P::Request>>, seat: Seat) -> Response<Responses<P::Response>>
    where
        P: Protocol<Request: Send + Sync + 'static, Response: Send + 'static> + Send + 'static,
    {
        let shown = Shown::of(&request);
        let peer = shown.peer();
        let inbound = request.into_inner();
        // One response waits for the transport at most; everything else stays a difference, not yet computed.
        let (response_tx, response_rx) = mpsc::channel(1);
        let (streams, leaving) = (self.clone(), self.leaving.clone());
        let turn = peer.clone();
        let stream = async move {
            let outcome = tokio::select! {
                outcome = open::<P>(seat, streams, shown, inbound, &response_tx) => outcome,
                // Envoy reconnects within its backoff.
                () = leaving.turn(&turn) => Err(Status::unavailable("weir is shutting down")),
            };
            match outcome {
                Ok(()) => debug!("stream ended"),
                Err(status) => {
                    debug!(%status, "stream ends");
                    // Waits at most for the response before it; a peer that reads neither is noticed by the pings.
                    let _ = response_tx.send(Box::new(Err(status))).await;
                }
            }
        };
        tokio::spawn(stream.instrument(info_span!("stream", %peer, node = tracing::field::Empty)));
        let responses: Responses<P::Response> = Box::pin(ReceiverStream::new(response_rx).map(|response| *response));
        Response::new(responses)
    }
}

/// Boxed, since a channel holds room for 32 messages however few it may take: 4 KB less for each stream.
type ResponseTx<P> = mpsc::Sender<Box<Result<<P as Protocol>::Response, Status>>>;

/// Reads the first request, which says who is there, and serves the stream to its end.
async fn open<P: Protocol>(
    seat: Seat,
    streams: Streams,
    shown: Shown,
    mut inbound: Streaming<P::Request>,
    response_tx: &ResponseTx<P>,
) -> Result<(), Status> {
    let Streams { served: Served { table, proxies, asks_tx }, gate, leaving: _ } = streams;
    let caller = gate.admit(shown).await?;
    let first = match timeout(FIRST_REQUEST, inbound.message()).await {
        Ok(first) => first?,
        Err(_) => return Err(Status::deadline_exceeded("no request within 10 s of opening the stream")),
    };
    let Some(first) = first else { return Ok(()) };
    let said = seat.node(&first)?;
    gate.claim(&caller, said.namespace(), said.pod())?;
    // Which service a sidecar is of is not known where it is made; its pod may come to it later than its proxy to us.
    let mut seeker = said.is_unnamed().then(|| table.seek(&said));
    let node = match &mut seeker {
        None => said,
        Some(seeker) => tokio::select! {
            node = seeker.find() => node,
            () = response_tx.closed() => return Ok(()),
            expired = caller.expired() => return Err(expired),
        },
    };
    let user_agent = first.node().map(crate::xds::wire::Node::user_agent).unwrap_or_default();
    tracing::Span::current().record("node", tracing::field::display(&node));
    let mut watcher = match seat {
        Seat::Node => table.watch(&node),
        Seat::Extension => table.attach(&node),
    };
    info!(user_agent, ?seat, "proxy connected");
    let connection = proxies.connect(&node, user_agent, Timestamp::now());
    if !P::IS_DELTA {
        connection.mark_sotw();
    }
    let trail = Trail::beginning_at(watcher.marked_view().1.as_ref());
    let stream_node = node.clone();
    let mut session = P::default();
    session.is_of(&node);
    let (reply_tx, answers_rx) = mpsc::unbounded_channel();
    let questions = Questions { asks_tx, reply_tx, pace: Pace::new(Instant::now()) };
    let mut stream = ProxyStream { session, watcher, connection, proxies, node, trail, questions };
    stream.request(&first)?;
    // A stream lives for days: what it keeps, it keeps a thousand times.
    drop(first);
    let outcome = tokio::select! {
        outcome = stream.run(&mut inbound, answers_rx, response_tx) => outcome,
        expired = caller.expired() => Err(expired),
        () = moved(seeker.as_mut(), &stream_node) => {
            Err(Status::unavailable("the pod stands behind another Service now; connect again"))
        }
    };
    info!("proxy disconnected");
    outcome
}

/// Waits until a proxy whose node names no service is of another one.
async fn moved(seeker: Option<&mut Seeker>, node: &NodeKey) {
    match seeker {
        Some(seeker) => seeker.moved(node).await,
        None => std::future::pending().await,
    }
}

struct ProxyStream<P> {
    session: P,
    watcher: Watcher,
    connection: Connection,
    proxies: Proxies,
    node: NodeKey,
    trail: Trail,
    questions: Questions,
}

/// A stream's way to the builder.
struct Questions {
    asks_tx: mpsc::Sender<Ask>,
    reply_tx: mpsc::UnboundedSender<Answer>,
    pace: Pace,
}

impl<P: Protocol> ProxyStream<P> {
    async fn run(
        &mut self,
        inbound: &mut Streaming<P::Request>,
        mut answers_rx: mpsc::UnboundedReceiver<Answer>,
        response_tx: &ResponseTx<P>,
    ) -> Result<(), Status> {
        let mut may_have_news = true;
        loop {
            let asks = self.put_questions().await?;
            tokio::select! {
                // The response is computed only when the transport can take it, from the state of that moment.
                permit = response_tx.reserve(), if may_have_news => {
                    let Ok(permit) = permit else { return Ok(()) };
                    let (view, mark) = self.watcher.marked_view();
                    self.trail.sees(mark);
                    match self.session.next(&view) {
                        None => {
                            self.trail.said_all();
                            may_have_news = false;
                        }
                        Some(Push { resource_type, response }) => {
                            if let Some(resource_type) = resource_type {
                                self.connection.pushed(resource_type, response.count());
                                self.trail.pushed(&self.node, resource_type, response.count(), response.nonce());
                            }
                            debug!(
                                type_url = response.type_url(),
                                nonce = response.nonce(),
                                count = response.count(),
                                "push"
                            );
                            permit.send(Box::new(Ok(response)));
                        }
                    }
                    for (since, unknown) in self.session.wishes().map(Wishes::take_sent).unwrap_or_default() {
                        self.proxies.count_asked(unknown, since.elapsed());
                    }
                    for (resource_type, outcome) in self.session.learned() {
                        self.connection.holds(resource_type, outcome.holds);
                    }
                }
                request = inbound.message(), if self.session.takes_requests() => {
                    match request? {
                        None => return Ok(()),
                        Some(request) => self.request(&request)?,
                    }
                    may_have_news = true;
                }
                () = self.watcher.changed() => may_have_news = true,
                Some(answer) = answers_rx.recv() => {
                    if let Some(wishes) = self.session.wishes() {
                        wishes.answered(answer);
                    }
                    may_have_news = true;
                }
                () = sleep(self.questions.pace.wait()), if asks => {}
                () = response_tx.closed() => return Ok(()),
            }
        }
    }

    /// Puts to the builder what may be asked now; whether more waits for its turn.
    async fn put_questions(&mut self) -> Result<bool, Status> {
        let Some(wishes) = self.session.wishes() else { return Ok(false) };
        let Questions { asks_tx, reply_tx, pace } = &mut self.questions;
        while let Some(wish) = wishes.next(pace, Instant::now()) {
            if let Wish::Host(name) = &wish
                && names::asked(&self.node, name).is_none()
            {
                return Err(Status::permission_denied(
                    "a proxy may ask for hosts of its own route configurations alone",
                ));
            }
            let ask = Ask { node: self.node.clone(), wish, reply_tx: reply_tx.clone() };
            if asks_tx.send(ask).await.is_err() {
                // Nobody is there to look at it any more, which ends with the process, or ever.
                wishes.answered(Answer::Looked);
            }
        }
        Ok(wishes.is_waiting())
    }

    fn request(&mut self, request: &P::Request) -> Result<(), Status> {
        // Envoy logs RESOURCE_EXHAUSTED and reconnects with backoff.
        let meaning = self.session.request(request, &self.watcher.view()).map_err(|error| {
            warn!(%error, "request refused");
            Status::resource_exhausted(error.to_string())
        })?;
        match meaning {
            Meaning::Known(resource_type, outcome) => self.learned(request, resource_type, outcome),
            Meaning::Unknown => {
                let type_url: String = request.type_url().chars().take(200).collect();
                debug!(type_url, "type is not served; answered that there is none");
                self.proxies.count_unknown_type();
            }
        }
        Ok(())
    }

    fn learned(&mut self, request: &P::Request, resource_type: ResourceType, outcome: Outcome) {
        // Cut before anybody keeps it: a proxy may say as much as a request holds.
        let refusal = request.error().map(|error| said(&error.message));
        self.trail.answered(request.nonce(), refusal);
        if outcome.acknowledged {
            self.connection.count_ack(resource_type);
        }
        if !outcome.holds.is_empty() {
            self.connection.holds(resource_type, outcome.holds);
        }
        let Some(refused) = outcome.refused else { return };
        let resources: Vec<_> = refused.iter().map(|(name, version)| (name.to_string(), version.to_string())).collect();
        let message = refusal.unwrap_or_default().to_owned();
        warn!(
            node = %self.node,
            type_url = request.type_url(),
            nonce = request.nonce(),
            count = resources.len(),
            message,
            "proxy refused a response; what it had stays in force"
        );
        self.connection.refused(Refusal { resource_type, resources, message, at: Timestamp::now() });
    }
}

#[cfg(test)]
mod tests;

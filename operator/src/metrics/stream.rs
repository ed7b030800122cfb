//! What Envoys stream of their own statistics: `envoy.service.metrics.v3.MetricsService`, on the port of xDS.
//!
//! One small task a stream. A stream belongs to the pod that its first message names, which must be the caller itself; what it says counts while a rule of the
//! pod's service reads such words, and is skipped undecoded otherwise. When the receiver is slow, the newest values win.

mod families;
mod window;
mod wire;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use self::{
    window::Window,
    wire::{
        StreamMetricsMessage, StreamMetricsResponse,
        service::metrics_service_server::{MetricsService, MetricsServiceServer},
    },
};
use super::{HealthBoard, PodSample, Source, Streaming as Standing, Wanted, outbox::Outbox};
use crate::{
    identity::{Gate, Shown},
    xds::{node::NodeKey, table::Table},
};

/// A stream must say who it is within this.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// Largest message; without a `stats_matcher` a proxy of one pod sends some 20 KB.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// The service for [`crate::xds::server::serve`]'s port, and the task that hands over what comes in. Both end with `shutdown`.
#[must_use]
pub fn spawn(
    wanted: watch::Receiver<Arc<Wanted>>,
    samples: mpsc::Sender<Vec<PodSample>>,
    health: HealthBoard,
    gate: Gate,
    table: Table,
    shutdown: CancellationToken,
) -> (tonic::service::Routes, JoinHandle<()>) {
    let outbox = Arc::new(Outbox::default());
    let sink = Sink { wanted, outbox: Arc::clone(&outbox), health, gate, table, shutdown: shutdown.clone() };
    let service = MetricsServiceServer::new(sink).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let drained = async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = outbox.drain(&samples) => {}
        }
    };
    (tonic::service::Routes::new(service), tokio::spawn(drained))
}

struct Sink {
    wanted: watch::Receiver<Arc<Wanted>>,
    outbox: Arc<Outbox>,
    health: HealthBoard,
    gate: Gate,
    /// Tells which service a sidecar is of.
    table: Table,
    shutdown: CancellationToken,
}

#[tonic::async_trait]
impl MetricsService for Sink {
    async fn stream_metrics(
        &self,
        request: Request<Streaming<StreamMetricsMessage>>,
    ) -> Result<Response<StreamMetricsResponse>, Status> {
        tokio::select! {
            // Envoy opens the stream again with the next flush.
            () = self.shutdown.cancelled() => Err(Status::unavailable("weir is shutting down")),
            ended = self.read(request) => ended.map(|()| Response::new(StreamMetricsResponse {})),
        }
    }
}

impl Sink {
    /// Reads a stream to its end.
    async fn read(&self, request: Request<Streaming<StreamMetricsMessage>>) -> Result<(), Status> {
        let caller = self.gate.admit(Shown::of(&request)).await?;
        let mut inbound = request.into_inner();
        let first = match timeout(FIRST_MESSAGE, inbound.message()).await {
            Ok(first) => first?,
            Err(_) => return Err(Status::deadline_exceeded("no message within 10 s of opening the stream")),
        };
        let Some(mut message) = first else { return Ok(()) };
        let node = identity(&message).inspect_err(|status| {
            // Envoy tries again with every flush; the xDS server warns of the same id.
            debug!(%status, "a stream of statistics is refused");
        })?;
        // A pod's numbers move the limits of its whole service, so they come from itself alone.
        self.gate.claim(&caller, node.namespace(), node.pod())?;
        debug!(%node, "a proxy streams its statistics");
        let mut seeker = node.is_unnamed().then(|| self.table.seek(&node));
        let mut stream = Stream { sink: self, node, window: Window::default(), standing: None };
        let messages = async {
            loop {
                match &mut seeker {
                    None => stream.message(&message),
                    Some(seeker) => {
                        if (stream.node.is_unnamed() || seeker.is_woken())
                            && let Some(node) = seeker.found()
                        {
                            stream.is_of(node);
                        }
                        // Of no service its numbers move nothing.
                        if !stream.node.is_unnamed() {
                            stream.message(&message);
                        }
                    }
                }
                match inbound.message().await? {
                    Some(next) => message = next,
                    None => return Ok(()),
                }
            }
        };
        tokio::select! {
            ended = messages => ended,
            expired = caller.expired() => Err(expired),
        }
    }
}

fn identity(first: &StreamMetricsMessage) -> Result<NodeKey, Status> {
    let node = first.identifier.as_ref().and_then(|identifier| identifier.node.as_ref());
    let node = node.ok_or_else(|| {
        Status::invalid_argument(
            "the first message of a stream must carry identifier.node.id of the form \"<namespace>/<service>/<pod>\"",
        )
    })?;
    node.id.parse().map_err(|error: crate::xds::node::Error| Status::invalid_argument(error.to_string()))
}

struct Stream<'a> {
    sink: &'a Sink,
    node: NodeKey,
    window: Window,
    /// Once something of an inbound port has come.
    standing: Option<Standing>,
}

impl Stream<'_> {
    /// Begins anew when it is another one.
    fn is_of(&mut self, node: NodeKey) {
        if self.node != node {
            *self = Self { sink: self.sink, node, window: Window::default(), standing: None };
        }
    }

    fn message(&mut self, message: &StreamMetricsMessage) {
        let service = self.node.service_key();
        if !self.sink.wanted.borrow().streamed.contains(&service) {
            self.window = Window::default();
            return;
        }
        let Some(snapshot) = families::read(&message.families) else { return };
        let (sink, pod) = (self.sink, self.node.pod());
        self.standing.get_or_insert_with(|| sink.health.streaming(&service, pod));
        let window::Measures { measures, fresh_for } = self.window.take(snapshot);
        // By our clock: the proxy's may be wrong, and what it stamps would then be fresh for ever.
        let at = Timestamp::now();
        let fresh_for_ms = u64::try_from(fresh_for.as_millis()).unwrap_or(u64::MAX);
        let service = Arc::new(service);
        sink.outbox.put(measures.into_iter().map(|measure| PodSample {
            service: Arc::clone(&service),
            pod: Some(pod.to_owned()),
            measure,
            at,
            fresh_for_ms,
            source: Source::Envoy,
        }));
    }
}

#[cfg(test)]
mod tests;

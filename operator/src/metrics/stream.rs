//! What Envoys stream of their own statistics: `envoy.service.metrics.v3.MetricsService`, on the port of xDS.
//!
//! One small task a stream. What it says of its inbound ports counts while a rule of the pod's service reads such words, what it says
//! of the way out while somebody wants to know whom the service's pods call, what it says of arms of splits always; all else is skipped
//! undecoded. When the receiver is slow, the newest values win, and counts add up.

mod arms;
mod destinations;
mod families;
mod window;
mod wire;

use std::sync::Arc;

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::{
    arms::{Arms, Told},
    destinations::Tally,
    window::Window,
    wire::{
        StreamMetricsMessage, StreamMetricsResponse,
        service::metrics_service_server::{MetricsService, MetricsServiceServer},
    },
};
use super::{
    HealthBoard, PodSample, Source, Streaming as Standing, Wanted,
    calls::{self, Calls},
    inbound::{Inbound, named},
    outbox::Outbox,
};
use crate::{
    identity::Gate,
    xds::{node::NodeKey, table::Table},
};

/// Largest message. A proxy of one pod sends some 10 KB, and up to 400 bytes for each destination that it has called.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Where what comes in goes.
#[derive(Debug)]
pub struct Outlets {
    /// What was measured of pods.
    pub samples: mpsc::Sender<Vec<PodSample>>,
    /// Whom pods called.
    pub calls: Arc<calls::Outbox>,
}

/// The service for [`crate::xds::server::serve`]'s port, and the task that hands over what was measured. Both end with `shutdown`.
#[must_use]
pub fn spawn(
    wanted: watch::Receiver<Arc<Wanted>>,
    outlets: Outlets,
    health: HealthBoard,
    gate: Gate,
    table: Table,
    shutdown: CancellationToken,
) -> (tonic::service::Routes, JoinHandle<()>) {
    let outbox = Arc::new(Outbox::default());
    let Outlets { samples, calls } = outlets;
    let inbound = Inbound { gate, table };
    let sink = Sink { wanted, outbox: Arc::clone(&outbox), calls, health, inbound, shutdown: shutdown.clone() };
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
    calls: Arc<calls::Outbox>,
    health: HealthBoard,
    inbound: Inbound,
    shutdown: CancellationToken,
}

#[tonic::async_trait]
impl MetricsService for Sink {
    async fn stream_metrics(
        &self,
        request: Request<Streaming<StreamMetricsMessage>>,
    ) -> Result<Response<StreamMetricsResponse>, Status> {
        let mut stream: Option<Stream<'_>> = None;
        let hear = |node: &NodeKey, message| {
            // It begins anew when it is another one.
            match stream.as_mut().filter(|stream| stream.node == *node) {
                Some(stream) => stream.message(&message),
                None => stream.insert(Stream::new(self, node.clone())).message(&message),
            }
        };
        tokio::select! {
            // Envoy opens the stream again with the next flush.
            () = self.shutdown.cancelled() => Err(Status::unavailable("weir is shutting down")),
            ended = self.inbound.read(request, id, hear) => ended.map(|()| Response::new(StreamMetricsResponse {})),
        }
    }
}

fn id(first: &StreamMetricsMessage) -> Result<&str, Status> {
    let node = first.identifier.as_ref().and_then(|identifier| identifier.node.as_ref());
    named(node.map(|node| node.id.as_str()))
}

struct Stream<'a> {
    sink: &'a Sink,
    node: NodeKey,
    window: Window,
    /// Once something of an inbound port has come.
    standing: Option<Standing>,
    tally: Tally,
    arms: Arms,
}

impl<'a> Stream<'a> {
    fn new(sink: &'a Sink, node: NodeKey) -> Self {
        Self { sink, node, window: Window::default(), standing: None, tally: Tally::default(), arms: Arms::default() }
    }

    fn message(&mut self, message: &StreamMetricsMessage) {
        let service = self.node.service_key();
        let (streamed, called) = {
            let wanted = self.sink.wanted.borrow();
            (wanted.streamed.contains(&service), wanted.called.contains(&service))
        };
        // By our clock: the proxy's may be wrong, and what it stamps would then be fresh for ever.
        let at = Timestamp::now();
        if called {
            if let Some(used) = self.tally.take(&message.families, at) {
                self.sink.calls.put(Calls::of_used(self.node.clone(), used, at));
            }
        } else {
            self.tally = Tally::default();
        }
        if let Some(told) = self.arms.take(&message.families, at) {
            self.arms_answered(told, at);
        }
        if !streamed {
            self.window = Window::default();
            return;
        }
        let Some(snapshot) = families::read(&message.families) else { return };
        let (sink, pod) = (self.sink, self.node.pod());
        self.standing.get_or_insert_with(|| sink.health.streaming(&service, pod));
        let window::Measures { measures, fresh_for } = self.window.take(snapshot);
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

    fn arms_answered(&self, told: Told, at: Timestamp) {
        let caller = format!("{}/{}", self.node.namespace(), self.node.pod());
        let Told { measures, fresh_for_ms } = told;
        self.sink.outbox.put(measures.into_iter().map(|(arm, measure)| PodSample {
            service: Arc::new(arm.service),
            pod: Some(caller.clone()),
            measure,
            at,
            fresh_for_ms,
            source: Source::Envoy,
        }));
    }
}

#[cfg(test)]
mod tests;

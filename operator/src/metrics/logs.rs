//! What Envoys log of calls that nothing is known of: `envoy.service.accesslog.v3.AccessLogService`, on the port of xDS.
//!
//! One small task a stream. A stream counts for the pod that its first message names, which must be the caller itself. Of an entry
//! only who was called is kept, in [`super::calls`].

mod entries;
mod meters;
mod wire;

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, service::Routes};

pub use self::meters::Meters;
use self::{
    entries::Taken,
    meters::Outcome,
    wire::{
        StreamAccessLogsMessage, StreamAccessLogsResponse,
        service::access_log_service_server::{AccessLogService, AccessLogServiceServer},
    },
};
use super::{
    calls::{Calls, Outbox},
    inbound::{Inbound, named},
};
use crate::{
    identity::Gate,
    xds::{names, node::NodeKey, table::Table},
};

/// Largest message. Envoy sends what it has gathered once that is 16 KB, and one entry more; the longest has some 70 KB of headers.
const MAX_MESSAGE_BYTES: usize = 256 << 10;

/// Adds the service to `routes`, of [`crate::xds::server::serve`]'s port. Its streams end with `shutdown`.
#[must_use]
pub fn beside(
    routes: Routes,
    calls: Arc<Outbox>,
    meters: Meters,
    gate: Gate,
    table: Table,
    shutdown: CancellationToken,
) -> Routes {
    let sink = Sink { calls, meters, inbound: Inbound { gate, table }, shutdown };
    routes.add_service(AccessLogServiceServer::new(sink).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

struct Sink {
    calls: Arc<Outbox>,
    meters: Meters,
    inbound: Inbound,
    shutdown: CancellationToken,
}

#[tonic::async_trait]
impl AccessLogService for Sink {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        tokio::select! {
            // Envoy opens the stream again with the next entry.
            () = self.shutdown.cancelled() => Err(Status::unavailable("weir is shutting down")),
            ended = self.inbound.read(request, id, |node, message| self.hear(node, message)) => {
                ended.map(|()| Response::new(StreamAccessLogsResponse {}))
            }
        }
    }
}

fn id(first: &StreamAccessLogsMessage) -> Result<&str, Status> {
    let identifier = first.identifier.as_ref();
    if identifier.is_none_or(|identifier| identifier.log_name != names::UNKNOWN_LOG) {
        return Err(Status::invalid_argument(format!(
            "the first message of a stream must carry identifier.log_name {:?}; other logs are not taken",
            names::UNKNOWN_LOG
        )));
    }
    named(identifier.and_then(|identifier| identifier.node.as_ref()).map(|node| node.id.as_str()))
}

impl Sink {
    fn hear(&self, node: &NodeKey, message: StreamAccessLogsMessage) {
        let Taken { unknown, taken, known, dropped } = entries::read(message);
        let no_room = if unknown.is_empty() {
            0
        } else {
            self.calls.put(Calls::of_unknown(node.clone(), unknown, Timestamp::now()))
        };
        self.meters.count(Outcome::Taken, taken);
        self.meters.count(Outcome::Known, known);
        self.meters.count(Outcome::Dropped, dropped);
        self.meters.left_out(no_room);
    }
}

#[cfg(test)]
mod tests;

//! A proxy's stream of what it has to tell: who it is of, and how long it is believed.
//!
//! A stream belongs to the pod that its first message names, which must be the caller itself. One whose node names no service is heard
//! while its pod stands behind one.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Request, Status, Streaming};
use tracing::debug;

use crate::{
    identity::{Gate, Shown},
    xds::{node::NodeKey, table::Table},
};

/// A stream must say who it is within this.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// Whom streams are of.
#[derive(Clone, Debug)]
pub(super) struct Inbound {
    pub(super) gate: Gate,
    /// Tells which service a sidecar is of.
    pub(super) table: Table,
}

impl Inbound {
    /// Reads a stream to its end. `id` finds the node id in a first message; `hear` takes each message and whose it is, which may
    /// become another one.
    pub(super) async fn read<M>(
        &self,
        request: Request<Streaming<M>>,
        id: impl Fn(&M) -> Result<&str, Status>,
        mut hear: impl FnMut(&NodeKey, M),
    ) -> Result<(), Status> {
        let caller = self.gate.admit(Shown::of(&request)).await?;
        let mut inbound = request.into_inner();
        let first = match timeout(FIRST_MESSAGE, inbound.message()).await {
            Ok(first) => first?,
            Err(_) => return Err(Status::deadline_exceeded("no message within 10 s of opening the stream")),
        };
        let Some(mut message) = first else { return Ok(()) };
        let node = id(&message).and_then(parse).inspect_err(|status| {
            // Envoy tries again with every flush; the xDS server warns of the same id.
            debug!(%status, "what a proxy tells of itself is refused");
        })?;
        // What a pod tells moves the limits of its whole service, and what its workload is given, so it comes from itself alone.
        self.gate.claim(&caller, node.namespace(), node.pod())?;
        debug!(%node, "a proxy tells of itself");
        let mut seeker = node.is_unnamed().then(|| self.table.seek(&node));
        let mut node = node;
        let messages = async {
            loop {
                if let Some(seeker) = &mut seeker
                    && (node.is_unnamed() || seeker.is_woken())
                    && let Some(found) = seeker.found()
                {
                    node = found;
                }
                // Of no service what it tells moves nothing.
                if !node.is_unnamed() {
                    hear(&node, message);
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

fn parse(id: &str) -> Result<NodeKey, Status> {
    id.parse().map_err(|error: crate::xds::node::Error| Status::invalid_argument(error.to_string()))
}

/// The id that a first message must have.
pub(super) fn named(id: Option<&str>) -> Result<&str, Status> {
    id.ok_or_else(|| {
        Status::invalid_argument(
            "the first message of a stream must carry identifier.node.id of the form \"<namespace>/<service>/<pod>\"",
        )
    })
}

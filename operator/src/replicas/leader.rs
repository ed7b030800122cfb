//! Tells the replicas that follow what is decided, and takes in what their proxies say.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};
use tracing::{info, warn};

use super::{
    Event, Shared,
    role::Standings,
    wire::{
        Down, Hello, Up,
        service::replicas_server::{Replicas, ReplicasServer},
    },
};
use crate::{
    checkpoint::{Detail, Keeper, Waiting},
    identity::tls::{self, Peer, Tls},
    intent::ServiceKey,
    metrics::{PodSample, Source, Streaming as Streams},
    xds::proxies::Elsewhere,
};

/// A replica must say who it is within this.
const HELLO: Duration = Duration::from_secs(10);
/// A replica that vanished without a word is noticed within the sum of the two.
pub(super) const PING_EVERY: Duration = Duration::from_secs(1);
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest message: the decisions about 50,000 services. Only replicas come in.
pub(super) const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Serves the link until `shutdown`.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Tls,
    standing: Standings,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) {
    let leader = Leader { standing, shared, shutdown: shutdown.clone() };
    let service = ReplicasServer::new(leader).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let incoming = tls::incoming(listener.into(), Some(tls), shutdown.clone());
    let served = Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .add_service(service.max_encoding_message_size(MAX_MESSAGE_BYTES))
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    tokio::select! {
        ended = served => if let Err(error) = ended { warn!(%error, "the replica link ended") },
        // Who follows connects to the next leader; nothing is to be finished.
        () = shutdown.cancelled() => {}
    }
}

struct Leader {
    standing: Standings,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Replicas for Leader {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<Down, Status>> + Send>>;

    async fn follow(&self, request: Request<Streaming<Up>>) -> Result<Response<Self::FollowStream>, Status> {
        // Only replicas come through the handshake.
        request.extensions().get::<Peer>().inspect(|peer| peer.welcome());
        let mut inbound = request.into_inner();
        let first = timeout(HELLO, inbound.message()).await;
        let Ok(Some(Up::Hello(hello))) = first.map_err(|_| Status::deadline_exceeded("no hello within 10 s"))? else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        let standing = self.standing.borrow().clone();
        if !standing.decides(Instant::now()) {
            return Err(Status::failed_precondition("this replica does not lead"));
        }
        if hello.epoch > standing.epoch {
            let (epoch, known) = (standing.epoch, hello.epoch);
            return Err(Status::failed_precondition(format!(
                "epoch {epoch} is over: the follower knows epoch {known}"
            )));
        }
        let Hello { name, switches, probe, .. } = hello;
        if probe {
            return Ok(Response::new(Box::pin(tokio_stream::empty())));
        }
        let (keeper, waiting) = Keeper::new(Detail::Numbers);
        let (told_tx, told_rx) = oneshot::channel();
        let follows = Event::Follows { switches, keeper, told_tx };
        let stopping = |_| Status::unavailable("weir is stopping");
        self.shared.events_tx.send(follows).await.map_err(|_| Status::unavailable("weir is stopping"))?;
        told_rx.await.map_err(stopping)?;
        info!(replica = %name, "a replica follows this one");
        let (down_tx, down_rx) = mpsc::channel(1);
        let follower = Follower {
            epoch: standing.epoch,
            standing: self.standing.clone(),
            shared: Arc::clone(&self.shared),
            elsewhere: Elsewhere::new(self.shared.proxies.clone()),
            streams: HashMap::new(),
        };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            follower.shared.meters.followers.inc();
            let meters = follower.shared.meters.clone();
            let ended = shutdown.run_until_cancelled(follower.serve(waiting, inbound, &down_tx)).await;
            meters.followers.dec();
            let status = ended.unwrap_or_else(|| Status::unavailable("weir is stopping"));
            info!(replica = %name, why = status.message(), "a replica follows this one no more");
            let _ = down_tx.try_send(Err(status));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(down_rx))))
    }
}

/// One replica that follows.
struct Follower {
    epoch: u64,
    standing: Standings,
    shared: Arc<Shared>,
    /// Its proxies.
    elsewhere: Elsewhere,
    /// Its proxies that stream their statistics.
    streams: HashMap<(ServiceKey, String), Streams>,
}

impl Follower {
    /// Serves it to the end, and says why it came.
    async fn serve(
        mut self,
        mut waiting: Waiting,
        mut inbound: Streaming<Up>,
        down_tx: &mpsc::Sender<Result<Down, Status>>,
    ) -> Status {
        let (epoch, told) = (self.epoch, self.shared.meters.told.clone());
        let telling = async move {
            for sequence in 1.. {
                // News of a service replace older ones for as long as the follower is slow.
                let Ok(place) = down_tx.reserve().await else { break };
                let Some((news, pauses)) = waiting.next().await else { break };
                let services = news.into_iter().collect();
                place.send(Ok(Down { epoch, sequence, at: Timestamp::now(), services, pauses }));
                told.inc();
            }
            Status::unavailable("the stream has ended")
        };
        let mut standing = self.standing.clone();
        let leading = async move {
            // That it is not renewed is not said by a change; whoever decides no more tells nothing either.
            let leads = |standing: &super::Standing| {
                standing.epoch == epoch && matches!(standing.role, super::role::Role::Leading(_))
            };
            let _ = standing.wait_for(|standing| !leads(standing)).await;
            Status::failed_precondition("this replica leads no more")
        };
        let hearing = async {
            loop {
                match inbound.message().await {
                    Ok(Some(up)) => {
                        if let Err(status) = self.hear(up).await {
                            return status;
                        }
                    }
                    Ok(None) => return Status::ok("it has ended the stream"),
                    Err(status) => return status,
                }
            }
        };
        tokio::select! {
            status = telling => status,
            status = leading => status,
            status = hearing => status,
        }
    }

    async fn hear(&mut self, up: Up) -> Result<(), Status> {
        let stopping = || Status::unavailable("weir is stopping");
        match up {
            Up::Hello(_) => return Err(Status::invalid_argument("a second hello")),
            Up::Samples { said, samples } => {
                let samples = self.by_our_clock(said, samples);
                self.shared.samples_tx.send(samples).await.map_err(|_| stopping())?;
            }
            Up::Proxies(reports) => self.elsewhere.take(reports),
            Up::Switch(switch) => {
                self.shared.events_tx.send(Event::Switch(switch)).await.map_err(|_| stopping())?;
            }
        }
        Ok(())
    }

    /// The follower's clock may be wrong: what it measured is as old here as it was there.
    fn by_our_clock(&mut self, said: Timestamp, samples: Vec<PodSample>) -> Vec<PodSample> {
        let apart = Timestamp::now().duration_since(said);
        let shifted = samples.into_iter().map(|sample| {
            let at = sample.at.checked_add(apart).unwrap_or(sample.at);
            if let (Source::Envoy, Some(pod)) = (sample.source, &sample.pod) {
                let key = (ServiceKey::clone(&sample.service), pod.clone());
                let health = &self.shared.health;
                self.streams.entry(key).or_insert_with_key(|(service, pod)| health.streaming(service, pod));
            }
            PodSample { at, ..sample }
        });
        shifted.collect()
    }
}

//! Tells the replicas that follow what is decided, and takes in what their proxies say.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
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
    Event, Shared, Unknown,
    role::Standings,
    wire::{
        Down, Hello, Samples, Up,
        service::replicas_server::{Replicas, ReplicasServer},
    },
};
use crate::{
    checkpoint::{Detail, Keeper, News, Waiting, Wants},
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
        let first = first.map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??.unwrap_or_default();
        let Up { hello: Some(hello), skipped, .. } = first else {
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
        let (keeper, waiting) = Keeper::new(Wants { decisions: Some(Detail::Numbers), memories: true });
        let (told_tx, told_rx) = oneshot::channel();
        let follows = Event::Follows { switches, keeper, told_tx };
        let stopping = |_| Status::unavailable("weir is stopping");
        self.shared.events_tx.send(follows).await.map_err(|_| Status::unavailable("weir is stopping"))?;
        told_rx.await.map_err(stopping)?;
        info!(replica = %name, "a replica follows this one");
        let (down_tx, down_rx) = mpsc::channel(1);
        let mut unknown = Unknown::of(&name, &self.shared.meters);
        unknown.note(&skipped);
        let follower = Follower {
            unknown,
            epoch: standing.epoch,
            standing: self.standing.clone(),
            shared: Arc::clone(&self.shared),
            elsewhere: Elsewhere::new(self.shared.proxies.clone()),
            asked: Arc::default(),
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
    /// What it says that this version does not know.
    unknown: Unknown,
    epoch: u64,
    standing: Standings,
    shared: Arc<Shared>,
    /// Its proxies.
    elsewhere: Elsewhere,
    /// What it was asked to answer.
    asked: Arc<Mutex<Asked>>,
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
        let (epoch, meters) = (self.epoch, self.shared.meters.clone());
        let asked = Arc::clone(&self.asked);
        let telling = async move {
            for sequence in 1.. {
                // News of a service replace older ones for as long as the follower is slow.
                let Ok(place) = down_tx.reserve().await else { break };
                let Some(News { decisions, memories, splits, pauses }) = waiting.next().await else { break };
                let (services, calls) = (decisions.into_iter().collect(), memories.into_iter().collect());
                let answer = asked.lock().ask(sequence, Instant::now());
                place.send(Ok(Down {
                    epoch,
                    sequence,
                    at: Timestamp::now(),
                    answer,
                    services,
                    calls,
                    splits: splits.into_iter().collect(),
                    pauses,
                    ..Down::default()
                }));
                meters.told.inc();
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
        let Up { hello, samples, proxies, switch, taken, skipped } = up;
        if hello.is_some() {
            return Err(Status::invalid_argument("a second hello"));
        }
        self.unknown.note(&skipped);
        if let Some(took) = taken.and_then(|sequence| self.asked.lock().answered(sequence, Instant::now())) {
            self.shared.meters.round_trip.observe(took.as_secs_f64());
        }
        if let Some(Samples { said, samples }) = samples {
            let samples = self.by_our_clock(said, samples);
            self.shared.samples_tx.send(samples).await.map_err(|_| stopping())?;
        }
        if !proxies.is_empty() {
            self.shared.events_tx.send(Event::Proxies(proxies.clone())).await.map_err(|_| stopping())?;
            self.elsewhere.take(proxies);
        }
        if let Some(switch) = switch {
            self.shared.events_tx.send(Event::Switch(switch)).await.map_err(|_| stopping())?;
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

/// The one message whose answer is waited for: how long it takes there and back is measured by this clock alone.
#[derive(Debug, Default)]
struct Asked(Option<(u64, Instant)>);

impl Asked {
    /// Whether an answer to this message is wanted: while another one is awaited, none is.
    fn ask(&mut self, sequence: u64, now: Instant) -> bool {
        let free = self.0.is_none();
        self.0.get_or_insert((sequence, now));
        free
    }

    /// How long this answer took. `None`: it was not asked for.
    fn answered(&mut self, sequence: u64, now: Instant) -> Option<Duration> {
        let (_, since) = self.0.take_if(|(asked, _)| *asked == sequence)?;
        Some(now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_at_a_time_is_waited_for() {
        let (mut asked, start) = (Asked::default(), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        assert!(asked.ask(1, start));
        assert!(!asked.ask(2, after(5)));
        assert_eq!(asked.answered(2, after(6)), None, "nobody asked");
        assert_eq!(asked.answered(1, after(7)), Some(Duration::from_millis(7)));
        assert_eq!(asked.answered(1, after(8)), None, "once");
        assert!(asked.ask(3, after(9)));
    }
}

//! Follows the leader: connects to it, tells it what proxies here say, and takes what it decides.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tracing::{debug, info, warn};

use super::{
    Event, Shared, Unknown,
    leader::{MAX_MESSAGE_BYTES, PING_EVERY, PING_TIMEOUT},
    role::{Leader, Standings},
    wire::{Hello, Samples, Switch, Up, service::replicas_client::ReplicasClient},
};
use crate::{
    identity::Link,
    metrics::{PodSample, outbox::Outbox},
    xds::proxies::Reporter,
};

/// Between two tries to reach the leader.
const RETRY: Duration = Duration::from_millis(250);
/// For a connection with its handshake.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the leader is told what proxies said.
const REPORT: Duration = Duration::from_millis(250);

/// What this replica has to tell the leader; filled by the builder's task.
#[derive(Debug, Default)]
pub struct Uplink {
    samples: Outbox,
    switches: Mutex<Vec<Switch>>,
    switched: Notify,
}

impl Uplink {
    /// Samples of this replica's proxies.
    pub fn samples(&self, samples: Vec<PodSample>) {
        self.samples.put(samples);
    }

    /// An operator has moved the kill switch here. Kept until a leader is told.
    pub fn switch(&self, switch: Switch) {
        self.switches.lock().push(switch);
        self.switched.notify_one();
    }
}

pub(super) struct Follower {
    pub(super) name: String,
    pub(super) link: Link,
    pub(super) standing: Standings,
    pub(super) uplink: Arc<Uplink>,
    pub(super) shared: Arc<Shared>,
}

impl Follower {
    /// Follows whoever leads, for ever.
    pub(super) async fn run(mut self) {
        let mut said = String::new();
        loop {
            let leader = self.standing.borrow_and_update().leader().cloned();
            let Some(leader) = leader else {
                if self.standing.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let mut standing = self.standing.clone();
            let another = async {
                let _ = standing.wait_for(|standing| standing.leader() != Some(&leader)).await;
            };
            let ended = tokio::select! {
                ended = self.follow(&leader, &mut said) => ended,
                () = another => {
                    info!(leader = %leader.name, "this replica follows it no more");
                    continue;
                }
            };
            let why = ended.message().to_owned();
            if why != said {
                warn!(leader = %leader.name, address = %leader.address, why, "the leader cannot be followed for now; the last decisions hold");
                said = why;
            }
            sleep(RETRY).await;
        }
    }

    /// Follows one leader to the end, and says why it came.
    async fn follow(&self, leader: &Leader, said: &mut String) -> Status {
        let mut client = match timeout(PATIENCE, connect(&self.link, &leader.address)).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Status::unavailable(error),
            Err(_) => return Status::unavailable(format!("no connection within {PATIENCE:?}")),
        };
        let (up_tx, up_rx) = mpsc::channel(8);
        let switches = self.uplink.switches.lock().clone();
        let sent = switches.len();
        let hello = Hello { name: self.name.clone(), epoch: self.standing.borrow().epoch, probe: false, switches };
        if up_tx.send(Up { hello: Some(hello), ..Up::default() }).await.is_err() {
            return Status::unavailable("the stream has ended");
        }
        let mut downs = match client.follow(ReceiverStream::new(up_rx)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status,
        };
        self.uplink.switches.lock().drain(..sent);
        info!(leader = %leader.name, "this replica is told by the leader");
        said.clear();
        let linked = Linked::new(&self.shared.meters.linked);
        let mut unknown = Unknown::of(&leader.name, &self.shared.meters);
        let hearing = async {
            loop {
                let down = match downs.message().await {
                    Ok(Some(down)) => down,
                    Ok(None) => return Status::unavailable("the leader has ended the stream"),
                    Err(status) => return status,
                };
                let known = self.standing.borrow().epoch;
                if down.epoch < known {
                    self.shared.meters.dropped.inc();
                    let why = format!("what it decided in epoch {} is dropped: epoch {known} has begun", down.epoch);
                    return Status::failed_precondition(why);
                }
                debug!(
                    epoch = down.epoch,
                    sequence = down.sequence,
                    services = down.services.len(),
                    "told by the leader"
                );
                unknown.note(&down.skipped);
                let answer = down.answer.then_some(down.sequence);
                let (taken_tx, taken_rx) = oneshot::channel();
                let sent = self.shared.events_tx.send(Event::Told { down, taken_tx }).await;
                if sent.is_err() || taken_rx.await.is_err() {
                    return Status::unavailable("weir is stopping");
                }
                // Only now: among peers, who has taken it may begin to lead.
                self.shared.meters.taken.inc();
                if answer.is_some() && up_tx.send(Up { taken: answer, ..Up::default() }).await.is_err() {
                    return Status::unavailable("the leader takes nothing any more");
                }
            }
        };
        let ended = tokio::select! {
            status = hearing => status,
            () = self.tell(&up_tx) => Status::unavailable("the leader takes nothing any more"),
        };
        drop(linked);
        ended
    }

    /// Tells the leader whatever there is, until it takes no more.
    async fn tell(&self, up_tx: &mpsc::Sender<Up>) {
        let (samples_tx, mut samples_rx) = mpsc::channel(1);
        let mut reporter = Reporter::new(self.shared.proxies.clone());
        let mut report_at = Instant::now();
        let telling = async {
            loop {
                let up = tokio::select! {
                    Some(samples) = samples_rx.recv() => {
                        Up { samples: Some(Samples { said: Timestamp::now(), samples }), ..Up::default() }
                    }
                    () = self.uplink.switched.notified() => {
                        let switches = std::mem::take(&mut *self.uplink.switches.lock());
                        for switch in switches {
                            if up_tx.send(Up { switch: Some(switch), ..Up::default() }).await.is_err() {
                                return;
                            }
                        }
                        continue;
                    }
                    () = tokio::time::sleep_until(report_at) => {
                        report_at = Instant::now() + REPORT;
                        let proxies = reporter.take();
                        if proxies.is_empty() {
                            continue;
                        }
                        Up { proxies, ..Up::default() }
                    }
                };
                if up_tx.send(up).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = telling => {}
            () = self.uplink.samples.drain(&samples_tx) => {}
            () = up_tx.closed() => {}
        }
    }
}

/// Whether the replica at `address` leads.
pub(super) async fn probe(link: &Link, address: &str) -> bool {
    let Ok(mut client) = connect(link, address).await else { return false };
    let hello = Up { hello: Some(Hello { probe: true, ..Hello::default() }), ..Up::default() };
    client.follow(tokio_stream::once(hello)).await.is_ok()
}

async fn connect(link: &Link, address: &str) -> Result<ReplicasClient<Channel>, String> {
    let (link, address) = (link.clone(), address.to_owned());
    let connector = tower::service_fn(move |_: Uri| {
        let (link, address) = (link.clone(), address.clone());
        async move { link.connect(&address).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://replica")
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await;
    let channel = channel.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        cause.unwrap_or_else(|| error.to_string())
    })?;
    let client = ReplicasClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Ok(client.max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// Says that this replica is told, while it lives.
struct Linked<'a>(&'a prometheus_client::metrics::gauge::Gauge);

impl<'a> Linked<'a> {
    fn new(gauge: &'a prometheus_client::metrics::gauge::Gauge) -> Self {
        gauge.set(1);
        Self(gauge)
    }
}

impl Drop for Linked<'_> {
    fn drop(&mut self) {
        self.0.set(0);
    }
}

//! Several Weirs for the same proxies: each serves xDS, one of them decides what metrics drive.
//!
//! ```text
//! lease (who leads) or peers (who is alive) -> Standing
//! follower:  samples, what proxies said, the kill switch  --mTLS, gRPC-->  leader
//!            what it has decided, with epoch and sequence  <-------------
//! ```
//!
//! Static limits, shares and endpoints are pure functions of what every replica watches, so they need no leader, and without one the last
//! decisions hold. A follower remembers all that the leader does: it takes over where that ended. What was decided in an epoch before the
//! newest that is known is dropped. It knows nothing of policies; `build::follow` carries out what it brings.

pub mod election;
mod follower;
mod leader;
pub mod lease;
mod meters;
mod peers;
pub mod role;
pub mod wire;

use std::sync::Arc;

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tracing::info;

pub use self::{
    follower::Uplink,
    lease::{Candidate, Ends},
    meters::Meters,
    peers::Peers,
    role::Standing,
};
use self::{
    role::Standings,
    wire::{Down, Switch},
};
use crate::{
    checkpoint::Keeper,
    codec::known::Skipped,
    identity::{Held, Link},
    metrics::{HealthBoard, PodSample},
    xds::proxies::{Proxies, Report},
};

/// As good as for ever.
const ALWAYS: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 60 * 60);

/// What `weir run` was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the replica link is served, and how others are told so.
    pub address: std::net::SocketAddr,
    /// How it is told who leads.
    pub vote: Vote,
}

/// How it is told who leads.
#[derive(Clone, Debug)]
pub enum Vote {
    /// By a Lease of a Kubernetes API server.
    Lease(Candidate),
    /// By a list: the first of it that is alive.
    Peers(Peers),
}

/// What the builder is told.
#[derive(Debug)]
pub enum Event {
    /// A replica follows this one.
    Follows {
        /// How the kill switch was moved there while nobody led.
        switches: Vec<Switch>,
        /// Is to be given everything.
        keeper: Keeper,
        /// Answered when it was.
        told_tx: oneshot::Sender<()>,
    },
    /// The kill switch was moved at a replica that follows.
    Switch(Switch),
    /// What proxies of a replica that follows have.
    Proxies(Vec<Report>),
    /// The leader says what it has decided.
    Told {
        /// All of it.
        down: Down,
        /// Answered when it is carried out, or dropped.
        taken_tx: oneshot::Sender<()>,
    },
}

/// What is shared with the rest.
#[derive(Debug)]
pub struct Shared {
    /// What proxies said, here and elsewhere.
    pub proxies: Proxies,
    /// Takes what was measured elsewhere.
    pub samples_tx: mpsc::Sender<Vec<PodSample>>,
    /// Knows whose proxies stream.
    pub health: HealthBoard,
    /// Takes what replicas say.
    pub events_tx: mpsc::Sender<Event>,
    /// Counts.
    pub meters: Meters,
}

/// What the builder needs of this room.
#[derive(Debug)]
pub struct Replicas {
    /// What this replica is.
    pub standing: Standings,
    /// What it tells the leader.
    pub uplink: Arc<Uplink>,
}

/// What another replica says that this version does not know: counted each time, said once a link.
#[derive(Debug)]
struct Unknown {
    replica: String,
    meters: Meters,
    said: bool,
}

impl Unknown {
    fn of(replica: &str, meters: &Meters) -> Self {
        Self { replica: replica.to_owned(), meters: meters.clone(), said: false }
    }

    fn note(&mut self, Skipped { count, first }: &Skipped) {
        self.meters.skipped.inc_by(*count);
        if let Some(first) = first.as_ref().filter(|_| !std::mem::replace(&mut self.said, true)) {
            let replica = &self.replica;
            info!(%replica, first, "a replica of another version says what this one does not know; the rest of it counts");
        }
    }
}

/// As which epoch this replica may write what is decided, now and later; `None`: it may not. Alone it always may.
#[must_use]
pub fn epochs(replicas: Option<&Replicas>) -> watch::Receiver<Option<u64>> {
    let Some(replicas) = replicas else { return watch::channel(Some(0)).1 };
    let mut standing = replicas.standing.clone();
    let (epoch_tx, epoch_rx) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let now = standing.borrow_and_update().clone();
            epoch_tx.send_replace(now.decides(std::time::Instant::now()).then_some(now.epoch));
            if standing.changed().await.is_err() || epoch_tx.is_closed() {
                return;
            }
        }
    });
    epoch_rx
}

/// Starts the tasks, which end as `ends` says.
///
/// # Errors
///
/// The library does not want to speak TLS.
pub fn spawn(
    config: Config,
    listener: TcpListener,
    held: Held,
    shared: Shared,
    tasks: &mut JoinSet<()>,
    ends: Ends,
) -> Result<Replicas, crate::identity::tls::Error> {
    let shutdown = &ends.shutdown.clone();
    let link = Link::new(held);
    let tls = link.tls()?;
    let (standing_tx, standing) = watch::channel(Standing::default());
    let shared = Arc::new(shared);
    let uplink = Arc::new(Uplink::default());
    let name = match &config.vote {
        Vote::Lease(candidate) => candidate.name.clone(),
        Vote::Peers(peers) => peers.own().to_owned(),
    };
    let meters = shared.meters.clone();
    meters.follow(standing.clone(), tasks, shutdown);
    let (following, stop) = (tls.clone(), shutdown.clone());
    let refreshing = link.clone();
    tasks.spawn(async move { stop.run_until_cancelled(refreshing.follow(&following)).await.unwrap_or_default() });
    tasks.spawn(leader::serve(listener, tls, standing.clone(), Arc::clone(&shared), shutdown.clone()));
    let follower = follower::Follower {
        name,
        link: link.clone(),
        standing: standing.clone(),
        uplink: Arc::clone(&uplink),
        shared,
    };
    let stop = shutdown.clone();
    tasks.spawn(async move { stop.run_until_cancelled(follower.run()).await.unwrap_or_default() });
    match config.vote {
        Vote::Lease(candidate) => {
            let followers = meters.followers.clone();
            tasks.spawn(candidate.run(standing_tx, move || followers.get() > 0, ends))
        }
        Vote::Peers(peers) => tasks.spawn(peers.run(standing_tx, link, meters, shutdown.clone())),
    };
    Ok(Replicas { standing, uplink })
}

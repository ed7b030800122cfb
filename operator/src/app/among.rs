//! The builder's task among replicas: whether it decides now, and what it does with what the others say.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::sleep_until;
use tracing::{debug, warn};

use crate::{
    admin::pauses::{self, Switch},
    build::Builder,
    checkpoint::News,
    metrics::PodSample,
    replicas::{
        Event, Replicas,
        role::Role,
        wire::{self, Down},
    },
    status::ReplicaReport,
    translate::decide::Decides,
    xds::proxies::Proxies,
};

/// A replica that starts waits so long for another's memory, before it serves what it knows itself. A Lease that nobody renews is over
/// before that.
const MEMORY: Duration = Duration::from_secs(10);
/// Proxies of other replicas are told of within this after one begins to lead. Before that it writes no status.
const GATHER: Duration = Duration::from_secs(3);

/// This replica, and what it knows of the others.
#[derive(Debug)]
pub(super) struct Among {
    /// `None`: it is alone.
    replicas: Option<Replicas>,
    /// When it was started.
    started: Instant,
    /// It leads, or was told by who does, or has waited long enough.
    settled: bool,
    /// Since when it leads.
    leads: Option<Instant>,
}

impl Among {
    pub(super) fn new(replicas: Option<Replicas>) -> Self {
        Self { settled: replicas.is_none(), replicas, started: Instant::now(), leads: None }
    }

    /// Lets the builder decide, or not, as this replica stands at this moment. To be called before anything is decided: the process
    /// may have been stopped for a while. Returns whether that turned.
    pub(super) fn judge(&mut self, builder: &mut Builder) -> bool {
        let Some(replicas) = &self.replicas else { return false };
        let now = Instant::now();
        let decides = replicas.standing.borrow().decides(now);
        if decides {
            self.leads.get_or_insert(now);
        } else {
            self.leads = None;
        }
        self.settled |= decides || now >= self.started + MEMORY;
        let decides = if decides { Decides::All } else { Decides::Unmeasured };
        let turned = builder.decides() != decides;
        builder.set_decides(decides, Timestamp::now());
        turned
    }

    /// Whether it may serve: it knows what is decided, as far as anybody does.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether it writes statuses: it leads, and knows of the proxies of the others.
    pub(super) fn reports(&self) -> bool {
        self.replicas.is_none() || self.leads.is_some_and(|since| since.elapsed() >= GATHER)
    }

    /// Waits until it may stand elsewhere.
    pub(super) async fn changed(&mut self) {
        let Some(replicas) = &mut self.replicas else { return std::future::pending().await };
        let until = match replicas.standing.borrow().role {
            Role::Leading(until) if self.leads.is_some() => Some(until),
            _ => None,
        };
        let waits = (!self.settled).then_some(self.started + MEMORY);
        let due = until.into_iter().chain(waits).min();
        tokio::select! {
            changed = replicas.standing.changed() => if changed.is_err() {
                // The election has ended; so does the process.
                std::future::pending().await
            },
            () = async { sleep_until(due.unwrap_or(self.started).into()).await }, if due.is_some() => {}
        }
    }

    /// Decides on samples, or hands them to who does.
    pub(super) fn observe(&self, builder: &mut Builder, samples: Vec<PodSample>) {
        match &self.replicas {
            Some(replicas) if builder.decides() == Decides::Unmeasured => replicas.uplink.samples(samples),
            _ => builder.observe(samples, Timestamp::now()),
        }
    }

    /// The kill switch was moved here.
    pub(super) fn switched(&self, builder: &Builder, switch: wire::Switch) {
        if let Some(replicas) = self.replicas.as_ref().filter(|_| builder.decides() == Decides::Unmeasured) {
            replicas.uplink.switch(switch);
        }
    }

    /// Another replica says something.
    pub(super) fn hear(&mut self, builder: &mut Builder, proxies: &Proxies, event: Event) {
        let Some(replicas) = &self.replicas else { return };
        let now = Timestamp::now();
        match event {
            Event::Follows { switches, keeper, told_tx } => {
                if builder.decides() == Decides::All {
                    switches.into_iter().for_each(|switch| turn(builder, proxies, switch));
                    builder.tell(keeper, now);
                    let _ = told_tx.send(());
                }
            }
            Event::Switch(switch) => turn(builder, proxies, switch),
            Event::Proxies(reports) => builder.mirror(&reports, now),
            Event::Told { down: Down { epoch, services, calls, splits, pauses, .. }, taken_tx } => {
                let known = replicas.standing.borrow().epoch;
                if epoch < known || builder.decides() == Decides::All {
                    debug!(epoch, known, "what another replica has decided is dropped");
                } else {
                    let (decisions, memories) = (services.into_iter().collect(), calls.into_iter().collect());
                    let splits = splits.into_iter().collect();
                    builder.take_up(News { decisions, memories, splits, pauses }, now);
                    self.settled = true;
                }
                let _ = taken_tx.send(());
            }
        }
    }

    /// What this replica is, for status.
    pub(super) fn report(&self) -> Option<ReplicaReport> {
        let standing = self.replicas.as_ref()?.standing.borrow();
        Some(ReplicaReport {
            leads: standing.decides(Instant::now()),
            leader: standing.leader().map(|leader| leader.name.clone()),
            epoch: standing.epoch,
        })
    }
}

fn turn(builder: &mut Builder, proxies: &Proxies, wire::Switch { pause, service }: wire::Switch) {
    let switch = if pause { Switch::Pause } else { Switch::Resume };
    if let Err(error) = pauses::switch(builder, proxies, switch, service.as_ref(), Timestamp::now()) {
        warn!(%error, "the kill switch was moved at another replica, and cannot be here");
    }
}

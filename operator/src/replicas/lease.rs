//! Keeps looking at the Lease, takes it when it is free, renews it while it is ours.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    election::{self, HOLDS, Observed, RENEW_WITHIN, RETRY, Record, Step},
    role::{Leader, Role, Standing},
};
use crate::watch::kubernetes::cause;

/// Which Lease, and who we are.
#[derive(Clone)]
pub struct Candidate {
    /// Speaks to the API server; the Lease is in its namespace.
    pub client: Client,
    /// Name of the Lease; made when it is not there.
    pub lease: String,
    /// Our name.
    pub name: String,
    /// Where our replica link is served.
    pub address: String,
    /// There is no other but while one takes our place: it goes on leading while the API server is away, since nobody else can begin to.
    pub sole: bool,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client: _, lease, name, address, sole } = self;
        let mut debug = f.debug_struct("Candidate");
        debug.field("lease", lease).field("name", name).field("address", address).field("sole", sole);
        debug.finish_non_exhaustive()
    }
}

/// Where we stand, as far as it is known.
struct Campaign {
    candidate: Candidate,
    leases: Api<Lease>,
    seen: Observed,
    lease: Lease,
    /// The epoch that we lead as, and when the last renewal was begun.
    leads: Option<(u64, Instant)>,
    standing: watch::Sender<Standing>,
    said: String,
    /// Since when there is no Lease.
    missing: Option<Instant>,
    /// It leads no more, whatever the Lease says: it is leaving.
    resigned: bool,
}

/// A Lease that somebody has deleted is made again after this.
const MISSING: Duration = Duration::from_secs(3);

impl Candidate {
    /// Stands for election until it is to leave. Then it lays the Lease down: at once where somebody `follows`, who remembers everything, else at
    /// the end, when the last decisions are kept.
    pub async fn run(self, standing: watch::Sender<Standing>, follows: impl Fn() -> bool, ends: Ends) {
        let leases = Api::<Lease>::default_namespaced(self.client.clone());
        let mut campaign = Campaign {
            candidate: self,
            leases,
            seen: Observed::default(),
            lease: Lease::default(),
            leads: None,
            standing,
            said: String::new(),
            missing: None,
            resigned: false,
        };
        let _ = ends.leaving.run_until_cancelled(campaign.run()).await;
        if follows() {
            campaign.lay_down().await;
        }
        let stop = async {
            ends.shutdown.cancelled().await;
            // The last decisions are kept before anybody else decides.
            let _ = tokio::time::timeout(RENEW_WITHIN, ends.drained.cancelled()).await;
        };
        tokio::select! {
            () = stop => {}
            () = campaign.run() => {}
        }
        campaign.lay_down().await;
    }
}

/// When what ends, in this order.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Proxies begin to leave.
    pub leaving: CancellationToken,
    /// They have left, and everything ends.
    pub shutdown: CancellationToken,
    /// The last decisions are kept.
    pub drained: CancellationToken,
}

impl Campaign {
    async fn run(&mut self) {
        loop {
            let began = Instant::now();
            let turn = tokio::time::timeout(RENEW_WITHIN, self.turn()).await;
            let wait = match turn {
                Ok(Ok(wait)) => {
                    if !std::mem::take(&mut self.said).is_empty() {
                        info!(lease = %self.candidate.lease, "the Lease can be read and written again");
                    }
                    wait
                }
                Ok(Err(error)) => self.trouble(cause(&error).to_string()),
                Err(_) => self.trouble(format!("no answer within {RENEW_WITHIN:?}")),
            };
            self.publish();
            tokio::time::sleep_until((began + wait).into()).await;
        }
    }

    fn trouble(&mut self, why: String) -> Duration {
        if why != self.said {
            let lease = &self.candidate.lease;
            let meanwhile =
                if self.candidate.sole { "who led goes on leading" } else { "the last decisions hold until it can be" };
            warn!(lease, why, "the Lease cannot be read or written for now; {meanwhile}");
            self.said = why;
        }
        RETRY
    }

    /// One look, and one write where one is due. How long until the next.
    async fn turn(&mut self) -> Result<Duration, kube::Error> {
        let began = Instant::now();
        match self.leases.get_opt(&self.candidate.lease).await? {
            Some(lease) => {
                self.seen.look(Record::of(&lease), Instant::now());
                self.lease = lease;
                self.missing = None;
            }
            // Whoever takes Weir away takes the Lease first: it is not made again at once.
            None if self.missing.get_or_insert(began).elapsed() < MISSING && self.lease.metadata.uid.is_some() => {
                return Ok(RETRY / 2);
            }
            None => {
                self.lease = Lease {
                    metadata: ObjectMeta { name: Some(self.candidate.lease.clone()), ..ObjectMeta::default() },
                    ..Lease::default()
                };
                self.seen.look(Record { holds: HOLDS, ..Record::default() }, Instant::now());
            }
        }
        if self.resigned {
            return Ok(RETRY / 2);
        }
        let leads_as = self.leads.map(|(epoch, _)| epoch);
        let (epoch, takes) = match self.seen.step(&self.candidate.name, leads_as, self.candidate.sole, began) {
            Step::Wait(until) => {
                self.leads = None;
                // Just after it is over, if nobody renews it.
                return Ok(until.saturating_duration_since(began).min(RETRY / 2));
            }
            Step::Renew => (self.leads.map_or(0, |(epoch, _)| epoch), false),
            Step::Take(epoch) => (epoch, true),
        };
        if takes {
            self.leads = None;
        }
        let Candidate { name, address, lease, .. } = &self.candidate;
        let held = election::held(self.lease.clone(), name, address, epoch, takes, Timestamp::now());
        let written = match held.metadata.resource_version {
            Some(_) => self.leases.replace(lease, &PostParams::default(), &held).await,
            None => self.leases.create(&PostParams::default(), &held).await,
        };
        match written {
            Ok(written) => {
                self.seen.look(Record::of(&written), Instant::now());
                self.lease = written;
                // From before the write: others count from when they see it.
                self.leads = Some((epoch, began));
                if takes {
                    info!(epoch, replica = %name, "this replica leads: it decides what metrics drive");
                }
                Ok(RETRY)
            }
            // Somebody was first; who it is the next look shows.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Duration::from_millis(50)),
            Err(error) => Err(error),
        }
    }

    fn publish(&mut self) {
        let record = self.seen.record();
        let holds = if self.candidate.sole { super::ALWAYS } else { RENEW_WITHIN };
        let role = match self.leads.map(|(_, since)| since + holds).filter(|until| Instant::now() < *until) {
            Some(until) => Role::Leading(until),
            None => {
                if let Some((epoch, _)) = self.leads.take() {
                    warn!(epoch, "this replica leads no more: it could not renew its Lease within {RENEW_WITHIN:?}");
                }
                let holder = record.holder.clone().filter(|holder| *holder != self.candidate.name);
                let leader = holder.zip(record.address.clone()).map(|(name, address)| Leader { name, address });
                Role::Following(leader)
            }
        };
        let new = Standing { epoch: self.seen.highest(), role };
        self.standing.send_if_modified(|standing| {
            if standing.leader() != new.leader()
                && let Some(leader) = new.leader()
            {
                info!(leader = %leader.name, epoch = new.epoch, "this replica follows");
            }
            let differs = *standing != new;
            *standing = new;
            differs
        });
    }

    /// Leads no more from this moment on, and has another one lead.
    async fn lay_down(&mut self) {
        self.resigned = true;
        if self.leads.take().is_none() {
            return;
        }
        self.publish();
        let name = &self.candidate.lease;
        let laying_down = async {
            let lease = self.leases.get(name).await?;
            if Record::of(&lease).holder.as_ref() == Some(&self.candidate.name) {
                let lease = election::laid_down(lease, Timestamp::now());
                self.leases.replace(name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(RETRY, laying_down).await {
            Ok(Ok(())) => info!("the Lease is laid down; another replica leads from now on"),
            _ => warn!("the Lease could not be laid down; another replica takes it when it is over"),
        }
    }
}

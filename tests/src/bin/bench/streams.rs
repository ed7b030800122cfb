//! Clients of the xDS server in great number: they subscribe as Envoy does, take everything and acknowledge it.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Context;
use operator::xds::{
    ResourceType,
    client::{DeltaClient, versions},
};
use tokio::{sync::Notify, time::timeout};

use crate::clock;

const PATIENCE: Duration = Duration::from_secs(30);

/// What all clients together have seen in a round.
#[derive(Debug)]
pub(crate) struct Arrivals {
    of: usize,
    count: AtomicUsize,
    first_ns: AtomicU64,
    last_ns: AtomicU64,
    all: Notify,
}

impl Arrivals {
    pub(crate) fn new(of: usize) -> Self {
        let (first_ns, last_ns) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Self { of, count: AtomicUsize::new(0), first_ns, last_ns, all: Notify::new() }
    }

    pub(crate) fn begin(&self) {
        self.count.store(0, Ordering::Relaxed);
        self.first_ns.store(u64::MAX, Ordering::Relaxed);
        self.last_ns.store(0, Ordering::Relaxed);
    }

    pub(crate) fn arrived(&self) {
        let now = u64::try_from(clock::now().as_nanos()).unwrap_or(u64::MAX);
        self.first_ns.fetch_min(now, Ordering::Relaxed);
        self.last_ns.fetch_max(now, Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == self.of {
            self.all.notify_one();
        }
    }

    /// When the first client had it.
    pub(crate) fn first(&self) -> Duration {
        Duration::from_nanos(self.first_ns.load(Ordering::Relaxed))
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// When the last client had it.
    pub(crate) async fn all(&self) -> anyhow::Result<Duration> {
        let waited = timeout(PATIENCE, self.all.notified()).await;
        waited.with_context(|| format!("only {} of {} clients have it", self.count(), self.of))?;
        Ok(Duration::from_nanos(self.last_ns.load(Ordering::Relaxed)))
    }
}

/// What follows a response: whoever has these clusters or listeners subscribes to that.
pub(crate) const fn follows(resource_type: ResourceType) -> Option<ResourceType> {
    match resource_type {
        ResourceType::Cluster => Some(ResourceType::Endpoints),
        ResourceType::Listener => Some(ResourceType::Route),
        _ => None,
    }
}

/// Subscribes, takes everything and acknowledges it, for ever; every route configuration is an arrival.
pub(crate) async fn follow(mut client: DeltaClient, arrivals: &Arrivals) -> anyhow::Result<()> {
    client.subscribe(ResourceType::Cluster, &[]).await?;
    client.subscribe(ResourceType::Listener, &[]).await?;
    loop {
        let response = client.next().await?;
        let resource_type = ResourceType::from_type_url(&response.type_url);
        if resource_type == Some(ResourceType::Route) {
            arrivals.arrived();
        }
        client.ack(&response).await?;
        if let Some(follows) = resource_type.and_then(follows) {
            // Everything that belongs to one port has one name.
            let names = versions(&response);
            let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
            client.subscribe(follows, &names).await?;
        }
    }
}

//! Calls of one service that go on all the time, through both proxies at once.

use std::time::Duration;

use anyhow::Context;
use http::{HeaderValue, header};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{CALLERS, caller::Caller};
use crate::demo::load::{self, Live, Phase, Plan, Report, Summary, Target};

/// Requests a second through each proxy.
pub(super) const PER_SECOND: f64 = 100.0;
/// Longer than anything here takes; it is stopped before.
const LONGEST: Duration = Duration::from_secs(300);
/// A request without an answer after this has failed.
const TIMEOUT: Duration = Duration::from_secs(2);

/// See the module. Dropped: the calls stop.
pub(super) struct Steady {
    load: JoinHandle<Report>,
    stop: DropGuard,
    live: watch::Receiver<Live>,
    begun: Instant,
}

impl Steady {
    /// Begins to call `service`.
    pub(super) fn begin(service: &str, callers: &[Caller; CALLERS]) -> anyhow::Result<Self> {
        let targets = callers.each_ref().map(|caller| Target { name: caller.name.to_owned(), address: caller.way_out });
        let phase = Phase { name: "steady".to_owned(), per_second: PER_SECOND, duration: LONGEST };
        let mut plan = Plan::new(targets.to_vec(), vec![phase]);
        plan.timeout = TIMEOUT;
        plan.headers.insert(header::HOST, HeaderValue::from_str(service).context("a service's name")?);
        let (live_tx, live) = watch::channel(Live::default());
        let stop = CancellationToken::new();
        let load = tokio::spawn(load::run(plan, live_tx, stop.clone()));
        Ok(Self { load, stop: stop.drop_guard(), live, begun: Instant::now() })
    }

    /// Whole seconds since its begin.
    pub(super) fn seconds(&self) -> usize {
        usize::try_from(self.begun.elapsed().as_secs()).unwrap_or(usize::MAX)
    }

    /// How many were answered by each so far, and how many failed of both, in words.
    pub(super) fn so_far(&self) -> String {
        let live = self.live.borrow();
        if live.targets.is_empty() {
            return "steady calls begin".to_owned();
        }
        let sum = |value: fn(&Summary) -> u64, seconds: &[Summary]| seconds.iter().map(value).sum::<u64>();
        let answered: Vec<String> = live.targets.iter().map(|target| sum(|it| it.ok, target).to_string()).collect();
        let failed: u64 = live.targets.iter().map(|target| sum(|it| it.failed + it.limited, target)).sum();
        format!("steady calls answered: {}; failed: {failed}", answered.join(" and "))
    }

    /// Stops it, and gives what it counted.
    pub(super) async fn end(self) -> anyhow::Result<Report> {
        drop(self.stop);
        self.load.await.context("the steady calls broke off")
    }
}

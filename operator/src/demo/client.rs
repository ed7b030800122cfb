//! `weir demo-load`: a constant load on one address, and what became of it.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context;
use tokio::{net::lookup_host, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    args::DemoLoadArgs,
    load::{self, Live, Phase, Plan, Target},
};
use crate::{command::say, xds::bootstrap::Upstream};

/// Connections begin anew with each round, so that they spread over the pods behind a Service's address.
const ROUND: Duration = Duration::from_secs(5);

/// Sends requests until SIGTERM or Ctrl-C, and prints a line for each round.
///
/// # Errors
/// When the name is not known, or signals cannot be caught.
pub async fn run(args: DemoLoadArgs) -> anyhow::Result<ExitCode> {
    let shutdown = CancellationToken::new();
    tokio::spawn(super::stop_on_signal(shutdown.clone())?);
    while !shutdown.is_cancelled() {
        let address = resolve(&args.to).await?;
        let phase = Phase { name: "load".to_owned(), per_second: args.rate, duration: ROUND };
        let plan = Plan::new(vec![Target { name: "service".to_owned(), address }], vec![phase]);
        let (live_tx, _) = watch::channel(Live::default());
        let report = load::run(plan, live_tx, shutdown.clone()).await;
        let load::Summary { offered, ok, limited, failed, .. } = report.sum(0..report.seconds());
        let per_second = |count: u64| count as f64 / ROUND.as_secs_f64();
        let [offered, ok, limited, failed] = [offered, ok, limited, failed].map(per_second);
        say!("a second: {offered:.0} asked, {ok:.0} answered, {limited:.0} refused with 429, {failed:.0} failed");
    }
    Ok(ExitCode::SUCCESS)
}

async fn resolve(to: &Upstream) -> anyhow::Result<SocketAddr> {
    match to {
        Upstream::Several(_) => anyhow::bail!("--to takes one target"),
        Upstream::Address(address) => Ok(*address),
        Upstream::Name(name, port) => {
            let mut addresses = lookup_host((name.as_str(), *port)).await.with_context(|| format!("--to {name}"))?;
            addresses.next().with_context(|| format!("--to {name}: it has no address"))
        }
        Upstream::Unix(path) => {
            anyhow::bail!("--to unix:{}: load is sent to an address or a name, such as a.default:80", path.display())
        }
    }
}

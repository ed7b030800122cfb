//! What can be typed after `weir demo` and `weir demo-service`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{queue, service};
use crate::xds::bootstrap::Upstream;

/// `weir demo`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DemoArgs {
    /// What to show; `limit` unless told otherwise.
    #[command(subcommand)]
    pub scenario: Option<Scenario>,
    /// Of `limit`.
    #[command(flatten)]
    pub limit: LoadArgs,
}

/// Scenarios of `weir demo`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Scenario {
    /// A limit of 90 requests per second while CPU is high.
    Limit(LoadArgs),
    /// A limit that steers itself: load three times the capacity, then half of the capacity too.
    Adapt(LoadArgs),
    /// A proxy that starts with nothing and gets what its application calls, beside one that has everything: half a minute.
    Lazy(LazyArgs),
    /// Three versions of a service: one that answers sooner grows, one that turns bad is drained, and nobody edits anything.
    Split(SplitArgs),
}

/// `weir demo limit` and `weir demo adapt`.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// Leave the policy out, to see what happens then; the demo then fails with exit code 1.
    #[arg(long)]
    pub without_limit: bool,
    /// Length of the whole load, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(40..=3600), value_name = "N")]
    pub seconds: u64,
    /// One plain line a second, even on a terminal.
    #[arg(long)]
    pub plain: bool,
    /// What is left at the end.
    #[command(flatten)]
    pub end: EndArgs,
}

/// `weir demo lazy`.
#[derive(Clone, Debug, clap::Args)]
pub struct LazyArgs {
    /// Services of the mesh, from 100 to 5000. Twenty of them are called.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(100..=5000), value_name = "N")]
    pub services: u16,
    /// What is left at the end.
    #[command(flatten)]
    pub end: EndArgs,
}

/// `weir demo split`.
#[derive(Clone, Debug, clap::Args)]
pub struct SplitArgs {
    /// Leave out what steers, to see what happens then; the demo then fails with exit code 1.
    #[arg(long)]
    pub without_steering: bool,
    /// Length of the whole load, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(40..=3600), value_name = "N")]
    pub seconds: u64,
    /// One plain line a second, even on a terminal.
    #[arg(long)]
    pub plain: bool,
    /// What is left at the end.
    #[command(flatten)]
    pub end: EndArgs,
}

/// What a demonstration leaves at its end.
#[derive(Clone, Debug, clap::Args)]
pub struct EndArgs {
    /// Leave everything running at the end, and print addresses and commands to play with, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Where to write the page with the plots.
    #[arg(long, default_value = "weir-demo.html", value_name = "FILE")]
    pub out: PathBuf,
}

/// `weir demo-service`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoServiceArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// CPU time that each request costs, such as 4ms.
    #[arg(long, default_value = "4ms", value_parser = cost, value_name = "DURATION")]
    pub cost: Duration,
    /// Cores that the whole process may use, above 0 and at most 1: capacity is cpu / cost requests a second.
    #[arg(long, default_value_t = 0.2, value_parser = cores, value_name = "CORES")]
    pub cpu: f64,
    /// Use no CPU: this many workers that wait, instead of one that burns. `PUT /workers` changes the number.
    #[arg(long, value_name = "N", conflicts_with_all = ["cost", "cpu"], value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub workers: Option<u16>,
    /// Mean time of a request with --workers, such as 20ms; times vary as real ones do.
    #[arg(long, default_value = "20ms", requires = "workers", value_parser = cost, value_name = "DURATION")]
    pub time: Duration,
}

/// `weir demo-load`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoLoadArgs {
    /// Where requests go.
    #[arg(long, value_name = "HOST:PORT")]
    pub to: Upstream,
    /// Requests a second, above 0 and at most 10000.
    #[arg(long, default_value_t = 200.0, value_parser = rate, value_name = "N")]
    pub rate: f64,
}

impl DemoServiceArgs {
    pub(super) fn config(&self) -> service::Config {
        service::Config { cost: self.cost, cpu: self.cpu }
    }

    /// Only with `--workers`.
    pub(super) fn queue(&self) -> Option<queue::Config> {
        let workers = usize::from(self.workers?);
        Some(queue::Config {
            workers,
            mean: self.time,
            variation: 0.5,
            queue: 2000,
            seed: u64::from(self.listen.port()),
        })
    }
}

fn cost(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration from 1us to 10s, such as 4ms, found {text:?}");
    let duration: jiff::SignedDuration = text.parse().map_err(|_| expected())?;
    let duration = Duration::try_from(duration).map_err(|_| expected())?;
    (Duration::from_micros(1)..=Duration::from_secs(10)).contains(&duration).then_some(duration).ok_or_else(expected)
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    let expected = || format!("expected a number above 0 and at most 10000, found {text:?}");
    rate.filter(|rate| *rate > 0.0 && *rate <= 10_000.0).ok_or_else(expected)
}

fn cores(text: &str) -> Result<f64, String> {
    let expected = || format!("expected a number above 0 and at most 1, found {text:?}");
    let cores: f64 = text.parse().map_err(|_| expected())?;
    (0.001..=1.0).contains(&cores).then_some(cores).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{cores, cost};

    #[test]
    fn refuses_costs_and_cores_that_make_no_sense() {
        assert_eq!(cost("4ms"), Ok(Duration::from_millis(4)));
        for bad in ["", "4", "-4ms", "0s", "1h", "x"] {
            assert!(cost(bad).is_err(), "{bad}");
        }
        assert_eq!(cores("0.2"), Ok(0.2));
        for bad in ["0", "-1", "NaN", "inf", "2", "x", "1e-9"] {
            assert!(cores(bad).is_err(), "{bad}");
        }
    }
}

//! GOV-1: what a service of known capacity still does in time when more is asked of it, under each kind of protection, on real
//! Envoys.
//!
//! The service is a queue with four workers and lognormal times of 10 ms; clients are Poisson, give up after 500 ms, and call an
//! answer good within 100 ms. Every arm has a service, an Envoy and clients of its own; arms of one scenario run side by side
//! as far as the load allows.

mod analysis;
mod arm;
mod scenario;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use futures::future::{join, join_all, try_join_all};
use http::{HeaderMap, HeaderName, HeaderValue};
use operator::demo::{
    load::{self, Arrivals, Exchange, Live, Phase, Plan, Target},
    queue::{Config, Queue},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    analysis::{Outcome, analyse},
    arm::{Arm, HIGH, Running},
    scenario::{SCENARIOS, Scenario, Timeline},
};
use crate::{
    http::{Connection, request},
    in_a_task,
};

/// Clients give up after this.
const TIMEOUT: Duration = Duration::from_millis(500);
/// An answer that comes later is of no use.
const SLO: Duration = Duration::from_millis(100);
/// Load as before, not counted: connections open, and whoever learns has learnt.
const WARM_UP: Duration = Duration::from_secs(2);
/// Requests per second that all clients together send at most, so that two cores are not what is measured.
const TOGETHER: f64 = 4500.0;
const CALIBRATION: Duration = Duration::from_secs(5);
const SERVICE: Config =
    Config { workers: 4, mean: Duration::from_millis(10), variation: 0.5, queue: 2000, seed: 0x5EED };

/// Head of the table.
const HEAD: &str = "| scenario | protection | goodput | converged | p99 admitted | refused before | refused after | recovered | high class served | CPU of Weir | |\n\
                    | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

/// What can be asked of it beside its name.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GovArgs {
    /// gov: 20 s before, 40 s of surge and 40 s after in place of 4, 12 and 4.
    #[arg(long)]
    long: bool,
    /// gov: only scenarios and arms whose name holds one of these words.
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,
    /// gov: write what happened over time to this folder, one file for each scenario and arm.
    #[arg(long, value_name = "DIR")]
    csv: Option<PathBuf>,
}

impl GovArgs {
    /// Whether some word names it, or no word names any of its kind.
    fn wants(&self, name: &str, all: &[&str]) -> bool {
        let named = |name: &str| self.only.iter().any(|word| name.contains(word.as_str()));
        named(name) || !all.iter().any(|other| named(other))
    }
}

/// Runs everything that is asked for; gives a table of its own.
pub(crate) fn run(args: &GovArgs) -> anyhow::Result<String> {
    if let Some(folder) = &args.csv {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let args = args.clone();
    in_a_task(async move { measure(&args).await })
}

async fn measure(args: &GovArgs) -> anyhow::Result<String> {
    let timeline = if args.long { Timeline::LONG } else { Timeline::SHORT };
    let capacity = calibrate().await?;
    eprintln!("capacity {capacity:.1}/s, as measured");
    let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    let arms = Arm::all();
    let arm_names: Vec<&str> = arms.iter().map(Arm::name).collect();
    let mut lines = vec![format!("Capacity {capacity:.0} requests per second.\n"), HEAD.to_owned()];
    for scenario in SCENARIOS.iter().filter(|scenario| args.wants(scenario.name, &names)) {
        let arms = arms.iter().filter(|arm| args.wants(arm.name(), &arm_names) && scenario::suits(scenario, **arm));
        let arms: Vec<Arm> = arms.copied().collect();
        let at_once = ((TOGETHER / (scenario.peak() * capacity)) as usize).max(1);
        for group in arms.chunks(at_once) {
            let group_names: Vec<&str> = group.iter().map(Arm::name).collect();
            eprintln!("{}: {}", scenario.name, group_names.join(", "));
            let played = group.iter().map(|arm| play(*arm, scenario, timeline, capacity));
            for (arm, played) in group.iter().zip(join_all(played).await) {
                let what = || format!("{}, {}", scenario.name, arm.name());
                let played = played.with_context(what)?;
                let outcome = analyse(&played.exchanges, scenario, &timeline, capacity);
                let high = scenario.has_classes().then(|| analysis::served(&played.high, &timeline));
                lines.push(line(scenario, *arm, &outcome, high, played.weir_cpu));
                if let Some(folder) = &args.csv {
                    let file = folder.join(format!("{}-{}.csv", scenario.name, arm.name()).replace(' ', "-"));
                    let text = analysis::csv(&played.exchanges, &played.limits, scenario, &timeline, capacity);
                    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
                }
            }
        }
    }
    Ok(lines.join("\n"))
}

/// What one arm did in one scenario. Times count from the end of the warm-up.
struct Played {
    /// Of both classes.
    exchanges: Vec<Exchange>,
    /// Of the high class.
    high: Vec<Exchange>,
    /// What Weir said was in force: seconds, requests per second, words.
    limits: Vec<(f64, Option<f64>, String)>,
    /// CPU of Weir as a part of one core, over the whole run.
    weir_cpu: Option<f64>,
}

async fn play(arm: Arm, scenario: &Scenario, timeline: Timeline, capacity: f64) -> anyhow::Result<Played> {
    let (queue, application) = start_service(SERVICE).await?;
    let running = Running::start(arm, application, capacity).await?;
    let [low, high] = scenario.phases(WARM_UP, timeline, capacity);
    let (low, mut low_ended) = clients(running.address, low, 0x60F1, HeaderMap::new());
    let (name, value) = HIGH;
    let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
    let (high, mut high_ended) = clients(running.address, high, 0x60F2, headers);
    let begin = Instant::now() + WARM_UP;
    let surge = (begin + timeline.before, begin + timeline.before + timeline.surge);
    let workers = async {
        tokio::time::sleep_until(surge.0).await;
        queue.set_workers(scenario.workers_in_surge);
        tokio::time::sleep_until(surge.1).await;
        queue.set_workers(SERVICE.workers);
        std::future::pending().await
    };
    let mut limits = Vec::new();
    let cpu_before = running.weir_cpu();
    tokio::select! {
        _ = join(low, high) => {}
        () = workers => {}
        () = running.watch(begin, &mut limits) => {}
    }
    let cpu = running.weir_cpu().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    let whole = WARM_UP + timeline.whole();
    let high = counted(&mut high_ended);
    let mut exchanges = [counted(&mut low_ended), high.clone()].concat();
    exchanges.sort_by_key(|exchange| exchange.due);
    Ok(Played { exchanges, high, limits, weir_cpu: cpu.map(|cpu| cpu.as_secs_f64() / whole.as_secs_f64()) })
}

/// Clients of one class, and what becomes of their requests.
fn clients(
    address: SocketAddr,
    phases: Vec<Phase>,
    seed: u64,
    headers: HeaderMap,
) -> (impl Future<Output = load::Report>, mpsc::UnboundedReceiver<Exchange>) {
    let (sent, received) = mpsc::unbounded_channel();
    let plan = Plan {
        arrivals: Arrivals::Poisson(seed),
        timeout: TIMEOUT,
        headers,
        max_in_flight: 20_000,
        exchanges: Some(sent),
        ..Plan::new(vec![Target { name: String::new(), address }], phases)
    };
    (load::run(plan, watch::Sender::new(Live::default()), CancellationToken::new()), received)
}

/// All that has come, in order and in time since the end of the warm-up.
fn counted(received: &mut mpsc::UnboundedReceiver<Exchange>) -> Vec<Exchange> {
    let all = std::iter::from_fn(|| received.try_recv().ok());
    let counted = all.filter_map(|one| Some(Exchange { due: one.due.checked_sub(WARM_UP)?, ..one }));
    let mut counted: Vec<Exchange> = counted.collect();
    counted.sort_by_key(|exchange| exchange.due);
    counted
}

async fn start_service(config: Config) -> anyhow::Result<(Arc<Queue>, SocketAddr)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    Ok((Arc::new(Queue::serve(listener, config)?), address))
}

/// What the service really answers a second when it always has work.
async fn calibrate() -> anyhow::Result<f64> {
    let (_queue, address) = start_service(SERVICE).await?;
    let end = Instant::now() + CALIBRATION;
    let clients = (0..4 * SERVICE.workers).map(|_| async move {
        let (request, mut answers) = (request("/"), 0_u32);
        let mut connection = Connection::open(address, None).await?;
        while Instant::now() < end {
            connection.send(&request).await?;
            anyhow::ensure!(connection.status().await? == 200, "the service refuses");
            answers += 1;
        }
        anyhow::Ok(answers)
    });
    let begin = Instant::now();
    let answers: u32 = try_join_all(clients).await?.iter().sum();
    Ok(f64::from(answers) / begin.elapsed().as_secs_f64())
}

fn line(scenario: &Scenario, arm: Arm, outcome: &Outcome, high: Option<f64>, weir_cpu: Option<f64>) -> String {
    let seconds = |value: Option<f64>| value.map_or_else(|| "never".to_owned(), |value| format!("{value:.1} s"));
    let verdict = match (arm, scenario.goal) {
        (Arm::Adapt(_) | Arm::Classes(_), Some(goal)) => {
            let met = outcome.goodput >= goal
                && outcome.converged.is_some_and(|converged| converged <= scenario::CONVERGED)
                && outcome.refused_before == 0
                && (!matches!(arm, Arm::Classes(_)) || high.is_some_and(|high| high >= scenario::HIGH_SERVED));
            if met { "met" } else { "**missed**" }
        }
        _ => "",
    };
    let p99 = outcome.p99.map_or_else(|| "–".to_owned(), |p99| format!("{} ms", p99.as_millis()));
    let percent = |part: Option<f64>| part.map_or_else(String::new, |part| format!("{:.1} %", part * 100.0));
    format!(
        "| {} | {} | {:.3} | {} | {p99} | {} | {:.1} % | {} | {} | {} | {verdict} |",
        scenario.name,
        arm.name(),
        outcome.goodput,
        seconds(outcome.converged),
        outcome.refused_before,
        outcome.refused_after * 100.0,
        seconds(outcome.recovered),
        percent(high),
        percent(weir_cpu),
    )
}

//! The demonstration, and its reusable parts: real Envoys, a service that overloads, an open-loop load.
//!
//! ```text
//! scenario -> stage (service x3, weir, Envoy x3) -> load -> verdict, summary, plot; view shows it live
//! ```
//!
//! Whether the demonstration passed is judged from the load generator's own counts, never from what Weir says.

pub mod args;
pub mod envoy;
pub mod load;
pub mod plot;
pub mod process;
pub mod scenario;
pub mod service;
mod stage;
mod status;
mod summary;
pub mod verdict;
mod view;

use std::{
    collections::BTreeSet, io::Write, net::SocketAddr, path::Path, process::ExitCode, sync::Arc, time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use limiter::metric::{Metric, Reduce, Word};
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use self::{
    args::DemoArgs,
    load::{Live, Plan, Report},
    plot::{History, Run},
    scenario::{Addresses, CPU, REPLICAS, Timeline, pod},
    stage::Stage,
    view::{Picture, View},
};
use crate::{
    intent::ServiceKey,
    metrics::{HealthBoard, Provider, Target, Wanted, scrape::Scraper, store::Store},
};

/// Exit code after Ctrl-C or SIGTERM, as shells have it.
const INTERRUPTED: u8 = 130;

/// `weir demo`: exit code 0 when the limit held, 1 when it did not.
///
/// # Errors
/// When something could not be started or ended by itself; the message names it and shows the end of its log.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone())?);
    let (code, stage) = tokio::select! {
        biased;
        performed = perform(&args, &stop) => performed?,
        // Dropping the performance ends every child and gives the terminal back.
        () = stop.cancelled() => {
            say("interrupted; everything was stopped");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    stage.stop().await;
    Ok(code)
}

async fn perform(args: &DemoArgs, stop: &CancellationToken) -> anyhow::Result<(ExitCode, Stage)> {
    let timeline = Timeline::new(args.seconds);
    let addresses = Addresses::choose()?;
    say(&format!(
        "starting {REPLICAS} replicas, weir and {REPLICAS} Envoys; then {} s of load, above capacity from {} to {} s",
        timeline.seconds(),
        timeline.before,
        timeline.before + timeline.surge
    ));
    let mut stage = Stage::start(&addresses, !args.without_limit).await?;
    let (report, history) = match play(args, &timeline, &addresses, &mut stage).await {
        Ok(played) => played,
        Err(error) => {
            stage.keep_folder();
            return Err(error.context(format!("logs are in {}", stage.folder().display())));
        }
    };

    let verdict = verdict::judge(&report, &timeline);
    say(&format!("\n{}", summary::text(&summary::table(&report, &timeline))));
    for failure in verdict.failures() {
        say(&format!("FAILED {}: {}", failure.replica, failure.detail));
    }
    let run = Run {
        timeline: &timeline,
        report: &report,
        history: &history,
        verdict: &verdict,
        with_limit: !args.without_limit,
    };
    write_page(&args.out, &plot::page(run))?;
    say(&format!("plots: {}", args.out.display()));
    let passed = verdict.passed();
    say(match (passed, args.without_limit) {
        (true, _) => "PASSED: the limit held on every replica, and was gone afterwards",
        (false, true) => "FAILED, as it must without a policy: nothing held the load back, and the service drowned",
        (false, false) => "FAILED: see above",
    });
    if args.keep {
        say(&keep_text(&addresses, &stage));
        stop.cancelled().await;
    }
    if !passed && !args.without_limit {
        stage.keep_folder();
        say(&format!("logs: {}", stage.folder().display()));
    }
    Ok((ExitCode::from(u8::from(!passed)), stage))
}

/// Runs the load to its end, shows it, and notes what is to be seen beside it.
async fn play(
    args: &DemoArgs,
    timeline: &Timeline,
    addresses: &Addresses,
    stage: &mut Stage,
) -> anyhow::Result<(Report, History)> {
    let targets = addresses.proxies.iter().enumerate();
    let targets = targets.map(|(replica, address)| load::Target { name: pod(replica), address: *address }).collect();
    let (live_tx, live_rx) = watch::channel(Live::default());
    let load = load::run(Plan::new(targets, timeline.phases()), live_tx, CancellationToken::new());
    tokio::pin!(load);

    let scraping = CancellationToken::new();
    let _stop_scraping = scraping.clone().drop_guard();
    let wanted = Wanted { targets: metric_targets(addresses), ..Wanted::default() };
    let (_wanted_tx, wanted_rx) = watch::channel(Arc::new(wanted));
    let (samples_tx, mut samples) = mpsc::channel(16);
    Scraper::default().spawn(wanted_rx, samples_tx, HealthBoard::default(), scraping);
    let mut store = Store::new();
    let cpu = Metric { word: Word::Cpu, reduce: Reduce::Mean };
    let pods: Vec<String> = (0..REPLICAS).map(pod).collect();

    let mut view = View::new(*timeline, args.plain);
    let mut picture = Picture { with_limit: !args.without_limit, ..Picture::default() };
    let mut history = History::default();
    let mut ticks = tokio::time::interval(view::REFRESH);
    let begin = tokio::time::Instant::now();
    loop {
        tokio::select! {
            report = &mut load => {
                return Ok((report, history));
            }
            Some(batch) = samples.recv() => {
                store.insert(batch);
                let seen = store.observe(&service_key(), &pods, &BTreeSet::from([cpu.clone()]), Timestamp::now());
                if let Some(sample) = seen.samples.get(&cpu) {
                    picture.cpu = Some(sample.value);
                    history.cpu.push((begin.elapsed().as_secs_f64(), sample.value));
                }
            }
            _ = ticks.tick() => {
                stage.check()?;
                picture.live = live_rx.borrow().clone();
                picture.rule = status::fetch(addresses.admin).await;
                let limit = picture.rule.as_ref().and_then(|rule| rule.per_second);
                history.limit.push((begin.elapsed().as_secs_f64(), limit));
                view.show(&picture);
            }
        }
    }
}

fn service_key() -> ServiceKey {
    ServiceKey { namespace: scenario::NAMESPACE.to_owned(), name: scenario::SERVICE.to_owned() }
}

/// The replicas as Weir's own scraping sees them, for the view and the plot.
fn metric_targets(addresses: &Addresses) -> Vec<Target> {
    let target = |(replica, address): (usize, &SocketAddr)| Target {
        service: service_key(),
        pod: pod(replica),
        url: format!("http://{address}/metrics"),
        cpu_limit_cores: Some(CPU),
        memory_limit_bytes: None,
        series: Vec::new(),
    };
    addresses.applications.iter().enumerate().map(target).collect()
}

fn write_page(file: &Path, page: &str) -> anyhow::Result<()> {
    std::fs::write(file, page)
        .with_context(|| format!("the page with the plots cannot be written to {}; say --out FILE", file.display()))
}

fn keep_text(addresses: &Addresses, stage: &Stage) -> String {
    let program = std::env::current_exe().map_or_else(|_| "weir".to_owned(), |program| program.display().to_string());
    let mut text = format!(
        "\nstill running, until Ctrl-C. To play with:\n  what is in force   {program} status --admin-address {}\n  \
         policies           {} (edit limit.yaml: it takes effect when saved)\n  logs               {}\n",
        addresses.admin,
        stage.config().display(),
        stage.folder().display(),
    );
    for replica in 0..REPLICAS {
        text.push_str(&format!(
            "  {}           curl -i http://{}/   (its Envoy's admin page: http://{}/)\n",
            pod(replica),
            addresses.proxies[replica],
            addresses.proxy_admins[replica]
        ));
    }
    let first = addresses.proxies[0];
    text + &format!(
        "  load               seq 200 | xargs -P 20 -I% curl -s -o /dev/null -w '%{{http_code}}\\n' http://{first}/ | sort | uniq -c"
    )
}

/// Prints a line. An output that is gone ends nothing: the exit code counts.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// GET over plain HTTP/1.1: status and text (at most 64 MiB).
pub(crate) async fn get(address: SocketAddr, path: &str, patience: Duration) -> anyhow::Result<(u16, String)> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot reach {address}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header(http::header::HOST, address.to_string()).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), 64 << 20).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    tokio::time::timeout(patience, exchange)
        .await
        .with_context(|| format!("http://{address}{path} did not answer within {} ms", patience.as_millis()))?
}

/// A future that cancels `stop` at SIGINT or SIGTERM. Signals count from the call of this function on.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    })
}

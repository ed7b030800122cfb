//! The demonstration of a limit with a condition: three replicas that overload, and a policy that sheds while they are hot.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use jiff::Timestamp;
use limiter::metric::{Metric, Observations, Reduce, Word};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    args::LoadArgs,
    cast::Addresses,
    keep_text,
    load::{self, Live, Plan, Report},
    plot::{self, History, Run},
    say,
    scenario::{CAST, CPU, REPLICAS, Timeline},
    screen::{self, View},
    stage::Stage,
    status, summary, verdict,
    view::Picture,
    write_page,
};
use crate::metrics::{HealthBoard, Provider, Target, Wanted, scrape::Scraper, store::Store};

pub(super) async fn perform(args: &LoadArgs, stop: &CancellationToken) -> anyhow::Result<(ExitCode, Stage)> {
    let timeline = Timeline::new(args.seconds);
    let addresses = Addresses::choose(&CAST)?;
    say(&format!(
        "starting {REPLICAS} replicas, weir and {REPLICAS} Envoys; then {} s of load, above capacity from {} to {} s",
        timeline.seconds(),
        timeline.before,
        timeline.before + timeline.surge
    ));
    let mut stage = Stage::start(&CAST, &addresses, !args.without_limit).await?;
    let (report, history) = match play(args, &timeline, &addresses, &mut stage).await {
        Ok(played) => played,
        Err(error) => return Err(stage.failed(error)),
    };

    let verdict = verdict::judge(&report, &timeline);
    say(&format!("\n{}", summary::text(&summary::table(&report, &timeline))));
    for failure in verdict.failures() {
        say(&format!("FAILED {}: {}", failure.subject, failure.detail));
    }
    let run = Run {
        timeline: &timeline,
        report: &report,
        history: &history,
        verdict: &verdict,
        with_limit: !args.without_limit,
    };
    write_page(&args.end.out, &plot::page(run))?;
    say(&format!("plots: {}", args.end.out.display()));
    let passed = verdict.passed();
    say(match (passed, args.without_limit) {
        (true, _) => "PASSED: the limit held on every replica, and was gone afterwards",
        (false, true) => "FAILED, as it must without a policy: nothing held the load back, and the service drowned",
        (false, false) => "FAILED: see above",
    });
    if args.end.keep {
        say(&keep_text(&CAST, &addresses, &stage));
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
    args: &LoadArgs,
    timeline: &Timeline,
    addresses: &Addresses,
    stage: &mut Stage,
) -> anyhow::Result<(Report, History)> {
    let (live_tx, live_rx) = watch::channel(Live::default());
    let load =
        load::run(Plan::new(addresses.load_targets(&CAST), timeline.phases()), live_tx, CancellationToken::new());
    tokio::pin!(load);

    let scraping = CancellationToken::new();
    let _stop_scraping = scraping.clone().drop_guard();
    let wanted = Wanted { targets: metric_targets(addresses), ..Wanted::default() };
    let (_wanted_tx, wanted_rx) = watch::channel(Arc::new(wanted));
    let (samples_tx, mut samples) = mpsc::channel(16);
    Scraper::default().spawn(wanted_rx, samples_tx, HealthBoard::default(), scraping);
    let cpu = Metric { word: Word::Cpu, reduce: Reduce::Mean };
    let pods: Vec<String> = (0..REPLICAS).map(|replica| CAST.pod(replica)).collect();
    let mut store = Store::default();
    store.set_pods(pods.clone());
    let mut seen = Observations::default();

    let mut view = View::new(args.plain);
    let mut picture = Picture::new(*timeline, !args.without_limit);
    let mut history = History::default();
    let mut ticks = tokio::time::interval(screen::REFRESH);
    let begin = tokio::time::Instant::now();
    loop {
        tokio::select! {
            report = &mut load => {
                return Ok((report, history));
            }
            Some(batch) = samples.recv() => {
                batch.into_iter().for_each(|sample| drop(store.insert(sample, Timestamp::now())));
                store.observe(&pods, &[(cpu.clone(), cpu.clone())], &mut seen, Timestamp::now());
                if let Some(sample) = seen.samples.get(&cpu) {
                    picture.cpu = Some(sample.value);
                    history.cpu.push((begin.elapsed().as_secs_f64(), sample.value));
                }
            }
            _ = ticks.tick() => {
                stage.check()?;
                picture.live = live_rx.borrow().clone();
                picture.rule = status::fetch(addresses.admin, &CAST).await;
                let limit = picture.rule.as_ref().and_then(|rule| rule.per_second);
                history.limit.push((begin.elapsed().as_secs_f64(), limit));
                view.show(&picture);
            }
        }
    }
}

/// The replicas as Weir's own scraping sees them, for the view and the plot.
fn metric_targets(addresses: &Addresses) -> Vec<Target> {
    let target = |(replica, address): (usize, &SocketAddr)| Target {
        service: CAST.key(),
        pod: CAST.pod(replica),
        url: format!("http://{address}/metrics"),
        cpu_limit_cores: Some(CPU),
        memory_limit_bytes: None,
        series: Vec::new(),
    };
    addresses.applications.iter().enumerate().map(target).collect()
}

//! The demonstration of a limit that steers itself: a service whose capacity nobody wrote down, and half of which goes away.

mod page;
mod timeline;
mod verdict;
mod view;

use std::{process::ExitCode, time::Duration};

use http::Method;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{timeline::Timeline, view::Picture};
use super::{
    args::LoadArgs,
    cast::{Addresses, Cast},
    keep_text,
    load::{self, Arrivals, Live, Plan, Report},
    say,
    screen::{self, View},
    send,
    stage::Stage,
    status, summary, write_page,
};

/// Workers of a replica.
const WORKERS: usize = 4;
/// Mean time of a request.
const TIME: Duration = Duration::from_millis(20);
/// An answer that comes later is of no use to the client.
const SLO: Duration = Duration::from_millis(200);
/// Clients give up after this.
const TIMEOUT: Duration = Duration::from_millis(500);
const POLICY: &str = include_str!("../../../examples/demo-adapt/adapt.yaml");

const CAST: Cast = Cast {
    service: "kitchen",
    replicas: 2,
    arguments,
    workload: include_str!("../../../examples/demo-adapt/workload.yaml"),
    policy: ("adapt.yaml", POLICY),
};

fn arguments() -> Vec<String> {
    vec!["--workers".into(), WORKERS.to_string(), "--time".into(), format!("{}ms", TIME.as_millis())]
}

/// Requests per second that a worker can answer.
fn per_worker() -> f64 {
    1.0 / TIME.as_secs_f64()
}

/// The policy without its comments.
fn policy() -> String {
    POLICY.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// The sentence of its rule.
fn sentence() -> String {
    POLICY.lines().find_map(|line| line.trim().strip_prefix("adapt: ")).unwrap_or_default().to_owned()
}

pub(super) async fn perform(args: &LoadArgs, stop: &CancellationToken) -> anyhow::Result<(ExitCode, Stage)> {
    let timeline = Timeline::new(args.seconds);
    let addresses = Addresses::choose(&CAST)?;
    let [calm, surge, halved, _] = &timeline.0;
    say(&format!(
        "starting {} replicas that can each do {:.0} requests per second, weir and {} Envoys; then {} s of load: three times the \
         capacity from {} to {} s, with half of the workers from {} s on",
        CAST.replicas,
        calm.capacity(),
        CAST.replicas,
        timeline.seconds(),
        surge.begin,
        halved.end,
        halved.begin,
    ));
    if args.without_limit {
        say("without a policy");
    } else {
        say(&format!("the policy, which does not know the capacity:\n{}\n", policy()));
    }
    let mut stage = Stage::start(&CAST, &addresses, !args.without_limit).await?;
    let (report, limits) = match play(args, &timeline, &addresses, &mut stage).await {
        Ok(played) => played,
        Err(error) => return Err(stage.failed(error)),
    };

    let verdict = verdict::judge(&report, &timeline);
    say(&format!("\n{}", summary::text(&page::rows(&report, &timeline))));
    for check in &verdict.checks {
        say(&format!("{} {}: {}", if check.passed { "ok    " } else { "FAILED" }, check.subject, check.detail));
    }
    let shown = if args.without_limit { "no policy".to_owned() } else { policy() };
    write_page(&args.end.out, &page::page(&timeline, &report, &limits, &verdict, &shown))?;
    say(&format!("plots: {}", args.end.out.display()));
    let passed = verdict.passed();
    say(match (passed, args.without_limit) {
        (true, _) => "PASSED: the limit found the capacity, lost half of it, found it again, and was gone afterwards",
        (false, true) => {
            "FAILED, as it must without a policy: nothing held the load back, and nearly every answer came too late"
        }
        (false, false) => "FAILED: see above",
    });
    if args.end.keep {
        say(&keep_text(&CAST, &addresses, &stage));
        say(&format!("  capacity           curl -X PUT -d 2 http://{}/workers", addresses.applications[0]));
        stop.cancelled().await;
    }
    if !passed && !args.without_limit {
        stage.keep_folder();
        say(&format!("logs: {}", stage.folder().display()));
    }
    Ok((ExitCode::from(u8::from(!passed)), stage))
}

/// Runs the load to its end, shows it, and notes the limit that Weir says is in force over all pods.
async fn play(
    args: &LoadArgs,
    timeline: &Timeline,
    addresses: &Addresses,
    stage: &mut Stage,
) -> anyhow::Result<(Report, Vec<(f64, Option<f64>)>)> {
    let plan = Plan {
        arrivals: Arrivals::Poisson(1),
        timeout: TIMEOUT,
        slo: SLO,
        ..Plan::new(addresses.load_targets(&CAST), timeline.phases())
    };
    let (live_tx, live_rx) = watch::channel(Live::default());
    let load = load::run(plan, live_tx, CancellationToken::new());
    tokio::pin!(load);
    let begin = Instant::now();
    let capacity = async {
        for acts in timeline.0.windows(2).filter(|acts| acts[0].workers != acts[1].workers) {
            tokio::time::sleep_until(begin + Duration::from_secs(acts[1].begin as u64)).await;
            set_workers(addresses, acts[1].workers).await?;
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::pin!(capacity);

    let mut view = View::new(args.plain);
    let mut picture =
        Picture { timeline: *timeline, sentence: sentence(), live: Live::default(), rule: None, limits: Vec::new() };
    let mut ticks = tokio::time::interval(screen::REFRESH);
    loop {
        tokio::select! {
            report = &mut load => return Ok((report, picture.limits)),
            failed = &mut capacity => failed?,
            _ = ticks.tick() => {
                stage.check()?;
                picture.live = live_rx.borrow().clone();
                picture.rule = status::fetch(addresses.admin, &CAST).await;
                let limit = picture.rule.as_ref().and_then(|rule| rule.per_second);
                picture.limits.push((begin.elapsed().as_secs_f64(), limit));
                view.show(&picture);
            }
        }
    }
}

async fn set_workers(addresses: &Addresses, workers: usize) -> anyhow::Result<()> {
    for address in &addresses.applications {
        let (status, text) =
            send(*address, Method::PUT, "/workers", workers.to_string(), Duration::from_secs(5)).await?;
        anyhow::ensure!(status == 200, "http://{address}/workers answers {status} {}", text.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CAST, WORKERS, policy, sentence};

    #[test]
    fn the_sentence_is_in_the_policy_and_the_manifests_have_every_replica() {
        assert!(sentence().starts_with("keep p99 latency below "), "{}", sentence());
        assert!(policy().starts_with("apiVersion: ") && policy().contains(&sentence()));
        assert_eq!(CAST.workload.matches("kind: Pod\nmetadata:").count(), usize::from(CAST.replicas));
        assert!(WORKERS.is_multiple_of(2), "half of them stop");
    }
}

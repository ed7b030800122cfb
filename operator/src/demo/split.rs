//! The demonstration of a split: three versions of a service, one of which answers sooner and grows, and one of which turns bad and is
//! drained, while nobody edits anything.

mod arm;
mod findings;
mod page;
mod proxy;
mod told;
mod verdict;
mod view;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use http::{HeaderValue, header};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    arm::Arm,
    findings::{Findings, Timeline},
    view::Picture,
};
use super::{
    args::SplitArgs,
    cast::{ADMIN_PORT, XDS_PORT, common_port, loopback, proxy_admins},
    get_as,
    load::{self, Live, Phase, Plan, Target},
    say,
    screen::{self, View},
    stage::Stage,
    summary, write_page,
};

/// One for each version, in the order of the object.
type Each<T> = [T; 3];

/// The Service that is called, which the object is called as, too.
const ROOT: &str = "reviews";
const ARMS: Each<&str> = ["reviews-v1", "reviews-v2", "reviews-v3"];
/// The place of the version that answers sooner.
const GOOD: usize = 1;
/// The place of the version that turns bad.
const TURNS: usize = 2;
/// How long each takes for an answer that is no error.
const TIMES: Each<Duration> = [Duration::from_millis(60), Duration::from_millis(20), Duration::from_millis(60)];
/// Requests of the bad version that fail, in percent.
const BAD: u64 = 50;
/// What a version is left that fails, in percent.
const FLOOR: f64 = 3.0;
/// Requests a second.
const PER_SECOND: f64 = 200.0;
/// A request without an answer after this has failed.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long the proxy may take to have what it starts with.
const PATIENCE: Duration = Duration::from_secs(60);

const CALLER: &str = "shop";
const CALLER_POD: &str = "shop-0";
const WORKLOAD: &str = include_str!("../../../examples/demo-split/workload.yaml");
const POLICY: &str = include_str!("../../../examples/demo-split/split.yaml");
const STEER: &str = "steer: ";
const INBOUND_PORT: u16 = 8080;
const WAY_OUT_PORT: u16 = 15001;
const APPLICATION_PORT: u16 = 9000;

/// Where everything listens that is not of Weir.
struct Addresses {
    /// Where the caller's proxy takes what is for other services.
    way_out: SocketAddr,
    /// Its admin page.
    proxy_admin: SocketAddr,
    arms: Each<SocketAddr>,
    inbound_port: u16,
}

impl Addresses {
    /// The usual ports of the addresses that the manifests have, or free ones where those are taken.
    fn choose() -> anyhow::Result<Self> {
        let caller: IpAddr = Ipv4Addr::new(127, 0, 22, 1).into();
        let arms: Each<IpAddr> = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 23, last).into());
        let port = common_port(&arms, APPLICATION_PORT)?;
        Ok(Self {
            way_out: (caller, common_port(&[caller], WAY_OUT_PORT)?).into(),
            proxy_admin: *proxy_admins(1)?.first().context("no address for the proxy's admin page")?,
            arms: arms.map(|arm| (arm, port).into()),
            inbound_port: common_port(&[caller], INBOUND_PORT)?,
        })
    }

    /// The manifests with these ports.
    fn workload(&self) -> String {
        let ports = [
            (APPLICATION_PORT, self.arms[0].port()),
            (WAY_OUT_PORT, self.way_out.port()),
            (INBOUND_PORT, self.inbound_port),
        ];
        ports
            .iter()
            .fold(WORKLOAD.to_owned(), |text, (usual, port)| text.replace(&usual.to_string(), &port.to_string()))
    }
}

/// The policy without its comments, and without what steers unless that is wanted.
fn policy(steering: bool) -> String {
    let lines = POLICY.lines().filter(|line| !line.starts_with('#'));
    lines.filter(|line| steering || !line.trim().starts_with(STEER)).collect::<Vec<_>>().join("\n")
}

/// What steers, in the policy's own words.
fn sentence(steering: bool) -> String {
    let found = POLICY.lines().find_map(|line| line.trim().strip_prefix(STEER)).filter(|_| steering);
    found.unwrap_or("the shares are as declared").to_owned()
}

pub(super) async fn perform(args: &SplitArgs, stop: &CancellationToken) -> anyhow::Result<(ExitCode, Stage)> {
    let timeline = Timeline::new(args.seconds);
    let (steering, addresses) = (!args.without_steering, Addresses::choose()?);
    let mut stage = Stage::empty(loopback(XDS_PORT)?, loopback(ADMIN_PORT)?)?;
    say(&format!(
        "three versions of `{ROOT}`, which answer after {}, {} and {} ms, and {} s of {PER_SECOND} requests a second through the caller's Envoy. \
         After {} s every second request to {} fails, at once. Nobody edits the object meanwhile:\n{}\n",
        TIMES[0].as_millis(),
        TIMES[1].as_millis(),
        TIMES[2].as_millis(),
        timeline.seconds,
        timeline.turn,
        ARMS[TURNS],
        policy(steering),
    ));
    let arms = start_arms(&addresses).await?;
    let findings = match play(args, timeline, &addresses, &arms, &mut stage).await {
        Ok(findings) => findings,
        Err(error) => return Err(stage.failed(error)),
    };

    let verdict = verdict::judge(&findings);
    say(&format!("\n{}", summary::text(&page::rows(&findings))));
    for check in &verdict.checks {
        say(&format!("{} {}: {}", if check.passed { "ok    " } else { "FAILED" }, check.subject, check.detail));
    }
    write_page(&args.end.out, &page::page(&findings, &verdict, &policy(steering)))?;
    say(&format!("plots: {}", args.end.out.display()));
    let passed = verdict.passed();
    say(&match (passed, steering) {
        (true, _) => passed_text(&findings),
        (false, false) => format!("FAILED, as it must when nothing steers: {} kept its share and failed", ARMS[TURNS]),
        (false, true) => "FAILED: see above".to_owned(),
    });
    if args.end.keep {
        say(&keep_text(&addresses, &stage));
        stop.cancelled().await;
    }
    if !passed && steering {
        stage.keep_folder();
        say(&format!("logs: {}", stage.folder().display()));
    }
    Ok((ExitCode::from(u8::from(!passed)), stage))
}

async fn start_arms(addresses: &Addresses) -> anyhow::Result<Vec<Arm>> {
    let mut arms = Vec::new();
    for ((name, at), time) in ARMS.into_iter().zip(addresses.arms).zip(TIMES) {
        arms.push(Arm::start(name, at, time).await?);
    }
    Ok(arms)
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let file = folder.join(name);
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Starts Weir and the caller's proxy, and waits until that shares out requests as declared.
async fn start(addresses: &Addresses, steering: bool, stage: &mut Stage) -> anyhow::Result<Each<f64>> {
    write(&stage.config(), "workload.yaml", &addresses.workload())?;
    write(&stage.config(), "split.yaml", &policy(steering))?;
    stage.start_weir("weir")?;
    stage.weir_is_ready().await?;
    stage.start_proxy(CALLER, CALLER_POD, addresses.proxy_admin)?;
    stage.answered(addresses.proxy_admin, "/ready").await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        stage.check()?;
        let answer = get_as(addresses.way_out, ROOT, "/", TIMEOUT).await;
        let shares = proxy::shares(addresses.proxy_admin).await?;
        let state = match (answer, shares) {
            (Ok((200, _)), Some(shares)) => return Ok(shares),
            (Ok((200, _)), None) => "it does not share out its requests".to_owned(),
            (Ok((status, text)), _) => format!("it answers {status} {}", text.trim()),
            (Err(error), _) => format!("{error:#}"),
        };
        if Instant::now() > deadline {
            bail!("the proxy of {CALLER} is not ready for {ROOT} after {} s: {state}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

fn plan(way_out: SocketAddr, timeline: Timeline) -> Plan {
    let target = Target { name: CALLER.to_owned(), address: way_out };
    let duration = Duration::from_secs(timeline.seconds as u64);
    let phase = Phase { name: "steady".to_owned(), per_second: PER_SECOND, duration };
    let mut plan = Plan { timeout: TIMEOUT, ..Plan::new(vec![target], vec![phase]) };
    plan.headers.insert(header::HOST, HeaderValue::from_static(ROOT));
    plan
}

/// Starts what is missing, runs the load to its end, lets a version turn bad in the middle, and notes what is to be seen.
async fn play(
    args: &SplitArgs,
    timeline: Timeline,
    addresses: &Addresses,
    arms: &[Arm],
    stage: &mut Stage,
) -> anyhow::Result<Findings> {
    let steering = !args.without_steering;
    let declared = start(addresses, steering, stage).await?;
    let listeners = proxy::listeners(addresses.proxy_admin).await?;
    let (live_tx, live_rx) = watch::channel(Live::default());
    let begin = Instant::now();
    arms.iter().for_each(|arm| arm.count_from(begin));
    let load = load::run(plan(addresses.way_out, timeline), live_tx, CancellationToken::new());
    tokio::pin!(load);
    let turn = tokio::time::sleep_until(begin + Duration::from_secs(timeline.turn as u64));
    tokio::pin!(turn);
    let mut turned = false;

    let received = || -> Each<_> { std::array::from_fn(|arm| arms.get(arm).map(Arm::received).unwrap_or_default()) };
    let mut told: Vec<(f64, String)> = Vec::new();
    let mut view = View::new(args.plain);
    let mut picture = Picture {
        timeline,
        sentence: sentence(steering),
        live: Live::default(),
        received: received(),
        shares: vec![(0.0, declared)],
        words: None,
    };
    let mut ticks = tokio::time::interval(screen::REFRESH);
    let report = loop {
        tokio::select! {
            report = &mut load => break report,
            () = &mut turn, if !turned => {
                turned = true;
                arms.iter().skip(TURNS).take(1).for_each(|arm| arm.fail(BAD));
            }
            _ = ticks.tick() => {
                stage.check()?;
                let shares = proxy::shares(addresses.proxy_admin).await?;
                let at = begin.elapsed().as_secs_f64();
                picture.shares.extend(shares.map(|shares| (at, shares)));
                picture.live = live_rx.borrow().clone();
                picture.received = received();
                picture.words = told::fetch(stage.admin(), ROOT).await;
                if let Some(words) = &picture.words && told.last().is_none_or(|(_, last)| last != words) {
                    told.push((at, words.clone()));
                }
                view.show(&picture);
            }
        }
    };
    let client = report.targets.into_iter().next().context("the load has no target")?;
    let same_listeners = proxy::listeners(addresses.proxy_admin).await? == listeners;
    Ok(Findings { timeline, client, received: received(), shares: picture.shares, told, same_listeners })
}

fn passed_text(findings: &Findings) -> String {
    let [v1, v2, v3] = findings.last_shares();
    let failed = findings.seen(0..usize::MAX).failed;
    let bad = (findings.timeline.seconds - findings.timeline.turn) as f64;
    let declared = findings.shares.first().map_or(0.0, |(_, shares)| shares[TURNS]);
    format!(
        "PASSED: shares of {v1:.1}, {v2:.1} and {v3:.1} % in the end; {failed} requests failed, where some {:.0} would have with the shares as declared",
        bad * PER_SECOND * declared / 100.0 * BAD as f64 / 100.0
    )
}

fn keep_text(addresses: &Addresses, stage: &Stage) -> String {
    let program = std::env::current_exe().map_or_else(|_| "weir".to_owned(), |program| program.display().to_string());
    let (admin, way_out, proxy_admin) = (stage.admin(), addresses.way_out, addresses.proxy_admin);
    format!(
        "\nstill running, until Ctrl-C. To play with:\n  what is in force   {program} status --admin-address {admin}\n  \
         policies           {} (edit split.yaml: it takes effect when saved)\n  logs               {}\n  \
         call               curl -i -H 'Host: {ROOT}' http://{way_out}/   (its Envoy's admin page: http://{proxy_admin}/)\n  \
         load               seq 2000 | xargs -P 20 -I% curl -s -H 'Host: {ROOT}' http://{way_out}/?% | sort | uniq -c\n  \
         make it well       curl -X PUT -d 0 http://{}/errors   (percent of its requests that fail)",
        stage.config().display(),
        stage.folder().display(),
        addresses.arms[TURNS],
    )
}

#[cfg(test)]
mod tests {
    use super::{APPLICATION_PORT, ARMS, Addresses, WAY_OUT_PORT, WORKLOAD, policy, sentence};

    #[test]
    fn the_manifests_have_every_version_and_follow_the_ports() {
        let at = |text: &str| text.parse().unwrap();
        let addresses = Addresses {
            way_out: at("127.0.22.1:7001"),
            proxy_admin: at("127.0.0.1:7002"),
            arms: [at("127.0.23.1:7003"), at("127.0.23.2:7003"), at("127.0.23.3:7003")],
            inbound_port: 7004,
        };
        let text = addresses.workload();
        assert!(
            text.contains("inbound.weir.dev/7004: \"127.0.22.1:7003\", outbound.weir.dev/listen: \"127.0.22.1:7001\""),
            "{text}"
        );
        assert!(!text.contains("8080") && !text.contains("15001") && !text.contains("9000"), "{text}");
        assert!(WORKLOAD.contains(&format!("127.0.22.1:{WAY_OUT_PORT}")));
        assert_eq!(WORKLOAD.matches(&format!("targetPort: {APPLICATION_PORT}")).count(), 1 + ARMS.len());
    }

    #[test]
    fn without_steering_the_policy_is_the_same_but_for_its_sentence() {
        assert!(policy(true).contains(&sentence(true)) && sentence(true).starts_with("prefer lower errors"));
        assert!(policy(true).starts_with("apiVersion: ") && policy(false).starts_with("apiVersion: "));
        assert_eq!(policy(false).lines().count() + 1, policy(true).lines().count());
        assert!(!policy(false).contains("prefer"));
        for arm in ARMS {
            assert!(policy(false).contains(&format!("name: {arm}, ")), "{arm}");
        }
    }
}

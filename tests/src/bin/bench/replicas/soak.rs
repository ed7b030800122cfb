//! `make soak`: two replicas under steady load, one of which is killed or stands still in each round, and nothing may come of it.

use std::{fmt, io::Write, panic::AssertUnwindSafe, time::Duration};

use clap::Args;
use futures::FutureExt;
use nix::sys::signal::Signal;
use testkit::{
    cluster::Cluster,
    eventually,
    proxy::Proxy,
    relay::Relay,
    replicas::{Pair, held},
};
use tokio::time::sleep;

use super::load::{Count, Load};
use crate::{clock, in_a_task};

/// Each of the two proxies has half of it.
const RULES: &str = "- name: hot\n  when: cpu > 60% for 300ms until cpu < 30% for 300ms\n  limit: 160 requests per second across all pods";
const SHARE: f64 = 80.0;
const OFFERED: u32 = 100;
/// A tenth of a second's requests, and what is on its way when it is counted.
const BURST: f64 = 10.0;
/// What a bucket may lose to short pauses of a busy machine; long ones are counted.
const LOST: f64 = 0.1;
const SOON: Duration = Duration::from_secs(30);
const STANDS_STILL: Duration = Duration::from_secs(8);

/// How long, and in which order.
#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// Rounds; each takes about ten seconds.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// Seed of what happens when, to see the same again. One is made up and printed unless given.
    #[arg(long)]
    seed: Option<u64>,
}

/// What happens in a round.
#[derive(Clone, Copy, Debug)]
enum Blow {
    KillLeader,
    KillFollower,
    StopLeader,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KillLeader => "kill the leader",
            Self::KillFollower => "kill the follower",
            Self::StopLeader => "stop the leader 8 s",
        })
    }
}

/// SplitMix64: the same for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.next() % millis.max(1))
    }

    fn blow(&mut self) -> Blow {
        match self.next() % 8 {
            0..3 => Blow::KillLeader,
            3..6 => Blow::KillFollower,
            _ => Blow::StopLeader,
        }
    }
}

/// Everything that runs.
struct Soak<'a> {
    pair: Pair<'a>,
    proxies: [Proxy; 2],
    /// Of each proxy: to the replica of its number, and to the other.
    relays: [[Relay; 2]; 2],
    load: Load,
    /// What the proxies held at the beginning, and since when.
    held: [String; 2],
    broke: Vec<String>,
}

pub(crate) fn run(args: &SoakArgs) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(|| jiff::Timestamp::now().as_nanosecond().unsigned_abs() as u64);
    let rounds = args.rounds;
    eprintln!("soak: {rounds} rounds, seed {seed}; the same again: make soak ROUNDS={rounds} ARGS=\"--seed {seed}\"");
    in_a_task(soak(rounds, Random(seed)))
}

async fn soak(rounds: u32, mut random: Random) -> anyhow::Result<()> {
    let mut soak = Soak::start(Cluster::shared().await).await;
    let (began, mut done) = (soak.load.counts(), 0);
    for round in 1..=rounds {
        let outcome = AssertUnwindSafe(soak.round(round, &mut random)).catch_unwind().await;
        if outcome.is_err() {
            soak.broke.push(format!("round {round} did not come to its end, see above"));
            break;
        }
        done = round;
    }
    let ended = soak.load.counts();
    for (which, (began, ended)) in began.iter().zip(&ended).enumerate() {
        // Over all rounds a limit that was lifted for a moment in each, or a bucket that was filled again, shows.
        let most = SHARE * (ended.at - began.at).as_secs_f64();
        let admitted = (ended.admitted - began.admitted) as f64;
        if admitted > most * 1.003 + BURST {
            soak.broke.push(format!("proxy {which} admitted {admitted} requests, the limit is {most:.0}"));
        }
    }
    let sum = |counts: &[Count], of: fn(&Count) -> u64| counts.iter().map(of).sum::<u64>();
    let all = |of| sum(&ended, of) - sum(&began, of);
    say(format_args!(
        "{done} of {rounds} rounds, {:.0} s: {} requests admitted, {} refused by the limit, {} failed; {} broken",
        (ended[0].at - began[0].at).as_secs_f64(),
        all(|count| count.admitted),
        all(|count| count.refused),
        all(|count| count.failed),
        soak.broke.len()
    ));
    for broke in &soak.broke {
        say(format_args!("broken: {broke}"));
    }
    anyhow::ensure!(soak.broke.is_empty(), "{} things broke", soak.broke.len());
    Ok(())
}

impl<'a> Soak<'a> {
    async fn start(cluster: &'a Cluster) -> Self {
        let mut pair = Pair::install(cluster, RULES).await;
        let [zero, one] = pair.seats.map(|seat| seat.xds);
        let relays =
            [[Relay::start(zero).await, Relay::start(one).await], [Relay::start(one).await, Relay::start(zero).await]];
        let [first, second] = [0, 1].map(|pod: usize| [relays[pod][0].address, relays[pod][1].address]);
        let proxies = [pair.proxy_by(0, first).await, pair.proxy_by(1, second).await];
        let leader = pair.leader().await;
        pair.linked(1 - leader).await;
        pair.service.burn(0.9);
        pair.until(leader, "Limiting").await;
        for pod in &pair.service.pods {
            eventually(SOON, "a proxy answers", async || match testkit::http::get(pod.inbound, "/").await {
                Ok(answer) if [200, 429].contains(&answer.status().as_u16()) => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
        }
        let load = Load::start(pair.service.pods.iter().map(|pod| pod.inbound), OFFERED);
        let mut soak = Self { pair, proxies, relays, load, held: Default::default(), broke: Vec::new() };
        soak.spread().await;
        // The buckets are empty from here on.
        let before = soak.load.counts();
        eventually(SOON, "both limit", async || {
            let now = soak.load.counts();
            let limit = now.iter().zip(&before).all(|(now, before)| now.refused > before.refused + 20);
            if limit { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
        soak.held = held(&soak.proxies).await;
        soak
    }

    /// Waits until each replica has a proxy. One that is at the other's, since its own was away, is sent home.
    async fn spread(&self) {
        eventually(SOON, "each replica has a proxy", async || {
            let at = [self.streams(0).await, self.streams(1).await];
            if at == [1, 1] {
                return Ok(());
            }
            if at[0] + at[1] == 2 {
                for [_, away] in &self.relays {
                    away.cut();
                }
            }
            // Envoy comes back after a pause that grows, and trusts a replica again two seconds after it was gone.
            sleep(Duration::from_secs(1)).await;
            Err(format!("{at:?}"))
        })
        .await;
    }

    async fn streams(&self, which: usize) -> u32 {
        self.pair.weir(which).metric("weir_xds_streams").await as u32
    }

    async fn resources(&self, which: usize) -> f64 {
        self.pair.weir(which).metric("weir_xds_resources_total").await
    }

    async fn round(&mut self, round: u32, random: &mut Random) {
        let sent = [self.resources(0).await, self.resources(1).await];
        self.spread().await;
        let leader = self.pair.leader().await;
        let epoch = self.pair.weir(leader).metric("weir_replica_epoch").await;
        let (blow, began) = (random.blow(), clock::now());
        let (before, pause) = (self.load.counts(), random.up_to(Duration::from_secs(2)));
        let victim = if matches!(blow, Blow::KillFollower) { 1 - leader } else { leader };
        sleep(pause).await;

        let struck = clock::now();
        if matches!(blow, Blow::StopLeader) {
            self.pair.weir(victim).signal(Signal::SIGSTOP);
            sleep(STANDS_STILL).await;
            self.pair.weir(victim).signal(Signal::SIGCONT);
        } else {
            let weir = self.pair.weirs[victim].take().expect("it runs");
            weir.kill().await.expect("a process of our own can be killed");
            // Sometimes before the other may lead, sometimes after.
            sleep(random.up_to(Duration::from_secs(8))).await;
            self.pair.start(victim).await;
        }
        let leads = self.pair.leader().await;
        let led = clock::now() - struck;
        self.pair.linked(1 - leads).await;
        self.pair.until(leads, "Limiting").await;

        let mut broke = Vec::new();
        if matches!(blow, Blow::KillFollower) {
            let now = self.pair.weir(leads).metric("weir_replica_epoch").await;
            if leads != leader || now > epoch {
                broke.push(format!("weir-{leader} led in epoch {epoch}, now weir-{leads} in {now}"));
            }
        }
        for which in [0, 1] {
            let killed = which == victim && !matches!(blow, Blow::StopLeader);
            let sent = self.resources(which).await - if killed { 0.0 } else { sent[which] };
            if sent > 0.5 {
                broke.push(format!("weir-{which} sent {sent} resources again"));
            }
        }
        let now = held(&self.proxies).await;
        for (which, (was, is)) in self.held.iter().zip(&now).enumerate() {
            if was != is {
                broke.push(format!("proxy {which} holds something else: {}", difference(was, is)));
            }
        }
        self.held = now;
        let after = self.load.counts();
        for (which, (before, after)) in before.iter().zip(&after).enumerate() {
            let due = SHARE * (after.at - before.at).as_secs_f64();
            let admitted = (after.admitted - before.admitted) as f64;
            let least = (due - SHARE * (after.stalled - before.stalled).as_secs_f64()) * (1.0 - LOST) - BURST;
            if admitted > due + BURST || admitted < least {
                broke.push(format!("proxy {which} admitted {admitted} requests where the limit is {due:.0}"));
            }
            let failed = after.failed - before.failed;
            if failed > 0 {
                broke.push(format!("{failed} requests of proxy {which} failed"));
            }
        }
        say(format_args!(
            "round {round:>3}: {blow:<19} (weir-{victim}) after {:.1} s; weir-{leads} leads after {:.1} s; {:.1} s in all; {}",
            pause.as_secs_f64(),
            led.as_secs_f64(),
            (clock::now() - began).as_secs_f64(),
            if broke.is_empty() { "nothing changed".to_owned() } else { broke.join("; ") }
        ));
        self.broke.extend(broke.into_iter().map(|broke| format!("round {round} ({blow}): {broke}")));
    }
}

/// Goes on if nobody reads it.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Where two dumps part, with what is around it.
fn difference(was: &str, is: &str) -> String {
    let same = was.bytes().zip(is.bytes()).take_while(|(was, is)| was == is).count();
    let around = |text: &str| {
        let around = text.as_bytes().get(same.saturating_sub(160)..(same + 80).min(text.len()));
        around.map(|around| String::from_utf8_lossy(around).into_owned()).unwrap_or_default()
    };
    format!("…{}…, was …{}…", around(is), around(was))
}

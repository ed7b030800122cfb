//! A split that is steered by two Weirs, each with a caller's real Envoy: one decides, by what both Envoys tell, and both carry it out; when
//! it ends, the other goes on from there.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use parking_lot::Mutex;
use testkit::{
    app::{ANSWERED_BY, App},
    eventually,
    http::Connection,
    mesh::{Service, put, without_proxy},
    mount::Mount,
    peers::Peers,
    ports::Network,
    proxy::Proxy,
    status::View,
    temp_dir,
    weir::{self, Weir},
};
use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(40);
/// For a version that is well again to be believed: what it has failed counts half after a minute.
const BELIEVED: Duration = Duration::from_secs(180);
const KEY: &str = "smartsplits.weir.dev/shop/web";
/// What each has at least, in percent.
const FLOOR: f64 = 5.0;
const SPLIT: &str = "apiVersion: weir.dev/v1alpha1
kind: SmartSplit
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: web}]
  backendRefs:
  - {name: v0, weight: 40, minPercent: 5}
  - {name: v1, weight: 30, minPercent: 5}
  - {name: v2, weight: 30, minPercent: 5}
  steer: prefer lower errors, at most 10% per step, every 1s
";
/// Answers that are looked at together: of so many a version at its floor has about 10, and one with its declared part about 60.
const TOGETHER: usize = 200;
/// More than this of them has who is at its floor only once in a hundred million times, and half of what is declared.
const MOST: usize = 30;

/// Two callers, the Service that they call, and its three versions.
struct Shop {
    page: Service,
    web: App,
    versions: Vec<App>,
    config: tempfile::TempDir,
    peers: Peers,
}

impl Shop {
    async fn start() -> Self {
        let network = Network::new();
        let app = async |host: u8| App::start((network.address(host), 0).into()).await;
        let shop = Self {
            page: Service::start("shop", "page", 2).await,
            web: app(1).await,
            versions: vec![app(2).await, app(3).await, app(4).await],
            config: temp_dir(),
            peers: Peers::new(),
        };
        let folder = shop.config.path();
        put(folder, "page.yaml", &shop.page.calling());
        put(folder, "web.yaml", &without_proxy("shop", "web", "http", shop.web.address));
        for (number, app) in shop.versions.iter().enumerate() {
            let name = format!("v{number}");
            put(folder, &format!("{name}.yaml"), &without_proxy("shop", &name, "http", app.address));
        }
        put(folder, "split.yaml", SPLIT);
        shop
    }

    async fn weir(&self, which: usize) -> Weir {
        self.peers.start(which, self.config.path()).await
    }

    /// The Envoy of a caller, at the Weir of the same place and at no other.
    async fn proxy(&self, which: usize) -> (Proxy, Mount) {
        self.peers.proxy(which, &self.page, which, |_| {}).await
    }

    async fn caller(&self, which: usize) -> Caller {
        let names = self.versions.iter().enumerate().map(|(number, app)| (app.address.to_string(), number));
        Caller::start(self.page.outbound(which), PATHS[which], names.collect()).await
    }
}

/// What each caller asks for, so that a version can fail for one of them alone.
const PATHS: [&str; 2] = ["/first", "/second"];

/// What became of a request: the version that answered and the status, or what went wrong.
type Answer = Result<(usize, u16), String>;

/// Calls `web` all the time over connections that are kept, and notes who answers.
struct Caller {
    over: CancellationToken,
    answers: Arc<Mutex<Vec<Answer>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Caller {
    async fn start(way_out: SocketAddr, path: &'static str, versions: BTreeMap<String, usize>) -> Self {
        const CONNECTIONS: u32 = 4;
        const PER_SECOND: u32 = 150;
        let (over, answers) = (CancellationToken::new(), Arc::<Mutex<Vec<Answer>>>::default());
        let mut tasks = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut connection = Connection::open(way_out, None).await.unwrap();
            let (over, answers, versions) = (over.clone(), Arc::clone(&answers), versions.clone());
            let mut ticks = tokio::time::interval(Duration::from_secs(1) * CONNECTIONS / PER_SECOND);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tasks.push(tokio::spawn(async move {
                while !over.is_cancelled() {
                    ticks.tick().await;
                    let answer = ask(&mut connection, path, &versions).await;
                    answers.lock().push(answer);
                }
            }));
        }
        Self { over, answers, tasks }
    }

    /// How many answers there are.
    fn now(&self) -> usize {
        self.answers.lock().len()
    }

    /// Waits until there are so many more.
    async fn more(&self, answers: usize) {
        let wanted = self.now() + answers;
        eventually(SOON, "it is answered", || {
            let now = self.now();
            std::future::ready(if now >= wanted { Ok(()) } else { Err(format!("{now} of {wanted}")) })
        })
        .await;
    }

    /// Who answered from this answer on, one after the other.
    fn by(&self, from: usize) -> Vec<usize> {
        self.answers.lock()[from..].iter().filter_map(|answer| Some(answer.as_ref().ok()?.0)).collect()
    }

    /// How many of the next so many answers each version gives.
    async fn next(&self, answers: usize) -> [usize; 3] {
        let from = self.now();
        self.more(answers).await;
        let by = self.by(from);
        [0, 1, 2].map(|version| by.iter().filter(|by| **by == version).count())
    }

    /// Of no so many answers one after the other since this one a version has given more than who is at its floor does.
    #[track_caller]
    fn never_more(&self, version: usize, from: usize) {
        let by = self.by(from);
        assert!(by.len() >= 3 * TOGETHER, "{} answers are too few to say", by.len());
        let most = by.windows(TOGETHER).map(|some| some.iter().filter(|by| **by == version).count()).max();
        assert!(most <= Some(MOST), "v{version} gave {most:?} of {TOGETHER}");
    }

    /// Ends it: all answers.
    async fn end(self) -> Vec<Answer> {
        self.over.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut self.answers.lock())
    }
}

async fn ask(connection: &mut Connection, path: &str, versions: &BTreeMap<String, usize>) -> Answer {
    let request = http::Request::get(path).header("host", "web").body(Full::<Bytes>::default()).unwrap();
    let answer = connection.send(request).await.map_err(|error| format!("{error:#}"))?;
    let status = answer.status().as_u16();
    let by = answer.headers().get(ANSWERED_BY).and_then(|by| versions.get(by.to_str().ok()?));
    by.map(|by| (*by, status)).ok_or_else(|| format!("{status}, of none of the versions"))
}

/// What `weir status` prints of what each version has: the whole text, and the percentages.
async fn printed(weir: &Weir) -> (String, Vec<String>) {
    let arguments = ["status".to_owned(), format!("--admin-address={}", weir.admin)];
    let output = tokio::task::spawn_blocking(move || weir::command(arguments).output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let arms = text.lines().filter(|line| line.contains("(declared "));
    let shares = arms.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect();
    (text, shares)
}

/// Waits until this holds of what the one that decides says, and the other one says the same shares.
async fn agree(leader: &Weir, follower: &Weir, holds: impl Fn(&View) -> Result<(), String>) {
    eventually(SOON, "both say the same", async || {
        let status = View(leader.status().await.map_err(|error| format!("{error:#}"))?);
        holds(&status)?;
        let ((by_leader, of_leader), (by_follower, of_follower)) = (printed(leader).await, printed(follower).await);
        let roles = by_leader.contains("this replica leads") && by_follower.contains("this replica follows");
        if roles && of_leader.len() == 3 && of_leader == of_follower {
            // It hears no caller itself, and must not say that nobody does.
            assert!(!by_follower.contains("MetricsAvailable"), "{by_follower}");
            Ok(())
        } else {
            Err(format!("{by_leader}\n{by_follower}"))
        }
    })
    .await;
}

/// Holds when a version has no more than its floor.
fn drained(status: &View, version: &str) -> Result<(), String> {
    let percent = status.percent(KEY, version)?;
    if percent <= FLOOR { Ok(()) } else { Err(status.policy(KEY)?["status"].to_string()) }
}

fn all_have_it(status: &View, proxies: u64) -> Result<(), String> {
    status.programmed(KEY, 1)?;
    let found = &status.policy(KEY)?["status"]["proxies"];
    if found["total"] == proxies && found["programmed"] == proxies { Ok(()) } else { Err(found.to_string()) }
}

/// Requests that the verdicts of a Weir rest on.
fn rests_on(status: &View) -> Result<f64, String> {
    let arms = status.policy(KEY)?["status"]["arms"].as_array().cloned().unwrap_or_default();
    Ok(arms.iter().filter_map(|arm| arm["requests"].as_f64()).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_decides_by_what_the_proxies_of_both_tell_and_the_other_goes_on_from_there() {
    let shop = Shop::start().await;
    let first = shop.weir(0).await;
    let second = shop.weir(1).await;
    first.until_metric(SOON, "weir_replica_leads", 1.0).await;
    second.until_metric(SOON, "weir_replica_linked", 1.0).await;
    let _proxies = [shop.proxy(0).await, shop.proxy(1).await];
    first.until(SOON, "both proxies have it", |status| all_have_it(status, 2)).await;
    let callers = [shop.caller(0).await, shop.caller(1).await];

    // Its verdicts rest on more requests than either of the proxies can have told of.
    eventually(SOON, "the proxies of both are heard", async || {
        let rests_on = rests_on(&View(first.status().await.map_err(|error| error.to_string())?))?;
        let sent = callers.each_ref().map(Caller::now);
        let most = sent.into_iter().max().unwrap_or_default() as f64;
        if rests_on > most.max(500.0) { Ok(()) } else { Err(format!("it rests on {rests_on}, {sent:?} were sent")) }
    })
    .await;

    // What fails now only the other one's proxy sees.
    shop.versions[2].fails_every_under(PATHS[1], 2);
    agree(&first, &second, |status| drained(status, "v2")).await;
    first.until(SOON, "both proxies have it", |status| all_have_it(status, 2)).await;
    for (caller, name) in callers.iter().zip(["first", "second"]) {
        let [v0, v1, v2] = caller.next(600).await;
        assert!((8..=60).contains(&v2) && v0 > v1 && v1 > 150, "the {name} caller: {v0}, {v1}, {v2}");
    }
    assert_eq!(second.metric("weir_replica_leads").await, 0.0, "it has decided nothing of that");

    // Who decides is gone in the middle of all that.
    let from = callers.each_ref().map(Caller::now);
    first.kill().await.unwrap();
    second
        .until(SOON, "the other one decides", |status| {
            // At every look, whoever decides.
            drained(status, "v2").unwrap_or_else(|found| panic!("it has got its share back: {found}"));
            let of = |field: &str| status.arm(KEY, "v2").map(|arm| arm[field].clone());
            // Only who makes steps itself knows what came of them.
            if status.0["replica"]["leads"] == true && of("realisedPercent")?.is_number() {
                Ok(())
            } else {
                Err(of("realisedPercent")?.to_string())
            }
        })
        .await;
    let led = callers[1].now();
    eventually(SOON, "it goes on for some time", async || {
        let status = View(second.status().await.map_err(|error| error.to_string())?);
        drained(&status, "v2").unwrap_or_else(|found| panic!("it has got its share back: {found}"));
        let answers = callers[1].now() - led;
        if answers > 1000 { Ok(()) } else { Err(format!("{answers} answers")) }
    })
    .await;
    for (caller, from) in callers.iter().zip(from) {
        caller.never_more(2, from);
    }

    // Well again it is given requests again, by the one that is left, and only where that is told.
    shop.versions[2].fails_every(0);
    second
        .until(BELIEVED, "v2 is given some again", |status| {
            let percent = status.percent(KEY, "v2")?;
            if percent > 20.0 { Ok(()) } else { Err(status.policy(KEY)?["status"].to_string()) }
        })
        .await;
    let [_, _, v2] = callers[1].next(600).await;
    assert!(v2 > 80, "{v2} of 600");
    callers[0].never_more(2, from[0]);

    // Now another version fails, and of that the one that is gone has never heard.
    shop.versions[1].fails_every(2);
    second
        .until(SOON, "v1 is drained", |status| {
            drained(status, "v1")?;
            status.programmed(KEY, 1)
        })
        .await;
    let since = callers[1].now();
    let [_, v1, _] = callers[0].next(TOGETHER).await;
    assert!(v1 > MOST, "{v1} of {TOGETHER}: nobody tells the other proxy");

    // Started again, it decides again, and takes up what it is told before it says anything.
    let first = shop.weir(0).await;
    eventually(SOON, "it decides", async || {
        let status = View(first.status().await.map_err(|error| error.to_string())?);
        drained(&status, "v1").unwrap_or_else(|found| panic!("what was decided is forgotten: {found}"));
        if status.0["replica"]["leads"] == true {
            all_have_it(&status, 2)
        } else {
            Err(status.0["replica"].to_string())
        }
    })
    .await;
    agree(&first, &second, |status| drained(status, "v1")).await;
    for caller in &callers {
        let from = caller.now();
        let [_, v1, v2] = caller.next(3 * TOGETHER).await;
        assert!(v2 > 80, "{v1} of v1, {v2} of v2");
        caller.never_more(1, from);
    }
    callers[1].never_more(1, since);

    // Not one request has failed for all that, but those that the bad versions have failed themselves.
    let [of_first, of_second] = callers;
    let unlike = |answers: Vec<Answer>, bad: &[Answer]| {
        answers
            .into_iter()
            .filter(|answer| !matches!(answer, Ok((_, 200))) && !bad.contains(answer))
            .collect::<Vec<_>>()
    };
    assert_eq!(unlike(of_first.end().await, &[Ok((1, 500))]), []);
    assert_eq!(unlike(of_second.end().await, &[Ok((1, 500)), Ok((2, 500))]), []);
    assert_eq!(shop.web.served(), 0, "nobody is sent to the root");
}

//! What a real Envoy admits, against limit x time + burst.
//!
//! Every case has rules of its own names, so its buckets begin full; then more is offered than the limit admits, for the whole
//! window, on kept-alive connections. Time runs from the first request sent to the last answer. Requests are whole, so a count
//! is right within 2 % or within one request, whichever is more.

use std::time::Duration;

use futures::future::try_join_all;
use jiff::Timestamp;

use crate::{
    clock,
    http::{Load, Tally},
    mesh,
    report::Row,
    rig::Rig,
};

const TOLERANCE: f64 = 0.02;
/// What more may get through while a neighbour changes.
const CHURN_TOLERANCE: f64 = 0.01;
const CHURN_EVERY: Duration = Duration::from_millis(100);

/// A limit in force: its sentence, and what it means.
struct Limit {
    sentence: &'static str,
    per_second: f64,
    burst: f64,
}

impl Limit {
    fn expected(&self, seconds: f64) -> f64 {
        self.burst + self.per_second * seconds
    }
}

/// Sentence, requests per second, default burst, window in seconds, pause between requests in ms.
const LADDER: [(Limit, u64, u64); 7] = [
    (Limit { sentence: "1 request per day", per_second: 1.0 / 86_400.0, burst: 1.0 }, 5, 2),
    (Limit { sentence: "5 requests per hour", per_second: 5.0 / 3600.0, burst: 1.0 }, 5, 2),
    (Limit { sentence: "30 requests per minute", per_second: 0.5, burst: 5.0 }, 20, 2),
    (Limit { sentence: "5 requests per second", per_second: 5.0, burst: 5.0 }, 20, 2),
    (Limit { sentence: "50 requests per second", per_second: 50.0, burst: 5.0 }, 10, 1),
    (Limit { sentence: "500 requests per second", per_second: 500.0, burst: 50.0 }, 6, 0),
    (Limit { sentence: "20000 requests per second", per_second: 20_000.0, burst: 2000.0 }, 5, 0),
];

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    let mut rig = Rig::start()?;
    let mut rows = Vec::new();
    for (index, (limit, seconds, pause)) in LADDER.iter().enumerate() {
        eprintln!("{}, {seconds} s", limit.sentence);
        let rule = format!("name: ladder-{index}, limit: {} per pod", limit.sentence);
        enforce(&mut rig, &[rule])?;
        let fast = limit.per_second > 1000.0;
        let load = Load {
            connections: if fast { 64 } else { 2 },
            pause: Duration::from_millis(*pause),
            ..rig_load(&rig, "/")
        };
        let tallies = drive(vec![load], Duration::from_secs(*seconds), None)?;
        rows.push(judge(limit.sentence, limit, &tallies[0]));
    }
    rows.extend(clients(&mut rig)?);
    rows.extend(narrow_and_wide(&mut rig)?);
    rows.push(churn(&mut rig)?);
    Ok(rows)
}

/// Makes these the rules of the object `rates`, and waits until they are enforced.
fn enforce(rig: &mut Rig, rules: &[String]) -> anyhow::Result<()> {
    rig.apply(mesh::changes(&mesh::policy("rates", mesh::SERVICE, rules))?);
    rig.settle()
}

fn rig_load(rig: &Rig, path: &'static str) -> Load {
    Load { address: rig.address, from: None, path, connections: 2, pause: Duration::from_millis(1) }
}

/// Runs loads at once on a thread of their own, and `meanwhile` every 100 ms on this one.
fn drive(loads: Vec<Load>, window: Duration, mut meanwhile: Option<&mut dyn FnMut()>) -> anyhow::Result<Vec<Tally>> {
    let load = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(try_join_all(loads.into_iter().map(|load| load.run(window))))
    });
    let end = clock::now() + window;
    while let Some(change) = meanwhile.as_mut()
        && clock::now() + CHURN_EVERY < end
    {
        std::thread::sleep(CHURN_EVERY);
        change();
    }
    load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?
}

fn judge(what: &str, limit: &Limit, tally: &Tally) -> Row {
    let expected = limit.expected(tally.seconds());
    let off = tally.admitted as f64 - expected;
    let met = off.abs() <= (TOLERANCE * expected).max(1.0);
    // A load that never exceeded the limit would prove nothing.
    let tried = tally.offered() as f64 > 1.2 * expected;
    Row::goal(what, "within 2 %", describe(tally, expected), met && tried)
}

fn describe(tally: &Tally, expected: f64) -> String {
    let off = 100.0 * (tally.admitted as f64 / expected - 1.0);
    let (admitted, offered, seconds) = (tally.admitted, tally.offered(), tally.seconds());
    format!("{admitted} of {offered} in {seconds:.2} s; limit x time + burst {expected:.2} ({off:+.2} %)")
}

/// Three clients, each with a rate of its own.
fn clients(rig: &mut Rig) -> anyhow::Result<Vec<Row>> {
    eprintln!("three clients, 10 s");
    let limit = Limit { sentence: "50 requests per second per client ip", per_second: 50.0, burst: 5.0 };
    enforce(rig, &[format!("name: clients, limit: {}", limit.sentence)])?;
    let from = |client: u8| Load { from: Some(([127, 0, 0, client], 0).into()), ..rig_load(rig, "/") };
    let tallies = drive((2..=4).map(from).collect(), Duration::from_secs(10), None)?;
    let rows = tallies
        .iter()
        .enumerate()
        .map(|(client, tally)| judge(&format!("{}, client {} of 3", limit.sentence, client + 1), &limit, tally));
    Ok(rows.collect())
}

/// A limit for one path beside one for the whole service: once the narrow one binds, once the wide one.
fn narrow_and_wide(rig: &mut Rig) -> anyhow::Result<Vec<Row>> {
    eprintln!("narrow and service-wide, 2 x 10 s");
    let rules = |run: &str| {
        [
            format!("name: wide-{run}, limit: 200 requests per second per pod"),
            format!(
                "name: narrow-{run}, matches: [{{path: {{type: PathPrefix, value: /narrow}}}}], limit: 50 requests per second per pod"
            ),
        ]
    };
    let wide = Limit { sentence: "200 requests per second", per_second: 200.0, burst: 20.0 };
    let narrow = Limit { sentence: "50 requests per second", per_second: 50.0, burst: 5.0 };
    let window = Duration::from_secs(10);

    enforce(rig, &rules("a"))?;
    // About 80 a second beside the narrow path: together less than the wide limit.
    let beside = Load { connections: 1, pause: Duration::from_millis(12), ..rig_load(rig, "/") };
    let tallies = drive(vec![rig_load(rig, "/narrow"), beside], window, None)?;
    let mut rows = vec![judge("50 per second on a path, inside 200 per second on the service", &narrow, &tallies[0])];
    rows.push(Row::goal(
        "requests beside that path, below the service's limit, refused",
        "0",
        format!("{} of {}", tallies[1].limited, tallies[1].offered()),
        tallies[1].limited == 0,
    ));

    enforce(rig, &rules("b"))?;
    let tallies = drive(vec![rig_load(rig, "/narrow"), rig_load(rig, "/")], window, None)?;
    let both = Tally {
        admitted: tallies[0].admitted + tallies[1].admitted,
        limited: tallies[0].limited + tallies[1].limited,
        first: tallies[0].first.min(tallies[1].first),
        last: tallies[0].last.max(tallies[1].last),
    };
    rows.push(judge("200 per second on the service, the path and the rest above it", &wide, &both));
    let bound = narrow.expected(tallies[0].seconds());
    rows.push(Row::goal(
        "of them on the path, at most 50 per second + burst",
        "at most 2 % above",
        format!("{} of at most {bound:.0}", tallies[0].admitted),
        tallies[0].admitted as f64 <= bound * (1.0 + TOLERANCE),
    ));
    Ok(rows)
}

/// A limit that stands while a neighbour in the same route configuration changes ten times a second.
fn churn(rig: &mut Rig) -> anyhow::Result<Row> {
    eprintln!("beside a rule that changes ten times a second, 10 s");
    let limit = Limit { sentence: "500 requests per second", per_second: 500.0, burst: 50.0 };
    enforce(rig, &[format!("name: steady, limit: {} per pod", limit.sentence)])?;
    let address = rig.address;
    let versions = (0..10).map(|n| {
        let rule = format!(
            "name: moving, matches: [{{path: {{type: PathPrefix, value: /moving}}}}], limit: {} requests per second per pod",
            100 + 10 * n
        );
        mesh::changes(&mesh::policy("moving", mesh::SERVICE, &[rule]))
    });
    let versions: Vec<_> = versions.collect::<Result<_, _>>()?;
    rig.apply(versions[0].clone());
    rig.settle()?;
    let mut versions = versions.into_iter().cycle().skip(1);
    let mut changes = 0;
    let builder = &mut rig.builder;
    let mut change = || {
        if let Some(version) = versions.next() {
            builder.apply(version, Timestamp::now());
            changes += 1;
        }
    };
    let load = Load { address, from: None, path: "/", connections: 2, pause: Duration::ZERO };
    let tallies = drive(vec![load], Duration::from_secs(10), Some(&mut change))?;
    let (tally, expected) = (&tallies[0], limit.expected(tallies[0].seconds()));
    Ok(Row::goal(
        format!("500 requests per second while a neighbour changes {changes} times in 10 s"),
        "at most 1 % more",
        describe(tally, expected),
        tally.admitted as f64 <= expected * (1.0 + CHURN_TOLERANCE) && tally.offered() as f64 > 1.2 * expected,
    ))
}

//! From a push to its effect on a real Envoy.
//!
//! A limit of 1 per day on the whole service comes and goes 250 times while two connections send one request after the other.
//! Time runs from before the builder takes the change to the first answer of the other kind, so it includes the decision, the
//! translation and one round trip through the proxy.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use operator::index::Change;

use crate::{
    clock,
    http::{Connection, request},
    mesh,
    report::{Durations, Row, ms},
    rig::Rig,
};

const TOGGLES: usize = 250;
const CONNECTIONS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(10);

/// When the newest answers of each kind came, in nanoseconds; 0: none since it was reset.
#[derive(Debug, Default)]
struct Seen {
    first_admitted: AtomicU64,
    first_limited: AtomicU64,
    answers: AtomicU64,
    stop: AtomicBool,
}

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    let mut rig = Rig::start()?;
    let on =
        mesh::changes(&mesh::policy("all", mesh::SERVICE, &["name: all, limit: 1 request per day per pod".into()]))?;
    let off: Vec<Change> = mesh::keys(&on).into_iter().map(Change::Delete).collect();
    let seen = Arc::new(Seen::default());
    let (address, watched) = (rig.address, seen.clone());
    let load = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let connections = (0..CONNECTIONS).map(|_| ask(address, &watched));
            futures::future::try_join_all(connections).await.map(drop)
        })
    });

    // The bucket's only request of the day is spent first.
    rig.apply(on.clone());
    first(&seen.first_limited, &load)?;
    let destroyed = rig.connections("downstream_cx_destroy")?;
    let (mut tightened, mut released) = (Vec::new(), Vec::new());
    for toggle in 0..TOGGLES {
        released.push(toggled(&mut rig, off.clone(), &seen.first_admitted, &load)?);
        // An odd pause, so that toggles do not fall in step with anything.
        std::thread::sleep(Duration::from_micros(3000 + (toggle as u64 * 977) % 5000));
        tightened.push(toggled(&mut rig, on.clone(), &seen.first_limited, &load)?);
        std::thread::sleep(Duration::from_micros(3000 + (toggle as u64 * 1361) % 5000));
    }
    let closed = rig.connections("downstream_cx_destroy")? - destroyed;
    seen.stop.store(true, Ordering::Relaxed);
    load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;

    let (tightened, released) = (Durations::new(tightened)?, Durations::new(released)?);
    let all = |times: &Durations| {
        format!("{} (p50 {}, max {})", ms(times.percentile(99)), ms(times.percentile(50)), ms(times.max()))
    };
    let p99 = tightened.percentile(99);
    Ok(vec![
        Row::goal(
            format!("change to the first 429, p99 of {} toggles", tightened.count()),
            "at most 5 ms",
            all(&tightened),
            p99 <= Duration::from_millis(5),
        ),
        Row::plain("removal of the limit to the first 200, p99", all(&released)),
        Row::goal(
            format!("connections closed by {} changes, of {CONNECTIONS}", 2 * TOGGLES),
            "0",
            format!("{closed}, with {} answers", seen.answers.load(Ordering::Relaxed)),
            closed == 0,
        ),
    ])
}

/// The time from a change to the first answer that shows it.
fn toggled(
    rig: &mut Rig,
    changes: Vec<Change>,
    seen: &AtomicU64,
    load: &std::thread::JoinHandle<anyhow::Result<()>>,
) -> anyhow::Result<Duration> {
    seen.store(0, Ordering::Relaxed);
    let start = clock::now();
    rig.apply(changes);
    Ok(first(seen, load)?.saturating_sub(start))
}

fn first(seen: &AtomicU64, load: &std::thread::JoinHandle<anyhow::Result<()>>) -> anyhow::Result<Duration> {
    let start = clock::now();
    loop {
        match seen.load(Ordering::Relaxed) {
            0 => {}
            at => return Ok(Duration::from_nanos(at)),
        }
        anyhow::ensure!(!load.is_finished(), "a connection was closed or answered wrongly");
        anyhow::ensure!(clock::now() - start < PATIENCE, "no change of answers within {PATIENCE:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// One request after the other until told to stop.
async fn ask(address: SocketAddr, seen: &Seen) -> anyhow::Result<()> {
    let request = request("/");
    let mut connection = Connection::open(address, None).await?;
    while !seen.stop.load(Ordering::Relaxed) {
        connection.send(&request).await?;
        let status = connection.status().await?;
        let now = u64::try_from(clock::now().as_nanos()).unwrap_or(u64::MAX);
        seen.answers.fetch_add(1, Ordering::Relaxed);
        let first = match status {
            200 => &seen.first_admitted,
            429 => &seen.first_limited,
            other => anyhow::bail!("the proxy answered {other}"),
        };
        let _ = first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }
    Ok(())
}

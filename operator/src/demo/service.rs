//! A small HTTP service that behaves like a real one under load: one worker, a long queue, and a CPU limit.
//!
//! Each request burns `cost` of real CPU time; then the worker idles until the whole process has stayed below `cpu`
//! cores, as a container's CPU limit would make it. So it serves about `cpu / cost` requests a second, and above that
//! its queue grows and latency collapses. Requests whose client has left are worked on all the same, as most services
//! do. `/metrics` is answered at once, beside the queue.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use nix::{
    sys::resource::{UsageWho, getrusage},
    time::{ClockId, clock_gettime},
};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::{args::DemoServiceArgs, queue::Queue};

/// Requests that may wait; the next one is answered 503.
const QUEUE: usize = 100_000;

/// What one replica costs and may use.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// CPU time of one request.
    pub cost: Duration,
    /// Cores that the process may use on average.
    pub cpu: f64,
}

type Job = oneshot::Sender<()>;

/// `weir demo-service`: serves until SIGTERM or Ctrl-C.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn run(args: DemoServiceArgs) -> anyhow::Result<ExitCode> {
    let shutdown = CancellationToken::new();
    tokio::spawn(super::stop_on_signal(shutdown.clone())?);
    if let Some(config) = args.queue() {
        let listener = bind(args.listen).await?;
        let _queue = Queue::serve(listener, config)?;
        shutdown.cancelled().await;
        return Ok(ExitCode::SUCCESS);
    }
    serve(args.listen, args.config(), shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// Serves on `listen` until `shutdown`; then answers what it is working on for at most two seconds.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(listen: SocketAddr, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = bind(listen).await?;
    let (jobs, queue) = mpsc::sync_channel(QUEUE);
    std::thread::Builder::new().name("worker".into()).spawn(move || work(&queue, config))?;
    let app = Router::new()
        .route("/metrics", get(|| async { metrics() }))
        .fallback(async |State(jobs): State<Arc<mpsc::SyncSender<Job>>>| {
            let (done, finished) = oneshot::channel();
            if jobs.try_send(done).is_err() || finished.await.is_err() {
                return (StatusCode::SERVICE_UNAVAILABLE, "the queue is full\n").into_response();
            }
            "done\n".into_response()
        })
        .with_state(Arc::new(jobs));
    let until = shutdown.clone();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move { until.cancelled().await });
    let grace = async {
        shutdown.cancelled().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    tokio::select! {
        result = server.into_future() => result.context("the server failed"),
        () = grace => Ok(()),
    }
}

async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))
}

/// The single worker: first come, first served.
fn work(queue: &mpsc::Receiver<Job>, config: Config) {
    let mut free_at = Instant::now();
    let mut paid = process_cpu();
    loop {
        let job = match queue.try_recv() {
            Ok(job) => job,
            Err(_) => {
                let Ok(job) = queue.recv() else { return };
                // What was used while idle was within the limit.
                paid = process_cpu();
                job
            }
        };
        let start = free_at.max(Instant::now());
        burn(config.cost);
        // All of the process counts, as in a container: also what taking and refusing requests has cost meanwhile.
        let used = process_cpu();
        free_at = start + used.saturating_sub(paid).max(config.cost).div_f64(config.cpu);
        paid = used;
        std::thread::sleep(free_at.saturating_duration_since(Instant::now()));
        // The client may have left.
        let _ = job.send(());
    }
}

/// Uses `cost` of this thread's CPU time.
fn burn(cost: Duration) {
    let thread_cpu = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default();
    let (begin, wall) = (thread_cpu(), Instant::now());
    let mut state = 1_u64;
    // The second bound is for a system without a thread clock.
    while thread_cpu().saturating_sub(begin) < cost && wall.elapsed() < cost * 100 {
        for _ in 0..2000 {
            state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

/// CPU time of this process so far.
fn process_cpu() -> Duration {
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_secs(u64::try_from(value.tv_sec()).unwrap_or(0))
            + Duration::from_micros(u64::try_from(value.tv_usec()).unwrap_or(0))
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map(|usage| time(usage.user_time()) + time(usage.system_time()))
        .unwrap_or_default()
}

fn metrics() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident_kib = resident_kib(&status).unwrap_or(0);
    format!(
        "# HELP process_cpu_seconds_total CPU time used, in seconds.\n# TYPE process_cpu_seconds_total counter\n\
         process_cpu_seconds_total {}\n\
         # HELP process_resident_memory_bytes Resident memory, in bytes.\n# TYPE process_resident_memory_bytes gauge\n\
         process_resident_memory_bytes {}\n",
        process_cpu().as_secs_f64(),
        resident_kib * 1024
    )
}

/// Resident memory out of the text of `/proc/self/status`.
fn resident_kib(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use tokio::sync::oneshot;

    use super::{Config, metrics, resident_kib, work};

    #[test]
    fn reads_resident_memory() {
        assert_eq!(resident_kib("Name:\tweir\nVmRSS:\t   12345 kB\n"), Some(12345));
        assert_eq!(resident_kib(""), None);
    }

    #[test]
    fn the_page_holds_what_weir_scrapes() {
        let none = std::collections::BTreeMap::new();
        let wanted = ["process_cpu_seconds_total", "process_resident_memory_bytes"]
            .map(|name| crate::metrics::text::Wanted { name, labels: &none });
        for found in crate::metrics::text::scan(metrics().as_bytes(), &wanted) {
            assert!(matches!(found, crate::metrics::text::Found::Sum(value) if value > 0.0));
        }
    }

    #[test]
    fn a_request_takes_its_cost_over_the_cores() {
        let (jobs, queue) = mpsc::sync_channel(4);
        std::thread::spawn(move || work(&queue, Config { cost: Duration::from_millis(4), cpu: 0.2 }));
        let begin = std::time::Instant::now();
        let (done, finished) = oneshot::channel();
        jobs.send(done).unwrap();
        finished.blocking_recv().unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(20));
    }
}

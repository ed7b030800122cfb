//! Scraping over real sockets, against small servers that misbehave in one way each.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use limiter::metric::Word;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::Scraper;
use crate::{
    intent::ServiceKey,
    metrics::{HealthBoard, Measure, PodSample, Provider, Series, Target, Wanted},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that hands every request to `answer` with the request's number.
async fn server<F, R>(answer: F) -> String
where
    F: Fn(u64, TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            tokio::spawn(answer(number, stream));
        }
    });
    format!("http://{address}/metrics")
}

async fn send(mut stream: TcpStream, status: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body).await;
    let _ = stream.shutdown().await;
}

/// A page whose `jobs` series is `value`.
async fn page(value: f64) -> String {
    server(move |_, stream| async move { send(stream, "200 OK", format!("jobs {value}\n").as_bytes()).await }).await
}

fn service() -> ServiceKey {
    ServiceKey { namespace: "ns-a".into(), name: "checkout".into() }
}

fn target(pod: &str, url: String, rate: bool) -> Target {
    let series = Series { name: "jobs".into(), series: "jobs".into(), labels: [].into(), rate };
    Target {
        service: service(),
        pod: pod.into(),
        url,
        cpu_limit_cores: None,
        memory_limit_bytes: None,
        series: vec![series],
    }
}

struct Running {
    wanted: watch::Sender<Arc<Wanted>>,
    samples: mpsc::Receiver<Vec<PodSample>>,
    health: HealthBoard,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn wanted(targets: Vec<Target>) -> Arc<Wanted> {
    Arc::new(Wanted { targets, ..Wanted::default() })
}

fn value(sample: &PodSample) -> f64 {
    let Measure::Number(_, value) = sample.measure else { panic!("scraping gives numbers") };
    value
}

fn start(targets: Vec<Target>) -> Running {
    let (wanted, wanted_rx) = watch::channel(wanted(targets));
    let (samples_tx, samples) = mpsc::channel(1);
    let (health, shutdown) = (HealthBoard::default(), CancellationToken::new());
    let scraper = Scraper { interval: Duration::from_millis(40) };
    let task = scraper.spawn(wanted_rx, samples_tx, health.clone(), shutdown.clone());
    Running { wanted, samples, health, shutdown, task }
}

impl Running {
    async fn sample(&mut self, wanted: impl Fn(&PodSample) -> bool) -> PodSample {
        let found = async {
            loop {
                let batch = self.samples.recv().await.expect("the scraper runs");
                if let Some(sample) = batch.into_iter().find(|sample| wanted(sample)) {
                    return sample;
                }
            }
        };
        timeout(PATIENCE, found).await.expect("the sample comes")
    }

    async fn error(&mut self, pod: &str, part: &str) {
        let said = async {
            loop {
                let error = self.health.pod(&service(), pod).and_then(|health| health.last_error);
                if error.is_some_and(|error| error.message.contains(part)) {
                    return;
                }
                // A healthy neighbour's samples are the clock of this loop.
                self.samples.recv().await.expect("the scraper runs");
            }
        };
        let said = timeout(PATIENCE, said).await;
        assert!(said.is_ok(), "{part:?} was not said, but {:?}", self.health.pod(&service(), pod));
    }
}

#[tokio::test]
async fn brings_values_with_their_time() {
    let before = Timestamp::now();
    let mut running = start(vec![target("good", page(3.0).await, false)]);
    let sample = running.sample(|_| true).await;
    assert_eq!((sample.measure, sample.fresh_for_ms), (Measure::Number(Word::Named("jobs".into()), 3.0), 120));
    assert!(sample.at >= before && sample.at <= Timestamp::now());
    let health = running.health.pod(&service(), "good").unwrap();
    assert_eq!(health.last_error, None);
    assert!(health.unavailable[&Word::Cpu].contains("resources.limits.cpu"));
}

#[tokio::test]
async fn every_kind_of_bad_page_costs_only_itself() {
    let hang = server(|_, stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    });
    let garbage = server(|_, stream| async move { send(stream, "200 OK", &[0xff, 0, b'\n', b'{', 0xfe]).await });
    let refused = server(|_, stream| async move { send(stream, "503 Service Unavailable", b"jobs 1\n").await });
    let not_http = server(|_, mut stream| async move {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await;
    });
    let cut = server(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\njobs 1\n").await;
    });
    let endless = server(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await;
        while stream.write_all(&[b'\n'; 65536]).await.is_ok() {}
    });
    let trickle = server(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await;
        while stream.write_all(b"jobs 1\n").await.is_ok() {
            tokio::task::yield_now().await;
            let _ = timeout(Duration::from_millis(5), std::future::pending::<()>()).await;
        }
    });
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/metrics", listener.local_addr().unwrap())
    };
    let mut running = start(vec![
        target("good", page(3.0).await, false),
        target("hang", hang.await, false),
        target("garbage", garbage.await, false),
        target("refused", refused.await, false),
        target("not-http", not_http.await, false),
        target("cut", cut.await, false),
        target("endless", endless.await, false),
        target("trickle", trickle.await, false),
        target("gone", gone, false),
        target("no-url", "http://[/x".into(), false),
    ]);
    running.error("hang", "did not answer in full within 120 ms").await;
    running.error("garbage", "none of the series looked for").await;
    running.error("refused", "answered 503").await;
    running.error("not-http", "cannot reach").await;
    running.error("cut", "broke off").await;
    running.error("trickle", "did not answer in full").await;
    running.error("gone", "cannot reach").await;
    running.error("no-url", "is not a URL").await;
    // 4 MiB may or may not fit into the deadline on a busy machine: either end is right, reading on is not.
    running.error("endless", "").await;
    let sample = running.sample(|_| true).await;
    assert_eq!((sample.pod.as_deref(), value(&sample)), (Some("good"), 3.0));
    assert_eq!(running.health.pod(&service(), "good").unwrap().last_error, None);
}

#[tokio::test]
async fn a_page_above_the_cap_is_refused() {
    let large =
        server(|_, stream| async move { send(stream, "200 OK", &vec![b'\n'; super::MAX_PAGE_BYTES + 1]).await });
    let mut running = start(vec![target("good", page(3.0).await, false), target("large", large.await, false)]);
    let refused = async {
        loop {
            running.error("large", "").await;
            let health = running.health.pod(&service(), "large").unwrap();
            assert_eq!(health.last_success, None);
            if health.last_error.is_some_and(|error| error.message.contains("larger than 4 MiB")) {
                return;
            }
            running.samples.recv().await.unwrap();
        }
    };
    timeout(PATIENCE, refused).await.expect("refused for its size");
}

#[tokio::test]
async fn a_reset_counter_gives_no_negative_or_giant_rate() {
    // Rises by 1 each read, and falls back to 0 at the 30th.
    let url = server(|number, stream| async move {
        let value = if number < 30 { 1000 + number } else { number - 30 };
        send(stream, "200 OK", format!("jobs {value}\n").as_bytes()).await;
    });
    let mut running = start(vec![target("reset", url.await, true)]);
    let mut rates = Vec::new();
    while rates.len() < 40 {
        rates.push(value(&running.sample(|_| true).await));
    }
    // 25 reads a second at most; slower on a busy machine, never below zero.
    assert!(rates.iter().all(|rate| *rate >= 0.0 && *rate < 60.0), "{rates:?}");
}

#[tokio::test]
async fn follows_changes_of_targets_recovers_and_stops() {
    let flaky = server(|number, stream| async move {
        let status = if number < 3 { "500 Internal Server Error" } else { "200 OK" };
        send(stream, status, b"jobs 7\n").await;
    });
    let mut running = start(vec![target("flaky", flaky.await, false)]);
    running.sample(|sample| value(sample) == 7.0).await;
    assert_eq!(running.health.pod(&service(), "flaky").unwrap().last_error, None);
    running.wanted.send_replace(wanted(vec![target("other", page(8.0).await, false)]));
    running.sample(|sample| value(sample) == 8.0).await;
    assert_eq!(running.health.pod(&service(), "flaky"), None);
    running.shutdown.cancel();
    timeout(PATIENCE, running.task).await.expect("it stops").unwrap();
}

#[tokio::test]
async fn a_slow_receiver_gets_the_newest_values() {
    let counting = server(|number, stream| async move {
        send(stream, "200 OK", format!("jobs {number}\n").as_bytes()).await;
    });
    let (seen_tx, mut seen) = watch::channel(0);
    let other = server(move |number, stream| {
        seen_tx.send_replace(number);
        async move { send(stream, "200 OK", b"jobs 1\n").await }
    });
    let mut running = start(vec![target("counting", counting.await, false), target("other", other.await, false)]);
    timeout(PATIENCE, seen.wait_for(|number| *number >= 20)).await.unwrap().unwrap();
    // One batch waits in the channel; everything after it was replaced by newer values.
    let mut values = Vec::new();
    while values.last().is_none_or(|value| *value < 15.0) {
        values.push(value(&running.sample(|sample| sample.pod.as_deref() == Some("counting")).await));
    }
    assert!(values.len() <= 3, "{values:?}");
}

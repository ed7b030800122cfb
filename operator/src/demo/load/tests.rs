use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::{Live, Phase, Plan, Target, run};

/// Answers the n-th request of each connection with what `answer` says; `None`: never.
async fn server(answer: fn(u64) -> Option<&'static str>) -> SocketAddr {
    async fn serve(mut stream: TcpStream, answer: fn(u64) -> Option<&'static str>) {
        for number in 0.. {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            let Some(text) = answer(number) else { return std::future::pending().await };
            if stream.write_all(text.as_bytes()).await.is_err() || text.contains("close") {
                return;
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer));
        }
    });
    address
}

fn plan(addresses: &[SocketAddr], per_second: f64, millis: u64) -> Plan {
    let targets = addresses.iter().map(|address| Target { name: address.to_string(), address: *address }).collect();
    let phase = Phase { name: "only".into(), per_second, duration: Duration::from_millis(millis) };
    Plan::new(targets, vec![phase])
}

async fn go(plan: Plan) -> super::Report {
    run(plan, watch::Sender::new(Live::default()), CancellationToken::new()).await
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const LIMITED: &str = "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn counts_each_kind_of_answer_by_target() {
    let mixed = server(|number| Some(if number % 2 == 0 { OK } else { LIMITED })).await;
    let closing = server(|_| Some("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")).await;
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let report = go(plan(&[mixed, closing, refused], 100.0, 1500)).await;
    let [mixed, closing, refused] = [0, 1, 2].map(|target| report.targets[target].total());
    assert_eq!((mixed.offered, mixed.ok + mixed.limited, mixed.failed), (150, 150, 0));
    assert!(mixed.limited > 0 && mixed.p99.is_some());
    assert_eq!((closing.other, closing.failed), (150, 150));
    assert_eq!((refused.failed, refused.other, refused.timeouts), (150, 0, 0));
    assert_eq!(report.targets[0].sum(0..1).offered, 100);
}

#[tokio::test]
async fn a_server_that_never_answers_does_not_slow_the_schedule() {
    let silent = server(|_| None).await;
    let report =
        go(Plan { timeout: Duration::from_millis(300), max_in_flight: 20, ..plan(&[silent], 100.0, 900) }).await;
    let total = report.targets[0].total();
    assert_eq!((total.offered, total.failed), (90, 90));
    let dropped: u64 = report.targets[0].seconds.iter().map(|second| second.dropped).sum();
    assert!(total.timeouts > 0 && dropped > 0, "{total:?}, {dropped} dropped");
}

#[tokio::test]
async fn publishes_live_numbers_and_stops_when_told() {
    let ok = server(|_| Some(OK)).await;
    let (live, mut seen) = watch::channel(Live::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(plan(&[ok], 50.0, 600_000), live, stop.clone()));
    let enough = seen.wait_for(|live| live.targets.iter().flatten().map(|second| second.ok).sum::<u64>() >= 20);
    tokio::time::timeout(Duration::from_secs(20), enough).await.unwrap().unwrap();
    stop.cancel();
    let report = tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
    let total = report.targets[0].total();
    assert_eq!(total.offered, total.ok);
}

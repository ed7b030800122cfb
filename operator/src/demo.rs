//! The demonstrations, and their reusable parts: real Envoys, a service that overloads, an open-loop load.
//!
//! ```text
//! scenario -> stage (service x3, weir, Envoy x3) -> load -> verdict, summary, plot; view shows it live
//! ```
//!
//! Whether a demonstration passed is judged from what its clients counted and what Envoys hold, never from what Weir says.

mod adapt;
pub mod args;
pub mod cast;
pub mod client;
pub mod envoy;
mod lazy;
mod limit;
pub mod load;
pub mod plot;
pub mod process;
pub mod queue;
mod random;
pub mod scenario;
mod screen;
pub mod service;
mod split;
mod stage;
mod status;
mod summary;
mod svg;
pub mod verdict;
mod view;

use std::{io::Write, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use self::{
    args::{DemoArgs, Scenario},
    cast::{Addresses, Cast},
    stage::Stage,
};

/// Exit code after Ctrl-C or SIGTERM, as shells have it.
const INTERRUPTED: u8 = 130;

/// `weir demo`: exit code 0 when every promise held, 1 when one did not.
///
/// # Errors
/// When something could not be started or ended by itself; the message names it and shows the end of its log.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone())?);
    let scenario = args.scenario.unwrap_or(Scenario::Limit(args.limit));
    let (code, stage) = tokio::select! {
        biased;
        performed = perform(&scenario, &stop) => performed?,
        // Dropping the performance ends every child and gives the terminal back.
        () = stop.cancelled() => {
            say("interrupted; everything was stopped");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    stage.stop().await;
    Ok(code)
}

async fn perform(scenario: &Scenario, stop: &CancellationToken) -> anyhow::Result<(ExitCode, Stage)> {
    match scenario {
        Scenario::Limit(args) => limit::perform(args, stop).await,
        Scenario::Adapt(args) => adapt::perform(args, stop).await,
        Scenario::Lazy(args) => lazy::perform(args, stop).await,
        Scenario::Split(args) => split::perform(args, stop).await,
    }
}

fn write_page(file: &Path, page: &str) -> anyhow::Result<()> {
    std::fs::write(file, page)
        .with_context(|| format!("the page with the plots cannot be written to {}; say --out FILE", file.display()))
}

fn keep_text(cast: &Cast, addresses: &Addresses, stage: &Stage) -> String {
    let program = std::env::current_exe().map_or_else(|_| "weir".to_owned(), |program| program.display().to_string());
    let mut text = format!(
        "\nstill running, until Ctrl-C. To play with:\n  what is in force   {program} status --admin-address {}\n  \
         policies           {} (edit {}: it takes effect when saved)\n  logs               {}\n",
        addresses.admin,
        stage.config().display(),
        cast.policy.0,
        stage.folder().display(),
    );
    for replica in 0..addresses.proxies.len() {
        text.push_str(&format!(
            "  {}           curl -i http://{}/   (its Envoy's admin page: http://{}/)\n",
            cast.pod(replica),
            addresses.proxies[replica],
            addresses.proxy_admins[replica]
        ));
    }
    let first = addresses.proxies[0];
    text + &format!(
        "  load               seq 200 | xargs -P 20 -I% curl -s -o /dev/null -w '%{{http_code}}\\n' http://{first}/ | sort | uniq -c"
    )
}

/// Prints a line. An output that is gone ends nothing: the exit code counts.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// GET over plain HTTP/1.1: status and text (at most 64 MiB).
pub(crate) async fn get(address: SocketAddr, path: &str, patience: Duration) -> anyhow::Result<(u16, String)> {
    send(address, Method::GET, path, String::new(), patience).await
}

/// As [`get`], of this host.
async fn get_as(address: SocketAddr, host: &str, path: &str, patience: Duration) -> anyhow::Result<(u16, String)> {
    exchange(address, host, Method::GET, path, String::new(), patience).await
}

/// A request over plain HTTP/1.1: status and text (at most 64 MiB).
async fn send(
    address: SocketAddr,
    method: Method,
    path: &str,
    body: String,
    patience: Duration,
) -> anyhow::Result<(u16, String)> {
    exchange(address, &address.to_string(), method, path, body, patience).await
}

async fn exchange(
    address: SocketAddr,
    host: &str,
    method: Method,
    path: &str,
    body: String,
    patience: Duration,
) -> anyhow::Result<(u16, String)> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot reach {address}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(http::header::HOST, host);
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), 64 << 20).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    tokio::time::timeout(patience, exchange)
        .await
        .with_context(|| format!("http://{address}{path} did not answer within {} ms", patience.as_millis()))?
}

/// A future that cancels `stop` at SIGINT or SIGTERM. Signals count from the call of this function on.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    })
}

//! A caller: what its application calls, and what its proxy holds, as Envoy itself says it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::demo::{cast::NAMESPACE, get};

/// An admin page of an Envoy with thousands of clusters takes its time.
const PATIENCE: Duration = Duration::from_secs(30);
/// A call that is not answered after this has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Caller {
    /// Of the Service and of its proxy.
    pub(super) name: &'static str,
    /// Where its proxy takes what the application sends to other services.
    pub(super) way_out: SocketAddr,
    /// Its proxy's admin page.
    pub(super) admin: SocketAddr,
    kept: Option<SendRequest<Empty<Bytes>>>,
}

/// What became of a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    /// From when it was sent to the end of the answer.
    pub(super) after: Duration,
}

impl Answer {
    /// Whether this Service answered.
    pub(super) fn is_from(&self, service: &str) -> bool {
        self.status == 200 && self.body == service
    }
}

impl Caller {
    pub(super) fn new(name: &'static str, way_out: SocketAddr, admin: SocketAddr) -> Self {
        Self { name, way_out, admin, kept: None }
    }

    /// Name of its only pod.
    pub(super) fn pod(&self) -> String {
        format!("{}-0", self.name)
    }

    /// GETs `/` of a host, over a connection that is kept. No answer at all is one of status 0 that says why.
    pub(super) async fn call(&mut self, host: &str) -> Answer {
        let begun = Instant::now();
        match tokio::time::timeout(TIMEOUT, self.exchange(host)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer { status: 0, body: format!("{error:#}"), after: begun.elapsed() },
            Err(_) => Answer { status: 0, body: format!("no answer in {} s", TIMEOUT.as_secs()), after: TIMEOUT },
        }
    }

    async fn exchange(&mut self, host: &str) -> anyhow::Result<Answer> {
        let mut connection = match self.kept.take() {
            Some(kept) if !kept.is_closed() => kept,
            _ => self.connect().await?,
        };
        connection.ready().await?;
        let request = Request::get("/").header(header::HOST, host).body(Empty::new())?;
        let begun = Instant::now();
        let response = connection.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        let after = begun.elapsed();
        self.kept = Some(connection);
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned(), after })
    }

    /// An error unless its proxy takes requests.
    pub(super) async fn open(&mut self) -> anyhow::Result<()> {
        self.kept = Some(self.connect().await?);
        Ok(())
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let stream =
            TcpStream::connect(self.way_out).await.with_context(|| format!("cannot reach {}", self.way_out))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Services that its proxy has a cluster of.
    pub(super) async fn clusters(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(clusters(self.name, &self.page("/clusters").await?))
    }

    /// Bytes that its proxy has allocated, once that no longer moves by much.
    pub(super) async fn allocated(&self) -> anyhow::Result<u64> {
        let mut before = self.allocated_now().await?;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = self.allocated_now().await?;
            if now.abs_diff(before) <= now / 200 {
                return Ok(now);
            }
            before = now;
        }
        Ok(before)
    }

    async fn allocated_now(&self) -> anyhow::Result<u64> {
        let memory: Value = serde_json::from_str(&self.page("/memory").await?)?;
        let allocated = memory["allocated"].as_str().and_then(|text| text.parse().ok());
        allocated.with_context(|| format!("{}: Envoy's /memory has no number as `allocated`: {memory}", self.name))
    }

    /// All that its proxy was sent, with the times at which it came.
    pub(super) async fn held(&self) -> anyhow::Result<Value> {
        let mut dump: Value = serde_json::from_str(&self.page("/config_dump?include_eds").await?)?;
        let configs = dump["configs"].as_array_mut();
        let configs = configs.with_context(|| format!("{}: Envoy's /config_dump has no configs", self.name))?;
        // That one it was started with.
        configs.retain(|config| !config["@type"].as_str().unwrap_or_default().contains("Bootstrap"));
        Ok(dump)
    }

    async fn page(&self, path: &str) -> anyhow::Result<String> {
        let (status, text) = get(self.admin, path, PATIENCE).await?;
        ensure!(status == 200, "{}: Envoy's admin page answers {status} to {path}", self.name);
        Ok(text)
    }
}

/// Services of which there is a cluster on the way out of `caller`, out of the text of `/clusters`.
fn clusters(caller: &str, text: &str) -> BTreeSet<String> {
    let prefix = format!("out/{NAMESPACE}/{caller}/{caller}-0/{NAMESPACE}/");
    let names = text.lines().filter_map(|line| line.split_once("::")?.0.strip_prefix(&prefix)?.split_once('/'));
    names.map(|(service, _)| service.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::clusters;

    #[test]
    fn clusters_on_the_way_out_are_told_from_others() {
        let text = "weir::observability_name::weir\nin/demo/lazy/lazy-0/8080::added_via_api::true\n\
                    out/demo/lazy/lazy-0/demo/s7/80::added_via_api::true\nout/demo/lazy/lazy-0/demo/s7/80::127.1.0.8:9000::cx_active::1\n";
        assert_eq!(clusters("lazy", text).into_iter().collect::<Vec<_>>(), ["s7"]);
        assert!(clusters("eager", text).is_empty());
    }
}

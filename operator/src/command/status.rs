//! `weir status`: what a running Weir has in force, and why.

mod watch;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use crds::conditions::ConditionType;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use super::say;
use crate::{args::StatusArgs, status::Status};

/// How long a Weir may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    if args.watch {
        return watch::run(args).await;
    }
    for line in shown(args).await? {
        say!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be shown now.
async fn shown(args: &StatusArgs) -> anyhow::Result<Vec<String>> {
    let body = ask(args.admin_address).await?;
    if args.json {
        return Ok(vec![String::from_utf8_lossy(&body).into_owned()]);
    }
    Ok(lines(&serde_json::from_slice(&body).context("the answer is not a status")?))
}

async fn ask(address: SocketAddr) -> anyhow::Result<bytes::Bytes> {
    let uri: http::Uri = format!("http://{address}/status").parse()?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
    let ask = async {
        let answer = client.get(uri).await;
        let answer = answer.with_context(|| format!("no Weir answers on {address} (--admin-address)"))?;
        if !answer.status().is_success() {
            bail!("{address} answered {}", answer.status());
        }
        Ok(answer.into_body().collect().await?.to_bytes())
    };
    tokio::time::timeout(PATIENCE, ask).await.context("no answer within 10 s")?
}

fn lines(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    for policy in &status.policies {
        let proxies = policy.status.proxies.as_ref();
        let (programmed, total) = proxies.map_or((0, 0), |proxies| (proxies.programmed, proxies.total));
        lines.push(format!("{}  generation {}, {programmed} of {total} proxies", policy.key, policy.generation));
        for rule in &policy.status.rules {
            let limit = rule.limit.as_deref().unwrap_or("no limit");
            let shares = rule.shares.as_ref().map(|shares| format!(" ({shares})")).unwrap_or_default();
            lines.push(format!("  {:<20} {:<10} {limit}{shares}", rule.name, format!("{:?}", rule.phase)));
            lines.extend(rule.message.iter().map(|message| format!("  {:<20} {message}", "")));
        }
        for condition in &policy.status.conditions {
            // A true condition needs no words, and not to limit is normal.
            if condition.status == "False" && condition.type_ != ConditionType::Limiting.as_str() {
                lines.push(format!("  {}: {}: {}", condition.type_, condition.reason, condition.message));
            }
        }
    }
    if status.policies.is_empty() {
        lines.push("no policies".to_owned());
    }
    for (origin, problems) in &status.problems {
        lines.extend(problems.iter().map(|problem| format!("{origin}: {problem}")));
    }
    lines
}

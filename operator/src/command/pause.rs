//! `weir pause` and `weir resume`: the kill switch, and waiting until every proxy obeys.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use http::Method;
use tokio::time::{Instant, sleep, timeout_at};

use super::{admin, say};
use crate::{
    args::PauseArgs,
    intent::{Pauses, ServiceKey},
    status::pauses::Progress,
};

/// Between two looks at how far it has come.
const LOOK: Duration = Duration::from_millis(50);
/// Proxies named when not all obey.
const MOST_NAMED: usize = 20;

pub(super) async fn run(args: &PauseArgs, path: &str) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + args.timeout;
    let mut progress = ask(args, Method::POST, path, deadline).await?;
    let what = match &args.service {
        None => "everything".to_owned(),
        Some(service) => format!("Service {service}"),
    };
    let done = if path == "/pause" { "paused" } else { "resumed" };
    let mut obey = progress.proxies - progress.waiting.len();
    say!("{what} is {done}; {obey} of {} proxies obey", progress.proxies);
    while !progress.waiting.is_empty() && Instant::now() < deadline {
        sleep(LOOK).await;
        // Only looks: if somebody has moved the switch back meanwhile, that stands.
        progress = ask(args, Method::GET, "/pause", deadline).await?;
        let now = progress.proxies - progress.waiting.len();
        if now != obey {
            obey = now;
            say!("{obey} of {} proxies obey", progress.proxies);
        }
        if !stands(&progress.paused, path, args.service.as_ref()) {
            say!(
                "somebody has moved the switch meanwhile: {what} is no longer {done}; `weir status` says what is paused"
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    if progress.waiting.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for (node, waiting) in progress.waiting.iter().take(MOST_NAMED) {
        say!("{node} {waiting}");
    }
    if progress.waiting.len() > MOST_NAMED {
        say!("and {} more", progress.waiting.len() - MOST_NAMED);
    }
    say!("{} proxies are not known to obey after {:?}; it stays {done} for them", progress.waiting.len(), args.timeout);
    Ok(ExitCode::FAILURE)
}

/// Whether what was asked for by `path` is so.
fn stands(paused: &Pauses, path: &str, service: Option<&ServiceKey>) -> bool {
    match (path, service) {
        ("/pause", None) => paused.all,
        ("/pause", Some(service)) => paused.covers(service),
        (_, None) => paused.is_empty(),
        (_, Some(service)) => !paused.covers(service),
    }
}

async fn ask(args: &PauseArgs, method: Method, path: &str, deadline: Instant) -> anyhow::Result<Progress> {
    let mut path = path.to_owned();
    if let Some(service) = &args.service {
        path.push_str(&format!("?service={service}"));
    }
    let answer = admin::ask(&args.admin, method, &path);
    let answer = timeout_at(deadline.max(Instant::now() + LOOK), answer).await;
    let (status, body) = answer.with_context(|| format!("no answer within {:?} (--timeout)", args.timeout))??;
    if !status.is_success() {
        bail!("{}", String::from_utf8_lossy(&body).trim());
    }
    serde_json::from_slice(&body).context("the answer does not say how far it has come")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_no_longer_stands_once_somebody_moves_the_switch() {
        let key = |name: &str| ServiceKey { namespace: "a".to_owned(), name: name.to_owned() };
        let (cart, all) = (key("cart"), Pauses { all: true, ..Pauses::default() });
        let only = |name| Pauses { services: [key(name)].into(), ..Pauses::default() };
        let resumed = Pauses::default();
        let one = Some(&cart);
        for (paused, path, service, expected) in [
            (&all, "/pause", None, true),
            (&only("cart"), "/pause", None, false),
            (&resumed, "/pause", None, false),
            (&all, "/pause", one, true),
            (&only("cart"), "/pause", one, true),
            (&only("blog"), "/pause", one, false),
            (&resumed, "/resume", None, true),
            (&only("blog"), "/resume", None, false),
            (&only("blog"), "/resume", one, true),
            (&only("cart"), "/resume", one, false),
            (&all, "/resume", one, false),
        ] {
            assert_eq!(stands(paused, path, service), expected, "{paused:?} {path} {service:?}");
        }
    }
}

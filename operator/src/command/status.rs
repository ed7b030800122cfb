//! `weir status`: what a running Weir has in force, and why.

mod watch;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use crds::{Condition, conditions::ConditionType};

use super::{admin, say};
use crate::{
    args::{AdminArgs, StatusArgs},
    status::{LazyReport, ReplicaReport, SplitReport, Status},
};

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
    let body = ask(&args.admin).await?;
    if args.json {
        return Ok(vec![String::from_utf8_lossy(&body).into_owned()]);
    }
    Ok(lines(&serde_json::from_slice(&body).context("the answer is not a status")?))
}

pub(super) async fn ask(args: &AdminArgs) -> anyhow::Result<bytes::Bytes> {
    let answer = tokio::time::timeout(PATIENCE, admin::ask(args, http::Method::GET, "/status")).await;
    let (status, body) = answer.context("no answer within 10 s")??;
    if !status.is_success() {
        bail!("{} answered {status}: {}", args.admin_address, String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}

fn lines(status: &Status) -> Vec<String> {
    let mut lines: Vec<_> = status.replica.iter().map(replica).collect();
    if status.paused.all {
        lines.push("PAUSED by an operator: nothing is enforced anywhere until `weir resume`".to_owned());
    } else if !status.paused.is_empty() {
        let services: Vec<_> = status.paused.services.iter().map(ToString::to_string).collect();
        lines
            .push(format!("PAUSED by an operator: nothing is enforced at {} until `weir resume`", services.join(", ")));
    }
    for policy in &status.policies {
        let proxies = policy.status.proxies.as_ref();
        let (programmed, total) = proxies.map_or((0, 0), |proxies| (proxies.programmed, proxies.total));
        lines.push(format!("{}  generation {}, {programmed} of {total} proxies", policy.key, policy.generation));
        for rule in &policy.status.rules {
            let limit = rule.limit.as_deref().unwrap_or("no limit");
            let shares = rule.shares.as_ref().map(|shares| format!(" ({shares})")).unwrap_or_default();
            let in_flight = rule.in_flight.map(|most| format!(", at most {most} in flight")).unwrap_or_default();
            lines.push(format!("  {:<20} {:<10} {limit}{shares}{in_flight}", rule.name, format!("{:?}", rule.phase)));
            lines.extend(rule.message.iter().map(|message| format!("  {:<20} {message}", "")));
        }
        lines.extend(troubles(&policy.status.conditions));
    }
    lines.extend(status.lazies.iter().flat_map(lazy));
    lines.extend(status.splits.iter().flat_map(split));
    if status.policies.is_empty() && status.lazies.is_empty() && status.splits.is_empty() {
        lines.push("no policies".to_owned());
    }
    for (origin, problems) in &status.problems {
        lines.extend(problems.iter().map(|problem| format!("{origin}: {problem}")));
    }
    lines
}

/// What a person should hear of conditions: a true one needs no words, and not to limit is normal.
fn troubles(conditions: &[Condition]) -> impl Iterator<Item = String> {
    let is_worth = |condition: &&Condition| {
        let is_normal =
            [ConditionType::Limiting, ConditionType::Degraded].iter().any(|it| it.as_str() == condition.type_);
        condition.status == "False" && !is_normal
    };
    let said = |condition: &Condition| format!("  {}: {}: {}", condition.type_, condition.reason, condition.message);
    conditions.iter().filter(is_worth).map(said)
}

fn lazy(LazyReport { key, generation, status, .. }: &LazyReport) -> Vec<String> {
    let proxies = status.proxies.unwrap_or_default();
    let services = status.services.unwrap_or_default();
    let pods = status.workloads.unwrap_or_default();
    let first = format!(
        "{key}  generation {generation}, {pods} pods, {} of {} proxies, {} of {} services loaded, {} MB less",
        proxies.programmed,
        proxies.total,
        services.loaded,
        services.known,
        services.saved_bytes / 1_000_000
    );
    [first].into_iter().chain(troubles(&status.conditions)).collect()
}

fn split(SplitReport { key, generation, status, .. }: &SplitReport) -> Vec<String> {
    let proxies = status.proxies.unwrap_or_default();
    let mut lines =
        vec![format!("{key}  generation {generation}, {} of {} proxies", proxies.programmed, proxies.total)];
    if let Some(by) = status.declared_by.as_ref().filter(|by| *by != key) {
        lines.push(format!("  weights are declared by {by}"));
    }
    if let (Some(why), Some(message)) = (&status.why, &status.message) {
        lines.push(format!("  {why}: {message}"));
    }
    for arm in &status.arms {
        let target = arm.target_percent.map(|target| format!(" -> {target}%")).unwrap_or_default();
        let mut line = format!("  {:<20} {}%{target} (declared {}%)", arm.service, arm.percent, arm.declared_percent);
        if let (Some(requests), Some(ratio)) = (arm.requests, arm.error_ratio) {
            let latency = arm.latency_ms.map(|latency| format!(", {latency} ms")).unwrap_or_default();
            line.push_str(&format!(", {requests} requests seen, {:.1}% failed{latency}", ratio * 100.0));
        }
        lines.push(line);
        lines.extend(arm.message.iter().map(|message| format!("  {:<20} {message}", "")));
    }
    let degraded =
        status.conditions.iter().filter(|it| it.type_ == ConditionType::Degraded.as_str() && it.status == "True");
    lines.extend(degraded.map(|it| format!("  {}: {}: {}", it.type_, it.reason, it.message)));
    lines.extend(troubles(&status.conditions));
    lines
}

/// Which of several replicas was asked.
fn replica(ReplicaReport { leads, leader, epoch }: &ReplicaReport) -> String {
    match (leads, leader) {
        (true, _) => format!("this replica leads, epoch {epoch}"),
        (false, Some(leader)) => format!("this replica follows {leader}, epoch {epoch}"),
        (false, None) => format!("this replica follows, nobody leads now, epoch {epoch}"),
    }
}

#[cfg(test)]
mod tests {
    use crds::status::{RulePhase, RuleStatus};

    use super::*;
    use crate::status::PolicyReport;

    #[test]
    fn one_of_several_replicas_says_what_it_is() {
        let first = |replica| lines(&Status { replica, ..Status::default() }).remove(0);
        assert_eq!(first(None), "no policies");
        for (leads, leader, line) in [
            (true, None, "this replica leads, epoch 7"),
            (false, Some("weir-1"), "this replica follows weir-1, epoch 7"),
            (false, None, "this replica follows, nobody leads now, epoch 7"),
        ] {
            let leader = leader.map(str::to_owned);
            assert_eq!(first(Some(ReplicaReport { leads, leader, epoch: 7 })), line);
        }
    }

    #[test]
    fn a_lazy_config_says_for_whom_it_is_and_what_is_wrong() {
        let report = LazyReport {
            key: "lazyconfigs.weir.dev/shop/cart".to_owned(),
            origin: "a.yaml:1".to_owned(),
            generation: 3,
            status: serde_json::from_value(serde_json::json!({
                "workloads": 5, "proxies": {"total": 4, "programmed": 3}, 
                "services": {"loaded": 7, "known": 3412, "savedBytes": 476_700_000},
                "conditions": [
                    {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                    {"type": "Programmed", "status": "False", "reason": "Pending", "message": "not yet", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                ],
            }))
            .expect("a status"),
        };
        let lines = lines(&Status { lazies: vec![report], ..Status::default() });
        let first = "lazyconfigs.weir.dev/shop/cart  generation 3, 5 pods, 3 of 4 proxies, 7 of 3412 services loaded, \
                     476 MB less";
        assert_eq!(lines, [first, "  Programmed: Pending: not yet"]);
    }

    #[test]
    fn a_pause_stands_first_and_a_bound_beside_its_limit() {
        let rule = RuleStatus {
            name: "calm".to_owned(),
            target: "cart".to_owned(),
            phase: RulePhase::Limiting,
            limit: Some("60 requests per second across all pods".to_owned()),
            per_second: Some(60.0),
            shares: Some("30 x2".to_owned()),
            in_flight: Some(24),
            classes: Vec::new(),
            excess: None,
            observed: Vec::new(),
            since: None,
            message: None,
        };
        let policy = PolicyReport {
            key: "smartlimiters.weir.dev/shop/cart".to_owned(),
            origin: "a.yaml:1".to_owned(),
            generation: 1,
            status: crds::status::SmartLimiterStatus { rules: vec![rule], ..Default::default() },
        };
        let mut status = Status { policies: vec![policy], ..Status::default() };
        let rule =
            "  calm                 Limiting   60 requests per second across all pods (30 x2), at most 24 in flight";
        assert_eq!(lines(&status)[1], rule);
        status.paused.services.insert("shop/cart".parse().expect("a service"));
        let first = lines(&status).remove(0);
        assert_eq!(first, "PAUSED by an operator: nothing is enforced at shop/cart until `weir resume`");
        status.paused.all = true;
        assert_eq!(lines(&status)[0], "PAUSED by an operator: nothing is enforced anywhere until `weir resume`");
    }
}

//! `weir deps`: who calls whom, as the proxies that start with less than everything have asked.

use std::process::ExitCode;

use anyhow::Context;

use super::{say, status};
use crate::{
    args::{DepsArgs, DepsOutput},
    status::{CallReport, Status},
};

pub(super) async fn run(args: &DepsArgs) -> anyhow::Result<ExitCode> {
    let body = status::ask(&args.admin).await?;
    let status: Status = serde_json::from_slice(&body).context("the answer is not a status")?;
    for line in lines(&status.calls, args.output)? {
        say!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(calls: &[CallReport], output: DepsOutput) -> anyhow::Result<Vec<String>> {
    match output {
        DepsOutput::Json => Ok(vec![serde_json::to_string_pretty(calls)?]),
        DepsOutput::Dot => {
            // Names are those of Kubernetes and DNS, but for hosts that are nothing.
            let quoted = |text: &str| format!("\"{}\"", text.replace(['"', '\\'], "?"));
            let edge = |call: &CallReport| {
                let style = if call.known { "" } else { " [style=dashed]" };
                format!("  {} -> {}{style};", quoted(&call.from), quoted(&call.to))
            };
            let edges = calls.iter().map(edge);
            Ok(["digraph calls {".to_owned()].into_iter().chain(edges).chain(["}".to_owned()]).collect())
        }
        DepsOutput::Table if calls.is_empty() => {
            Ok(vec!["no calls are known: no proxy that a LazyConfig is for has asked for anything yet".to_owned()])
        }
        DepsOutput::Table => {
            let width = |of: fn(&CallReport) -> &str, least: usize| {
                calls.iter().map(|call| of(call).chars().count()).max().unwrap_or_default().max(least)
            };
            let (from, to) = (width(|call| &call.from, 4), width(|call| &call.to, 2));
            let head = format!("{:<from$}  {:<to$}  {:<8}  {:>4}  {:<20}  SINCE", "FROM", "TO", "WHY", "PODS", "LAST");
            let row = |call: &CallReport| {
                let why = if call.known { format!("{:?}", call.why) } else { "unknown".to_owned() };
                let at = |time: jiff::Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let (last, since) = (at(call.last_used), at(call.since));
                format!("{:<from$}  {:<to$}  {why:<8}  {:>4}  {last:<20}  {since}", call.from, call.to, call.pods)
            };
            Ok([head].into_iter().chain(calls.iter().map(row)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::asked::Why;

    #[test]
    fn a_graph_is_printed_for_people_programs_and_graphviz() {
        let call = |to: &str, known| CallReport {
            from: "shop/page".to_owned(),
            to: to.to_owned(),
            known,
            why: Why::OnDemand,
            pods: 2,
            since: jiff::Timestamp::UNIX_EPOCH,
            last_used: jiff::Timestamp::UNIX_EPOCH,
        };
        let calls = [call("shop/cart/80", true), call("no\"where", false)];
        let table = lines(&calls, DepsOutput::Table).expect("it prints");
        assert_eq!(
            table,
            [
                "FROM       TO            WHY       PODS  LAST                  SINCE",
                "shop/page  shop/cart/80  OnDemand     2  1970-01-01T00:00:00Z  1970-01-01T00:00:00Z",
                "shop/page  no\"where      unknown      2  1970-01-01T00:00:00Z  1970-01-01T00:00:00Z",
            ]
        );
        let dot = lines(&calls, DepsOutput::Dot).expect("it prints").join("\n");
        assert!(
            dot.contains("\"shop/page\" -> \"shop/cart/80\";") && dot.contains("\"no?where\" [style=dashed];"),
            "{dot}"
        );
        let json = lines(&calls, DepsOutput::Json).expect("it prints").join("\n");
        assert_eq!(serde_json::from_str::<Vec<CallReport>>(&json).expect("JSON"), calls);
    }
}

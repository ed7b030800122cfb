//! The page at the end: what happened over time.

use super::{
    load::{Report, Summary},
    scenario::{LIMIT_PER_SECOND, Timeline},
    summary,
    svg::{Axis, BLUE, GREEN, GREY, Line, ORANGE, RED, document, plot, table},
    verdict::{P99_GOAL, Verdict},
};

/// What was seen beside the load, by seconds since its start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Mean CPU use of the replicas, as a fraction of their limit.
    pub cpu: Vec<(f64, f64)>,
    /// The limit that Weir said was in force, in requests per second over all pods; `None`: no limit.
    pub limit: Vec<(f64, Option<f64>)>,
}

/// Everything that the page shows.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The load.
    pub timeline: &'a Timeline,
    /// What the load generator counted.
    pub report: &'a Report,
    /// What else was seen.
    pub history: &'a History,
    /// How it was judged.
    pub verdict: &'a Verdict,
    /// Whether the policy was there.
    pub with_limit: bool,
}

/// The whole page.
#[must_use]
pub fn page(run: Run<'_>) -> String {
    let per_second: Vec<Summary> = (0..run.report.seconds()).map(|at| run.report.sum(at..at + 1)).collect();
    let line = |name, colour, dashed, value: &dyn Fn(&Summary) -> Option<f64>| Line {
        name,
        colour,
        dashed,
        points: per_second.iter().enumerate().map(|(at, sum)| (at as f64 + 0.5, value(sum))).collect(),
    };
    let limit = Line { name: "limit in force", colour: RED, dashed: true, points: capped(&run.history.limit) };
    let cpu = run.history.cpu.iter().map(|(at, value)| (*at, Some(value * 100.0))).collect();
    let goal = P99_GOAL.as_secs_f64() * 1000.0;
    let whole = run.timeline.seconds() as f64;
    let level = |name, value: f64| Line {
        name,
        colour: RED,
        dashed: true,
        points: vec![(0.0, Some(value)), (whole, Some(value))],
    };
    let surge = run.timeline.before..run.timeline.before + run.timeline.surge;
    let axis = Axis { seconds: run.timeline.seconds(), shaded: vec![surge], marks: Vec::new() };
    let rates = plot(
        &axis,
        "Requests per second, three replicas together",
        "requests/s",
        &[
            line("offered", GREY, false, &|sum| Some(sum.offered as f64)),
            line("answered", BLUE, false, &|sum| Some(sum.ok as f64)),
            line("refused (429)", ORANGE, false, &|sum| Some(sum.limited as f64)),
            line("failed", "#111827", true, &|sum| Some(sum.failed as f64)),
            limit,
        ],
    );
    let cpu = plot(
        &axis,
        "CPU use, mean of the replicas",
        "% of the limit",
        &[Line { name: "cpu", colour: GREEN, dashed: false, points: cpu }, level("the rule begins above 80 %", 80.0)],
    );
    let latency = plot(
        &axis,
        "Latency of answered requests, 99th percentile",
        "ms",
        &[line("p99", BLUE, false, &|sum| sum.p99.map(|p99| p99.as_secs_f64() * 1000.0)), level("goal", goal)],
    );
    let policy = if run.with_limit {
        format!("limit of {LIMIT_PER_SECOND} requests per second across all pods, while CPU is high")
    } else {
        "no policy".to_owned()
    };
    let replicas = table(&summary::table(run.report, run.timeline));
    let body = format!(
        "<p>Three replicas of a service that can serve about 50 requests per second each, an Envoy in front of each, and an \
         open-loop\nload of {normal:.0} requests per second, of {surge:.0} in the surge (shaded). Policy: {policy}.</p>\n\
         {rates}\n{cpu}\n{latency}\n<h2>By replica</h2>\n{replicas}",
        normal = run.timeline.normal_per_second * run.report.targets.len() as f64,
        surge = run.timeline.surge_per_second * run.report.targets.len() as f64,
    );
    document(&body, run.verdict)
}

/// While a limit lets go it doubles each second: cut where it no longer matters, so that the plot stays legible.
fn capped(limit: &[(f64, Option<f64>)]) -> Vec<(f64, Option<f64>)> {
    limit.iter().map(|(at, value)| (*at, value.filter(|value| *value <= LIMIT_PER_SECOND * 4.0))).collect()
}

#[cfg(test)]
mod tests;

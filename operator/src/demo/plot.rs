//! The page at the end: what happened over time, as a self-contained HTML file with plots in SVG.

use std::fmt::Write as _;

use super::{
    load::{Report, Summary},
    scenario::{LIMIT_PER_SECOND, Timeline},
    summary,
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

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 40.0;

const GREY: &str = "#6b7280";
const BLUE: &str = "#1d4ed8";
const ORANGE: &str = "#c2570c";
const RED: &str = "#b91c1c";
const GREEN: &str = "#15803d";

/// One line of a plot. Points without a value leave a gap.
struct Line {
    name: &'static str,
    colour: &'static str,
    dashed: bool,
    points: Vec<(f64, Option<f64>)>,
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
    let rates = plot(
        run.timeline,
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
        run.timeline,
        "CPU use, mean of the replicas",
        "% of the limit",
        &[Line { name: "cpu", colour: GREEN, dashed: false, points: cpu }, level("the rule begins above 80 %", 80.0)],
    );
    let latency = plot(
        run.timeline,
        "Latency of answered requests, 99th percentile",
        "ms",
        &[line("p99", BLUE, false, &|sum| sum.p99.map(|p99| p99.as_secs_f64() * 1000.0)), level("goal", goal)],
    );
    let (class, word) = if run.verdict.passed() { ("passed", "passed") } else { ("failed", "failed") };
    let policy = if run.with_limit {
        format!("limit of {LIMIT_PER_SECOND} requests per second across all pods, while CPU is high")
    } else {
        "no policy".to_owned()
    };
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Weir demo: {word}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: #111827; background: #ffffff; max-width: 960px; margin: 2rem auto; padding: 0 1rem; }}
svg {{ width: 100%; height: auto; margin-top: 1rem; }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #d1d5db; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
.passed {{ color: {GREEN}; }} .failed {{ color: {RED}; }}
</style>
</head>
<body>
<h1>Weir demo: <span class="{class}">{word}</span></h1>
<p>Three replicas of a service that can serve about 50 requests per second each, an Envoy in front of each, and an open-loop
load of {normal:.0} requests per second, of {surge:.0} in the surge (shaded). Policy: {policy}.</p>
{rates}
{cpu}
{latency}
<h2>By replica</h2>
{table}
<h2>Checks</h2>
{checks}
</body>
</html>
"#,
        normal = run.timeline.normal_per_second * run.report.targets.len() as f64,
        surge = run.timeline.surge_per_second * run.report.targets.len() as f64,
        table = table(&summary::table(run.report, run.timeline)),
        checks = checks(run.verdict),
    )
}

/// While a limit lets go it doubles each second: cut where it no longer matters, so that the plot stays legible.
fn capped(limit: &[(f64, Option<f64>)]) -> Vec<(f64, Option<f64>)> {
    limit.iter().map(|(at, value)| (*at, value.filter(|value| *value <= LIMIT_PER_SECOND * 4.0))).collect()
}

fn table(rows: &[Vec<String>]) -> String {
    let mut html = String::from("<table>\n");
    for (position, row) in rows.iter().enumerate() {
        let tag = if position == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        let _ = writeln!(html, "<tr>{cells}</tr>");
    }
    html + "</table>"
}

fn checks(verdict: &Verdict) -> String {
    let mut html = String::from("<ul>\n");
    for check in &verdict.checks {
        let (class, mark) = if check.passed { ("passed", "✓") } else { ("failed", "✗") };
        let (replica, detail) = (escape(&check.replica), escape(&check.detail));
        let _ = writeln!(html, "<li><span class=\"{class}\">{mark}</span> {replica}, {detail}</li>");
    }
    html + "</ul>"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn plot(timeline: &Timeline, title: &str, unit: &str, lines: &[Line]) -> String {
    let seconds = timeline.seconds() as f64;
    let values = lines.iter().flat_map(|line| &line.points).filter_map(|(_, value)| *value);
    let highest = values.filter(|value| value.is_finite()).fold(1.0, f64::max);
    let step = nice_step(highest / 4.0);
    let top = (highest / step).ceil() * step;
    let x = |at: f64| LEFT + at.clamp(0.0, seconds) / seconds * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value.clamp(0.0, top) / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12\" fill=\"#111827\">\n<text x=\"{LEFT}\" y=\"14\" font-size=\"14\" font-weight=\"600\">{title}</text>\n"
    );
    let (begin, end) = (x(timeline.before as f64), x((timeline.before + timeline.surge) as f64));
    let _ = writeln!(
        svg,
        "<rect x=\"{begin:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#f3f4f6\"/>",
        end - begin,
        HEIGHT - TOP - BOTTOM
    );
    let mut tick = 0.0;
    while tick <= top + step / 2.0 {
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#d1d5db\" stroke-width=\"0.7\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(tick) + 4.0,
            at = y(tick)
        );
        tick += step;
    }
    let step = nice_step(seconds / 10.0).max(1.0);
    let mut tick = 0.0;
    while tick <= seconds {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>",
            x(tick),
            HEIGHT - BOTTOM + 15.0
        );
        tick += step;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">seconds since the start of the load</text>\
         <text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{unit}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0,
        (TOP + HEIGHT - BOTTOM) / 2.0
    );
    let mut legend = LEFT;
    for line in lines {
        let dash = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        let stroke = format!("stroke=\"{}\" stroke-width=\"1.8\" fill=\"none\"{dash}", line.colour);
        for run in line.points.split(|(_, value)| !value.is_some_and(f64::is_finite)) {
            let points: Vec<String> = run
                .iter()
                .filter_map(|(at, value)| value.map(|value| format!("{:.1},{:.1}", x(*at), y(value))))
                .collect();
            if !points.is_empty() {
                let _ = writeln!(svg, "<polyline points=\"{}\" {stroke}/>", points.join(" "));
            }
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{legend:.0}\" x2=\"{:.0}\" y1=\"25\" y2=\"25\" {stroke}/><text x=\"{:.0}\" y=\"29\">{}</text>",
            legend + 22.0,
            legend + 28.0,
            line.name
        );
        // No font metrics here: about seven units a letter.
        legend += 28.0 + line.name.len() as f64 * 7.0 + 18.0;
    }
    svg + "</svg>"
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= least * 0.999).unwrap_or(power)
}

#[cfg(test)]
mod tests;

//! The page at the end: offered, admitted, answered in time and the limit, against the capacity.

use super::{
    SLO,
    timeline::Timeline,
    verdict::{goodput, refused},
};
use crate::demo::{
    load::{Report, Summary},
    summary::latency,
    svg::{Axis, BLUE, GREEN, GREY, Line, ORANGE, RED, document, escape, plot, table},
    verdict::Verdict,
};

/// Header and one row for each replica.
pub(super) fn rows(report: &Report, timeline: &Timeline) -> Vec<Vec<String>> {
    let [calm, surge, halved, _] = &timeline.0;
    let header = [
        "replica",
        "offered",
        "in time",
        "refused",
        "goodput at 3x",
        "goodput halved",
        "p99 before",
        "p99 at 3x",
        "p99 halved",
        "p99 end",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(report.targets.iter().map(|target| {
        let total = target.total();
        let p99 = |window| latency(target.sum(window).p99);
        vec![
            target.name.clone(),
            total.offered.to_string(),
            total.good.to_string(),
            refused(&total).to_string(),
            format!("{:.2}", goodput(target, surge)),
            format!("{:.2}", goodput(target, halved)),
            p99(calm.settled()),
            p99(surge.settled()),
            p99(halved.settled()),
            p99(timeline.recovered()),
        ]
    }));
    rows
}

/// The whole page. `limits` is what Weir said was in force over all pods, by seconds since the start.
pub(super) fn page(
    timeline: &Timeline,
    report: &Report,
    limits: &[(f64, Option<f64>)],
    verdict: &Verdict,
    policy: &str,
) -> String {
    let replicas = report.targets.len() as f64;
    let per_second: Vec<Summary> = (0..report.seconds()).map(|at| report.sum(at..at + 1)).collect();
    let line = |name, colour, value: &dyn Fn(&Summary) -> Option<f64>| Line {
        name,
        colour,
        dashed: false,
        points: per_second.iter().enumerate().map(|(at, sum)| (at as f64 + 0.5, value(sum))).collect(),
    };
    let acts = timeline.0.iter();
    let capacity = acts.flat_map(|act| [act.begin, act.end].map(|at| (at as f64, Some(act.capacity() * replicas))));
    let highest = timeline.0.iter().map(|act| act.offered).fold(0.0, f64::max) * replicas;
    // A limit far above the load says nothing and would flatten the rest.
    let limits = limits.iter().map(|(at, limit)| (*at, limit.filter(|limit| *limit <= highest * 1.2))).collect();
    let axis = Axis {
        seconds: timeline.seconds(),
        shaded: timeline.0.iter().filter(|act| act.offered > act.capacity()).map(|act| act.begin..act.end).collect(),
        marks: Vec::new(),
    };
    let rates = plot(
        &axis,
        "Requests per second, all replicas together",
        "requests/s",
        &[
            line("offered", GREY, &|sum| Some(sum.offered as f64)),
            line("admitted", ORANGE, &|sum| Some(sum.admitted().saturating_sub(sum.unavailable) as f64)),
            line("in time", BLUE, &|sum| Some(sum.good as f64)),
            Line { name: "capacity", colour: GREEN, dashed: false, points: capacity.collect() },
            Line { name: "limit in force", colour: RED, dashed: true, points: limits },
        ],
    );
    let whole = timeline.seconds() as f64;
    let slo = SLO.as_secs_f64() * 1e3;
    let goal =
        Line { name: "of use until", colour: RED, dashed: true, points: vec![(0.0, Some(slo)), (whole, Some(slo))] };
    let p99 = line("p99", BLUE, &|sum| sum.p99.map(|p99| p99.as_secs_f64() * 1e3));
    let latencies = plot(&axis, "Latency of answered requests, 99th percentile", "ms", &[p99, goal]);
    let body = format!(
        "<p>{} replicas that can each serve {:.0} requests per second, an Envoy in front of each, and an open-loop load of up to \
         three times that. In the middle of the surge (shaded) half of the workers stop.</p>\n<pre>{}</pre>\n{rates}\n{latencies}\n\
         <h2>By replica</h2>\n{}",
        report.targets.len(),
        timeline.0[0].capacity(),
        escape(policy),
        table(&rows(report, timeline)),
    );
    document(&body, verdict)
}

#[cfg(test)]
mod tests {
    use super::page;
    use crate::demo::{
        adapt::{timeline::Timeline, verdict::judge},
        load::{Report, Second, TargetReport},
    };

    #[test]
    fn the_page_is_whole_and_needs_nothing_from_outside() {
        let timeline = Timeline::new(60);
        let seconds = vec![Second { offered: 140, ok: 140, good: 140, ..Second::default() }; 60];
        let report = Report { targets: vec![TargetReport { name: "kitchen-<0>".into(), seconds }] };
        let limits = [(1.0, None), (11.0, Some(f64::NAN)), (12.0, Some(300.0)), (40.0, Some(1e12))];
        let page = page(&timeline, &report, &limits, &judge(&report, &timeline), "adapt: keep <it>");
        for part in
            ["<title>Weir demo: failed</title>", "capacity", "limit in force", "kitchen-&lt;0&gt;", "keep &lt;it&gt;"]
        {
            assert!(page.contains(part), "{part}");
        }
        for outside in ["http:", "https:", "src=", "url(", "@import", "<script", "NaN", "kitchen-<0>"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<svg ").count(), 2);
    }
}

//! The table at the end, and the page with it: clusters over time.

use super::{
    findings::{Findings, Side, megabytes, millis, seconds},
    mesh::lazy_config,
};
use crate::demo::{
    svg::{Axis, BLUE, GREY, Line, document, escape, plot, table},
    verdict::Verdict,
};

/// Header and one row for each proxy.
pub(super) fn rows(findings: &Findings) -> Vec<Vec<String>> {
    let header = [
        "proxy",
        "ready after",
        "clusters at start",
        "allocated",
        "clusters after calls",
        "allocated",
        "first call p50",
        "worst",
        "later p50",
        "worst",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(findings.sides.iter().map(|side| {
        let Side { name, ready, at_start, after_calls, first, later, .. } = side;
        vec![
            (*name).to_owned(),
            seconds(*ready),
            at_start.clusters.len().to_string(),
            megabytes(at_start.allocated),
            after_calls.clusters.len().to_string(),
            megabytes(after_calls.allocated),
            millis(first.median()),
            millis(first.worst()),
            millis(later.median()),
            millis(later.worst()),
        ]
    }));
    rows
}

/// The whole page.
pub(super) fn page(findings: &Findings, verdict: &Verdict) -> String {
    let points: Vec<(f64, Option<f64>)> =
        findings.history.iter().map(|(at, clusters)| (*at, Some(*clusters as f64))).collect();
    let whole = points.last().map_or(1.0, |(at, _)| at.ceil().max(1.0));
    let called = findings.called.len() as f64;
    let axis = Axis { seconds: whole as usize, shaded: Vec::new(), marks: Vec::new() };
    let clusters = plot(
        &axis,
        "Services that the lazy proxy has clusters of",
        "services",
        &[
            Line { name: "clusters", colour: BLUE, dashed: false, points },
            Line {
                name: "services called",
                colour: GREY,
                dashed: true,
                points: vec![(0.0, Some(called)), (whole, Some(called))],
            },
        ],
    );
    let body = format!(
        "<p>Two callers in a mesh of {} services call {} of them. The proxy of one has everything; that of the other starts with nothing, \
         gets what is called, and forgets what is not.</p>\n<pre>{}</pre>\n{clusters}\n<h2>By proxy</h2>\n{}",
        findings.services,
        findings.called.len(),
        escape(&lazy_config()),
        table(&rows(findings)),
    );
    document(&body, verdict)
}

#[cfg(test)]
mod tests {
    use super::page;
    use crate::demo::lazy::{findings::Findings, verdict::judge};

    #[test]
    fn the_page_is_whole_and_needs_nothing_from_outside() {
        let mut findings = Findings { services: 1000, ..Findings::default() };
        findings.history = vec![(0.0, 0), (0.5, 20), (13.2, 1)];
        findings.unknown.body = "<b>".to_owned();
        let page = page(&findings, &judge(&findings));
        for part in
            ["<title>Weir demo: failed</title>", "a mesh of 1000 services", "forgetAfter: 10s", "services called"]
        {
            assert!(page.contains(part), "{part}");
        }
        for outside in ["http:", "https:", "src=", "url(", "@import", "<script", "NaN", "<b>"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<svg ").count(), 1);
    }
}

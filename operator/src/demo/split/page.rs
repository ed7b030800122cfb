//! The table at the end, and the page with it: shares and failed requests over time.

use std::fmt::Write as _;

use super::{
    ARMS, Each, TURNS,
    findings::{Findings, Timeline},
};
use crate::demo::{
    svg::{Axis, BLUE, GREEN, Line, Mark, RED, document, escape, plot, table},
    verdict::Verdict,
};

const COLOURS: Each<&str> = [BLUE, GREEN, RED];
const IN_FORCE: Each<&str> = ["v1 in force", "v2 in force", "v3 in force"];
const RECEIVED: Each<&str> = ["v1 received", "v2 received", "v3 received"];

/// Header and one row for each version.
pub(super) fn rows(findings: &Findings) -> Vec<Vec<String>> {
    let Timeline { seconds, turn } = findings.timeline;
    let header =
        ["version", "at first", "at the turn", "in the end", "received before", "in the end", "requests", "failed"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let percent = |shares: Option<Each<f64>>, arm: usize| {
        shares.map_or_else(|| "–".to_owned(), |shares| format!("{:.1} %", shares[arm]))
    };
    let at = |second: usize| {
        let before = findings.shares.iter().take_while(|(at, _)| *at <= second as f64).last();
        before.or(findings.shares.first()).map(|(_, shares)| *shares)
    };
    rows.extend(ARMS.iter().enumerate().map(|(arm, name)| {
        let all = findings.received_in(arm, 0..usize::MAX);
        vec![
            (*name).to_owned(),
            percent(at(0), arm),
            percent(at(turn), arm),
            percent(at(seconds), arm),
            percent(findings.realised(findings.timeline.calm()), arm),
            percent(findings.realised(findings.timeline.last()), arm),
            all.requests.to_string(),
            all.failed.to_string(),
        ]
    }));
    rows
}

/// The whole page.
pub(super) fn page(findings: &Findings, verdict: &Verdict, policy: &str) -> String {
    let Timeline { seconds, turn } = findings.timeline;
    let mark = Mark { at: turn as f64, words: "v3 turns bad" };
    let axis = Axis { seconds, shaded: Vec::new(), marks: vec![mark] };
    let received = |arm: usize| Line {
        name: RECEIVED[arm],
        colour: COLOURS[arm],
        dashed: false,
        points: (0..seconds)
            .map(|at| (at as f64 + 0.5, findings.realised(at..at + 1).map(|parts| parts[arm])))
            .collect(),
    };
    let in_force = |arm: usize| Line {
        name: IN_FORCE[arm],
        colour: COLOURS[arm],
        dashed: true,
        points: findings.shares.iter().map(|(at, shares)| (*at, Some(shares[arm]))).collect(),
    };
    let lines: Vec<Line> = (0..ARMS.len()).map(in_force).chain((0..ARMS.len()).map(received)).collect();
    let shares = plot(&axis, "Shares of the versions", "% of the requests", &lines);
    let failed = (0..seconds).map(|at| {
        let seen = findings.seen(at..at + 1);
        let ratio = (seen.offered > 0).then(|| 100.0 * (seen.failed + seen.limited) as f64 / seen.offered as f64);
        (at as f64 + 0.5, ratio)
    });
    let failed = Line { name: "failed", colour: RED, dashed: false, points: failed.collect() };
    let failures = plot(&axis, "Requests of the client that failed", "%", &[failed]);
    let body = format!(
        "<p>A client sends 200 requests a second for <code>reviews</code> to its proxy, which shares them out among three versions. v2 answers sooner \
         than the others. {} begins to fail every second request after {turn} s, at once and without the time that its answers take. Nobody edits \
         anything.</p>\n<pre>{}</pre>\n{shares}\n{failures}\n<h2>By version</h2>\n{}{}",
        ARMS[TURNS],
        escape(policy),
        table(&rows(findings)),
        told(findings),
    );
    document(&body, verdict)
}

/// What Weir said, and when.
fn told(findings: &Findings) -> String {
    if findings.told.is_empty() {
        return String::new();
    }
    let mut html = String::from("\n<h2>What Weir said</h2>\n<ul>\n");
    for (at, words) in &findings.told {
        let _ = writeln!(html, "<li>{at:.1} s: {}</li>", escape(words));
    }
    html + "</ul>"
}

#[cfg(test)]
mod tests {
    use super::page;
    use crate::demo::split::{findings::tests::fine, verdict::judge};

    #[test]
    fn the_page_is_whole_and_needs_nothing_from_outside() {
        let mut findings = fine();
        findings.told.push((22.4, "v3 fails <more>".into()));
        let text = page(&findings, &judge(&findings), "steer: prefer <lower errors>");
        for part in [
            "<title>Weir demo: passed</title>",
            "v3 turns bad",
            "v2 in force",
            "22.4 s: v3 fails &lt;more&gt;",
            "prefer &lt;lower errors&gt;",
            "<td>48.5 %</td>",
        ] {
            assert!(text.contains(part), "{part}");
        }
        findings.client.seconds.clear();
        findings.received.iter_mut().for_each(Vec::clear);
        findings.shares.clear();
        let empty = page(&findings, &judge(&findings), "");
        assert!(empty.contains("<title>Weir demo: failed</title>"));
        for page in [text, empty] {
            for outside in ["http:", "https:", "src=", "url(", "@import", "<script", "NaN"] {
                assert!(!page.contains(outside), "{outside}");
            }
            assert_eq!(page.matches("<svg ").count(), 2);
        }
    }
}

use std::time::Duration;

use super::{History, Run, page};
use crate::demo::{
    load::{Report, Second, TargetReport},
    scenario::Timeline,
    verdict::judge,
};

fn example() -> String {
    let timeline = Timeline::new(60);
    let seconds = (0..60)
        .map(|at| {
            let mut second = Second { offered: 15, ok: 15, ..Second::default() };
            if at != 30 {
                second.latency_us.record(Duration::from_millis(20 + at).as_micros() as u64).unwrap();
            } else {
                second.ok = 0;
            }
            second
        })
        .collect();
    let report = Report { targets: vec![TargetReport { name: "burner-<0>".into(), seconds }] };
    let history = History {
        cpu: vec![(0.5, 0.3), (1.0, f64::NAN), (1.5, 0.4)],
        limit: vec![(11.0, None), (12.0, Some(105.0)), (13.0, Some(105.0)), (40.0, Some(1e12)), (41.0, None)],
    };
    let verdict = judge(&report, &timeline);
    page(Run { timeline: &timeline, report: &report, history: &history, verdict: &verdict, with_limit: true })
}

#[test]
fn the_page_is_whole_and_needs_nothing_from_outside() {
    let page = example();
    for part in
        ["<title>Weir demo: failed</title>", "requests/s", "% of the limit", ">ms<", "seconds since", "refused (429)"]
    {
        assert!(page.contains(part), "{part}");
    }
    for outside in ["http:", "https:", "src=", "url(", "@import", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<svg ").count(), 3);
    assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
}

#[test]
fn names_are_escaped_and_no_number_is_broken() {
    let page = example();
    assert!(page.contains("burner-&lt;0&gt;") && !page.contains("burner-<0>"));
    assert!(!page.contains("NaN") && !page.contains("inf\"") && !page.contains("inf,"));
}

#[test]
fn a_missing_value_leaves_a_gap() {
    let page = example();
    let latency = page.split("<svg ").nth(3).unwrap();
    assert_eq!(latency.matches("<polyline").count(), 3, "p99 in two parts, and the goal");
}

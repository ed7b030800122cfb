//! The table at the end, for the terminal and for the page.

use std::time::Duration;

use super::{
    load::{Report, Summary, TargetReport},
    scenario::{Timeline, share_per_second},
};

/// Header and one row for each replica.
#[must_use]
pub(super) fn table(report: &Report, timeline: &Timeline) -> Vec<Vec<String>> {
    let header = [
        "replica",
        "offered",
        "answered",
        "429",
        "failed",
        "admitted/s in surge",
        "share/s",
        "p99 before",
        "p99 surge",
        "p99 end",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(report.targets.iter().map(|target| row(target, timeline)));
    rows
}

fn row(target: &TargetReport, timeline: &Timeline) -> Vec<String> {
    let Summary { offered, ok, limited, failed, .. } = target.total();
    let window = timeline.settled_surge();
    let surge = target.sum(window.clone());
    vec![
        target.name.clone(),
        offered.to_string(),
        ok.to_string(),
        limited.to_string(),
        failed.to_string(),
        format!("{:.1}", surge.admitted() as f64 / window.len() as f64),
        format!("{:.1}", share_per_second()),
        latency(target.sum(timeline.calm()).p99),
        latency(surge.p99),
        latency(target.sum(timeline.recovered()).p99),
    ]
}

/// Milliseconds, or a dash.
#[must_use]
pub(super) fn latency(value: Option<Duration>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{} ms", value.as_millis()))
}

/// The rows as text, columns aligned.
#[must_use]
pub(super) fn text(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let space = " ".repeat(width - cell.chars().count());
            if column == 0 { format!("{cell}{space}") } else { format!("{space}{cell}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{table, text};
    use crate::demo::{
        load::{Report, Second, TargetReport},
        scenario::Timeline,
    };

    #[test]
    fn columns_line_up_and_missing_latency_is_a_dash() {
        let seconds = vec![Second { offered: 100, timeouts: 40, limited: 60, ..Second::default() }; 60];
        let targets = vec![TargetReport { name: "burner-0".into(), seconds }];
        let rows = table(&Report { targets }, &Timeline::new(60));
        assert_eq!(rows[1][..7], ["burner-0", "6000", "0", "3600", "2400", "40.0", "30.0"]);
        assert_eq!(rows[1][7], "–");
        let text = text(&rows);
        let lengths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(lengths[0], lengths[1]);
    }
}

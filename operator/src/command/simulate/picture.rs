//! A run as lines of text: each quantity over time, then the same in a few numbers.

use limiter::{
    policy::Rule,
    simulation::{Row, Run, Scenario},
};

/// Columns of a plot.
const WIDTH: usize = 72;
const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) fn lines(scenario: &Scenario, run: &Run, rule: &Rule) -> Vec<String> {
    let service = &scenario.service;
    let mut lines = vec![
        format!(
            "  Service: {} with {} workers each, {} ms a request: {:.0} requests per second.",
            if service.pods == 1 { "1 pod".to_owned() } else { format!("{} pods", service.pods) },
            service.workers,
            service.mean.as_secs_f64() * 1e3,
            service.capacity()
        ),
        format!(
            "  {:.0} s in columns of {:.2} s; answers are wanted within {} ms. Each line has its own scale.",
            scenario.length.as_secs_f64(),
            scenario.length.as_secs_f64() / WIDTH as f64,
            scenario.wanted_within.as_millis()
        ),
        String::new(),
    ];
    let rate = |name: &str, value: fn(&Row) -> Option<f64>| plot(name, run, value, |top| format!("{top:.0}/s"));
    lines.extend([
        rate("capacity", |row| Some(row.capacity)),
        rate("offered", |row| Some(row.offered)),
        rate("admitted", |row| Some(row.admitted)),
        rate("in time", |row| Some(row.goodput)),
        rate("refused", |row| Some(row.refused)),
        rate("limit", |row| row.limit),
        plot("in flight", run, |row| row.bound.map(f64::from), |top| format!("{top:.0}")),
        plot("p99", run, |row| row.p99, |top| format!("{:.0} ms", top * 1e3)),
        // What was begun before workers stopped is worked off after it.
        plot("workers", run, |row| Some(row.cpu.min(1.0)), |top| format!("{:.0}% used", top * 100.0)),
        String::new(),
    ]);
    let summary = &run.summary;
    let (from, to) = scenario.surge;
    lines.push(format!(
        "  From {:.0} to {:.0} s: {:.1}% of what could be answered in time was; p99 {:.0} ms at worst; workers {:.0}% used.",
        from.as_secs_f64() + (to - from).as_secs_f64() / 4.0,
        to.as_secs_f64(),
        summary.goodput * 100.0,
        summary.worst_p99 * 1e3,
        summary.cpu * 100.0
    ));
    lines.push(match summary.convergence {
        Some(seconds) => format!("  Settled after {seconds:.1} s."),
        None => "  It did not settle.".to_owned(),
    });
    lines.push(format!(
        "  Refused without need: {:.2}% before, {:.2}% after.",
        summary.refused_before * 100.0,
        summary.refused_after * 100.0
    ));
    let names = rule.classes.iter().map(|class| class.name.as_str()).chain(["others"]);
    for (name, served) in names.zip(&summary.classes) {
        lines.push(format!("  Class {name}: {:.1}% answered in time.", served * 100.0));
    }
    lines
}

/// One quantity over time, as high as its largest value, which stands at the end.
fn plot(name: &str, run: &Run, value: fn(&Row) -> Option<f64>, write: fn(f64) -> String) -> String {
    let values: Vec<Option<f64>> = run.rows.iter().map(value).collect();
    let top = values.iter().flatten().copied().fold(0.0, f64::max);
    if values.iter().all(Option::is_none) {
        return format!("  {name:<9} none");
    }
    let columns = (0..WIDTH).map(|column| {
        let (from, to) = (column * values.len() / WIDTH, (column + 1) * values.len() / WIDTH);
        let part = &values[from..to.max(from + 1).min(values.len())];
        let Some(highest) = part.iter().flatten().copied().reduce(f64::max) else { return ' ' };
        // What is there is seen, however small.
        let level = if top > 0.0 { (highest / top * 8.0).ceil() as usize } else { 0 };
        LEVELS[level.clamp(usize::from(highest > 0.0), 8)]
    });
    format!("  {name:<9} {} {}", columns.collect::<String>(), write(top))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_as_high_as_its_largest_value() {
        let row = |offered| Row { offered, ..Row::default() };
        let rows = (0..WIDTH).map(|column| row(column as f64)).collect();
        let run = Run { rows, summary: Default::default() };
        let line = plot("offered", &run, |row| Some(row.offered), |top| format!("{top}"));
        assert!(line.starts_with("  offered    ▁▁▁▁▁▁▁▁▂") && line.ends_with("██ 71"), "{line}");
        assert_eq!(plot("limit", &run, |row| row.limit, |top| format!("{top}")), "  limit     none");
    }

    #[test]
    fn a_run_is_told_in_numbers() {
        let rule = limiter::policy::Rule {
            name: "r".to_owned(),
            mode: limiter::policy::Mode::Enforce,
            when: None,
            action: limiter::policy::Action::Limit(
                limiter::language::parse_limit("300 requests per second per pod").expect("a limit"),
            ),
            matches: Vec::new(),
            burst: None,
            classes: Vec::new(),
        };
        let scenario = Scenario::surge(2.0).seconds(2, 8, 2);
        let text = lines(&scenario, &limiter::simulation::run(&scenario), &rule).join("\n");
        for part in
            ["4 workers each, 10 ms a request: 400 requests", "From 4 to 10 s: 0.0% of what", "It did not settle."]
        {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}

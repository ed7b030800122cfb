//! Prints the table of docs/adr/0009: GOV-1's shapes against each guard, the median of five seeds.
//!
//! `cargo run --release -p limiter --example gov1`

#![expect(clippy::print_stdout, reason = "this is what it is for")]

use std::time::Duration;

use limiter::{
    language::{Vocabulary, ast::Adapt, parse_adapt},
    policy::{Action, LawKind, MissingAction, Mode, OnMissing, Rule},
    simulation::{Guard, Scenario, Summary, run},
};

fn keeping(sentence: &str, law: LawKind) -> Guard {
    let adapt = parse_adapt(sentence, &Vocabulary::default()).expect("these sentences are right");
    let rule = Rule {
        name: "keep".to_owned(),
        mode: Mode::Enforce,
        when: None,
        action: Action::Adapt(Adapt { law, ..adapt }),
        matches: Vec::new(),
        burst: None,
        classes: Vec::new(),
    };
    Guard::Rule(Box::new(rule), OnMissing { action: MissingAction::Hold, after: Duration::from_secs(15) })
}

fn main() {
    let fixed = |limit, bound| Guard::Fixed { limit, bound };
    let latency = "keep p99 latency below 100ms, between 20 and 1000 requests per second per pod";
    let cpu = "keep cpu below 80%, between 20 and 1000 requests per second per pod";
    let guards = [
        ("none", fixed(None, None)),
        ("424 per second (6% too high)", fixed(Some(424.0), None)),
        ("8 in flight", fixed(None, Some(8))),
        ("40 in flight", fixed(None, Some(40))),
        ("p99, CompletionRate", keeping(latency, LawKind::CompletionRate)),
        ("p99, Aimd", keeping(latency, LawKind::Aimd)),
        ("cpu, CompletionRate", keeping(cpu, LawKind::CompletionRate)),
        ("cpu, Aimd", keeping(cpu, LawKind::Aimd)),
    ];
    let shapes = [("2x", Scenario::surge(2.0)), ("10x", Scenario::surge(10.0)), ("halved", Scenario::halved())];
    println!("| load | guard | goodput | worst p99 | cpu | converges | refused before | after |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (shape, scenario) in shapes {
        for (name, guard) in &guards {
            let scenario = scenario.clone().guarded(guard.clone());
            let runs: Vec<Summary> = (1..=5).map(|seed| run(&scenario.clone().seeded(seed)).summary).collect();
            let median = |number: fn(&Summary) -> f64| {
                let mut numbers: Vec<f64> = runs.iter().map(number).collect();
                numbers.sort_by(f64::total_cmp);
                numbers.get(2).copied().unwrap_or(f64::NAN)
            };
            let converges = median(|run| run.convergence.unwrap_or(f64::INFINITY));
            let converges = if converges.is_finite() { format!("{converges:.2} s") } else { "never".to_owned() };
            println!(
                "| {shape} | {name} | {:.3} | {:.0} ms | {:.2} | {converges} | {:.1}% | {:.1}% |",
                median(|run| run.goodput),
                median(|run| run.worst_p99) * 1000.0,
                median(|run| run.cpu),
                median(|run| run.refused_before) * 100.0,
                median(|run| run.refused_after) * 100.0,
            );
        }
    }
}

use std::time::Duration;

use super::*;
use crate::{
    language::{Vocabulary, ast::Adapt, parse_adapt},
    policy::{Action, Class, LawKind, MissingAction, Mode, RequestMatch},
};

const LATENCY: &str = "keep p99 latency below 100ms, between 20 and 1000 requests per second per pod";
const CPU: &str = "keep cpu below 80%, between 20 and 1000 requests per second per pod";
const LAWS: [LawKind; 2] = [LawKind::CompletionRate, LawKind::Aimd];

fn keeping(sentence: &str, law: LawKind) -> Guard {
    let adapt = parse_adapt(sentence, &Vocabulary::default()).unwrap();
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

fn fixed(limit: Option<f64>, bound: Option<u32>) -> Guard {
    Guard::Fixed { limit, bound }
}

/// The median of five seeds, number by number.
fn median(scenario: &Scenario) -> Summary {
    let runs: Vec<Summary> = (1..=5).map(|seed| run(&scenario.clone().seeded(seed)).summary).collect();
    let of = |number: fn(&Summary) -> f64| {
        let mut numbers: Vec<f64> = runs.iter().map(number).collect();
        numbers.sort_by(f64::total_cmp);
        numbers[2]
    };
    Summary {
        goodput: of(|run| run.goodput),
        worst_p99: of(|run| run.worst_p99),
        cpu: of(|run| run.cpu),
        convergence: Some(of(|run| run.convergence.unwrap_or(f64::INFINITY))).filter(|seconds| seconds.is_finite()),
        refused_before: of(|run| run.refused_before),
        refused_after: of(|run| run.refused_after),
        classes: runs[0].classes.clone(),
    }
}

/// GOV-1's three shapes, shortened: name, scenario, the goodput aimed at.
fn shapes() -> [(&'static str, Scenario, f64); 3] {
    [
        ("twice", Scenario::surge(2.0).seconds(10, 24, 10), 0.98),
        ("ten times", Scenario::surge(10.0).seconds(10, 24, 10), 0.95),
        ("halved", Scenario::halved().seconds(10, 24, 10), 0.95),
    ]
}

/// The same numbers as another simulator and a real Envoy gave for these guards: what this model says can be believed.
#[test]
fn the_model_is_honest_about_fixed_guards() {
    for (shape, scenario, _) in shapes() {
        for guard in [fixed(None, None), fixed(Some(424.0), None)] {
            let summary = median(&scenario.clone().guarded(guard.clone()));
            assert!(summary.goodput < 0.01, "{shape}: {guard:?} (6% too high) gives {summary:?}");
        }
        let tuned = median(&scenario.guarded(fixed(None, Some(8))));
        assert!(tuned.goodput > 0.97, "{shape}: {tuned:?}");
        assert!((0.01..0.03).contains(&tuned.refused_before), "a bound that tight refuses without need: {tuned:?}");
    }
    let [(_, twice, _), _, (_, halved, _)] = shapes();
    let loose = median(&twice.guarded(fixed(None, Some(40))));
    assert!((0.5..0.7).contains(&loose.goodput), "{loose:?}");
    let loose = median(&halved.guarded(fixed(None, Some(40))));
    assert!(loose.goodput < 0.01, "{loose:?}");
}

#[test]
fn the_model_agrees_with_queueing_theory() {
    // M/M/1 at 0.7: the mean time in the system is mean / (1 - 0.7), the queue is memoryless at variation 1 only roughly.
    let mut scenario = Scenario::surge(0.7).seconds(0, 400, 0);
    scenario.service.workers = 1;
    scenario.service.variation = 1.0;
    scenario.offered = vec![(Duration::ZERO, 70.0)];
    scenario.timeout = Duration::from_secs(100);
    let rows = run(&scenario).rows;
    let cpu = rows.iter().map(|row| row.cpu).sum::<f64>() / rows.len() as f64;
    assert!((cpu - 0.7).abs() < 0.02, "{cpu}");
    // Pollaczek-Khinchine: waiting = mean * rho * (1 + cv^2) / (2 * (1 - rho)) = 23.3 ms.
    let mut medians: Vec<f64> = rows.iter().filter_map(|row| row.p50).collect();
    medians.sort_by(f64::total_cmp);
    assert!((0.018..0.035).contains(&medians[medians.len() / 2]), "{}", medians[medians.len() / 2]);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let scenario = Scenario::surge(2.0).seconds(2, 4, 2).guarded(keeping(LATENCY, LawKind::CompletionRate));
    assert_eq!(run(&scenario), run(&scenario));
    assert_ne!(run(&scenario), run(&scenario.clone().seeded(2)));
    let rows = run(&scenario).rows;
    assert_eq!(rows.len(), 32);
    assert!(rows.iter().all(|row| (row.offered - row.admitted - row.refused).abs() < 1e-6));
}

#[test]
fn a_latency_goal_is_kept_through_surges() {
    for law in LAWS {
        for (shape, scenario, aim) in shapes() {
            let summary = median(&scenario.guarded(keeping(LATENCY, law)));
            assert!(summary.goodput >= aim, "{law:?}, {shape}: {summary:?}");
            assert!(summary.convergence.is_some_and(|seconds| seconds <= 1.0), "{law:?}, {shape}: {summary:?}");
            assert_eq!(summary.refused_before, 0.0, "{law:?}, {shape}");
            assert!(summary.worst_p99 < 0.15, "{law:?}, {shape}: {summary:?}");
            // Capacity that comes back is found again within seconds.
            assert!(summary.refused_after < 0.02, "{law:?}, {shape}: {summary:?}");
        }
    }
}

#[test]
fn a_cpu_goal_is_kept_through_surges() {
    for (shape, scenario, _) in shapes() {
        let summary = median(&scenario.clone().guarded(keeping(CPU, LawKind::CompletionRate)));
        assert!((0.74..0.82).contains(&summary.cpu), "{shape}: {summary:?}");
        assert!(summary.goodput > 0.74, "{shape}: {summary:?}");
        assert!(summary.convergence.is_some_and(|seconds| seconds <= 1.0), "{shape}: {summary:?}");
        assert_eq!(summary.refused_before, 0.0, "{shape}");
        // The classic finds it too, more slowly, and stays further below: what the other law is the default for.
        let aimd = median(&scenario.guarded(keeping(CPU, LawKind::Aimd)));
        assert!((0.64..0.82).contains(&aimd.cpu), "{shape}: {aimd:?}");
        assert!(aimd.goodput < summary.goodput, "{shape}: {aimd:?}");
    }
}

#[test]
fn capacity_that_halves_under_overload_is_followed_whenever_it_does() {
    let mut worst = (f64::INFINITY, 0, 0);
    for at in (16_000..24_000).step_by(310) {
        for seed in 1..=2 {
            let mut scenario = Scenario::surge(3.0).seconds(10, 30, 0).seeded(seed);
            scenario.service = Service { pods: 2, workers: 5, mean: Duration::from_millis(25), ..scenario.service };
            scenario.working = vec![(Duration::from_millis(at), 0.5)];
            scenario.wanted_within = Duration::from_millis(200);
            let sentence = "keep p99 latency below 150ms, between 40 and 4000 requests per second across all pods";
            let rows = run(&scenario.guarded(keeping(sentence, LawKind::CompletionRate))).rows;
            let late = rows.iter().filter(|row| row.t > at as f64 / 1000.0 + 5.0);
            let (good, possible) = late.fold((0.0, 0.0), |(good, all), row| (good + row.goodput, all + row.capacity));
            worst = if good / possible < worst.0 { (good / possible, at, seed) } else { worst };
        }
    }
    assert!(worst.0 > 0.9, "of what is possible, when it halves at, in ms, with the seed: {worst:?}");
}

/// Load that swings as fast as the controller looks, and as fast as it lets go.
#[test]
fn load_that_swings_at_its_own_frequency_does_not_throw_it() {
    for half_period in [250, 500, 1000, 2000] {
        let mut scenario = Scenario::surge(2.0).seconds(10, 24, 10);
        let swings = (0..24_000 / half_period).map(|i| {
            let at = Duration::from_secs(10) + Duration::from_millis(i * half_period);
            (at, if i % 2 == 0 { 800.0 } else { 280.0 })
        });
        scenario.offered = std::iter::once((Duration::ZERO, 280.0)).chain(swings).collect();
        for law in LAWS {
            let summary = median(&scenario.clone().guarded(keeping(LATENCY, law)));
            assert!(summary.goodput > 0.92, "{law:?} at {half_period} ms: {summary:?}");
        }
    }
}

#[test]
fn several_pods_share_what_is_for_all() {
    let across = "keep p99 latency below 100ms, between 20 and 4000 requests per second across all pods";
    let mut scenario = Scenario::surge(2.0).seconds(10, 24, 10);
    scenario.service.pods = 4;
    scenario.offered.iter_mut().for_each(|(_, rate)| *rate *= 4.0);
    let summary = median(&scenario.guarded(keeping(across, LawKind::CompletionRate)));
    assert!(summary.goodput >= 0.97 && summary.refused_before == 0.0, "{summary:?}");
}

#[test]
fn a_high_class_keeps_its_goodput_under_ten_times_the_load() {
    let Guard::Rule(mut rule, on_missing) = keeping(LATENCY, LawKind::CompletionRate) else { unreachable!() };
    rule.classes = vec![Class { name: "gold".to_owned(), matches: vec![RequestMatch::default()] }];
    let mut scenario = Scenario::surge(10.0).seconds(10, 24, 10).guarded(Guard::Rule(rule, on_missing));
    scenario.classes = vec![0.05];
    let summary = run(&scenario).summary;
    assert!(summary.classes[0] > 0.95, "in time: {summary:?}");
    assert!(summary.classes[1] < 0.1 && summary.goodput > 0.94, "{summary:?}");
}

#[test]
fn a_goal_out_of_reach_does_little_harm() {
    let mut scenario = Scenario::surge(0.7).seconds(0, 40, 0);
    scenario.service = Service { workers: 28, mean: Duration::from_millis(70), ..scenario.service };
    let summary = median(&scenario.guarded(keeping(LATENCY, LawKind::CompletionRate)));
    assert!(summary.goodput > 0.6, "{summary:?}");
}

#[test]
fn without_streams_cpu_alone_still_steers() {
    let mut scenario = Scenario::surge(2.0).guarded(keeping(CPU, LawKind::CompletionRate));
    scenario.unmeasured = vec![Word::Requests, Word::Answers, Word::Refused, Word::Inflight];
    let summary = median(&scenario);
    assert!((0.7..0.85).contains(&summary.cpu) && summary.refused_before == 0.0, "{summary:?}");
}

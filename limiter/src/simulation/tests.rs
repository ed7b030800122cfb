use std::time::Duration;

use super::*;
use crate::{
    language::{Vocabulary, ast::Adapt, parse_adapt},
    policy::{Action, LawKind, MissingAction, Mode},
};

fn rule(sentence: &str, law: LawKind) -> Guard {
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

fn classy(guard: Guard) -> Guard {
    let Guard::Rule(mut rule, m) = guard else { panic!() };
    rule.classes = vec![crate::policy::Class { name: "gold".into(), matches: vec![] }];
    Guard::Rule(rule, m)
}

const LATENCY: &str = "keep p99 latency below 100ms, between 20 and 1000 requests per second per pod";
const CPU: &str = "keep cpu below 80%, between 20 and 1000 requests per second per pod";
const BOTH: &str = "keep cpu below 80% and p99 latency below 100ms, between 20 and 1000 requests per second per pod";
const FAR: &str = "keep p99 latency below 100ms, between 1 and 5000 requests per second per pod";

fn oscillating(half_period: f64) -> Scenario {
    let mut s = Scenario::surge(2.0);
    let mut t = 20.0;
    s.offered = vec![(Duration::ZERO, 280.0)];
    let mut high = true;
    while t < 60.0 {
        s.offered.push((Duration::from_secs_f64(t), if high { 800.0 } else { 280.0 }));
        high = !high;
        t += half_period;
    }
    s.offered.push((Duration::from_secs(60), 280.0));
    s
}

#[test]
#[ignore = "prints"]
fn table() {
    let pick = std::env::var("PICK").unwrap_or_default();
    let mut four = Scenario::surge(2.0);
    four.service.pods = 4;
    four.offered.iter_mut().for_each(|o| o.1 *= 4.0);
    let mut x10a = Scenario::surge(10.0);
    x10a.service.works_on_abandoned = true;
    let mut halfa = Scenario::halved();
    halfa.service.works_on_abandoned = true;
    let mut blind = Scenario::surge(2.0);
    blind.unmeasured = vec![Word::Requests, Word::Answers, Word::Refused, Word::Inflight];
    let mut slow = Scenario::surge(2.0);
    slow.service.mean = Duration::from_millis(70);
    slow.service.workers = 28;
    let mut tiny = Scenario::surge(2.0);
    tiny.service.mean = Duration::from_millis(400);
    tiny.service.workers = 2;
    tiny.wanted_within = Duration::from_secs(3);
    tiny.timeout = Duration::from_secs(10);
    tiny.offered.iter_mut().for_each(|o| o.1 /= 80.0);
    let mut gold = Scenario::surge(10.0);
    gold.classes = vec![0.05];
    let mut gold2 = Scenario::surge(2.0);
    gold2.classes = vec![0.2];
    let mut x14 = Scenario::surge(1.4);
    x14.seed = 1;
    let mut late = Scenario::surge(2.0);
    late.observe_every = Duration::from_secs(1);
    let tinyrule = "keep p99 latency below 3s, between 1 and 50 requests per second per pod";
    let list: Vec<(&str, Scenario, Vec<(&str, Guard)>)> = vec![
        ("x1.4", x14, all()),
        ("x2", Scenario::surge(2.0), all()),
        ("x10", Scenario::surge(10.0), all()),
        ("half", Scenario::halved(), all()),
        ("x10 A", x10a, all()),
        ("half A", halfa, all()),
        ("x2 4 pods", four, all()),
        ("x2 1s", late, all()),
        ("blind", blind, all()),
        ("slow", slow, all()),
        ("tiny", tiny, vec![("CR", rule(tinyrule, LawKind::CompletionRate)), ("AIMD", rule(tinyrule, LawKind::Aimd))]),
        ("osc .25", oscillating(0.25), all()),
        ("osc .5", oscillating(0.5), all()),
        ("osc 1", oscillating(1.0), all()),
        ("osc 2", oscillating(2.0), all()),
        ("osc 4", oscillating(4.0), all()),
        ("gold x10", gold, vec![("CR", classy(rule(LATENCY, LawKind::CompletionRate))), ("AIMD", classy(rule(LATENCY, LawKind::Aimd))), ("CR cpu", classy(rule(CPU, LawKind::CompletionRate)))]),
        ("gold x2", gold2, vec![("CR", classy(rule(LATENCY, LawKind::CompletionRate))), ("AIMD", classy(rule(LATENCY, LawKind::Aimd))), ("CR cpu", classy(rule(CPU, LawKind::CompletionRate)))]),
    ];
    for (name, scenario, guards) in list {
        if !name.contains(&pick) { continue }
        for (guard_name, guard) in guards {
            let scenario = scenario.clone().guarded(guard);
            let mut all: Vec<Summary> = Vec::new();
            for seed in 1..=5 {
                let run = run(&scenario.clone().seeded(seed));
                if seed == 1 && std::env::var("TRACE").is_ok_and(|t| t == format!("{name} {guard_name}")) {
                    for row in run.rows.iter().filter(|row| (18.0..45.0).contains(&row.t) || (59.0..66.0).contains(&row.t)) {
                        println!("{:.2} off {:.0} adm {:.0} comp {:.0} good {:.0} p99 {:.0} cpu {:.2} limit {:?} bound {:?}", row.t, row.offered, row.admitted, row.completed, row.goodput, row.p99.unwrap_or(0.0) * 1000.0, row.cpu, row.limit.unwrap_or(0.0), row.bound.unwrap_or(0));
                    }
                }
                all.push(run.summary);
            }
            let of = |f: &dyn Fn(&Summary) -> f64| { let mut v: Vec<f64> = all.iter().map(f).collect(); v.sort_by(f64::total_cmp); format!("{:.3} [{:.3} {:.3}]", v[2], v[0], v[4]) };
            println!("{name:9} {guard_name:9} good {} cpu {:.2} conv {} before {} after {} p99 {} cl {:?}",
                of(&|s| s.goodput), all[0].cpu, of(&|s| s.convergence.unwrap_or(99.0)), of(&|s| s.refused_before), of(&|s| s.refused_after), of(&|s| s.worst_p99), all[0].classes);
        }
    }
}

fn all() -> Vec<(&'static str, Guard)> {
    vec![
            ("CR p99", rule(LATENCY, LawKind::CompletionRate)),
            ("AIMD p99", rule(LATENCY, LawKind::Aimd)),
            ("CR cpu", rule(CPU, LawKind::CompletionRate)),
            ("AIMD cpu", rule(CPU, LawKind::Aimd)),
            ("CR both", rule(BOTH, LawKind::CompletionRate)),
            ("AIMD both", rule(BOTH, LawKind::Aimd)),
            ("CR far", rule(FAR, LawKind::CompletionRate)),
            ("AIMD far", rule(FAR, LawKind::Aimd)),
    ]
}

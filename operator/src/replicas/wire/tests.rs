//! What another version says, newer and older, and what it is said.

use limiter::{
    engine::{Decision, Phase, RuleState, Stage},
    metric::Word,
    policy::{Kind, PolicyKey},
    split::{self, SplitKey, layout::Layout, shares::Bounds, steer},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    codec::known::read,
    index::asked::Why,
    intent::DestinationKey,
    metrics::{Measure, Source},
    translate::split::Heard,
};

fn at() -> Timestamp {
    "2026-01-02T10:00:00Z".parse().unwrap()
}

fn cart() -> ServiceKey {
    ServiceKey { namespace: "shop".to_owned(), name: "cart".to_owned() }
}

fn sample(word: Word) -> PodSample {
    PodSample {
        service: cart().into(),
        pod: Some("cart-0".to_owned()),
        measure: Measure::Number(word, 0.5),
        at: at(),
        fresh_for_ms: 750,
        source: Source::Scrape,
    }
}

fn told(rule: &str) -> Told {
    let stage = Some(Stage { phase: Phase::Pending, since: at() });
    Told {
        policy: PolicyKey { kind: Kind::SmartLimiter, namespace: "shop".to_owned(), name: "cart".to_owned() },
        rule: rule.to_owned(),
        state: RuleState { stage, ..RuleState::default() },
        decision: Some(decision()),
    }
}

/// With everything left out that may be.
fn decision() -> Decision {
    serde_json::from_value(json!({"phase": "Pending", "since": at()})).unwrap()
}

/// As it is read there, what is changed on the way included.
fn carried<T: Known + Serialize>(message: &T, change: impl FnOnce(&mut Value)) -> T {
    let mut json = serde_json::to_value(message).unwrap();
    change(&mut json);
    read(json.to_string().as_bytes()).unwrap()
}

#[test]
fn what_is_said_is_heard() {
    let up = Up {
        hello: Some(Hello { name: "weir-1".to_owned(), epoch: 7, probe: false, switches: vec![switch()] }),
        samples: Some(Samples { said: at(), samples: vec![sample(Word::Cpu)] }),
        proxies: vec![Report { node: "shop/cart/cart-0".to_owned(), since: Some(at()), ..Report::default() }],
        switch: Some(switch()),
        taken: Some(3),
        skipped: Skipped::default(),
    };
    assert_eq!(carried(&up, |_| {}), up);
    let services =
        vec![(cart(), Some(vec![told("hot")].into())), (ServiceKey { name: "gone".to_owned(), ..cart() }, None)];
    let pauses = Some(Pauses { all: true, services: [cart()].into() });
    let to = DestinationKey { service: cart(), port: 80 };
    let call = Remembered { to, why: Why::OnDemand, since: at(), used: at() };
    let calls = vec![(cart(), Some(vec![call].into())), (ServiceKey { name: "gone".to_owned(), ..cart() }, None)];
    let skipped = Skipped::default();
    let splits = vec![(cart(), Some(told_split())), (ServiceKey { name: "gone".to_owned(), ..cart() }, None)];
    let down = Down { epoch: 7, sequence: 1, at: at(), answer: true, services, calls, splits, pauses, skipped };
    assert_eq!(carried(&down, |_| {}), down);
}

fn told_split() -> ToldSplit {
    let arm = |weight| steer::Arm { weight, bounds: Bounds::default(), ready: true, capacity: None };
    let (law, arms) = (steer::Law::default(), [arm(90), arm(10)]);
    let state = steer::State::declared(&arms, at()).unwrap();
    let seen = Some(steer::Seen { requests: 100.0, bad: 3.0, latency_ms: Some(4.0) });
    let (state, decision) = steer::step(&law, &arms, &state, &[seen, None], at() + law.every);
    let split = SplitKey { kind: split::Kind::SmartSplit, namespace: "shop".to_owned(), name: "cart".to_owned() };
    let arms = ["cart-v1", "cart-v2"].map(str::to_owned);
    let layout = Layout::default().moved(&arms.clone().map(|arm| (arm, 5000)));
    let heard = Some(Heard { ago_ms: 500, source: Some("prometheus".to_owned()) });
    ToldSplit { split, arms: arms.into(), declared: 7, state, decision: Some(decision), heard, layout }
}

fn switch() -> Switch {
    Switch { pause: true, service: Some(cart()) }
}

#[test]
fn of_a_newer_one_that_follows_what_is_not_known_is_passed_over() {
    let samples = vec![sample(Word::Cpu), sample(Word::Memory), sample(Word::Inflight)];
    let up = Up { samples: Some(Samples { said: at(), samples }), ..Up::default() };
    let heard = carried(&up, |json| {
        json["samples"]["samples"][0]["measure"]["number"][0] = json!("Temperature");
        json["samples"]["samples"][1]["zone"] = json!("a");
        json["samples"]["samples"][2]["source"] = json!("Satellite");
        json["samples"]["weather"] = json!({"rain": true});
        json["moon"] = json!([1, 2]);
    });
    let samples = Some(Samples { said: at(), samples: vec![sample(Word::Memory)] });
    let first = "samples.samples: unknown variant `Temperature`";
    assert_eq!(Up { skipped: Skipped::default(), ..heard.clone() }, Up { samples, ..Up::default() });
    assert_eq!(heard.skipped.count, 4, "two samples and two parts");
    assert!(heard.skipped.first.as_ref().unwrap().starts_with(first), "{:?}", heard.skipped);
}

#[test]
fn a_message_of_which_nothing_is_known_is_an_empty_one() {
    let heard: Up = read(br#"{"weather": {"rain": [1, 2, 3]}}"#).unwrap();
    let skipped = Skipped { count: 1, first: Some("weather: not known to this version".to_owned()) };
    assert_eq!(heard, Up { skipped, ..Up::default() });
    assert!(read::<Up>(b"nonsense").is_err(), "what is no message ends the stream");
}

#[test]
fn a_proxy_is_known_also_where_its_refusal_is_not() {
    let report = json!({"node": "shop/cart/cart-0", "since": at(), "moon": 1, "holds": [["cluster", "in", "v1"]], "refusals": [
        {"resource_type": "wasm", "resources": [], "message": "no", "at": at()},
        {"resource_type": "cluster", "resources": [["out", "v2"]], "message": "no", "at": at()},
    ]});
    let heard: Up = read(json!({"proxies": [report]}).to_string().as_bytes()).unwrap();
    let [Report { node, since, holds, refusals, .. }] = &heard.proxies[..] else { panic!("{heard:?}") };
    assert_eq!((node.as_str(), *since, holds.len(), refusals.len()), ("shop/cart/cart-0", Some(at()), 1, 1));
    assert_eq!(heard.skipped.count, 2, "{:?}", heard.skipped);
}

#[test]
fn of_a_newer_one_that_decides_an_unknown_word_costs_the_rule_that_it_is_in() {
    let services = vec![(cart(), Some(vec![told("a"), told("b"), told("c")].into()))];
    let down = Down { epoch: 7, sequence: 1, at: at(), services, ..Down::default() };
    let heard = carried(&down, |json| {
        json["services"][0][1][0]["decision"]["phase"] = json!("Dreaming");
        json["services"][0][1][1]["state"]["mood"] = json!("good");
        json["services"][0][1][1]["decision"]["mood"] = json!("good");
        json["services"][0][1][2]["state"]["stage"]["phase"] = json!("Dreaming");
        json["pauses"] = json!({"all": "perhaps"});
        json["weather"] = json!("rain");
    });
    let skipped = heard.skipped.clone();
    let services = vec![(cart(), Some(vec![told("b")].into()))];
    assert_eq!(Down { skipped: Skipped::default(), ..heard }, Down { services, ..down });
    assert_eq!(skipped.count, 4, "two rules, the pauses and a part: {skipped:?}");
    assert!(skipped.first.unwrap().starts_with("services: unknown variant `Dreaming`"));
}

#[test]
fn of_an_older_one_what_is_missing_has_its_default() {
    let old = json!({"epoch": 7, "services": [[cart(), [
        {"policy": told("hot").policy, "rule": "hot", "decision": {"phase": "Pending", "since": at()}},
    ]]]});
    let heard: Down = read(old.to_string().as_bytes()).unwrap();
    let told = Told { state: RuleState::default(), ..told("hot") };
    assert_eq!(heard, Down { epoch: 7, services: vec![(cart(), Some(vec![told].into()))], ..Down::default() });
    let heard: Up = read(br#"{"hello": {"name": "weir-1"}}"#).unwrap();
    let hello = Some(Hello { name: "weir-1".to_owned(), ..Hello::default() });
    assert_eq!(heard, Up { hello, ..Up::default() });
}

/// The first form that there was, a tagged enum, is a message with one part: its readers take nothing else.
#[test]
fn a_message_with_one_part_is_as_it_always_was() {
    let hello = Hello { name: "weir-1".to_owned(), epoch: 7, ..Hello::default() };
    for (up, text) in [
        (
            Up { hello: Some(hello), ..Up::default() },
            r#"{"hello":{"name":"weir-1","epoch":7,"probe":false,"switches":[]}}"#.to_owned(),
        ),
        (
            Up { samples: Some(Samples { said: at(), samples: vec![sample(Word::Latency(99))] }), ..Up::default() },
            r#"{"samples":{"said":"2026-01-02T10:00:00Z","samples":[{"service":{"namespace":"shop","name":"cart"},"pod":"cart-0","measure":{"number":[{"Latency":99},0.5]},"at":"2026-01-02T10:00:00Z","freshForMs":750,"source":"Scrape"}]}}"#.to_owned(),
        ),
        (
            Up { switch: Some(switch()), ..Up::default() },
            r#"{"switch":{"pause":true,"service":{"namespace":"shop","name":"cart"}}}"#.to_owned(),
        ),
    ] {
        assert_eq!(serde_json::to_string(&up).unwrap(), text);
        assert_eq!(read::<Up>(text.as_bytes()).unwrap(), up);
    }
}

use crds::{Condition, LazyConfigStatus, SmartLimiterStatus, Time};
use limiter::policy::Kind;
use serde_json::json;

use super::*;
use crate::index::ObjectKind;

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(1_000_000_000_000 + milliseconds).unwrap()
}

fn key() -> ObjectKey {
    ObjectKey { kind: ObjectKind::Policy(Kind::SmartLimiter), namespace: "shop".to_owned(), name: "cart".to_owned() }
}

fn status(limiting: bool, limit: &str, observed: f64, now: Timestamp) -> SmartLimiterStatus {
    let text = if limiting { "True" } else { "False" };
    let reason = if limiting { "Limiting" } else { "Idle" };
    serde_json::from_value(json!({
        "observedGeneration": 1,
        "conditions": [{"type": "Limiting", "status": text, "reason": reason, "message": "m", "lastTransitionTime": now.to_string()}],
        "proxies": {"total": 1, "programmed": 1},
        "rules": [{
            "name": "a", "target": "cart", "phase": if limiting { "Limiting" } else { "Idle" }, "limit": limiting.then_some(limit),
            "observed": [{"metric": "cpu", "value": observed, "source": "scrape"}], "message": format!("cpu is {observed}"),
        }],
    }))
    .unwrap()
}

/// The API server of a test: it shows what was written at once.
#[derive(Default)]
struct Server {
    live: LiveObject,
    /// Its definition does not know of rules.
    prunes: bool,
    writes: u32,
    turns: Vec<Turn>,
}

impl Server {
    fn run(&mut self, plan: &mut Plan, now: Timestamp) {
        while let Some(write) = plan.next(|_| Some(self.live.clone()), now) {
            self.live.status = serde_json::to_value(&write.status).unwrap();
            if self.prunes {
                self.live.status.as_object_mut().unwrap().remove("rules");
            }
            self.writes += 1;
            self.turns.extend(write.turns);
            plan.ended(&write.key, Outcome::Written(self.live.status.clone()), now);
        }
    }
}

#[test]
fn what_is_measured_is_written_along_and_never_alone() {
    let (mut plan, mut server) = (Plan::default(), Server::default());
    for step in 0..400_i32 {
        let now = at(i64::from(step) * 250);
        plan.want(key(), status(true, "30", step.into(), now));
        server.run(&mut plan, now);
    }
    assert_eq!(server.writes, 1);
}

#[test]
fn a_number_that_moves_is_written_every_ten_seconds() {
    let (mut plan, mut server) = (Plan::default(), Server::default());
    for step in 0..400_i64 {
        plan.want(key(), status(true, &step.to_string(), 0.0, at(0)));
        server.run(&mut plan, at(step * 250));
    }
    assert_eq!(server.writes, 10, "in 100 seconds");
}

#[test]
fn what_flaps_is_written_every_second_and_ends_as_it_is() {
    let (mut plan, mut server) = (Plan::default(), Server::default());
    for step in 0..41_i64 {
        plan.want(key(), status(step % 2 == 0, "30", 0.0, at(step * 250)));
        server.run(&mut plan, at(step * 250));
    }
    assert!((9..=11).contains(&server.writes), "{} in ten seconds", server.writes);
    server.run(&mut plan, at(20_000));
    let last: SmartLimiterStatus = serde_json::from_value(server.live.status.clone()).unwrap();
    assert_eq!(last.conditions[0].status, "True");
}

#[test]
fn a_start_writes_nothing_that_stands_there() {
    let (mut plan, mut server) = (Plan::default(), Server::default());
    server.live.status = serde_json::to_value(status(true, "30", 1.0, at(0))).unwrap();
    plan.want(key(), status(true, "30", 2.0, at(5000)));
    server.run(&mut plan, at(5000));
    assert_eq!((server.writes, server.turns.len()), (0, 0));
    plan.want(key(), status(false, "30", 2.0, at(6000)));
    server.run(&mut plan, at(6000));
    assert_eq!((server.writes, server.turns.len()), (1, 1));
}

#[test]
fn a_condition_keeps_the_time_at_which_it_turned() {
    let (mut plan, mut server) = (Plan::default(), Server::default());
    plan.want(key(), status(true, "30", 0.0, at(0)));
    server.run(&mut plan, at(0));
    plan.want(key(), status(true, "40", 0.0, at(20_000)));
    server.run(&mut plan, at(20_000));
    let written: SmartLimiterStatus = serde_json::from_value(server.live.status.clone()).unwrap();
    let Condition { last_transition_time, .. } = written.conditions.first().unwrap();
    assert_eq!((server.writes, last_transition_time), (2, &Time(at(0))));
}

#[test]
fn a_failure_is_tried_again_with_the_newest_after_growing_pauses() {
    let mut plan = Plan::default();
    let live = || Some(LiveObject::default());
    let mut tries = Vec::new();
    for second in 0..70_i64 {
        plan.want(key(), status(true, &second.to_string(), 0.0, at(0)));
        if let Some(write) = plan.next(|_| live(), at(second * 1000)) {
            let OwnStatus::Limiter(status) = &write.status else { panic!("{write:?}") };
            assert_eq!(status.rules[0].limit.as_deref(), Some(second.to_string().as_str()));
            tries.push(second);
            plan.ended(&write.key, Outcome::Failed, at(second * 1000));
        }
    }
    assert_eq!(tries, [0, 1, 3, 7, 15, 31, 63]);
}

#[test]
fn an_api_server_that_is_away_is_asked_with_one_write_and_gets_all_when_it_is_back() {
    let mut plan = Plan::default();
    let keys = ["a", "b", "c"].map(|name| ObjectKey { name: name.to_owned(), ..key() });
    for key in &keys {
        plan.want(key.clone(), status(true, "30", 0.0, at(0)));
    }
    let next = |plan: &mut Plan, now| plan.next(|_| Some(LiveObject::default()), now);
    let mut tries = Vec::new();
    for second in 0..60_i64 {
        let now = at(second * 1000);
        while let Some(write) = next(&mut plan, now) {
            tries.push(second);
            if second > 0 {
                assert!(next(&mut plan, now).is_none(), "one at a time");
            }
            plan.ended(&write.key, Outcome::Away, now);
        }
    }
    assert_eq!(tries, [0, 1, 3, 7, 15, 25, 35, 45, 55]);
    assert_eq!(plan.waiting(), 3);
    let now = at(70_000);
    let first = next(&mut plan, now).unwrap();
    plan.ended(&first.key, Outcome::Written(json!({})), now);
    assert!(next(&mut plan, now).is_some() && next(&mut plan, now).is_some(), "the others at once");
}

#[test]
fn an_object_that_is_gone_is_forgotten_and_another_of_its_name_is_written_anew() {
    let mut plan = Plan::default();
    plan.want(key(), status(true, "30", 0.0, at(0)));
    assert!(plan.next(|_| None, at(0)).is_none());
    assert!(plan.objects.is_empty());
    let of = |uid: &str| Some(LiveObject { uid: uid.to_owned(), ..LiveObject::default() });
    plan.want(key(), status(true, "30", 0.0, at(0)));
    let write = plan.next(|_| of("1"), at(0)).unwrap();
    plan.ended(&write.key, Outcome::Written(serde_json::Value::Null), at(0));
    plan.want(key(), status(true, "30", 0.0, at(2000)));
    assert_eq!(plan.next(|_| of("2"), at(2000)).map(|write| write.uid).as_deref(), Some("2"));
}

#[test]
fn what_an_old_definition_prunes_is_written_once() {
    let (mut plan, mut server) = (Plan::default(), Server { prunes: true, ..Server::default() });
    for step in 0..10 {
        plan.want(key(), status(true, "30", 0.0, at(0)));
        server.run(&mut plan, at(step * 30_000));
    }
    assert_eq!(server.writes, 1);
    // Somebody else wrote it over.
    server.live.status = json!({});
    plan.want(key(), status(true, "30", 0.0, at(0)));
    server.run(&mut plan, at(400_000));
    assert_eq!(server.writes, 2);
}

/// With another condition: whether the proxies have what they should.
fn programmed(reason: &str) -> SmartLimiterStatus {
    let mut status = status(true, "30", 0.0, at(0));
    let holds = if reason == "Programmed" { "True" } else { "False" };
    let condition = json!({"type": "Programmed", "status": holds, "reason": reason, "message": "m", "lastTransitionTime": at(0).to_string()});
    status.conditions.push(serde_json::from_value(condition).unwrap());
    status
}

#[test]
fn proxies_that_are_not_back_yet_after_a_start_are_no_news() {
    for (reason, written) in [("NoProxies", 31_000), ("Pending", 31_000), ("Rejected", 1000)] {
        let (mut plan, mut server) = (Plan::default(), Server::default());
        server.live.status = serde_json::to_value(programmed("Programmed")).unwrap();
        plan.begin(at(500));
        plan.want(key(), programmed(reason));
        for now in (1000..60_000).step_by(1000) {
            server.run(&mut plan, at(now));
            assert_eq!(server.writes > 0, now >= written, "{reason} at {now}");
        }
    }
    let (mut plan, mut server) = (Plan::default(), Server::default());
    server.live.status = serde_json::to_value(programmed("Programmed")).unwrap();
    plan.begin(at(0));
    for (now, reason) in [(1000, "NoProxies"), (2000, "Programmed"), (40_000, "Programmed")] {
        plan.want(key(), programmed(reason));
        server.run(&mut plan, at(now));
    }
    assert_eq!(server.writes, 0, "they came back");
}

#[test]
fn pods_that_come_and_go_are_written_every_ten_seconds() {
    let (mut plan, mut server) = (Plan::default(), Server::default());
    for step in 0..400_i64 {
        let total = 9 + step % 2;
        let proxies = Some(ProxyCounts { total, programmed: total, unlimited: None });
        plan.want(key(), SmartLimiterStatus { proxies, ..status(true, "30", 0.0, at(0)) });
        server.run(&mut plan, at(step * 250));
    }
    assert_eq!((server.writes, server.turns.len()), (10, 1), "in 100 seconds");
}

/// A `LazyConfig` that is in force for so many pods.
fn lazy_status(accepted: &str, workloads: i64) -> LazyConfigStatus {
    serde_json::from_value(json!({
        "observedGeneration": 1, "workloads": workloads, "services": {"loaded": workloads, "known": 9},
        "conditions": [{"type": "Accepted", "status": accepted, "reason": "Invalid", "message": "m", "lastTransitionTime": at(0).to_string()}],
    }))
    .unwrap()
}

#[test]
fn a_lazy_config_is_written_as_a_limiter_is() {
    let key = || ObjectKey { kind: ObjectKind::Lazy, ..key() };
    let (mut plan, mut server) = (Plan::default(), Server::default());
    for step in 0..400_i64 {
        plan.want(key(), lazy_status("False", step));
        server.run(&mut plan, at(step * 250));
    }
    assert_eq!((server.writes, server.turns.len()), (10, 1), "numbers in 100 seconds, and one Event");
    server.run(&mut plan, at(200_000));
    let writes = server.writes;
    plan.want(key(), lazy_status("True", 399));
    server.run(&mut plan, at(202_000));
    assert_eq!((server.writes, server.turns.len()), (writes + 1, 2), "a cause at once");
    plan.want(key(), lazy_status("True", 399));
    server.run(&mut plan, at(300_000));
    assert_eq!(server.writes, writes + 1, "nothing moved");
}

#[test]
fn a_clock_that_is_set_back_puts_nothing_off() {
    const HOUR: i64 = 3_600_000;
    // A pause after failures.
    let mut plan = Plan::default();
    let live = || Some(LiveObject::default());
    plan.want(key(), status(true, "30", 0.0, at(HOUR)));
    let write = plan.next(|_| live(), at(HOUR)).unwrap();
    plan.ended(&write.key, Outcome::Failed, at(HOUR));
    assert!(plan.next(|_| live(), at(HOUR + 500)).is_none());
    assert!(plan.next(|_| live(), at(0)).is_some());

    // The time after a start, and the time until the watch shows what was written.
    let (mut plan, mut server) = (Plan::default(), Server::default());
    server.live.status = serde_json::to_value(programmed("Programmed")).unwrap();
    plan.begin(at(HOUR));
    plan.want(key(), programmed("NoProxies"));
    server.run(&mut plan, at(HOUR + 1000));
    assert_eq!(server.writes, 0, "they may come back");
    server.run(&mut plan, at(0));
    assert_eq!(server.writes, 1);
    plan.want(key(), programmed("Rejected"));
    server.run(&mut plan, at(HOUR + 2000));
    server.live.status = json!({});
    plan.want(key(), programmed("Rejected"));
    server.run(&mut plan, at(0));
    assert_eq!(server.writes, 3, "what somebody else wrote over is written again");

    // What it was true since is no time to come.
    let mut wanted = status(true, "30", 0.0, at(0)).into();
    keep_transitions(&status(true, "30", 0.0, at(HOUR)).into(), &mut wanted);
    assert_eq!(wanted.conditions()[0].last_transition_time, Time(at(0)));
}

#[test]
fn a_route_is_written_when_what_is_ours_differs_and_its_conditions_keep_their_times() {
    let route = |statuses: [&str; 2], now: Timestamp| {
        let entry = |name: &str, status: &str| {
            let condition = |name: &str, status: &str| json!({"type": name, "status": status, "reason": "a", "message": "m", "lastTransitionTime": now.to_string()});
            json!({"controllerName": "weir.dev/controller", "parentRef": {"group": "", "kind": "Service", "name": name},
                "conditions": [condition("Accepted", status), condition("ResolvedRefs", "True")]})
        };
        json!({"parents": [entry("a", statuses[0]), entry("b", statuses[1])]})
    };
    let read = |value: &Value| OwnStatus::Route(crate::status::RouteStatus::read(value).unwrap());
    let (mut plan, mut server) = (Plan::default(), Server::default());
    let key = || ObjectKey { kind: ObjectKind::HttpRoute, ..key() };
    plan.want(key(), OwnStatus::Route(crate::status::RouteStatus::default()));
    server.run(&mut plan, at(0));
    assert_eq!(server.writes, 0, "a route that has nothing to do with Services");
    plan.want(key(), read(&route(["True", "True"], at(0))));
    server.run(&mut plan, at(0));
    plan.want(key(), read(&route(["True", "True"], at(5000))));
    server.run(&mut plan, at(5000));
    assert_eq!(server.writes, 1);
    plan.want(key(), read(&route(["True", "False"], at(6000))));
    server.run(&mut plan, at(6000));
    let times: Vec<_> = read(&server.live.status).conditions().iter().map(|it| it.last_transition_time.0).collect();
    assert_eq!((server.writes, times), (2, vec![at(0), at(0), at(6000), at(0)]));
    // Somebody else wrote over it.
    server.live.status = json!({"parents": []});
    plan.want(key(), read(&route(["True", "False"], at(60_000))));
    server.run(&mut plan, at(60_000));
    assert_eq!((server.writes, server.turns.len()), (3, 0));
}

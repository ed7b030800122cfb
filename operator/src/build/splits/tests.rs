use limiter::split::steer::{Verdict, Why};
use prometheus_client::{encoding::text::encode, registry::Registry};

use super::{bound::MOST_OF_EACH, *};
use crate::{
    checkpoint::{Detail, Keeper, Wants},
    index::{Change, ObjectKey, ObjectKind},
    intent::Pauses,
    metrics::{Histogram, Measure, Source},
    tests::changes,
    translate::split::Heard,
    xds::table::Table,
};

const SPLIT: &str = "apiVersion: weir.dev/v1alpha1
kind: SmartSplit
metadata: {name: web, namespace: a}
spec:
  targetRefs: [{kind: Service, name: web}]
  backendRefs: [{name: v1, weight: 60}, {name: v2, weight: 40}]
  steer: prefer lower errors, at most 10% per step, every 5s
";

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---
apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice
metadata: {{name: {name}-1, namespace: a, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [127.0.1.1], targetRef: {{kind: Pod, name: {name}-0}}}}]\n---\n"
    )
}

fn mesh(split: &str) -> Vec<Change> {
    let calls = "apiVersion: v1\nkind: Pod\nmetadata: {name: page-0, namespace: a, annotations: {outbound.weir.dev/listen: '127.0.1.1:15001'}}\n---\n";
    changes(&(["web", "v1", "v2", "page"].map(service).concat() + calls + split))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000_000 + second).expect("a time")
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "a".to_owned(), name: name.to_owned() }
}

fn builder(split: &str) -> Builder {
    let mut builder = Builder::new(Table::new());
    builder.apply(mesh(split), at(0));
    builder
}

/// A caller tells that it was answered so often, and how often with a failure.
fn called(arm: &str, completed: f64, failed: f64, at: Timestamp) -> PodSample {
    PodSample {
        service: key(arm).into(),
        pod: Some("a/page-0".to_owned()),
        measure: Measure::Called { port: 80, completed, failed, inflight: 1.0, latency: Histogram::default() },
        at,
        fresh_for_ms: 1500,
        source: Source::Envoy,
    }
}

/// The second version fails half of the time for so many steps.
fn fails(builder: &mut Builder, steps: std::ops::Range<i64>) {
    for step in steps {
        let now = at(step * 5);
        builder.observe(vec![called("v1", 300.0, 0.0, now), called("v2", 200.0, 100.0, now)], now);
        builder.tick(now);
    }
}

fn shares(builder: &Builder) -> Vec<u32> {
    builder.steered(&key("web")).expect("it is steered").state.shares.clone()
}

/// What the caller's proxy is told of the two.
fn told(builder: &Builder) -> Vec<u32> {
    let intent = &builder.built(&key("page")).expect("built").intent;
    let hosts = intent.pods["page-0"].outbound.iter().flat_map(|outbound| &outbound.hosts);
    let web = hosts.filter(|host| host.name == "a/web/80").flat_map(|host| &host.routes).next().expect("a route");
    web.to.iter().map(|(_, share)| *share).collect()
}

#[test]
fn what_callers_tell_moves_what_their_proxies_are_told() {
    let mut builder = builder(SPLIT);
    assert_eq!(told(&builder), [6000, 4000]);
    fails(&mut builder, 1..4);
    assert_eq!((shares(&builder), told(&builder)), (vec![9700, 300], vec![9700, 300]));
    let steered = builder.steered(&key("web")).expect("it is");
    assert_eq!(steered.decision.as_ref().map(|it| it.verdicts[1]), Some(Verdict::WorseThan(0)));
    assert_eq!((steered.realised(1), steered.heard(at(20))), (Some(0.4), Some(Teller::Callers)));
    // The kill switch.
    builder.set_pauses(Pauses { all: true, ..Pauses::default() }, at(16));
    assert_eq!(told(&builder), [6000, 4000]);
    builder.set_pauses(Pauses::default(), at(17));
    assert_eq!(told(&builder), [9700, 300]);
    // Gone, it steers no more; and nothing is left of it.
    let gone = ObjectKey {
        kind: ObjectKind::Split(limiter::split::Kind::SmartSplit),
        namespace: "a".to_owned(),
        name: "web".to_owned(),
    };
    builder.apply(vec![Change::Delete(gone)], at(18));
    assert_eq!((told(&builder), builder.steered(&key("web")).is_none()), (vec![1], true));
    assert!(builder.index().steered(&key("web")).is_none());
}

#[test]
fn the_metrics_page_shows_what_callers_proxies_are_told_and_nothing_that_is_gone() {
    let meters = Meters::default();
    let mut registry = Registry::default();
    meters.register(&mut registry);
    let shown = || {
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        let lines = page
            .lines()
            .filter_map(|line| line.strip_prefix("weir_split_share{namespace=\"a\",split=\"web\",backend="));
        let mut lines: Vec<_> = lines.map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let mut builder = Builder::new(Table::new()).with_split_meters(meters);
    builder.apply(mesh(SPLIT), at(0));
    assert_eq!(shown(), ["\"v1\"} 0.6", "\"v2\"} 0.4"]);
    fails(&mut builder, 1..4);
    assert_eq!(shown(), ["\"v1\"} 0.97", "\"v2\"} 0.03"]);
    let shadow = format!("{SPLIT}  mode: Shadow\n");
    builder.apply(changes(&shadow), at(16));
    assert_eq!(shown(), ["\"v1\"} 0.6", "\"v2\"} 0.4"], "it is only decided");
    let other = shadow.replace("{name: v2, weight: 40}", "{name: v3, weight: 60}");
    builder.apply(changes(&(other + "---\n" + &service("v3"))), at(17));
    assert_eq!(shown(), ["\"v1\"} 0.5", "\"v3\"} 0.5"]);
    let kind = ObjectKind::Split(limiter::split::Kind::SmartSplit);
    let gone = ObjectKey { kind, namespace: "a".to_owned(), name: "web".to_owned() };
    builder.apply(vec![Change::Delete(gone)], at(18));
    assert_eq!(shown(), [""; 0]);
}

#[test]
fn an_edited_weight_holds_at_once_unless_something_was_steered_away() {
    let mut builder = builder(SPLIT);
    builder.apply(changes(&SPLIT.replace("weight: 40", "weight: 60")), at(1));
    assert_eq!(told(&builder), [5000, 5000]);
    // One more, and one less.
    builder.apply(changes(&SPLIT.replace("backendRefs: [", "backendRefs: [{name: web, weight: 100}, ")), at(2));
    assert_eq!(told(&builder), [5000, 3000, 2000]);
    builder.tick(at(5));
    builder.apply(changes(&SPLIT.replace("weight: 40", "weight: 60")), at(6));
    fails(&mut builder, 2..5);
    builder.apply(changes(SPLIT), at(21));
    assert_eq!(told(&builder), [9700, 300], "what fails gets nothing by an edit");
}

#[test]
fn who_follows_carries_out_what_the_leader_has_decided_and_goes_on_from_there() {
    let (mut leader, mut follower) = (builder(SPLIT), Builder::new(Table::new()));
    follower.set_decides(Decides::Unmeasured, at(0));
    follower.apply(mesh(SPLIT), at(0));
    fails(&mut leader, 1..4);
    fails(&mut follower, 1..4);
    assert_eq!(told(&follower), [6000, 4000], "it decides nothing");
    let (keeper, mut waiting) = Keeper::new(Wants { decisions: Some(Detail::Numbers), memories: false });
    leader.tell(keeper, at(15));
    let news = futures::FutureExt::now_or_never(waiting.next()).flatten().expect("all of it waits");
    follower.take_up(news, at(15));
    assert_eq!(told(&follower), told(&leader));
    // Who tells is known there, too, and for as long as that counts, also by a clock that goes wrong.
    let heard = |builder: &Builder, now| builder.steered(&key("web")).and_then(|it| it.heard(now));
    assert_eq!((heard(&follower, at(45)), heard(&follower, at(46))), (Some(Teller::Callers), None));
    let (keeper, mut waiting) = Keeper::new(Wants { decisions: Some(Detail::Numbers), memories: false });
    leader.tell(keeper, at(20));
    let news = futures::FutureExt::now_or_never(waiting.next()).flatten().expect("all of it waits");
    follower.take_up(news, at(3620));
    assert_eq!((heard(&follower, at(3645)), heard(&follower, at(3646))), (Some(Teller::Callers), None));
    follower.set_decides(Decides::All, at(20));
    follower.tick(at(25));
    assert_eq!(told(&follower), [9700, 300]);
    // One that comes before its object waits for it.
    let mut late = Builder::new(Table::new());
    late.set_decides(Decides::Unmeasured, at(0));
    late.apply(mesh(""), at(0));
    let (keeper, mut waiting) = Keeper::new(Wants { decisions: Some(Detail::Numbers), memories: false });
    leader.tell(keeper, at(15));
    late.take_up(futures::FutureExt::now_or_never(waiting.next()).flatten().expect("all of it waits"), at(15));
    late.apply(changes(SPLIT), at(16));
    assert_eq!(told(&late), [9700, 300]);
}

#[test]
fn a_follower_hands_on_nothing_that_makes_no_sense() {
    let mut builder = builder(SPLIT);
    let now = at(5);
    builder.observe(
        vec![called("v2", f64::NAN, 1.0, now), called("v2", 10.0, 11.0, now), called("v2", -1.0, 0.0, now)],
        now,
    );
    builder.tick(now);
    let steered = builder.steered(&key("web")).expect("it is");
    assert_eq!(steered.realised(1), None);
    assert_eq!(steered.inflight().map(f64::to_bits).collect::<Vec<_>>(), [0, 0], "neither is -0");
}

#[test]
fn what_lay_somewhere_for_long_says_nothing_of_now() {
    let mut builder = builder(SPLIT);
    builder.observe(vec![called("v1", 300.0, 0.0, at(5)), called("v2", 200.0, 200.0, at(5))], at(60));
    builder.tick(at(60));
    assert_eq!(shares(&builder), [6000, 4000]);
    builder.observe(vec![called("v1", 300.0, 0.0, at(61)), called("v2", 200.0, 200.0, at(61))], at(65));
    builder.tick(at(65));
    assert_eq!(shares(&builder), [9000, 1000]);
}

#[test]
fn where_callers_tell_nothing_what_is_measured_of_the_arms_counts() {
    let mut builder = builder(SPLIT);
    let queries: Vec<_> =
        builder.wanted().queries.iter().map(|it| (it.service.name.clone(), it.word.clone())).collect();
    let both = |name: &str| [Word::Requests, Word::Errors].map(|word| (name.to_owned(), word));
    assert_eq!(queries, [both("v1"), both("v2")].concat());
    for step in 1..5 {
        let now = at(step * 5);
        let sample = |arm: &str, pod: Option<&str>, measure| PodSample {
            service: key(arm).into(),
            pod: pod.map(str::to_owned),
            measure,
            at: now,
            fresh_for_ms: 15_000,
            source: Source::Prometheus,
        };
        let of = |arm: &str, pod, errors| {
            [
                sample(arm, Some(pod), Measure::Number(Word::Requests, 50.0)),
                sample(arm, None, Measure::Number(Word::Errors, errors)),
            ]
        };
        builder.observe([of("v1", "v1-0", 0.0), of("v2", "v2-0", 0.5)].concat(), now);
        builder.tick(now);
    }
    assert_eq!(told(&builder), [9700, 300]);
    let heard = builder.steered(&key("web")).and_then(|it| it.heard(at(20)));
    assert_eq!(heard, Some(Teller::Arms(Source::Prometheus)));
    let heard = (at(20), Teller::Arms(Source::Prometheus));
    let told = heard.1.told(heard.0, at(22));
    assert_eq!(Teller::taken(&told, at(102)), Some((at(100), heard.1)));
    assert_eq!(Teller::taken(&Heard { source: Some("of-tomorrow".to_owned()), ..told }, at(102)), None);
}

#[test]
fn a_clock_that_is_set_back_silences_nobody() {
    let mut builder = builder(SPLIT);
    builder.tick(at(5));
    builder.set_back(at(-3600));
    for step in 0..3 {
        let now = at(-3600 + step * 5);
        builder.observe(vec![called("v1", 300.0, 0.0, now), called("v2", 200.0, 100.0, now)], now);
        builder.tick(now);
    }
    assert_eq!(told(&builder), [9700, 300]);
}

#[test]
fn an_edit_keeps_what_was_found_out_and_bounds_hold_at_once() {
    let mut builder = builder(SPLIT);
    fails(&mut builder, 1..4);
    assert_eq!(told(&builder), [9700, 300]);
    // One that is refused changes nothing.
    let broken = SPLIT.replace("weight: 40", "weight: -4");
    builder.apply(changes(&broken), at(16));
    assert_eq!(told(&builder), [9700, 300]);
    builder.apply(changes(SPLIT), at(16));
    assert_eq!(told(&builder), [9700, 300]);
    // A third arm has its declared part of what the others had; what is known of those stays.
    let third = SPLIT.replace("{name: v2, weight: 40}", "{name: web, weight: 0}, {name: v2, weight: 40}");
    builder.apply(changes(&third), at(16));
    assert_eq!(told(&builder), [9700, 0, 300]);
    builder.apply(changes(SPLIT), at(17));
    assert_eq!(told(&builder), [9700, 300]);
    // What an arm may have holds at once, whatever it does.
    builder.apply(changes(&SPLIT.replace("{name: v1, weight: 60}", "{name: v1, weight: 60, maxPercent: 20}")), at(17));
    assert_eq!(told(&builder), [2000, 8000]);
    fails(&mut builder, 4..8);
    assert_eq!(told(&builder), [2000, 8000], "the harmful one has what nobody else may have");
    builder.apply(changes(&SPLIT.replace("weight: 60", "weight: 0")), at(36));
    assert_eq!(told(&builder), [0, 10_000]);
    // A shorter time between steps counts from now on.
    builder.apply(changes(&SPLIT.replace("every 5s", "every 1s")), at(36));
    assert!(builder.next().is_some_and(|next| next <= at(37)), "{:?}", builder.next());
}

#[test]
fn users_stay_by_the_way_that_the_shares_came() {
    let split = |weights: [u32; 3]| {
        let [v1, v2, web] = weights;
        let arms = format!("{{name: v1, weight: {v1}}}, {{name: v2, weight: {v2}}}, {{name: web, weight: {web}}}");
        SPLIT
            .replace("{name: v1, weight: 60}, {name: v2, weight: 40}", &arms)
            .replace("steer: prefer lower errors, at most 10% per step, every 5s", "sticky: {type: ClientIP}")
    };
    let mut builder = builder(&split([50, 40, 10]));
    assert_eq!(told(&builder), [5000, 4000, 1000]);
    let (keeper, mut kept) = Keeper::new(Wants { decisions: Some(Detail::Restart), memories: false });
    builder.tell(keeper, at(1));
    builder.apply(changes(&split([40, 30, 30])), at(2));
    // What both give up stands beside the last.
    assert_eq!(told(&builder), [4000, 1000, 3000, 2000]);
    builder.tick(at(60));
    assert_eq!(told(&builder), [4000, 1000, 3000, 2000]);
    // Who comes late, and who starts again, knows of it.
    let mut late = Builder::new(Table::new());
    late.take_up(futures::FutureExt::now_or_never(kept.next()).flatten().expect("it is kept"), at(60));
    late.apply(mesh(&split([40, 30, 30])), at(61));
    assert_eq!(told(&late), told(&builder));
    // The kill switch has nothing to switch off.
    late.set_pauses(Pauses { all: true, ..Pauses::default() }, at(62));
    assert_eq!(told(&late), told(&builder));
    assert_eq!(late.next(), None, "nothing is to be stepped");
}

#[test]
fn who_goes_around_a_split_is_seen() {
    let mut builder = builder(SPLIT);
    let deviation = |builder: &Builder| builder.steered(&key("web")).and_then(Steered::deviation);
    // As it should be; the first step knows of nothing before.
    for step in 1..6 {
        let now = at(step * 5);
        builder.observe(vec![called("v1", 300.0, 0.0, now), called("v2", 200.0, 0.0, now)], now);
        builder.tick(now);
    }
    assert_eq!((shares(&builder), deviation(&builder)), (vec![6000, 4000], None));
    // Somebody calls the second by its own name.
    for step in 6..10 {
        let now = at(step * 5);
        builder.observe(vec![called("v1", 300.0, 0.0, now), called("v2", 700.0, 0.0, now)], now);
        builder.tick(now);
    }
    let found = deviation(&builder).expect("it deviates");
    assert!(found.arm == 1 && found.seen > 0.55 && (found.expected - 0.4).abs() < 1e-9, "{found:?}");
    // It stands for a moment without callers, and not for ever; nor once another Service has these backends, too.
    let other = SPLIT
        .replace("metadata: {name: web", "metadata: {name: other")
        .replace("{kind: Service, name: web}", "{kind: Service, name: page}");
    builder.apply(changes(&other), at(46));
    builder.tick(at(50));
    assert_eq!(deviation(&builder), None);
    let gone = ObjectKey {
        kind: ObjectKind::Split(limiter::split::Kind::SmartSplit),
        namespace: "a".to_owned(),
        name: "other".to_owned(),
    };
    builder.apply(vec![Change::Delete(gone)], at(51));
    for step in 11..17 {
        let now = at(step * 5);
        builder.observe(vec![called("v1", 300.0, 0.0, now), called("v2", 700.0, 0.0, now)], now);
        builder.tick(now);
    }
    assert!(deviation(&builder).is_some());
    builder.tick(at(90));
    assert!(deviation(&builder).is_some());
    builder.tick(at(125));
    assert_eq!(deviation(&builder), None);
    // An edit begins anew.
    builder.apply(
        changes(&SPLIT.replace("{name: v1, weight: 60}", "{name: web, weight: 1}, {name: v1, weight: 60}")),
        at(126),
    );
    assert_eq!(deviation(&builder), None);
}

#[test]
fn a_fault_of_what_is_measured_moves_all_splits_only_so_far() {
    const ROOTS: usize = 20;
    let roots: Vec<String> = (0..ROOTS).map(|root| format!("w{root}")).collect();
    let of_root =
        |root: &String| SPLIT.replace("name: web", &format!("name: {root}")) + "---\n" + &service(root) + "---\n";
    let mut builder = builder("");
    builder.apply(changes(&roots.iter().map(of_root).collect::<String>()), at(0));
    let moved = |builder: &Builder| -> u32 {
        roots.iter().map(|root| 4000 - builder.steered(&key(root)).expect("it is steered").state.shares[1]).sum()
    };
    fails(&mut builder, 1..10);
    let whys: Vec<Why> = roots
        .iter()
        .map(|root| builder.steered(&key(root)).and_then(|it| it.decision.as_ref()).expect("it is decided").why)
        .collect();
    let most = MOST_OF_EACH * ROOTS as u32;
    assert_eq!(moved(&builder), most, "each would move 3,700 shares");
    assert_eq!(whys, vec![Why::Bounded; ROOTS]);
    // What is only told takes nothing from the others.
    let shadow = of_root(&"w99".to_owned()).replace("spec:\n  targetRefs", "spec:\n  mode: Shadow\n  targetRefs");
    builder.apply(changes(&shadow), at(45));
    fails(&mut builder, 10..11);
    let of_shadow = builder.steered(&key("w99")).expect("it is steered");
    assert_eq!((of_shadow.state.shares[1], moved(&builder)), (1000, most + MOST_OF_EACH), "one more is steered");
    // A minute after the first moves the rest follows.
    fails(&mut builder, 10..30);
    assert_eq!(moved(&builder), 3700 * ROOTS as u32);
}

#[test]
fn what_was_rolled_back_stays_so_over_a_restart_unless_its_object_was_edited_meanwhile() {
    let split = SPLIT.replace("prefer lower errors, at most 10% per step", "ramp up v2 to 50%");
    let mut builder = builder(&split);
    fails(&mut builder, 1..4);
    let (keeper, mut kept) = Keeper::new(Wants { decisions: Some(Detail::Restart), memories: false });
    builder.tell(keeper, at(20));
    let news = futures::FutureExt::now_or_never(kept.next()).flatten().expect("it is kept");
    for (split, rolled_back) in [(&split, true), (&split.replace("to 50%", "to 60%"), false)] {
        let mut again = Builder::new(Table::new());
        again.take_up(news.clone(), at(60));
        again.apply(mesh(split), at(61));
        assert_eq!(again.steered(&key("web")).expect("it is steered").state.rolled_back, rolled_back);
    }
}

#[test]
fn what_holds_at_once_by_an_edit_outlives_a_crash() {
    let mut builder = builder(SPLIT);
    let (keeper, mut kept) = Keeper::new(Wants { decisions: Some(Detail::Restart), memories: false });
    builder.tell(keeper, at(1));
    let mut news = || futures::FutureExt::now_or_never(kept.next()).flatten().expect("it is kept");
    news();
    let edited = SPLIT.replace("weight: 60", "weight: 99").replace("weight: 40", "weight: 1");
    builder.apply(changes(&edited), at(2));
    assert_eq!(told(&builder), [9900, 100]);
    let mut again = Builder::new(Table::new());
    again.take_up(news(), at(60));
    again.apply(mesh(&edited), at(61));
    assert_eq!(told(&again), [9900, 100]);
}

fn backends(arms: &str, more: &str) -> String {
    SPLIT
        .replace("{name: v1, weight: 60}, {name: v2, weight: 40}", arms)
        .replace("steer: prefer lower errors, at most 10% per step, every 5s", more)
}

#[test]
fn other_names_with_the_same_shares_are_an_edit_and_without_a_sentence_what_is_declared_holds() {
    let (first, second) =
        ("{name: v1, weight: 90}, {name: v2, weight: 10}", "{name: v2, weight: 90}, {name: web, weight: 10}");
    for more in ["steer: prefer lower errors, every 5s", "sticky: {type: ClientIP}"] {
        let mut builder = builder(&backends(first, more));
        builder.apply(changes(&backends(second, more)), at(1));
        assert_eq!(shares(&builder), [9000, 1000], "{more}");
        assert_eq!(told(&builder).iter().sum::<u32>(), TOTAL);
    }
    // The sentence goes, and with it what was steered.
    let sticky = |steer: &str| {
        backends("{name: v1, weight: 60}, {name: v2, weight: 40}", &format!("sticky: {{type: ClientIP}}{steer}"))
    };
    let mut builder = builder(&sticky("\n  steer: prefer lower errors, every 5s"));
    fails(&mut builder, 1..4);
    assert_eq!(told(&builder), [9700, 300]);
    builder.apply(changes(&sticky("")), at(16));
    assert_eq!(told(&builder), [6000, 4000]);
}

#[test]
fn who_was_found_out_does_not_come_back_by_being_away() {
    let mut builder = builder(SPLIT);
    fails(&mut builder, 1..4);
    let of_service = |kind, name: &str| ObjectKey { kind, namespace: "a".to_owned(), name: name.to_owned() };
    builder.apply(vec![Change::Delete(of_service(ObjectKind::Service, "v2"))], at(16));
    assert_eq!(told(&builder), [10_000, 0]);
    builder.apply(changes(&service("v2")), at(17));
    assert_eq!(told(&builder), [10_000, 0]);
    builder.tick(at(20));
    assert_eq!(told(&builder), [9700, 300]);
}

#[test]
fn users_move_from_what_holds_now_when_endpoints_go_one_after_the_other() {
    let arms = "{name: v1, weight: 1}, {name: v2, weight: 1}, {name: web, weight: 1}, {name: page, weight: 1}";
    let mut builder = builder(&backends(arms, "sticky: {type: ClientIP}"));
    let owners = |builder: &Builder| -> Vec<String> {
        let intent = &builder.built(&key("page")).expect("built").intent;
        let hosts = intent.pods["page-0"].outbound.iter().flat_map(|outbound| &outbound.hosts);
        let web = hosts.filter(|host| host.name == "a/web/80").flat_map(|host| &host.routes).next().expect("a route");
        web.to.iter().flat_map(|(key, share)| vec![key.service.name.clone(); *share as usize]).collect()
    };
    let empty = |name: &str| {
        service(name).replace(
            "endpoints: [{addresses: [127.0.1.1]",
            "endpoints: [{conditions: {ready: false}, addresses: [127.0.1.1]",
        )
    };
    let mut before = owners(&builder);
    let steps = [
        (empty("v2"), "v2", false),
        (empty("v1"), "v1", false),
        (service("v1"), "v1", true),
        (service("v2"), "v2", true),
    ];
    for (second, (objects, arm, comes)) in (1..).zip(steps) {
        builder.apply(changes(&objects), at(second));
        let after = owners(&builder);
        let moves: Vec<_> = before.iter().zip(&after).filter(|(from, to)| from != to).collect();
        assert!(moves.len() > 2000 && moves.iter().all(|(from, to)| if comes { *to == arm } else { *from == arm }));
        before = after;
    }
}

#[test]
fn an_arm_without_endpoints_takes_nothing_from_the_bound_of_all() {
    let other = SPLIT.replace("name: web", "name: w") + "---\n" + &service("w");
    let mut builder = builder(&SPLIT.replace("at most 10% per step", "at most 100% per step"));
    builder.apply(changes(&other), at(0));
    let empty = service("v1").replace(
        "endpoints: [{addresses: [127.0.1.1]",
        "endpoints: [{conditions: {ready: false}, addresses: [127.0.1.1]",
    );
    builder.apply(changes(&empty), at(1));
    builder.tick(at(5));
    assert_eq!(builder.splits.bound, Bound::default());
    // Two share these arms: whose requests they had is not known.
    fails(&mut builder, 2..9);
    assert_eq!(builder.steered(&key("web")).and_then(Steered::deviation), None);
}

use std::time::Duration;

use jiff::Timestamp;
use proptest::{collection::vec, prelude::*};

use crate::{
    engine::{
        Decision, Mark, Phase, RuleState, next_change,
        tests::{Told, told as step},
    },
    language::{Vocabulary, ast::Adapt, parse_adapt, parse_limit, parse_when},
    metric::{Metric, Observations, Reduce, Sample, Word},
    policy::{Action, Class, LawKind, MissingAction, Mode, OnMissing, RequestMatch, Rule},
};

const LATENCY: &str = "keep p99 latency below 200ms, between 20 and 1000 requests per second per pod";
const CPU: &str = "keep cpu below 70%, between 20 and 1000 requests per second per pod";

fn rule(sentence: &str, law: LawKind) -> Rule {
    let adapt = parse_adapt(sentence, &Vocabulary::default()).unwrap();
    Rule {
        name: "keep".to_owned(),
        mode: Mode::Enforce,
        when: None,
        action: Action::Adapt(Adapt { law, ..adapt }),
        matches: Vec::new(),
        burst: None,
        classes: Vec::new(),
    }
}

/// A rule on its way through time, one report every 250 ms.
struct Walk {
    rule: Rule,
    on_missing: OnMissing,
    state: RuleState,
    observations: Observations,
    now: Timestamp,
}

impl Walk {
    fn new(sentence: &str) -> Self {
        Self::of(rule(sentence, LawKind::CompletionRate))
    }

    fn of(rule: Rule) -> Self {
        Self {
            rule,
            on_missing: OnMissing { action: MissingAction::Hold, after: Duration::from_secs(5) },
            state: RuleState::default(),
            observations: Observations { pods: 1, ..Observations::default() },
            now: "2026-01-02T10:00:00Z".parse().unwrap(),
        }
    }

    /// The next report; each step must change nothing when it is repeated.
    fn report(&mut self, samples: &[(Word, f64)]) -> Told {
        self.now += jiff::SignedDuration::from_millis(250);
        for (word, value) in samples {
            let reduce = match word {
                Word::Cpu | Word::Latency(_) => Reduce::Mean,
                _ => Reduce::Sum,
            };
            let sample = Sample { value: *value, at: self.now, fresh_for_ms: 750, source: "envoy".into() };
            self.observations.samples.insert(Metric { word: word.clone(), reduce }, sample);
        }
        self.step()
    }

    fn step(&mut self) -> Told {
        let step = |state| step(&self.rule, &self.on_missing, state, &self.observations, self.now);
        let (state, decision) = step(&self.state);
        assert_eq!(step(&state), (state.clone(), decision.clone()), "repeated at {}", self.now);
        self.state = state;
        decision
    }

    /// Weir goes, and is back knowing no sample.
    fn restart(&mut self) {
        self.state = std::mem::take(&mut self.state).resume(self.now);
        self.observations.samples.clear();
    }

    /// A report about `answers` of `offered` requests a second, and a goal's word.
    fn traffic(&mut self, word: Word, value: f64, offered: f64, answers: f64) -> Told {
        let refused = offered - answers;
        self.report(&[
            (word, value),
            (Word::Requests, offered),
            (Word::Answers, answers),
            (Word::Refused, refused),
            (Word::Inflight, 10.0),
        ])
    }
}

fn numbers(decision: &Decision) -> (f64, Option<u32>) {
    (decision.limit.map_or(f64::NAN, |limit| limit.per_second()), decision.bound)
}

const P99: Word = Word::Latency(99);

#[test]
fn begins_at_the_ceiling_with_a_bound_that_the_ceiling_needs() {
    let mut walk = Walk::new(LATENCY);
    let first = walk.step();
    assert_eq!((first.phase, numbers(&first)), (Phase::Limiting, (1000.0, Some(200))));
    assert_eq!(
        first.explanation,
        "p99 latency has never been seen: holding the limit of 1000 requests per second per pod"
    );
    assert_eq!(
        numbers(&walk.traffic(P99, 0.1, 300.0, 300.0)),
        (1000.0, Some(128)),
        "from now on it follows the traffic"
    );
}

#[test]
fn at_rest_the_bound_has_room_for_a_step_of_the_load_and_no_more() {
    let bound = |answers| numbers(&Walk::new(LATENCY).traffic(P99, 0.1, answers, answers)).1;
    assert_eq!(bound(1.0), Some(64), "a service that nearly idles");
    assert_eq!((bound(170.0), bound(300.0)), (Some(128), Some(128)), "stands still while the traffic does");
    assert_eq!(bound(900.0), Some(200), "never more than the ceiling needs");
}

#[test]
fn a_large_miss_cuts_at_once_to_what_was_completed() {
    let mut walk = Walk::new(LATENCY);
    walk.traffic(P99, 0.1, 300.0, 300.0);
    let cut = walk.traffic(P99, 0.4, 800.0, 400.0);
    assert_eq!(numbers(&cut), (440.0, Some(40)), "a little above the completions, and half of the goal's time of them");
    walk.traffic(P99, 0.1, 800.0, 400.0);
    let held = walk.traffic(P99, 0.12, 800.0, 400.0);
    let said = "p99 latency is 120 ms of 200 ms: limiting to 440 requests per second per pod, at most 40 in flight (cut now, from 1000)";
    assert_eq!(held.explanation, said);
}

#[test]
fn a_small_miss_counts_when_it_lasts() {
    let mut walk = Walk::new(LATENCY);
    for p99 in [0.1, 0.22, 0.1, 0.22, 0.22] {
        assert_eq!(numbers(&walk.traffic(P99, p99, 400.0, 400.0)).0, 1000.0, "noise");
    }
    assert_eq!(numbers(&walk.traffic(P99, 0.22, 400.0, 400.0)).0, 440.0, "three samples in a row");
}

#[test]
fn cuts_once_for_each_drain() {
    let mut walk = Walk::new(CPU);
    let queue =
        |answers| [(Word::Cpu, 1.0), (Word::Answers, answers), (Word::Requests, 800.0), (Word::Inflight, 100.0)];
    assert_eq!(numbers(&walk.report(&queue(400.0))).0, 280.0, "400 * 70% / 100%");
    assert_eq!(
        numbers(&walk.report(&queue(200.0))).0,
        280.0,
        "250 ms of queue drain: what is seen meanwhile is no news"
    );
    assert_eq!(numbers(&walk.report(&queue(250.0))).0, 175.0, "after it, it is");
}

#[test]
fn grows_by_steps_while_refusing_and_doubles_when_free() {
    let sentence = &format!("{LATENCY}, at most 10% per step, every 500ms, cooldown 1s");
    let mut walk = Walk::new(sentence);
    walk.traffic(P99, 0.4, 800.0, 400.0);
    let limits: Vec<f64> = (0..8).map(|_| numbers(&walk.traffic(P99, 0.1, 800.0, 440.0)).0).collect();
    assert_eq!(limits, [440.0, 440.0, 440.0, 484.0, 484.0, 484.0, 484.0, 484.0], "then only the bound refuses");
    let free: Vec<_> = (0..7).map(|_| numbers(&walk.traffic(P99, 0.1, 300.0, 300.0))).collect();
    assert_eq!(free[6], (1000.0, Some(128)), "{free:?}");
}

#[test]
fn several_goals_are_kept_by_the_worst() {
    let both = "keep cpu below 70% and p99 latency below 200ms, between 20 and 1000 requests per second per pod";
    let mut walk = Walk::new(both);
    let decision = walk.report(&[(Word::Cpu, 1.0), (P99, 0.4), (Word::Answers, 400.0), (Word::Requests, 800.0)]);
    assert_eq!(numbers(&decision).0, 280.0, "cpu wants less than the latency does");
    let half = walk.report(&[(Word::Cpu, 0.5)]);
    assert_eq!(half.missing, []);
    walk.now += jiff::SignedDuration::from_secs(1);
    let decision = walk.report(&[(Word::Cpu, 0.5)]);
    assert_eq!(numbers(&decision).0, 280.0, "one goal is unknown: nothing moves");
    assert!(
        decision.explanation.starts_with("p99 latency is missing (last 400 ms by envoy): holding"),
        "{}",
        decision.explanation
    );
}

#[test]
fn without_streams_it_moves_relative_to_the_limit() {
    let mut walk = Walk::new("keep cpu below 50%, between 20 and 1000 requests per second per pod");
    assert_eq!(numbers(&walk.report(&[(Word::Cpu, 0.8)])), (625.0, None), "the bound has nothing to go by");
    for _ in 0..7 {
        walk.report(&[(Word::Cpu, 0.25)]);
    }
    assert_eq!(numbers(&walk.report(&[(Word::Cpu, 0.25)])).0, 750.0, "a step of 20%");
}

#[test]
fn a_rule_on_some_requests_has_no_bound() {
    let mut walk = Walk::new(LATENCY);
    walk.rule.matches = vec![RequestMatch::default()];
    let decision = walk.traffic(P99, 0.4, 800.0, 400.0);
    assert_eq!(numbers(&decision), (500.0, None), "and what the whole service completes says nothing about its limit");
}

#[test]
fn aimd_adds_and_multiplies() {
    let mut walk = Walk::of(rule(LATENCY, LawKind::Aimd));
    assert_eq!(numbers(&walk.traffic(P99, 0.4, 800.0, 400.0)), (560.0, Some(40)), "70% of what was offered");
    for _ in 0..7 {
        walk.traffic(P99, 0.1, 800.0, 400.0);
    }
    assert_eq!(numbers(&walk.traffic(P99, 0.1, 800.0, 400.0)).0, 609.0, "5% of the range");
}

#[test]
fn what_does_not_help_is_taken_back() {
    let mut walk = Walk::new(LATENCY);
    let mut least = f64::MAX;
    for _ in 0..12 {
        least = least.min(numbers(&slow(&mut walk)).1.map_or(f64::MAX, f64::from));
    }
    assert!(least < 40.0, "it was tried: {least}");
    let decision = slow(&mut walk);
    assert_eq!(numbers(&decision), (1000.0, Some(400)), "as before, now that 400 ms are known to be usual");
    assert!(decision.explanation.ends_with("(cutting did not help, tried again in 58s)"), "{}", decision.explanation);
}

#[test]
fn a_loss_of_capacity_is_followed_where_cutting_did_not_help_before() {
    let mut walk = Walk::new(LATENCY);
    (0..12).for_each(|_| drop(slow(&mut walk)));
    assert!(is_futile(&walk));
    let mut report = |refused: f64| {
        walk.report(&[
            (P99, 0.8),
            (Word::Requests, 150.0 + refused),
            (Word::Answers, 150.0),
            (Word::Refused, refused),
            (Word::Inflight, 120.0),
        ])
    };
    assert_eq!(numbers(&report(0.0)).0, 1000.0, "fewer are asked, and none is refused");
    (0..8).for_each(|_| drop(report(0.0)));
    let cut = report(250.0);
    assert_eq!(numbers(&cut), (165.0, Some(28)), "{}", cut.explanation);
}

#[test]
fn follows_when_and_is_released_up_to_its_ceiling() {
    let mut walk = Walk::new(LATENCY);
    walk.rule.when = Some(parse_when("cpu > 80% until cpu < 50%", &Vocabulary::default()).unwrap());
    let idle = walk.report(&[(Word::Cpu, 0.6), (P99, 0.4), (Word::Answers, 400.0), (Word::Requests, 400.0)]);
    assert_eq!((idle.phase, numbers(&idle).1), (Phase::Idle, None));
    let hot = [(Word::Cpu, 0.9), (P99, 0.6), (Word::Answers, 200.0), (Word::Requests, 800.0)];
    assert_eq!(numbers(&walk.report(&hot)), (220.0, Some(20)));
    let limits: Vec<_> = (0..14)
        .map(|_| {
            let released =
                walk.report(&[(Word::Cpu, 0.4), (P99, 0.1), (Word::Answers, 200.0), (Word::Requests, 200.0)]);
            (released.phase, released.limit.map(|limit| limit.per_second()), released.bound)
        })
        .collect();
    assert_eq!(limits[0], (Phase::Releasing, Some(220.0), Some(20)));
    assert_eq!(limits[8], (Phase::Releasing, Some(880.0), Some(80)));
    assert_eq!(limits[12], (Phase::Idle, None, None), "twice as much would be over the ceiling");
}

#[test]
fn missing_goals_hold_or_do_as_the_policy_says() {
    let gone = |action: MissingAction| {
        let mut walk = Walk::new(LATENCY);
        walk.on_missing.action = action;
        walk.traffic(P99, 0.4, 800.0, 400.0);
        walk.now += jiff::SignedDuration::from_secs(2);
        assert_eq!(numbers(&walk.step()).0, 440.0);
        walk.now += jiff::SignedDuration::from_secs(5);
        walk
    };
    assert_eq!(numbers(&gone(MissingAction::Hold).step()), (440.0, Some(40)));
    let floor = MissingAction::Floor(parse_limit("5 requests per second per pod").unwrap());
    assert_eq!(numbers(&gone(floor).step()).0, 20.0, "never below the floor of the range");
    let mut walk = gone(MissingAction::Release);
    assert_eq!(walk.step().phase, Phase::Releasing);
    walk.now += jiff::SignedDuration::from_secs(2);
    assert_eq!(walk.step().phase, Phase::Idle);
    walk.now += jiff::SignedDuration::from_secs(20);
    assert_eq!(walk.step().phase, Phase::Idle, "as long as nothing is known");
    assert_eq!(numbers(&walk.traffic(P99, 0.1, 300.0, 300.0)), (1000.0, Some(128)), "then anew");
}

#[test]
fn a_clock_that_is_set_back_does_not_freeze_it() {
    let mut walk = Walk::new(LATENCY);
    walk.traffic(P99, 0.4, 800.0, 400.0);
    walk.now -= jiff::SignedDuration::from_hours(5);
    for _ in 0..9 {
        walk.traffic(P99, 0.1, 800.0, 440.0);
    }
    assert!(numbers(&walk.step()).0 > 440.0);
}

#[test]
fn what_is_missing_leaves_the_bound_where_it_is() {
    let mut walk = Walk::new(LATENCY);
    assert_eq!(numbers(&walk.traffic(P99, 0.1, 100.0, 100.0)).1, Some(64));
    let before = walk.state.clone();
    assert_eq!(numbers(&walk.traffic(P99, 0.1, 300.0, 300.0)).1, Some(128));
    assert!(walk.state.is_news_after(&Mark::of(&before)), "a bound that moved outlives Weir");
    let before = walk.state.clone();
    assert_eq!(numbers(&walk.traffic(P99, 0.1, 301.0, 301.0)).1, Some(128));
    assert!(!walk.state.is_news_after(&Mark::of(&before)));
    walk.now += jiff::SignedDuration::from_secs(2);
    assert_eq!(numbers(&walk.report(&[(P99, 0.1)])).1, Some(128), "completions are missing");
    walk.now += jiff::SignedDuration::from_secs(2);
    assert_eq!(numbers(&walk.step()).1, Some(128), "everything is missing");
    walk.restart();
    assert_eq!(numbers(&walk.step()).1, Some(128), "after a restart");
}

#[test]
fn what_has_let_go_stays_so_after_a_restart() {
    let mut walk = Walk::new(LATENCY);
    walk.on_missing.action = MissingAction::Release;
    walk.traffic(P99, 0.4, 800.0, 400.0);
    let go_on = |walk: &mut Walk, seconds, phase| {
        walk.now += jiff::SignedDuration::from_secs(seconds);
        let before = walk.step();
        assert_eq!(before.phase, phase);
        before
    };
    for (seconds, phase) in [(2, Phase::Limiting), (5, Phase::Releasing)] {
        let before = go_on(&mut walk, seconds, phase);
        walk.restart();
        let after = walk.step();
        assert_eq!((after.phase, after.limit, after.bound), (phase, before.limit, before.bound));
    }
    go_on(&mut walk, 5, Phase::Releasing);
    go_on(&mut walk, 2, Phase::Idle);
    walk.restart();
    assert_eq!(walk.step().phase, Phase::Idle);
    assert_eq!(walk.traffic(P99, 0.1, 300.0, 300.0).phase, Phase::Limiting);
}

#[test]
fn an_older_sample_is_no_new_one() {
    let mut walk = Walk::new(LATENCY);
    walk.traffic(P99, 0.22, 400.0, 400.0);
    let metric = Metric { word: P99, reduce: Reduce::Mean };
    for back in [100, 0, 100, 0] {
        let at = walk.now - jiff::SignedDuration::from_millis(back);
        walk.observations.samples.get_mut(&metric).unwrap().at = at;
        assert_eq!(numbers(&walk.step()).0, 1000.0);
    }
}

/// The next report of an application that needs 400 ms without any queue: fewer at a time only means fewer answers.
fn slow(walk: &mut Walk) -> Told {
    let bound = walk.state.steering.as_ref().and_then(|steering| steering.bound);
    let inflight = bound.map_or(160.0, f64::from).min(160.0);
    let answers = inflight / 0.4;
    walk.report(&[
        (P99, 0.6),
        (Word::Requests, 400.0),
        (Word::Answers, answers),
        (Word::Refused, 400.0 - answers),
        (Word::Inflight, inflight),
    ])
}

fn is_futile(walk: &Walk) -> bool {
    walk.state.steering.as_ref().is_some_and(|steering| steering.futile.is_some())
}

#[test]
fn a_sample_is_judged_once_though_another_goal_reports() {
    let mut walk =
        Walk::new("keep p99 latency below 200ms and cpu below 70%, between 20 and 1000 requests per second per pod");
    walk.report(&[(Word::Cpu, 0.3)]);
    for _ in 0..16 {
        slow(&mut walk);
        let before = is_futile(&walk);
        walk.report(&[(Word::Cpu, 0.3)]);
        assert_eq!(is_futile(&walk), before, "by the same latency");
    }
    assert!(is_futile(&walk));
}

#[test]
fn what_is_taken_back_stays_within_an_edited_range() {
    let mut walk = Walk::new(LATENCY);
    slow(&mut walk);
    walk.rule = rule(&LATENCY.replace("1000", "500"), LawKind::CompletionRate);
    let limits: Vec<_> = (0..12).map(|_| numbers(&slow(&mut walk)).0).collect();
    assert!(is_futile(&walk));
    assert!(limits.iter().all(|limit| *limit <= 500.0), "{limits:?}");
    assert_eq!(limits[11], 500.0);
}

#[test]
fn cuts_on_trial_are_judged_by_a_clock_that_was_set_back() {
    let mut walk = Walk::new(LATENCY);
    slow(&mut walk);
    walk.now -= jiff::SignedDuration::from_hours(5);
    for _ in 0..12 {
        slow(&mut walk);
    }
    assert!(is_futile(&walk));
}

#[test]
fn better_classes_come_first() {
    let mut walk = Walk::new("keep p99 latency below 200ms, between 20 and 1000 requests per second across all pods");
    let class = |name: &str| Class { name: name.to_owned(), matches: vec![RequestMatch::default()] };
    walk.rule.classes = vec![class("gold"), class("silver")];
    let per_second = |decision: &Decision| decision.classes.iter().map(|rate| rate.per_second()).collect::<Vec<_>>();
    assert_eq!(per_second(&walk.step()), [1000.0; 3], "nothing is known yet");
    let demand =
        |gold, silver| [(Word::Demand("keep/gold".to_owned()), gold), (Word::Demand("keep/silver".to_owned()), silver)];
    let decision = walk.report(&demand(200.0, 300.0));
    assert_eq!(per_second(&decision), [1000.0, 780.0, 450.0]);
    assert_eq!(per_second(&walk.report(&demand(500.0, 900.0))), [1000.0, 450.0, 10.0], "never starved for good");
    walk.now += jiff::SignedDuration::from_secs(9);
    assert_eq!(per_second(&walk.step()), [1000.0, 450.0, 10.0], "a demand that is not known changes nothing");
    assert_eq!(walk.rule.metrics().len(), 7, "a goal, four sums, two demands");
}

/// Milliseconds passed (sometimes back), a report of each word or not, pods.
type Event = (i64, Vec<Option<f64>>, u32);

const WORDS: usize = 7;

fn events() -> impl Strategy<Value = Vec<Event>> {
    let value = prop_oneof![6 => 0.0..1.5_f64, 4 => 0.0..2000.0_f64, 1 => any::<f64>(), 1 => Just(1e6), 1 => Just(0.0)];
    let passed = prop_oneof![8 => 0_i64..500, 2 => 0_i64..20_000, 1 => -50_000_i64..0];
    vec((passed, vec(proptest::option::weighted(0.8, value), WORDS), 0_u32..4), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_stream_stays_within_the_range(
        events in events(),
        law in prop_oneof![Just(LawKind::CompletionRate), Just(LawKind::Aimd)],
        floor in 1.0..50.0_f64,
        above in 0.0..1000.0_f64,
        scope in prop_oneof![Just("per pod"), Just("across all pods")],
        on in prop_oneof![Just(MissingAction::Hold), Just(MissingAction::Release),
            Just(MissingAction::Floor(parse_limit("3 requests per second per pod").unwrap()))],
        gated in any::<bool>(),
    ) {
        let (floor, ceiling) = (floor.round(), floor.round() + above.round());
        let text = format!("keep cpu below 70% and p99 latency below 200ms, between {floor} and {ceiling} requests per second {scope}");
        let mut rule = rule(&text, law);
        rule.classes = vec![Class { name: "gold".to_owned(), matches: vec![RequestMatch::default()] }];
        if gated {
            rule.when = Some(parse_when("cpu > 50% for 1s until cpu < 40%", &Vocabulary::default()).unwrap());
        }
        let mut walk = Walk::of(rule);
        walk.on_missing.action = on;
        let words = [Word::Cpu, P99, Word::Requests, Word::Answers, Word::Refused, Word::Inflight, Word::Demand("keep/gold".to_owned())];
        for (passed, values, pods) in events {
            walk.now += jiff::SignedDuration::from_millis(passed);
            walk.observations.pods = pods;
            let samples: Vec<_> = words.iter().cloned().zip(values).filter_map(|(word, value)| Some((word, value?))).collect();
            let decision = walk.report(&samples);
            if let Some(limit) = decision.limit {
                let limit = limit.per_second();
                prop_assert!((floor..=ceiling).contains(&limit), "{} at {}", limit, decision.explanation);
                prop_assert!(decision.lowest.is_some_and(|lowest| lowest.per_second() <= limit));
                prop_assert!(decision.classes.iter().all(|class| class.per_second() <= limit));
            }
            prop_assert!(decision.bound.is_none_or(|bound| bound >= 4));
            prop_assert!(!decision.explanation.is_empty());
            if let Some(due) = next_change(&walk.rule, &walk.state, walk.now) {
                prop_assert!(due > walk.now, "a timer that is due at once would spin");
            }
            let text = serde_json::to_string(&walk.state).unwrap();
            prop_assert_eq!(&serde_json::from_str::<RuleState>(&text).unwrap(), &walk.state);
        }
    }
}

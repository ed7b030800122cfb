//! The hazards that a steered split must bear, each with what must come of it.

mod hazards;

use super::*;
use crate::split::shares::TOTAL;

/// How an arm answers: its ratio of bad requests and its latency, by the requests a second that it gets.
type Behaviour = fn(f64) -> (f64, f64);

const WELL: Behaviour = |_| (0.001, 20.0);
const BAD: Behaviour = |_| (0.5, 20.0);
/// Answers at once, and wrongly.
const FAST_AND_BAD: Behaviour = |_| (0.9, 1.0);

struct World {
    law: Law,
    arms: Vec<Arm>,
    state: State,
    now: Timestamp,
    /// Requests a second, of all arms.
    rate: f64,
    /// Of each arm, what a whole request leaves of a fraction.
    left: Vec<(f64, f64)>,
    /// What was seen, and not told yet.
    delayed: Vec<Vec<Option<Seen>>>,
    /// So many steps later it is told.
    delay: usize,
}

fn arm(weight: u64) -> Arm {
    Arm { weight, bounds: Bounds::default(), ready: true, capacity: None }
}

impl World {
    fn new(weights: &[u64], rate: f64) -> Self {
        let arms: Vec<Arm> = weights.iter().map(|weight| arm(*weight)).collect();
        let now = Timestamp::UNIX_EPOCH;
        let state = State::declared(&arms, now).expect("weights");
        let left = vec![(0.0, 0.0); arms.len()];
        Self { law: Law::default(), arms, state, now, rate, left, delayed: Vec::new(), delay: 0 }
    }

    /// One step of arms that behave so; nothing is heard where it is `None`.
    fn step(&mut self, behaviours: &[Option<Behaviour>]) -> Decision {
        let seconds = self.law.every.as_secs_f64();
        self.now += self.law.every;
        let mut seen = Vec::new();
        for (place, behaviour) in behaviours.iter().enumerate() {
            let rate = self.rate * f64::from(self.state.shares[place]) / f64::from(TOTAL);
            seen.push(behaviour.map(|behaviour| {
                let (bad, latency) = behaviour(rate);
                let left = &mut self.left[place];
                left.0 += rate * seconds;
                let requests = left.0.floor();
                left.0 -= requests;
                left.1 += requests * bad;
                let bad = left.1.floor();
                left.1 -= bad;
                Seen { requests, bad, latency_ms: Some(latency) }
            }));
        }
        self.delayed.push(seen);
        let told = match self.delayed.len() > self.delay {
            true => self.delayed.remove(0),
            false => vec![None; self.arms.len()],
        };
        let (state, decision) = step(&self.law, &self.arms, &self.state, &told, self.now);
        assert_eq!(decision.shares.iter().sum::<u32>(), TOTAL);
        self.state = state;
        decision
    }

    fn steps(&mut self, count: usize, behaviours: &[Option<Behaviour>]) -> Decision {
        let mut last = None;
        for _ in 0..count {
            last = Some(self.step(behaviours));
        }
        last.expect("a step")
    }
}

#[test]
fn an_arm_that_turns_bad_is_at_its_floor_within_some_steps_and_comes_back_slowly() {
    let mut world = World::new(&[50, 50], 200.0);
    assert_eq!(world.steps(10, &[Some(WELL), Some(WELL)]).shares, [5000, 5000]);
    let mut steps = 0;
    while world.state.shares[1] > 300 {
        steps += 1;
        let decision = world.step(&[Some(WELL), Some(BAD)]);
        assert_eq!(decision.verdicts[1], Verdict::WorseThan(0), "{decision:?}");
        assert!(steps < 5, "{decision:?}");
    }
    assert_eq!(world.steps(20, &[Some(WELL), Some(BAD)]).shares, [9700, 300]);
    let before = world.state.shares[1];
    let decision = world.steps(60, &[Some(WELL), Some(WELL)]);
    assert!(decision.shares[1] > 4500, "{before} {decision:?}");
}

#[test]
fn an_arm_that_fails_fast_wins_nothing_by_its_latency() {
    let mut world = World::new(&[50, 50], 100.0);
    world.law.by_latency = true;
    let decision = world.steps(6, &[Some(WELL), Some(FAST_AND_BAD)]);
    assert_eq!(decision.shares, [9700, 300]);
}

#[test]
fn one_error_of_a_service_that_nobody_calls_moves_nothing() {
    let mut world = World::new(&[90, 10], 2.0 / 60.0);
    for number in 0..200 {
        let behaviour: Behaviour = if number % 20 == 0 { BAD } else { WELL };
        let decision = world.step(&[Some(WELL), Some(behaviour)]);
        assert_eq!(decision.shares, [9000, 1000], "{decision:?}");
    }
}

#[test]
fn without_metrics_the_shares_hold_and_then_go_back_to_the_declared_ones() {
    let mut world = World::new(&[50, 50], 200.0);
    world.steps(10, &[Some(WELL), Some(BAD)]);
    let held = world.state.shares.clone();
    // 30 s of what was seen, then 180 s.
    for _ in 0..41 {
        let decision = world.step(&[None, None]);
        assert_eq!(decision.shares, held, "{decision:?}");
    }
    let decision = world.steps(30, &[None, None]);
    assert_eq!((decision.why, &decision.shares[..]), (Why::Gliding, &[5000, 5000][..]));
}

#[test]
fn numbers_that_are_none_count_as_not_heard() {
    let mut world = World::new(&[50, 50], 200.0);
    for wrong in [f64::NAN, f64::INFINITY, -5.0] {
        let seen = Some(Seen { requests: wrong, bad: wrong, latency_ms: Some(wrong) });
        world.now += world.law.every;
        let (state, decision) = step(&world.law, &world.arms, &world.state, &[seen, seen], world.now);
        assert_eq!(decision.shares, [5000, 5000], "{wrong}");
        world.state = state;
    }
}

#[test]
fn what_all_arms_suffer_from_moves_nothing() {
    let mut world = World::new(&[70, 30], 200.0);
    let decision = world.steps(20, &[Some(BAD), Some(BAD)]);
    assert_eq!((decision.why, &decision.shares[..]), (Why::AllAlike, &[7000, 3000][..]));
}

#[test]
fn who_is_not_ready_has_nothing_at_once_and_its_share_back_when_it_is() {
    let mut world = World::new(&[50, 30, 20], 100.0);
    world.step(&[Some(WELL), Some(WELL), Some(WELL)]);
    world.arms[0].ready = false;
    let decision = world.step(&[None, Some(WELL), Some(WELL)]);
    assert_eq!(decision.shares, [0, 6000, 4000]);
    world.arms[0].ready = true;
    let decision = world.steps(30, &[Some(WELL), Some(WELL), Some(WELL)]);
    assert!(decision.shares[0] > 4500, "{decision:?}");
    for arm in &mut world.arms {
        arm.ready = false;
    }
    let before = world.state.shares.clone();
    let decision = world.step(&[None, None, None]);
    assert_eq!((decision.why, decision.shares), (Why::NoneReady, before));
}

#[test]
fn bounds_hold_whatever_happens() {
    let mut world = World::new(&[50, 50], 200.0);
    world.arms[0].bounds.most = 8000;
    world.arms[1].bounds.least = 1000;
    let decision = world.steps(20, &[Some(WELL), Some(BAD)]);
    assert_eq!(decision.shares, [8000, 2000], "the first may not have more");
    world.arms[0].bounds.most = TOTAL;
    let decision = world.steps(20, &[Some(WELL), Some(BAD)]);
    assert_eq!(decision.shares, [9000, 1000]);
}

#[test]
fn two_arms_whose_latency_grows_with_load_settle() {
    for delay in [0, 1, 3, 12] {
        let mut world = World::new(&[50, 50], 100.0);
        world.law.by_latency = true;
        world.delay = delay;
        // One is twice as large as the other: each answers slower the nearer it is to what it can do.
        let small: Behaviour = |rate| (0.001, 1000.0 / (66.0 - rate).max(2.0));
        let large: Behaviour = |rate| (0.001, 1000.0 / (132.0 - rate).max(2.0));
        let mut share = || world.step(&[Some(small), Some(large)]).shares[0];
        let (way, seen): (Vec<u32>, Vec<u32>) =
            ((0..120).map(|_| share()).collect(), (0..40).map(|_| share()).collect());
        let (least, most) = (seen.iter().min().expect("some"), seen.iter().max().expect("some"));
        let band = 2.0 * Law::default().dead_band * f64::from(*most);
        assert!(f64::from(most - least) < band, "delay {delay}: from {least} to {most}");
        // On the way there it may go too far by what it does not hear of yet.
        let lowest = way.iter().min().expect("some");
        assert!(lowest * 2 >= *least, "delay {delay}: {lowest} on the way to {least}");
        assert!(*most < 5000, "delay {delay}: the small one has less");
    }
}

#[test]
fn a_step_too_early_remembers_and_moves_nothing() {
    let world = World::new(&[50, 50], 200.0);
    let seen = [
        Some(Seen { requests: 100.0, bad: 90.0, latency_ms: None }),
        Some(Seen { requests: 100.0, bad: 0.0, latency_ms: None }),
    ];
    let soon = world.now + SignedDuration::from_secs(1);
    let (state, decision) = step(&world.law, &world.arms, &world.state, &seen, soon);
    assert_eq!(decision.why, Why::Early);
    let (_, decision) = step(&world.law, &world.arms, &state, &[None, None], world.now + world.law.every);
    assert_eq!(decision.verdicts, [Verdict::WorseThan(1), Verdict::Well]);
}

#[test]
fn the_quantile_is_right_where_it_is_used() {
    for (probability, expected) in [(0.5, 0.0), (0.9, 1.2816), (0.95, 1.6449), (0.99, 2.3263), (0.999, 3.0902)] {
        assert!((quantile(probability) - expected).abs() < 0.02, "{probability}: {}", quantile(probability));
    }
}

#[test]
fn who_is_to_grow_grows_to_its_cap_and_falls_back_for_good_when_it_is_harmful() {
    let mut world = World::new(&[100, 0], 200.0);
    world.law.ramp = Some(Ramp { arm: 1, to: 5000 });
    let first = world.step(&[Some(WELL), Some(WELL)]);
    assert_eq!(first.shares, [9700, 300], "it begins with what probes it");
    assert_eq!(world.steps(30, &[Some(WELL), Some(WELL)]).shares, [5000, 5000]);
    assert_eq!(world.steps(10, &[Some(WELL), Some(WELL)]).shares, [5000, 5000], "and no further");
    let mut steps = 0;
    while world.state.shares[1] > 0 {
        world.step(&[Some(WELL), Some(BAD)]);
        steps += 1;
        assert!(steps < 6, "{:?}", world.state);
    }
    assert!(world.state.rolled_back);
    assert_eq!(world.steps(4, &[Some(WELL), None]).shares, [10_000, 0]);
    world.state.retry(&world.law.clone());
    assert_eq!(world.step(&[Some(WELL), None]).shares, [9700, 300], "edited, it begins again");
}

#[test]
fn nobody_gets_more_than_it_can_serve_while_others_can() {
    let mut world = World::new(&[50, 50], 100.0);
    world.arms[1].capacity = Some(20.0);
    world.arms[0].capacity = Some(1000.0);
    let decision = world.steps(60, &[Some(WELL), Some(WELL)]);
    let rate = 100.0 * f64::from(decision.shares[1]) / f64::from(TOTAL);
    assert!((15.0..=23.0).contains(&rate), "within the dead band: {rate} requests a second: {decision:?}");
    world.arms[0].capacity = Some(10.0);
    let decision = world.steps(60, &[Some(WELL), Some(WELL)]);
    assert!(decision.shares[1] > 4500, "together they cannot: as declared {decision:?}");
}

#[test]
fn another_run_holds_as_long_as_this_would() {
    let mut world = World::new(&[50, 50], 200.0);
    world.steps(10, &[Some(WELL), Some(BAD)]);
    let held = world.state.shares.clone();
    // Weir was away for an hour.
    world.now += SignedDuration::from_hours(1);
    world.state = world.state.clone().resume(world.now);
    let decision = world.steps(40, &[None, None]);
    assert_eq!((decision.why, decision.shares), (Why::Held, held));
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is declared, seen and ready: all of the total, each within its bounds once nothing forces it out of them, no panic.
        #[test]
        fn shares_are_always_whole_and_all(
            arms in proptest::collection::vec((0_u64..1_000_001, 0_u32..2000, 5000_u32..10_001, any::<bool>()), 1..12),
            seen in proptest::collection::vec((0.0_f64..1e5, 0.0_f64..1.0, proptest::option::of(0.0_f64..1e4)), 12),
            heard in proptest::collection::vec(any::<bool>(), 12),
            ramp in proptest::option::of((0_usize..12, 0_u32..10_001)),
            steps in 1_usize..20,
        ) {
            let count = arms.len();
            let arms: Vec<Arm> = arms.into_iter().map(|(weight, least, most, ready)| Arm {
                weight, bounds: Bounds { least, most }, ready, capacity: (weight % 3 == 0).then_some(weight as f64),
            }).collect();
            let now = Timestamp::UNIX_EPOCH;
            let Some(mut state) = State::declared(&arms, now) else { return Ok(()) };
            let ramp = ramp.filter(|(arm, _)| *arm < count).map(|(arm, to)| Ramp { arm, to });
            let law = Law { by_latency: count % 2 == 0, ramp, ..Law::default() };
            let mut now = now;
            for number in 0..steps {
                now += law.every;
                let told: Vec<Option<Seen>> = (0..count).map(|place| {
                    let (requests, bad, latency_ms) = seen[(place + number) % 12];
                    heard[(place * 7 + number) % 12].then_some(Seen { requests, bad: requests * bad, latency_ms })
                }).collect();
                let (next, decision) = step(&law, &arms, &state, &told, now);
                prop_assert_eq!(decision.shares.iter().sum::<u32>(), TOTAL, "{:?}", decision);
                prop_assert_eq!(decision.shares.len(), count);
                state = next;
            }
        }
    }
}

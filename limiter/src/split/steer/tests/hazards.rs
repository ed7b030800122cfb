//! Rows of the table of hazards that change what is declared, or who is heard, on the way.

use super::*;
use crate::split::shares::apportion;

#[test]
fn what_is_declared_anew_is_followed_within_its_bounds() {
    let mut world = World::new(&[50, 50], 200.0);
    world.steps(10, &[Some(WELL), Some(WELL)]);
    // Somebody else writes weights while it steers: no fight, the new ones are where it goes.
    for (weights, expected) in [([90, 10], [9000, 1000]), ([20, 80], [2000, 8000]), ([1, 0], [10_000, 0])] {
        (world.arms[0].weight, world.arms[1].weight) = (weights[0], weights[1]);
        let mut before = world.state.shares[1];
        for _ in 0..40 {
            let after = world.step(&[Some(WELL), Some(WELL)]).shares[1];
            assert!(after.abs_diff(before) <= world.law.up, "from {before} to {after}");
            before = after;
        }
        let within = f64::from(before.abs_diff(expected[1])) <= world.law.dead_band * f64::from(expected[1].max(1000));
        assert!(within, "{weights:?}: {:?}", world.state.shares);
    }
}

#[test]
fn who_alone_is_not_heard_is_not_judged_by_that() {
    let mut world = World::new(&[50, 50], 200.0);
    world.steps(10, &[Some(WELL), Some(WELL)]);
    let decision = world.steps(100, &[Some(WELL), None]);
    assert_eq!(decision.verdicts, [Verdict::Well, Verdict::Unseen]);
    assert_eq!(decision.shares, [5000, 5000], "missing numbers are no failure");
}

#[test]
fn counters_that_begin_anew_move_nothing() {
    let mut world = World::new(&[50, 50], 200.0);
    world.steps(10, &[Some(WELL), Some(WELL)]);
    // A proxy that restarts counts from 0: what is seen is nothing, or less than nothing.
    for (requests, bad) in [(0.0, 0.0), (-1000.0, -1.0), (10.0, 1e12), (0.0, f64::NAN)] {
        world.now += world.law.every;
        let seen = Some(Seen { requests, bad, latency_ms: None });
        let (state, decision) = step(&world.law, &world.arms, &world.state, &[seen, seen], world.now);
        assert_eq!(decision.shares, [5000, 5000], "{requests} {bad}");
        world.state = state;
    }
}

#[test]
fn what_both_suffer_from_does_not_roll_back_who_is_to_grow() {
    let mut world = World::new(&[90, 10], 200.0);
    world.law.ramp = Some(Ramp { arm: 1, to: 5000 });
    world.steps(3, &[Some(WELL), Some(WELL)]);
    let before = world.state.shares.clone();
    let decision = world.steps(1, &[Some(BAD), Some(BAD)]);
    let decision = if decision.why == Why::AllAlike { decision } else { world.steps(5, &[Some(BAD), Some(BAD)]) };
    assert_eq!((decision.why, world.state.rolled_back), (Why::AllAlike, false), "{before:?} {decision:?}");
}

#[test]
fn who_was_rolled_back_stays_so_whatever_is_seen_or_not_seen() {
    let mut world = World::new(&[90, 10], 200.0);
    world.law.ramp = Some(Ramp { arm: 1, to: 5000 });
    world.steps(10, &[Some(WELL), Some(BAD)]);
    assert_eq!(world.state.shares, [10_000, 0]);
    assert_eq!(world.steps(50, &[Some(WELL), Some(WELL)]).shares, [10_000, 0], "it is well again");
    let decision = world.steps(100, &[None, None]);
    assert_eq!((decision.why, &decision.shares[..]), (Why::Gliding, &[10_000, 0][..]), "metrics are away for long");
}

#[test]
fn users_move_to_the_arm_that_grows_alone() {
    // Where a user's hash falls on the total, and whose it is.
    let whose = |shares: &[u32], point: u32| {
        let mut border = 0;
        shares.iter().position(|share| {
            border += share;
            point < border
        })
    };
    let mut world = World::new(&[90, 10], 1000.0);
    world.law.ramp = Some(Ramp { arm: 1, to: 5000 });
    for _ in 0..20 {
        let before = world.state.shares.clone();
        let after = world.step(&[Some(WELL), Some(WELL)]).shares;
        for point in 0..TOTAL {
            let (old, new) = (whose(&before, point), whose(&after, point));
            assert!(old == new || new == Some(1), "{point}: from {old:?} to {new:?}");
        }
    }
    assert_eq!(world.state.shares, [5000, 5000]);
}

#[test]
fn how_long_an_arm_was_well_does_not_matter_when_it_turns_bad() {
    let mut steps = Vec::new();
    for well in [2, 20, 500] {
        let mut world = World::new(&[80, 20], 200.0);
        world.steps(well, &[Some(WELL), Some(WELL)]);
        assert_eq!(world.state.shares, [8000, 2000]);
        steps.push((1..100).find(|_| world.step(&[Some(WELL), Some(BAD)]).shares[1] == 300).expect("it is drained"));
        // And stays so, though few requests tell of it now.
        for _ in 0..20 {
            assert_eq!(world.step(&[Some(WELL), Some(BAD)]).shares, [9700, 300]);
        }
    }
    assert_eq!(steps, [1, 1, 1]);
}

#[test]
fn an_arm_at_the_edge_is_not_harmful_and_well_by_turns() {
    // A little more than may be: sure only after many requests, and not sure any more with the few of a floor.
    let edge: Behaviour = |_| (0.06, 20.0);
    let mut world = World::new(&[50, 50], 200.0);
    let mut turns = 0;
    let mut before = false;
    for _ in 0..400 {
        let is_harmful = world.step(&[Some(WELL), Some(edge)]).verdicts[1].is_harmful();
        turns += usize::from(is_harmful != before);
        before = is_harmful;
    }
    assert!(turns <= 1, "it turned {turns} times");
}

#[test]
fn some_errors_in_a_step_are_no_change() {
    // Three of a hundred more than before, of 200 requests in a step.
    let worse: Behaviour = |_| (0.08, 20.0);
    let mut world = World::new(&[80, 20], 200.0);
    world.steps(20, &[Some(WELL), Some(WELL)]);
    assert_eq!(world.step(&[Some(WELL), Some(worse)]).shares, [8000, 2000]);
    assert_eq!(world.steps(20, &[Some(WELL), Some(WELL)]).shares, [8000, 2000]);
}

/// Whatever is behind all of them fails at once; the small one has not been called often enough to show it in one step.
#[test]
fn an_outage_of_all_moves_nothing_whoever_is_called_how_often() {
    for (weights, rate, part) in
        [([99, 1], 20.0, 1.0), ([90, 10], 20.0, 0.3), ([95, 5], 50.0, 0.5), ([99, 1], 200.0, 1.0), ([50, 50], 5.0, 0.5)]
    {
        let down: Behaviour = match part {
            1.0 => |_| (1.0, 20.0),
            0.3 => |_| (0.3, 20.0),
            _ => |_| (0.5, 20.0),
        };
        let mut world = World::new(&weights, rate);
        let before = world.steps(60, &[Some(WELL), Some(WELL)]).shares;
        for _ in 0..60 {
            let decision = world.step(&[Some(down), Some(down)]);
            assert_eq!(decision.shares, before, "{weights:?} {rate} {part}: {decision:?}");
        }
        assert_eq!(world.steps(80, &[Some(WELL), Some(WELL)]).shares, before);
    }
}

/// The better one gets worse, too, and is the better one still.
#[test]
fn of_two_that_are_harmful_the_worse_one_gets_no_more() {
    let some: Behaviour = |_| (0.1, 20.0);
    let mut world = World::new(&[50, 50], 200.0);
    assert_eq!(world.steps(10, &[Some(WELL), Some(BAD)]).shares, [9700, 300]);
    for _ in 0..20 {
        let decision = world.step(&[Some(some), Some(BAD)]);
        assert_eq!(decision.shares, [9700, 300], "{decision:?}");
    }
    // Nor does who was rolled back.
    let mut world = World::new(&[80, 20], 200.0);
    world.law.ramp = Some(Ramp { arm: 1, to: 5000 });
    assert_eq!(world.steps(20, &[Some(WELL), Some(WELL)]).shares, [5000, 5000]);
    let decision = world.steps(20, &[Some(some), Some(BAD)]);
    assert!(world.state.rolled_back && decision.shares == [10_000, 0], "{decision:?}");
}

#[test]
fn while_nobody_calls_a_harmful_one_stays_where_it_is() {
    let mut world = World::new(&[50, 50], 200.0);
    assert_eq!(world.steps(10, &[Some(WELL), Some(BAD)]).shares, [9700, 300]);
    world.rate = 0.0;
    assert_eq!(world.steps(200, &[Some(WELL), Some(BAD)]).shares, [9700, 300]);
}

#[test]
fn where_bounds_leave_no_way_without_who_is_not_ready_the_others_are_steered_still() {
    let mut world = World::new(&[80, 10, 10], 200.0);
    world.arms[1].bounds.most = 3000;
    world.arms[2].bounds.most = 3000;
    world.steps(10, &[Some(WELL); 3]);
    world.arms[0].ready = false;
    let decision = world.steps(10, &[None, Some(BAD), Some(WELL)]);
    assert_eq!((decision.shares, decision.why), (vec![0, 300, 9700], Why::Steered));
    assert!(State::declared(&world.arms, world.now).is_some());
}

#[test]
fn who_is_to_grow_to_less_than_a_probe_does_not_get_more() {
    let mut world = World::new(&[100, 0], 20.0);
    world.law.ramp = Some(Ramp { arm: 1, to: 100 });
    for _ in 0..60 {
        let decision = world.step(&[Some(WELL), Some(WELL)]);
        assert!(decision.shares[1] <= 100, "{decision:?}");
    }
}

#[test]
fn no_step_gives_anybody_more_than_a_step_by_choice() {
    let mut world = World::new(&[45, 45, 5, 5], 200.0);
    world.steps(10, &[Some(WELL); 4]);
    for (arm, weight) in world.arms.iter_mut().zip([5, 5, 82, 8]) {
        arm.weight = weight;
    }
    for _ in 0..40 {
        let before = world.state.shares.clone();
        let decision = world.step(&[Some(WELL); 4]);
        let most = decision.shares.iter().zip(before).map(|(now, before)| now.saturating_sub(before)).max();
        assert!(most <= Some(world.law.up), "{decision:?}");
    }
}

/// Metrics that vanish after the clock was set back are missed as soon as at any other time.
#[test]
fn a_clock_that_is_set_back_hides_no_silence() {
    let mut world = World::new(&[50, 50], 200.0);
    world.steps(10, &[Some(WELL), Some(BAD)]);
    world.now -= SignedDuration::from_hours(1);
    world.state.set_back(world.now);
    let whys: Vec<Why> = (0..10).map(|_| world.step(&[None, None]).why).collect();
    assert!(whys.contains(&Why::Held), "{whys:?}");
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn who_has_more_weight_has_no_less(weights in prop::collection::vec(0..u64::MAX, 2..20)) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let shares = apportion(&weights).unwrap();
            for (one, other) in (0..weights.len()).flat_map(|one| (0..weights.len()).map(move |other| (one, other))) {
                prop_assert!(weights[one] <= weights[other] || shares[one] >= shares[other]);
            }
        }

        /// While all are ready and can serve what comes, no sequence of what is seen takes an arm out of its bounds.
        #[test]
        fn bounds_hold_in_every_step(
            arms in prop::collection::vec((0..1_000_001_u64, 0..=TOTAL, 0..=TOTAL), 1..10),
            seen in prop::collection::vec(prop::collection::vec(prop::option::of((0.0..1e4_f64, 0.0..1.0_f64, 0.1..1e3_f64)), 10), 1..40),
            by_latency in any::<bool>(),
            ramp in prop::option::of((0..10_usize, 0..=TOTAL)),
        ) {
            let bounds = |a: u32, b: u32| Bounds { least: a.min(b), most: a.max(b) };
            let arms: Vec<Arm> =
                arms.into_iter().map(|(weight, a, b)| Arm { bounds: bounds(a, b), ..arm(weight) }).collect();
            let mut now = Timestamp::UNIX_EPOCH;
            let Some(mut state) = State::declared(&arms, now) else { return Ok(()) };
            let ramp = ramp.filter(|(place, _)| *place < arms.len());
            let law = Law { by_latency, ramp: ramp.map(|(arm, to)| Ramp { arm, to }), ..Law::default() };
            for told in seen {
                now += law.every;
                let tell = |(requests, part, latency)| Seen { requests, bad: requests * part, latency_ms: Some(latency) };
                let told: Vec<_> = told.into_iter().take(arms.len()).map(|one| one.map(tell)).collect();
                let (next, decision) = step(&law, &arms, &state, &told, now);
                prop_assert_eq!(decision.shares.iter().sum::<u32>(), TOTAL);
                for (share, arm) in decision.shares.iter().zip(&arms) {
                    prop_assert!((arm.bounds.least..=arm.bounds.most).contains(share), "{:?} {:?}", decision, arms);
                }
                state = next;
            }
        }
    }
}

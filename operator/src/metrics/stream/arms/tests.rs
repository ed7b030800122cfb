use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::metrics::{
    store,
    stream::families::tests::{counter, gauge, histogram},
};

const V1: &str = "arm_shop_cart-v1_80";
const V2: &str = "arm_shop_cart-v2_80";

fn at(ms: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_millis(ms)
}

/// Sent, answered, answered with 5xx, under way.
fn families(of: &[(&str, [u32; 4])]) -> Vec<Bytes> {
    let of_one = |(name, values): &(&str, [u32; 4])| {
        let [sent, completed, failed, active] = values.map(f64::from);
        let name = |stat: &str| format!("cluster.{name}.upstream_rq_{stat}");
        [
            counter(&name("total"), sent),
            counter(&name("completed"), completed),
            counter(&name("5xx"), failed),
            gauge(&name("active"), active),
        ]
    };
    of.iter().flat_map(of_one).collect()
}

/// By name: ended, failed, in flight.
fn told(told: Option<Told>) -> Option<Vec<(String, [f64; 3])>> {
    let of_one = |(key, measure): (DestinationKey, Measure)| {
        let Measure::Called { port, completed, failed, inflight, latency: _ } = measure else { panic!("{measure:?}") };
        assert_eq!(port, key.port);
        (names::destination_stat_name(&key, true), [completed, failed, inflight])
    };
    told.map(|told| told.measures.into_iter().map(of_one).collect())
}

fn so(of: &[(&str, [f64; 3])]) -> Option<Vec<(String, [f64; 3])>> {
    Some(of.iter().map(|(name, counts)| ((*name).to_owned(), *counts)).collect())
}

#[test]
fn counts_are_differences_and_each_is_told_once() {
    let mut arms = Arms::default();
    let mut take = |ms, of: &[(&str, [u32; 4])]| told(arms.take(&families(of), at(ms)));
    // Before the first message of a stream nobody knows of when requests are.
    assert_eq!(take(0, &[(V1, [70, 69, 3, 1])]), so(&[(V1, [0.0, 0.0, 1.0])]));
    assert_eq!(take(250, &[(V1, [75, 72, 4, 3])]), None);
    assert_eq!(take(490, &[(V1, [75, 73, 4, 2]), (V2, [2, 1, 1, 1])]), {
        so(&[(V1, [4.0, 1.0, 2.0]), (V2, [1.0, 1.0, 1.0])])
    });
    assert_eq!(take(740, &[(V1, [75, 73, 4, 2]), (V2, [2, 1, 1, 1])]), None);
    assert_eq!(take(990, &[(V1, [75, 73, 4, 2]), (V2, [2, 1, 1, 1])]), {
        so(&[(V1, [0.0, 0.0, 2.0]), (V2, [0.0, 0.0, 1.0])])
    });
    // Its cluster is gone: told once, and what is there when it comes back began meanwhile.
    assert_eq!(take(1_500, &[(V1, [76, 76, 5, 0])]), so(&[(V1, [3.0, 1.0, 0.0]), (V2, [0.0; 3])]));
    assert_eq!(take(2_000, &[(V1, [76, 76, 5, 0])]), so(&[(V1, [0.0; 3])]));
    assert_eq!(take(2_500, &[(V1, [5, 5, 2, 0]), (V2, [9, 9, 0, 0])]), {
        so(&[(V1, [5.0, 2.0, 0.0]), (V2, [9.0, 0.0, 0.0])])
    });
    // The clock was set back.
    assert_eq!(take(100, &[(V1, [6, 6, 2, 0])]), so(&[(V1, [1.0, 0.0, 0.0]), (V2, [0.0; 3])]));
    assert_eq!(take(600, &[]), so(&[(V1, [0.0; 3])]));
    assert_eq!(take(1_100, &[]), None);
}

#[test]
fn a_failure_that_is_counted_before_its_end_waits_for_it() {
    let mut arms = Arms::default();
    let mut take = |ms, of| told(arms.take(&families(&[(V1, of)]), at(ms)));
    take(0, [0, 0, 0, 0]);
    assert_eq!(take(500, [3, 2, 3, 0]), so(&[(V1, [2.0, 2.0, 0.0])]));
    assert_eq!(take(1_000, [3, 3, 3, 0]), so(&[(V1, [1.0, 1.0, 0.0])]));
}

#[test]
fn grpc_calls_that_the_application_fails_are_told_once_and_envoys_own_answers_are_counted_already() {
    let mut arms = Arms::default();
    let grpc = |cluster: &str, flags: &str, value| {
        counter(&format!("weir.grpc_failed_at.cluster.{cluster}.flags.{flags}"), value)
    };
    let mut take = |ms, of: &[(&str, [u32; 4])], failed: [f64; 2]| {
        let [own, envoys] = failed;
        let mut all = families(of);
        all.splice(
            0..0,
            [grpc(V1, "-", own), grpc(V1, "UF", envoys), grpc("out_shop_web_80", "-", 9.0), grpc("arm_", "-", 1.0)],
        );
        told(arms.take(&all, at(ms)))
    };
    assert_eq!(take(0, &[(V1, [9, 9, 0, 0])], [4.0, 0.0]), so(&[(V1, [0.0; 3])]), "who knows when");
    assert_eq!(take(500, &[(V1, [14, 14, 1, 0])], [7.0, 1.0]), so(&[(V1, [5.0, 4.0, 0.0])]));
    assert_eq!(take(1_000, &[(V1, [14, 14, 1, 0])], [7.0, 1.0]), so(&[(V1, [0.0; 3])]));
    // Its cluster goes and comes back; the counter stays.
    take(1_500, &[], [7.0, 1.0]);
    assert_eq!(take(2_000, &[], [7.0, 1.0]), None);
    assert_eq!(take(2_500, &[(V1, [3, 3, 0, 0])], [8.0, 1.0]), so(&[(V1, [3.0, 1.0, 0.0])]));
    // The proxy began again.
    assert_eq!(take(3_000, &[(V1, [2, 2, 0, 0])], [2.0, 0.0]), so(&[(V1, [2.0, 2.0, 0.0])]));
}

#[test]
fn what_was_given_up_has_failed_and_an_answer_that_takes_its_time_has_not() {
    let mut arms = Arms::default();
    let mut take = |ms, of| told(arms.take(&families(&[(V1, of)]), at(ms)));
    // Two are under way, and their answers may have begun.
    take(0, [5, 2, 0, 2]);
    assert_eq!(take(500, [5, 3, 0, 0]), so(&[(V1, [1.0, 0.0, 0.0])]));
    assert_eq!(take(1_000, [9, 3, 0, 0]), so(&[(V1, [0.0; 3])]), "only what two messages say is so");
    assert_eq!(take(1_500, [9, 3, 0, 0]), so(&[(V1, [3.0, 3.0, 0.0])]));
    assert_eq!(take(2_000, [9, 3, 0, 0]), so(&[(V1, [0.0; 3])]));
    // An answer has begun, ends later, and was taken for given up in between.
    assert_eq!(take(2_500, [10, 4, 0, 1]), so(&[(V1, [1.0, 0.0, 1.0])]));
    assert_eq!(take(3_000, [12, 4, 0, 1]), so(&[(V1, [0.0, 0.0, 1.0])]));
    assert_eq!(take(3_500, [12, 6, 0, 0]), so(&[(V1, [2.0, 0.0, 0.0])]));
    assert_eq!(take(4_000, [12, 6, 0, 0]), so(&[(V1, [0.0; 3])]));
    // The cluster began again.
    assert_eq!(take(4_500, [3, 1, 0, 0]), so(&[(V1, [1.0, 0.0, 0.0])]));
    assert_eq!(take(5_000, [3, 1, 0, 0]), so(&[(V1, [2.0, 2.0, 0.0])]));
}

#[test]
fn a_full_queue_is_no_failure_and_what_could_not_be_sent_is_one() {
    let mut arms = Arms::default();
    arms.take(&families(&[(V1, [0; 4])]), at(0));
    let stat = |stat: &str, value| counter(&format!("cluster.{V1}.upstream_{stat}"), value);
    let families = [
        stat("rq_completed", 7.0),
        stat("rq_5xx", 7.0),
        stat("rq_pending_overflow", 1.0),
        stat("rq_active_overflow", 1.0),
        stat("rq_pending_failure_eject", 2.0),
        stat("cx_none_healthy", 3.0),
        stat("rq_cancelled", 1.0),
        gauge(&format!("cluster.{V1}.upstream_rq_pending_active"), 4.0),
    ];
    assert_eq!(told(arms.take(&families, at(500))), so(&[(V1, [5.0, 5.0, 4.0])]));
    assert_eq!(told(arms.take(&families, at(1_000))), so(&[(V1, [1.0, 1.0, 4.0])]), "the one that was cancelled");
}

#[test]
fn latencies_of_all_messages_but_the_first_are_merged() {
    let mut arms = Arms::default();
    let name = format!("cluster.{V1}.upstream_rq_time");
    let message = |below: u64, count| [histogram(&name, count, &[(0.5, below), (109.5, count)])];
    let latency = |told: Option<Told>| match told.unwrap().measures.remove(0).1 {
        Measure::Called { latency, .. } => latency.buckets,
        other => panic!("{other:?}"),
    };
    assert_eq!(latency(arms.take(&message(5, 5), at(0))), []);
    assert_eq!(arms.take(&message(1, 4), at(250)), None);
    assert_eq!(latency(arms.take(&message(0, 2), at(500))), [(0.001, 1.0), (0.11, 5.0), (f64::INFINITY, 0.0)]);
}

#[test]
fn only_arms_count_and_they_are_bounded() {
    let mut arms = Arms::default();
    let others = [
        counter("cluster.out_shop_cart_80.upstream_rq_total", 5.0),
        counter("cluster.arm_dns_api.stripe.example_443.upstream_rq_total", 5.0),
        counter("cluster.arm_x.upstream_rq_total", 5.0),
        counter("cluster.arm_shop_cart_80.upstream_rq_200", 5.0),
        counter("http.arm_shop_cart_80.upstream_rq_total", 5.0),
        Bytes::from_static(b"\n\xffcluster.arm_"),
        Bytes::from_static(b"\n"),
    ];
    assert_eq!(arms.take(&others, at(0)), None);
    // One of each length of a length.
    let long = format!("arm_{}_cart_80", "a".repeat(150));
    let names = [counter(&format!("cluster.{long}.upstream_rq_total"), 1.0), families(&[(V1, [1; 4])]).remove(0)];
    assert_eq!(told(arms.take(&names, at(0))).map(|told| told.len()), Some(2));
    let many: Vec<_> =
        (0..MOST_ARMS + 7).map(|n| counter(&format!("cluster.arm_a_{n}_1.upstream_rq_total"), 1.0)).collect();
    assert_eq!(told(Arms::default().take(&many, at(0))).map(|told| told.len()), Some(MOST_ARMS));
}

#[test]
fn a_sample_counts_for_three_intervals_of_the_slower_of_both() {
    let mut arms = Arms::default();
    let mut fresh = |ms| arms.take(&families(&[(V1, [0; 4])]), at(ms)).map(|told| told.fresh_for_ms);
    assert_eq!([fresh(0), fresh(250), fresh(480), fresh(5_480)], [Some(1_500), None, Some(1_500), Some(15_000)]);
}

proptest! {
    #[test]
    fn whatever_comes_makes_sense(messages in proptest::collection::vec((0_i64..2_000, [0_u32..50, 0..50, 0..50, 0..50]), 1..40)) {
        let (mut arms, mut now) = (Arms::default(), 0);
        for (gap, values) in messages {
            now += gap;
            for (_, measure) in arms.take(&families(&[(V1, values)]), at(now)).into_iter().flat_map(|told| told.measures) {
                prop_assert!(store::makes_sense(&measure), "{measure:?}");
            }
        }
    }

    #[test]
    fn what_was_counted_is_told_however_messages_fall(steps in proptest::collection::vec((0_u32..9, 0_u32..9, 0_u32..5), 1..40)) {
        let (mut arms, mut ever, mut sums) = (Arms::default(), [0; 4], [0.0; 2]);
        arms.take(&families(&[(V1, ever)]), at(0));
        let end = std::iter::repeat_n((0, 0, 0), 3);
        for (step, (well, failed, active)) in (1..).zip(steps.into_iter().chain(end)) {
            let completed = ever[1] + well + failed;
            ever = [completed + active, completed, ever[2] + failed, active];
            for (_, measure) in arms.take(&families(&[(V1, ever)]), at(step * 250)).into_iter().flat_map(|told| told.measures) {
                let Measure::Called { completed, failed, .. } = measure else { unreachable!("arms are called") };
                sums = [sums[0] + completed, sums[1] + failed];
            }
        }
        prop_assert_eq!(sums, [f64::from(ever[1]), f64::from(ever[2])]);
    }
}

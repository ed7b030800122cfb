use jiff::{SignedDuration, Timestamp};

use super::Tally;
use crate::metrics::{
    calls::Used,
    stream::families::tests::{counter, gauge},
};

const CART: &str = "out_shop_cart_8080";
const STRIPE: &str = "out_dns_api.stripe.example_443";

fn at(ms: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_millis(ms)
}

/// Requests and connections ever, requests and connections now.
fn families(of: &[(&str, [u32; 4])]) -> Vec<bytes::Bytes> {
    let of_one = |(name, values): &(&str, [u32; 4])| {
        let [requests, connections, inflight, connected] = values.map(f64::from);
        let name = |stat: &str| format!("cluster.{name}.upstream_{stat}");
        [
            counter(&name("rq_total"), requests),
            counter(&name("cx_total"), connections),
            gauge(&name("rq_active"), inflight),
            gauge(&name("cx_active"), connected),
        ]
    };
    of.iter().flat_map(of_one).collect()
}

fn used(name: &str, requests: u64, inflight: u64, active: u64) -> Used {
    Used { stat_name: name.into(), requests, inflight, active }
}

#[test]
fn requests_are_differences_and_what_is_open_is_told_when_it_turns() {
    let mut tally = Tally::default();
    let mut take = |ms, of: &[(&str, [u32; 4])]| tally.take(&families(of), at(ms));
    // Before the first message of a stream nobody knows of when requests are.
    assert_eq!(take(0, &[(CART, [70, 3, 0, 1])]), Some(vec![used(CART, 0, 0, 1)]));
    assert_eq!(take(250, &[(CART, [72, 3, 1, 1])]), None);
    assert_eq!(take(500, &[(CART, [73, 3, 2, 1]), (STRIPE, [1, 1, 1, 1])]), None);
    assert_eq!(
        take(1_000, &[(CART, [73, 3, 0, 1]), (STRIPE, [1, 1, 1, 1])]),
        Some(vec![used(STRIPE, 1, 1, 2), used(CART, 3, 0, 1)]),
    );
    // Nothing new is said, so that a receiver knows it is so.
    assert_eq!(take(2_000, &[(CART, [73, 3, 0, 1]), (STRIPE, [1, 1, 1, 1])]), Some(vec![]));
    assert_eq!(take(3_000, &[(CART, [73, 3, 0, 0]), (STRIPE, [1, 1, 1, 1])]), Some(vec![used(CART, 0, 0, 0)]));
    // A cluster that is gone is not in use; one that comes back begins at zero.
    assert_eq!(take(4_000, &[(CART, [73, 3, 0, 0])]), Some(vec![used(STRIPE, 0, 0, 0)]));
    assert_eq!(take(5_000, &[(CART, [73, 3, 0, 0])]), Some(vec![]));
    assert_eq!(take(6_000, &[(CART, [2, 1, 0, 1]), (STRIPE, [4, 1, 0, 0])]), {
        Some(vec![used(STRIPE, 4, 0, 0), used(CART, 2, 0, 1)])
    });
    // The clock was set back.
    assert_eq!(take(100, &[(CART, [3, 1, 0, 1]), (STRIPE, [4, 1, 0, 0])]), Some(vec![used(CART, 1, 0, 1)]));
}

#[test]
fn one_that_cannot_be_reached_was_called_and_one_that_went_between_is_told() {
    let mut tally = Tally::default();
    assert_eq!(tally.take(&[], at(0)), Some(vec![]));
    assert_eq!(tally.take(&families(&[(CART, [0, 2, 0, 1])]), at(250)), None);
    assert_eq!(tally.take(&[], at(500)), None);
    assert_eq!(tally.take(&[], at(1_000)), Some(vec![used(CART, 2, 0, 0)]));
    assert_eq!(tally.take(&[], at(2_000)), Some(vec![]));
}

#[test]
fn only_the_way_out_counts_and_what_makes_no_sense_does_not() {
    let mut tally = Tally::default();
    let long = format!("cluster.out_{}.upstream_rq_total", "x".repeat(1_024));
    let families = [
        counter("cluster.in_15080.upstream_rq_total", 5.0),
        counter("cluster.weir.upstream_rq_total", 5.0),
        counter("cluster.outer.upstream_rq_total", 5.0),
        counter("http.out_15001.downstream_rq_total", 5.0),
        counter("cluster.out_a_b_1.upstream_rq_5xx", 5.0),
        counter("cluster.out_a_b_1.circuit_breakers.default.upstream_rq_open", 5.0),
        counter("cluster.out_a_b_1.upstream_rq_total", f64::NAN),
        counter("cluster.arm_a_b_1.upstream_rq_total", 5.0),
        counter("cluster.arm_a_b_1.upstream_rq_completed", 5.0),
        counter(&long, 5.0),
        bytes::Bytes::from_static(b"\xff\xff\xff"),
    ];
    assert_eq!(tally.take(&families, at(0)), Some(vec![used("arm_a_b_1", 0, 0, 0), used("out_a_b_1", 0, 0, 0)]));
}

#[test]
fn destinations_of_one_proxy_are_bounded() {
    let mut tally = Tally::default();
    let many: Vec<_> = (0..super::MOST_DESTINATIONS + 7)
        .map(|n| counter(&format!("cluster.out_a_{n}_1.upstream_rq_total"), 1.0))
        .collect();
    assert_eq!(tally.take(&many, at(0)).map(|used| used.len()), Some(super::MOST_DESTINATIONS));
}

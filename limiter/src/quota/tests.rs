use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rate(requests: f64, seconds: u64) -> Rate {
    Rate::from_requests(requests, Duration::from_secs(seconds)).unwrap()
}

fn milli(milli_requests: u64) -> Rate {
    Rate { milli_requests, interval: SECOND }
}

#[test]
fn says_rates_in_the_policys_own_words() {
    let cases = [
        (rate(30.0, 1), "30 requests per second"),
        (rate(5.0, 3600), "5 requests per hour"),
        (rate(1.0, 86_400), "1 request per day"),
        (rate(0.5, 60), "0.5 requests per minute"),
        (rate(10.333_4, 1), "10.333 requests per second"),
        (rate(30.0, 5), "30 requests per 5 s"),
        (Rate { milli_requests: 2000, interval: Duration::from_millis(250) }, "2 requests per 250 ms"),
        (Rate { milli_requests: 2000, interval: Duration::from_millis(1500) }, "2 requests per 1.5 s"),
    ];
    for (rate, text) in cases {
        assert_eq!(rate.to_string(), text);
    }
}

#[test]
fn refuses_numbers_that_are_no_rate() {
    for requests in [0.0, -1.0, 0.0004, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30, u64::MAX as f64 / 1000.0] {
        assert_eq!(Rate::from_requests(requests, SECOND), None, "{requests}");
    }
    assert_eq!(Rate::from_requests(1.0, Duration::ZERO), None);
    assert_eq!(Rate::from_requests(0.0005, SECOND), Some(milli(1)));
}

#[test]
fn divides_the_articles_quota() {
    assert_eq!(shares(rate(30.0, 1), 3), vec![milli(10_000); 3]);
    assert_eq!(describe(&shares(rate(30.0, 1), 3)), "10 x3");
}

#[test]
fn describes_unequal_shares_largest_first() {
    assert_eq!(describe(&[milli(34_000), milli(33_000), milli(33_000)]), "34 x1, 33 x2");
    assert_eq!(describe(&shares(rate(100.0, 1), 3)), "33.334 x1, 33.333 x2");
    assert_eq!(describe(&[]), "");
}

#[test]
fn without_pods_the_total_is_one_share() {
    assert_eq!(shares(rate(30.0, 1), 0), vec![rate(30.0, 1)]);
}

#[test]
fn doubling_saturates() {
    assert_eq!(milli(3).doubled(), milli(6));
    assert_eq!(milli(u64::MAX - 1).doubled(), milli(u64::MAX));
}

#[test]
fn compares_rates_of_different_intervals() {
    assert_eq!(rate(1.0, 1).min(rate(59.0, 60)), rate(59.0, 60));
    assert_eq!(rate(1.0, 1).max(rate(59.0, 60)), rate(1.0, 1));
    assert_eq!(rate(60.0, 60).min(rate(1.0, 1)), rate(60.0, 60));
}

proptest! {
    #[test]
    fn shares_add_up_and_differ_by_at_most_a_thousandth(total in any::<u64>(), pods in 1_u32..2000) {
        let parts: Vec<u64> = shares(milli(total), pods).iter().map(|part| part.milli_requests).collect();
        prop_assert_eq!(parts.len(), pods as usize);
        prop_assert_eq!(parts.iter().map(|part| u128::from(*part)).sum::<u128>(), u128::from(total));
        prop_assert!(parts.is_sorted_by(|one, other| one >= other));
        prop_assert!(parts[0] - parts[parts.len() - 1] <= 1);
    }

    #[test]
    fn shares_grow_with_the_total_and_shrink_with_the_pods(total in 0_u64..u64::MAX, more in 0_u64..1_000_000, pods in 1_u32..500) {
        let parts = shares(milli(total), pods);
        let larger = shares(milli(total.saturating_add(more)), pods);
        prop_assert!(parts.iter().zip(&larger).all(|(one, other)| one.milli_requests <= other.milli_requests));
        let split = shares(milli(total), pods + 1);
        prop_assert!(parts.iter().zip(&split).all(|(one, other)| one.milli_requests >= other.milli_requests));
    }

    #[test]
    fn any_number_makes_a_positive_rate_or_none(requests in any::<f64>(), seconds in 0_u64..100_000) {
        if let Some(rate) = Rate::from_requests(requests, Duration::from_secs(seconds)) {
            prop_assert!(rate.milli_requests > 0 && rate.per_second() > 0.0 && rate.per_second().is_finite());
        }
    }
}

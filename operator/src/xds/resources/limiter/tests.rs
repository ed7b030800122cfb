use std::time::Duration;

use ::limiter::policy::default_burst;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn rate(requests: f64, interval: Duration) -> Rate {
    Rate { milli_requests: (requests * 1_000.0).round() as u64, interval }
}

fn steady(rate: Rate, burst: u32) -> LimitValue {
    LimitValue { rate, burst, lowest: rate }
}

fn class(charge: Charge) -> Class {
    *CLASSES.iter().find(|class| class.name == charge.class).expect("the class is in the table")
}

/// Requests that a full bucket admits at once.
fn burst(charge: Charge) -> u32 {
    class(charge).max_tokens() / charge.cost
}

#[test]
fn classes_ascend_are_named_by_their_seconds_and_never_hold_more_than_envoy_takes() {
    for pair in CLASSES.windows(2) {
        assert!(pair[0].fill_ms < pair[1].fill_ms, "{pair:?}");
    }
    for class in CLASSES {
        let seconds: f64 = class.name.parse().expect("a number");
        assert_eq!((seconds * 1_000.0).round() as u64, class.fill_ms);
        assert!(class.max_tokens() <= 1_000_000_000, "{class:?}");
        let exact = u64::from(class.tokens_per_second()) * class.fill_ms;
        assert_eq!(u64::from(class.max_tokens()) * 1_000, exact, "{class:?}");
    }
}

/// The table that was measured on Envoy (docs/reference/limits.md).
#[test]
fn measured_limits_get_the_measured_class_and_cost() {
    let cases = [
        (steady(rate(1.0, DAY), 1), "86400", 864_000_000),
        (steady(rate(5.0, HOUR), 1), "720", 720_000_000),
        (steady(rate(5.0, HOUR), 5), "3600", 72_000_000),
        (steady(rate(30.0, MINUTE), 1), "2", 200_000_000),
        (steady(rate(30.0, MINUTE), 5), "10", 200_000_000),
        (steady(rate(5.0, SECOND), 1), "0.2", 20_000_000),
        (steady(rate(50.0, SECOND), 5), "0.1", 2_000_000),
        (steady(rate(500.0, SECOND), 50), "0.1", 200_000),
        (steady(rate(100.0, SECOND), 200), "2", 1_000_000),
        (steady(rate(20_000.0, SECOND), 2_000), "0.1", 5_000),
    ];
    for (value, class, cost) in cases {
        assert_eq!(charge(&value), Charge { class, cost }, "{value:?}");
    }
}

#[test]
fn a_rate_of_zero_admits_nothing() {
    for value in [steady(rate(0.0, SECOND), 5), steady(rate(5.0, Duration::ZERO), 5)] {
        let charge = charge(&value);
        if value.rate.milli_requests == 0 {
            assert_eq!(charge, DENY);
            assert_eq!(burst(charge), 0);
        }
        assert!(charge.cost >= 1);
    }
}

#[test]
fn a_limit_that_moves_above_its_lowest_rate_keeps_its_class() {
    let lowest = rate(20.0, SECOND);
    let classes: Vec<_> = [20.0, 21.0, 100.0, 500.0, 5_000.0]
        .map(|moved| charge(&LimitValue { rate: rate(moved, SECOND), burst: 5, lowest }).class)
        .into();
    assert_eq!(classes, ["0.25"; 5]);
}

fn any_rate() -> impl Strategy<Value = Rate> {
    // From 1/day to 1e5/s, evenly on a logarithmic scale, in each of the language's units.
    let log = (1.0_f64 / 86_400.0).ln()..=1e5_f64.ln();
    (log, prop::sample::select(vec![SECOND, MINUTE, HOUR, DAY])).prop_filter_map("at least 1/1000", |(log, unit)| {
        let made = rate(log.exp() * unit.as_secs_f64(), unit);
        let in_bounds = made.per_second() >= 1.0 / 86_400.0 && made.per_second() <= 1e5;
        (made.milli_requests > 0 && in_bounds).then_some(made)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn the_rate_is_met_within_one_in_two_thousand(rate in any_rate()) {
        let charge = charge(&steady(rate, default_burst(rate)));
        let got = f64::from(class(charge).tokens_per_second()) / f64::from(charge.cost);
        let error = (got / rate.per_second() - 1.0).abs();
        prop_assert!(error <= 0.000_5, "{rate:?}: {got}/s, {error}");
    }

    #[test]
    fn a_default_burst_is_met_and_exceeded_by_at_most_two_fifths(rate in any_rate()) {
        let wanted = default_burst(rate);
        let got = burst(charge(&steady(rate, wanted)));
        prop_assert!(got >= wanted, "{rate:?}: {got} < {wanted}");
        prop_assert!(f64::from(got) <= f64::from(wanted) * 1.4, "{rate:?}: {got} > {wanted}");
    }

    #[test]
    fn an_explicit_burst_is_never_undercut(rate in any_rate(), wanted in 1_u32..1_000_000) {
        // Up to the largest class: seven days.
        let wanted = wanted.min((rate.per_second() * 600_000.0) as u32).max(1);
        let got = burst(charge(&steady(rate, wanted)));
        prop_assert!(got >= wanted, "{rate:?}: {got} < {wanted}");
    }

    #[test]
    fn any_value_yields_a_cost_that_envoy_takes(
        milli in any::<u64>(), nanos in any::<u64>(), low in any::<u64>(), low_seconds in any::<u64>(), burst in any::<u32>(),
    ) {
        let value = LimitValue {
            rate: Rate { milli_requests: milli, interval: Duration::from_nanos(nanos) },
            burst,
            lowest: Rate { milli_requests: low, interval: Duration::from_secs(low_seconds) },
        };
        let charge = charge(&value);
        prop_assert!(charge.cost >= 1);
        prop_assert!(charge.cost <= class(charge).max_tokens() || charge == DENY, "{charge:?}");
    }
}

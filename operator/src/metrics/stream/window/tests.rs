use limiter::metric::Word;
use proptest::prelude::*;

use super::{Counters, Snapshot, Window};
use crate::metrics::{Histogram, Measure};

fn slow(count: f64) -> Histogram {
    Histogram { buckets: vec![(0.1, 0.0), (0.2, count)] }
}

fn at(at_ms: i64, counters: Counters) -> Snapshot {
    Snapshot { at_ms, counters, ..Snapshot::default() }
}

fn offered(at_ms: i64, offered: f64) -> Snapshot {
    at(at_ms, Counters { offered, ..Counters::default() })
}

fn number(measures: &[Measure], wanted: &Word) -> Option<f64> {
    measures.iter().find_map(|measure| match measure {
        Measure::Number(word, value) if word == wanted => Some(*value),
        _ => None,
    })
}

fn requests(window: &mut Window, snapshot: Snapshot) -> Option<f64> {
    number(&window.take(snapshot).measures, &Word::Requests)
}

fn latency(window: &mut Window, snapshot: Snapshot) -> Option<f64> {
    let measures = window.take(snapshot).measures;
    let histogram = measures.into_iter().find_map(|measure| match measure {
        Measure::Latency(histogram) => Some(histogram),
        _ => None,
    });
    histogram.map(|histogram| histogram.count())
}

#[test]
fn the_first_message_gives_no_rate_and_a_step_is_seen_within_half_a_second() {
    let mut window = Window::default();
    let totals = [(0, 1000.0), (250, 1000.0), (500, 1000.0), (750, 1050.0), (1000, 1100.0), (1250, 1150.0)];
    let rates: Vec<_> = totals.map(|(at, total)| requests(&mut window, offered(at + 5_000, total))).into();
    assert_eq!(rates, [None, None, Some(0.0), Some(100.0), Some(200.0), Some(200.0)]);
}

#[test]
fn a_lost_message_loses_no_request() {
    let mut window = Window::default();
    for (at, total) in [(0, 0.0), (250, 25.0), (500, 50.0)] {
        requests(&mut window, offered(at, total));
    }
    assert_eq!(requests(&mut window, offered(1_000, 100.0)), Some(100.0));
}

#[test]
fn counters_that_begin_again_and_gaps_give_nothing_until_the_window_is_full() {
    let mut window = Window::default();
    for (at, total) in [(0, 9_000.0), (500, 9_100.0)] {
        requests(&mut window, offered(at, total));
    }
    assert_eq!(requests(&mut window, offered(750, 10.0)), None, "restarted");
    assert_eq!(requests(&mut window, offered(1_250, 60.0)), Some(100.0));
    assert_eq!(requests(&mut window, offered(60_000, 70_000.0)), None, "a long silence");
    assert_eq!(requests(&mut window, offered(60_500, 70_050.0)), Some(100.0));
    assert_eq!(requests(&mut window, offered(1_000, 70_060.0)), None, "the clock was set back");
    let mut window = Window::default();
    let quick = [(0, 100.0), (250, 110.0), (500, 5.0), (750, 120.0), (1_000, 180.0)];
    let rates: Vec<_> = quick.map(|(at, total)| requests(&mut window, offered(at, total))).into();
    assert_eq!(rates, [None, None, None, None, Some(350.0)], "restarted, and soon beyond what it had counted");
}

#[test]
fn a_slow_stream_is_measured_over_its_interval() {
    let mut window = Window::default();
    let rates: Vec<_> = (0..4).map(|n| requests(&mut window, offered(n * 5_000, 500.0 * n as f64))).collect();
    assert_eq!(rates[2..], [Some(100.0), Some(100.0)]);
    assert_eq!(window.take(offered(20_000, 2_000.0)).fresh_for.as_millis(), 15_000);
}

#[test]
fn what_a_limit_or_a_full_queue_refused_is_no_error() {
    let counters = Counters {
        offered: 200.0,
        completed: 120.0,
        failed: 30.0,
        overflowed: 20.0,
        limited: 80.0,
        grpc_failed: 5.0,
        classes: [("p#r/gold".to_owned(), 50.0)].into(),
        excess: [("p/r".to_owned(), 10.0)].into(),
    };
    let mut window = Window::default();
    window.take(at(0, Counters::default()));
    let measures = window.take(at(500, counters)).measures;
    assert!(measures.contains(&Measure::Errors { failed: 15.0, answered: 100.0 }), "{measures:?}");
    let words = [
        Word::Requests,
        Word::Answers,
        Word::Refused,
        Word::ErrorsPerSecond,
        Word::Demand("p#r/gold".into()),
        Word::Excess("p/r".into()),
    ];
    let numbers = words.map(|word| number(&measures, &word));
    assert_eq!(numbers, [400.0, 200.0, 200.0, 30.0, 100.0, 20.0].map(Some));
}

#[test]
fn latencies_of_the_window_are_taken_together_and_no_traffic_is_none() {
    let mut window = Window::default();
    let snapshot = |at_ms, count, inflight| Snapshot { at_ms, latency: slow(count), inflight, ..Snapshot::default() };
    window.take(snapshot(0, 100.0, 1.0));
    assert_eq!(latency(&mut window, snapshot(250, 1.0, 1.0)), None);
    assert_eq!(latency(&mut window, snapshot(500, 2.0, 1.0)), Some(3.0), "the first point lies before the window");
    assert_eq!(latency(&mut window, snapshot(750, 4.0, 1.0)), Some(6.0));
    assert_eq!(latency(&mut window, snapshot(1_000, 0.0, 0.0)), Some(4.0));
    assert_eq!(latency(&mut window, snapshot(1_250, 0.0, 0.0)), Some(0.0), "nothing was asked");
}

fn knows_errors_and_latency(window: &mut Window, snapshot: Snapshot) -> (bool, bool) {
    let measures = window.take(snapshot).measures;
    assert!(number(&measures, &Word::Inflight).is_some(), "{measures:?}");
    let has = |is: fn(&Measure) -> bool| measures.iter().any(is);
    (has(|measure| matches!(measure, Measure::Errors { .. })), has(|measure| matches!(measure, Measure::Latency(_))))
}

#[test]
fn an_application_that_answers_nothing_is_neither_fast_nor_free_of_errors() {
    let point = |at_ms, inflight, offered: f64, limited: f64, completed: f64| {
        let counters = Counters { offered, limited, completed, ..Counters::default() };
        Snapshot { inflight, ..at(at_ms, counters) }
    };
    // After a restart of Weir, so that nothing is known from before: it hangs, for longer than any timeout.
    let mut window = Window::default();
    window.take(point(0, 50.0, 1_000.0, 0.0, 950.0));
    for n in 1..100 {
        assert_eq!(knows_errors_and_latency(&mut window, point(500 * n, 50.0, 1_000.0, 0.0, 950.0)), (false, false));
    }
    // Callers that give up leave nothing in flight; what a limit refused has asked nothing of it.
    let mut window = Window::default();
    window.take(point(0, 0.0, 0.0, 0.0, 0.0));
    assert_eq!(knows_errors_and_latency(&mut window, point(500, 0.0, 20.0, 5.0, 0.0)), (false, false));
    assert_eq!(knows_errors_and_latency(&mut window, point(1_000, 0.0, 40.0, 25.0, 0.0)), (true, true), "all refused");
    assert_eq!(knows_errors_and_latency(&mut window, point(1_500, 3.0, 60.0, 25.0, 1.0)), (true, true), "one answer");
    assert_eq!(knows_errors_and_latency(&mut window, point(2_000, 0.0, 60.0, 25.0, 1.0)), (true, true), "idle");
}

proptest! {
    #[test]
    fn measures_are_finite_never_negative_and_never_more_than_was_counted(
        points in proptest::collection::vec((-500_i64..5_000, proptest::collection::vec(0_u32..100_000, 6)), 0..40),
    ) {
        let (mut window, mut now) = (Window::default(), 10_000);
        for (step, counts) in points {
            now += step;
            let count = |n: usize| f64::from(counts[n]);
            let counters = Counters {
                offered: count(0), completed: count(1), failed: count(2), overflowed: count(3), limited: count(4),
                grpc_failed: count(5), classes: [("a".to_owned(), count(0))].into(), excess: [("a".to_owned(), count(4))].into(),
            };
            for measure in window.take(at(now, counters)).measures {
                match measure {
                    Measure::Number(_, value) => prop_assert!((0.0..=200_000.0 / 0.45).contains(&value), "{value}"),
                    Measure::Errors { failed, answered } => prop_assert!(0.0 <= failed && failed <= answered),
                    Measure::Latency(histogram) => prop_assert_eq!(histogram.count(), 0.0),
                    Measure::Called { .. } => prop_assert!(false, "of a caller"),
                }
            }
        }
    }
}

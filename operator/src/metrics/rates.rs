//! From what a page says to the words of the language: counters become rates, usage becomes a fraction of its limit.
//!
//! A rate is taken over a window (500 ms, or one interval if that is longer): process clocks often tick in steps of
//! 10 ms, which over one short interval and a small CPU limit would be a large error. A counter that fell was reset:
//! the rate starts anew, and nothing is reported until a window has passed. So does a rate after a long gap, because
//! an average over the gap says nothing about now. Time here is the reader's monotonic clock, so that a step of the
//! wall clock cannot make a rate.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use limiter::metric::Word;

use super::{
    Target,
    text::{Found, Wanted, scan},
};

/// The shortest time that a rate is taken over.
pub const SHORTEST_WINDOW: Duration = Duration::from_millis(500);

/// CPU time of the process, in seconds, as Prometheus' client libraries name it.
pub const CPU_SERIES: &str = "process_cpu_seconds_total";
/// Resident memory of the process, in bytes, as Prometheus' client libraries name it.
pub const MEMORY_SERIES: &str = "process_resident_memory_bytes";

/// One counter's recent past.
#[derive(Clone, Debug)]
pub struct Counter {
    window: Duration,
    points: VecDeque<(Duration, f64)>,
}

impl Counter {
    /// A counter without a past; rates are taken over about `window`.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, points: VecDeque::new() }
    }

    /// Takes the counter's value at `at` (since any fixed moment) and gives its increase per second, once known.
    pub fn observe(&mut self, at: Duration, value: f64) -> Option<f64> {
        if !value.is_finite() {
            return None;
        }
        if let Some((last_at, last_value)) = self.points.back() {
            if at <= *last_at {
                return None;
            }
            if value < *last_value || at - *last_at > self.window * 4 {
                self.points.clear();
            }
        }
        self.points.push_back((at, value));
        // Reads jitter by a few milliseconds; without the slack every second window would be one interval longer.
        let old_enough = self.window.mul_f64(0.9);
        while self.points.len() > 2 && at - self.points[1].0 >= old_enough {
            self.points.pop_front();
        }
        let (from, first) = self.points[0];
        (at - from >= old_enough).then(|| (value - first) / (at - from).as_secs_f64()).filter(|rate| rate.is_finite())
    }
}

/// What one page says in the words of the language.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Values known now, finite.
    pub values: Vec<(Word, f64)>,
    /// Words that this target cannot give, with the reason and the mend.
    pub unavailable: BTreeMap<Word, String>,
    /// No wanted series was on the page at all: probably not a metrics page.
    pub nothing_found: bool,
}

/// The recent past of one target's counters.
#[derive(Clone, Debug)]
pub struct PodRates {
    window: Duration,
    counters: BTreeMap<Word, Counter>,
}

impl PodRates {
    /// For a target that is read every `interval`.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { window: SHORTEST_WINDOW.max(interval), counters: BTreeMap::new() }
    }

    /// Reads `page`, which was true at `at` (since any fixed moment).
    pub fn read(&mut self, target: &Target, page: &[u8], at: Duration) -> Reading {
        let none = BTreeMap::new();
        let mut wanted =
            vec![Wanted { name: CPU_SERIES, labels: &none }, Wanted { name: MEMORY_SERIES, labels: &none }];
        wanted.extend(target.series.iter().map(|series| Wanted { name: &series.series, labels: &series.labels }));
        let found = scan(page, &wanted);
        let mut reading =
            Reading { nothing_found: found.iter().all(|found| *found == Found::Nothing), ..Reading::default() };

        let cpu = self.rate(Word::Cpu, found[0], at);
        usage(
            &mut reading,
            Word::Cpu,
            (found[0], cpu),
            CPU_SERIES,
            target.cpu_limit_cores,
            "no resources.limits.cpu on the pod's containers, so there is no 100 %: set it in the Pod's manifest",
        );
        let memory = value(found[1]);
        usage(
            &mut reading,
            Word::Memory,
            (found[1], memory),
            MEMORY_SERIES,
            target.memory_limit_bytes,
            "no resources.limits.memory on the pod's containers, so there is no 100 %: set it in the Pod's manifest",
        );
        for (series, found) in target.series.iter().zip(&found[2..]) {
            let word = Word::Named(series.name.clone());
            let now = if series.rate { self.rate(word.clone(), *found, at) } else { value(*found) };
            note(&mut reading, &word, *found, &series.series);
            reading.values.extend(now.map(|value| (word, value)));
        }
        reading
    }

    fn rate(&mut self, word: Word, found: Found, at: Duration) -> Option<f64> {
        let counter = self.counters.entry(word).or_insert_with(|| Counter::new(self.window));
        value(found).and_then(|value| counter.observe(at, value))
    }
}

fn value(found: Found) -> Option<f64> {
    match found {
        Found::Sum(value) => Some(value),
        Found::Nothing | Found::Unusable => None,
    }
}

fn note(reading: &mut Reading, word: &Word, found: Found, series: &str) {
    let reason = match found {
        Found::Sum(_) => return,
        Found::Nothing => format!("the page has no series {series:?} (with the labels asked for)"),
        Found::Unusable => format!("the page's series {series:?} has a value that is not a finite number"),
    };
    reading.unavailable.insert(word.clone(), reason);
}

fn usage(
    reading: &mut Reading,
    word: Word,
    (found, used): (Found, Option<f64>),
    series: &str,
    limit: Option<f64>,
    without_limit: &str,
) {
    note(reading, &word, found, series);
    match limit {
        Some(limit) if limit > 0.0 => {
            let fraction = used.map(|used| used / limit).filter(|fraction| fraction.is_finite());
            reading.values.extend(fraction.map(|fraction| (word, fraction)));
        }
        _ => {
            reading.unavailable.insert(word, without_limit.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use limiter::metric::Word;
    use proptest::prelude::*;

    use super::{Counter, PodRates};
    use crate::{
        intent::ServiceKey,
        metrics::{Series, Target},
    };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn target() -> Target {
        Target {
            service: ServiceKey { namespace: "ns-a".into(), name: "checkout".into() },
            pod: "checkout-1".into(),
            url: "http://127.0.0.1:1/metrics".into(),
            cpu_limit_cores: Some(0.2),
            memory_limit_bytes: Some(1000.0),
            series: vec![],
        }
    }

    #[test]
    fn a_rate_needs_a_window_and_follows_a_step_within_it() {
        let mut counter = Counter::new(ms(500));
        let values = [0.0, 0.0, 0.0, 0.25, 0.5, 0.75];
        let rates: Vec<_> =
            values.iter().enumerate().map(|(n, value)| counter.observe(ms(250 * n as u64), *value)).collect();
        assert_eq!(rates, [None, None, Some(0.0), Some(0.5), Some(1.0), Some(1.0)]);
    }

    #[test]
    fn a_clock_that_ticks_in_10_ms_is_off_by_at_most_a_tick_a_window() {
        let mut counter = Counter::new(ms(500));
        for n in 0..40_u64 {
            let at = ms(253 * n);
            let used = (at.as_secs_f64() * 0.16 * 100.0).floor() / 100.0;
            if let Some(rate) = counter.observe(at, used) {
                assert!((rate - 0.16).abs() <= 0.01 / 0.5, "{rate}");
            }
        }
    }

    #[test]
    fn a_reset_starts_anew_without_a_sample() {
        let mut counter = Counter::new(ms(500));
        for (at, value) in [(0, 100.0), (500, 101.0)] {
            counter.observe(ms(at), value);
        }
        assert_eq!(counter.observe(ms(750), 0.1), None);
        assert_eq!(counter.observe(ms(1000), 0.2), None);
        assert_eq!(counter.observe(ms(1250), 1.1), Some(2.0));
    }

    #[test]
    fn a_gap_is_not_averaged_over() {
        let mut counter = Counter::new(ms(500));
        counter.observe(ms(0), 0.0);
        assert_eq!(counter.observe(ms(60_000), 600.0), None);
        assert_eq!(counter.observe(ms(60_500), 600.5), Some(1.0));
    }

    #[test]
    fn cpu_and_memory_are_fractions_of_the_limits() {
        let mut rates = PodRates::new(ms(250));
        let page = |cpu: f64| format!("process_cpu_seconds_total {cpu}\nprocess_resident_memory_bytes 250\n");
        rates.read(&target(), page(1.0).as_bytes(), ms(0));
        let reading = rates.read(&target(), page(1.1).as_bytes(), ms(500));
        assert_eq!(reading.unavailable, [].into());
        assert_eq!(reading.values.len(), 2);
        assert_eq!(reading.values[0].0, Word::Cpu);
        assert!((reading.values[0].1 - 1.0).abs() < 1e-9);
        assert_eq!(reading.values[1], (Word::Memory, 0.25));
    }

    #[test]
    fn without_a_limit_there_is_a_reason_instead_of_a_value() {
        for limit in [None, Some(0.0), Some(f64::NAN)] {
            let target = Target { cpu_limit_cores: limit, ..target() };
            let mut rates = PodRates::new(ms(250));
            rates.read(&target, b"process_cpu_seconds_total 1\n", ms(0));
            let reading = rates.read(&target, b"process_cpu_seconds_total 2\n", ms(500));
            assert_eq!(reading.values, []);
            assert!(reading.unavailable[&Word::Cpu].contains("resources.limits.cpu"));
            assert!(reading.unavailable[&Word::Memory].contains("process_resident_memory_bytes"));
        }
    }

    #[test]
    fn named_series_are_values_or_rates() {
        let series = |name: &str, rate| Series {
            name: name.into(),
            series: "jobs".into(),
            labels: [("queue".to_owned(), "a".to_owned())].into(),
            rate,
        };
        let target = Target { series: vec![series("depth", false), series("speed", true)], ..target() };
        let mut rates = PodRates::new(ms(250));
        rates.read(&target, b"jobs{queue=\"a\"} 10\njobs{queue=\"b\"} 70\n", ms(0));
        let reading = rates.read(&target, b"jobs{queue=\"a\"} 12\n", ms(500));
        assert_eq!(reading.values, [(Word::Named("depth".into()), 12.0), (Word::Named("speed".into()), 4.0)]);
        assert!(!reading.nothing_found);
        assert!(rates.read(&target, b"<html>\n", ms(700)).nothing_found);
    }

    proptest! {
        #[test]
        fn rates_are_finite_and_never_negative(points in proptest::collection::vec((0_u64..3000, any::<f64>()), 0..50)) {
            let mut counter = Counter::new(ms(500));
            let mut now = 0;
            for (step, value) in points {
                now += step;
                if let Some(rate) = counter.observe(ms(now), value) {
                    prop_assert!(rate.is_finite() && rate >= 0.0);
                }
            }
        }
    }
}

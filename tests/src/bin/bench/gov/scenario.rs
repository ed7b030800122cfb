//! What is asked of the service over time, and what it can do meanwhile.

use std::{ops::Range, time::Duration};

use limiter::policy::LawKind;
use operator::demo::load::Phase;

use super::arm::Arm;

/// Load before and after, as a part of the capacity.
const NORMAL: f64 = 0.7;
/// An arm that adapts must have done so after this many seconds.
pub(crate) const CONVERGED: f64 = 1.0;

/// This part of the high class must be served while its demand is below the capacity.
pub(crate) const HIGH_SERVED: f64 = 0.99;

/// Whether an arm has something to say in a scenario: classes only where there are some, and there only what adapts.
pub(crate) fn suits(scenario: &Scenario, arm: Arm) -> bool {
    match arm {
        Arm::Classes(_) => scenario.has_classes(),
        Arm::Gradient | Arm::Adapt(LawKind::CompletionRate) => true,
        _ => !scenario.has_classes(),
    }
}

/// Lengths of the three stretches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeline {
    pub(crate) before: Duration,
    pub(crate) surge: Duration,
    pub(crate) after: Duration,
}

impl Timeline {
    pub(crate) const SHORT: Self =
        Self { before: Duration::from_secs(4), surge: Duration::from_secs(12), after: Duration::from_secs(4) };
    pub(crate) const LONG: Self =
        Self { before: Duration::from_secs(20), surge: Duration::from_secs(40), after: Duration::from_secs(40) };

    pub(crate) fn whole(&self) -> Duration {
        self.before + self.surge + self.after
    }

    /// The surge without its first quarter.
    pub(crate) fn settled(&self) -> Range<Duration> {
        self.before + self.surge / 4..self.end()
    }

    /// The end of the surge.
    pub(crate) fn end(&self) -> Duration {
        self.before + self.surge
    }
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Load in the surge as parts of the capacity, one after the other, each for [`Scenario::PART`], again and again.
    surge: &'static [f64],
    pub(crate) workers_in_surge: usize,
    /// The part of the load that is of the high class, as parts of the capacity: normally, and in the surge.
    high: Option<(f64, f64)>,
    /// Goodput that an arm which adapts should reach.
    pub(crate) goal: Option<f64>,
}

pub(crate) const SCENARIOS: [Scenario; 5] = [
    Scenario { name: "2x", surge: &[2.0], workers_in_surge: 4, high: None, goal: Some(0.98) },
    Scenario { name: "10x", surge: &[10.0], workers_in_surge: 4, high: None, goal: Some(0.95) },
    Scenario { name: "capacity halved", surge: &[NORMAL], workers_in_surge: 2, high: None, goal: Some(0.95) },
    Scenario { name: "oscillating", surge: &[3.0, 0.4], workers_in_surge: 4, high: None, goal: None },
    Scenario {
        name: "10x with classes",
        surge: &[10.0],
        workers_in_surge: 4,
        high: Some((0.14, 0.5)),
        goal: Some(0.95),
    },
];

impl Scenario {
    /// About as long as a controller needs to see a step and to answer it: the worst that a load can do to it.
    const PART: Duration = Duration::from_millis(500);

    /// The highest load as a part of the capacity.
    pub(crate) fn peak(&self) -> f64 {
        self.surge.iter().copied().fold(NORMAL, f64::max)
    }

    /// Whether requests are of two classes.
    pub(crate) fn has_classes(&self) -> bool {
        self.high.is_some()
    }

    /// The load generator's phases for the low class, which is everything where there are no classes, and for the high one.
    pub(crate) fn phases(&self, warm_up: Duration, timeline: Timeline, capacity: f64) -> [Vec<Phase>; 2] {
        let (normal, surge) = self.high.unwrap_or_default();
        let low =
            self.class(warm_up, timeline, capacity, |load, in_surge| load - if in_surge { surge } else { normal });
        [low, self.class(warm_up, timeline, capacity, |_, in_surge| if in_surge { surge } else { normal })]
    }

    fn class(
        &self,
        warm_up: Duration,
        timeline: Timeline,
        capacity: f64,
        part: impl Fn(f64, bool) -> f64,
    ) -> Vec<Phase> {
        let phase = |name: &str, load: f64, duration| Phase {
            name: name.to_owned(),
            per_second: part(load, name == "surge") * capacity,
            duration,
        };
        let mut phases = vec![phase("before", NORMAL, warm_up + timeline.before)];
        if let [only] = self.surge {
            phases.push(phase("surge", *only, timeline.surge));
        } else {
            let parts = timeline.surge.as_millis() / Self::PART.as_millis();
            let loads = self.surge.iter().cycle().zip(0..parts);
            phases.extend(loads.map(|(load, _)| phase("surge", *load, Self::PART)));
        }
        phases.push(phase("after", NORMAL, timeline.after));
        phases
    }

    /// Requests per second that the service can answer at this moment.
    pub(crate) fn able(&self, at: Duration, timeline: &Timeline, capacity: f64) -> f64 {
        let in_surge = at >= timeline.before && at < timeline.end();
        let workers = if in_surge { self.workers_in_surge } else { super::SERVICE.workers };
        capacity * workers as f64 / super::SERVICE.workers as f64
    }

    /// The end of the stretch of one rate that holds this moment; longer ones count as several.
    pub(crate) fn part_end(at: Duration) -> Duration {
        let part = at.as_millis() / Self::PART.as_millis();
        Self::PART * u32::try_from(part + 1).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SCENARIOS, Scenario, Timeline};

    #[test]
    fn phases_fill_the_time_and_the_capacity_follows() {
        let timeline = Timeline::SHORT;
        for scenario in SCENARIOS {
            let [low, high] = scenario.phases(Duration::from_secs(2), timeline, 400.0);
            for phases in [&low, &high] {
                let whole: Duration = phases.iter().map(|phase| phase.duration).sum();
                assert_eq!(whole, timeline.whole() + Duration::from_secs(2), "{}", scenario.name);
            }
            let together = low[1].per_second + high[1].per_second;
            assert!((together - scenario.surge[0] * 400.0).abs() < 1e-9, "{}", scenario.name);
        }
        let able = |name: &str, millis| {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap();
            scenario.able(Duration::from_millis(millis), &timeline, 400.0)
        };
        for (name, millis, expected) in [
            ("2x", 100, 400.0),
            ("capacity halved", 3999, 400.0),
            ("capacity halved", 4100, 200.0),
            ("capacity halved", 16_000, 400.0),
        ] {
            assert!((able(name, millis) - expected).abs() < 1e-9, "{name} at {millis}");
        }
        let end = |millis| Scenario::part_end(Duration::from_millis(millis)).as_millis();
        assert_eq!([end(0), end(499), end(500), end(4100)], [500, 500, 1000, 4500]);
    }
}

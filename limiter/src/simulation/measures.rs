//! Counts of an interval, as the engine sees them and as rows; the summary of a run.

use super::{CONVERGED, ClassRow, Row, Scenario, Summary};

/// What one pod's proxy counted in one interval.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) offered: u32,
    pub(super) refused: u32,
    pub(super) completed: u32,
    pub(super) good: u32,
    pub(super) timed_out: u32,
    /// Times to answer in seconds.
    pub(super) latencies: Vec<f64>,
    /// Worker seconds used.
    pub(super) busy: f64,
    /// By class: offered, good.
    pub(super) classes: Vec<(u32, u32)>,
}

impl Counts {
    pub(super) fn new(classes: usize) -> Self {
        Self { classes: vec![(0, 0); classes], ..Self::default() }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.refused += other.refused;
        self.completed += other.completed;
        self.good += other.good;
        self.timed_out += other.timed_out;
        self.latencies.extend(&other.latencies);
        self.busy += other.busy;
        for (mine, theirs) in self.classes.iter_mut().zip(&other.classes) {
            mine.0 += theirs.0;
            mine.1 += theirs.1;
        }
    }

    /// The quantile by the nearest rank. Sorts.
    pub(super) fn quantile(&mut self, part: f64) -> Option<f64> {
        self.latencies.sort_by(f64::total_cmp);
        let rank = (part * self.latencies.len() as f64).ceil().max(1.0) as usize;
        self.latencies.get(rank - 1).copied()
    }
}

/// The row of all pods' counts over `seconds`.
pub(super) fn row(counts: &mut Counts, seconds: f64) -> Row {
    let per_second = |count: u32| f64::from(count) / seconds;
    let (p50, p99) = (counts.quantile(0.5), counts.quantile(0.99));
    let class = |(offered, good): &(u32, u32)| ClassRow { offered: per_second(*offered), goodput: per_second(*good) };
    Row {
        offered: per_second(counts.offered),
        admitted: per_second(counts.offered - counts.refused),
        refused: per_second(counts.refused),
        completed: per_second(counts.completed),
        goodput: per_second(counts.good),
        p50,
        p99,
        classes: counts.classes.iter().map(class).collect(),
        ..Row::default()
    }
}

pub(super) fn summary(scenario: &Scenario, rows: &[Row]) -> Summary {
    let (start, end) = (scenario.surge.0.as_secs_f64(), scenario.surge.1.as_secs_f64());
    let between = |from: f64, to: f64| {
        // A row's time is the end of its interval.
        rows.iter().filter(move |row| row.t > from + 1e-9 && row.t <= to + 1e-9)
    };
    let steady = || between(start + (end - start) / 4.0, end);
    let count = steady().count().max(1) as f64;
    let wanted = |row: &Row| row.offered.min(row.capacity);
    let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let refused = |from: f64, to: f64| {
        ratio(between(from, to).map(|row| row.refused).sum(), between(from, to).map(|row| row.offered).sum())
    };
    let goodput = ratio(steady().map(|row| row.goodput).sum(), steady().map(wanted).sum());
    // Over 2 s from `from`, as a part of what was wanted.
    let window = |from: f64| {
        ratio(between(from, from + 2.0).map(|row| row.goodput).sum(), between(from, from + 2.0).map(wanted).sum())
    };
    let step = scenario.observe_every.as_secs_f64();
    let starts: Vec<f64> = (0..).map(|i| start + f64::from(i) * step).take_while(|at| *at + 2.0 <= end).collect();
    let held = (5.0 / step).round() as usize;
    let enough: Vec<bool> = starts.iter().map(|at| goodput > 0.0 && window(*at) >= CONVERGED * goodput).collect();
    let converged = enough.windows(held.clamp(1, enough.len().max(1))).position(|run| run.iter().all(|good| *good));
    let classes = 0..rows.first().map_or(0, |row| row.classes.len());
    Summary {
        goodput,
        worst_p99: steady().filter_map(|row| row.p99).fold(0.0, f64::max),
        cpu: steady().map(|row| row.cpu).sum::<f64>() / count,
        convergence: converged.map(|position| position as f64 * step),
        refused_before: refused(0.0, start),
        refused_after: refused(end, end + 20.0),
        classes: classes
            .map(|class| {
                let sum = |of: fn(&ClassRow) -> f64| steady().filter_map(|row| row.classes.get(class)).map(of).sum();
                ratio(sum(|class| class.goodput), sum(|class| class.offered))
            })
            .collect(),
    }
}

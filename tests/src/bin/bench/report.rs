//! What was measured, beside its goal.

use std::time::Duration;

/// Head of the table that [`Row::markdown`] fills.
pub(crate) const HEAD: &str = "| benchmark | what | goal | measured | |\n| --- | --- | --- | --- | --- |";

/// One measured number.
#[derive(Debug)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// The goal in words; empty for a number without one.
    pub(crate) goal: String,
    /// What came out.
    pub(crate) measured: String,
    /// Whether the goal is met, where there is one.
    pub(crate) met: Option<bool>,
}

impl Row {
    /// A number without a goal.
    pub(crate) fn plain(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self { what: what.into(), goal: String::new(), measured: measured.into(), met: None }
    }

    /// A number with a goal.
    pub(crate) fn goal(
        what: impl Into<String>,
        goal: impl Into<String>,
        measured: impl Into<String>,
        met: bool,
    ) -> Self {
        Self { what: what.into(), goal: goal.into(), measured: measured.into(), met: Some(met) }
    }

    /// A line of the table.
    pub(crate) fn markdown(&self, benchmark: &str) -> String {
        let Self { what, goal, measured, met } = self;
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        format!("| {benchmark} | {what} | {goal} | {measured} | {verdict} |")
    }
}

/// Measured durations, in order.
pub(crate) struct Durations(Vec<Duration>);

impl Durations {
    pub(crate) fn new(mut all: Vec<Duration>) -> anyhow::Result<Self> {
        anyhow::ensure!(!all.is_empty(), "nothing was measured");
        all.sort_unstable();
        Ok(Self(all))
    }

    /// The value that `percent` of all are not above (nearest rank).
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank - 1]
    }

    pub(crate) fn max(&self) -> Duration {
        self.percentile(100)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Milliseconds with two decimals.
pub(crate) fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// Microseconds with one decimal.
pub(crate) fn us(duration: Duration) -> String {
    format!("{:.1} µs", duration.as_secs_f64() * 1e6)
}

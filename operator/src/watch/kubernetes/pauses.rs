//! Pauses before the API server is asked again.

use std::time::Duration;

use kube::runtime::utils::Backoff;

/// The first pause.
const FIRST: Duration = Duration::from_millis(200);
/// The longest, which is short: an API server that was away is found again soon.
const LONGEST: Duration = Duration::from_secs(10);

/// Pauses that double, from the first to the longest; without an end.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Pauses {
    /// The next one.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        pause
    }
}

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.pause())
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_double_and_end_at_ten_seconds() {
        let mut pauses = Pauses::default();
        let seconds: Vec<f64> = pauses.by_ref().take(8).map(|pause| pause.as_secs_f64()).collect();
        assert_eq!(seconds, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]);
        pauses.reset();
        assert_eq!(pauses.pause(), FIRST);
    }
}

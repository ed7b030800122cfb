//! The recent past of one proxy's counters, and the measures that it gives.
//!
//! Pure. A window is half a second, or one interval of the stream if that is longer: long enough for a steady quantile, short
//! enough that a step is acted on within it. Counters that fell began again, and a long silence says nothing about now: both start
//! the window anew, without a measure until it is full. Time is Envoy's own clock, which stamps every message.

use std::{collections::VecDeque, time::Duration};

use limiter::metric::Word;

use super::families::{Counters, Snapshot};
use crate::metrics::{Histogram, Measure};

/// The shortest time that is measured over.
const SHORTEST_MS: i64 = 500;
/// Messages come some milliseconds early or late; without the slack every second window would be one interval longer.
const FULL_MS: i64 = SHORTEST_MS * 9 / 10;
/// Never called stale sooner than this, three intervals at the default.
const SHORTEST_FRESH_MS: i64 = 750;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Window {
    points: VecDeque<Snapshot>,
    /// Between the last two messages.
    gap_ms: i64,
    last: Option<i64>,
}

/// What the newest window says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measures {
    pub(super) measures: Vec<Measure>,
    pub(super) fresh_for: Duration,
}

impl Window {
    /// Takes a message's snapshot.
    pub(super) fn take(&mut self, snapshot: Snapshot) -> Measures {
        let now = snapshot.at_ms;
        if let Some(last) = self.last.replace(now) {
            let gap = now.saturating_sub(last);
            if gap <= 0 {
                // The clock was set back: nothing before compares with it.
                self.points.clear();
            } else {
                if gap > 4 * self.gap_ms.max(SHORTEST_MS) {
                    self.points.clear();
                }
                self.gap_ms = gap;
            }
        }
        if self.points.back().is_some_and(|before| snapshot.counters.since(&before.counters).is_none()) {
            self.points.clear();
        }
        self.points.push_back(snapshot);
        while self.points.len() > 2 && now - self.points[1].at_ms >= FULL_MS {
            self.points.pop_front();
        }
        let fresh_for_ms = self.gap_ms.saturating_mul(3).max(SHORTEST_FRESH_MS);
        let fresh_for = Duration::from_millis(u64::try_from(fresh_for_ms).unwrap_or_default());
        Measures { measures: self.measures().unwrap_or_default(), fresh_for }
    }

    fn measures(&self) -> Option<Vec<Measure>> {
        let (first, newest) = (self.points.front()?, self.points.back()?);
        let span_ms = newest.at_ms - first.at_ms;
        if span_ms < FULL_MS {
            return None;
        }
        let seconds = span_ms as f64 / 1e3;
        let Counters { offered, completed, failed, overflowed, limited, grpc_failed, classes, excess } =
            newest.counters.since(&first.counters)?;
        // Envoy counts what it refuses for a full queue as an answer of the application that failed.
        let answered = (completed - overflowed).max(0.0);
        let failed = (failed - overflowed + grpc_failed).clamp(0.0, answered);
        let number = |word, value| Measure::Number(word, value);
        let mut measures = vec![
            number(Word::Requests, offered / seconds),
            number(Word::Answers, answered / seconds),
            number(Word::Refused, (limited + overflowed) / seconds),
            number(Word::ErrorsPerSecond, failed / seconds),
            number(Word::Inflight, newest.inflight),
        ];
        // An application that has requests and answers none is neither fast nor free of errors: nobody knows. One that has
        // nothing to do is both.
        let passed = offered - limited - overflowed > 0.0;
        let stalled = answered == 0.0 && (passed || first.inflight > 0.0 && newest.inflight > 0.0);
        // The first point's latencies lie before the window.
        let latency = Histogram::merged(self.points.iter().skip(1).map(|point| &point.latency));
        if !stalled {
            measures.push(Measure::Errors { failed, answered });
        }
        if !stalled || latency.count() > 0.0 {
            measures.push(Measure::Latency(latency));
        }
        measures.extend(classes.into_iter().map(|(class, count)| number(Word::Demand(class), count / seconds)));
        measures.extend(excess.into_iter().map(|(bucket, count)| number(Word::Excess(bucket), count / seconds)));
        Some(measures)
    }
}

#[cfg(test)]
mod tests;

//! Rates, and their division among pods.
//!
//! A rate is a whole number of thousandths of a request per interval, so dividing it loses nothing: with `t` thousandths
//! and `n` pods, `t mod n` pods get `t / n + 1` and the others `t / n`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// A rate in thousandths of a request per interval, exact in the unit that the policy used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// Thousandths of a request per `interval`.
    pub milli_requests: u64,
    /// The policy's own unit of time: a second, a minute, an hour, a day, or an article's `fill_interval`.
    pub interval: Duration,
}

impl Rate {
    /// `requests` per `interval`, rounded to a thousandth of a request. `None` if there is no such rate: not finite, not
    /// above zero after rounding, too large, or an interval of zero.
    #[must_use]
    pub fn from_requests(requests: f64, interval: Duration) -> Option<Self> {
        let milli = (requests * 1000.0).round();
        // `u64::MAX as f64` rounds up to 2^64, which is itself too large.
        let representable = milli >= 1.0 && milli < u64::MAX as f64;
        (representable && !interval.is_zero()).then_some(Self { milli_requests: milli as u64, interval })
    }

    /// Requests per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.milli_requests as f64 / 1000.0 / self.interval.as_secs_f64()
    }

    /// The number alone, per the rate's own interval: `10.333`.
    #[must_use]
    pub fn amount(&self) -> String {
        thousandths(self.milli_requests)
    }

    /// Twice the rate, or the largest rate if that is less.
    #[must_use]
    pub fn doubled(self) -> Self {
        Self { milli_requests: self.milli_requests.saturating_mul(2), ..self }
    }

    /// The smaller of two rates, whatever their intervals; `self` if they are equal.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        if other.is_below(self) { other } else { self }
    }

    /// The larger of two rates, whatever their intervals; `self` if they are equal.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if self.is_below(other) { other } else { self }
    }

    /// Whether the rate is less than `other`, exactly.
    fn is_below(self, other: Self) -> bool {
        let scaled = |milli: u64, interval: Duration| u128::from(milli).checked_mul(interval.as_nanos());
        match (scaled(self.milli_requests, other.interval), scaled(other.milli_requests, self.interval)) {
            (Some(left), Some(right)) => left < right,
            _ => self.per_second() < other.per_second(),
        }
    }
}

/// `30 requests per second`, `1 request per day`, `10.333 requests per minute`, `30 requests per 5 s`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.milli_requests == 1000 { "request" } else { "requests" };
        write!(f, "{} {noun} per ", thousandths(self.milli_requests))?;
        let whole_seconds = self.interval.subsec_nanos() == 0;
        match self.interval.as_secs() {
            1 if whole_seconds => f.write_str("second"),
            60 if whole_seconds => f.write_str("minute"),
            3_600 if whole_seconds => f.write_str("hour"),
            86_400 if whole_seconds => f.write_str("day"),
            seconds if whole_seconds => write!(f, "{seconds} s"),
            0 => write!(f, "{} ms", self.interval.as_secs_f64() * 1000.0),
            _ => write!(f, "{} s", self.interval.as_secs_f64()),
        }
    }
}

/// Divides `total` among `pods` so that the parts add up to exactly `total`; larger parts first. The parts differ by at
/// most 1/1000 of a request per interval; with fewer thousandths than pods, the last parts are zero.
///
/// Without pods there is one part, the total: the first pod that comes must not find itself without a limit.
#[must_use]
pub fn shares(total: Rate, pods: u32) -> Vec<Rate> {
    let count = u64::from(pods.max(1));
    let (part, rest) = (total.milli_requests / count, total.milli_requests % count);
    (0..count).map(|position| Rate { milli_requests: part + u64::from(position < rest), ..total }).collect()
}

/// Shares in short: `34 x1, 33 x2`. Neighbours that are equal are counted together.
#[must_use]
pub fn describe(shares: &[Rate]) -> String {
    let groups = shares
        .chunk_by(|one, other| one == other)
        .filter_map(|group| group.first().map(|rate| format!("{} x{}", thousandths(rate.milli_requests), group.len())));
    groups.collect::<Vec<_>>().join(", ")
}

/// A number of thousandths as a decimal without trailing zeros: 10333 is `10.333`.
fn thousandths(milli: u64) -> String {
    let (whole, rest) = (milli / 1000, milli % 1000);
    if rest == 0 {
        return whole.to_string();
    }
    format!("{whole}.{rest:03}").trim_end_matches('0').to_owned()
}

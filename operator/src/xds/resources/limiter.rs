//! A limit as Envoy's local rate limit filter counts it: a class of token buckets and the cost of one request.
//!
//! The filter is static. It has one descriptor for each class, a class being the time `T` in which an empty bucket fills;
//! a request takes `cost` tokens from the bucket that its limit names. So a limit's number is one number in a route's
//! metadata, and changing it neither resets a bucket nor drains a connection. With `F` tokens a second per bucket:
//!
//! ```text
//! limit = F / cost     burst = F * T / cost = limit * T     class: the smallest T with burst >= the wanted one
//! ```
//!
//! docs/reference/limits.md has the table, the bounds and what was measured.

use envoy_types::pb::envoy::{
    extensions::common::ratelimit::v3::{LocalRateLimitDescriptor, rate_limit_descriptor::Entry},
    r#type::v3::TokenBucket,
};
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};

use ::limiter::quota::Rate;

use crate::intent::LimitValue;

/// Descriptor entry that carries the class.
pub const CLASS_KEY: &str = "class";
/// Descriptor entry that carries the bucket's name.
pub const BUCKET_KEY: &str = "bucket";
/// Descriptor entry that carries what separate counters are kept for, or [`NO_SUBJECT`]. Envoy fixes this key for client
/// addresses; the others follow, so that one descriptor per class serves all slots.
pub const SUBJECT_KEY: &str = "remote_address";
/// Subject of a limit that is counted for all requests together.
pub const NO_SUBJECT: &str = "-";

/// A class of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its name in descriptors: `T` in seconds.
    pub name: &'static str,
    /// `T`: milliseconds in which an empty bucket fills.
    pub fill_ms: u64,
}

/// All classes, smallest first.
pub const CLASSES: [Class; 71] = {
    const fn class(name: &'static str, fill_ms: u64) -> Class {
        Class { name, fill_ms }
    }
    [
        class("0.01", 10),
        class("0.02", 20),
        class("0.05", 50),
        class("0.1", 100),
        class("0.125", 125),
        class("0.15", 150),
        class("0.2", 200),
        class("0.25", 250),
        class("0.3", 300),
        class("0.4", 400),
        class("0.5", 500),
        class("0.6", 600),
        class("0.8", 800),
        class("1", 1_000),
        class("1.25", 1_250),
        class("1.5", 1_500),
        class("2", 2_000),
        class("2.5", 2_500),
        class("3", 3_000),
        class("4", 4_000),
        class("5", 5_000),
        class("6", 6_000),
        class("8", 8_000),
        class("10", 10_000),
        class("12.5", 12_500),
        class("15", 15_000),
        class("20", 20_000),
        class("25", 25_000),
        class("30", 30_000),
        class("40", 40_000),
        class("50", 50_000),
        class("60", 60_000),
        class("75", 75_000),
        class("90", 90_000),
        class("120", 120_000),
        class("150", 150_000),
        class("180", 180_000),
        class("240", 240_000),
        class("300", 300_000),
        class("360", 360_000),
        class("480", 480_000),
        class("600", 600_000),
        class("720", 720_000),
        class("900", 900_000),
        class("1200", 1_200_000),
        class("1500", 1_500_000),
        class("1800", 1_800_000),
        class("2400", 2_400_000),
        class("3000", 3_000_000),
        class("3600", 3_600_000),
        class("4500", 4_500_000),
        class("5400", 5_400_000),
        class("7200", 7_200_000),
        class("9000", 9_000_000),
        class("10800", 10_800_000),
        class("14400", 14_400_000),
        class("18000", 18_000_000),
        class("21600", 21_600_000),
        class("28800", 28_800_000),
        class("36000", 36_000_000),
        class("43200", 43_200_000),
        class("57600", 57_600_000),
        class("72000", 72_000_000),
        class("86400", 86_400_000),
        class("108000", 108_000_000),
        class("129600", 129_600_000),
        class("172800", 172_800_000),
        class("259200", 259_200_000),
        class("345600", 345_600_000),
        class("432000", 432_000_000),
        class("604800", 604_800_000),
    ]
};

/// What a request is charged: goes into the route's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Name of a class of [`CLASSES`].
    pub class: &'static str,
    /// Tokens per request, 1 to 1e9.
    pub cost: u32,
}

/// A rate of zero admits nothing: the cost is more than a bucket of the class can ever hold.
pub const DENY: Charge = Charge { class: CLASSES[0].name, cost: CLASSES[0].max_tokens() + 1 };

impl Class {
    /// `F`: tokens a second. Falls with `T` so that a full bucket holds at most 1e9, the largest cost that Envoy takes.
    #[must_use]
    pub const fn tokens_per_second(self) -> u32 {
        match self.fill_ms {
            0..=10_000 => 100_000_000,
            10_001..=100_000 => 10_000_000,
            100_001..=1_000_000 => 1_000_000,
            1_000_001..=10_000_000 => 100_000,
            10_000_001..=100_000_000 => 10_000,
            _ => 1_000,
        }
    }

    /// Tokens of a full bucket, `F * T`.
    #[must_use]
    pub const fn max_tokens(self) -> u32 {
        (self.tokens_per_second() as u64 * self.fill_ms / 1_000) as u32
    }

    /// `F / rate`, rounded; not bounded. `None` for a rate of zero.
    fn cost(self, rate: &Rate) -> Option<u128> {
        // tokens/s * ns per interval / (milli-requests per interval * 1e9 ns/s / 1e3)
        let per_interval = u128::from(rate.milli_requests) * 1_000_000;
        let tokens = u128::from(self.tokens_per_second()) * rate.interval.as_nanos();
        (per_interval > 0).then(|| (tokens + per_interval / 2) / per_interval)
    }

    fn descriptor(self) -> LocalRateLimitDescriptor {
        let entry = |key: &str, value: &str| Entry { key: key.into(), value: value.into() };
        LocalRateLimitDescriptor {
            // An entry without value is a wildcard: a bucket of its own for each value.
            entries: vec![entry(CLASS_KEY, self.name), entry(BUCKET_KEY, ""), entry(SUBJECT_KEY, "")],
            token_bucket: Some(TokenBucket {
                max_tokens: self.max_tokens(),
                tokens_per_fill: Some(UInt32Value { value: self.tokens_per_second() }),
                fill_interval: Some(Duration { seconds: 1, nanos: 0 }),
            }),
            shadow_mode: false,
        }
    }
}

/// Class and cost of a limit. The class depends on `burst` and the lowest rate only, so that a limit which moves above its
/// lowest rate keeps its buckets.
#[must_use]
pub fn charge(value: &LimitValue) -> Charge {
    let LimitValue { rate, burst, lowest } = value;
    let lowest = if is_slower(rate, lowest) { rate } else { lowest };
    let fits = |class: &&Class| {
        let needed = class.cost(lowest).map(|cost| cost.saturating_mul(u128::from((*burst).max(1))));
        needed.is_some_and(|needed| needed <= u128::from(class.max_tokens()))
    };
    let class = CLASSES.iter().find(fits).unwrap_or(&CLASSES[CLASSES.len() - 1]);
    match class.cost(rate) {
        None => DENY,
        Some(cost) => {
            // In the upper bound only the slowest limits are cut off: they admit one request per T.
            let cost = cost.clamp(1, u128::from(class.max_tokens()));
            Charge { class: class.name, cost: u32::try_from(cost).unwrap_or(u32::MAX) }
        }
    }
}

/// Whether `a` is a lower rate than `b`, exactly.
#[must_use]
pub fn is_slower(a: &Rate, b: &Rate) -> bool {
    let cross = |x: &Rate, y: &Rate| u128::from(x.milli_requests).saturating_mul(y.interval.as_nanos());
    cross(a, b) < cross(b, a)
}

/// The descriptors of the filter, one for each class.
#[must_use]
pub fn descriptors() -> Vec<LocalRateLimitDescriptor> {
    CLASSES.iter().map(|class| class.descriptor()).collect()
}

#[cfg(test)]
mod tests;

//! Pauses before what failed is tried again.

use std::time::Duration;

/// `first`, doubled with each failure up to `most`, of which `spread` (0 to 1) takes up to a half away.
pub(super) fn backoff(first: Duration, failures: u32, most: Duration, spread: f64) -> Duration {
    let pause = first.saturating_mul(1 << failures.min(16)).min(most);
    pause.mul_f64(1.0 - spread.clamp(0.0, 1.0) / 2.0)
}

/// A number from 0 to 1 that differs from text to text, attempt to attempt and process to process.
pub(super) fn spread(text: &str, attempt: u32) -> f64 {
    let seed = u64::from(std::process::id()) << 32 | u64::from(attempt);
    (xxhash_rust::xxh3::xxh3_64_with_seed(text.as_bytes(), seed) % 1000) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_a_bound_and_spreads_over_the_upper_half() {
        let (first, most) = (Duration::from_millis(500), Duration::from_secs(5));
        let pauses: Vec<_> = (0..6).map(|failures| backoff(first, failures, most, 0.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(backoff(first, 1, most, 1.0), first);
    }
}

//! Units: reading and writing numbers with them.

use std::time::Duration;

use crate::language::ast::Dimension;

/// A unit that may follow a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Unit {
    /// As it is typed.
    pub(super) text: &'static str,
    /// What it makes of the number.
    pub(super) dimension: Dimension,
    /// Power of ten that is applied to the number's text, so that `7%` is exactly the float 0.07.
    pub(super) decimal: i32,
    /// Factor on top of it; exact in a float.
    pub(super) factor: f64,
}

const fn unit(text: &'static str, dimension: Dimension, decimal: i32, factor: f64) -> Unit {
    Unit { text, dimension, decimal, factor }
}

const UNITS: [Unit; 29] = [
    unit("%", Dimension::Ratio, -2, 1.0),
    unit("percent", Dimension::Ratio, -2, 1.0),
    unit("k", Dimension::Scalar, 3, 1.0),
    unit("M", Dimension::Scalar, 6, 1.0),
    unit("G", Dimension::Scalar, 9, 1.0),
    unit("B", Dimension::Bytes, 0, 1.0),
    unit("Ki", Dimension::Bytes, 0, 1024.0),
    unit("Mi", Dimension::Bytes, 0, 1_048_576.0),
    unit("Gi", Dimension::Bytes, 0, 1_073_741_824.0),
    unit("KiB", Dimension::Bytes, 0, 1024.0),
    unit("MiB", Dimension::Bytes, 0, 1_048_576.0),
    unit("GiB", Dimension::Bytes, 0, 1_073_741_824.0),
    unit("ms", Dimension::Seconds, -3, 1.0),
    unit("millisecond", Dimension::Seconds, -3, 1.0),
    unit("milliseconds", Dimension::Seconds, -3, 1.0),
    unit("s", Dimension::Seconds, 0, 1.0),
    unit("sec", Dimension::Seconds, 0, 1.0),
    unit("second", Dimension::Seconds, 0, 1.0),
    unit("seconds", Dimension::Seconds, 0, 1.0),
    unit("m", Dimension::Seconds, 0, 60.0),
    unit("min", Dimension::Seconds, 0, 60.0),
    unit("minute", Dimension::Seconds, 0, 60.0),
    unit("minutes", Dimension::Seconds, 0, 60.0),
    unit("h", Dimension::Seconds, 0, 3600.0),
    unit("hour", Dimension::Seconds, 0, 3600.0),
    unit("hours", Dimension::Seconds, 0, 3600.0),
    unit("d", Dimension::Seconds, 0, 86_400.0),
    unit("day", Dimension::Seconds, 0, 86_400.0),
    unit("days", Dimension::Seconds, 0, 86_400.0),
];

/// The unit that is typed `text`. Case matters: `m` is a minute, `M` a million.
pub(super) fn find(text: &str) -> Option<Unit> {
    UNITS.iter().copied().find(|unit| unit.text == text)
}

/// The interval that `per WORD` names.
pub(super) fn interval(word: &str) -> Option<Duration> {
    let word = word.to_ascii_lowercase();
    // "per minutes" is no English, but its meaning is plain.
    let unit = find(&word).filter(|unit| unit.dimension == Dimension::Seconds && unit.decimal == 0)?;
    Some(Duration::from_secs(unit.factor as u64))
}

/// The nearest unit to `text` by letters without their case.
pub(super) fn nearest(text: &str) -> Option<&'static str> {
    let same_letters = UNITS.iter().find(|unit| unit.text.eq_ignore_ascii_case(text)).map(|unit| unit.text);
    let known = UNITS.iter().map(|unit| unit.text).filter(|unit| unit.len() > 1);
    same_letters.or_else(|| if text.len() > 2 { super::vocabulary::nearest(text, known) } else { None })
}

/// Reads `digits[.digits]` with a power of ten and a unit. `None` when it is too large for a float.
pub(super) fn number(mantissa: &str, exponent: i32, unit: Option<Unit>) -> Option<f64> {
    let exponent = exponent.checked_add(unit.map_or(0, |unit| unit.decimal))?;
    let value: f64 = format!("{mantissa}e{exponent}").parse().ok()?;
    let value = value * unit.map_or(1.0, |unit| unit.factor);
    value.is_finite().then_some(value)
}

/// A number in plain decimal digits, `places` digits further to the left of the point: (0.07, 2) is `7`.
///
/// Moves the point in the text rather than multiplying, so that reading it again gives the same float.
fn shifted(value: f64, places: usize) -> String {
    let text = format!("{}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut digits = format!("{whole}{fraction}");
    let point = whole.len() + places;
    while digits.len() < point {
        digits.push('0');
    }
    let (whole, fraction) = digits.split_at(point);
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let sign = if value < 0.0 { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// Writes a value of `dimension` as a sentence does, so that reading it gives exactly `value`: `80%`, `200ms`, `1.5`.
#[must_use]
pub fn write_value(value: f64, dimension: Dimension) -> String {
    let multiple = |of: f64| value != 0.0 && (value / of).fract() == 0.0 && (value / of).abs() < 1e15;
    match dimension {
        Dimension::Ratio => format!("{}%", shifted(value, 2)),
        Dimension::PerSecond => format!("{} per second", shifted(value, 0)),
        Dimension::Count | Dimension::Scalar => shifted(value, 0),
        Dimension::Seconds if multiple(3600.0) => format!("{}h", value / 3600.0),
        Dimension::Seconds if multiple(60.0) => format!("{}m", value / 60.0),
        Dimension::Seconds if value.abs() >= 1.0 || value == 0.0 => format!("{}s", shifted(value, 0)),
        Dimension::Seconds => format!("{}ms", shifted(value, 3)),
        Dimension::Bytes if multiple(1_073_741_824.0) => format!("{}Gi", value / 1_073_741_824.0),
        Dimension::Bytes if multiple(1_048_576.0) => format!("{}Mi", value / 1_048_576.0),
        Dimension::Bytes if multiple(1024.0) => format!("{}Ki", value / 1024.0),
        Dimension::Bytes => format!("{}B", shifted(value, 0)),
    }
}

/// Writes a duration as a sentence does: `10s`, `250ms`, `90s`, `2m`, `1h`. Finer than a millisecond it is cut off.
#[must_use]
pub fn write_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0 => "0s".to_owned(),
        whole if whole.is_multiple_of(3_600_000) => format!("{}h", whole / 3_600_000),
        whole if whole.is_multiple_of(60_000) => format!("{}m", whole / 60_000),
        whole if whole.is_multiple_of(1000) => format!("{}s", whole / 1000),
        whole => format!("{whole}ms"),
    }
}

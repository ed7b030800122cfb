//! Reads wanted series out of a page in Prometheus' text format or OpenMetrics.
//!
//! Written by hand rather than taken from a crate: pages can be megabytes and are read several times a second for each
//! pod, while only two or three series are wanted. This scanner allocates nothing for lines that are not wanted, works
//! on bytes (one broken label elsewhere costs nothing), and cannot fail: what it does not understand it skips.

use std::{borrow::Cow, collections::BTreeMap};

/// A series to look for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its name. When the page has no sample of that name, `<name>_total` is taken (OpenMetrics' counters).
    pub name: &'a str,
    /// Labels that a sample must have, with exactly these values.
    pub labels: &'a BTreeMap<String, String>,
}

/// What a page holds of one wanted series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Found {
    /// No sample of the series.
    #[default]
    Nothing,
    /// The sum of its samples; finite.
    Sum(f64),
    /// At least one of its samples is NaN, infinite or not a number. The sum of the others would look like a counter
    /// that went back, and later like one that leapt.
    Unusable,
}

impl Found {
    fn add(&mut self, value: Option<f64>) {
        *self = match (*self, value) {
            (Self::Nothing, Some(value)) => Self::Sum(value),
            (Self::Sum(sum), Some(value)) if (sum + value).is_finite() => Self::Sum(sum + value),
            _ => Self::Unusable,
        };
    }
}

/// Looks for `wanted` in `page`; the answer has the same order. A last line without a line feed is not read: the format
/// asks for one, and without it a number may have been cut in the middle.
#[must_use]
pub fn scan(page: &[u8], wanted: &[Wanted<'_>]) -> Vec<Found> {
    let mut exact = vec![Found::Nothing; wanted.len()];
    let mut total = vec![Found::Nothing; wanted.len()];
    for line in page.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let line = line.trim_ascii();
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        let end = line.iter().position(|byte| *byte == b'{' || byte.is_ascii_whitespace()).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        for (position, want) in wanted.iter().enumerate() {
            let found = if name == want.name.as_bytes() {
                &mut exact[position]
            } else if name.strip_suffix(b"_total") == Some(want.name.as_bytes()) {
                &mut total[position]
            } else {
                continue;
            };
            match sample(rest, want.labels) {
                Sample::Value(value) => found.add(Some(value)),
                Sample::Broken => found.add(None),
                Sample::OtherLabels => {}
            }
        }
    }
    exact.into_iter().zip(total).map(|(exact, total)| if exact == Found::Nothing { total } else { exact }).collect()
}

enum Sample {
    Value(f64),
    OtherLabels,
    Broken,
}

/// Reads `{labels} value [timestamp] [# exemplar]`.
fn sample(rest: &[u8], wanted: &BTreeMap<String, String>) -> Sample {
    let mut matched = 0;
    let mut rest = rest.trim_ascii_start();
    if let Some(mut labels) = rest.strip_prefix(b"{") {
        loop {
            labels = labels.trim_ascii_start();
            if let Some(after) = labels.strip_prefix(b"}") {
                rest = after;
                break;
            }
            let Some((name, value, after)) = label(labels) else { return Sample::Broken };
            if let Some(want) = str::from_utf8(name).ok().and_then(|name| wanted.get(name)) {
                if value.as_ref() != want.as_bytes() {
                    return Sample::OtherLabels;
                }
                matched += 1;
            }
            labels = after.trim_ascii_start();
            match labels.first() {
                Some(b',') => labels = &labels[1..],
                Some(b'}') => {}
                _ => return Sample::Broken,
            }
        }
    }
    if matched < wanted.len() {
        return Sample::OtherLabels;
    }
    let rest = rest.trim_ascii_start();
    let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
    match str::from_utf8(&rest[..end]).ok().and_then(|text| text.parse::<f64>().ok()) {
        Some(value) if value.is_finite() => Sample::Value(value),
        _ => Sample::Broken,
    }
}

/// A label's name and value, and what follows it.
type Label<'a> = (&'a [u8], Cow<'a, [u8]>, &'a [u8]);

/// Splits `name="value"…` into name, value without escapes, and what follows.
fn label(text: &[u8]) -> Option<Label<'_>> {
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let name = text[..equals].trim_ascii();
    let value = text[equals + 1..].trim_ascii_start().strip_prefix(b"\"")?;
    let mut plain: Option<Vec<u8>> = None;
    let mut escaped = false;
    for (position, byte) in value.iter().enumerate() {
        if escaped {
            escaped = false;
            if let Some(plain) = &mut plain {
                plain.push(if *byte == b'n' { b'\n' } else { *byte });
            }
        } else if *byte == b'\\' {
            escaped = true;
            plain.get_or_insert_with(|| value[..position].to_vec());
        } else if *byte == b'"' {
            let value_bytes = plain.map_or(Cow::Borrowed(&value[..position]), Cow::Owned);
            return Some((name, value_bytes, &value[position + 1..]));
        } else if let Some(plain) = &mut plain {
            plain.push(*byte);
        }
    }
    None
}

#[cfg(test)]
mod tests;

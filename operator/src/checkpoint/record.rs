//! The form on disk: lines of JSON, each with a checksum of its own, below a line that says how many there are.
//!
//! ```text
//! 8d1f…c0 {"format":1,"writtenAt":"2026-01-01T00:00:00Z","records":2}
//! 03ab…77 {"service":{"namespace":"shop","name":"cart"},"at":"…","rules":[{"policy":{…},"rule":"hot","state":{…}}]}
//! ```
//!
//! What is called stands in files of its own, with `calls` in the place of `rules`, and how splits are steered, with `split`. Damage costs the
//! lines that it is in, a word of another version the rule or the call that it is in. The first line costs the file: without it nobody knows what form the others have.

use std::fmt;

use jiff::Timestamp;
use limiter::{engine::RuleState, policy::PolicyKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    index::asked::Remembered,
    intent::ServiceKey,
    translate::{RuleKey, decide::States, split::ToldSplit},
};

/// Raised when a reader of the form before would misunderstand this one.
const FORMAT: u32 = 1;
/// Digits of a checksum.
const DIGITS: usize = 16;

/// What is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The line, from 1; 0: the file as a whole.
    pub line: usize,
    /// The service that it was about, as far as that can still be read.
    pub service: Option<ServiceKey>,
    /// What is wrong with it.
    pub reason: String,
}

impl Damage {
    /// Where it is: `line 3 (service shop/cart)`, or `the file`.
    #[must_use]
    pub fn place(&self) -> String {
        match (self.line, &self.service) {
            (0, _) => "the file".to_owned(),
            (line, None) => format!("line {line}"),
            (line, Some(service)) => format!("line {line} (service {service})"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.reason)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: u32,
    written_at: Timestamp,
    records: usize,
}

/// What is decided of a service.
#[derive(Debug, Serialize, Deserialize)]
struct Record<Rule> {
    service: ServiceKey,
    at: Timestamp,
    rules: Vec<Rule>,
}

/// What the pods of a service call.
#[derive(Debug, Serialize, Deserialize)]
struct CallsRecord<Call> {
    service: ServiceKey,
    at: Timestamp,
    calls: Vec<Call>,
}

/// How a split is steered, by the Service whose requests it shares out.
#[derive(Debug, Serialize, Deserialize)]
struct SplitRecord {
    service: ServiceKey,
    at: Timestamp,
    split: ToldSplit,
}

#[derive(Debug, Serialize, Deserialize)]
struct RuleRecord {
    policy: PolicyKey,
    rule: String,
    state: RuleState,
}

/// A service, when its decisions were written, and what they are.
pub(super) type Service = (ServiceKey, Timestamp, States);

/// The line of one service.
pub(super) fn line(service: &ServiceKey, at: Timestamp, states: &States) -> serde_json::Result<String> {
    let rules = states.iter().map(|(key, state)| RuleRecord {
        policy: key.policy.clone(),
        rule: key.rule.clone(),
        state: state.clone(),
    });
    checked(&Record { service: service.clone(), at, rules: rules.collect() })
}

/// The line of what a service's pods call.
pub(super) fn line_of_calls(service: &ServiceKey, at: Timestamp, calls: &[Remembered]) -> serde_json::Result<String> {
    checked(&CallsRecord { service: service.clone(), at, calls: calls.iter().collect() })
}

/// The line of how a split is steered.
pub(super) fn line_of_split(service: &ServiceKey, at: Timestamp, split: &ToldSplit) -> serde_json::Result<String> {
    checked(&SplitRecord { service: service.clone(), at, split: split.clone() })
}

/// A whole file of such lines.
pub(super) fn file<'a>(lines: impl ExactSizeIterator<Item = &'a String>, now: Timestamp) -> serde_json::Result<String> {
    let mut text = checked(&Header { format: FORMAT, written_at: now, records: lines.len() })?;
    lines.for_each(|line| text.push_str(line));
    Ok(text)
}

fn checked(value: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(value)?;
    Ok(format!("{:016x} {json}\n", xxh3_64(json.as_bytes())))
}

/// Reads what can be read of a file of decisions.
pub(super) fn read(bytes: &[u8]) -> (Vec<Service>, Vec<Damage>) {
    read_lines(bytes, |line, unknown| {
        let Record { service, at, rules } = parse::<Record<Box<RawValue>>>(line)?;
        let mut states = States::new();
        for rule in rules {
            match serde_json::from_str(rule.get()) {
                Ok(RuleRecord { policy, rule, state }) => {
                    states.insert(RuleKey { service: service.clone(), policy, rule }, state);
                }
                Err(error) => unknown.push((service.clone(), format!("a rule, by another version of Weir: {error}"))),
            }
        }
        Ok((service, at, states))
    })
}

/// A service, when that was written, and what its pods call.
pub(super) type CallsOf = (ServiceKey, Timestamp, Vec<Remembered>);

/// Reads what can be read of a file of what is called.
pub(super) fn read_calls(bytes: &[u8]) -> (Vec<CallsOf>, Vec<Damage>) {
    read_lines(bytes, |line, unknown| {
        let CallsRecord { service, at, calls } = parse::<CallsRecord<Box<RawValue>>>(line)?;
        let mut known = Vec::new();
        for call in calls {
            match serde_json::from_str(call.get()) {
                Ok(call) => known.push(call),
                Err(error) => unknown.push((service.clone(), format!("a call, by another version of Weir: {error}"))),
            }
        }
        Ok((service, at, known))
    })
}

/// Reads what can be read of a file of splits.
pub(super) fn read_splits(bytes: &[u8]) -> (Vec<(ServiceKey, Timestamp, ToldSplit)>, Vec<Damage>) {
    read_lines(bytes, |line, _| parse::<SplitRecord>(line).map(|it| (it.service, it.at, it.split)))
}

/// Reads lines with `one`, which gives what it knows of a line, and what it does not.
fn read_lines<T>(
    bytes: &[u8],
    one: impl Fn(&[u8], &mut Vec<(ServiceKey, String)>) -> Result<T, String>,
) -> (Vec<T>, Vec<Damage>) {
    let whole = |reason: String| (Vec::new(), vec![Damage { line: 0, service: None, reason }]);
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').enumerate();
    let Some((_, first)) = lines.next() else { return whole("empty".to_owned()) };
    let header = match parse::<Header>(first) {
        Ok(header) => header,
        Err(reason) => return whole(format!("line 1 does not say what the file is: {reason}")),
    };
    if header.format != FORMAT {
        return whole(format!("format {}; this version of Weir reads format {FORMAT}", header.format));
    }
    let (mut found, mut damages) = (Vec::new(), Vec::new());
    let mut count = 0;
    for (at, text) in lines {
        count += 1;
        let line = at + 1;
        let mut unknown = Vec::new();
        match one(text, &mut unknown) {
            Ok(one) => found.push(one),
            Err(reason) => damages.push(Damage { line, service: named(text), reason }),
        }
        let unknown = unknown.into_iter();
        damages.extend(unknown.map(|(service, reason)| Damage { line, service: Some(service), reason }));
    }
    if count != header.records {
        let reason =
            format!("{} services were written and {count} are here: the file was cut or added to", header.records);
        damages.push(Damage { line: 0, service: None, reason });
    }
    (found, damages)
}

fn parse<T: serde::de::DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    let line = line.strip_suffix(b"\n").ok_or("the line is cut off")?;
    let (sum, json) = line.split_at_checked(DIGITS).ok_or("the line is too short for a checksum")?;
    let json = json.strip_prefix(b" ").filter(|_| sum.iter().all(u8::is_ascii_hexdigit));
    let json = json.ok_or("the line does not begin with a checksum")?;
    // As text: several texts are one number.
    if format!("{:016x}", xxh3_64(json)).as_bytes() != sum {
        return Err("the checksum does not match".to_owned());
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// Whom a damaged line seems to speak of.
fn named(line: &[u8]) -> Option<ServiceKey> {
    #[derive(Deserialize)]
    struct Named {
        service: ServiceKey,
    }
    let json = line.get(DIGITS..)?;
    serde_json::from_slice::<Named>(json).ok().map(|named| named.service)
}

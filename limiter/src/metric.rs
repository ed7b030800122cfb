//! Words for what is measured, and measured values.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Names of containers that are proxies, not the application: their use of CPU and memory does not count, nor do their limits.
pub const PROXY_CONTAINERS: [&str; 3] = ["envoy", "istio-proxy", "weir-proxy"];

/// A word of the policy language that names something measured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Word {
    /// CPU use as a fraction of the app containers' CPU limit (1.0 = 100 %).
    Cpu,
    /// Resident memory as a fraction of the app containers' memory limit (1.0 = 100 %).
    Memory,
    /// Offered requests per second, before any limiter.
    Requests,
    /// Failed answers as a fraction of all answers, without those that Weir's own limits gave.
    Errors,
    /// Failed answers per second.
    ErrorsPerSecond,
    /// Latency quantile in seconds; the field is the percentile: 50, 90 or 99.
    Latency(u8),
    /// Requests in flight.
    Inflight,
    /// Ready pods of the target.
    Pods,
    /// Answers of the application per second: requests that no limit refused and that have ended. Not a word of sentences;
    /// laws of `adapt` read it.
    Answers,
    /// Requests per second that Weir's own limits and queue bounds refused. Not a word of sentences.
    Refused,
    /// Offered requests per second of one priority class: `<rule>/<class>`. Not a word of sentences.
    Demand(String),
    /// Requests per second over a limit of a rule in shadow mode, which it would have refused: `<rule>` for its own limit,
    /// `<rule>/<class>` for a class's. Not a word of sentences.
    Excess(String),
    /// A word that the object's own `metrics` list defines.
    Named(String),
}

impl Word {
    /// Whether Envoy itself knows it and streams it, so that neither the application nor Prometheus need be asked.
    #[must_use]
    pub const fn is_streamed(&self) -> bool {
        match self {
            Self::Requests
            | Self::Errors
            | Self::ErrorsPerSecond
            | Self::Latency(_)
            | Self::Inflight
            | Self::Answers
            | Self::Refused
            | Self::Demand(_)
            | Self::Excess(_) => true,
            Self::Cpu | Self::Memory | Self::Pods | Self::Named(_) => false,
        }
    }
}

/// How the values of the ready pods become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reduce {
    /// Arithmetic mean (the default of built-in words).
    Mean,
    /// Largest.
    Max,
    /// Sum.
    Sum,
}

/// One measured quantity as a rule asks for it: the word and the reduction over pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Metric {
    /// What is measured.
    pub word: Word,
    /// How pods are combined.
    pub reduce: Reduce,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Memory => f.write_str("memory"),
            Self::Requests => f.write_str("requests"),
            Self::Errors => f.write_str("errors"),
            Self::ErrorsPerSecond => f.write_str("errors per second"),
            Self::Latency(percentile) => write!(f, "p{percentile} latency"),
            Self::Inflight => f.write_str("inflight"),
            Self::Pods => f.write_str("pods"),
            Self::Answers => f.write_str("answers"),
            Self::Refused => f.write_str("refused"),
            Self::Excess(rule) => write!(f, "excess of {rule}"),
            Self::Demand(class) => write!(f, "demand of {class}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl Metric {
    /// The metric of `word` with the reduction that the plain word has: the mean over pods.
    #[must_use]
    pub fn plain(word: Word) -> Self {
        Self { word, reduce: Reduce::Mean }
    }
}

/// A measured value with the time it was measured at its source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The value in the word's base unit: fraction, count, per second, seconds or bytes. Never NaN or infinite.
    pub value: f64,
    /// When the value was true, by the source's clock.
    pub at: Timestamp,
    /// Older than this, the sample is stale and counts as missing (three intervals of its source), in milliseconds.
    pub fresh_for_ms: u64,
    /// The provider that gave it, for status: `scrape`, `prometheus`, ….
    pub source: Cow<'static, str>,
}

impl Sample {
    /// Whether the sample still counts at `now`. A sample from the future (clock skew) is fresh.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let age_ms = now.as_millisecond().saturating_sub(self.at.as_millisecond());
        age_ms <= i64::try_from(self.fresh_for_ms).unwrap_or(i64::MAX)
    }
}

/// Everything that one target shows at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observations {
    /// Ready pods of the target; always known.
    pub pods: u32,
    /// The newest sample of each metric. Absent: never seen. Stale samples stay in and are told apart by `is_fresh`.
    #[serde(skip)]
    pub samples: BTreeMap<Metric, Sample>,
}

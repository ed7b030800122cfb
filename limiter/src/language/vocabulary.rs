//! The words that sentences may use, and what they mean.

use std::collections::BTreeMap;

use crate::{
    language::ast::Dimension,
    metric::{Reduce, Word},
    policy::MetricDefinition,
};

/// The language's own nouns as a person types them, for suggestions.
pub(super) const NOUNS: [&str; 8] = ["cpu", "memory", "requests", "errors", "latency", "inflight", "pods", "pod"];

/// Words that can be no metric's name.
pub(super) const KEYWORDS: [&str; 22] = [
    "and", "or", "not", "for", "until", "true", "false", "per", "across", "all", "keep", "below", "under", "between",
    "second", "minute", "hour", "day", "client", "header", "p50", "p90",
];

/// The words that an object defines for its own sentences. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vocabulary {
    names: BTreeMap<String, (Dimension, Reduce)>,
}

impl Vocabulary {
    /// The vocabulary of an object with these metrics.
    #[must_use]
    pub fn new(metrics: &BTreeMap<String, MetricDefinition>) -> Self {
        let names = metrics.iter().map(|(name, metric)| (name.clone(), (metric.dimension, metric.reduce)));
        Self { names: names.collect() }
    }

    pub(super) fn get(&self, name: &str) -> Option<(Dimension, Reduce)> {
        self.names.get(name).copied()
    }

    /// The known word that is most like `word`, if any is like it.
    pub(super) fn nearest(&self, word: &str) -> Option<&str> {
        let words = NOUNS.iter().copied().chain(self.names.keys().map(String::as_str));
        nearest(word, words)
    }

    /// Every known noun, for an error message.
    pub(super) fn list(&self) -> String {
        let own = "cpu, memory, requests, errors, p50/p90/p99 latency, inflight, pods";
        self.names.keys().fold(own.to_owned(), |list, name| format!("{list}, {name}"))
    }

    /// Why `name` cannot be the name of an object's own metric, if so.
    #[must_use]
    pub fn reserved(name: &str) -> bool {
        NOUNS.contains(&name)
            || KEYWORDS.contains(&name)
            || matches!(name.strip_prefix('p'), Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
            || super::units::find(name).is_some()
    }
}

/// The candidate that is most like `word`: at most a third of its letters differ (one in short words).
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// What the numbers of a built-in word mean; `None` for an object's own word.
#[must_use]
pub fn dimension(word: &Word) -> Option<Dimension> {
    match word {
        Word::Cpu | Word::Memory | Word::Errors => Some(Dimension::Ratio),
        Word::Requests | Word::ErrorsPerSecond | Word::Answers | Word::Refused | Word::Demand(_) | Word::Excess(_) => {
            Some(Dimension::PerSecond)
        }
        Word::Latency(_) => Some(Dimension::Seconds),
        Word::Inflight | Word::Pods => Some(Dimension::Count),
        Word::Named(_) => None,
    }
}

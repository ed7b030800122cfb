//! The policy language: sentences to syntax trees.
//!
//! Text -> `lexer` -> `parser` (typed by `check`) -> [`ast`]. `release` derives the end of a condition that has no `until`,
//! `display` writes trees as sentences again, `explain` says in plain English what a whole policy means. Every mistake
//! carries the place, what was expected and the nearest known word. The grammar stands in `docs/reference/language.md`.

pub mod ast;
mod check;
mod display;
mod explain;
#[doc(hidden)]
pub mod fuzzing;
mod lexer;
mod parser;
mod release;
mod sentences;
mod steer;
mod units;
mod vocabulary;

use std::time::Duration;

pub use explain::explain;
pub(crate) use sentences::is_header_name;
pub use steer::{Steer, parse_steer};
pub use units::{write_duration, write_value};
pub use vocabulary::{Vocabulary, dimension, nearest};

use crate::{
    language::{
        ast::{Adapt, Dimension, Expression},
        parser::Parser,
    },
    policy::{Limit, When},
    problem::{Place, Problem, Reason},
};

/// Longest sentence, in bytes.
pub const MAX_LENGTH: usize = 4096;
/// Most tokens in a sentence; bounds the depth of its tree.
pub const MAX_TOKENS: usize = 512;
/// Deepest nesting of parentheses, `not` and unary minus.
pub const MAX_DEPTH: usize = 32;
/// Longest duration in a sentence.
pub const MAX_DURATION: Duration = Duration::from_secs(86_400);
/// Most requests per second that a limit may admit at one proxy: what Envoy's buckets were proven to keep.
pub const MAX_PER_SECOND: f64 = 100_000.0;
/// Most requests per second of a limit across all pods, which is divided before it reaches a proxy.
pub const MAX_TOTAL_PER_SECOND: f64 = 1e9;
/// Fewest requests per second of a limit: one a day.
pub const MIN_PER_SECOND: f64 = 1.0 / 86_400.0;

/// A mistake in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SentenceError {
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// How to mend it, when that can be told.
    pub help: Option<String>,
    /// First byte of the place.
    pub start: usize,
    /// One past its last byte; equal to `start` at the end of the sentence.
    pub end: usize,
}

impl SentenceError {
    fn new(span: Span, message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, start: span.start, end: span.end }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The problem of `field`, whose value is `text`.
    #[must_use]
    pub fn into_problem(self, field: impl Into<String>, text: &str) -> Problem {
        Problem {
            field: field.into(),
            reason: Reason::Invalid,
            message: self.message,
            help: self.help,
            place: Some(Place { text: text.to_owned(), start: self.start, end: self.end }),
        }
    }
}

/// Bytes of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    fn to(self, other: Self) -> Self {
        Self { start: self.start, end: other.end }
    }
}

/// Reads a condition with its release: `cpu > 80% for 10s until cpu < 70% for 30s`.
///
/// # Errors
/// The first mistake in the sentence.
pub fn parse_when(text: &str, vocabulary: &Vocabulary) -> Result<When, SentenceError> {
    sentences::when(text, vocabulary)
}

/// Reads a limit: `5 requests per second per client ip across all pods`.
///
/// # Errors
/// The first mistake in the sentence, or a number out of range.
pub fn parse_limit(text: &str) -> Result<Limit, SentenceError> {
    sentences::limit(text)
}

/// Reads a self-steering limit: `keep cpu below 70%, between 20 and 500 requests per second per pod`.
///
/// # Errors
/// The first mistake in the sentence, or a number out of range.
pub fn parse_adapt(text: &str, vocabulary: &Vocabulary) -> Result<Adapt, SentenceError> {
    sentences::adapt(text, vocabulary)
}

/// Reads an expression such as `30/{pod}`, with what its value means.
///
/// # Errors
/// The first mistake in the expression.
pub fn parse_expression(text: &str, vocabulary: &Vocabulary) -> Result<(Expression, Dimension), SentenceError> {
    let mut parser = Parser::new(text, vocabulary)?;
    let value = parser.value()?;
    parser.end("an operator")?;
    Ok((value.expression, value.dimension))
}

/// Reads a duration: `15s`, `1m30s`, `250ms`. From 1 ms to one day.
///
/// # Errors
/// The first mistake, or a duration out of range.
pub fn parse_duration(text: &str) -> Result<Duration, SentenceError> {
    let vocabulary = Vocabulary::default();
    let mut parser = Parser::new(text, &vocabulary)?;
    let duration = parser.duration()?;
    parser.end("the end")?;
    Ok(duration)
}

#[cfg(test)]
mod tests;

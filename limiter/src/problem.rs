//! What is wrong with an object, said so that its author can mend it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One mistake in one field: where, what, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Path of the field inside the object: `spec.rules[0].when`.
    pub field: String,
    /// The class of the mistake, which becomes the reason of the `Accepted` condition.
    pub reason: Reason,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// How to mend it, when that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// For a mistake inside a sentence: the sentence and the place in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// A span inside a sentence of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The whole sentence.
    pub text: String,
    /// First byte of the span.
    pub start: usize,
    /// One past the last byte of the span; equal to `start` at the end of the sentence.
    pub end: usize,
}

impl Place {
    /// Column of the span's first character, counted in characters from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.text.get(..self.start).map_or(self.text.chars().count(), |before| before.chars().count()) + 1
    }
}

/// Classes of mistakes. The text of each is fixed: it is a condition reason and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// A field has a value that can never be right.
    Invalid,
    /// Right in the API, but this version of Weir does not carry it out.
    NotYetSupported,
    /// Two rules exclude each other.
    Conflicted,
    /// Right, and whoever runs Weir does not allow it to the object's namespace.
    NotAllowed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "Invalid",
            Self::NotYetSupported => "NotYetSupported",
            Self::Conflicted => "Conflicted",
            Self::NotAllowed => "NotAllowed",
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.field)?;
        if let Some(place) = &self.place {
            write!(f, "column {}: ", place.column())?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

//! An object of ours: what was last accepted, and what its newest text is about.

use std::sync::Arc;

use limiter::{lazy::Lazy, policy::Policy, problem::Problem, split::Split};

/// A policy object.
pub type PolicyEntry = Entry<Policy>;
/// A `LazyConfig`.
pub type LazyEntry = Entry<Lazy>;
/// A split.
pub type SplitEntry = Entry<Split>;

/// An object that becomes a `T`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<T> {
    /// Where the object stands.
    pub origin: String,
    /// Counts the texts of the object: `metadata.generation`, or 1, 2, … where the source has none.
    pub generation: i64,
    /// The newest accepted form, which is in force.
    pub accepted: Option<Arc<T>>,
    /// The newest text when it was understood, accepted or not; for explanations.
    pub newest: Option<Arc<T>>,
    /// Why the newest text is not accepted; empty when it is.
    pub problems: Vec<Problem>,
}

/// What an object becomes, with the number of its text (0 when the source has none).
pub(super) trait Numbered: Clone + PartialEq {
    fn generation(&self) -> i64;
    fn numbered(self, generation: i64) -> Self;
}

impl Numbered for Policy {
    fn generation(&self) -> i64 {
        self.generation
    }

    fn numbered(self, generation: i64) -> Self {
        Self { generation, ..self }
    }
}

impl Numbered for Lazy {
    fn generation(&self) -> i64 {
        self.generation
    }

    fn numbered(self, generation: i64) -> Self {
        Self { generation, ..self }
    }
}

impl Numbered for Split {
    fn generation(&self) -> i64 {
        self.generation
    }

    fn numbered(self, generation: i64) -> Self {
        Self { generation, ..self }
    }
}

/// What becomes of an object with its newest text; `None`: that is none.
pub(super) fn next<T: Numbered>(
    old: Option<&Entry<T>>,
    origin: String,
    newest: Option<T>,
    problems: Vec<Problem>,
) -> Option<Entry<T>> {
    if let Some(old) = old
        && old.problems == problems
        && old.origin == origin
        && is_same(old.newest.as_deref(), newest.as_ref())
    {
        return None;
    }
    let given = newest.as_ref().map_or(0, T::generation);
    let generation = if given > 0 { given } else { old.map_or(0, |old| old.generation) + 1 };
    let newest = newest.map(|newest| Arc::new(newest.numbered(generation)));
    let accepted = if problems.is_empty() { newest.clone() } else { old.and_then(|old| old.accepted.clone()) };
    Some(Entry { origin, generation, accepted, newest, problems })
}

/// Equal but for the generation, which the index itself counts where the source does not.
fn is_same<T: Numbered>(old: Option<&T>, new: Option<&T>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            let generation = if new.generation() > 0 { new.generation() } else { old.generation() };
            *old == new.clone().numbered(generation)
        }
        (None, None) => true,
        _ => false,
    }
}

//! The end of a condition that has no `until`.
//!
//! The release is the opposite of the condition (De Morgan), with each threshold relaxed to 90 %, so that a value that
//! hovers at the threshold does not switch the rule on and off, and each part held three times as long as its `for`, at
//! least 5 s. A condition without any `for` is held as a whole.
//!
//! `relax` is only a factor: with a negative threshold it would tighten, which evaluation turns round.

use std::time::Duration;

use crate::language::ast::{Comparison, Condition};

/// Thresholds of a release stand at this part of the condition's.
const RELAX: f64 = 0.9;
/// Shortest time for which a release is held.
const SHORTEST: Duration = Duration::from_secs(5);

/// The release of `condition`. Its held parts are numbered from `first_id`.
pub(super) fn derive(condition: &Condition, first_id: usize) -> Condition {
    let mut release = Release { next_id: first_id };
    match is_constant(condition) {
        Some(value) => Condition::Literal(!value),
        None if has_held(condition) => release.opposite(condition, true, Some(SHORTEST)),
        None => {
            let inner = release.opposite(condition, true, None);
            release.hold(inner, SHORTEST)
        }
    }
}

fn is_constant(condition: &Condition) -> Option<bool> {
    match condition {
        Condition::Literal(value) => Some(*value),
        Condition::Not(inner) => is_constant(inner).map(|value| !value),
        _ => None,
    }
}

fn has_held(condition: &Condition) -> bool {
    match condition {
        Condition::Literal(_) | Condition::Compare { .. } => false,
        Condition::All(parts) | Condition::Any(parts) => parts.iter().any(has_held),
        Condition::Not(inner) => has_held(inner),
        Condition::Held { .. } => true,
    }
}

struct Release {
    next_id: usize,
}

impl Release {
    fn hold(&mut self, condition: Condition, duration: Duration) -> Condition {
        let id = self.next_id;
        self.next_id += 1;
        Condition::Held { id, condition: Box::new(condition), duration }
    }

    /// The relaxed opposite of `condition`, or, within `not`, the relaxed condition itself. `hold` is how long a
    /// comparison that stands outside every `for` is held.
    fn opposite(&mut self, condition: &Condition, negate: bool, hold: Option<Duration>) -> Condition {
        match condition {
            Condition::Literal(value) => Condition::Literal(*value != negate),
            Condition::Not(inner) => self.opposite(inner, !negate, hold),
            Condition::All(parts) | Condition::Any(parts) => {
                let all = matches!(condition, Condition::All(_));
                let parts = parts.iter().map(|part| self.opposite(part, negate, hold)).collect();
                if all != negate { Condition::All(parts) } else { Condition::Any(parts) }
            }
            Condition::Held { condition, duration, .. } => {
                let inner = self.opposite(condition, negate, None);
                self.hold(inner, duration.saturating_mul(3).max(SHORTEST))
            }
            Condition::Compare { comparison, left, right, .. } => {
                let (comparison, relax) = relaxed(if negate { *comparison } else { opposite(*comparison) });
                let released = Condition::Compare { comparison, left: left.clone(), right: right.clone(), relax };
                match hold {
                    Some(duration) => self.hold(released, duration),
                    None => released,
                }
            }
        }
    }
}

fn opposite(comparison: Comparison) -> Comparison {
    match comparison {
        Comparison::Less => Comparison::GreaterOrEqual,
        Comparison::LessOrEqual => Comparison::Greater,
        Comparison::Greater => Comparison::LessOrEqual,
        Comparison::GreaterOrEqual => Comparison::Less,
        Comparison::Equal => Comparison::NotEqual,
        Comparison::NotEqual => Comparison::Equal,
    }
}

/// What ends `comparison`, and the factor on its right side.
fn relaxed(comparison: Comparison) -> (Comparison, f64) {
    match comparison {
        Comparison::Greater | Comparison::GreaterOrEqual => (Comparison::Less, RELAX),
        Comparison::Less | Comparison::LessOrEqual => (Comparison::Greater, 1.0 / RELAX),
        Comparison::Equal => (Comparison::NotEqual, 1.0),
        Comparison::NotEqual => (Comparison::Equal, 1.0),
    }
}

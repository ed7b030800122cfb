//! Syntax trees of sentences, already typed.

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;

use crate::metric::Metric;

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Dimension {
    /// A fraction; `80%` is 0.8.
    Ratio,
    /// A plain count.
    Count,
    /// Something per second.
    PerSecond,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A number without a unit that fits any dimension.
    Scalar,
}

/// A numeric expression.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Expression {
    /// A literal in base units.
    Number(f64),
    /// A measured value.
    Metric(Metric),
    /// `-x`.
    Negative(Box<Expression>),
    /// `left operator right`; left-associative.
    Binary {
        /// What is computed.
        operator: Arithmetic,
        /// Left operand.
        left: Box<Expression>,
        /// Right operand.
        right: Box<Expression>,
    },
}

/// Arithmetic on `f64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// A condition; `id`s number its held parts, from 0, in the order of the text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Condition {
    /// `true` or `false`.
    Literal(bool),
    /// `left comparison right`.
    Compare {
        /// How they are compared.
        comparison: Comparison,
        /// Left operand.
        left: Expression,
        /// Right operand, with `relax` already applied by evaluation.
        right: Expression,
        /// Factor on `right` (1 as written; 0.9 or 1/0.9 in a derived release).
        relax: f64,
    },
    /// All of them.
    All(Vec<Condition>),
    /// Any of them.
    Any(Vec<Condition>),
    /// The opposite.
    Not(Box<Condition>),
    /// True once `condition` has been true for `duration` of sample time.
    Held {
        /// Number of this part, the key of its state.
        id: usize,
        /// What must be true.
        condition: Box<Condition>,
        /// For how long.
        duration: Duration,
    },
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// `adapt: keep cpu below 70% [and p99 latency below 200ms], between 20 and 500 requests per second per pod
/// [, at most 20% per step] [, every 1s] [, cooldown 5s]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Adapt {
    /// Goals, all of which are kept.
    pub goals: Vec<Goal>,
    /// Lowest limit, in requests per `interval`.
    pub floor: f64,
    /// Highest limit, in requests per `interval`.
    pub ceiling: f64,
    /// Unit of time of floor and ceiling.
    pub interval: Duration,
    /// Whose requests share the number.
    pub scope: crate::policy::Scope,
    /// How fast it may grow.
    pub pace: Pace,
    /// The law that moves the limit.
    pub law: crate::policy::LawKind,
    /// The sentence as written.
    pub text: String,
}

/// How fast a limit that steers itself may grow. What the sentence leaves out, the law has a default for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pace {
    /// Largest step up, as a fraction: of the limit for [`LawKind::CompletionRate`](crate::policy::LawKind), of the range
    /// from floor to ceiling for `Aimd`.
    pub step: Option<f64>,
    /// Shortest time between two steps up.
    pub every: Option<Duration>,
    /// Shortest time from a cut, or from the last refused request, to a step up.
    pub cooldown: Option<Duration>,
}

/// `METRIC below VALUE`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// What is watched.
    pub metric: Metric,
    /// Kept below this, in the metric's base unit.
    pub below: f64,
}

impl Expression {
    /// The value, with `lookup` giving each metric's value in base units. `None` when a metric is missing, a division is by
    /// zero, or any step is not finite: a number that cannot be computed is never taken for zero.
    #[must_use]
    pub fn evaluate(&self, lookup: &impl Fn(&Metric) -> Option<f64>) -> Option<f64> {
        let value = match self {
            Self::Number(number) => *number,
            Self::Metric(metric) => lookup(metric)?,
            Self::Negative(inner) => -inner.evaluate(lookup)?,
            Self::Binary { operator, left, right } => {
                let (left, right) = (left.evaluate(lookup)?, right.evaluate(lookup)?);
                match operator {
                    Arithmetic::Add => left + right,
                    Arithmetic::Subtract => left - right,
                    Arithmetic::Multiply => left * right,
                    // x/0 is infinite or NaN, which the check below refuses.
                    Arithmetic::Divide => left / right,
                }
            }
        };
        value.is_finite().then_some(value)
    }

    /// Adds every metric that the expression reads.
    pub fn collect_metrics(&self, into: &mut BTreeSet<Metric>) {
        match self {
            Self::Number(_) => {}
            Self::Metric(metric) => {
                into.insert(metric.clone());
            }
            Self::Negative(inner) => inner.collect_metrics(into),
            Self::Binary { left, right, .. } => {
                left.collect_metrics(into);
                right.collect_metrics(into);
            }
        }
    }
}

impl Condition {
    /// Adds every metric that the condition reads.
    pub fn collect_metrics(&self, into: &mut BTreeSet<Metric>) {
        match self {
            Self::Literal(_) => {}
            Self::Compare { left, right, .. } => {
                left.collect_metrics(into);
                right.collect_metrics(into);
            }
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.collect_metrics(into)),
            Self::Not(inner) | Self::Held { condition: inner, .. } => inner.collect_metrics(into),
        }
    }
}

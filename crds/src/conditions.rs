//! Types of the conditions in a status, and the fixed reasons of each.
//!
//! Condition messages never carry numbers that move; those stand in fields of the status.

use std::fmt;

/// A condition's `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The object is understood and carried out.
    Accepted,
    /// Every proxy of the targets has acknowledged what the object asks for.
    Programmed,
    /// Every metric that the rules read is fresh.
    MetricsAvailable,
    /// At least one rule limits now. False is normal.
    Limiting,
    /// Of a split: some backend cannot take part. False is normal.
    Degraded,
}

impl ConditionType {
    /// All types, in the order in which a status lists them.
    pub const ALL: [Self; 5] =
        [Self::Accepted, Self::Programmed, Self::MetricsAvailable, Self::Limiting, Self::Degraded];

    /// The text of `type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Programmed => "Programmed",
            Self::MetricsAvailable => "MetricsAvailable",
            Self::Limiting => "Limiting",
            Self::Degraded => "Degraded",
        }
    }

    /// Every reason that a condition of this type may have.
    #[must_use]
    pub const fn reasons(self) -> &'static [ConditionReason] {
        use ConditionReason as R;
        match self {
            Self::Accepted => {
                &[R::Accepted, R::Invalid, R::NotYetSupported, R::Conflicted, R::NotAllowed, R::TargetNotFound]
            }
            Self::Programmed => &[
                R::Programmed,
                R::Pending,
                R::NoEndpoints,
                R::NoProxies,
                R::Rejected,
                R::NotCarriedOut,
                R::Overridden,
                R::NotAccepted,
            ],
            Self::MetricsAvailable => &[R::Available, R::NotNeeded, R::Missing, R::NotAccepted],
            Self::Limiting => {
                &[R::Limiting, R::Releasing, R::NotEnforced, R::Paused, R::Shadow, R::Idle, R::NotAccepted]
            }
            Self::Degraded => {
                &[R::Healthy, R::SelfReference, R::BackendNotFound, R::NothingDeclared, R::NoEndpoints, R::NotRealised]
            }
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A condition's `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionReason {
    /// Accepted=True: understood.
    Accepted,
    /// Accepted=False: a field has a value that can never be right.
    Invalid,
    /// Accepted=False: right in the API, not carried out by this version.
    NotYetSupported,
    /// Accepted=False: an older object's rule excludes this one's.
    Conflicted,
    /// Accepted=False: right, and whoever runs Weir does not allow it to the object's namespace.
    NotAllowed,
    /// Accepted=False: the Service does not exist or its selector finds none.
    TargetNotFound,
    /// Programmed=True: every connected proxy has acknowledged.
    Programmed,
    /// Programmed=False: sent, not yet acknowledged by all.
    Pending,
    /// Programmed=False: no proxy of the targets is connected.
    NoProxies,
    /// Programmed=False: the targets have no pods.
    NoEndpoints,
    /// Programmed=False: a proxy refused the configuration.
    Rejected,
    /// Programmed=False: a rule was accepted and cannot be carried out on this Service.
    NotCarriedOut,
    /// Programmed=False: of a LazyConfig, others hold for every pod that it is for; of a split, another object holds.
    Overridden,
    /// Any type but Accepted: the object is not accepted, so nothing follows from it.
    NotAccepted,
    /// MetricsAvailable=True: all are fresh.
    Available,
    /// MetricsAvailable=True: no rule reads a metric.
    NotNeeded,
    /// MetricsAvailable=False: at least one is missing or stale.
    Missing,
    /// Limiting=True: a limit is in force.
    Limiting,
    /// Limiting=True: the last limit is growing until it vanishes.
    Releasing,
    /// Limiting=True: a limit is decided, and no proxy is known to enforce it.
    NotEnforced,
    /// Limiting=False: a limit would be in force, but an operator has paused it.
    Paused,
    /// Limiting=False: a limit would be in force, but its mode is Shadow.
    Shadow,
    /// Limiting=False: no rule's condition holds.
    Idle,
    /// Degraded=False: every backend can take part.
    Healthy,
    /// Degraded=False: a Service is one of its own backends, which means its own endpoints.
    SelfReference,
    /// Degraded=True: a backend does not exist, has no such port, or speaks another protocol.
    BackendNotFound,
    /// Degraded=True: nobody has any weight, so requests stay with the Service itself.
    NothingDeclared,
    /// Degraded=True: a backend does not get the part of the requests that it should.
    NotRealised,
}

impl ConditionReason {
    /// The text of `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Invalid => "Invalid",
            Self::NotYetSupported => "NotYetSupported",
            Self::Conflicted => "Conflicted",
            Self::NotAllowed => "NotAllowed",
            Self::TargetNotFound => "TargetNotFound",
            Self::Programmed => "Programmed",
            Self::Pending => "Pending",
            Self::NoProxies => "NoProxies",
            Self::NoEndpoints => "NoEndpoints",
            Self::Rejected => "Rejected",
            Self::NotCarriedOut => "NotCarriedOut",
            Self::Overridden => "Overridden",
            Self::NotAccepted => "NotAccepted",
            Self::Available => "Available",
            Self::NotNeeded => "NotNeeded",
            Self::Missing => "Missing",
            Self::Limiting => "Limiting",
            Self::Releasing => "Releasing",
            Self::NotEnforced => "NotEnforced",
            Self::Paused => "Paused",
            Self::Shadow => "Shadow",
            Self::Idle => "Idle",
            Self::Healthy => "Healthy",
            Self::SelfReference => "SelfReference",
            Self::BackendNotFound => "BackendNotFound",
            Self::NothingDeclared => "NothingDeclared",
            Self::NotRealised => "NotRealised",
        }
    }
}

impl fmt::Display for ConditionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

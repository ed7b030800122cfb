//! The status of any object of ours, as it stands on an API server.

use crds::{Condition, LazyConfigStatus, SmartLimiterStatus, SmartSplitStatus};
use serde::Serialize;
use serde_json::Value;

use super::routes::RouteStatus;

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum OwnStatus {
    /// Of a limiter.
    Limiter(SmartLimiterStatus),
    /// Of a `LazyConfig`.
    Lazy(LazyConfigStatus),
    /// Of a split.
    Split(SmartSplitStatus),
    /// Of a route, as far as it is ours.
    Route(RouteStatus),
}

impl From<SmartLimiterStatus> for OwnStatus {
    fn from(status: SmartLimiterStatus) -> Self {
        Self::Limiter(status)
    }
}

impl From<LazyConfigStatus> for OwnStatus {
    fn from(status: LazyConfigStatus) -> Self {
        Self::Lazy(status)
    }
}

impl OwnStatus {
    /// The text of the object that it speaks of.
    #[must_use]
    pub fn observed_generation(&self) -> Option<i64> {
        match self {
            Self::Limiter(status) => status.observed_generation,
            Self::Lazy(status) => status.observed_generation,
            Self::Split(status) => status.observed_generation,
            Self::Route(status) => status.conditions.first().and_then(|condition| condition.observed_generation),
        }
    }

    /// Its conditions.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        match self {
            Self::Limiter(status) => &status.conditions,
            Self::Lazy(status) => &status.conditions,
            Self::Split(status) => &status.conditions,
            Self::Route(status) => &status.conditions,
        }
    }

    pub(super) fn conditions_mut(&mut self) -> &mut [Condition] {
        match self {
            Self::Limiter(status) => &mut status.conditions,
            Self::Lazy(status) => &mut status.conditions,
            Self::Split(status) => &mut status.conditions,
            Self::Route(status) => &mut status.conditions,
        }
    }

    /// What stands there as a status of the same kind; `None`: it is none.
    pub(super) fn read_alike(&self, value: Value) -> Option<Self> {
        match self {
            Self::Limiter(_) => serde_json::from_value(value).ok().map(Self::Limiter),
            Self::Lazy(_) => serde_json::from_value(value).ok().map(Self::Lazy),
            Self::Split(_) => serde_json::from_value(value).ok().map(Self::Split),
            Self::Route(_) => RouteStatus::read(&value).map(Self::Route),
        }
    }

    /// The condition here that says of the same what the one at `place` of `other` says.
    pub(super) fn counterpart(&self, other: &Self, place: usize) -> Option<&Condition> {
        if let (Self::Route(status), Self::Route(other)) = (self, other) {
            return status.counterpart(other, place);
        }
        let wanted = other.conditions().get(place)?;
        self.conditions().iter().find(|condition| condition.type_ == wanted.type_)
    }
}

//! The founding article's `SmartLimiter` to [`Policy`](super::Policy).

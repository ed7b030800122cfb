//! `SmartLimiter` of `weir.dev/v1alpha1` to [`Policy`](super::Policy).

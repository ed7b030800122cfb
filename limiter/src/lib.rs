//! The decision engine: what a policy means and what it decides.
//!
//! ```text
//! objects (crds) -> policy::{weir, article} -> Policy -> engine::step(rule, state, observations, now) -> Decision -> quota::shares
//!                        uses language                        uses condition, adapt
//! ```
//!
//! Values in, values out. This crate does no I/O, asks no clock (`now` is an argument), holds no lock, and knows
//! neither Envoy nor a Kubernetes client.

pub mod adapt;
pub mod condition;
pub mod engine;
pub mod language;
pub mod lazy;
pub mod metric;
pub mod policy;
pub mod problem;
pub mod promql;
pub mod quantity;
pub mod quota;
pub mod simulation;
pub mod split;

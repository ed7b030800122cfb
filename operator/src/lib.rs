//! Weir's operator: everything with a process around it.
//!
//! ```text
//! watch -> index -> translate (with limiter's decisions) -> intent -> xds::resources -> xds::table -> xds::server -> Envoy
//! metrics -> limiter -> translate                          translate -> report -> status
//! ```
//!
//! Between a change and the gRPC stream every stage is a plain function of values. One task ([`app`]) owns the index.

pub mod admin;
pub mod admission;
pub mod app;
pub mod args;
pub mod build;
pub mod caret;
pub mod checkpoint;
pub mod codec;
pub mod command;
pub mod demo;
pub mod identity;
pub mod index;
pub mod inject;
pub mod intent;
pub mod metrics;
pub mod replicas;
pub mod status;
pub mod telemetry;
#[cfg(test)]
mod tests;
pub mod translate;
pub mod watch;
pub mod xds;

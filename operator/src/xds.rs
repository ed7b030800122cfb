//! The xDS server: intent to Envoy resources, one mesh-wide table of them, and ADS streams that see their part.
//!
//! ```text
//! intent -> resources (pure) -> table -> (wake) -> server -> session -> subscription   requests, ACKs, NACKs -> proxies
//! ```
//!
//! In: [`crate::intent`]. Out: streams to proxies, and in [`proxies`] what they answered. This room decides nothing: it
//! must never invent, drop or delay a limit, and never knows policies, metrics or Kubernetes.

pub mod asks;
pub mod attachment;
pub mod bootstrap;
pub mod client;
pub mod names;
pub mod node;
pub mod print;
pub mod proxies;
pub mod resources;
pub mod server;
pub mod session;
pub mod sotw;
pub mod subscription;
pub mod table;
pub mod trail;
pub mod wire;

pub use names::ResourceType;
pub use node::NodeKey;

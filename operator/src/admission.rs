//! The webhooks: mistakes in policies are refused by `kubectl apply`, with their column and their mend; pods that ask for it get a
//! sidecar.
//!
//! ```text
//! API server --HTTPS--> server -> review (pure) -> answer
//!                          |  `--Ask--> builder -> warnings (pure)
//!                          `-> pods (pure) -> answer, by `inject`
//! ```
//!
//! In: questions of the API server. Out: answers, by the certificate that [`crate::identity`] holds. Nothing depends on it: everything is judged again when it is read, and while it is away the API
//! server admits all. So nothing here may end Weir, and nothing waits for the builder for long.

mod meters;
mod pods;
mod review;
mod server;
mod warnings;

use std::{net::SocketAddr, sync::Arc};

use limiter::{
    lazy::Lazy,
    policy::{Policy, tenants::Tenants},
    split::Split,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    meters::Meters,
    warnings::{lazy_warnings, split_warnings, warnings},
};
use crate::{identity::Held, inject};

/// What `weir run` was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API server asks.
    pub address: SocketAddr,
    /// The namespaces that are watched; none: all of them.
    pub namespaces: Vec<String>,
    /// What objects may do beyond their own services.
    pub tenants: Tenants,
    /// What pods get that ask for a sidecar.
    pub sidecars: Sidecars,
}

/// What pods get that ask for a sidecar.
#[derive(Clone, Debug)]
pub struct Sidecars {
    /// What is the same for all of them.
    pub settings: inject::Settings,
    /// Namespaces in which proxies are told whom to trust: elsewhere a pod would wait for that for ever. None: somebody else sees to it.
    pub trusting: Vec<String>,
}

/// An object that makes sense.
#[derive(Clone, Debug)]
pub enum Sound {
    /// A policy.
    Policy(Box<Policy>),
    /// A `LazyConfig`.
    Lazy(Box<Lazy>),
    /// A split.
    Split(Box<Split>),
}

/// Asks the builder what is odd about an object that makes sense.
#[derive(Debug)]
pub struct Ask {
    /// The object.
    pub object: Sound,
    /// What is odd, one sentence each.
    pub reply_tx: oneshot::Sender<Vec<String>>,
}

/// Serves the webhook until `shutdown`, before everything has been read, too.
pub async fn run(
    config: Config,
    listener: TcpListener,
    held: Held,
    asks_tx: mpsc::Sender<Ask>,
    meters: Meters,
    shutdown: CancellationToken,
) {
    let Config { address: _, namespaces, tenants, sidecars } = config;
    let (namespaces, tenants, sidecars) = (namespaces.into(), Arc::new(tenants), Arc::new(sidecars));
    let reviewer = server::Reviewer { asks_tx, meters, namespaces, tenants, sidecars, turn: Arc::default() };
    server::serve(listener, held, reviewer, shutdown).await;
}

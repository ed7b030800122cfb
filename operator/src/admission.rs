//! The validating webhook: mistakes in policies are refused by `kubectl apply`, with their column and their mend.
//!
//! ```text
//! API server --HTTPS--> server -> review (pure) -> answer
//!                         |  `--Ask--> builder -> warnings (pure)
//!        Held certificate <- folder, or kept: a Secret of our own
//! ```
//!
//! In: questions of the API server, and who the API server is to trust. Out: answers, the certificate in its Secret, its authority
//! in the webhook's configuration. Nothing depends on it: everything is judged again when it is read, and while it is away the API
//! server admits all. So nothing here may end Weir, and nothing waits for the builder for long.

mod certificate;
mod folder;
mod kept;
mod meters;
mod review;
mod server;
mod warnings;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use limiter::policy::Policy;
use parking_lot::RwLock;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::certificate::Certificate;
pub use self::{kept::Kept, meters::Meters, warnings::warnings};

/// What `weir run` was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API server asks.
    pub address: SocketAddr,
    /// Where its certificate comes from.
    pub certificate: Source,
    /// The namespaces that are watched; none: all of them.
    pub namespaces: Vec<String>,
}

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// `tls.crt` and `tls.key` of a folder, which somebody else renews.
    Folder(PathBuf),
    /// Made here, and kept on the API server.
    Kept(Kept),
}

/// Asks the builder what is odd about a policy that makes sense.
#[derive(Debug)]
pub struct Ask {
    /// The policy.
    pub policy: Box<Policy>,
    /// What is odd, one sentence each.
    pub reply_tx: oneshot::Sender<Vec<String>>,
}

/// Serves the webhook until `shutdown`, before everything has been read, too.
pub async fn run(
    config: Config,
    listener: TcpListener,
    asks_tx: mpsc::Sender<Ask>,
    meters: Meters,
    shutdown: CancellationToken,
) {
    let held = Held { certificate: Arc::default(), meters: meters.clone() };
    let mut tasks = JoinSet::new();
    let (for_source, stop) = (held.clone(), shutdown.clone());
    tasks.spawn(async move {
        let source = async {
            match config.certificate {
                Source::Folder(folder) => folder::follow(&folder, for_source).await,
                Source::Kept(kept) => kept.keep(for_source).await,
            }
        };
        stop.run_until_cancelled(source).await;
    });
    let reviewer = server::Reviewer { asks_tx, meters, namespaces: config.namespaces.into(), turn: Arc::default() };
    tasks.spawn(server::serve(listener, held, reviewer, shutdown));
    while tasks.join_next().await.is_some() {}
}

/// The certificate that is served; cheap to clone. Written by its source alone, read by every handshake.
#[derive(Clone, Debug)]
struct Held {
    certificate: Arc<RwLock<Option<Certificate>>>,
    meters: Meters,
}

impl Held {
    fn get(&self) -> Option<Certificate> {
        self.certificate.read().clone()
    }

    fn set(&self, certificate: Certificate) {
        let mut held = self.certificate.write();
        if held.as_ref().is_none_or(|held| held.pem != certificate.pem) {
            info!(until = %certificate.until, "the webhook has a certificate");
        }
        self.meters.expires(certificate.until);
        *held = Some(certificate);
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.certificate.read().as_ref().is_none_or(|held| held.is_due(now))
    }
}

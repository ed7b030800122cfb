//! Who is who: Weir's own certificate, whom proxies are to trust, and which pod is at the other end of a stream.
//!
//! ```text
//! folder, or kept: a Secret of our own -> Held certificate -> handshakes of xDS and of the webhook
//!                                                `-> publish: ConfigMaps for proxies
//! token, or client certificate -> Gate -> Caller -> what it may claim
//! token -> Readers -> what it may read of the admin page
//! ```
//!
//! In: files or a Secret, credentials of callers, the API server's word about them. Out: [`Held`], [`Caller`]. It knows nothing
//! of policies and of xDS, and never believes what a caller says about itself.

mod caller;
mod certificate;
mod digest;
mod folder;
mod gate;
mod held;
mod kept;
mod link;
mod listener;
mod meters;
mod publish;
mod readers;
pub mod tls;
mod token;
mod tokens;
mod word;

use std::path::PathBuf;

use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::watch::live::Live;

pub use self::{
    caller::{Caller, Pod, Refusal},
    gate::{Gate, Shown},
    held::Held,
    kept::{Configuration, Kept, Webhooks},
    link::{Link, Unlinked},
    listener::{Listen, Listener, bind, socket_path},
    meters::Meters,
    publish::Place,
    readers::{Denied, Readers},
    token::AUDIENCE,
    word::secret_word,
};
use self::{
    tls::{Inside, Tls},
    tokens::Tokens,
};

/// What `weir run` was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Weir's certificate comes from. `None`: it has none.
    pub certificate: Option<Source>,
    /// How proxies prove who they are. `None`: they need not, and nothing is encrypted.
    pub proxies: Option<Credentials>,
    /// Whether readers of the admin page prove who they are. Otherwise they come from this machine.
    pub readers: bool,
    /// The ConfigMaps in which proxies are told whom to trust.
    pub places: Vec<Place>,
}

/// Where Weir's certificate comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// `tls.crt`, `tls.key` and perhaps `ca.crt` of a folder, which somebody else renews.
    Folder(PathBuf),
    /// Made here, and kept on the API server.
    Kept(Kept),
}

/// How proxies prove who they are.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// By tokens of their service accounts, which the API server knows.
    pub tokens: bool,
    /// By client certificates of the authorities in this file.
    pub clients: Option<PathBuf>,
}

/// Where the admin page is read; cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Judges who may read.
    pub readers: Readers,
    /// How connections are encrypted that want to be; `None`: none is.
    pub tls: Option<Tls>,
}

/// By which proxies come in; cheap to clone.
#[derive(Clone, Debug)]
pub struct Door {
    /// Judges callers.
    pub gate: Gate,
    /// How connections are encrypted; `None`: not at all.
    pub tls: Option<Tls>,
}

impl Door {
    /// Open for everybody, in plain text.
    #[must_use]
    pub const fn open() -> Self {
        Self { gate: Gate::open(), tls: None }
    }
}

/// Starts the tasks that keep everything up to date until `shutdown`: the certificate, the door for proxies, the desk for readers. `cluster` speaks to
/// the API server, where there is one, and knows its pods.
///
/// # Errors
///
/// A file cannot be used.
pub fn spawn(
    config: Config,
    cluster: Option<(Client, Live)>,
    meters: Meters,
    tasks: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> Result<(Held, Door, Desk), tls::Error> {
    let Config { certificate, proxies, readers, places } = config;
    let (client, live) = cluster.unzip();
    let held = Held::new(meters.clone());
    let mut keep = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let stop = shutdown.clone();
        tasks.spawn(async move {
            let _ = stop.run_until_cancelled(task).await;
        });
    };
    if let Some(source) = certificate {
        let held = held.clone();
        keep(match source {
            Source::Folder(folder) => Box::pin(async move { folder::follow(&folder, held).await }),
            Source::Kept(kept) => Box::pin(kept.keep(held)),
        });
    }
    if let Some(client) = client.clone().filter(|_| !places.is_empty()) {
        keep(Box::pin(publish::keep(client, places, held.clone())));
    }
    let desk = match client.clone().filter(|_| readers) {
        Some(client) => Desk { readers: Readers::new(client), tls: Some(Tls::new(held.clone(), Inside::Http, None)?) },
        None => Desk { readers: Readers::nearby(), tls: None },
    };
    let Some(Credentials { tokens, clients }) = proxies else {
        return Ok((held, Door::open(), desk));
    };
    let tls = Tls::new(held.clone(), Inside::Grpc, clients)?;
    let following = tls.clone();
    keep(Box::pin(async move { following.follow().await }));
    let tokens = client.zip(live).filter(|_| tokens).map(|(client, live)| Tokens::new(client, live, meters.clone()));
    if let Some(tokens) = tokens.clone() {
        keep(Box::pin(async move { tokens.keep_keys().await }));
    }
    Ok((held, Door { gate: Gate::new(tokens, meters), tls: Some(tls) }, desk))
}

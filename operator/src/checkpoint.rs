//! What is decided, kept in a folder, so that a restarted Weir goes on where it stopped.
//!
//! ```text
//! build -> Keeper -> (once a second, only when something changed) -> writer -> Folder      next start: Folder -> Kept -> build
//! ```
//!
//! In: what each rule remembers, whenever it is news. Out: the same, at the next start. The builder never waits: it leaves
//! news in a map, where newer news of a service replaces older. `record` is the form on disk, as plain functions of bytes;
//! `folder` does the I/O; `writer` sets the pace. Never decides anything, and never writes over what it could not read.

mod folder;
mod record;
mod writer;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::{
    folder::Folder,
    record::Damage,
    writer::{Metrics, spawn},
};
use crate::{
    intent::{Pauses, ServiceKey},
    translate::decide::States,
};

/// What a folder held when it was opened.
#[derive(Debug, Default)]
pub struct Kept {
    /// The decisions about each service, and when they were written.
    pub decisions: BTreeMap<ServiceKey, (Timestamp, States)>,
    /// What an operator has paused.
    pub pauses: Pauses,
    /// What could not be read, by file.
    pub damaged: BTreeMap<PathBuf, Vec<Damage>>,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds it.
    #[error("the folder {} is in use by another Weir{holder}; each needs a folder of its own", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// ` (process 123)`, as far as that is known.
        holder: String,
    },
    /// It, or something in it, cannot be read or written.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// `created`, `written`, ….
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// News by service; `None`: the service is gone.
type News = BTreeMap<ServiceKey, Option<States>>;

/// What was not written yet.
#[derive(Debug, Default)]
struct Pending {
    news: News,
    pauses: Option<Pauses>,
    /// Since when the oldest of it has waited, what failed to be written included.
    since: Option<Timestamp>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.news.is_empty() && self.pauses.is_none()
    }
}

type Shared = Arc<Mutex<Pending>>;

/// The builder's end: takes news and returns at once. Dropped, everything is written a last time.
#[derive(Debug)]
pub struct Keeper {
    pending: Shared,
    wake: watch::Sender<()>,
}

impl Keeper {
    /// What is decided about `service` is this from now on.
    pub fn keep(&self, service: &ServiceKey, states: States, now: Timestamp) {
        self.put(service, Some(states), now);
    }

    /// Nothing is to be kept of `service` any more.
    pub fn forget(&self, service: &ServiceKey, now: Timestamp) {
        self.put(service, None, now);
    }

    /// These are paused from now on.
    pub fn keep_pauses(&self, pauses: &Pauses, now: Timestamp) {
        self.change(now, |pending| pending.pauses = Some(pauses.clone()));
    }

    fn put(&self, service: &ServiceKey, states: Option<States>, now: Timestamp) {
        self.change(now, |pending| drop(pending.news.insert(service.clone(), states)));
    }

    fn change(&self, now: Timestamp, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.pending.lock();
        change(&mut pending);
        pending.since.get_or_insert(now);
        drop(pending);
        self.wake.send_replace(());
    }
}

#[cfg(test)]
mod tests;

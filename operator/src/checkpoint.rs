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
pub mod object;
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
    translate::decide::{States, Told},
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

/// News by service, which all who are told share; `None`: the service is gone.
pub type News = BTreeMap<ServiceKey, Option<Arc<Vec<Told>>>>;

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
    detail: Detail,
}

/// How much is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What the next start must know.
    Restart,
    /// Every number that is decided.
    Numbers,
}

/// The other end of a [`Keeper`]: where its news wait to be taken.
#[derive(Debug)]
pub struct Waiting {
    pending: Shared,
    woken: watch::Receiver<()>,
}

impl Waiting {
    /// What was taken is where it belongs.
    pub fn settle(&self, now: Timestamp) {
        let mut pending = self.pending.lock();
        pending.since = (!pending.is_empty()).then_some(now);
    }

    /// Waits for news and takes all there are; newer ones of a service have replaced older ones. `None`: the builder has ended.
    pub async fn next(&mut self) -> Option<(News, Option<Pauses>)> {
        loop {
            let ended = self.woken.has_changed().is_err();
            self.woken.mark_unchanged();
            let taken = {
                let mut pending = self.pending.lock();
                (std::mem::take(&mut pending.news), pending.pauses.take())
            };
            if !taken.0.is_empty() || taken.1.is_some() {
                return Some(taken);
            }
            if ended {
                return None;
            }
            let _ = self.woken.changed().await;
        }
    }
}

impl Keeper {
    /// One whose news are taken at the other end.
    #[must_use]
    pub fn new(detail: Detail) -> (Self, Waiting) {
        let pending = Shared::default();
        let (wake, woken) = watch::channel(());
        (Self { pending: Arc::clone(&pending), wake, detail }, Waiting { pending, woken })
    }

    /// How much it wants to know.
    #[must_use]
    pub const fn detail(&self) -> Detail {
        self.detail
    }

    /// Whether nobody takes its news any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.wake.is_closed()
    }

    /// What is decided about `service` is this from now on.
    pub fn keep(&self, service: &ServiceKey, told: Arc<Vec<Told>>, now: Timestamp) {
        self.put(service, Some(told), now);
    }

    /// Nothing is to be kept of `service` any more.
    pub fn forget(&self, service: &ServiceKey, now: Timestamp) {
        self.put(service, None, now);
    }

    /// These are paused from now on.
    pub fn keep_pauses(&self, pauses: &Pauses, now: Timestamp) {
        self.change(now, |pending| pending.pauses = Some(pauses.clone()));
    }

    fn put(&self, service: &ServiceKey, told: Option<Arc<Vec<Told>>>, now: Timestamp) {
        self.change(now, |pending| drop(pending.news.insert(service.clone(), told)));
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

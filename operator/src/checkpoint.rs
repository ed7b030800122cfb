//! What is decided, kept in a folder, so that a restarted Weir goes on where it stopped.
//!
//! ```text
//! build -> Keeper -> (once a second, only when something changed) -> writer -> Folder      next start: Folder -> Kept -> build
//! ```
//!
//! In: what each rule remembers, and what the pods of each service call, whenever it is news. Out: the same, at the next start. The builder
//! never waits: it leaves news in a map, where newer news of a service replaces older. `record` is the form on disk, as plain functions of
//! bytes; `folder` does the I/O, `writer` sets the pace. In a cluster `object` keeps decisions in a ConfigMap and `scopes` what is called
//! in objects of its own. Never decides anything, and never writes over what it could not read.

mod folder;
pub mod object;
mod record;
pub mod scopes;
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
    index::asked::{Memories, Remembered},
    intent::{Pauses, ServiceKey},
    translate::{
        decide::{States, Told},
        split::ToldSplit,
    },
};

/// What a folder held when it was opened.
#[derive(Debug, Default)]
pub struct Kept {
    /// The decisions about each service, and when they were written.
    pub decisions: BTreeMap<ServiceKey, (Timestamp, States)>,
    /// What the pods of each service call.
    pub memories: BTreeMap<ServiceKey, Vec<Remembered>>,
    /// Splits that are steered, by the Service whose requests they share out.
    pub splits: BTreeMap<ServiceKey, ToldSplit>,
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

/// Decisions by service, which all who are told share; `None`: the service is gone.
pub type Decisions = BTreeMap<ServiceKey, Option<Arc<Vec<Told>>>>;

/// What is new. Newer news of a service replace older ones.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// What is decided.
    pub decisions: Decisions,
    /// What is called.
    pub memories: Memories,
    /// Splits that are steered, by the Service whose requests they share out; `None`: that is not steered any more.
    pub splits: BTreeMap<ServiceKey, Option<ToldSplit>>,
    /// What is paused, all of it.
    pub pauses: Option<Pauses>,
}

impl News {
    fn is_empty(&self) -> bool {
        self.decisions.is_empty() && self.memories.is_empty() && self.splits.is_empty() && self.pauses.is_none()
    }
}

/// What was not written yet.
#[derive(Debug, Default)]
struct Pending {
    news: News,
    /// Since when the oldest of it has waited, what failed to be written included.
    since: Option<Timestamp>,
}

type Shared = Arc<Mutex<Pending>>;

/// The builder's end: takes news and returns at once. Dropped, everything is written a last time.
#[derive(Debug)]
pub struct Keeper {
    pending: Shared,
    wake: watch::Sender<()>,
    wants: Wants,
}

/// What a keeper wants to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// Decisions and pauses.
    pub decisions: Option<Detail>,
    /// What is called.
    pub memories: bool,
}

/// Which decisions are news.
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
        pending.since = (!pending.news.is_empty()).then_some(now);
    }

    /// Waits for news and takes all there are; newer ones of a service have replaced older ones. `None`: the builder has ended.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            let ended = self.woken.has_changed().is_err();
            self.woken.mark_unchanged();
            let news = std::mem::take(&mut self.pending.lock().news);
            if !news.is_empty() {
                return Some(news);
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
    pub fn new(wants: Wants) -> (Self, Waiting) {
        let pending = Shared::default();
        let (wake, woken) = watch::channel(());
        (Self { pending: Arc::clone(&pending), wake, wants }, Waiting { pending, woken })
    }

    /// Which decisions are news to it; `None`: none are.
    #[must_use]
    pub const fn detail(&self) -> Option<Detail> {
        self.wants.decisions
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
        if self.wants.decisions.is_some() {
            self.change(now, |news| news.pauses = Some(pauses.clone()));
        }
    }

    /// The pods of `service` call this from now on; `None`: nothing is to be remembered of them.
    pub fn remember(&self, service: &ServiceKey, memory: Option<Arc<Vec<Remembered>>>, now: Timestamp) {
        if self.wants.memories {
            self.change(now, |news| drop(news.memories.insert(service.clone(), memory)));
        }
    }

    /// The split of this Service is so from now on; `None`: it is not steered any more.
    pub fn keep_split(&self, root: &ServiceKey, told: Option<ToldSplit>, now: Timestamp) {
        if self.wants.decisions.is_some() {
            self.change(now, |news| drop(news.splits.insert(root.clone(), told)));
        }
    }

    /// A split has made a step, by which a share has `moved` or not.
    pub fn keep_split_as(&self, root: &ServiceKey, told: &ToldSplit, moved: bool, now: Timestamp) {
        if moved || self.wants.decisions == Some(Detail::Numbers) {
            self.keep_split(root, Some(told.clone()), now);
        }
    }

    fn put(&self, service: &ServiceKey, told: Option<Arc<Vec<Told>>>, now: Timestamp) {
        if self.wants.decisions.is_some() {
            self.change(now, |news| drop(news.decisions.insert(service.clone(), told)));
        }
    }

    fn change(&self, now: Timestamp, change: impl FnOnce(&mut News)) {
        let mut pending = self.pending.lock();
        change(&mut pending.news);
        pending.since.get_or_insert(now);
        drop(pending);
        self.wake.send_replace(());
    }
}

#[cfg(test)]
mod tests;

//! A folder of YAML files as a source of objects: no cluster needed.
//!
//! Every `.yaml`, `.yml` and `.json` file of the folder and its subfolders is read; names that begin with a dot are skipped.
//! A file that cannot be read as YAML (it is being written, perhaps) keeps what it said before and is reported. An object that
//! stands in two files counts once, where the name of the file comes first. [`Folder::scan`] is one look at the folder;
//! [`spawn`] looks again whenever the file system says that something moved, and every two seconds in any case.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use limiter::problem::{Problem, Reason};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Batch, LONGEST_WAIT, QUIET,
    decode::{self, Decoded, File},
};
use crate::index::{Change, Object, ObjectKey};

/// A look without a notice from the file system: notices can be lost, and some file systems give none.
const RESCAN: Duration = Duration::from_secs(2);
/// A larger file is not a manifest.
const LARGEST_FILE: u64 = 16 * 1024 * 1024;

#[derive(Debug, Default)]
struct Known {
    modified: Option<SystemTime>,
    length: u64,
    file: File,
}

/// The folder as it was at the last look.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    files: BTreeMap<PathBuf, Known>,
    /// What the index holds: every object with its origin.
    objects: BTreeMap<ObjectKey, (String, Object)>,
    problems: BTreeMap<String, Vec<Problem>>,
}

impl Folder {
    /// A folder not yet looked at.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), files: BTreeMap::new(), objects: BTreeMap::new(), problems: BTreeMap::new() }
    }

    /// Looks at the folder and says what is different since the last look.
    ///
    /// # Errors
    /// When the folder itself cannot be listed; everything known stays as it was.
    pub fn scan(&mut self) -> io::Result<Vec<Change>> {
        let Listing { files: paths, mut problems } = list(&self.root)?;
        let mut files_changed = self.files.len() != paths.len();
        self.files.retain(|path, _| paths.contains_key(path));
        for (path, metadata) in paths {
            let name = path.strip_prefix(&self.root).unwrap_or(&path).display().to_string();
            let (modified, length) = (metadata.modified().ok(), metadata.len());
            // The time of a file has a coarse grain: one that changed just now is read again at the next look.
            let settled = modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > RESCAN);
            let known = self.files.entry(path.clone()).or_default();
            let same = settled && known.modified == modified && known.length == length;
            if same && !self.problems.contains_key(&name) {
                continue;
            }
            match read(&path, length) {
                Ok(file) => {
                    if !file.problems.is_empty() {
                        problems.insert(name, file.problems.clone());
                    }
                    files_changed |= known.file != file;
                    *known = Known { modified, length, file };
                }
                Err(problem) => {
                    problems.insert(name, vec![problem]);
                    *known = Known { modified, length, file: std::mem::take(&mut known.file) };
                }
            }
        }
        let mut changes = Vec::new();
        if files_changed {
            self.diff_objects(&mut problems, &mut changes);
        } else {
            // Doubles were found when the files last changed and still stand.
            for (origin, old) in &self.problems {
                let doubles = old.iter().filter(|problem| problem.field == DOUBLE);
                problems.entry(origin.clone()).or_default().extend(doubles.cloned());
            }
            problems.retain(|_, problems| !problems.is_empty());
        }
        for origin in self.problems.keys().filter(|origin| !problems.contains_key(*origin)) {
            changes.push(Change::Source { origin: origin.clone(), problems: Vec::new() });
        }
        for (origin, problems) in &problems {
            if self.problems.get(origin) != Some(problems) {
                changes.push(Change::Source { origin: origin.clone(), problems: problems.clone() });
            }
        }
        self.problems = problems;
        Ok(changes)
    }

    /// Compares the objects of all files with those that the index has.
    fn diff_objects(&mut self, problems: &mut BTreeMap<String, Vec<Problem>>, changes: &mut Vec<Change>) {
        let mut seen: BTreeMap<ObjectKey, String> = BTreeMap::new();
        for (path, known) in &self.files {
            let name = path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
            for Decoded { key, line, object } in &known.file.objects {
                let origin = format!("{name}:{line}");
                if let Some(first) = seen.get(key) {
                    problems.entry(name.clone()).or_default().push(Problem {
                        field: DOUBLE.to_owned(),
                        reason: Reason::Invalid,
                        message: format!("line {line}: {key} stands in {first} already, which counts"),
                        help: Some("remove one of the two, or give it another name".to_owned()),
                        place: None,
                    });
                    continue;
                }
                seen.insert(key.clone(), origin.clone());
                let new = (origin.clone(), object.clone());
                if self.objects.get(key) != Some(&new) {
                    self.objects.insert(key.clone(), new);
                    changes.push(Change::Apply { key: key.clone(), origin, object: object.clone() });
                }
            }
        }
        let gone: BTreeSet<_> = self.objects.keys().filter(|key| !seen.contains_key(*key)).cloned().collect();
        for key in gone {
            self.objects.remove(&key);
            changes.push(Change::Delete(key));
        }
    }
}

/// Field of the problem of an object that stands in two files.
const DOUBLE: &str = "metadata";

fn unreadable(message: String) -> Problem {
    Problem { field: "file".to_owned(), reason: Reason::Invalid, message, help: None, place: None }
}

fn read(path: &Path, length: u64) -> Result<File, Problem> {
    if length > LARGEST_FILE {
        return Err(unreadable(format!("{length} bytes are more than the {LARGEST_FILE} that Weir reads of a file")));
    }
    let bytes = fs::read(path).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    decode::decode(&bytes).map_err(|decode::Unreadable(problem)| problem)
}

/// The manifests below a folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// Every manifest, by path.
    pub files: BTreeMap<PathBuf, fs::Metadata>,
    /// Subfolders that cannot be listed, by path.
    pub problems: BTreeMap<String, Vec<Problem>>,
}

/// Lists every manifest of a folder and its subfolders; names that begin with a dot are skipped.
///
/// # Errors
/// When the folder itself cannot be listed.
pub fn list(folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    list_into(folder, &mut listing, 0)?;
    Ok(listing)
}

fn list_into(folder: &Path, listing: &mut Listing, depth: usize) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        // Follows links, as mounted ConfigMaps are made of them. A broken link is a file that is gone.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            // Sixteen levels are more than anybody sorts by hand, and end a loop of links.
            if depth < 16
                && let Err(error) = list_into(&path, listing, depth + 1)
            {
                let message = format!("the folder cannot be listed: {error}");
                listing.problems.insert(path.display().to_string(), vec![unreadable(message)]);
            }
        } else if metadata.is_file() && is_manifest(&path) {
            listing.files.insert(path, metadata);
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// Watches the folder until `shutdown`; sends a batch for every look that found something, and always the first.
///
/// # Errors
/// When the folder cannot be listed at the start.
pub fn spawn(
    root: PathBuf,
    batches_tx: mpsc::Sender<Batch>,
    shutdown: CancellationToken,
) -> io::Result<tokio::task::JoinHandle<()>> {
    let mut folder = Folder::new(root.clone());
    let (notices_tx, mut notices_rx) = mpsc::channel::<()>(1);
    // Watch before the first look, so that nothing falls between the two.
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = notices_tx.try_send(()); // full: a look is due already
        }
    })
    .and_then(|mut watcher| watcher.watch(&root, RecursiveMode::Recursive).map(|()| watcher));
    let watcher = watcher.inspect_err(|error| warn!(%error, "no notices from the file system; looking every 2 s")).ok();
    let changes = folder.scan()?;
    info!(folder = %root.display(), files = folder.files.len(), objects = folder.objects.len(), "read the folder");
    Ok(tokio::spawn(async move {
        let _watcher = watcher; // its notices end when it is dropped
        let mut batch = Batch { changes, initial: true };
        loop {
            if (batch.initial || !batch.changes.is_empty()) && batches_tx.send(batch).await.is_err() {
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RESCAN) => {}
                Some(()) = notices_rx.recv() => quiet(&mut notices_rx).await,
            }
            let look = tokio::task::spawn_blocking(move || {
                let result = folder.scan();
                (folder, result)
            });
            let Ok((returned, result)) = look.await else { return };
            folder = returned;
            let changes = result.unwrap_or_else(|error| {
                warn!(folder = %folder.root.display(), %error, "the folder cannot be listed; everything stays in force");
                Vec::new()
            });
            debug!(changes = changes.len(), "looked at the folder");
            batch = Batch { changes, initial: false };
        }
    }))
}

async fn quiet(notices: &mut mpsc::Receiver<()>) {
    let longest = tokio::time::sleep(LONGEST_WAIT);
    tokio::pin!(longest);
    loop {
        tokio::select! {
            () = &mut longest => return,
            notice = tokio::time::timeout(QUIET, notices.recv()) => match notice {
                Ok(Some(())) => {}
                Ok(None) | Err(_) => return,
            },
        }
    }
}

#[cfg(test)]
mod tests;

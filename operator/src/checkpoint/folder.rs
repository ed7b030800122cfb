//! The folder on disk: held by one process, read once at the start, written file by file.
//!
//! `decisions/00.jsonl` to `3f.jsonl` hold what is decided of services, by the hash of their names, and `calls/00.jsonl` to `3f.jsonl` what
//! their pods call, and `splits/` how splits are steered: a change of one service writes one of 64 files, and a thousand changes write 64
//! files and not a thousand. `decisions/pauses.json` holds what an operator has paused. Each is written beside, synced, and renamed into place.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use tracing::{error, warn};
use xxhash_rust::xxh3::xxh3_64;

use super::{Damage, Error, Kept, News, record};
use crate::{
    intent::{Pauses, ServiceKey},
    translate::decide::states,
};

const FILES: u64 = 64;
const PAUSES: &str = "pauses.json";
/// A larger file is none of ours: 5,000 services with ten rules each have about 20 MB, in 64 files.
const MAX_BYTES: u64 = 256 << 20;

/// A folder that this process holds. Dropped, it is free for another.
#[derive(Debug)]
pub struct Folder {
    decisions: Shelf,
    calls: Shelf,
    splits: Shelf,
    /// What is paused, when that is not on disk.
    pauses: Option<Pauses>,
    _lock: File,
}

/// Files of lines, one line of each service.
#[derive(Debug)]
struct Shelf {
    folder: PathBuf,
    /// Lines of each file by service.
    files: BTreeMap<u8, BTreeMap<ServiceKey, String>>,
    /// Files that differ from what is on disk.
    behind: BTreeSet<u8>,
}

impl Folder {
    /// Opens the folder, made if need be, and reads what is in it. What cannot be read is copied aside, said in the log and
    /// given in [`Kept::damaged`].
    ///
    /// # Errors
    ///
    /// Another process holds it, or it cannot be read and written.
    pub fn open(folder: &Path, now: Timestamp) -> Result<(Self, Kept), Error> {
        let (mut decisions, mut calls) = (Shelf::of(folder, "decisions")?, Shelf::of(folder, "calls")?);
        let mut splits = Shelf::of(folder, "splits")?;
        let lock = lock(folder)?;
        let mut kept = Kept::default();
        // Found out now, not at the first decision.
        decisions.probe()?;
        calls.probe()?;
        splits.probe()?;
        let pauses = pauses(&decisions, &mut kept, now)?;
        kept.decisions = decisions.read(record::read, record::line, now, &mut kept.damaged)?;
        let memories = calls.read(
            record::read_calls,
            |service, at, calls| record::line_of_calls(service, at, calls),
            now,
            &mut kept.damaged,
        )?;
        kept.memories = memories.into_iter().map(|(service, (_, calls))| (service, calls)).collect();
        let told = splits.read(record::read_splits, record::line_of_split, now, &mut kept.damaged)?;
        kept.splits = told.into_iter().map(|(root, (_, told))| (root, told)).collect();
        Ok((Self { decisions, calls, splits, pauses, _lock: lock }, kept))
    }

    /// Takes news in. Nothing is on disk before [`Self::write`].
    pub(super) fn take(&mut self, News { decisions, memories, splits, pauses }: News, now: Timestamp) {
        for (service, told) in decisions {
            let told = told.filter(|told| !told.is_empty());
            let line = told.map(|told| record::line(&service, now, &states(&service, &told)));
            self.decisions.take(service, line);
        }
        for (service, memory) in memories {
            let line = memory.map(|memory| record::line_of_calls(&service, now, &memory));
            self.calls.take(service, line);
        }
        for (root, told) in splits {
            let line = told.map(|told| record::line_of_split(&root, now, &told));
            self.splits.take(root, line);
        }
        self.pauses = pauses.or(self.pauses.take());
    }

    /// Whether something has still to be written.
    pub(super) fn is_behind(&self) -> bool {
        [&self.decisions, &self.calls, &self.splits].iter().any(|shelf| !shelf.behind.is_empty())
            || self.pauses.is_some()
    }

    /// Writes every file that is behind; gives their number.
    ///
    /// # Errors
    ///
    /// The first file that cannot be written; it and those after it are tried again at the next call.
    pub(super) fn write(&mut self, now: Timestamp) -> Result<usize, Error> {
        let mut written = 0;
        if let Some(pauses) = &self.pauses {
            let path = self.decisions.folder.join(PAUSES);
            let text =
                serde_json::to_string(pauses).map_err(|error| io(&path, "written")(std::io::Error::other(error)))?;
            self.decisions.replace(PAUSES, &text)?;
            self.decisions.sync()?;
            self.pauses = None;
            written += 1;
        }
        Ok(written + self.decisions.write(now)? + self.calls.write(now)? + self.splits.write(now)?)
    }
}

/// What was paused when the process before ended. What cannot be read is put aside, and is to be written anew.
fn pauses(decisions: &Shelf, kept: &mut Kept, now: Timestamp) -> Result<Option<Pauses>, Error> {
    let path = decisions.folder.join(PAUSES);
    let pauses = bytes(&path).and_then(|bytes| match bytes {
        None => Ok(Pauses::default()),
        Some(bytes) => {
            serde_json::from_slice(&bytes).map_err(|error| format!("it does not say what is paused: {error}"))
        }
    });
    match pauses {
        Ok(pauses) => {
            kept.pauses = pauses;
            Ok(None)
        }
        Err(reason) => {
            let aside = put_aside(&path, now)?;
            warn!(file = %path.display(), aside = %aside.display(), reason, "what was paused is damaged; nothing is paused");
            kept.damaged.insert(path, vec![Damage { line: 0, service: None, reason }]);
            Ok(Some(Pauses::default()))
        }
    }
}

impl Shelf {
    fn of(folder: &Path, name: &str) -> Result<Self, Error> {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).map_err(io(&folder, "created"))?;
        Ok(Self { folder, files: BTreeMap::new(), behind: BTreeSet::new() })
    }

    fn probe(&self) -> Result<(), Error> {
        self.replace("probe", "")?;
        let probe = self.folder.join("probe");
        fs::remove_file(&probe).map_err(io(&probe, "removed"))
    }

    /// What is in the files, as `read` understands them; `line` gives the line of one service again.
    fn read<T>(
        &mut self,
        read: impl Fn(&[u8]) -> (Vec<(ServiceKey, Timestamp, T)>, Vec<Damage>),
        line: impl Fn(&ServiceKey, Timestamp, &T) -> serde_json::Result<String>,
        now: Timestamp,
        damaged: &mut BTreeMap<PathBuf, Vec<Damage>>,
    ) -> Result<BTreeMap<ServiceKey, (Timestamp, T)>, Error> {
        let mut found = BTreeMap::<ServiceKey, (Timestamp, T)>::new();
        for number in 0..FILES {
            let number = u8::try_from(number).expect("64 fit");
            let path = self.folder.join(name(number));
            let (services, damages) = match bytes(&path) {
                Ok(None) => continue,
                Ok(Some(bytes)) => read(&bytes),
                Err(reason) => (Vec::new(), vec![Damage { line: 0, service: None, reason }]),
            };
            for (service, at, one) in services {
                let Ok(line) = line(&service, at, &one) else { continue };
                let home = self::number(&service);
                if home != number {
                    self.behind.extend([home, number]);
                }
                // Twice there only by a person's hand: the newer holds.
                if found.get(&service).is_none_or(|(other, _)| *other <= at) {
                    self.files.entry(home).or_default().insert(service.clone(), line);
                    found.insert(service, (at, one));
                }
            }
            if !damages.is_empty() {
                let aside = put_aside(&path, now)?;
                for damage in &damages {
                    warn!(file = %path.display(), aside = %aside.display(), %damage, "what was kept is damaged; the rest is used");
                }
                self.behind.insert(number);
                damaged.insert(path, damages);
            }
        }
        Ok(found)
    }

    /// The line of a service is this now; `None`: it has none.
    fn take(&mut self, service: ServiceKey, line: Option<serde_json::Result<String>>) {
        let number = number(&service);
        let lines = self.files.entry(number).or_default();
        let differs = match line {
            None => lines.remove(&service).is_some(),
            Some(Ok(line)) => {
                lines.insert(service, line);
                true
            }
            Some(Err(error)) => {
                // Our own types; what was written before stays.
                error!(%service, %error, "what is known of a service cannot be written as JSON");
                false
            }
        };
        if differs {
            self.behind.insert(number);
        }
    }

    fn write(&mut self, now: Timestamp) -> Result<usize, Error> {
        let mut written = 0;
        while let Some(number) = self.behind.first().copied() {
            let path = self.folder.join(name(number));
            match self.files.get(&number).filter(|lines| !lines.is_empty()) {
                Some(lines) => {
                    let text = record::file(lines.values(), now)
                        .map_err(|error| io(&path, "written")(std::io::Error::other(error)))?;
                    self.replace(&name(number), &text)?;
                }
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(&path, "removed")(error)),
                    _ => {}
                },
            }
            self.behind.remove(&number);
            written += 1;
        }
        if written > 0 {
            self.sync()?;
        }
        Ok(written)
    }

    /// Makes names that were written outlast the machine.
    fn sync(&self) -> Result<(), Error> {
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(io(&self.folder, "synced"))
    }

    /// Puts a file into the folder: all of it or nothing.
    fn replace(&self, name: &str, text: &str) -> Result<(), Error> {
        let draft = self.folder.join(format!(".{name}.draft"));
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, self.folder.join(name))
        };
        write().map_err(|error| {
            // A disk that is full is not to be kept full by half a file.
            let _ = fs::remove_file(&draft);
            io(&self.folder.join(name), "written")(error)
        })
    }
}

/// Copies what is there, for a person to look at: the name itself will be written over.
fn put_aside(path: &Path, now: Timestamp) -> Result<PathBuf, Error> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".damaged-{}", now.as_second()));
    let aside = PathBuf::from(aside);
    if path.is_file() {
        fs::copy(path, &aside).map_err(io(&aside, "written"))?;
    } else {
        fs::rename(path, &aside).map_err(io(path, "renamed"))?;
    }
    Ok(aside)
}

/// The lock goes with the process, however it ends.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut lock = open.map_err(io(&path, "opened"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            let holder = holder.trim();
            let holder = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
            return Err(Error::InUse { folder: folder.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(io(&path, "locked")(error)),
    }
    lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(io(&path, "written"))?;
    Ok(lock)
}

/// What a file holds; `None` when there is none.
fn bytes(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("the file cannot be read: {error}")),
        Ok(length) if length as u64 > MAX_BYTES => Err(format!("the file is larger than {MAX_BYTES} bytes")),
        Ok(_) => Ok(Some(bytes)),
    }
}

fn name(number: u8) -> String {
    format!("{number:02x}.jsonl")
}

fn number(service: &ServiceKey) -> u8 {
    u8::try_from(xxh3_64(service.to_string().as_bytes()) % FILES).expect("64 fit")
}

fn io(path: &Path, what: &'static str) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path: path.clone(), what, source }
}

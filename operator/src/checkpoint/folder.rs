//! The folder on disk: held by one process, read once at the start, written file by file.
//!
//! `decisions/00.jsonl` to `3f.jsonl` hold the services by the hash of their names: a change of one service writes one of 64
//! files, and a thousand changes write 64 files and not a thousand. `pauses.json` beside them holds what an operator has paused. Each is
//! written beside, synced, and renamed into place.

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
    decisions: PathBuf,
    /// Lines of each file by service.
    files: BTreeMap<u8, BTreeMap<ServiceKey, String>>,
    /// Files that differ from what is on disk.
    behind: BTreeSet<u8>,
    /// What is paused, when that is not on disk.
    pauses: Option<Pauses>,
    _lock: File,
}

impl Folder {
    /// Opens the folder, made if need be, and reads what is in it. What cannot be read is copied aside, said in the log and
    /// given in [`Kept::damaged`].
    ///
    /// # Errors
    ///
    /// Another process holds it, or it cannot be read and written.
    pub fn open(folder: &Path, now: Timestamp) -> Result<(Self, Kept), Error> {
        let decisions = folder.join("decisions");
        fs::create_dir_all(&decisions).map_err(io(&decisions, "created"))?;
        let lock = lock(folder)?;
        let mut opened = Self { decisions, files: BTreeMap::new(), behind: BTreeSet::new(), pauses: None, _lock: lock };
        // Found out now, not at the first decision.
        opened.replace("probe", "")?;
        let probe = opened.decisions.join("probe");
        fs::remove_file(&probe).map_err(io(&probe, "removed"))?;
        let kept = opened.read(now)?;
        Ok((opened, kept))
    }

    fn read(&mut self, now: Timestamp) -> Result<Kept, Error> {
        let mut kept = Kept::default();
        let path = self.decisions.join(PAUSES);
        let pauses = bytes(&path).and_then(|bytes| match bytes {
            None => Ok(Pauses::default()),
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| format!("it does not say what is paused: {error}"))
            }
        });
        match pauses {
            Ok(pauses) => kept.pauses = pauses,
            Err(reason) => {
                let aside = self.put_aside(&path, now)?;
                warn!(file = %path.display(), aside = %aside.display(), reason, "what was paused is damaged; nothing is paused");
                self.pauses = Some(Pauses::default());
                kept.damaged.insert(path, vec![Damage { line: 0, service: None, reason }]);
            }
        }
        for number in 0..FILES {
            let number = u8::try_from(number).expect("64 fit");
            let path = self.decisions.join(name(number));
            let (services, damages) = match bytes(&path) {
                Ok(None) => continue,
                Ok(Some(bytes)) => record::read(&bytes),
                Err(reason) => (Vec::new(), vec![Damage { line: 0, service: None, reason }]),
            };
            for (service, at, states) in services {
                let Ok(line) = record::line(&service, at, &states) else { continue };
                let home = self::number(&service);
                if home != number {
                    self.behind.extend([home, number]);
                }
                // Twice there only by a person's hand: the newer holds.
                if kept.decisions.get(&service).is_none_or(|(other, _)| *other <= at) {
                    self.files.entry(home).or_default().insert(service.clone(), line);
                    kept.decisions.insert(service, (at, states));
                }
            }
            if !damages.is_empty() {
                let aside = self.put_aside(&path, now)?;
                for damage in &damages {
                    warn!(file = %path.display(), aside = %aside.display(), %damage, "kept decisions are damaged; the rest is used");
                }
                self.behind.insert(number);
                kept.damaged.insert(path, damages);
            }
        }
        Ok(kept)
    }

    /// Copies what is there, for a person to look at: the name itself will be written over.
    fn put_aside(&self, path: &Path, now: Timestamp) -> Result<PathBuf, Error> {
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

    /// Takes news in. Nothing is on disk before [`Self::write`].
    pub(super) fn take(&mut self, news: News, now: Timestamp) {
        for (service, told) in news {
            let number = number(&service);
            let lines = self.files.entry(number).or_default();
            let differs = match told.filter(|told| !told.is_empty()) {
                None => lines.remove(&service).is_some(),
                Some(told) => match record::line(&service, now, &states(&service, &told)) {
                    Ok(line) => {
                        lines.insert(service, line);
                        true
                    }
                    Err(error) => {
                        // Our own types; what was written before stays.
                        error!(%service, %error, "a decision cannot be written as JSON");
                        false
                    }
                },
            };
            if differs {
                self.behind.insert(number);
            }
        }
    }

    /// As [`Self::take`], of what is paused.
    pub(super) fn take_pauses(&mut self, pauses: Option<Pauses>) {
        self.pauses = pauses.or(self.pauses.take());
    }

    /// Whether something has still to be written.
    pub(super) fn is_behind(&self) -> bool {
        !self.behind.is_empty() || self.pauses.is_some()
    }

    /// Writes every file that is behind; gives their number.
    ///
    /// # Errors
    ///
    /// The first file that cannot be written; it and those after it are tried again at the next call.
    pub(super) fn write(&mut self, now: Timestamp) -> Result<usize, Error> {
        let mut written = 0;
        if let Some(pauses) = &self.pauses {
            let text = serde_json::to_string(pauses)
                .map_err(|error| io(&self.decisions.join(PAUSES), "written")(std::io::Error::other(error)))?;
            self.replace(PAUSES, &text)?;
            self.pauses = None;
            written += 1;
        }
        while let Some(number) = self.behind.first().copied() {
            let path = self.decisions.join(name(number));
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
            let synced = File::open(&self.decisions).and_then(|folder| folder.sync_all());
            synced.map_err(io(&self.decisions, "synced"))?;
        }
        Ok(written)
    }

    /// Puts a file into the folder: all of it or nothing.
    fn replace(&self, name: &str, text: &str) -> Result<(), Error> {
        let draft = self.decisions.join(format!(".{name}.draft"));
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, self.decisions.join(name))
        };
        write().map_err(|error| {
            // A disk that is full is not to be kept full by half a file.
            let _ = fs::remove_file(&draft);
            io(&self.decisions.join(name), "written")(error)
        })
    }
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

//! Files and folders that a command was given, read as the folder source reads them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use limiter::problem::Problem;

use crate::watch::{decode, files::is_manifest};

/// A file that was read.
pub(super) struct Input {
    pub(super) path: PathBuf,
    /// Its text, for showing places in it; empty when it is not UTF-8.
    pub(super) text: String,
    pub(super) result: Result<decode::File, Problem>,
}

/// Reads everything named, folders with all below them, in order of name.
pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    let mut files = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?;
        if metadata.is_dir() {
            list(path, &mut files, 0)?;
        } else {
            files.push(path.clone());
        }
    }
    let mut inputs = Vec::new();
    for path in files {
        let bytes = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let result = decode::decode(&bytes).map_err(|decode::Unreadable(problem)| problem);
        inputs.push(Input { path, text: String::from_utf8(bytes).unwrap_or_default(), result });
    }
    Ok(inputs)
}

fn list(folder: &Path, files: &mut Vec<PathBuf>, depth: usize) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be listed", folder.display()))?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    for path in paths {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        if path.is_dir() && depth < 16 {
            list(&path, files, depth + 1)?;
        } else if path.is_file() && is_manifest(&path) {
            files.push(path);
        }
    }
    Ok(())
}

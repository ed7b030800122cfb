//! Files and folders that a command was given, read as the folder source reads them.

use std::{fs, path::PathBuf};

use anyhow::Context;
use limiter::problem::Problem;

use crate::watch::{decode, files::list};

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
            let found = list(path).with_context(|| format!("{} cannot be listed", path.display()))?;
            if let Some((folder, problem)) = found.problems.first_key_value() {
                anyhow::bail!("{folder}: {}", problem[0].message);
            }
            files.extend(found.files.into_keys());
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

//! The checks of the repository itself, each a function of what it reads that returns its findings: one line each, with the
//! place and what to do. `tests/it/tidy.rs` runs them on this repository and expects none.

pub mod arrows;
pub mod documents;
pub mod examples;
pub mod generated;
pub mod modules;
mod source;
pub mod text;

use std::{fs, path::Path};

/// A text file of the repository.
#[derive(Clone, Debug)]
pub struct File {
    /// Path below the root, with `/` between parts.
    pub path: String,
    /// Its whole text.
    pub text: String,
}

impl File {
    /// A file with these words; for trees made up in tests.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

/// Every text file below `root`, in the order of their paths. Leaves out what is built, installed or recorded by git.
///
/// # Panics
///
/// When a folder cannot be read.
#[must_use]
pub fn files(root: &Path) -> Vec<File> {
    let mut found = Vec::new();
    collect(root, "", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<File>) {
    // Cargo marks its target folders, wherever they are, by this tag.
    if folder.join("CACHEDIR.TAG").exists() {
        return;
    }
    for entry in fs::read_dir(folder).expect("a folder of the repository can be read") {
        let entry = entry.expect("a folder of the repository can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let kind = entry.file_type().expect("a folder's entry has a type");
        if kind.is_dir() {
            if !matches!(name.as_str(), ".git" | ".cache" | "target") {
                collect(&entry.path(), &path, found);
            }
        } else if kind.is_file()
            && name != ".git"
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            found.push(File { path, text });
        }
    }
}

/// The number of the line that holds byte `offset`, from 1.
fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Whether a path holds tests only: a `tests.rs`, or anything below a `tests` folder.
fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.split('/').any(|part| part == "tests")
}

//! `weir inject`: the sidecar in the pods of a file, by hand.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;

use super::say;
use crate::{args::InjectArgs, identity, inject};

pub(super) fn run(args: InjectArgs) -> anyhow::Result<ExitCode> {
    let InjectArgs { file, sidecar } = args;
    let text = read(&file).with_context(|| format!("--file {} cannot be read", file.display()))?;
    let found = inject::documents(&text, &identity::secret_word(), &sidecar.settings());
    for (object, warning) in &found.warnings {
        eprintln!("weir: warning: {object}: {warning}");
    }
    // All or nothing: what is printed is often applied at once.
    if !found.problems.is_empty() {
        for (object, problem) in &found.problems {
            eprintln!("weir: {object}: {problem}");
        }
        return Ok(ExitCode::FAILURE);
    }
    if found.injected.is_empty() {
        eprintln!("weir: nothing in {} gets a sidecar", file.display());
    }
    say!("{}", found.text.trim_end());
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> io::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(file)
}

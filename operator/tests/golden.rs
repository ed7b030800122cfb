//! Golden files: every `testdata/<case>/in.yaml` through every stage, compared with what stands beside it.
//!
//! The first lines of an input may say `# metric: cpu=0.91`. `UPDATE_GOLDEN=1` rewrites the outputs; the diff is reviewed like
//! code.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use operator::{args::Stage, command};

const STAGES: [(Stage, &str); 3] =
    [(Stage::Intent, "intent.yaml"), (Stage::Resources, "resources.yaml"), (Stage::Status, "status.yaml")];

fn check(dir: &Path) -> Vec<String> {
    let input = dir.join("in.yaml");
    let text = fs::read_to_string(&input).expect("in.yaml is readable");
    let metrics: Vec<(String, f64)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# metric: "))
        .map(|line| {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect();
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let staged = command::staged(&[input], &metrics, start).expect("the files can be read");
    let mut different = Vec::new();
    for (stage, name) in STAGES {
        let path = dir.join(name);
        let printed = serde_saphyr::to_string(&staged.print(stage).expect("printable")).expect("YAML");
        if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
            fs::write(&path, printed).expect("written");
        } else if fs::read_to_string(&path).ok().as_deref() != Some(printed.as_str()) {
            different.push(path.display().to_string());
        }
    }
    different
}

#[test]
fn every_stage_prints_what_was_reviewed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut cases: Vec<PathBuf> =
        fs::read_dir(root).expect("testdata exists").map(|entry| entry.expect("listed").path()).collect();
    cases.sort();
    assert!(cases.len() >= 5, "cases are missing");
    let different: Vec<String> = cases.iter().flat_map(|case| check(case)).collect();
    assert!(different.is_empty(), "these differ (review with `make golden`):\n{}", different.join("\n"));
}

#[test]
fn the_same_input_gives_the_same_versions() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/several-rules/in.yaml");
    let print = || {
        let staged = command::staged(std::slice::from_ref(&case), &[], Timestamp::UNIX_EPOCH).expect("readable");
        staged.print(Stage::Resources).expect("printable").to_string()
    };
    assert_eq!(print(), print());
}

//! Golden files: every `testdata/<case>/in.yaml` through every stage, compared with what stands beside it.
//!
//! The first lines of an input may say `# metric: cpu=0.91`. `UPDATE_GOLDEN=1` rewrites the outputs; the diff is reviewed like
//! code.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Parser;
use jiff::Timestamp;
use operator::{
    args::{Args, Command, Stage},
    command, inject,
};

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
        different.extend(compare(&path, &printed));
    }
    different
}

/// The file, if it does not hold this.
fn compare(path: &Path, printed: &str) -> Option<String> {
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        fs::write(path, printed).expect("written");
        return None;
    }
    let same = fs::read_to_string(path).ok().as_deref() == Some(printed);
    (!same).then(|| path.display().to_string())
}

/// `testdata-inject/<case>/in.yaml` with sidecars, and what is said about it.
#[test]
fn sidecars_are_what_was_reviewed() {
    let Command::Inject(args) = Args::try_parse_from(["weir", "inject", "--file=-"]).expect("it is right").command
    else {
        panic!("another command");
    };
    let settings = args.sidecar.settings();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata-inject");
    let mut different = Vec::new();
    for case in ["redirect", "none", "refused"].map(|case| root.join(case)) {
        let text = fs::read_to_string(case.join("in.yaml")).expect("in.yaml is readable");
        let found = inject::documents(&text, "key", &settings);
        let problems = found.problems.iter().map(|(object, problem)| format!("{object}: {problem}\n"));
        let warnings = found.warnings.iter().map(|(object, warning)| format!("warning: {object}: {warning}\n"));
        let said: String = problems.chain(warnings).collect();
        different.extend(compare(&case.join("said.txt"), &said));
        different.extend(compare(&case.join("out.yaml"), &found.text));
        assert_eq!(inject::documents(&found.text, "other", &settings).text, found.text, "twice is once");
    }
    assert!(different.is_empty(), "these differ (review with `make golden`):\n{}", different.join("\n"));
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

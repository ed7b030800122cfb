//! The repository keeps its own rules. What each check refuses is tested beside it, in `testkit::tidy`.

use std::{process::Command, sync::LazyLock};

use serde_json::Value;
use testkit::{
    project_root,
    tidy::{self, File, arrows, documents, examples, generated, modules, text},
};

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| tidy::files(&project_root()));

/// What cargo knows of the workspace.
static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let output = cargo().args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
});

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(project_root());
    cargo
}

/// Every file that cargo compiles by itself: libraries, binaries, integration tests, build scripts, fuzz targets.
fn roots() -> Vec<String> {
    let root = format!("{}/", project_root().canonicalize().unwrap().display());
    let targets =
        METADATA["packages"].as_array().unwrap().iter().flat_map(|package| package["targets"].as_array().unwrap());
    let fuzz_targets = FILES.iter().map(|file| &file.path).filter(|path| path.starts_with("fuzz/fuzz_targets/"));
    targets
        .map(|target| target["src_path"].as_str().unwrap())
        .map(|path| path.strip_prefix(&root).unwrap_or(path).to_owned())
        .chain(fuzz_targets.cloned())
        .collect()
}

#[track_caller]
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "{} found:\n  {}", findings.len(), findings.join("\n  "));
}

#[test]
fn the_files_of_the_repository_are_found() {
    for path in ["Cargo.toml", "limiter/src/lib.rs", "operator/src/main.rs", "tests/src/tidy.rs", ".ci/run"] {
        assert!(FILES.iter().any(|file| file.path == path), "{path} is not among {} files", FILES.len());
    }
}

#[test]
fn rooms_use_only_what_their_arrows_allow() {
    none(arrows::rooms(&FILES));
}

#[test]
fn crates_depend_one_way_and_the_inner_ones_know_no_io() {
    none(arrows::crates(&METADATA));
}

#[test]
fn every_module_is_reached() {
    none(modules::orphans(&FILES, &roots()));
}

#[test]
fn every_crate_and_room_says_what_it_is() {
    none(modules::undocumented(&FILES, &roots()));
}

#[test]
fn no_file_is_too_long_to_read() {
    none(modules::too_long(&FILES));
}

#[test]
fn no_path_of_one_machine_stands_in_a_file() {
    none(text::machine_paths(&FILES));
}

#[test]
fn no_work_is_left_open() {
    none(text::left_open(&FILES));
}

#[test]
fn no_test_sleeps_or_is_switched_off() {
    none(text::weak_tests(&FILES));
}

#[test]
fn every_document_that_a_stranger_looks_for_is_there() {
    none(documents::missing(&FILES));
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    none(documents::dead_links(&FILES));
}

#[test]
fn the_change_log_has_an_unreleased_part() {
    let text = FILES.iter().find(|file| file.path == "CHANGELOG.md").map_or("", |file| file.text.as_str());
    none(documents::changelog(text));
}

#[test]
fn every_example_can_be_read() {
    none(examples::unreadable(&FILES));
}

#[test]
fn every_example_is_without_a_mistake() {
    // Each folder is a whole: two may have objects of the same name.
    let folders = std::fs::read_dir(project_root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let mut found = Vec::new();
    for folder in folders.filter(|path| path.is_dir()) {
        let (more, objects) = operator::command::findings(&[folder]).unwrap();
        assert!(objects > 0);
        found.extend(more.into_iter().filter(|finding| !finding.note));
    }
    let place = |finding: &operator::command::Finding| {
        format!("{}:{}: {}", finding.path.display(), finding.line.unwrap_or(1), finding.problem)
    };
    none(found.iter().map(place).collect());
}

#[test]
fn the_committed_crds_are_what_the_code_generates() {
    let definitions = crds::all();
    let generated: Vec<File> = definitions
        .iter()
        .map(|definition| File::new(crds::file_name(definition), crds::template(definition).unwrap()))
        .collect();
    let prefix = "charts/weir-crds/templates/";
    let committed: Vec<File> =
        FILES.iter().filter_map(|file| Some(File::new(file.path.strip_prefix(prefix)?, file.text.clone()))).collect();
    none(generated::differences(&generated, &committed, "make crds"));
}

//! Modules that nothing reaches, crates and rooms without a word of what they are, and files too long to read.

use std::collections::{BTreeMap, BTreeSet};

use super::{File, source::tokens};

/// Lines after which a file is to be split by subject.
pub const LONGEST: usize = 700;

/// Rust files that no `mod` reaches from one of `roots` (paths below the root, as cargo knows its targets), and `mod`s
/// without a file. A file outside the workspace's packages (a fuzz target) is to be among the roots.
#[must_use]
pub fn orphans(files: &[File], roots: &[String]) -> Vec<String> {
    let rust: BTreeMap<&str, &File> =
        files.iter().filter(|file| file.path.ends_with(".rs")).map(|file| (file.path.as_str(), file)).collect();
    let mut findings = Vec::new();
    let mut reached = BTreeSet::new();
    let mut ahead: Vec<(String, bool)> = roots.iter().map(|root| (root.clone(), true)).collect();
    while let Some((path, is_root)) = ahead.pop() {
        if !reached.insert(path.clone()) {
            continue;
        }
        let Some(file) = rust.get(path.as_str()) else {
            findings.push(format!("{path}: a target of cargo without a file"));
            continue;
        };
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let stem = name.trim_end_matches(".rs");
        let below = if is_root || stem == "mod" { folder.to_owned() } else { format!("{folder}/{stem}") };
        for declared in declared_modules(&file.text) {
            let found = match &declared {
                Declared::At(place) => vec![format!("{folder}/{place}")],
                Declared::Named(name) => vec![format!("{below}/{name}.rs"), format!("{below}/{name}/mod.rs")],
            };
            match found.into_iter().find(|path| rust.contains_key(path.as_str())) {
                Some(path) => ahead.push((path, false)),
                None => findings.push(format!("{path}: declares {declared:?} but there is no such file")),
            }
        }
    }
    findings.extend(
        rust.keys()
            .filter(|path| !reached.contains(**path))
            .map(|path| format!("{path}: no `mod` reaches this file; declare it or delete it")),
    );
    findings.extend(
        rust.keys()
            .filter(|path| path.ends_with("/mod.rs"))
            .map(|path| format!("{path}: the house writes foo.rs beside foo/, never mod.rs")),
    );
    findings
}

#[derive(Debug)]
enum Declared<'a> {
    Named(&'a str),
    /// By `#[path = ".."]`.
    At(&'a str),
}

fn declared_modules(text: &str) -> Vec<Declared<'_>> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let mut place = None;
    for (at, token) in tokens.iter().enumerate() {
        let text = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text);
        if token.text == "path" && text(1) == "=" && text(2).starts_with('"') {
            place = Some(text(2).trim_matches('"'));
        }
        if token.text == "mod" && text(2) == ";" {
            found.push(place.take().map_or(Declared::Named(text(1)), Declared::At));
        }
    }
    found
}

/// Crate roots and rooms (the first level below one) that do not open with `//!` and at least one sentence.
#[must_use]
pub fn undocumented(files: &[File], roots: &[String]) -> Vec<String> {
    let libraries: Vec<&str> = roots.iter().filter_map(|root| root.strip_suffix("/lib.rs")).collect();
    files
        .iter()
        .filter(|file| {
            let is_room = file.path.ends_with(".rs")
                && !file.path.ends_with("/tests.rs")
                && file.path.rsplit_once('/').is_some_and(|(folder, _)| libraries.contains(&folder));
            is_room || roots.contains(&file.path)
        })
        .filter(|file| {
            let words: usize = file
                .text
                .lines()
                .take_while(|line| line.starts_with("//!"))
                .map(|line| line[3..].split_whitespace().count())
                .sum();
            words < 3
        })
        .map(|file| {
            format!("{}: open with //! and say what it owns, what goes in and out, what it must never do", file.path)
        })
        .collect()
}

/// Rust files of more than [`LONGEST`] lines.
#[must_use]
pub fn too_long(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.path.ends_with(".rs"))
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .map(|(file, lines)| format!("{}: {lines} lines; split it by subject (at most {LONGEST})", file.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{File, LONGEST, orphans, too_long, undocumented};

    fn roots() -> Vec<String> {
        vec!["a/src/lib.rs".to_owned(), "a/src/main.rs".to_owned()]
    }

    fn tree() -> Vec<File> {
        vec![
            File::new(
                "a/src/lib.rs",
                "//! Owns a and nothing else.\npub mod room;\n#[path = \"odd/place.rs\"] mod odd;",
            ),
            File::new("a/src/main.rs", "//! Starts the thing.\nfn main() {}"),
            File::new("a/src/odd/place.rs", "// mod ghost;"),
            File::new("a/src/room.rs", "//! A room for tests.\nmod deep;\n#[cfg(test)]\nmod tests {}"),
            File::new("a/src/room/deep.rs", ""),
        ]
    }

    #[test]
    fn follows_every_mod_to_its_file() {
        assert_eq!(orphans(&tree(), &roots()), Vec::<String>::new());
        assert_eq!(undocumented(&tree(), &roots()), Vec::<String>::new());
    }

    #[test]
    fn refuses_orphans_missing_files_and_mod_rs() {
        let mut files = tree();
        files.push(File::new("a/src/room/lost.rs", ""));
        files.push(File::new("a/src/old/mod.rs", ""));
        files[3].text.push_str("\nmod gone;");
        let found = orphans(&files, &roots()).join("\n");
        for what in ["room/lost.rs: no `mod`", "old/mod.rs: no `mod`", "never mod.rs", "Named(\"gone\")"] {
            assert!(found.contains(what), "{what}: {found}");
        }
        assert!(orphans(&[], &roots()).join("\n").contains("target of cargo without a file"));
    }

    #[test]
    fn refuses_crates_and_rooms_without_a_word() {
        let mut files = tree();
        files[0].text = "pub mod room;".to_owned();
        files[3].text = "//! Empty.".to_owned();
        files.push(File::new("a/src/tests.rs", "use super::*;"));
        assert_eq!(undocumented(&files, &roots()).len(), 2);
    }

    #[test]
    fn refuses_a_file_too_long_to_read() {
        let file = |lines: usize| [File::new("a.rs", "x\n".repeat(lines))];
        assert_eq!(too_long(&file(LONGEST)).len(), 0);
        assert_eq!(too_long(&file(LONGEST + 1)).len(), 1);
    }
}

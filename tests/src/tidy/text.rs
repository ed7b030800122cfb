//! Words that must not stand in any file: paths of one machine, work left open, tests that sleep or are switched off.

use super::{File, is_test, line_at};

// Put together from parts, so that this file does not find itself.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
const LEFT_OPEN: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("(skel", "eton)"),
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
];
const SWITCHED_OFF: [&str; 2] = [concat!("#[ig", "nore"), concat!("#[should_", "panic")];
const SLEEP: &str = concat!("sl", "eep(");

/// Absolute paths of the machine on which something was written.
#[must_use]
pub fn machine_paths(files: &[File]) -> Vec<String> {
    find(files, &MACHINE_PATHS, |file, at| {
        // A part of a longer path or address is none: https://host/home/, ../work/.
        let before = file.text[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '.' | '_' | '-' | '/' | '}' | '$'))
    })
    .map(|place| format!("{place}: a path of one machine; take it from an argument or from the project's root"))
    .collect()
}

/// Work left open in Rust, scripts and manifests. What is not done is an issue, not a comment.
#[must_use]
pub fn left_open(files: &[File]) -> Vec<String> {
    find(files, &LEFT_OPEN, |file, at| {
        let before = file.text[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    })
    .map(|place| format!("{place}: work left open; do it, or file an issue"))
    .collect()
}

/// Tests that are switched off, that pass by panicking, or that sleep. Below `tests/` even tokio's sleep counts: real
/// servers do not know paused time. Use [`eventually`](crate::eventually).
#[must_use]
pub fn weak_tests(files: &[File]) -> Vec<String> {
    let rust: Vec<File> = files.iter().filter(|file| file.path.ends_with(".rs")).cloned().collect();
    let switched_off = find(&rust, &SWITCHED_OFF, |_, _| true)
        .map(|place| format!("{place}: a test runs, and says by assertions what is right"));
    let sleeping = find(&rust, &[SLEEP], |file, at| {
        // A benchmark paces its load.
        is_test(&file.path)
            && !file.path.starts_with("tests/src/bin/")
            && (file.text[..at].ends_with("thread::")
                || (file.path.starts_with("tests/") && file.text[..at].ends_with("::")))
    })
    .map(|place| format!("{place}: wait for a condition with a deadline (testkit::eventually) instead"));
    switched_off.chain(sleeping).collect()
}

fn find<'a>(
    files: &'a [File],
    words: &'a [&str],
    counts: impl Fn(&File, usize) -> bool + 'a,
) -> impl Iterator<Item = String> + 'a {
    files.iter().flat_map(move |file| {
        let mut places = Vec::new();
        for word in words {
            for (at, _) in file.text.match_indices(word) {
                if counts(file, at) {
                    places.push(format!("{}:{}: {word:?}", file.path, line_at(&file.text, at)));
                }
            }
        }
        places
    })
}

#[cfg(test)]
mod tests {
    use super::{File, left_open, machine_paths, weak_tests};

    fn file(path: &str, text: &str) -> [File; 1] {
        [File::new(path, text)]
    }

    #[test]
    fn refuses_paths_of_one_machine() {
        for text in [concat!("see /wo", "rk/x"), concat!("\"/ho", "me/someone\""), concat!("/ro", "ot/.cargo")] {
            assert_eq!(machine_paths(&file("docs/a.md", text)).len(), 1, "{text}");
        }
        for text in [
            "a/network/b",
            concat!("https://host/ho", "me/"),
            concat!("frame", "/wo", "rk/"),
            concat!("..", "/wo", "rk/x"),
        ] {
            assert_eq!(machine_paths(&file("docs/a.md", text)), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn refuses_work_left_open() {
        let text = format!("fn a() {{}}\n// {}: later\n{}", concat!("TO", "DO"), concat!("to", "do!()"));
        let found = left_open(&file("a.rs", &text));
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("a.rs:2: "), "{found:?}");
        assert_eq!(left_open(&file("a.rs", concat!("MASTO", "DON"))).len(), 0);
    }

    #[test]
    fn refuses_tests_that_are_off_or_sleep() {
        let off = concat!("#[ig", "nore = \"slow\"]");
        assert_eq!(weak_tests(&file("operator/src/a.rs", off)).len(), 1);
        let (thread, tokio) = (concat!("std::thread::sl", "eep(x)"), concat!("tokio::time::sl", "eep(x)"));
        assert_eq!(weak_tests(&file("operator/src/a.rs", thread)).len(), 0, "not a test");
        assert_eq!(weak_tests(&file("operator/src/a/tests.rs", thread)).len(), 1);
        assert_eq!(weak_tests(&file("operator/src/a/tests.rs", tokio)).len(), 0, "time may be paused there");
        assert_eq!(weak_tests(&file("tests/tests/it/envoy.rs", tokio)).len(), 1);
        assert_eq!(weak_tests(&file("notes.md", off)).len(), 0);
    }
}

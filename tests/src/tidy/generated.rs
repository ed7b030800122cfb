//! Generated files against their committed copies.

use super::File;

/// Where `committed` differs from `generated` (paths of both below the same folder). `mend` is the command that rewrites it.
#[must_use]
pub fn differences(generated: &[File], committed: &[File], mend: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if generated.is_empty() {
        findings.push(format!("`{mend}` generates nothing"));
    }
    for file in generated {
        match committed.iter().find(|other| other.path == file.path) {
            None => findings.push(format!("{}: not committed; run `{mend}`", file.path)),
            Some(other) if other.text != file.text => {
                let line = 1 + other.text.lines().zip(file.text.lines()).take_while(|(old, new)| old == new).count();
                findings.push(format!("{}:{line}: stale; run `{mend}`", file.path));
            }
            Some(_) => {}
        }
    }
    findings.extend(
        committed
            .iter()
            .filter(|other| !generated.iter().any(|file| file.path == other.path))
            .map(|other| format!("{}: nothing generates it; delete it", other.path)),
    );
    findings
}

#[cfg(test)]
mod tests {
    use super::{File, differences};

    #[test]
    fn tells_missing_stale_and_left_over_files_apart() {
        let generated = [File::new("a", "1\n2\n"), File::new("b", "1\n2\n"), File::new("c", "1\n")];
        let committed = [File::new("a", "1\n2\n"), File::new("b", "1\n3\n"), File::new("d", "")];
        let found = differences(&generated, &committed, "make crds");
        assert_eq!(
            found,
            ["b:2: stale; run `make crds`", "c: not committed; run `make crds`", "d: nothing generates it; delete it"]
        );
    }
}

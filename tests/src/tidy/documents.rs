//! Markdown: links that lead nowhere, documents that must exist, a change log without its Unreleased part.

use std::collections::BTreeSet;

use super::{File, line_at};

/// What a stranger looks for first.
const EXPECTED: [&str; 6] = ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "deny.toml"];

/// Documents that every repository has and this one lacks.
#[must_use]
pub fn missing(files: &[File]) -> Vec<String> {
    EXPECTED
        .iter()
        .filter(|name| !files.iter().any(|file| file.path == **name && !file.text.trim().is_empty()))
        .map(|name| format!("{name}: missing or empty"))
        .collect()
}

/// Links of Markdown files, below the root, to files or headings that do not exist. Addresses of other hosts are not asked.
#[must_use]
pub fn dead_links(files: &[File]) -> Vec<String> {
    let mut places: BTreeSet<String> = BTreeSet::new();
    for file in files {
        places.extend(file.path.match_indices('/').map(|(at, _)| file.path[..at].to_owned()));
        places.insert(file.path.clone());
    }
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (at, link) in links(&file.text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (target, heading) = link.split_once('#').unwrap_or((link, ""));
            let path = if target.is_empty() { Some(file.path.clone()) } else { resolve(&file.path, target) };
            let place = format!("{}:{}", file.path, line_at(&file.text, at));
            match path {
                None => findings.push(format!("{place}: {link:?} leaves the repository")),
                Some(path) if !path.is_empty() && !places.contains(&path) => {
                    findings.push(format!("{place}: {link:?} leads to {path}, which does not exist"));
                }
                Some(path) if !heading.is_empty() && path.ends_with(".md") => {
                    let there = files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str());
                    if !anchors(there).contains(heading) {
                        findings.push(format!("{place}: {path} has no heading #{heading}"));
                    }
                }
                Some(_) => {}
            }
        }
    }
    findings
}

/// Every `](target)` outside code, with its place. Code fences and spans are blanked by equal lengths, to keep places.
fn links(text: &str) -> Vec<(usize, &str)> {
    let prose = without_code(text);
    prose
        .match_indices("](")
        .filter_map(|(at, _)| {
            let begin = at + 2;
            let end = begin + prose[begin..].find([')', ' ', '\n'])?;
            Some((at, &text[begin..end]))
        })
        .filter(|(_, link)| !link.is_empty())
        .collect()
}

fn without_code(text: &str) -> String {
    let mut prose = String::with_capacity(text.len());
    let mut fenced = false;
    for line in text.split_inclusive('\n') {
        let is_fence = line.trim_start().starts_with("```");
        if fenced || is_fence {
            prose.extend(line.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
            fenced ^= is_fence;
            continue;
        }
        let mut code = false;
        for c in line.chars() {
            if c == '`' {
                code = !code;
            }
            if code && c != '\n' {
                prose.extend(std::iter::repeat_n(' ', c.len_utf8()));
            } else {
                prose.push(c);
            }
        }
    }
    prose
}

fn resolve(from: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The anchors that code hosts make of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    text.lines()
        .filter(|line| {
            fenced ^= line.trim_start().starts_with("```");
            !fenced && line.starts_with('#')
        })
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            heading
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// Whether the change log's first section is `Unreleased` and says something.
#[must_use]
pub fn changelog(text: &str) -> Vec<String> {
    let mut sections = text.split("\n## ").skip(1);
    let Some(first) = sections.next() else {
        return vec!["CHANGELOG.md: no section; the first one is `## Unreleased`".to_owned()];
    };
    let (title, body) = first.split_once('\n').unwrap_or((first, ""));
    let mut findings = Vec::new();
    if title.trim() != "Unreleased" {
        findings.push(format!("CHANGELOG.md: the first section is {title:?}; it must be `## Unreleased`"));
    }
    // After a release the part may be empty, but only if there was one.
    if !body.lines().any(|line| line.starts_with("- ")) && sections.next().is_none() {
        findings.push("CHANGELOG.md: says nothing".to_owned());
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{File, changelog, dead_links, missing};

    #[test]
    fn follows_links_between_documents() {
        let files = [
            File::new(
                "README.md",
                "# A\n[b](docs/b.md#two-words), [c](docs), [d](https://host/x.md), [e](#a), `[f](g)`\n```\n[h](i)\n```\n",
            ),
            File::new("docs/b.md", "## Two words!\n[up](../README.md)"),
        ];
        assert_eq!(dead_links(&files), Vec::<String>::new());
    }

    #[test]
    fn refuses_links_that_lead_nowhere() {
        let text = "# A\n\n[b](gone.md) [c](../../out.md)\n[d](#nowhere) [e](/absolute.md) [f](README.md#gone)\n";
        let files = [File::new("README.md", "# Here"), File::new("docs/a.md", text), File::new("docs/README.md", "")];
        let found = dead_links(&files);
        assert_eq!(found.len(), 5, "{found:?}");
        assert!(found[0].starts_with("docs/a.md:3: \"gone.md\" leads to docs/gone.md"), "{found:?}");
    }

    #[test]
    fn refuses_a_repository_without_its_documents() {
        assert_eq!(missing(&[File::new("README.md", "  ")]).len(), 6);
    }

    #[test]
    fn refuses_a_change_log_without_an_unreleased_part() {
        assert_eq!(changelog("# Changes\n\n## Unreleased\n\n- A thing.\n"), Vec::<String>::new());
        assert_eq!(changelog("# Changes\n\n## Unreleased\n\n## 0.1.0\n\n- A thing.\n"), Vec::<String>::new());
        for text in ["# Changes", "# Changes\n\n## 0.1.0\n- A thing.\n", "# Changes\n\n## Unreleased\n"] {
            assert_eq!(changelog(text).len(), 1, "{text}");
        }
    }
}

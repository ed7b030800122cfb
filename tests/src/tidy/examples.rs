//! Examples that a user may paste: each must be what Weir reads.

use super::File;

/// Manifests below `examples/` that are not YAML, or hold a document that is not a named object.
#[must_use]
pub fn unreadable(files: &[File]) -> Vec<String> {
    let mut findings = Vec::new();
    let examples: Vec<_> = files
        .iter()
        .filter(|file| file.path.starts_with("examples/"))
        .filter(|file| file.path.ends_with(".yaml") || file.path.ends_with(".yml"))
        .collect();
    if examples.is_empty() {
        findings.push("examples/: holds no manifest".to_owned());
    }
    for file in examples {
        let documents = match serde_saphyr::from_multiple::<serde_json::Value>(&file.text) {
            Ok(documents) => documents,
            Err(error) => {
                findings.push(format!("{}: not YAML: {error}", file.path));
                continue;
            }
        };
        let documents: Vec<_> = documents.iter().filter(|document| !document.is_null()).collect();
        if documents.is_empty() {
            findings.push(format!("{}: holds no object", file.path));
        }
        for (number, document) in documents.iter().enumerate() {
            for field in ["/apiVersion", "/kind", "/metadata/name"] {
                if document.pointer(field).and_then(serde_json::Value::as_str).is_none_or(str::is_empty) {
                    let dotted = field[1..].replace('/', ".");
                    findings.push(format!("{}: document {} has no {dotted}", file.path, number + 1));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{File, unreadable};

    fn found(text: &str) -> Vec<String> {
        unreadable(&[File::new("examples/a.yaml", text)])
    }

    #[test]
    fn accepts_named_objects() {
        let object = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
        assert_eq!(found(&format!("---\n{object}---\n{object}")), Vec::<String>::new());
        assert_eq!(unreadable(&[File::new("docs/a.yaml", "{")]), ["examples/: holds no manifest"]);
    }

    #[test]
    fn refuses_what_is_not_an_object() {
        for text in ["a: [", "- 1", "", "apiVersion: v1\nkind: Pod\nmetadata: {name: \"\"}", "\ta: b"] {
            assert!(!found(text).is_empty(), "{text}");
        }
    }
}

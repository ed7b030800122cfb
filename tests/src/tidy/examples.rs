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
        let is_on_loopback = documents.iter().any(|document| document.to_string().contains("\"addresses\":[\"127."));
        let head = file.text.lines().take_while(|line| line.starts_with('#'));
        if is_on_loopback && !head.into_iter().any(|line| line.contains("an API server refuses the loopback addresses"))
        {
            findings.push(format!(
                "{}: its head does not say that an API server refuses the loopback addresses",
                file.path
            ));
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
    fn refuses_loopback_addresses_without_a_word() {
        let slice = "apiVersion: v1\nkind: EndpointSlice\nmetadata: {name: a}\nendpoints: [{addresses: [127.0.1.1]}]\n";
        assert_eq!(found(slice).len(), 1);
        assert_eq!(
            found(&format!("# Here an API server refuses the loopback addresses.\n{slice}")),
            Vec::<String>::new()
        );
        assert_eq!(found(&slice.replace("127.0", "10.0")), Vec::<String>::new());
    }

    #[test]
    fn refuses_what_is_not_an_object() {
        for text in ["a: [", "- 1", "", "apiVersion: v1\nkind: Pod\nmetadata: {name: \"\"}", "\ta: b"] {
            assert!(!found(text).is_empty(), "{text}");
        }
    }
}

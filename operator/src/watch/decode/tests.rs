use super::*;

fn problems(text: &str) -> Vec<String> {
    let file = decode(text.as_bytes()).expect("readable");
    let objects = file.objects.into_iter().flat_map(|decoded| match decoded.object {
        Object::Policy { problems, .. } | Object::Undecodable(problems) => problems,
        _ => Vec::new(),
    });
    file.problems.into_iter().chain(objects).map(|problem| problem.to_string()).collect()
}

#[test]
fn refuses_what_is_not_text() {
    let error = decode(b"a: 1\nb: \xff\n").expect_err("not UTF-8");
    assert_eq!(error.to_string(), "file: line 2 is not UTF-8 (save the file as UTF-8)");
    assert!(decode(b"").expect_err("empty").to_string().contains("the file is empty"));
    assert!(decode(b"a: [1, 2").expect_err("half").to_string().starts_with("file: not YAML"));
}

#[test]
fn names_the_kind_that_nobody_reads() {
    let file = decode(b"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n").expect("readable");
    assert_eq!(file.ignored, [(1, "apps/v1 Deployment".to_owned())]);
    let said = problems("apiVersion: weir.dev/v1alpha1\nkind: SmartLimitter\nmetadata: {name: a}\n");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("unknown kind `weir.dev/v1alpha1 SmartLimitter`"), "{said:?}");
}

#[test]
fn names_the_field_of_a_wrong_type() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: http}]}\n";
    let said = problems(text);
    assert!(said[0].starts_with("spec.ports[0].port: "), "{said:?}");
}

#[test]
fn suggests_the_nearest_field() {
    let text = "apiVersion: weir.dev/v1alpha1\nkind: SmartLimiter\nmetadata: {name: a}\nspec: {rulez: []}\n";
    let said = problems(text);
    assert!(said[0].starts_with("spec.rulez: unknown field `rulez`"), "{said:?}");
    assert!(said[0].ends_with("(did you mean `rules`?)"), "{said:?}");
}

#[test]
fn names_must_be_dns_names() {
    let said = problems("apiVersion: v1\nkind: Service\nmetadata: {name: a/b}\n");
    assert!(said[0].contains("expected a DNS name"), "{said:?}");
}

#[test]
fn a_second_document_keeps_its_own_line() {
    let text = "# first\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: b\n";
    let file = decode(text.as_bytes()).expect("readable");
    let lines: Vec<_> = file.objects.iter().map(|decoded| decoded.line).collect();
    assert_eq!(lines, [2, 6]);
    assert_eq!(field_line(text, 6, "metadata.name"), Some(9));
}

#[test]
fn a_slice_for_somebody_else_is_a_mistake_in_a_file_alone() {
    for (head, field) in [
        ("metadata: {name: a, labels: {kubernetes.io/service-name: a}}\naddressType: FQDN", "addressType: FQDN"),
        ("metadata: {name: a}\naddressType: IPv4", "metadata.labels[kubernetes.io/service-name]: the label is missing"),
    ] {
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n{head}\nendpoints: [{{addresses: [a.example]}}]\n"
        );
        let said = problems(&text);
        assert!(said.len() == 1 && said[0].starts_with(field), "{said:?}");
        let of_cluster = object(ObjectKind::EndpointSlice, serde_saphyr::from_str(&text).unwrap());
        assert!(matches!(of_cluster, Object::Foreign(_)), "{of_cluster:?}");
    }
}

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

/// The split that `text` is, or what is wrong with it.
fn split(text: &str) -> Result<limiter::split::Split, String> {
    let mut file = decode(text.as_bytes()).expect("readable");
    assert_eq!((file.problems.len(), file.ignored.len()), (0, 0), "{text}");
    match file.objects.remove(0).object {
        Object::Split { split: Some(split), problems } if problems.is_empty() => Ok(*split),
        Object::Split { problems, .. } | Object::Undecodable(problems) => Err(problems[0].to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_smart_split_is_read_and_a_mistake_in_it_is_placed() {
    let text = |more: &str| {
        format!(
            "apiVersion: weir.dev/v1alpha1\nkind: SmartSplit\nmetadata: {{name: a, namespace: b}}\nspec:\n  \
             targetRefs: [{{kind: Service, name: a}}]\n  backendRefs: [{{name: v1, weight: 3}}, {{name: v2}}]\n{more}"
        )
    };
    let read = split(&text("  steer: prefer lower errors\n")).unwrap();
    assert_eq!(read.key.to_string(), "smartsplits.weir.dev/b/a");
    assert_eq!(read.arms.iter().map(|arm| arm.weight).collect::<Vec<_>>(), [3, 1]);
    for (more, said) in [
        ("  steer: prefer lower erors\n", "spec.steer: column 14: expected `errors`"),
        ("  stear: prefer lower errors\n", "did you mean `steer`?"),
        ("  mode: Shadowy\n", "did you mean `Shadow`?"),
        ("  sticky: {type: ClientIP, name: a}\n", "spec.sticky.name: "),
    ] {
        let problem = split(&text(more)).unwrap_err();
        assert!(problem.contains(said), "{more}: {problem}");
    }
}

#[test]
fn a_traffic_split_is_the_same_object_in_every_version() {
    let kind = ObjectKind::Split(limiter::split::Kind::TrafficSplit);
    for (version, weights, expected) in [
        ("v1alpha1", ["500m", "1"], [1, 2]),
        ("v1alpha1", ["\"10\"", "\"90\""], [1, 9]),
        ("v1alpha2", ["10", "90"], [1, 9]),
        ("v1alpha3", ["10", "90"], [1, 9]),
        ("v1alpha4", ["10", "90.0"], [1, 9]),
    ] {
        let [one, other] = weights;
        let text = format!(
            "apiVersion: split.smi-spec.io/{version}\nkind: TrafficSplit\nmetadata: {{name: a, namespace: b}}\nspec:\n  \
             service: web\n  matches: [{{kind: HTTPRouteGroup, name: g}}]\n  \
             backends: [{{service: v1, weight: {one}}}, {{service: v2, weight: {other}}}]\n"
        );
        assert_eq!(decode(text.as_bytes()).unwrap().objects[0].key.kind, kind, "{version}");
        let read = split(&text).unwrap();
        assert_eq!(read.key.to_string(), "trafficsplits.split.smi-spec.io/b/a");
        assert_eq!(read.arms.iter().map(|arm| arm.weight).collect::<Vec<_>>(), expected, "{version}");
        assert_eq!(read.groups, ["g"], "{version}");
        let problem = split(&text.replace(&format!("v2, weight: {other}"), "v2, weight: -1")).unwrap_err();
        assert!(problem.starts_with("spec.backends[1].weight: "), "{version}: {problem}");
    }
}

#[test]
fn a_group_matches_with_and_without_a_spec() {
    let read = |version: &str, body: &str| {
        let text = format!(
            "apiVersion: specs.smi-spec.io/{version}\nkind: HTTPRouteGroup\nmetadata: {{name: g, namespace: b}}\n{body}\n"
        );
        let mut file = decode(text.as_bytes()).expect("readable");
        assert_eq!(file.objects[0].key.to_string(), "httproutegroups.specs.smi-spec.io/b/g");
        file.objects.remove(0).object
    };
    for (version, body) in [
        ("v1alpha1", "matches: [{name: a, pathRegex: /a, methods: [GET, POST]}]"),
        ("v1alpha2", "matches: [{name: a, pathRegex: /a, methods: [GET, POST], headers: [{x: a.*}]}]"),
        ("v1alpha3", "spec: {matches: [{name: a, pathRegex: /a, methods: [GET, POST], headers: {x: a.*}}]}"),
        ("v1alpha4", "spec: {matches: [{name: a, pathRegex: /a, methods: [GET, POST], headers: [{x: a.*}]}]}"),
    ] {
        let Object::RouteGroup(matches) = read(version, body) else { panic!("{version}") };
        assert_eq!(matches.len(), 2, "{version}: one of each method");
    }
    let wrong = read("v1alpha4", "spec: {matches: [{name: a, pathRegex: '/a(?!b)'}]}");
    let Object::Undecodable(problems) = wrong else { panic!("{wrong:?}") };
    assert!(problems[0].to_string().starts_with("spec.matches[0].pathRegex: "), "{problems:?}");
    let wrong = read("v1alpha4", "spec: {matches: [{name: a, headers: {x: 1}}]}");
    let Object::Undecodable(problems) = wrong else { panic!("{wrong:?}") };
    let said = problems[0].to_string();
    assert!(said.starts_with("spec.matches[0].headers: expected headers with regular expressions"), "{said}");
}

#[test]
fn every_kind_is_named_once_and_the_newest_version_of_it_first() {
    let mut seen = std::collections::BTreeMap::new();
    for (version, name, kind) in KINDS {
        assert_eq!(super::kind(version, name), Some(kind));
        let first = seen.entry(kind).or_insert(version);
        assert!(*first >= version, "{name}: what is watched is the newest: {first}, {version}");
    }
    assert_eq!(seen[&ObjectKind::RouteGroup], "specs.smi-spec.io/v1alpha4");
    assert_eq!(seen[&ObjectKind::Split(limiter::split::Kind::TrafficSplit)], "split.smi-spec.io/v1alpha4");
}

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{
    language::explain,
    policy::{EnforceAt, PathMatch, RequestMatch, Scope, ValueMatch},
    problem::Reason,
};

fn object(spec: Value) -> Value {
    json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "SmartLimiter",
        "metadata": {"name": "reviews", "namespace": "bookinfo", "generation": 3},
        "spec": spec,
    })
}

fn read(spec: Value) -> (Option<Policy>, Vec<Problem>) {
    policy(&serde_json::from_value(object(spec)).unwrap())
}

/// One rule on Service reviews, with more fields of the spec on top.
fn with(rule: Value, more: Value) -> Value {
    let mut spec = json!({"targetRefs": [{"kind": "Service", "name": "reviews"}], "rules": [rule]});
    for (name, value) in more.as_object().unwrap() {
        spec[name] = value.clone();
    }
    spec
}

fn rule_with(field: &str, value: Value) -> Value {
    let mut rule = json!({"name": "a", "limit": "30 requests per second across all pods"});
    rule[field] = value;
    with(rule, json!({}))
}

#[track_caller]
fn refuses(spec: Value, reason: Reason, field: &str, message: &str) -> Option<Policy> {
    let (policy, problems) = read(spec.clone());
    let found: Vec<_> = problems.iter().map(|problem| (problem.reason, problem.field.as_str())).collect();
    assert_eq!(found, [(reason, field)], "{spec}\n{problems:?}");
    assert!(problems[0].message.contains(message), "{:?} does not contain {message:?}", problems[0].message);
    policy
}

#[test]
fn reads_the_designs_example() {
    let (policy, problems) = read(json!({
        "targetRefs": [{"kind": "Service", "name": "reviews"}],
        "enforceAt": "Server",
        "via": "Weir",
        "mode": "Shadow",
        "rules": [
            {
                "name": "shed-when-hot",
                "when": "cpu > 80% for 10s until cpu < 70% for 30s",
                "limit": "30 requests per second across all pods",
                "mode": "Enforce",
            },
            {
                "name": "checkout",
                "matches": [{
                    "method": "POST",
                    "path": {"type": "PathPrefix", "value": "/checkout/"},
                    "headers": [{"name": "X-Tier", "value": "free"}],
                    "queryParams": [{"name": "Q", "value": "a.*", "type": "RegularExpression"}],
                }],
                "limit": "5 requests per second per client ip across all pods",
                "burst": 10,
            },
        ],
        "metrics": [{
            "name": "queue_depth", "type": "Count", "reduce": "Max",
            "scrape": {"series": "queue_depth", "labels": {"queue": "in"}},
        }],
        "onMissingMetric": {"action": "Floor", "after": "1m30s", "floor": "10 requests per second per pod"},
    }));
    assert_eq!(problems, []);
    let policy = policy.unwrap();
    assert_eq!(policy.key.to_string(), "smartlimiters.weir.dev/bookinfo/reviews");
    assert_eq!(policy.generation, 3);
    assert_eq!(policy.targets, Targets::Services(vec!["reviews".to_owned()]));
    assert_eq!(policy.on_missing.after, Duration::from_secs(90));
    assert!(matches!(&policy.on_missing.action, MissingAction::Floor(limit) if limit.scope == Scope::PerPod));
    assert_eq!(policy.rules.iter().map(|rule| rule.mode).collect::<Vec<_>>(), [Mode::Enforce, Mode::Shadow]);
    assert_eq!(policy.rules[1].burst, Some(10));
    let expected = RequestMatch {
        path: Some(PathMatch::Prefix("/checkout".to_owned())),
        method: Some("POST".to_owned()),
        headers: [("x-tier".to_owned(), ValueMatch::Exact("free".to_owned()))].into(),
        query_params: [("Q".to_owned(), ValueMatch::Regex("a.*".to_owned()))].into(),
    };
    assert_eq!(policy.rules[1].matches, [expected]);
    assert_eq!(policy.metrics["queue_depth"].reduce, Reduce::Max);
}

#[test]
fn defaults_are_those_of_the_schema() {
    let (policy, problems) = read(rule_with("name", json!("a")));
    assert_eq!(problems, []);
    let policy = policy.unwrap();
    assert_eq!(policy.on_missing, OnMissing { action: MissingAction::Hold, after: Duration::from_secs(15) });
    assert_eq!(policy.rules[0].mode, Mode::Enforce);
    assert_eq!(policy.rules[0].when, None);
}

#[test]
fn targets_are_named_or_chosen() {
    let rules = json!([{"name": "a", "limit": "3 requests per second per pod"}]);
    let (policy, problems) = read(json!({"selector": {"matchLabels": {"app": "x"}}, "rules": rules}));
    assert_eq!(problems, []);
    assert_eq!(policy.unwrap().targets, Targets::Selector([("app".to_owned(), "x".to_owned())].into()));
    let service = json!({"kind": "Service", "name": "reviews"});
    refuses(json!({"rules": rules}), Reason::Invalid, "spec", "found neither");
    refuses(
        json!({"targetRefs": [service], "selector": {"matchLabels": {"app": "x"}}, "rules": rules}),
        Reason::Invalid,
        "spec",
        "found both",
    );
    refuses(
        json!({"selector": {"matchLabels": {}}, "rules": rules}),
        Reason::Invalid,
        "spec.selector.matchLabels",
        "no labels",
    );
    refuses(
        json!({"targetRefs": [service, service], "rules": rules}),
        Reason::Invalid,
        "spec.targetRefs[1].name",
        "twice",
    );
    refuses(
        json!({"targetRefs": [{"kind": "Service", "name": "Re views"}], "rules": rules}),
        Reason::Invalid,
        "spec.targetRefs[0].name",
        "no name",
    );
    refuses(
        json!({"targetRefs": [{"kind": "Service", "group": "apps", "name": "a"}], "rules": rules}),
        Reason::Invalid,
        "spec.targetRefs[0].group",
        "empty",
    );
}

#[test]
fn limits_may_stand_at_callers_and_gateways_and_say_so() {
    let rule = json!({"name": "a", "limit": "30 requests per second across all pods"});
    for (place, wanted, words) in [
        ("Server", EnforceAt::Server, "Applies to Service reviews"),
        ("Client", EnforceAt::Client, "at the proxies of its callers in namespace bookinfo"),
        ("Gateway", EnforceAt::Gateway, "at the gateways whose routes lead to it"),
    ] {
        let (policy, problems) = read(with(rule.clone(), json!({"enforceAt": place})));
        assert_eq!(problems, [], "{place}");
        let policy = policy.expect("a policy");
        assert_eq!(policy.enforce_at, wanted);
        let lines = explain(&policy);
        assert!(lines[..2].iter().any(|line| line.contains(words)), "{lines:?}");
    }
}

#[test]
fn a_caller_has_no_client_addresses_to_tell_apart() {
    let limit = "3 requests per second per client ip at each pod".replace(" at each pod", "");
    let rule = json!({"name": "a", "limit": limit});
    refuses(with(rule.clone(), json!({"enforceAt": "Client"})), Reason::Invalid, "spec.rules[0].limit", "one client");
    let (_, problems) = read(with(rule, json!({"enforceAt": "Gateway"})));
    assert_eq!(problems, []);
    let priorities = json!([{"name": "pay", "matches": [{"method": "POST"}]}]);
    let rule = json!({"name": "a", "limit": "30 requests per second across all pods", "priorities": priorities});
    refuses(
        with(rule, json!({"enforceAt": "Gateway"})),
        Reason::NotYetSupported,
        "spec.rules[0].priorities",
        "measured",
    );
    let rule = json!({"name": "a", "adapt": "keep cpu below 70%, between 20 and 500 requests per second per pod"});
    for place in ["Client", "Gateway"] {
        refuses(
            with(rule.clone(), json!({"enforceAt": place})),
            Reason::NotYetSupported,
            "spec.rules[0].adapt",
            "measured",
        );
    }
    let floor = json!({"enforceAt": "Client", "onMissingMetric": {"action": "Floor", "after": "15s", "floor": limit}});
    let rule = json!({"name": "a", "limit": "30 requests per second across all pods"});
    refuses(with(rule, floor), Reason::Invalid, "spec.onMissingMetric.floor", "one client");
}

#[test]
fn what_is_not_carried_out_is_refused_and_still_explained() {
    let gateway = json!([{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "g"}]);
    let section = json!([{"kind": "Service", "name": "reviews", "sectionName": "http"}]);
    let limit = "30 requests per second across all pods";
    let rule = json!({"name": "a", "limit": limit});
    for (spec, field) in [
        (with(rule.clone(), json!({"via": "Istio"})), "spec.via"),
        (with(rule.clone(), json!({"targetRefs": gateway})), "spec.targetRefs[0].kind"),
        (with(rule.clone(), json!({"targetRefs": section})), "spec.targetRefs[0].sectionName"),
        (rule_with("matches", json!([{"sourceCIDRs": ["10.0.0.0/8"]}])), "spec.rules[0].matches[0].sourceCIDRs"),
    ] {
        let policy = refuses(spec.clone(), Reason::NotYetSupported, field, "");
        let lines = explain(&policy.unwrap_or_else(|| panic!("{spec} is not understood")));
        assert!(lines.len() > 2, "{lines:?}");
    }
}

#[test]
fn rules_are_checked() {
    let invalid = Reason::Invalid;
    refuses(rule_with("name", json!("A_b")), invalid, "spec.rules[0].name", "must match");
    refuses(rule_with("adapt", json!("keep cpu below 70%")), invalid, "spec.rules[0]", "found both");
    refuses(with(json!({"name": "a"}), json!({})), invalid, "spec.rules[0]", "found neither");
    refuses(rule_with("when", json!("cpu > 80")), invalid, "spec.rules[0].when", "ratio");
    refuses(
        rule_with("limit", json!("0 requests per second per pod")),
        invalid,
        "spec.rules[0].limit",
        "close the service",
    );
    for burst in [0, -1, 1_000_001, i64::MAX] {
        refuses(rule_with("burst", json!(burst)), invalid, "spec.rules[0].burst", "from 1 to 1000000");
    }
    let rule = json!({"name": "a", "limit": "3 requests per second per pod"});
    refuses(with(rule.clone(), json!({"rules": [rule, rule]})), invalid, "spec.rules[1].name", "two rules");
    refuses(with(rule.clone(), json!({"rules": []})), invalid, "spec.rules", "at least one");
    let many: Vec<Value> =
        (0..33).map(|i| json!({"name": format!("r{i}"), "limit": "3 requests per second per pod"})).collect();
    refuses(with(rule, json!({"rules": many})), invalid, "spec.rules", "at most 32");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let rule =
        json!({"name": "a", "when": "cpv > 80%", "limit": "no", "burst": 0, "matches": [{"path": {"value": "x"}}]});
    let (policy, problems) = read(with(rule, json!({"via": "Istio"})));
    assert_eq!(policy, None);
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    let rule = "spec.rules[0]";
    let expected = [".when", ".limit", ".matches[0].path.value", ".burst"].map(|field| format!("{rule}{field}"));
    assert_eq!(fields[0], "spec.via");
    assert_eq!(fields[1..], expected);
}

#[test]
fn matches_are_checked() {
    let regex = |value: &str| json!({"path": {"type": "RegularExpression", "value": value}});
    let header = |name: &str| json!({"headers": [{"name": name, "value": "v"}]});
    for (entry, field, message) in [
        (json!({"path": {"value": "checkout"}}), ".path.value", "begins with"),
        (json!({"path": {"value": "/a?b=c"}}), ".path.value", "no '?'"),
        (regex("(?=a)"), ".path.value", "look-around"),
        (regex(r"(a)\1"), ".path.value", "backreferences"),
        (regex("("), ".path.value", "unclosed group"),
        (regex("(/[a-z]{1,100}){1,100}"), ".path.value", "too large for a proxy"),
        (regex("/a{1,1001}"), ".path.value", "a count above 1000"),
        (regex("/((a{900}){900}){900}"), ".path.value", "too large for a proxy"),
        (header("x tier"), ".headers[0].name", "no header's name"),
        (header(":path"), ".headers[0].name", "no header's name"),
        (
            json!({"headers": [{"name": "A", "value": "v"}, {"name": "a", "value": "w"}]}),
            ".headers[1].name",
            "matched twice",
        ),
        (json!({"queryParams": [{"name": "", "value": "v"}]}), ".queryParams[0].name", "1 to 256"),
    ] {
        let field = format!("spec.rules[0].matches[0]{field}");
        refuses(rule_with("matches", json!([entry])), Reason::Invalid, &field, message);
    }
}

#[test]
fn ordinary_regular_expressions_are_accepted() {
    for value in [r"/v\d+/items/[^/]{1,64}", r"/(de|en|fr)/\pL+", "/few/[a-z]{1,40}/[0-9]{1,40}", "/ä.*", "/a{1,1000}"]
    {
        let entry = json!({"path": {"type": "RegularExpression", "value": value}});
        let (_, problems) = read(rule_with("matches", json!([entry])));
        assert_eq!(problems, [], "{value}");
    }
}

#[test]
fn metrics_are_checked() {
    let scrape = json!({"series": "s"});
    let rule = json!({"name": "a", "limit": "3 requests per second per pod"});
    let metric = |name: &str, series: &str| json!({"name": name, "type": "Count", "scrape": {"series": series}});
    let asked = |name: &str, query: &str| json!({"name": name, "type": "Count", "prometheus": {"query": query}});
    for (metrics, field, message) in [
        (json!([metric("Queue-depth", "s")]), "spec.metrics[0].name", "must match"),
        (json!([metric("cpu", "s")]), "spec.metrics[0].name", "word of the language"),
        (json!([metric("p42", "s")]), "spec.metrics[0].name", "word of the language"),
        (json!([metric("for", "s")]), "spec.metrics[0].name", "word of the language"),
        (json!([metric("a", "s"), metric("a", "t")]), "spec.metrics[1].name", "twice"),
        (json!([metric("a", "s{x=\"y\"}")]), "spec.metrics[0].scrape.series", "must match"),
        (json!([{"name": "a", "type": "Count"}]), "spec.metrics[0]", "found neither"),
        (
            json!([{"name": "a", "type": "Count", "scrape": scrape, "prometheus": {"query": "q"}}]),
            "spec.metrics[0]",
            "found both",
        ),
        (json!([asked("a", "q{namespace=\"$ns\"}")]), "spec.metrics[0].prometheus.query", "`$ns` is no variable"),
        (json!([metric("a", "s"), asked("b", " ")]), "spec.metrics[1].prometheus.query", "empty"),
    ] {
        refuses(with(rule.clone(), json!({"metrics": metrics})), Reason::Invalid, field, message);
    }
    let query = "sum by (pod) (rate(q{namespace=\"$namespace\",pod=~\"$pods\"}[1m]))";
    let (policy, problems) = read(with(rule, json!({"metrics": [asked("a", query)]})));
    assert_eq!(problems, []);
    let source = &policy.unwrap().metrics["a"].source;
    assert_eq!(*source, MetricSource::Prometheus { query: query.to_owned(), position: 0 });
}

#[test]
fn missing_metrics_are_checked() {
    let rule = json!({"name": "a", "limit": "3 requests per second per pod"});
    let floor = "spec.onMissingMetric.floor";
    for (on_missing, field) in [
        (json!({"action": "Floor"}), floor),
        (json!({"action": "Hold", "floor": "3 requests per second per pod"}), floor),
        (json!({"action": "Floor", "floor": "3"}), floor),
        (json!({"after": "15"}), "spec.onMissingMetric.after"),
    ] {
        refuses(with(rule.clone(), json!({"onMissingMetric": on_missing})), Reason::Invalid, field, "");
    }
}

#[test]
fn names_of_objects_are_checked() {
    let mut without_name = object(rule_with("name", json!("a")));
    without_name["metadata"] = json!({});
    let (policy, problems) = policy(&serde_json::from_value(without_name).unwrap());
    assert_eq!(policy, None);
    assert_eq!(problems.iter().map(|problem| problem.field.as_str()).collect::<Vec<_>>(), ["metadata.name"]);
}

#[test]
fn explains_a_rule_that_always_holds() {
    let rule = json!({"name": "a", "when": "true", "limit": "1 request per day per pod"});
    let (policy, _) = read(with(rule, json!({})));
    let lines = explain(&policy.unwrap());
    assert!(lines.contains(&"It is never released.".to_owned()), "{lines:?}");
}

#[test]
fn explains_a_policy_in_plain_english() {
    let (policy, _) = read(json!({
        "targetRefs": [{"kind": "Service", "name": "reviews"}],
        "rules": [
            {"name": "hot", "when": "cpu > 80% for 10s", "limit": "30 requests per second across all pods"},
            {
                "name": "checkout",
                "matches": [{"method": "POST", "path": {"value": "/checkout"}}],
                "limit": "5 requests per second per client ip",
                "burst": 10,
                "mode": "Shadow",
            },
            {"name": "cool", "adapt": "keep cpu below 70%, between 20 and 500 requests per second per pod"},
        ],
    }));
    let expected = [
        "Applies to Service reviews in namespace bookinfo.",
        "Rule hot: when cpu > 80% for 10s, all requests are limited to 30 requests per second.",
        "All ready pods share that number: Weir divides it so that the parts add up exactly.",
        "It is released when cpu < 72% for 30s (derived from the condition: 90% of each threshold, held three times as long); the limit then doubles each second until it vanishes.",
        "Requests over the limit are answered 429.",
        "Rule checkout: always, requests with method POST to /checkout and below are limited to 5 requests per second for each client address.",
        "Each proxy counts alone: with N proxies a client may get N times this.",
        "Up to 10 requests may pass at once.",
        "Shadow: requests over the limit are counted and reported, none is rejected.",
        "Rule cool: always, all requests are limited so that cpu below 70% is kept, by a limit that moves between 20 and 500 requests per second per pod.",
        "It begins at the upper end. When a goal is missed it is cut to what the pods complete, and requests in flight are bounded; it grows by at most 20% of itself every 1s, not sooner than 2s after a cut.",
        "Requests over the limit are answered 429.",
        "Reads cpu. When one of these is missing for 15s, what was last decided stays.",
    ];
    assert_eq!(explain(&policy.unwrap()), expected);
}

#[test]
fn an_adapt_rule_has_a_law_and_any_rule_has_classes() {
    let adapt = "keep cpu below 70%, between 20 and 500 requests per second per pod";
    let gold = json!({"name": "gold", "matches": [{"headers": [{"name": "x-plan", "value": "gold"}]}]});
    let spec = with(json!({"name": "a", "adapt": adapt, "law": "Aimd", "priorities": [gold]}), json!({}));
    let (policy, problems) = read(spec);
    assert_eq!(problems, []);
    let rule = &policy.unwrap().rules[0];
    let Action::Adapt(steered) = &rule.action else { panic!("{rule:?}") };
    assert_eq!((steered.law, rule.classes[0].name.as_str(), rule.classes[0].matches.len()), (LawKind::Aimd, "gold", 1));

    let invalid = Reason::Invalid;
    refuses(rule_with("law", json!("Aimd")), invalid, "spec.rules[0].law", "no `adapt`");
    let priorities = |list: Value| rule_with("priorities", list);
    let class = |name: &str| json!({"name": name, "matches": [{"method": "POST"}]});
    let field = "spec.rules[0].priorities";
    refuses(priorities(json!([class("A_b")])), invalid, &format!("{field}[0].name"), "must match");
    refuses(priorities(json!([class("a"), class("a")])), invalid, &format!("{field}[1].name"), "two classes");
    refuses(priorities(json!([{"name": "a", "matches": []}])), invalid, &format!("{field}[0].matches"), "says nowhere");
    let many: Vec<Value> = (0..9).map(|i| class(&format!("c{i}"))).collect();
    refuses(priorities(json!(many)), invalid, field, "at most 8");
    let (one, two) = (json!({"name": "a", "adapt": adapt}), json!({"name": "b", "adapt": adapt}));
    refuses(with(one.clone(), json!({"rules": [one, two]})), invalid, "spec.rules[1].adapt", "same requests");
}

#[test]
fn a_label_that_no_service_can_have_is_refused() {
    let choose = |key: &str, value: &str| {
        let rules = [json!({"name": "a", "limit": "30 requests per second across all pods"})];
        json!({"selector": {"matchLabels": {key: value}}, "rules": rules})
    };
    let long = "x".repeat(64);
    for (key, value) in [("app", "cart"), ("App_1.x", ""), ("example.com/tier", "A-b_c.9"), (&long[1..], &long[1..])] {
        assert_eq!(read(choose(key, value)).1, [], "{key}: {value}");
    }
    for (key, value, message) in [
        ("", "a", "\"\" is no name of one"),
        ("-app", "a", "\"-app\" is no name of one"),
        ("app name", "a", "\"app name\" is no name of one"),
        ("a/b/c", "a", "\"b/c\" is no name of one"),
        (long.as_str(), "a", "is no name of one"),
        ("/app", "a", "\"\" before the `/` is no DNS name"),
        ("Example.com/app", "a", "\"Example.com\" before the `/` is no DNS name"),
        ("app", "cart!", "with the value \"cart!\""),
        ("app", "cart-", "with the value \"cart-\""),
        ("app", long.as_str(), "with the value"),
    ] {
        refuses(choose(key, value), Reason::Invalid, &format!("spec.selector.matchLabels[{key}]"), message);
    }
}

//! `weir simulate`: policies played against the queueing model, and every mistake said.

use std::process::Output;

use testkit::{mesh::put, temp_dir, weir};

/// Exit code and everything that was printed.
fn simulate(arguments: &[&str]) -> (i32, String) {
    let mut command = weir::command(["simulate"]);
    let Output { status, stdout, stderr } = command.args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.code().expect("the process was not killed"), text)
}

const POLICY: &str = "apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {name: search, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: search}]
  rules:
  - name: fast
    adapt: keep p99 latency below 100ms, between 20 and 500 requests per second per pod
    priorities: [{name: paying, matches: [{headers: [{name: tier, value: paying}]}]}]
  - {name: fixed, limit: 300 requests per second per pod}
  - {name: some, limit: 300 requests per second per pod, matches: [{method: POST}]}
";

#[test]
fn a_surge_is_drawn_and_told_in_numbers() {
    let folder = temp_dir();
    put(folder.path(), "policy.yaml", POLICY);
    let path = folder.path().join("policy.yaml");
    let path = path.to_str().unwrap();
    let (code, text) = simulate(&[path, "--rule", "fast", "--surge", "10x", "--classes", "5%"]);
    assert_eq!(code, 0, "{text}");
    for part in [
        "shop/search, rule fast",
        "Rule fast: always",
        "offered   ",
        "limit     ",
        "in flight ",
        "Settled after",
        "Class paying: ",
        "Class others: ",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let (_, again) = simulate(&[path, "--rule", "fast", "--surge", "10x", "--classes", "5%"]);
    assert_eq!(text, again, "the same seed gives the same run");
    let (_, other) = simulate(&[path, "--rule", "fast", "--surge", "10x", "--classes", "5%", "--seed", "2"]);
    assert_ne!(text, other);

    let (code, json) = simulate(&[path, "--rule", "fixed", "--halved", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(code, 0);
    let rows = json["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["limit"]), (160, &serde_json::json!(300.0)), "40 s of 250 ms");
    assert!(
        json["summary"]["goodput"].as_f64().unwrap() < 0.1,
        "a limit that does not follow the capacity: {}",
        json["summary"]
    );
}

#[test]
fn a_trace_is_played_to_its_end() {
    let folder = temp_dir();
    put(folder.path(), "policy.yaml", POLICY);
    put(folder.path(), "load.csv", "seconds,rate\n0,100\n5,800\n10,100\n");
    let (path, trace) = (folder.path().join("policy.yaml"), folder.path().join("load.csv"));
    let (code, text) = simulate(&[path.to_str().unwrap(), "--rule", "fast", "--trace", trace.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("15 s in columns"), "{text}");
}

#[test]
fn mistakes_name_the_argument_and_the_mend() {
    let folder = temp_dir();
    put(folder.path(), "policy.yaml", POLICY);
    put(folder.path(), "bad.yaml", &POLICY.replace("keep p99", "keep p98"));
    put(folder.path(), "load.csv", "0,100\nnow,5\n");
    let (path, bad) = (folder.path().join("policy.yaml"), folder.path().join("bad.yaml"));
    let each = "apiVersion: weir.dev/v1alpha1\nkind: SmartLimiter\nmetadata: {name: each, namespace: shop}\n\
                spec: {targetRefs: [{kind: Service, name: search}], rules: [{name: each, \
                limit: 5 requests per second per client ip across all pods}]}\n";
    put(folder.path(), "each.yaml", each);
    let (trace, each) = (folder.path().join("load.csv"), folder.path().join("each.yaml"));
    let (path, bad, trace) = (path.to_str().unwrap(), bad.to_str().unwrap(), trace.to_str().unwrap());
    let each = each.to_str().unwrap();
    for (arguments, part) in [
        (&["/nowhere"][..], "/nowhere cannot be read"),
        (&[bad], "spec.rules[0].adapt"),
        (&[path], "choose one with --rule among fast of smartlimiters.weir.dev/shop/search, fixed of"),
        (&[path, "--rule", "slow"], "--rule: there is no rule \"slow\""),
        (&[path, "--rule", "some"], "`matches` cannot be played"),
        (&[each], "try the same limit without `per`"),
        (&[path, "--rule", "fast", "--surge", "fast"], "expected 0.1x to 100x, found \"fast\""),
        (&[path, "--rule", "fast", "--classes", "20"], "expected a percentage such as 20%"),
        (&[path, "--rule", "fast", "--classes", "20%,30%"], "--classes: expected the part of each of the 1 classes"),
        (&[path, "--rule", "fast", "--trace", trace], "line 2: expected SECONDS,REQUESTS_PER_SECOND, found \"now,5\""),
        (&[path, "--rule", "fast", "--pods", "1000", "--workers", "1000"], "more than are played in reasonable time"),
    ] {
        let (code, text) = simulate(arguments);
        assert!(code != 0 && text.contains(part), "{arguments:?}: {code}: {part:?} is not in\n{text}");
    }
}

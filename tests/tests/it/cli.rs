//! What a person types: help, exit codes, and the words of every mistake.

use std::{
    process::{Command, Output},
    time::Duration,
};

use testkit::{
    envoy_bin, eventually,
    http::{self, Connection},
    mesh::{Service, limiter, put},
    ports, project_root,
    proxy::Proxy,
    temp_dir,
    weir::{self, Weir},
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Exit code and everything that was printed.
fn said(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.code().expect("the process was not killed"), text)
}

fn weir<const N: usize>(arguments: [&str; N]) -> (i32, String) {
    said(&mut weir::command(arguments))
}

#[track_caller]
fn validate(text: &str) -> (i32, String) {
    let folder = temp_dir();
    put(folder.path(), "policy.yaml", text);
    said(weir::command(["validate"]).arg(folder.path()))
}

/// One rule of a Service that is there and has an endpoint, so that nothing else is wrong.
fn rule(lines: &str) -> String {
    let indented: String = lines.lines().map(|line| format!("  {}\n", line.trim())).collect();
    format!("{}---\n{}", limiter("ns-a", "checkout", &format!("- name: one\n{indented}")), SERVICE)
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: checkout, namespace: ns-a}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: checkout-1, namespace: ns-a, labels: {kubernetes.io/service-name: checkout}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [127.0.9.1], targetRef: {kind: Pod, name: checkout-0}}]
";

#[test]
fn every_command_explains_itself() {
    let (code, all) = weir(["--help"]);
    assert_eq!(code, 0);
    for command in
        ["run", "validate", "explain", "translate", "bootstrap", "status", "pause", "resume", "demo", "completions"]
    {
        assert!(all.contains(&format!("\n  {command} ")), "{command} is not in the list:\n{all}");
        let (code, help) = weir([command, "--help"]);
        assert_eq!(code, 0, "{command}: {help}");
        assert!(
            help.contains("Usage:") && help.lines().next().is_some_and(|line| line.len() > 15),
            "{command}: {help}"
        );
    }
    assert_eq!(weir(["--version"]).0, 0);
    let (code, text) = weir(["validat"]);
    assert_eq!(code, 2);
    assert!(text.contains("validate"), "the nearest command is named: {text}");
}

#[test]
fn completions_exist_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = weir(["completions", shell]);
        assert!(code == 0 && script.contains("validate") && script.lines().count() > 20, "{shell}: {script}");
    }
}

#[test]
fn every_mistake_is_said_with_its_place_and_its_mend() {
    const LIMIT: &str = "limit: 30 requests per second per pod";
    let sentence = |when: &str, limit: &str| rule(&format!("when: {when}\nlimit: {limit}"));
    let cases = [
        // A policy; the line of the mistake; its field; words that must be said.
        (sentence("cpi > 80%", "1 request per second per pod"), 8, "rules[0].when", vec!["`cpi`", "`cpu`", "column 1"]),
        (sentence("cpu > 80", "1 request per second per pod"), 8, "rules[0].when", vec!["write `80%`", "column 7"]),
        (sentence("cpu > 80% for 10 parsecs", "1 request per second per pod"), 8, "rules[0].when", vec!["column 1"]),
        (sentence("cpu >", "1 request per second per pod"), 8, "rules[0].when", vec!["expected", "end"]),
        (sentence("cpu > 80%", "30 requests per fortnight per pod"), 9, "rules[0].limit", vec!["fortnight", "second"]),
        (sentence("cpu > 80%", "30 requests per second"), 9, "rules[0].limit", vec!["per pod", "across all pods"]),
        (sentence("cpu > 80%", "0 requests per second per pod"), 9, "rules[0].limit", vec!["1 request per day"]),
        (sentence("cpu > 80%", "-3 requests per second per pod"), 9, "rules[0].limit", vec!["negative"]),
        (sentence("cpu > 80%", "NaN requests per second per pod"), 9, "rules[0].limit", vec!["NaN", "number"]),
        (sentence("cpu > 80%", "1e30 requests per second per pod"), 9, "rules[0].limit", vec!["100000"]),
        (rule(&format!("wen: cpu > 80%\n{LIMIT}")), 8, "rules[0].wen", vec!["`wen`", "`when`"]),
        (rule(&format!("burst: 0\n{LIMIT}")), 8, "rules[0].burst", vec!["1 to 1000000"]),
        (rule(&format!("burst: many\n{LIMIT}")), 8, "rules[0].burst", vec!["expected a whole number"]),
        (rule("limit: [30]"), 8, "rules[0].limit", vec!["string"]),
        (rule("when: cpu > 80%"), 7, "rules[0]", vec!["limit", "adapt"]),
        (
            rule("adapt: keep cpu below 70%, between 20 and 500 requests per second per pod, at most 20 per step"),
            8,
            "rules[0].adapt",
            vec!["column 77", "at most 100%", "write `20%`"],
        ),
        (
            rule(&format!("matches: [{{path: {{type: Exact, value: no-slash}}}}]\n{LIMIT}")),
            8,
            "rules[0].matches[0].path",
            vec!["/"],
        ),
    ];
    for (policy, line, field, words) in cases {
        let (code, text) = validate(&policy);
        assert_eq!(code, 1, "{policy}\n{text}");
        let place = format!("policy.yaml:{line}: smartlimiters.weir.dev/ns-a/checkout: spec.{field}");
        assert!(text.contains(&place), "no {place:?} in\n{text}\nof\n{policy}");
        for word in words {
            assert!(text.contains(word), "no {word:?} in\n{text}\nof\n{policy}");
        }
        assert!(text.contains("1 problem\n"), "exactly one thing is wrong:\n{text}\nof\n{policy}");
    }
}

#[test]
fn every_bad_quota_of_the_articles_form_is_refused() {
    for (quota, words) in [
        ("0", "close the service"),
        ("-1", "negative"),
        ("NaN", "NaN"),
        ("1e30", "100000"),
        ("", "expected"),
        ("30/{pid}", "did you mean `pod`?"),
        ("30/0", "zero"),
    ] {
        let text = format!(
            "apiVersion: microservice.netease.com/v1alpha1\nkind: SmartLimiter\n\
             metadata: {{name: checkout, namespace: ns-a}}\nspec:\n  descriptors:\n  \
             - action: {{fill_interval: {{seconds: 1}}, quota: \"{quota}\"}}\n    condition: \"{{cpu}}>0.8\"\n---\n{SERVICE}"
        );
        let (code, said) = validate(&text);
        assert_eq!(code, 1, "{quota}: {said}");
        assert!(
            said.contains("policy.yaml:6: ") && said.contains("spec.descriptors[0].action.quota"),
            "{quota}: {said}"
        );
        assert!(said.contains(words), "{quota}: {said}");
    }
}

#[test]
fn a_service_that_is_missing_or_empty_is_named() {
    let policy = limiter("ns-a", "checkout", "- name: one\n  limit: 1 request per second per pod");
    let (code, text) = validate(&format!("{policy}---\n{}", SERVICE.replace("name: checkout,", "name: cart,")));
    assert!(code == 1 && text.contains("Service ns-a/checkout is not among these files"), "{text}");
    let (service, _) = SERVICE.split_once("---").unwrap();
    let (code, text) = validate(&format!("{policy}---\n{service}"));
    assert!(code == 1 && text.contains("Service ns-a/checkout has no endpoints"), "{text}");
    // Of a cluster's manifests the cluster makes the endpoints.
    let (code, text) =
        validate(&format!("{policy}---\n{}", service.replace("spec: {", "spec: {selector: {app: checkout}, ")));
    assert!(code == 0 && text.contains("note: ") && text.contains("has no endpoints here"), "{text}");
    // Without any Service the files are a part of something: worth a note, not an error.
    let (code, text) = validate(&policy);
    assert!(code == 0 && text.contains("note: "), "{text}");
}

#[test]
fn a_lazy_config_is_validated_and_explained() {
    let lazy = |spec: &str| {
        format!(
            "apiVersion: weir.dev/v1alpha1\nkind: LazyConfig\nmetadata: {{name: shop, namespace: shop}}\nspec:\n{spec}"
        )
    };
    for (spec, line, words) in [
        ("  always:\n  - cart\n  - https://api.stripe.example\n", 7, &["spec.always[1]", "drop `https://`"][..]),
        ("  load: OnDemnd\n", 5, &["spec.load", "did you mean `OnDemand`?"]),
        ("  forgetAfter: 5s\n", 5, &["spec.forgetAfter", "at least 10s", "`Never`"]),
        ("  unknownHost: Refuse\n", 5, &["unknownHost", "did you mean `unknownHosts`?"]),
        ("  fallback: {type: Refuse}\n", 5, &["spec.fallback", "`load: Learned`"]),
        ("  always: [a]\n  never: [a.shop]\n", 6, &["spec.never[0]", "stands in spec.always[0], too"]),
    ] {
        let (code, text) = validate(&lazy(spec));
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(&format!("policy.yaml:{line}: ")), "line {line}: {text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{word:?}: {text}"));
    }
    // A Service that is not there is worth a note where there are others.
    let (code, text) = validate(&format!("{}---\n{SERVICE}", lazy("  always: [example.com]\n")));
    assert!(code == 0 && text.contains("note: ") && text.contains("`example.com.`"), "{text}");
    let folder = temp_dir();
    put(folder.path(), "lazy.yaml", &lazy("  load: Declared\n  always: [cart, '*.billing']\n"));
    let (code, text) = said(weir::command(["explain"]).arg(folder.path()));
    assert_eq!(code, 0, "{text}");
    let words =
        "Their proxies have these and load nothing else: Service cart.shop, every Service of namespace billing.";
    assert!(text.starts_with("lazyconfigs.weir.dev/shop/shop (") && text.contains(words), "{text}");
}

#[tokio::test]
async fn a_lazy_config_of_a_folder_stands_in_the_status() {
    let folder = project_root().join("examples/lazy");
    let weir = Weir::start(&folder, &["--mesh-namespace", "shop"]).await;
    weir.until(DEADLINE, "each one holds for its pods", |status| {
        let found = status.0["lazies"].as_array().into_iter().flatten();
        let told: Vec<_> = found
            .map(|it| format!("{} {}", it["key"].as_str().unwrap_or_default(), it["status"]["workloads"]))
            .collect();
        let wanted = ["ratings/ratings 2", "shop/batch 1", "shop/shop 2", "shop/web 1"]
            .map(|it| format!("lazyconfigs.weir.dev/{it}"));
        if told == wanted { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    let (code, text) = said(weir::command(["status", "--admin-address"]).arg(weir.admin.to_string()));
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("lazyconfigs.weir.dev/shop/web  generation 1, 1 pods, 0 of 0 proxies, 0 of 6 services loaded"),
        "{text}"
    );
    assert!(text.contains("NoProxies: no proxy of these pods is connected"), "{text}");
}

#[test]
fn every_example_validates_explains_and_translates() {
    let examples = project_root().join("examples");
    let folders = std::fs::read_dir(&examples).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut count = 0;
    for folder in folders {
        count += 1;
        let stages = [
            &["validate"][..],
            &["explain"],
            &["translate", "--stage=intent"],
            &["translate", "--stage=resources"],
            &["translate", "--stage=status"],
        ];
        // Without endpoints, which a cluster makes, there is nothing to translate.
        let in_cluster = folder.ends_with("kubernetes") || folder.ends_with("injection");
        let known = if in_cluster { &stages[..2] } else { &stages };
        for arguments in known {
            let (code, text) = said(weir::command(*arguments).arg(&folder));
            assert_eq!(code, 0, "{arguments:?} {}: {text}", folder.display());
            assert!(
                text.lines().count() > 3 || arguments[0] == "validate",
                "{arguments:?} {}: {text}",
                folder.display()
            );
        }
    }
    assert!(count >= 2, "{count} examples in {}", examples.display());
}

#[test]
fn the_words_of_the_readme_are_what_validate_reads() {
    let readme = std::fs::read_to_string(project_root().join("README.md")).unwrap();
    let policies: Vec<&str> = readme.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!policies.is_empty(), "README.md shows a policy");
    for policy in policies {
        let (code, text) = validate(policy);
        assert_eq!(code, 0, "{policy}\n{text}");
    }
}

#[test]
fn envoy_takes_the_bootstrap_as_it_is_printed() {
    let folder = temp_dir();
    let (code, text) = weir(["bootstrap", "--service", "a", "--namespace", "default", "--pod", "a-0"]);
    assert_eq!(code, 0, "{text}");
    let file = folder.path().join("envoy.yaml");
    std::fs::write(&file, text).unwrap();
    let (code, text) = said(Command::new(envoy_bin()).args(["--mode", "validate", "-c"]).arg(&file));
    assert!(code == 0 && text.contains("OK"), "{text}");
    let (code, text) = weir(["bootstrap", "--service", "shop/checkout", "--pod", "checkout-0"]);
    assert!(code == 2 && text.contains("--service"), "{text}");
}

#[test]
fn status_without_a_running_weir_says_so() {
    let (code, text) = weir(["status", "--admin-address", &ports::free().to_string()]);
    assert!(code == 2 && text.contains("no Weir answers on 127.0.0.1:") && text.contains("--admin-address"), "{text}");
}

#[test]
fn what_cannot_be_read_or_understood_is_named() {
    for (arguments, words) in [
        (&["validate", "no/such/folder"][..], "no/such/folder"),
        (
            &["run", "--config", "no/such/folder", "--xds-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"],
            "--config",
        ),
        (&["run", "--config", "examples", "--scrape-interval", "1ms"], "50ms"),
        (&["run", "--config", "examples", "--xds-address", "localhost"], "--xds-address"),
        (&["run", "--config", "examples", "--log", "operator=loud=louder"], "--log"),
        (&["run", "--kubernetes", "--namespace", ""], "the name of a namespace"),
        (&["run", "--kubernetes", "--namespace", "shop,Billing"], "\"Billing\""),
        (&["translate", "--metric", "cpu=hot", "examples/article"], "hot"),
        (&["translate", "--metric", "temperature=3", "examples/article"], "temperature"),
    ] {
        let (code, text) = said(&mut weir::command(arguments));
        assert!(code == 2 && text.contains(words), "{arguments:?}: {code}: {text}");
    }
}

#[test]
fn a_mistake_in_a_kubeconfig_shows_no_secret() {
    let folder = temp_dir();
    let file = folder.path().join("kubeconfig");
    std::fs::write(&file, "users:\n- name: a\n  user: {token: abc-secret}\n  user: [\n").unwrap();
    let (code, text) = said(weir::command(["run", "--kubernetes", "--kubeconfig"]).arg(&file));
    assert!(code == 2 && text.contains("the kubeconfig cannot be used") && text.contains("line "), "{text}");
    assert!(!text.contains("abc-secret"), "{text}");
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_the_flag() {
    let folder = temp_dir();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (xds, admin, flag) in [(address, ports::free(), "--xds-address"), (ports::free(), address, "--admin-address")] {
        let (status, log) = Weir::spawn(folder.path(), xds, admin, &[]).ended().await.unwrap();
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains(flag) && log.contains(&address.to_string()) && log.contains("in use"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_ends_weir_and_fails_no_request() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(
        folder.path(),
        "policy.yaml",
        &limiter("ns-a", "checkout", "- name: one\n  limit: 5 requests per hour per pod"),
    );
    let weir = Weir::start(folder.path(), &[]).await;
    let _proxy = Proxy::start(&weir, &service, 0).await;
    let inbound = service.pods[0].inbound;
    let mut connection = Connection::open(inbound, None).await.unwrap();
    eventually(DEADLINE, "the limit is in force", async || match http::get(inbound, "/").await.unwrap().status() {
        ::http::StatusCode::TOO_MANY_REQUESTS => Ok(()),
        other => Err(other),
    })
    .await;
    let (stop_tx, stop_rx) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(async move {
        let mut answers = 0;
        while !*stop_rx.borrow() {
            let status = connection.get("/").await.unwrap();
            assert_eq!(status, 429, "after {answers} answers");
            answers += 1;
        }
        answers
    });
    let asked = std::time::Instant::now();
    let status = weir.stop().await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(7), "{:?}", asked.elapsed());
    // Some more, without Weir.
    let mut other = Connection::open(inbound, None).await.unwrap();
    assert_eq!(other.burst("/", 50).await.unwrap(), (0, 50));
    stop_tx.send(true).unwrap();
    assert!(load.await.unwrap() > 20);
}

#[tokio::test]
async fn status_says_in_words_what_is_in_force() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 2).await;
    service.write(folder.path());
    put(
        folder.path(),
        "policy.yaml",
        &limiter("ns-a", "checkout", "- name: calm\n  limit: 30 requests per second across all pods"),
    );
    let weir = Weir::start(folder.path(), &[]).await;
    let admin = weir.admin.to_string();
    let (code, text) =
        tokio::task::spawn_blocking(move || weir::command(["status", "--admin-address", &admin]).output())
            .await
            .unwrap()
            .map(|output| (output.status.code(), String::from_utf8(output.stdout).unwrap()))
            .unwrap();
    assert_eq!(code, Some(0));
    for words in [
        "smartlimiters.weir.dev/ns-a/checkout",
        "calm",
        "Limiting",
        "30 requests per second",
        "15 x2",
        "NoProxies",
        "weir bootstrap",
    ] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
}

/// By systemd itself: it knows every setting of the unit, and finds little that the process may do.
#[test]
fn the_unit_of_systemd_is_sound_and_starts_what_it_says() {
    let unit = std::fs::read_to_string(project_root().join("examples/weir.service")).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let program = line.split(' ').next().unwrap();
    let args = <operator::args::Args as clap::Parser>::try_parse_from(line.split(' ')).unwrap();
    let operator::args::Command::Run(run) = args.command else { panic!("{line}") };
    for (setting, used) in [("StateDirectory", run.state_dir.unwrap()), ("RuntimeDirectory", "/run/weir".into())] {
        assert!(unit.contains(&format!("\n{setting}={}\n", used.file_name().unwrap().to_string_lossy())), "{setting}");
    }
    assert_eq!(run.xds_address.to_string(), "unix:/run/weir/xds.sock");

    let folder = temp_dir();
    let file = folder.path().join("weir.service");
    std::fs::write(&file, unit.replace(program, weir::binary().to_str().unwrap())).unwrap();
    let ask = |arguments: &[&str]| {
        let mut command = std::process::Command::new("systemd-analyze");
        let output = command.args(arguments).arg(&file).output().expect("systemd-analyze of the package systemd");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (sound, said) = ask(&["verify", "--man=no", "--recursive-errors=no"]);
    assert!(sound && !said.contains("weir.service"), "{said}");
    // Tenths of its measure of exposure, of which 100 is everything.
    let (guarded, said) = ask(&["security", "--offline=true", "--no-pager", "--threshold=15"]);
    assert!(guarded, "{said}");
}

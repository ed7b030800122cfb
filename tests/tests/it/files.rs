//! The folder: whatever happens to its files, the last good form stays in force and the mistake is said.

use std::{path::Path, process::Output, time::Duration};

use tempfile::TempDir;
use testkit::{
    mesh::{Service, limiter, put},
    status::View,
    temp_dir,
    weir::{self, Weir},
};

const DEADLINE: Duration = Duration::from_secs(15);
const OTHER: &str = "- name: a\n  limit: 1 request per day per pod";
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";

fn policy(per_second: u32) -> String {
    limiter("ns-a", "checkout", &format!("- name: calm\n  limit: {per_second} requests per second per pod"))
}

async fn start() -> (TempDir, Weir, Service) {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &policy(30));
    let weir = Weir::start(folder.path(), &[]).await;
    weir.until(DEADLINE, "the limit is in force", |status| in_force(status, 30)).await;
    (folder, weir, service)
}

fn in_force(status: &View, per_second: u32) -> Result<(), String> {
    let rule = status.phase(KEY, "calm", "Limiting")?;
    let found = rule["perSecond"].as_f64();
    if found == Some(f64::from(per_second)) { Ok(()) } else { Err(rule.to_string()) }
}

/// A problem of a file that has all these words.
fn problem(status: &View, file: &str, words: &[&str]) -> Result<(), String> {
    let problems = status.0["problems"][file].to_string();
    if words.iter().all(|word| problems.contains(word)) { Ok(()) } else { Err(format!("{file}: {problems}")) }
}

async fn said(arguments: &[&str], path: Option<&Path>) -> String {
    let mut command = weir::command(arguments);
    command.args(path);
    let Output { stdout, stderr, .. } = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
}

#[tokio::test]
async fn a_file_that_cannot_be_read_keeps_what_it_said() {
    let (folder, weir, _service) = start().await;
    let half = policy(99).split_at(policy(99).find("rules:").unwrap() + 9).0.to_owned() + "{name: \"cal";
    let cases: [(&[u8], &[&str]); 3] = [
        (half.as_bytes(), &["not YAML"]),
        (b"kind: Sma\xff\xfe", &["line 1 is not UTF-8", "UTF-8"]),
        (b"", &["empty", "delete"]),
    ];
    let mut round = 0;
    for (bytes, words) in cases {
        // Written in place, as a shell's `>` does.
        std::fs::write(folder.path().join("policy.yaml"), bytes).unwrap();
        weir.until(DEADLINE, "the mistake is said", |status| {
            problem(status, "policy.yaml", words)?;
            in_force(status, 30)
        })
        .await;
        // What the other files say goes on without it.
        round += 1;
        put(folder.path(), "other.yaml", &limiter("ns-a", &format!("other-{round}"), OTHER));
        weir.until(DEADLINE, "another file is read", |status| {
            status.policy(&format!("smartlimiters.weir.dev/ns-a/other-{round}")).map(drop)
        })
        .await;
        in_force(&View(weir.status().await.unwrap()), 30).unwrap();
        let admin = weir.admin.to_string();
        let text = said(&["status", "--admin-address", &admin], None).await;
        assert!(text.contains("policy.yaml: ") && words.iter().all(|word| text.contains(word)), "{text}");
        let text = said(&["validate"], Some(folder.path())).await;
        assert!(text.contains("policy.yaml") && words.iter().all(|word| text.contains(word)), "{text}");
    }
    put(folder.path(), "policy.yaml", &policy(31));
    weir.until(DEADLINE, "it is mended", |status| {
        in_force(status, 31)?;
        if status.0["problems"].is_null() { Ok(()) } else { Err(status.0["problems"].to_string()) }
    })
    .await;
}

#[tokio::test]
async fn an_object_that_is_wrong_keeps_its_last_good_form_and_costs_only_itself() {
    let (folder, weir, service) = start().await;
    let neighbour = Service::start("ns-a", "cart", 1).await;
    neighbour.write(folder.path());
    put(
        folder.path(),
        "neighbour.yaml",
        &limiter("ns-a", "cart", "- name: calm\n  limit: 7 requests per second per pod"),
    );
    let wrong = [
        ("limit: [30]", "spec.rules[0].limit", "string"),
        ("limit: 30 requests per second per pot", "spec.rules[0].limit", "did you mean `pod`?"),
        ("limit: 0 requests per second per pod", "spec.rules[0].limit", "1 request per day"),
        ("burst: -1\n  limit: 3 requests per second per pod", "spec.rules[0].burst", "1 to 1000000"),
    ];
    for (rule, field, words) in wrong {
        put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", &format!("- name: calm\n  {rule}")));
        weir.until(DEADLINE, "the mistake is said", |status| {
            let message = status.expect(KEY, "Accepted", false, "Invalid")?;
            in_force(status, 30)?;
            status.phase("smartlimiters.weir.dev/ns-a/cart", "calm", "Limiting")?;
            let complete = message.contains(field) && message.contains(words) && message.contains("stays in force");
            if complete { Ok(()) } else { Err(message) }
        })
        .await;
        let admin = weir.admin.to_string();
        let text = said(&["status", "--admin-address", &admin], None).await;
        assert!(text.contains("Accepted: Invalid: ") && text.contains(field), "{text}");
        let text = said(&["validate"], Some(folder.path())).await;
        assert!(text.contains("policy.yaml:") && text.contains(field) && text.contains(words), "{text}");
    }
    // A slice of the wrong shape: the pods that were known stay.
    let broken = service.manifests().replace("addresses: [127", "addresses: [localhost, 127");
    put(folder.path(), "ns-a.checkout.yaml", &broken);
    put(folder.path(), "policy.yaml", &policy(32));
    weir.until(DEADLINE, "the slice is reported", |status| {
        in_force(status, 32)?;
        problem(status, "ns-a.checkout.yaml", &["localhost", "IP address"]).or_else(|seen| {
            let all = status.0["problems"].to_string();
            if all.contains("localhost") { Ok(()) } else { Err(format!("{seen}; {all}")) }
        })
    })
    .await;
}

#[tokio::test]
async fn files_may_be_renamed_deleted_and_doubled() {
    let (folder, weir, _service) = start().await;
    let path = |name: &str| folder.path().join(name);
    std::fs::rename(path("policy.yaml"), path("renamed.yml")).unwrap();
    weir.until(DEADLINE, "it is found under its new name", |status| {
        in_force(status, 30)?;
        let origin = &status.policy(KEY)?["origin"];
        if origin.as_str().is_some_and(|origin| origin.starts_with("renamed.yml:")) {
            Ok(())
        } else {
            Err(origin.to_string())
        }
    })
    .await;
    std::fs::create_dir(path("more")).unwrap();
    put(&path("more"), "double.yaml", &policy(99));
    weir.until(DEADLINE, "the second is reported", |status| {
        in_force(status, 99).or_else(|_| in_force(status, 30))?;
        let problems = status.0["problems"].to_string();
        if problems.contains("stands in") { Ok(()) } else { Err(problems) }
    })
    .await;
    std::fs::remove_file(path("renamed.yml")).unwrap();
    weir.until(DEADLINE, "the other counts", |status| in_force(status, 99)).await;
    std::fs::remove_dir_all(path("more")).unwrap();
    weir.until(DEADLINE, "the policy is gone", |status| match status.policy(KEY) {
        Err(_) => Ok(()),
        Ok(policy) => Err(policy.to_string()),
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_files_are_read_and_one_change_among_them_is_quick() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &policy(30));
    for number in 0..10_000 {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: service-{number}, namespace: ns-b}}\n\
             spec: {{ports: [{{name: http, port: 80}}]}}\n"
        );
        std::fs::write(folder.path().join(format!("service-{number}.yaml")), text).unwrap();
    }
    let weir = Weir::start(folder.path(), &[]).await;
    weir.until(Duration::from_secs(30), "the limit is in force", |status| in_force(status, 30)).await;
    put(folder.path(), "policy.yaml", &policy(31));
    weir.until(Duration::from_secs(10), "the change is in force", |status| in_force(status, 31)).await;
}

#[tokio::test]
async fn a_service_without_endpoints_and_one_that_is_missing_are_said() {
    let folder = temp_dir();
    put(folder.path(), "policy.yaml", &policy(30));
    let weir = Weir::start(folder.path(), &[]).await;
    let message = weir
        .until(DEADLINE, "the target is missing", |status| status.expect(KEY, "Accepted", false, "TargetNotFound"))
        .await;
    assert!(message.contains("ns-a/checkout") && message.contains("create it"), "{message}");
    put(folder.path(), "service.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: checkout, namespace: ns-a}\n");
    weir.until(DEADLINE, "it has no pods", |status| {
        let message = status.expect(KEY, "Programmed", false, "NoEndpoints")?;
        if message.contains("EndpointSlice") { Ok(()) } else { Err(message) }
    })
    .await;
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    std::fs::remove_file(folder.path().join("service.yaml")).unwrap();
    let message =
        weir.until(DEADLINE, "it has no proxy", |status| status.expect(KEY, "Programmed", false, "NoProxies")).await;
    assert!(message.contains("weir bootstrap"), "{message}");
}

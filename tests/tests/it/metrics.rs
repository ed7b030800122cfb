//! Metrics pages that hang, lie, end or never end: the limit holds, status says why, and nobody else notices.

use std::time::Duration;

use testkit::{
    app::Page,
    eventually,
    mesh::{Service, limiter, put},
    temp_dir,
    weir::Weir,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn key(name: &str) -> String {
    format!("smartlimiters.weir.dev/ns-a/{name}")
}

fn policy(name: &str) -> String {
    let rule = "- name: hot\n  when: cpu > 80% until cpu < 50% for 1s\n  limit: 30 requests per second per pod";
    limiter("ns-a", name, rule) + "  onMissingMetric: {action: Hold, after: 1s}\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_fails_holds_the_limit_and_says_why() {
    let cases: [(&str, Option<Page>, &str); 7] = [
        ("hangs", Some(Page::Hang), "did not answer in full within"),
        ("endless", Some(Page::Endless), "did not answer in full within"),
        ("garbage", Some(Page::Garbage), "none of the series"),
        ("other", Some(Page::Text("up 1\n".into())), "process_cpu_seconds_total"),
        ("refused", Some(Page::Status(403)), "403"),
        ("broken", Some(Page::Close), "cannot reach"),
        ("vanished", None, "cannot reach"),
    ];
    let folder = temp_dir();
    let mut services = Vec::new();
    for name in cases.iter().map(|(name, ..)| *name).chain(["good"]) {
        let service = Service::start("ns-a", name, 1).await;
        service.burn(0.95);
        service.write(folder.path());
        put(folder.path(), &format!("{name}.policy.yaml"), &policy(name));
        services.push(service);
    }
    let weir = Weir::start(folder.path(), &[]).await;
    for service in &services {
        weir.until(DEADLINE, "it is hot", |status| status.phase(&key(&service.name), "hot", "Limiting").map(drop))
            .await;
    }
    let good = services.pop().unwrap();
    for (service, (_, page, _)) in services.iter_mut().zip(cases.clone()) {
        match page {
            Some(page) => service.pods[0].app.page(page),
            None => drop(service.pods.pop()),
        }
    }
    for (name, _, words) in &cases {
        weir.until(DEADLINE, name, |status| {
            let message = status.expect(&key(name), "MetricsAvailable", false, "Missing")?;
            let rule = status.phase(&key(name), "hot", "Limiting")?;
            if rule["perSecond"].as_f64() != Some(30.0) {
                return Err(rule.to_string());
            }
            let pod = format!("{name}-0");
            if message.contains(words) && message.contains(&pod) { Ok(()) } else { Err(message) }
        })
        .await;
    }
    // The good one is read all the time, and its rule follows.
    let reads = good.pods[0].app.reads();
    good.burn(0.1);
    weir.until(DEADLINE, "the good one is released", |status| status.phase(&key("good"), "hot", "Idle").map(drop))
        .await;
    assert!(good.pods[0].app.reads() > reads + 10, "read {} times only", good.pods[0].app.reads() - reads);
    // By now much more than `after` has passed: all the others hold still.
    let status = weir.status().await.unwrap();
    for (name, ..) in &cases {
        testkit::status::View(status.clone()).phase(&key(name), "hot", "Limiting").unwrap();
    }
    // A page that answers again is believed again.
    services[0].pods[0].app.page(Page::Cpu);
    weir.until(DEADLINE, "it is read again", |status| {
        status.expect(&key("hangs"), "MetricsAvailable", true, "Available").map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_begins_again_is_neither_cold_nor_hot() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.burn(0.95);
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &policy("checkout"));
    let weir = Weir::start(folder.path(), &[]).await;
    let key = key("checkout");
    let app = &service.pods[0].app;
    weir.until(DEADLINE, "it is hot", |status| status.phase(&key, "hot", "Limiting").map(drop)).await;
    for _ in 0..3 {
        app.reset_counter();
        let reads = app.reads();
        eventually(DEADLINE, "the page is read some times", async || {
            let status = testkit::status::View(weir.status().await.map_err(|error| error.to_string())?);
            let rule = status.phase(&key, "hot", "Limiting").expect("a reset of the counter moves no limit");
            // For a moment there is no rate, and nothing is made up in its place.
            if let Some(cpu) = rule["observed"][0]["value"].as_f64() {
                assert!((0.5..1.2).contains(&cpu), "cpu is said to be {cpu}");
            }
            if app.reads() > reads + 6 { Ok(()) } else { Err(format!("{} reads", app.reads() - reads)) }
        })
        .await;
    }
    app.burn(0.1);
    weir.until(DEADLINE, "it cools", |status| status.phase(&key, "hot", "Idle").map(drop)).await;
    for _ in 0..3 {
        app.reset_counter();
        let reads = app.reads();
        eventually(DEADLINE, "the page is read some times", async || {
            let status = testkit::status::View(weir.status().await.map_err(|error| error.to_string())?);
            status.phase(&key, "hot", "Idle").expect("a reset of the counter begins no limit");
            if app.reads() > reads + 6 { Ok(()) } else { Err(format!("{} reads", app.reads() - reads)) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_pod_without_a_cpu_limit_is_said_to_be_without() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    let manifests = service.manifests().replace("resources: {limits: {cpu: \"1\"}}", "env: []");
    put(folder.path(), "service.yaml", &manifests);
    put(folder.path(), "policy.yaml", &policy("checkout"));
    let weir = Weir::start(folder.path(), &[]).await;
    weir.until(DEADLINE, "the missing limit is said", |status| {
        let message = status.expect(&key("checkout"), "MetricsAvailable", false, "Missing")?;
        if message.contains("limits.cpu") || message.contains("CPU limit") { Ok(()) } else { Err(message) }
    })
    .await;
}

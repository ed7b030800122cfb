//! A proxy that says no, beside one that does not.

use std::time::Duration;

use serde_json::json;
use testkit::{
    http::Connection,
    mesh::{Service, limiter, put},
    proxy::Proxy,
    temp_dir,
    weir::Weir,
};

const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";

fn policy(path: &str) -> String {
    let rules = format!(
        "- name: few\n  limit: 5 requests per hour per pod\n  burst: 2\n  matches: [{{path: {{type: {path}}}}}]\n\
         - name: wide\n  limit: 100 requests per hour per pod\n  burst: 10"
    );
    limiter("ns-a", "checkout", &rules)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_one_proxy_refuses_is_sent_once_and_the_neighbour_enforces_it() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 2).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &policy("PathPrefix, value: /few"));
    let weir = Weir::start(folder.path(), &[]).await;
    let willing = Proxy::start(&weir, &service, 0).await;
    // This one takes only the smallest of regular expressions, as an operator may have told it.
    let picky = Proxy::start_with(&weir, &service, 1, |bootstrap| {
        let layer = json!({"re2.max_program_size.error_level": 20});
        bootstrap["layered_runtime"] = json!({"layers": [{"name": "picky", "static_layer": layer}]});
    })
    .await;
    weir.until(DEADLINE, "both take the first", |status| status.programmed(KEY, 1)).await;
    assert!(weir.metric("weir_xds_nacks_total").await < 0.5);

    put(folder.path(), "policy.yaml", &policy("RegularExpression, value: \"/few/[a-z]{1,40}/[0-9]{1,40}\""));
    let message =
        weir.until(DEADLINE, "the refusal shows", |status| status.expect(KEY, "Programmed", false, "Rejected")).await;
    assert!(message.contains("ns-a/checkout/checkout-1") && message.contains("program size"), "{message}");
    let total = weir.until(DEADLINE, "one of two has it", |status| {
        let proxies = &status.policy(KEY)?["status"]["proxies"];
        if proxies["programmed"] == 1 { Ok(proxies["total"].as_u64()) } else { Err(proxies.to_string()) }
    });
    assert_eq!(total.await, Some(2));

    // The neighbour enforces the new one, the picky one what it had.
    let mut neighbour = Connection::open(service.pods[0].inbound, None).await.unwrap();
    assert_eq!(neighbour.burst("/few/abc/123", 6).await.unwrap(), (2, 4));
    let mut refused = Connection::open(service.pods[1].inbound, None).await.unwrap();
    assert_eq!(refused.burst("/few/abc/123", 6).await.unwrap(), (2, 4));

    // Unrelated changes and many reads of the folder later it has been sent once.
    for number in 0..5 {
        let name = format!("other-{number}");
        put(
            folder.path(),
            &format!("{name}.yaml"),
            &limiter("ns-a", &name, "- name: a\n  limit: 1 request per day per pod"),
        );
        weir.until(DEADLINE, "it is read", |status| {
            status.policy(&format!("smartlimiters.weir.dev/ns-a/{name}")).map(drop)
        })
        .await;
    }
    assert!((weir.metric("weir_xds_nacks_total").await - 1.0).abs() < 0.5, "the refused version was sent again");
    assert_eq!(picky.stats("rds.*update_rejected").await.values().sum::<u64>(), 1);
    assert_eq!(willing.stats("update_rejected").await.values().sum::<u64>(), 0);

    put(folder.path(), "policy.yaml", &policy("PathPrefix, value: /other"));
    weir.until(DEADLINE, "both take the mended one", |status| {
        status.programmed(KEY, 3)?;
        let refused = status.0["proxies"].to_string();
        if refused.contains("refused") { Err(refused) } else { Ok(()) }
    })
    .await;
    assert!((weir.metric("weir_xds_nacks_total").await - 1.0).abs() < 0.5);
    // Enforced there now; and an edit does not fill the bucket, which was emptied under the rule's first path.
    assert_eq!(refused.burst("/other", 6).await.unwrap(), (0, 6));
}

use std::time::Instant;

use serde_json::{Value, json};

use super::*;

/// A builder that knows this much, and a reviewer that asks it.
fn reviewer(namespaces: &[&str]) -> (Reviewer, mpsc::Receiver<Ask>) {
    let (asks_tx, asks_rx) = mpsc::channel(1);
    let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
    let sidecars = Arc::new(Sidecars { settings: crate::inject::tests::settings(&[]), trusting: vec!["a".to_owned()] });
    let tenants = Arc::default();
    (Reviewer { asks_tx, meters: Meters::default(), namespaces, tenants, sidecars, turn: Arc::default() }, asks_rx)
}

fn review() -> Vec<u8> {
    let object = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "SmartLimiter", "metadata": {"name": "cart", "namespace": "a"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "cart"}],
                 "rules": [{"name": "calm", "limit": "30 requests per second per pod"}]},
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "4c1f", "kind": {"group": "weir.dev", "version": "v1alpha1", "kind": "SmartLimiter"},
            "resource": {"group": "weir.dev", "version": "v1alpha1", "resource": "smartlimiters"},
            "name": "cart", "namespace": "a", "operation": "CREATE", "userInfo": {}, "object": object,
        },
    });
    review.to_string().into_bytes()
}

async fn asked(reviewer: &Reviewer, body: Vec<u8>) -> (StatusCode, Value) {
    let response = validate(State(reviewer.clone()), Body::from(body)).await;
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), LARGEST).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()))
}

#[tokio::test]
async fn the_builder_is_asked_and_its_words_are_warnings() {
    let (reviewer, mut asks_rx) = reviewer(&[]);
    let builder = async {
        let ask = asks_rx.recv().await.unwrap();
        assert!(matches!(ask.object, Sound::Policy(policy) if policy.key.name == "cart"));
        ask.reply_tx.send(vec!["odd".to_owned()]).unwrap();
    };
    let ((status, said), ()) = tokio::join!(asked(&reviewer, review()), builder);
    assert_eq!(status, StatusCode::OK);
    assert_eq!(said["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(said["kind"], "AdmissionReview");
    let response = &said["response"];
    assert_eq!(
        (&response["uid"], &response["allowed"], &response["warnings"]),
        (&json!("4c1f"), &json!(true), &json!(["odd"]))
    );
}

#[tokio::test]
async fn an_answer_does_not_wait_for_a_builder_that_is_busy_or_gone() {
    let (reviewer, mut asks_rx) = reviewer(&[]);
    for _ in 0..3 {
        let began = Instant::now();
        let (status, said) = asked(&reviewer, review()).await;
        assert!(began.elapsed() < WARNINGS * 5, "{:?}", began.elapsed());
        assert_eq!((status, &said["response"]["allowed"]), (StatusCode::OK, &json!(true)));
        assert!(said["response"].get("warnings").is_none(), "{said}");
    }
    drop(asks_rx.recv().await);
    drop(asks_rx);
    assert_eq!(asked(&reviewer, review()).await.1["response"]["allowed"], true);
}

#[tokio::test]
async fn a_namespace_that_is_not_watched_is_warned_of() {
    let (reviewer, _asks_rx) = reviewer(&["b"]);
    let (_, said) = asked(&reviewer, review()).await;
    let warning = "Weir does not watch the namespace a: the policy has no effect there";
    assert_eq!(said["response"]["warnings"], json!([warning]));
}

#[tokio::test]
async fn what_is_no_review_is_refused_and_nothing_ends() {
    let (reviewer, _asks_rx) = reviewer(&[]);
    for (body, status, words) in [
        (b"garbage".to_vec(), StatusCode::BAD_REQUEST, "expected an AdmissionReview: "),
        (b"{}".to_vec(), StatusCode::BAD_REQUEST, "missing field"),
        (
            br#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#.to_vec(),
            StatusCode::BAD_REQUEST,
            "there is no request in it",
        ),
        (b"[".repeat(100_000), StatusCode::BAD_REQUEST, "expected an AdmissionReview: "),
        (vec![b' '; LARGEST + 1], StatusCode::PAYLOAD_TOO_LARGE, "more than 4194304 bytes"),
    ] {
        let (code, said) = asked(&reviewer, body).await;
        assert!(code == status && said.to_string().contains(words), "{code}: {said}");
    }
}

//! Over real sockets, against an API server that misbehaves in one way each.

use axum::{Router, http::StatusCode, response::IntoResponse};
use parking_lot::Mutex;

use super::*;
use crate::metrics::Measure;

const PATIENCE: Duration = Duration::from_secs(20);

/// What it answers now, and the paths that it was asked for.
#[derive(Default)]
struct Script {
    /// `None`: nothing.
    answer: Option<(u16, String)>,
    asked: Vec<String>,
}

struct Asked {
    script: Arc<Mutex<Script>>,
    health: HealthBoard,
    samples_rx: mpsc::Receiver<Vec<PodSample>>,
    wanted_tx: watch::Sender<Arc<Wanted>>,
}

fn pod(namespace: &str) -> PodResources {
    let service = ServiceKey { namespace: namespace.to_owned(), name: "cart".to_owned() };
    PodResources { service, pod: "cart-0".to_owned(), cpu_cores: Some(2.0), memory_bytes: None }
}

fn wanted(namespaces: usize) -> Arc<Wanted> {
    let resources = (0..namespaces).map(|number| pod(&format!("ns-{number}"))).collect();
    Arc::new(Wanted { resources, ..Wanted::default() })
}

fn list(at: Timestamp) -> String {
    format!(
        r#"{{"items": [{{"metadata": {{"name": "cart-0", "namespace": "ns-0"}}, "timestamp": "{at}", "window": "1s",
            "containers": [{{"name": "app", "usage": {{"cpu": "1800m", "memory": "1Mi"}}}}]}}]}}"#
    )
}

async fn start(answer: Option<(u16, String)>, all_namespaces: bool, namespaces: usize) -> Asked {
    let script = Arc::new(Mutex::new(Script { answer, asked: Vec::new() }));
    let shared = Arc::clone(&script);
    let router = Router::new().fallback(async move |request: axum::extract::Request| {
        let answer = {
            let mut script = shared.lock();
            script.asked.push(request.uri().path().to_owned());
            script.answer.clone()
        };
        match answer {
            Some((status, body)) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
            None => std::future::pending().await,
        }
    });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut config = kube::Config::new(url);
    config.default_retry = false;
    let client = kube::Client::try_from(config).unwrap();
    let (samples_tx, samples_rx) = mpsc::channel(16);
    let (wanted_tx, wanted_rx) = watch::channel(wanted(namespaces));
    let health = HealthBoard::default();
    let provider = MetricsApi { client, interval: Duration::from_millis(50), all_namespaces };
    provider.spawn(wanted_rx, samples_tx, health.clone(), CancellationToken::new());
    Asked { script, health, samples_rx, wanted_tx }
}

impl Asked {
    /// Waits until what is said of the service in `namespace` is what `look` looks for.
    async fn until(&self, namespace: &str, look: impl Fn(Option<&str>) -> bool) {
        let said = || self.health.usage(&pod(namespace).service, &Word::Cpu).map(|error| error.message);
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let looking = async {
            while !look(said().as_deref()) {
                ticks.tick().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "{:?}", said());
    }

    async fn trouble(&self, words: &str) {
        self.until("ns-0", |said| said.is_some_and(|said| said.contains(words))).await;
    }

    async fn value(&mut self) -> PodSample {
        let mut batch = tokio::time::timeout(PATIENCE, self.samples_rx.recv()).await.unwrap().unwrap();
        assert_eq!(batch.len(), 1, "{batch:?}");
        batch.remove(0)
    }

    fn answers(&self, status: u16, body: &str) {
        self.script.lock().answer = Some((status, body.to_owned()));
    }
}

#[tokio::test]
async fn every_failure_is_said_with_its_mend_and_values_come_back() {
    let status = |message: &str| format!(r#"{{"kind": "Status", "message": "{message}", "code": 0}}"#);
    let mut api = start(Some((404, "404 page not found".to_owned())), true, 1).await;
    api.trouble("install metrics-server").await;
    api.answers(403, &status("pods.metrics.k8s.io is forbidden: User \\\"w\\\" cannot list"));
    api.trouble("User \"w\" cannot list; allow `list` of pods.metrics.k8s.io").await;
    api.answers(503, &status("service unavailable"));
    api.trouble("metrics-server does not serve: service unavailable; `kubectl get apiservice").await;
    api.answers(500, "all is lost");
    api.trouble("500 Internal Server Error: all is lost").await;
    api.answers(200, "<html>");
    api.trouble("no PodMetricsList: expected value at line 1").await;
    api.answers(200, r#"{"items": [{"metadata": {}}]}"#);
    api.trouble("missing field `name`").await;
    api.answers(200, r#"{"items": []}"#);
    api.trouble("pod cart-0: it knows nothing of it").await;
    let now = Timestamp::now();
    api.answers(200, &list(now));
    let sample = api.value().await;
    assert_eq!((sample.measure, sample.at), (Measure::Number(Word::Cpu, 0.9), now));
    assert_eq!(api.health.usage(&sample.service, &Word::Cpu), None);
    // What hangs is given up.
    api.script.lock().answer = None;
    api.trouble("it did not answer in full within 5 s").await;
}

#[tokio::test]
async fn one_request_tells_of_a_namespace_and_one_of_all_where_they_are_many() {
    for (all_namespaces, many) in [(true, true), (false, true), (true, false)] {
        let namespaces = if many { MOST_NAMESPACES + 1 } else { 1 };
        let mut api = start(Some((200, list(Timestamp::now()))), all_namespaces, namespaces).await;
        api.value().await;
        let all = "/apis/metrics.k8s.io/v1beta1/pods".to_owned();
        let one = "/apis/metrics.k8s.io/v1beta1/namespaces/ns-0/pods".to_owned();
        let asked: BTreeSet<String> = api.script.lock().asked.iter().cloned().collect();
        assert_eq!((asked.contains(&all), asked.contains(&one)), (all_namespaces && many, !(all_namespaces && many)));
        if many {
            api.until("ns-1", |said| said.is_some()).await;
        }
        // What is wrong with a service goes with it.
        api.wanted_tx.send(Arc::default()).unwrap();
        api.until("ns-1", |said| said.is_none()).await;
    }
}

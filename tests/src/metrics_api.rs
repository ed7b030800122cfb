//! An aggregated API server for `metrics.k8s.io`, in the place of metrics-server: it answers what a test tells it to.
//!
//! It speaks HTTPS, as the API server demands, and is registered as a real `APIService`.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

/// What the list of pods says.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// These pods, measured now over a second.
    Pods(Vec<Used>),
    /// As `Pods`, measured then.
    Old(Vec<Used>, Timestamp),
    /// This status and text.
    Status(u16, &'static str),
    /// Takes the request and never answers.
    Hang,
}

/// What a pod's containers use.
#[derive(Clone, Debug, PartialEq)]
pub struct Used {
    /// Its name.
    pub pod: String,
    /// Container, CPU and memory, the latter two as Kubernetes writes quantities.
    pub containers: Vec<(&'static str, String, String)>,
}

/// A running server. Stopped when dropped.
#[derive(Debug)]
pub struct MetricsApi {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its own certificate, which signs itself, as PEM.
    pub certificate: String,
    answer: Arc<Mutex<Answer>>,
    task: JoinHandle<()>,
}

/// The name that the API server calls it by: that of its Service.
const NAME: &str = "metrics-server";

impl MetricsApi {
    /// Starts one at this address, for a Service `metrics-server` in `namespace`. It knows no pods.
    ///
    /// # Panics
    ///
    /// When the address is taken.
    pub async fn start(address: SocketAddr, namespace: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().expect("a bound listener has an address");
        let own = rcgen::generate_simple_self_signed([format!("{NAME}.{namespace}.svc")]).expect("a fresh key signs");
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key that was just made");
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key))
            .expect("the certificate is for the key");
        let answer = Arc::new(Mutex::new(Answer::Pods(Vec::new())));
        let shared = Arc::clone(&answer);
        let router = Router::new().fallback(move |request: Request| {
            let answer = shared.lock().clone();
            async move { respond(request.uri().path(), answer).await }
        });
        let task = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), router));
        Self { address, certificate: own.cert.pem(), answer, task }
    }

    /// What it answers from now on.
    pub fn answer(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    /// Service, EndpointSlice and APIService that make the API server ask it.
    #[must_use]
    pub fn manifests(&self, namespace: &str) -> String {
        let bundle = k8s_openapi::ByteString(self.certificate.clone().into_bytes());
        let port = json!([{"name": "https", "port": self.address.port()}]);
        let objects = json!([
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "namespace": namespace},
             "spec": {"ports": [{"name": "https", "port": 443}]}},
            {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
             "metadata": {"name": NAME, "namespace": namespace, "labels": {"kubernetes.io/service-name": NAME}},
             "addressType": "IPv4", "ports": port,
             "endpoints": [{"addresses": [self.address.ip()], "conditions": {"ready": true}}]},
            {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
             "metadata": {"name": "v1beta1.metrics.k8s.io"},
             "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
                      "versionPriority": 100, "caBundle": bundle, "service": {"name": NAME, "namespace": namespace}}},
        ]);
        json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
    }
}

impl Drop for MetricsApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, router: Router) {
    // Aborted with the task that owns it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, service) = (tls.clone(), TowerToHyperService::new(router.clone()));
        connections.spawn(async move {
            if let Ok(stream) = tls.accept(stream).await {
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
}

async fn respond(path: &str, answer: Answer) -> Response {
    let json = |value: Value| ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response();
    let group_version = "metrics.k8s.io/v1beta1";
    let resource =
        json!({"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]});
    let mut parts = path.trim_matches('/').split('/').skip(3);
    let namespace = match (parts.next(), parts.next(), parts.next()) {
        // What the API server asks by itself: whether it is there, and which kinds it has.
        (None, ..) => {
            return json(
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": [resource]}),
            );
        }
        (Some("namespaces"), Some(namespace), Some("pods")) => namespace,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let (pods, at) = match answer {
        Answer::Pods(pods) => (pods, Timestamp::now()),
        Answer::Old(pods, at) => (pods, at),
        Answer::Status(status, text) => {
            return (StatusCode::from_u16(status).expect("a status"), text).into_response();
        }
        Answer::Hang => return std::future::pending().await,
    };
    let container =
        |(name, cpu, memory): &(&str, String, String)| json!({"name": name, "usage": {"cpu": cpu, "memory": memory}});
    let item = |Used { pod, containers }: &Used| {
        json!({"metadata": {"name": pod, "namespace": namespace}, "timestamp": at.to_string(), "window": "1s",
               "containers": containers.iter().map(container).collect::<Value>()})
    };
    let items: Value = pods.iter().map(item).collect();
    json(json!({"kind": "PodMetricsList", "apiVersion": group_version, "metadata": {}, "items": items}))
}

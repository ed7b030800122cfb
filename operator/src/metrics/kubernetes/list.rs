//! One request to the metrics API: bounded in time and size, and what its failures mean.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::{client::Body, core::Status};
use serde::Deserialize;
use thiserror::Error;

/// Largest answer that is read, in bytes: metrics-server says half a kilobyte of a pod.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Where the API is.
const API: &str = "/apis/metrics.k8s.io/v1beta1";

/// What the metrics API says of pods.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct PodMetricsList {
    pub(super) items: Vec<PodMetrics>,
}

/// What one pod used.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct PodMetrics {
    pub(super) metadata: Metadata,
    /// The end of the time that it is about.
    pub(super) timestamp: String,
    /// The length of that time, as Go writes durations.
    pub(super) window: String,
    pub(super) containers: Vec<ContainerMetrics>,
}

/// Which pod.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: String,
}

/// What one container used.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ContainerMetrics {
    pub(super) name: String,
    pub(super) usage: Usage,
}

/// Quantities.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Usage {
    pub(super) cpu: Option<String>,
    pub(super) memory: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum Error {
    #[error("the API server has no metrics.k8s.io/v1beta1: install metrics-server, or have pods or Prometheus tell it")]
    Absent,
    #[error("{0}; allow `list` of pods.metrics.k8s.io to Weir's service account")]
    Forbidden(String),
    #[error("metrics-server does not serve: {0}; `kubectl get apiservice v1beta1.metrics.k8s.io` says more")]
    Unavailable(String),
    #[error("the API server answered {0}: {1}")]
    Refused(StatusCode, String),
    #[error("it did not answer in full within {} s", .0.as_secs_f64())]
    Deadline(Duration),
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the answer is larger than {} MiB", MAX_ANSWER_BYTES >> 20)]
    TooLarge,
    #[error("the answer is no PodMetricsList: {0}")]
    Foreign(serde_json::Error),
}

/// What the pods of a namespace, or of all, use now.
pub(super) async fn list(
    client: &kube::Client,
    namespace: Option<&str>,
    deadline: Duration,
) -> Result<PodMetricsList, Error> {
    tokio::time::timeout(deadline, answer(client, namespace)).await.unwrap_or(Err(Error::Deadline(deadline)))
}

async fn answer(client: &kube::Client, namespace: Option<&str>) -> Result<PodMetricsList, Error> {
    let path =
        namespace.map_or_else(|| format!("{API}/pods"), |namespace| format!("{API}/namespaces/{namespace}/pods"));
    let request = Request::get(path).body(Body::empty()).map_err(|error| Error::Unreachable(error.to_string()))?;
    let response = client.send(request).await.map_err(|error| Error::Unreachable(chain(&error)))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() { Error::TooLarge } else { Error::Unreachable(chain(error.as_ref())) }
    })?;
    let body = body.to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(Error::Foreign);
    }
    let message = || match serde_json::from_slice::<Status>(&body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned(),
    };
    Err(match status {
        StatusCode::NOT_FOUND => Error::Absent,
        StatusCode::FORBIDDEN => Error::Forbidden(message()),
        StatusCode::SERVICE_UNAVAILABLE => Error::Unavailable(message()),
        _ => Error::Refused(status, message()),
    })
}

/// An error with what is behind it, each once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

//! A client for an API server. Connects with the first request.

use std::path::Path;

use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    client::{Body, ConfigExt},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{BoxError, ServiceBuilder};

use super::resource::chain;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used: {}", first_line(&chain(.0)))]
    Kubeconfig(kube::config::KubeconfigError),
    /// Neither a kubeconfig nor a pod's service account.
    #[error("no API server is known ({0}); set --kubeconfig")]
    Nowhere(kube::config::InferConfigError),
    /// What was found makes no client.
    #[error("no client can be made of the kubeconfig: {}", chain(.0))]
    Client(kube::Error),
}

/// A mistake in the YAML shows the lines around it, where tokens and keys may stand.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A client for the API server that a kubeconfig names; without one, for that of `KUBECONFIG`, of `~/.kube/config`, or of the
/// pod that this runs in.
///
/// # Errors
/// When there is none, or it cannot be used.
pub async fn client(kubeconfig: Option<&Path>, context: Option<String>) -> Result<kube::Client, Unreachable> {
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let mut config = match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(Unreachable::Kubeconfig)?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(Unreachable::Kubeconfig)?
        }
        None if options.context.is_some() => {
            kube::Config::from_kubeconfig(&options).await.map_err(Unreachable::Kubeconfig)?
        }
        None => kube::Config::infer().await.map_err(Unreachable::Nowhere)?,
    };
    // It would repeat what was answered 429, 503 or 504 for minutes before anyone heard of it. Each of us pauses, reports and tries
    // again by itself.
    config.default_retry = false;
    let agent = concat!("weir/", env!("CARGO_PKG_VERSION"));
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(agent)));
    of_config(config).map_err(Unreachable::Client)
}

/// As kube makes one, but small writes go out at once: hyper writes a request's head and its body one after the other, and the second
/// waited 40 ms for a delayed acknowledgement of the first.
fn of_config(config: kube::Config) -> Result<kube::Client, kube::Error> {
    if config.proxy_url.is_some() {
        // It says that this needs what we do not build in.
        return config.try_into();
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(kube::Client::new(service, config.default_namespace))
}

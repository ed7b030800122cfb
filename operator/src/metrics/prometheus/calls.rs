//! Who calls whom, as a mesh that was there before has told Prometheus: learned from where a proxy is not to hold a first call.

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    client::{Client, Error},
    {Config, ConfigError, MAX_SERIES},
};
use crate::intent::ServiceKey;

/// What Istio's proxies tell, of the last five minutes.
pub const ISTIO: &str = "sum by (source_workload_namespace, source_workload, destination_service) \
                         (rate(istio_requests_total[5m])) > 0";
/// Between two questions: it is for what is called for days.
const EVERY: Duration = Duration::from_secs(15);
/// After one that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Pods of a Service call a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Learned {
    /// The Service.
    pub service: ServiceKey,
    /// The host, as a request names it.
    pub host: String,
}

/// A series, by the labels that tell who calls whom.
#[derive(Debug, Deserialize)]
struct Series {
    metric: Labels,
}

#[derive(Debug, Deserialize)]
struct Labels {
    source_workload_namespace: Option<String>,
    source_workload: Option<String>,
    destination_service: Option<String>,
}

/// Asks a query whose series are calls, and sends what it finds.
pub struct Calls {
    client: Client,
    query: String,
}

impl Calls {
    /// Asks the server of `config`.
    ///
    /// # Errors
    ///
    /// When its URL is none.
    pub fn new(config: &Config, query: String) -> Result<Self, ConfigError> {
        Ok(Self { client: Client::new(config)?, query })
    }

    /// Asks until `shutdown`.
    pub async fn run(self, learned_tx: mpsc::Sender<Vec<Learned>>, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.ask(learned_tx)).await;
    }

    async fn ask(self, learned_tx: mpsc::Sender<Vec<Learned>>) {
        let mut said = String::new();
        loop {
            let answer = self.client.ask(&self.query).await;
            let pause = match answer.and_then(|body| calls(body.vector()?)) {
                Ok(learned) => {
                    if !std::mem::take(&mut said).is_empty() {
                        info!(calls = learned.len(), "--learn-calls: Prometheus tells of calls again");
                    }
                    if learned_tx.send(learned).await.is_err() {
                        return;
                    }
                    EVERY
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != said {
                        warn!(error, "--learn-calls: nothing is learned from Prometheus for now");
                        said = error;
                    }
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }
}

/// Each call once. Series without one of the labels are of callers outside the mesh.
fn calls(series: Vec<Series>) -> Result<Vec<Learned>, Error> {
    if series.len() > MAX_SERIES {
        return Err(Error::Refused(format!("{} series, more than {MAX_SERIES}: aggregate them", series.len())));
    }
    let call = |Series { metric }: Series| {
        let known = |label: Option<String>| label.filter(|label| !label.is_empty() && label != "unknown");
        let (namespace, name) = (known(metric.source_workload_namespace)?, known(metric.source_workload)?);
        let host = known(metric.destination_service)?.to_ascii_lowercase();
        Some(Learned { service: ServiceKey { namespace, name }, host })
    };
    Ok(series.into_iter().filter_map(call).collect::<BTreeSet<_>>().into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_learned_once_and_callers_outside_are_none() {
        let series = |namespace: Option<&str>, workload: &str, host: &str| Series {
            metric: Labels {
                source_workload_namespace: namespace.map(str::to_owned),
                source_workload: Some(workload.to_owned()),
                destination_service: Some(host.to_owned()),
            },
        };
        let found = calls(vec![
            series(Some("shop"), "page", "cart.shop.svc.cluster.local"),
            series(Some("shop"), "page", "Cart.shop.svc.cluster.local"),
            series(Some("unknown"), "unknown", "cart.shop.svc.cluster.local"),
            series(None, "page", "cart.shop.svc.cluster.local"),
            series(Some("shop"), "page", ""),
        ]);
        let service = ServiceKey { namespace: "shop".to_owned(), name: "page".to_owned() };
        let host = "cart.shop.svc.cluster.local".to_owned();
        assert_eq!(found.unwrap(), [Learned { service, host }]);
        let many = (0..=MAX_SERIES).map(|number| series(Some("a"), "b", &number.to_string()));
        assert!(calls(many.collect()).unwrap_err().to_string().contains("10001 series"));
    }
}

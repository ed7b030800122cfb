//! What Prometheus is asked for the language's own words.
//!
//! Each query is for all services of a namespace at once: a mesh asks as many as it has namespaces times words in use. The series
//! are those of the usual exporters: cAdvisor and kube-state-metrics for `cpu` and `memory`, Istio's standard metrics for traffic.

use limiter::metric::{PROXY_CONTAINERS, Word};

/// The query of a word, and whom its series speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Builtin {
    /// PromQL with `$namespace`.
    pub promql: String,
    /// Whom a series speaks of.
    pub by: By,
}

/// Whom a series speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// The pod in its label `pod`.
    Pod,
    /// The service in its label `SERVICE`.
    Service,
}

/// The label of Istio's standard metrics that names the service asked.
pub(super) const SERVICE: &str = "destination_service_name";

/// Istio's standard metrics as the pod that was asked counts them, scraped with the labels `namespace` and `pod`.
const ASKED: &str = r#"reporter="destination",namespace="$namespace""#;
/// The same, by the service that was asked.
const SERVED: &str = r#"reporter="destination",destination_service_namespace="$namespace""#;
/// Answers of the application: those that no local limit gave (Envoy marks its own with RL).
const ANSWERED: &str = r#"response_flags!="RL""#;
/// Those of them that failed.
const FAILED: &str = r#"response_flags!="RL",response_code=~"5..""#;

/// The query of a word; `None` where no usual exporter has it. Of `cpu` and `memory` it asks for cores and bytes when what the
/// pods may use is `known` without kube-state-metrics, else for the fraction.
#[must_use]
pub fn builtin(word: &Word, known: bool) -> Option<Builtin> {
    let total = |labels: &str| {
        format!(
            "sum by (pod) (rate(istio_requests_total{{{ASKED}{}{labels}}}[1m]))",
            if labels.is_empty() { "" } else { "," }
        )
    };
    let served = |labels: &str| format!("sum by ({SERVICE}) (rate(istio_requests_total{{{SERVED},{labels}}}[1m]))");
    let (promql, by) = match word {
        Word::Cpu | Word::Memory => {
            let used = used(word);
            (
                if known {
                    used
                } else {
                    format!("{used} / ({} or {})", given("limits", word), given("requests", word))
                },
                By::Pod,
            )
        }
        Word::Requests => (total(""), By::Pod),
        Word::Answers => (total(ANSWERED), By::Pod),
        Word::Refused => (or_zero(&total("response_flags=\"RL\""), &total("")), By::Pod),
        Word::ErrorsPerSecond => (or_zero(&total(FAILED), &total("")), By::Pod),
        // Where nothing is answered both are 0: that nothing happens is no missing metric, and lets a rule go.
        Word::Errors => {
            let answered = served(ANSWERED);
            (or_zero(&format!("{} / ({answered} > 0)", served(FAILED)), &answered), By::Service)
        }
        Word::Latency(percentile) => {
            let buckets = format!("rate(istio_request_duration_milliseconds_bucket{{{SERVED},{ANSWERED}}}[1m])");
            let quantile = f64::from(*percentile) / 100.0;
            let latency = format!("histogram_quantile({quantile}, sum by (le, {SERVICE}) ({buckets})) / 1000 >= 0");
            (or_zero(&latency, &served(ANSWERED)), By::Service)
        }
        // Weir's own proxies name their listeners `in_<port>`, Istio's `inbound…`.
        Word::Inflight => {
            let labels = r#"namespace="$namespace",envoy_http_conn_manager_prefix=~"in_.*|inbound.*""#;
            (format!("sum by (pod) (envoy_http_downstream_rq_active{{{labels}}})"), By::Pod)
        }
        Word::Pods | Word::Demand(_) | Word::Excess(_) | Word::Named(_) => return None,
    };
    Some(Builtin { promql, by })
}

/// The containers of the application: neither the pod's own (a name that is empty or `POD`) nor a proxy.
fn app() -> String {
    format!("namespace=\"$namespace\",container!~\"|POD|{}\"", PROXY_CONTAINERS.join("|"))
}

/// What the application's containers use, in cores or bytes, as cAdvisor says it.
fn used(word: &Word) -> String {
    let app = app();
    if *word == Word::Cpu {
        format!("sum by (pod) (rate(container_cpu_usage_seconds_total{{{app}}}[1m]))")
    } else {
        format!("sum by (pod) (container_memory_working_set_bytes{{{app}}})")
    }
}

/// What they are given, `limits` or `requests`, as kube-state-metrics says it.
fn given(what: &str, word: &Word) -> String {
    let resource = if *word == Word::Cpu { "cpu" } else { "memory" };
    format!("sum by (pod) (kube_pod_container_resource_{what}{{{},resource=\"{resource}\"}})", app())
}

/// A value that has no series where nothing happens, as zero wherever `known` has one.
fn or_zero(value: &str, known: &str) -> String {
    format!("{value} or 0 * {known}")
}

#[cfg(test)]
mod tests {
    use limiter::promql::Template;

    use super::*;

    #[test]
    fn every_query_is_well_formed_and_names_its_label() {
        for word in [
            Word::Cpu,
            Word::Memory,
            Word::Requests,
            Word::Answers,
            Word::Refused,
            Word::Errors,
            Word::ErrorsPerSecond,
            Word::Latency(99),
            Word::Inflight,
        ] {
            let Builtin { promql, by } = builtin(&word, false).expect("it has a query");
            let query = Template::parse(&promql).expect("it is well formed").render("shop", "", &[]);
            let label = if by == By::Pod { "sum by (pod)" } else { SERVICE };
            assert!(query.contains("namespace=\"shop\"") && query.contains(label), "{word}: {query}");
        }
        assert_eq!(builtin(&Word::Named("a".to_owned()), true), None);
    }
}

//! What Prometheus is asked for the language's own words.
//!
//! Each query is for all services of a namespace at once: a mesh asks as many as it has namespaces times words in use. The series
//! are those of the usual exporters: cAdvisor and kube-state-metrics for `cpu` and `memory`, Istio's standard metrics for traffic, or
//! else what applications count themselves.

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

/// What applications count themselves, as most client libraries name it.
const OWN: &str = "rate(http_requests_total{namespace=\"$namespace\"}[1m])";
/// How long that took.
const OWN_BUCKETS: &str = "rate(http_request_duration_seconds_bucket{namespace=\"$namespace\"}[1m])";

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
        Word::Cpu | Word::Memory if known => (used(word), By::Pod),
        Word::Cpu | Word::Memory => {
            (format!("{} / ({} or {})", used(word), given("limits", word), given("requests", word)), By::Pod)
        }
        Word::Requests => (format!("{} or {}", total(""), own(By::Pod, OWN)), By::Pod),
        Word::Answers => (format!("{} or {}", total(ANSWERED), own(By::Pod, OWN)), By::Pod),
        Word::Refused => (or_zero(&total("response_flags=\"RL\""), &total("")), By::Pod),
        Word::ErrorsPerSecond => {
            let counted = or_zero(&total(FAILED), &total(""));
            (format!("{counted} or {}", or_zero(&own(By::Pod, &own_failed()), &own(By::Pod, OWN))), By::Pod)
        }
        // Where nothing is answered both are 0: that nothing happens is no missing metric, and lets a rule go.
        Word::Errors => {
            let part = |failed: &str, answered: &str| or_zero(&format!("{failed} / ({answered} > 0)"), answered);
            let counted = part(&served(FAILED), &served(ANSWERED));
            (format!("{counted} or {}", part(&own(By::Service, &own_failed()), &own(By::Service, OWN))), By::Service)
        }
        Word::Latency(percentile) => {
            let quantile = |buckets: &str| {
                format!("histogram_quantile({}, sum by (le, {SERVICE}) ({buckets}))", f64::from(*percentile) / 100.0)
            };
            let buckets = format!("rate(istio_request_duration_milliseconds_bucket{{{SERVED},{ANSWERED}}}[1m])");
            let timed = or_zero(&format!("{} / 1000 >= 0", quantile(&buckets)), &served(ANSWERED));
            let own_timed = format!("{} >= 0", quantile(&of_service(OWN_BUCKETS)));
            (format!("{timed} or {}", or_zero(&own_timed, &own(By::Service, OWN))), By::Service)
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

/// What applications count themselves, by their pods or, where Prometheus gives them the label `service`, by their services.
fn own(by: By, rates: &str) -> String {
    match by {
        By::Pod => format!("sum by (pod) ({rates})"),
        By::Service => format!("sum by ({SERVICE}) ({})", of_service(rates)),
    }
}

/// Of what they count: answers that failed. The libraries do not agree on the label.
fn own_failed() -> String {
    let failed = |label| format!("rate(http_requests_total{{namespace=\"$namespace\",{label}=~\"5..\"}}[1m])");
    ["code", "status", "status_code"].map(failed).join(" or ")
}

/// With the label `service` under the name that Istio gives it.
fn of_service(rates: &str) -> String {
    format!("label_replace({rates}, \"{SERVICE}\", \"$$1\", \"service\", \"(.+)\")")
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

//! OpenTelemetry: one trace for each decision that changes numbers, through to the answer of every proxy. Off by default.
//!
//! ```text
//! decide shop/cart                    the rules that moved are its events
//!   translate
//!   publish
//!   push (shop/cart/cart-0)           from the change to the transport
//!     ack (shop/cart/cart-0)          from there to the proxy's answer; `nack` with its words
//! ```
//!
//! Spans are made afterwards, from times noted on the way: a decision that moves nothing costs a look at the clock, one that
//! is not sampled a little more, and proxies are followed only where somebody will read it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, Key, KeyValue, Value,
    trace::{Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter as Export,
    },
};
use tracing::{info, warn};

use crate::{
    intent::ServiceKey,
    translate::decide::{Move, Rules, moved},
    xds::{
        NodeKey, ResourceType,
        trail::{Answer, Traced},
    },
};

/// A batch that the collector does not take within this is given up.
const EXPORT: Duration = Duration::from_secs(2);
/// The last spans get this long when Weir stops.
const FLUSH: Duration = Duration::from_secs(2);
/// Spans that may wait for the collector: two for each of 5,000 proxies. Further ones are dropped.
const QUEUE: usize = 16_384;

/// Where traces go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// OTLP over gRPC: `http://host:4317`.
    pub endpoint: String,
    /// Part of the decisions that are traced, from 0 to 1.
    pub sample: f64,
}

/// The connection to the collector.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Starts; needs a tokio runtime. Nothing is connected before the first span.
    ///
    /// # Errors
    ///
    /// The endpoint is none.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let exporter =
            SpanExporter::builder().with_tonic().with_endpoint(&config.endpoint).with_timeout(EXPORT).build()?;
        let exporter = Quiet { exporter, endpoint: config.endpoint.clone(), failing: AtomicBool::new(false) };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_scheduled_delay(Duration::from_secs(1))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::TraceIdRatioBased(config.sample))
            .with_resource(resource())
            .build();
        Ok(Self { provider })
    }

    /// For the builder.
    #[must_use]
    pub fn tracer(&self) -> Tracer {
        Tracer(self.provider.tracer("weir"))
    }

    /// Sends what is left, for two seconds at most. Blocks.
    pub fn stop(self) {
        // A collector that is away has been said already.
        let _ = self.provider.shutdown_with_timeout(FLUSH);
    }
}

/// What Weir says it is, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` say otherwise.
fn resource() -> Resource {
    let own = || Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let resource = own().build();
    let name = resource.get(&Key::from_static_str("service.name")).map(|name| name.to_string()).unwrap_or_default();
    if name.is_empty() || name.starts_with("unknown_service") {
        return own().with_service_name("weir").build();
    }
    resource
}

/// Says once that the collector is away, and once that it is back.
#[derive(Debug)]
struct Quiet {
    exporter: SpanExporter,
    endpoint: String,
    failing: AtomicBool,
}

impl Export for Quiet {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        let failing = sent.is_err();
        if self.failing.swap(failing, Ordering::Relaxed) != failing {
            let endpoint = &self.endpoint;
            match &sent {
                Ok(()) => info!(endpoint, "--otlp-endpoint: the collector takes traces again"),
                Err(error) => {
                    warn!(endpoint, %error, "--otlp-endpoint: the collector takes no traces; they are dropped")
                }
            }
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Makes traces of decisions.
#[derive(Clone, Debug)]
pub struct Tracer(SdkTracer);

impl Tracer {
    /// A decision about a service that began at `began` and changed numbers. `None`: this one is not sampled.
    #[must_use]
    pub fn decided(
        &self,
        service: &ServiceKey,
        began: SystemTime,
        moves: &[Move],
        rules: &Rules,
    ) -> Option<Arc<Decided>> {
        let root = SpanBuilder::from_name("decide").with_kind(SpanKind::Internal).with_start_time(began);
        let mut span = self.0.build_with_context(root, &Context::new());
        if !span.is_recording() {
            return None;
        }
        let now = SystemTime::now();
        span.set_attribute(KeyValue::new("weir.service", service.to_string()));
        for Move { policy, rule, before, .. } in moves {
            let Some(ruling) = rules.get(policy, rule).filter(|now| moved(before.as_ref(), now.decision)) else {
                continue;
            };
            let limit = |limit: Option<limiter::quota::Rate>| limit.map_or("none".to_owned(), |rate| rate.to_string());
            let observed = ruling.observed().into_iter();
            let observed = observed.map(|seen| format!("{}={}", seen.metric, seen.value).into()).collect();
            let attributes = vec![
                KeyValue::new("weir.policy", policy.to_string()),
                KeyValue::new("weir.rule", rule.clone()),
                KeyValue::new("weir.phase", format!("{:?}", ruling.decision.phase)),
                KeyValue::new("weir.limit.before", limit(before.as_ref().and_then(|before| before.limit))),
                KeyValue::new("weir.limit.after", limit(ruling.decision.limit)),
                KeyValue::new("weir.observed", Value::Array(opentelemetry::Array::String(observed))),
                KeyValue::new("weir.why", ruling.explain()),
            ];
            span.add_event_with_timestamp("rule moved", now, attributes);
        }
        let context = Context::new().with_span(span);
        Some(Arc::new(Decided { tracer: self.0.clone(), context, decided: now }))
    }
}

/// A decision on its way to the proxies.
#[derive(Debug)]
pub struct Decided {
    tracer: SdkTracer,
    /// Holds the span of the decision.
    context: Context,
    decided: SystemTime,
}

impl Decided {
    /// It has been translated at `translated`, and is now in the table.
    pub fn published(&self, translated: SystemTime, resources: usize, proxies: usize) {
        self.child("translate", self.decided).end_with_timestamp(translated);
        let mut publish = self.child("publish", translated);
        publish.set_attribute(KeyValue::new("weir.resources", count(resources)));
        publish.set_attribute(KeyValue::new("weir.proxies", count(proxies)));
        publish.end();
        self.context.span().end();
    }

    fn child(&self, name: &'static str, start: SystemTime) -> opentelemetry_sdk::trace::Span {
        self.tracer.build_with_context(SpanBuilder::from_name(name).with_start_time(start), &self.context)
    }
}

impl Traced for Decided {
    fn pushed(&self, node: &NodeKey, resource_type: ResourceType, resources: usize) -> Box<dyn Answer> {
        let attributes = [
            KeyValue::new("weir.proxy", node.to_string()),
            KeyValue::new("xds.type", resource_type.label()),
            KeyValue::new("xds.resources", count(resources)),
        ];
        let mut push = self.child("push", self.decided);
        push.set_attributes(attributes.clone());
        push.end();
        let context = self.context.with_remote_span_context(push.span_context().clone());
        Box::new(Sent { tracer: self.tracer.clone(), context, at: SystemTime::now(), attributes })
    }
}

/// A response that a proxy has not answered yet.
#[derive(Debug)]
struct Sent {
    tracer: SdkTracer,
    context: Context,
    at: SystemTime,
    attributes: [KeyValue; 3],
}

impl Sent {
    fn answer(self, name: &'static str, status: Status) {
        let span = SpanBuilder::from_name(name).with_start_time(self.at).with_attributes(self.attributes);
        let mut span = self.tracer.build_with_context(span, &self.context);
        span.set_status(status);
    }
}

impl Answer for Sent {
    fn acknowledged(self: Box<Self>) {
        self.answer("ack", Status::Ok);
    }

    fn refused(self: Box<Self>, message: &str) {
        self.answer("nack", Status::error(message.to_owned()));
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

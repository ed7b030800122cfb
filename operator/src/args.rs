//! What can be typed. What it means stands in each command.

mod deps;
mod tenants;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use http::{HeaderName, HeaderValue};
use tracing_subscriber::EnvFilter;

pub use self::{
    deps::{DepsArgs, DepsOutput},
    tenants::TenantArgs,
};
use crate::{
    demo::args::{DemoArgs, DemoLoadArgs, DemoServiceArgs},
    identity::{Listen, Place},
    inject::{self, Interception},
    intent::ServiceKey,
    metrics::prometheus::{self, calls::ISTIO},
    xds::bootstrap::{Protocol, Upstream},
};

/// Where Weir serves xDS unless told otherwise.
pub const XDS_ADDRESS: &str = "127.0.0.1:18000";
/// Where Weir serves health, metrics and status unless told otherwise.
pub const ADMIN_ADDRESS: &str = "127.0.0.1:18001";

/// Adaptive traffic governance for Envoy: rate limits that follow live metrics, from policies that read like sentences.
#[derive(Debug, Parser)]
#[command(name = "weir", version, propagate_version = true, max_term_width = 110)]
pub struct Args {
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Logging.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or a filter such as `info,operator::xds=debug`.
    #[arg(long, env = "WEIR_LOG", default_value = "info", global = true, value_name = "FILTER", value_parser = filter)]
    pub log: String,
    /// How to log.
    #[arg(long, env = "WEIR_LOG_FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
}

/// How to log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run Weir: watch a Kubernetes API server or a folder of YAML, decide from live metrics, serve Envoy.
    Run(Box<RunArgs>),
    /// Check files and folders; exit with 1 when something is wrong.
    Validate(ValidateArgs),
    /// Say in plain English what the policies of files mean.
    Explain(ExplainArgs),
    /// Play a rule against a queueing model under load, and show what it would do before anyone applies it.
    Simulate(SimulateArgs),
    /// Print what Weir makes of files, offline, one stage at a time.
    Translate(TranslateArgs),
    /// Print an Envoy bootstrap for the proxy of one pod.
    Bootstrap(BootstrapArgs),
    /// Print what another control plane's proxy of one pod needs to enforce Weir's limits.
    Attachment(AttachmentArgs),
    /// Put Envoy as a sidecar into the pods of a file, as the webhook of a cluster does, and print it.
    Inject(InjectArgs),
    /// Show what a running Weir has in force, and why.
    Status(StatusArgs),
    /// Show who calls whom, as proxies that start with less than everything have asked.
    Deps(DepsArgs),
    /// Kill switch: enforce nothing, at once, until `weir resume`. Rules go on being decided and reported.
    ///
    /// Waits until every proxy has acknowledged it; exits with 1, and names the others, when some have not in time.
    Pause(PauseArgs),
    /// Enforce again what was paused.
    Resume(PauseArgs),
    /// Watch Weir at work on real Envoys, about a minute, on this machine: a limit that holds, unless another scenario is named.
    Demo(DemoArgs),
    /// The service of the demo: burns CPU for every request.
    #[command(hide = true)]
    DemoService(DemoServiceArgs),
    /// A load on a service, as the example in a cluster has it.
    #[command(hide = true)]
    DemoLoad(DemoLoadArgs),
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

/// `weir run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Folder of YAML: policies, Services, EndpointSlices and Pods. Changes take effect at once.
    #[arg(long, env = "WEIR_CONFIG", value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// The API server that is watched instead of a folder.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The webhook that the API server asks about policies.
    #[command(flatten)]
    pub webhook: WebhookArgs,
    /// What the webhook puts into pods that ask for a sidecar.
    #[command(flatten)]
    pub sidecar: SidecarArgs,
    /// Who Weir is, and who proxies are.
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// Other Weirs for the same proxies.
    #[command(flatten)]
    pub replicas: ReplicaArgs,
    /// Where to serve xDS to Envoys; unix:/PATH is a Unix socket, for whoever has Weir's user or group. Other addresses than loopback,
    /// and --kubernetes, take a certificate: xDS is then served by TLS, and every proxy proves who it is.
    #[arg(long, env = "WEIR_XDS_ADDRESS", default_value = XDS_ADDRESS, value_name = "ADDRESS:PORT")]
    pub xds_address: Listen,
    /// Where to serve /healthz, /readyz, /metrics, /status and, to this machine alone, /pause and /resume. Not on loopback all but
    /// the first two are answered to this machine alone; with --kubernetes by HTTPS to whoever sends a token that the API server
    /// knows and lets read the path.
    #[arg(long, env = "WEIR_ADMIN_ADDRESS", default_value = ADMIN_ADDRESS, value_name = "ADDRESS:PORT")]
    pub admin_address: SocketAddr,
    /// How often every target's metrics page is read.
    #[arg(long, env = "WEIR_SCRAPE_INTERVAL", default_value = "250ms", value_name = "DURATION", value_parser = interval)]
    pub scrape_interval: Duration,
    /// Folder, of this Weir alone, in which decisions are kept, so that a restart lifts no limit. Without it they begin anew.
    #[arg(long, env = "WEIR_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Trace decisions through to the answer of every proxy, to an OpenTelemetry collector: OTLP over gRPC, without TLS.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", value_parser = collector)]
    pub otlp_endpoint: Option<String>,
    /// Part of the decisions that are traced, from 0 to 1.
    #[arg(long, env = "WEIR_OTLP_SAMPLE", default_value = "0.1", value_name = "PART", value_parser = part)]
    pub otlp_sample: f64,
    /// Prometheus.
    #[command(flatten)]
    pub prometheus: PrometheusArgs,
    /// What objects of a namespace may do beyond the services of their own.
    #[command(flatten)]
    pub tenants: TenantArgs,
}

/// Which API server is watched, and what of it.
#[derive(Clone, Debug, clap::Args)]
pub struct ClusterArgs {
    /// Watch a Kubernetes API server instead of a folder: that of --kubeconfig, of KUBECONFIG, of ~/.kube/config, or of the pod that
    /// this runs in.
    #[arg(long, env = "WEIR_KUBERNETES")]
    pub kubernetes: bool,
    /// How to reach the API server.
    #[arg(long, env = "WEIR_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; its current one by default.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Watch only this namespace; may be given several times. All of them by default.
    #[arg(long = "namespace", env = "WEIR_NAMESPACES", value_name = "NAME", value_delimiter = ',', value_parser = namespace)]
    pub namespaces: Vec<String>,
    /// How often the metrics API (metrics-server) is asked what pods use of CPU and memory; 5s by default. It measures every 15s
    /// or so, unless told otherwise.
    #[arg(long, env = "WEIR_METRICS_API_INTERVAL", value_name = "DURATION", value_parser = interval)]
    pub metrics_api_interval: Option<Duration>,
}

/// Where the API server asks about policies.
#[derive(Clone, Debug, clap::Args)]
pub struct WebhookArgs {
    /// Serve a validating webhook by HTTPS: mistakes in policies are refused by `kubectl apply`, such as 0.0.0.0:15443. Needs a
    /// certificate.
    #[arg(long, env = "WEIR_WEBHOOK_ADDRESS", value_name = "ADDRESS:PORT")]
    pub webhook_address: Option<SocketAddr>,
    /// ValidatingWebhookConfiguration into which Weir writes whom the API server is to trust, with --certificate-secret. It must exist.
    #[arg(long, env = "WEIR_WEBHOOK_CONFIGURATION", value_name = "NAME")]
    pub webhook_configuration: Option<String>,
    /// MutatingWebhookConfiguration, for sidecars, into which Weir writes the same. It must exist.
    #[arg(long, env = "WEIR_INJECTION_CONFIGURATION", value_name = "NAME")]
    pub injection_configuration: Option<String>,
}

/// What a sidecar is made of.
#[derive(Clone, Debug, clap::Args)]
pub struct SidecarArgs {
    /// Image of the sidecar: Envoy 1.40.
    #[arg(
        long,
        env = "WEIR_SIDECAR_IMAGE",
        default_value = "docker.io/envoyproxy/envoy:distroless-v1.40.0",
        value_name = "IMAGE"
    )]
    pub sidecar_image: String,
    /// Image of the init container that loads the rules of interception: it needs `iptables-restore` on its PATH.
    #[arg(
        long,
        env = "WEIR_IPTABLES_IMAGE",
        default_value = "registry.k8s.io/build-image/distroless-iptables:v0.8.4",
        value_name = "IMAGE"
    )]
    pub iptables_image: String,
    /// How Envoy comes by the requests, unless the pod's annotation says it.
    #[arg(long, env = "WEIR_INTERCEPTION", default_value = "redirect")]
    pub interception: Interception,
    /// How Envoy comes by what the application sends, unless the pod's annotation says it; with none it is left alone.
    #[arg(long, env = "WEIR_OUTBOUND_INTERCEPTION", default_value = "none")]
    pub outbound_interception: Interception,
    /// Where sidecars find Weir: the name of its Service, which its certificate has.
    #[arg(long, env = "WEIR_SIDECAR_XDS_ADDRESS", default_value = "weir.weir-system.svc:15010", value_name = "NAME:PORT", value_parser = service)]
    pub sidecar_xds_address: (String, u16),
    /// ConfigMap of the pod's namespace with the authorities by which sidecars trust Weir, as ca.crt.
    #[arg(long, env = "WEIR_SIDECAR_CA_CONFIG_MAP", default_value = "weir-ca", value_name = "NAME")]
    pub sidecar_ca_config_map: String,
    /// `resources` of the sidecar, as YAML or JSON, unless the pod's annotation says it.
    #[arg(long, env = "WEIR_SIDECAR_RESOURCES", default_value = "{requests: {cpu: 20m, memory: 64Mi}, limits: {memory: 256Mi}}", value_name = "YAML", value_parser = resources)]
    pub sidecar_resources: serde_json::Value,
    /// How long a pod that is to end goes on serving, until nobody sends it requests: whole seconds, as a `preStop` hook of its
    /// containers that have none. Needs Kubernetes 1.30; 0s leaves them alone.
    #[arg(long, env = "WEIR_APPLICATION_DRAIN", default_value = "5s", value_name = "DURATION", value_parser = inject::whole_seconds)]
    pub application_drain: u32,
}

impl SidecarArgs {
    /// What injection needs.
    #[must_use]
    pub fn settings(self) -> inject::Settings {
        inject::Settings {
            image: self.sidecar_image,
            iptables_image: self.iptables_image,
            interception: self.interception,
            outbound: self.outbound_interception,
            xds_address: self.sidecar_xds_address,
            ca_config_map: self.sidecar_ca_config_map,
            resources: self.sidecar_resources,
            drain_seconds: self.application_drain,
        }
    }
}

/// Who Weir is, and how proxies prove who they are.
#[derive(Clone, Debug, clap::Args)]
pub struct IdentityArgs {
    /// Folder with Weir's certificate for xDS and the webhook, tls.crt and tls.key, and whom to trust, ca.crt; read again when they
    /// change.
    #[arg(long, env = "WEIR_CERTIFICATE_DIR", value_name = "DIR")]
    pub certificate_dir: Option<PathBuf>,
    /// Service of Weir's own namespace by which it is reached: Weir makes a certificate for it. With --certificate-secret.
    #[arg(long, env = "WEIR_CERTIFICATE_SERVICE", value_name = "NAME")]
    pub certificate_service: Option<String>,
    /// Secret of Weir's own namespace in which that certificate is kept. It must exist.
    #[arg(long, env = "WEIR_CERTIFICATE_SECRET", value_name = "NAME")]
    pub certificate_secret: Option<String>,
    /// ConfigMap into which Weir writes whom proxies are to trust, as ca.crt; may be given several times. It must exist.
    #[arg(long = "ca-config-map", env = "WEIR_CA_CONFIG_MAPS", value_name = "NAMESPACE/NAME", value_delimiter = ',', value_parser = place)]
    pub ca_config_maps: Vec<Place>,
    /// Accept client certificates of the authorities in this file, PEM; read again when it changes. A certificate names its pod by a
    /// URI spiffe://TRUST-DOMAIN/ns/NAMESPACE/pod/POD, or by the common name NAMESPACE/POD.
    #[arg(long, env = "WEIR_XDS_CLIENT_CA", value_name = "FILE")]
    pub xds_client_ca: Option<PathBuf>,
    /// Serve xDS in plain text, to whoever comes: on loopback or a Unix socket alone, for tests.
    #[arg(long, env = "WEIR_XDS_PLAINTEXT")]
    pub xds_plaintext: bool,
}

/// Other Weirs for the same proxies, one of which decides what metrics drive.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplicaArgs {
    /// Serve other replicas here, by mutual TLS with Weir's certificate: an address by which they reach this one, such as
    /// 10.0.0.7:15020. With --lease or --peers.
    #[arg(long, env = "WEIR_REPLICA_ADDRESS", value_name = "ADDRESS:PORT", value_parser = address)]
    pub replica_address: Option<SocketAddr>,
    /// Lease of Weir's own namespace by which it is told which replica decides. With --kubernetes and --replica-address.
    #[arg(long, env = "WEIR_LEASE", value_name = "NAME")]
    pub lease: Option<String>,
    /// Name of this replica on the Lease; that of the host by default, which in a pod is the pod's.
    #[arg(long, env = "WEIR_REPLICA_NAME", value_name = "NAME")]
    pub replica_name: Option<String>,
    /// This is the only replica but while another takes its place: it goes on deciding while the API server is away. With --lease.
    #[arg(long, env = "WEIR_SOLE_REPLICA")]
    pub sole_replica: bool,
    /// Addresses of all replicas, the same list for each, its own --replica-address among them: the first that is alive decides. Without
    /// --kubernetes.
    #[arg(long, env = "WEIR_PEERS", value_name = "ADDRESS:PORT,…", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// ConfigMap of Weir's own namespace in which decisions are kept, at most every 30 s, for a start at which no other replica remembers
    /// them. It must exist. With --kubernetes.
    #[arg(long, env = "WEIR_CHECKPOINT_CONFIG_MAP", value_name = "NAME")]
    pub checkpoint_config_map: Option<String>,
}

/// Where and how Prometheus is asked.
#[derive(Clone, Debug, clap::Args)]
pub struct PrometheusArgs {
    /// The Prometheus that is asked for PromQL metrics, and for words that no other source has. Basic authentication as
    /// http://user:password@host. Absent: none is asked.
    #[arg(long, env = "WEIR_PROMETHEUS", value_name = "URL", hide_env_values = true, value_parser = server)]
    pub prometheus: Option<String>,
    /// How often each query is asked.
    #[arg(long, env = "WEIR_PROMETHEUS_INTERVAL", default_value = "500ms", value_name = "DURATION", value_parser = interval)]
    pub prometheus_interval: Duration,
    /// How long an answer may take.
    #[arg(long, env = "WEIR_PROMETHEUS_TIMEOUT", default_value = "2s", value_name = "DURATION", value_parser = interval)]
    pub prometheus_timeout: Duration,
    /// How old a sample may be that stands for now; more than the scrape interval of Prometheus.
    #[arg(long, env = "WEIR_PROMETHEUS_LOOKBACK", default_value = "90s", value_name = "DURATION", value_parser = interval)]
    pub prometheus_lookback: Duration,
    /// File with a bearer token; read again for every question.
    #[arg(long, env = "WEIR_PROMETHEUS_TOKEN_FILE", value_name = "FILE")]
    pub prometheus_token_file: Option<PathBuf>,
    /// A header of every question, such as `X-Scope-OrgID: shop`; may be given several times.
    #[arg(long = "prometheus-header", value_name = "NAME: VALUE", value_parser = header)]
    pub prometheus_headers: Vec<(HeaderName, HeaderValue)>,
    /// Learns from Prometheus whom Services call, for pods whose LazyConfig says `load: Learned`: a query whose series have the labels
    /// source_workload_namespace, source_workload (a Service of that name) and destination_service (a host). Without QUERY what Istio's
    /// proxies tell (istio_requests_total). Asked every 15 s; with --prometheus.
    #[arg(long, env = "WEIR_LEARN_CALLS", value_name = "QUERY", num_args = 0..=1, default_missing_value = ISTIO, requires = "prometheus")]
    pub learn_calls: Option<String>,
}

impl PrometheusArgs {
    /// What the provider needs, if there is a Prometheus.
    #[must_use]
    pub fn config(self) -> Option<prometheus::Config> {
        Some(prometheus::Config {
            url: self.prometheus?,
            interval: self.prometheus_interval,
            timeout: self.prometheus_timeout,
            lookback: self.prometheus_lookback,
            token_file: self.prometheus_token_file,
            headers: self.prometheus_headers,
        })
    }
}

/// `weir validate`.
#[derive(Clone, Debug, clap::Args)]
pub struct ValidateArgs {
    /// Files, or folders of YAML.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// `weir explain`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// Files, or folders of YAML.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Say also what the policies would do now, if metrics were as this file says: `metrics: {cpu: 91%}`, `for: 30s`, `pods: 3`.
    #[arg(long, value_name = "FILE")]
    pub at: Option<PathBuf>,
}

/// `weir simulate`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimulateArgs {
    /// File or folder with the policy.
    #[arg(value_name = "POLICY")]
    pub path: PathBuf,
    /// Which rule, if there are several.
    #[arg(long, value_name = "NAME")]
    pub rule: Option<String>,
    /// How many times the capacity is offered for 20 s, between 10 s of 0.7 times each.
    #[arg(long, default_value = "2x", value_name = "FACTOR", value_parser = factor, conflicts_with_all = ["halved", "trace"])]
    pub surge: f64,
    /// Half of the workers stop for 20 s instead, while 0.7 times the capacity is offered.
    #[arg(long, conflicts_with = "trace")]
    pub halved: bool,
    /// Offer what a file says instead: lines of SECONDS,REQUESTS_PER_SECOND.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Pods of the service.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pods: u32,
    /// Requests that a pod works on at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub workers: u32,
    /// Mean time to work on a request.
    #[arg(long, default_value = "10ms", value_name = "DURATION", value_parser = span)]
    pub service_time: Duration,
    /// The time in which a client wants its answer; it gives up after five times that.
    #[arg(long, default_value = "100ms", value_name = "DURATION", value_parser = span)]
    pub within: Duration,
    /// A request that its client has given up is worked on all the same.
    #[arg(long)]
    pub works_on_abandoned: bool,
    /// How often the proxies report; 15s is what Prometheus usually does.
    #[arg(long, default_value = "250ms", value_name = "DURATION", value_parser = interval)]
    pub observe_every: Duration,
    /// The part of the requests that each class of the rule has, in order: `20%,30%`. Equal parts by default.
    #[arg(long, value_name = "PARTS", value_delimiter = ',', value_parser = percentage)]
    pub classes: Vec<f64>,
    /// Where the randomness comes from; the same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print every interval as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `weir translate`.
#[derive(Clone, Debug, clap::Args)]
pub struct TranslateArgs {
    /// Files, or folders of YAML.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// What to print.
    #[arg(long, default_value = "intent")]
    pub stage: Stage,
    /// Suppose that a metric has had this value on every target for a long time: `cpu=91%`, `queue_depth=12`.
    #[arg(long = "metric", value_name = "NAME=VALUE", value_parser = assumed)]
    pub metrics: Vec<(String, f64)>,
}

/// Stages that can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// What every proxy should do.
    Intent,
    /// Envoy's resources.
    Resources,
    /// What the objects' status would say.
    Status,
}

/// Which pod a proxy stands in front of, and where it finds Weir.
#[derive(Clone, Debug, clap::Args)]
pub struct ProxyArgs {
    /// The Service whose pod the proxy stands in front of.
    #[arg(long, value_name = "NAME")]
    pub service: String,
    /// Its namespace.
    #[arg(long, default_value = "default")]
    pub namespace: String,
    /// The pod's name, as its EndpointSlice gives it; the name of the machine by default, as in a pod.
    #[arg(long, env = "HOSTNAME", value_name = "NAME")]
    pub pod: String,
    /// Where Weir serves xDS: an address, a name that the proxy looks up, or unix:/PATH, a socket; those of several replicas with commas
    /// between.
    #[arg(long, default_value = XDS_ADDRESS, value_name = "HOST:PORT")]
    pub xds_address: Upstream,
    /// How the proxy trusts Weir, and proves who it is.
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Which form of xDS the proxy speaks. Both bring the same; delta sends less.
    #[arg(long, default_value = "delta")]
    pub protocol: Protocol,
}

/// How a proxy trusts Weir, and proves who it is. Paths are the proxy's own.
#[derive(Clone, Debug, clap::Args)]
pub struct TrustArgs {
    /// File with the authorities by which the proxy trusts Weir: it then speaks TLS. Without it, plain text.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The name that Weir's certificate must have; by default that of --xds-address.
    #[arg(long, value_name = "NAME", requires = "ca_file")]
    pub server_name: Option<String>,
    /// File with the token of the pod's service account, for the audience `weir`.
    #[arg(long, value_name = "FILE", requires = "ca_file")]
    pub token_file: Option<PathBuf>,
    /// File with the proxy's client certificate, instead of a token.
    #[arg(long, value_name = "FILE", requires_all = ["ca_file", "key_file"], conflicts_with = "token_file")]
    pub certificate_file: Option<PathBuf>,
    /// File with the key of that certificate.
    #[arg(long, value_name = "FILE", requires = "certificate_file")]
    pub key_file: Option<PathBuf>,
    /// Folder in which small files are written by which Envoy notices that the files above were replaced; the proxy must find it at
    /// the same path. By default that of --output.
    #[arg(long, value_name = "DIR", requires = "ca_file")]
    pub secrets_dir: Option<PathBuf>,
}

/// `weir bootstrap`.
#[derive(Clone, Debug, clap::Args)]
pub struct BootstrapArgs {
    /// Whose proxy.
    #[command(flatten)]
    pub proxy: ProxyArgs,
    /// Where Envoy's own admin page listens.
    #[arg(long, default_value = "127.0.0.1:15000", value_name = "ADDRESS:PORT")]
    pub proxy_admin_address: SocketAddr,
    /// How often Envoy streams its statistics to Weir: requests, errors, latency, inflight.
    #[arg(long, default_value = "250ms", value_name = "DURATION", value_parser = interval)]
    pub metrics_interval: Duration,
    /// Write it to this file instead of standard output: an init container has no shell.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `weir attachment`.
#[derive(Clone, Debug, clap::Args)]
pub struct AttachmentArgs {
    /// Whose proxy.
    #[command(flatten)]
    pub proxy: ProxyArgs,
}

/// `weir inject`.
///
/// Pods, and templates of Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs and CronJobs get the sidecar, also in a List, unless
/// their label weir.dev/inject is "false". Other documents are printed as they are. Nothing is printed when one cannot have it.
#[derive(Clone, Debug, clap::Args)]
pub struct InjectArgs {
    /// File of YAML documents; `-` is standard input.
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// The sidecar.
    #[command(flatten)]
    pub sidecar: SidecarArgs,
}

/// Where a running Weir is asked, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct AdminArgs {
    /// Where the running Weir serves its admin page.
    #[arg(long, env = "WEIR_ADMIN_ADDRESS", default_value = ADMIN_ADDRESS, value_name = "ADDRESS:PORT")]
    pub admin_address: SocketAddr,
    /// File with the authorities by which that Weir is trusted: it is then asked by HTTPS, as in a cluster.
    #[arg(long, env = "WEIR_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The name that its certificate must have.
    #[arg(long, env = "WEIR_SERVER_NAME", value_name = "NAME", default_value = "weir.weir-system.svc")]
    pub server_name: String,
    /// File with a token that its API server knows.
    #[arg(long, env = "WEIR_TOKEN_FILE", value_name = "FILE", requires = "ca_file")]
    pub token_file: Option<PathBuf>,
}

/// `weir status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// The running Weir.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Show it again every second, until Ctrl-C; on a terminal in place, else one below the other.
    #[arg(long)]
    pub watch: bool,
}

/// `weir pause` and `weir resume`.
#[derive(Clone, Debug, clap::Args)]
pub struct PauseArgs {
    /// Only this Service; everything otherwise, Services that come later included.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service: Option<ServiceKey>,
    /// The running Weir, on this machine.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// How long to wait for the proxies.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = limiter::language::parse_duration)]
    pub timeout: Duration,
}

fn service(text: &str) -> Result<(String, u16), String> {
    match text.parse() {
        Ok(Upstream::Name(name, port)) => Ok((name, port)),
        _ => Err(format!(
            "expected the name of Weir's Service and its port, such as weir.weir-system.svc:15010, found {text:?}"
        )),
    }
}

fn resources(text: &str) -> Result<serde_json::Value, String> {
    let mend = "expected resources such as {requests: {cpu: 20m}, limits: {memory: 256Mi}}";
    let value = serde_saphyr::from_str(text).map_err(|_| format!("{mend}, found {text:?}"))?;
    inject::is_resources(&value).map_err(|why| format!("{mend}: {why}"))?;
    Ok(value)
}

fn place(text: &str) -> Result<Place, String> {
    let expected = || format!("expected NAMESPACE/NAME of a ConfigMap, such as shop/weir-ca, found {text:?}");
    let (namespace, name) = text.split_once('/').ok_or_else(expected)?;
    let namespace = self::namespace(namespace).map_err(|_| expected())?;
    if name.is_empty() || name.contains('/') {
        return Err(expected());
    }
    Ok(Place { namespace, name: name.to_owned() })
}

fn namespace(text: &str) -> Result<String, String> {
    if limiter::policy::is_dns_label(text) {
        return Ok(text.to_owned());
    }
    Err(format!("expected the name of a namespace (a-z, 0-9, `-`, at most 63 characters), found {text:?}"))
}

fn filter(text: &str) -> Result<String, String> {
    match text.parse::<EnvFilter>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; write a level (error, warn, info, debug, trace) or target=level,…")),
    }
}

fn collector(text: &str) -> Result<String, String> {
    let mend = "expected a URL such as http://collector:4317";
    let uri: http::Uri = text.parse().map_err(|error| format!("{mend}: {error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(text.to_owned()),
        (Some("https"), _) => {
            Err("TLS to the collector is not supported: give an http:// URL of a collector or agent nearby".to_owned())
        }
        _ => Err(mend.to_owned()),
    }
}

fn part(text: &str) -> Result<f64, String> {
    let part: f64 = text.parse().map_err(|_| format!("expected a number from 0 to 1, found {text:?}"))?;
    if (0.0..=1.0).contains(&part) { Ok(part) } else { Err(format!("expected a number from 0 to 1, found {text:?}")) }
}

fn factor(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix('x').unwrap_or(text).parse().ok();
    number
        .filter(|factor| (0.1..=100.0).contains(factor))
        .ok_or_else(|| format!("expected 0.1x to 100x, found {text:?}"))
}

fn percentage(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.trim().strip_suffix('%').and_then(|number| number.parse().ok());
    let part = number.map(|percent| percent / 100.0).filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| format!("expected a percentage such as 20%, found {text:?}"))
}

fn span(text: &str) -> Result<Duration, String> {
    let duration = limiter::language::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(1)..=Duration::from_secs(60);
    if allowed.contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("expected a duration from 1ms to 1m, found {text:?}"))
    }
}

/// An address with a port; one of IPv6 may come without brackets, as it stands in a pod's status.
fn address(text: &str) -> Result<SocketAddr, String> {
    let split = || {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some(SocketAddr::new(host.parse().ok()?, port.parse().ok()?))
    };
    split().ok_or_else(|| "expected ADDRESS:PORT, such as 10.0.0.7:15020".to_owned())
}

fn interval(text: &str) -> Result<Duration, String> {
    let duration = limiter::language::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(50)..=Duration::from_secs(3600);
    if allowed.contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("expected a duration from 50ms to 1h, found {text:?}"))
    }
}

fn server(text: &str) -> Result<String, String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("{error}; write http://HOST:PORT"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err("expected http://HOST:PORT or https://HOST".to_owned()),
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is no name of a header"))?;
    let value = value.trim().parse().map_err(|_| "the value has bytes that no header may have".to_owned())?;
    Ok((name, value))
}

fn assumed(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as cpu=91%")?;
    let (number, factor) = match value.strip_suffix('%') {
        Some(number) => (number, 0.01),
        None => (value, 1.0),
    };
    let number: f64 =
        number.trim().parse().map_err(|_| format!("expected a number or a percentage, found {value:?}"))?;
    if !number.is_finite() {
        return Err(format!("expected a finite number, found {value:?}"));
    }
    Ok((name.trim().to_owned(), number * factor))
}

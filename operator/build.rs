//! Generates the gRPC services over our own messages: xDS (`xds::wire`), so that a response carries each resource as
//! bytes that were encoded once, the metrics service (`metrics::stream`), so that what nobody wants stays undecoded, and
//! the access log service (`metrics::logs`), so that the rest of an entry is skipped. And
//! embeds the descriptors of Envoy's messages that we build, for printing them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// The files that define what `xds::resources` builds; what they import comes with them.
const ROOTS: [&str; 26] = [
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/common/matching/v3/extension_matcher.proto",
    "envoy/extensions/filters/http/composite/v3/composite.proto",
    "envoy/extensions/filters/http/header_to_metadata/v3/header_to_metadata.proto",
    "envoy/config/accesslog/v3/accesslog.proto",
    "envoy/extensions/access_loggers/filters/cel/v3/cel.proto",
    "envoy/extensions/access_loggers/grpc/v3/als.proto",
    "envoy/extensions/access_loggers/stats/v3/stats.proto",
    "envoy/extensions/clusters/dynamic_forward_proxy/v3/cluster.proto",
    "envoy/extensions/filters/http/dynamic_forward_proxy/v3/dynamic_forward_proxy.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/on_demand/v3/on_demand.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
    "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/set_filter_state/v3/set_filter_state.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/filters/http/set_metadata/v3/set_metadata.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/type/matcher/v3/http_inputs.proto",
    "envoy/service/runtime/v3/rtds.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    generate_services();
    embed_descriptors()
}

fn generate_services() {
    let method = |name: &str, route: &str, input: &str, output: &str| {
        tonic_build::manual::Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::xds::wire::{input}"))
            .output_type(format!("crate::xds::wire::{output}"))
            .codec_path("crate::xds::wire::Codec")
            .client_streaming()
            .server_streaming()
            .build()
    };
    let service = |name: &str, package: &str, comment: &str, of: &str| {
        let [sotw, delta] =
            ["Stream", "Delta"].map(|form| (format!("{}_{}", form.to_lowercase(), snake(of)), format!("{form}{of}")));
        tonic_build::manual::Service::builder()
            .name(name)
            .package(package)
            .comment(comment)
            .method(method(&sotw.0, &sotw.1, "DiscoveryRequest", "DiscoveryResponse"))
            .method(method(&delta.0, &delta.1, "DeltaDiscoveryRequest", "DeltaDiscoveryResponse"))
            .build()
    };
    let stream_metrics = tonic_build::manual::Method::builder()
        .name("stream_metrics")
        .route_name("StreamMetrics")
        .input_type("crate::metrics::stream::wire::StreamMetricsMessage")
        .output_type("crate::metrics::stream::wire::StreamMetricsResponse")
        .codec_path("tonic_prost::ProstCodec")
        .client_streaming()
        .build();
    let metrics = tonic_build::manual::Service::builder()
        .name("MetricsService")
        .package("envoy.service.metrics.v3")
        .comment("Envoy streams its statistics; nothing is ever answered.")
        .method(stream_metrics)
        .build();
    let stream_access_logs = tonic_build::manual::Method::builder()
        .name("stream_access_logs")
        .route_name("StreamAccessLogs")
        .input_type("crate::metrics::logs::wire::StreamAccessLogsMessage")
        .output_type("crate::metrics::logs::wire::StreamAccessLogsResponse")
        .codec_path("tonic_prost::ProstCodec")
        .client_streaming()
        .build();
    let logs = tonic_build::manual::Service::builder()
        .name("AccessLogService")
        .package("envoy.service.accesslog.v3")
        .comment("Envoy streams entries of its access log; nothing is ever answered.")
        .method(stream_access_logs)
        .build();
    let follow = tonic_build::manual::Method::builder()
        .name("follow")
        .route_name("Follow")
        .input_type("crate::replicas::wire::Up")
        .output_type("crate::replicas::wire::Down")
        .codec_path("crate::replicas::wire::Codec")
        .client_streaming()
        .server_streaming()
        .build();
    let replicas = tonic_build::manual::Service::builder()
        .name("Replicas")
        .package("weir.replicas.v1")
        .comment("A follower tells what its proxies say, and is told what is decided.")
        .method(follow)
        .build();
    tonic_build::manual::Builder::new().compile(&[
        service(
            "AggregatedDiscoveryService",
            "envoy.service.discovery.v3",
            "Every resource type over one ordered stream.",
            "AggregatedResources",
        ),
        service(
            "ExtensionConfigDiscoveryService",
            "envoy.service.extension.v3",
            "Extension configurations over a stream of their own.",
            "ExtensionConfigs",
        ),
        metrics,
        logs,
        replicas,
    ]);
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for (at, c) in name.char_indices() {
        if c.is_uppercase() && at > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// Takes the descriptor set that lies beside the sources of `envoy-types` (the crate does not export it).
fn embed_descriptors() -> Result<(), Box<dyn Error>> {
    let types = envoy_types_folder()?.join("src/generated/types.bin");
    let whole = fs::read(&types).map_err(|error| format!("{}: {error}", types.display()))?;
    let whole = FileDescriptorSet::decode(whole.as_slice())?;
    let by_name: BTreeMap<&str, &FileDescriptorProto> = whole.file.iter().map(|file| (file.name(), file)).collect();
    let mut wanted: Vec<&str> = ROOTS.to_vec();
    let mut needed = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        let file = by_name.get(name).ok_or_else(|| format!("envoy-types has no {name}"))?;
        if needed.insert(name) {
            wanted.extend(file.dependency.iter().map(String::as_str));
        }
    }
    let mut file: Vec<FileDescriptorProto> =
        whole.file.iter().filter(|file| needed.contains(file.name())).cloned().collect();
    for file in &mut file {
        file.source_code_info = None;
    }
    let out = Path::new(&env::var("OUT_DIR")?).join("envoy.bin");
    fs::write(out, FileDescriptorSet { file }.encode_to_vec())?;
    Ok(())
}

fn envoy_types_folder() -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new(env::var("CARGO")?)
        // Not `--offline`: what other platforms or tests alone need may not have been downloaded for this build.
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &env::var("TARGET")?])
        .current_dir(env::var("CARGO_MANIFEST_DIR")?)
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let package = packages.iter().find(|package| package["name"] == "envoy-types").ok_or("no envoy-types")?;
    let manifest = package["manifest_path"].as_str().ok_or("envoy-types has no manifest")?;
    Ok(Path::new(manifest).parent().ok_or("a manifest lies in a folder")?.to_owned())
}

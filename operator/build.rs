//! Generates the gRPC services over our own messages: delta ADS (`xds::wire`), so that a response carries each resource as
//! bytes that were encoded once, and the metrics service (`metrics::stream`), so that what nobody wants stays undecoded. And
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
const ROOTS: [&str; 12] = [
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/config/accesslog/v3/accesslog.proto",
    "envoy/extensions/access_loggers/stats/v3/stats.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
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
    let service = tonic_build::manual::Service::builder()
        .name("AggregatedDiscoveryService")
        .package("envoy.service.discovery.v3")
        .comment("Every resource type over one ordered stream.")
        .method(method(
            "stream_aggregated_resources",
            "StreamAggregatedResources",
            "DiscoveryRequest",
            "DiscoveryResponse",
        ))
        .method(method(
            "delta_aggregated_resources",
            "DeltaAggregatedResources",
            "DeltaDiscoveryRequest",
            "DeltaDiscoveryResponse",
        ))
        .build();
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
    tonic_build::manual::Builder::new().compile(&[service, metrics]);
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

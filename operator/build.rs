//! Generates the gRPC service for delta ADS over our own messages (`xds::wire`), so that a response carries each resource
//! as bytes that were encoded once.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let method = |name: &str, route: &str, input: &str, output: &str| {
        tonic_build::manual::Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::xds::wire::{input}"))
            .output_type(format!("crate::xds::wire::{output}"))
            .codec_path("tonic_prost::ProstCodec")
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
    tonic_build::manual::Builder::new().compile(&[service]);
}

//! The messages of xDS, delta and state of the world, as we need them: wire compatible with `envoy.service.discovery.v3`, but a response carries
//! each `Resource` as bytes that were encoded once for all streams. Fields that we do not use are skipped on reading.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::codec;

/// First sizes of a stream's buffers, in bytes; they grow as messages need. tonic would take 8 KiB for each, and hold them
/// as long as the stream is open and idle. Most requests are ACKs, most responses one route configuration.
const READ_BUFFER: usize = 512;
const WRITE_BUFFER: usize = 2048;
/// Bytes that are encoded before they are handed to the transport; tonic's own value.
const YIELD_AT: usize = 32 * 1024;

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct DeltaDiscoveryRequest {
    /// Who asks; only the first request of a stream carries it.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// What is asked for.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names to add.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names to drop.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// What the proxy has from an earlier stream, name to version; only in the first request of a type.
    #[prost(map = "string, string", tag = "5")]
    pub initial_resource_versions: HashMap<String, String>,
    /// The response that is answered, if any.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Why that response was refused, if it was.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct DeltaDiscoveryResponse {
    /// For people only.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// Encoded [`Resource`]s.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// Type of all resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Names this response.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names that are gone.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

/// `envoy.service.discovery.v3.Resource`.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    /// Version of this resource.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The resource itself.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Other names that a proxy may have asked for it by.
    #[prost(string, repeated, tag = "4")]
    pub aliases: Vec<String>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    /// Type of `value`.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// A gRPC code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// What Envoy says.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `envoy.config.core.v3.Node`.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// See [`crate::xds::NodeKey`].
    #[prost(string, tag = "1")]
    pub id: String,
    /// `node.cluster` of the bootstrap.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// `envoy` for Envoy.
    #[prost(string, tag = "6")]
    pub user_agent_name: String,
    /// Envoy's build.
    #[prost(message, optional, tag = "8")]
    pub user_agent_build_version: Option<BuildVersion>,
}

/// `envoy.config.core.v3.BuildVersion`.
#[derive(Clone, PartialEq, Message)]
pub struct BuildVersion {
    /// Release.
    #[prost(message, optional, tag = "1")]
    pub version: Option<SemanticVersion>,
}

/// `envoy.type.v3.SemanticVersion`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SemanticVersion {
    /// First number.
    #[prost(uint32, tag = "1")]
    pub major_number: u32,
    /// Second number.
    #[prost(uint32, tag = "2")]
    pub minor_number: u32,
    /// Third number.
    #[prost(uint32, tag = "3")]
    pub patch: u32,
}

/// `envoy.service.discovery.v3.DiscoveryRequest` (state of the world).
#[derive(Clone, PartialEq, Message)]
pub struct DiscoveryRequest {
    /// Version of the last response that was taken; empty when none was.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Who asks; only the first request of a stream carries it.
    #[prost(message, optional, tag = "2")]
    pub node: Option<Node>,
    /// Everything that is asked for.
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// What is asked for.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// The newest response that the proxy has seen on this stream, if any.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Why that response was refused, if it was.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<Status>,
}

/// `envoy.service.discovery.v3.DiscoveryResponse` (state of the world).
#[derive(Clone, PartialEq, Message)]
pub struct DiscoveryResponse {
    /// Version of all that the proxy has of this type once it has taken this.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Encoded [`Any`]s, see [`any_of`].
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// Type of all resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Names this response.
    #[prost(string, tag = "5")]
    pub nonce: String,
}

/// The encoded [`Any`] inside an encoded [`Resource`], sharing its bytes: what state of the world sends. Every client takes
/// it, while the wrapper needs one that knows it.
#[must_use]
pub fn any_of(resource: &Bytes) -> Bytes {
    /// [`Resource`], with the message not looked into.
    #[derive(Clone, PartialEq, Message)]
    struct Wrapper {
        #[prost(bytes = "bytes", tag = "2")]
        any: Bytes,
    }
    Wrapper::decode(resource.clone()).map(|wrapper| wrapper.any).unwrap_or_default()
}

/// What requests of both protocols have.
pub trait Asks {
    /// Who asks.
    fn node(&self) -> Option<&Node>;
    /// What is asked for.
    fn type_url(&self) -> &str;
    /// Names that are asked for.
    fn names(&self) -> &[String];
    /// The response that is answered, if any.
    fn nonce(&self) -> &str;
    /// Why that response was refused, if it was.
    fn error(&self) -> Option<&Status>;
}

/// What responses of both protocols have.
pub trait Says {
    /// Type of all resources.
    fn type_url(&self) -> &str;
    /// Names this response.
    fn nonce(&self) -> &str;
    /// Number of resources.
    fn count(&self) -> usize;
}

impl Asks for DeltaDiscoveryRequest {
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn names(&self) -> &[String] {
        &self.resource_names_subscribe
    }

    fn nonce(&self) -> &str {
        &self.response_nonce
    }

    fn error(&self) -> Option<&Status> {
        self.error_detail.as_ref()
    }
}

impl Asks for DiscoveryRequest {
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn names(&self) -> &[String] {
        &self.resource_names
    }

    fn nonce(&self) -> &str {
        &self.response_nonce
    }

    fn error(&self) -> Option<&Status> {
        self.error_detail.as_ref()
    }
}

impl Says for DeltaDiscoveryResponse {
    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn nonce(&self) -> &str {
        &self.nonce
    }

    fn count(&self) -> usize {
        self.resources.len()
    }
}

impl Says for DiscoveryResponse {
    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn nonce(&self) -> &str {
        &self.nonce
    }

    fn count(&self) -> usize {
        self.resources.len()
    }
}

impl Node {
    /// Name and release of the proxy, for people: `envoy 1.40.0`.
    #[must_use]
    pub fn user_agent(&self) -> String {
        let name: String = self.user_agent_name.chars().filter(|c| !c.is_control()).take(60).collect();
        match self.user_agent_build_version.as_ref().and_then(|build| build.version) {
            Some(v) => format!("{name} {}.{}.{}", v.major_number, v.minor_number, v.patch),
            None => name,
        }
    }
}

/// How the generated services write and read.
pub type Codec<T, U> = codec::Codec<Protobuf, T, U>;

/// Like [`tonic_prost::ProstCodec`], with small buffers.
#[derive(Clone, Copy, Debug)]
pub enum Protobuf {}

impl<T: Message + Default + Send + 'static> codec::Form<T> for Protobuf {
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<T>;

    fn encoder() -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(WRITE_BUFFER, YIELD_AT))
    }

    fn decoder() -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(READ_BUFFER, YIELD_AT))
    }
}

/// The generated services: `aggregated_discovery_service_server` and `…_client`, and those of extension configurations.
#[allow(missing_docs, clippy::all, unreachable_pub, reason = "generated by tonic-build")]
pub mod service {
    include!(concat!(env!("OUT_DIR"), "/envoy.service.discovery.v3.AggregatedDiscoveryService.rs"));
    include!(concat!(env!("OUT_DIR"), "/envoy.service.extension.v3.ExtensionConfigDiscoveryService.rs"));
}

//! Small ADS clients on the same messages, for tests, benches and looking at a running Weir.

use std::{collections::HashMap, net::SocketAddr};

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, metadata::MetadataMap, transport::Channel};

use crate::xds::{
    ResourceType,
    wire::{
        self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Node,
        service::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};

/// What can go wrong for a client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("no connection to {0}")]
    Connect(SocketAddr, #[source] tonic::transport::Error),
    /// The server ended the stream with this status.
    #[error("the stream ended: {0}")]
    Status(#[from] Box<Status>),
    /// The server ended the stream without a reason.
    #[error("the stream ended")]
    Ended,
}

/// One delta stream.
#[derive(Debug)]
pub struct DeltaClient {
    request_tx: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// Sent with the first request only, as Envoy does with `set_node_on_first_message_only`.
    node: Option<Node>,
}

impl DeltaClient {
    /// Opens a stream on a connection of its own. Nothing is sent before the first request.
    ///
    /// # Errors
    ///
    /// No connection, or the server refuses the call.
    pub async fn connect(address: SocketAddr, node: &str) -> Result<Self, Error> {
        Self::open(dial(address).await?, node).await
    }

    /// Opens a stream on a connection that others may share.
    ///
    /// # Errors
    ///
    /// The server refuses the call.
    pub async fn open(channel: Channel, node: &str) -> Result<Self, Error> {
        Self::open_with(channel, node, MetadataMap::new()).await
    }

    /// As [`Self::open`], with metadata such as a token.
    ///
    /// # Errors
    ///
    /// The server refuses the call.
    pub async fn open_with(channel: Channel, node: &str, metadata: MetadataMap) -> Result<Self, Error> {
        let (request_tx, request_rx) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(request_rx));
        *request.metadata_mut() = metadata;
        let responses = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(64 << 20)
            .delta_aggregated_resources(request)
            .await
            .map_err(Box::new)?
            .into_inner();
        Ok(Self { request_tx, responses, node: Some(named(node)) })
    }

    /// Sends any request.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn send(&mut self, mut request: DeltaDiscoveryRequest) -> Result<(), Error> {
        request.node = self.node.take();
        self.request_tx.send(request).await.map_err(|_| Error::Ended)
    }

    /// Subscribes to names; with none, and as the first request of clusters or listeners, to all.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn subscribe(&mut self, resource_type: ResourceType, names: &[&str]) -> Result<(), Error> {
        self.resume(resource_type, names, &[]).await
    }

    /// Subscribes after a reconnect: says which versions are still in hand.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn resume(
        &mut self,
        resource_type: ResourceType,
        names: &[&str],
        versions: &[(&str, &str)],
    ) -> Result<(), Error> {
        let versions = versions.iter().map(|(name, version)| ((*name).into(), (*version).into()));
        self.send(DeltaDiscoveryRequest {
            type_url: resource_type.type_url().into(),
            resource_names_subscribe: names.iter().map(|name| (*name).into()).collect(),
            initial_resource_versions: versions.collect::<HashMap<_, _>>(),
            ..DeltaDiscoveryRequest::default()
        })
        .await
    }

    /// Drops names.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn unsubscribe(&mut self, resource_type: ResourceType, names: &[&str]) -> Result<(), Error> {
        self.send(DeltaDiscoveryRequest {
            type_url: resource_type.type_url().into(),
            resource_names_unsubscribe: names.iter().map(|name| (*name).into()).collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await
    }

    /// Waits for the next response.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Error> {
        self.responses.message().await.map_err(Box::new)?.ok_or(Error::Ended)
    }

    /// Acknowledges a response.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn ack(&mut self, response: &DeltaDiscoveryResponse) -> Result<(), Error> {
        self.answer(response, None).await
    }

    /// Refuses a response.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn nack(&mut self, response: &DeltaDiscoveryResponse, message: &str) -> Result<(), Error> {
        self.answer(response, Some(wire::Status { code: 13, message: message.into() })).await
    }

    async fn answer(&mut self, response: &DeltaDiscoveryResponse, error: Option<wire::Status>) -> Result<(), Error> {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error,
            ..DeltaDiscoveryRequest::default()
        })
        .await
    }
}

/// One state-of-the-world stream.
#[derive(Debug)]
pub struct SotwClient {
    request_tx: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
    node: Option<Node>,
    /// The last request of each type: every one repeats what it had and what it asked for.
    last: [DiscoveryRequest; ResourceType::COUNT],
}

impl SotwClient {
    /// Opens a stream on a connection of its own. Nothing is sent before the first request.
    ///
    /// # Errors
    ///
    /// No connection, or the server refuses the call.
    pub async fn connect(address: SocketAddr, node: &str) -> Result<Self, Error> {
        let (request_tx, request_rx) = mpsc::channel(16);
        let responses = AggregatedDiscoveryServiceClient::new(dial(address).await?)
            .max_decoding_message_size(64 << 20)
            .stream_aggregated_resources(ReceiverStream::new(request_rx))
            .await
            .map_err(Box::new)?
            .into_inner();
        let last = ResourceType::ALL
            .map(|t| DiscoveryRequest { type_url: t.type_url().into(), ..DiscoveryRequest::default() });
        Ok(Self { request_tx, responses, node: Some(named(node)), last })
    }

    /// Asks for these names from now on; for none, and as the first request of clusters or listeners, for all.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn subscribe(&mut self, resource_type: ResourceType, names: &[&str]) -> Result<(), Error> {
        let last = &mut self.last[resource_type.index()];
        last.resource_names = names.iter().map(|name| (*name).into()).collect();
        self.send(resource_type, None).await
    }

    /// Subscribes after a reconnect: says which version is still in hand.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn resume(&mut self, resource_type: ResourceType, names: &[&str], version: &str) -> Result<(), Error> {
        self.last[resource_type.index()].version_info = version.into();
        self.subscribe(resource_type, names).await
    }

    /// Waits for the next response of a type that is served.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn next(&mut self) -> Result<(ResourceType, DiscoveryResponse), Error> {
        loop {
            let response = self.responses.message().await.map_err(Box::new)?.ok_or(Error::Ended)?;
            if let Some(resource_type) = ResourceType::from_type_url(&response.type_url) {
                self.last[resource_type.index()].response_nonce.clone_from(&response.nonce);
                return Ok((resource_type, response));
            }
        }
    }

    /// Acknowledges a response.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn ack(&mut self, resource_type: ResourceType, response: &DiscoveryResponse) -> Result<(), Error> {
        self.last[resource_type.index()].version_info.clone_from(&response.version_info);
        self.send(resource_type, None).await
    }

    /// Refuses the newest response of a type.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub async fn nack(&mut self, resource_type: ResourceType, message: &str) -> Result<(), Error> {
        self.send(resource_type, Some(wire::Status { code: 13, message: message.into() })).await
    }

    async fn send(&mut self, resource_type: ResourceType, error: Option<wire::Status>) -> Result<(), Error> {
        let request = DiscoveryRequest {
            node: self.node.take(),
            error_detail: error,
            ..self.last[resource_type.index()].clone()
        };
        self.request_tx.send(request).await.map_err(|_| Error::Ended)
    }
}

async fn dial(address: SocketAddr) -> Result<Channel, Error> {
    let endpoint = Channel::builder(
        http::Uri::builder()
            .scheme("http")
            .authority(address.to_string())
            .path_and_query("/")
            .build()
            .expect("a socket address is an authority"),
    );
    endpoint.tcp_nodelay(true).connect().await.map_err(|error| Error::Connect(address, error))
}

fn named(node: &str) -> Node {
    Node { id: node.into(), user_agent_name: "weir".into(), ..Node::default() }
}

/// Name and version of each resource of a response, in its order; bytes that are not a resource are left out.
#[must_use]
pub fn versions(response: &DeltaDiscoveryResponse) -> Vec<(String, String)> {
    let resources = response.resources.iter().filter_map(|bytes| wire::Resource::decode(bytes.clone()).ok());
    resources.map(|resource| (resource.name, resource.version)).collect()
}

//! gRPC over TLS by hand: what a client may present that Envoy never would.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    codegen::Service,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use crate::authority::Signed;

/// Connects to a server of this name that one of the authorities has signed, with a client certificate or without.
///
/// # Errors
///
/// No connection, or no trust.
///
/// # Panics
///
/// When something of it is no PEM.
pub async fn dial(
    address: SocketAddr,
    name: &str,
    authorities: &str,
    own: Option<&Signed>,
) -> Result<Channel, tonic::transport::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authorities.as_bytes()).flatten());
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().expect("the provider has them");
    let config = config.with_root_certificates(roots);
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(Signed { certificate, key }) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).flatten().collect();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            config.with_client_auth_cert(chain, key).expect("a certificate with its key")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connector = Connector { address, name, tls: TlsConnector::from(Arc::new(config)) };
    Endpoint::from_static("http://weir").connect_with_connector(connector).await
}

/// A token as metadata.
///
/// # Panics
///
/// When it cannot stand in a header.
#[must_use]
pub fn bearer(token: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", format!("Bearer {token}").parse().expect("text for a header"));
    metadata
}

#[derive(Clone)]
struct Connector {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Self { address, name, tls } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            // As Envoy: what is said after the first words would wait 40 ms for an acknowledgement while the token is judged.
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(tls.connect(name, stream).await?))
        })
    }
}

//! Replicas among themselves: a replica is whoever has a certificate of the same authorities for the same name as ours.
//!
//! Both sides show it, both sides look. What Weir makes itself only replicas have; an authority of somebody else's may sign for others,
//! too, so the name counts as well.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::{ResolvesClientCert, danger::HandshakeSignatureValid},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::warn;

use super::{
    Held,
    certificate::{Certificate, names},
    tls::{Inside, Tls},
};

/// Why replicas cannot speak.
#[derive(Debug, thiserror::Error)]
pub enum Unlinked {
    /// Not yet, or not any more.
    #[error("there is no certificate yet")]
    Absent,
    /// Nobody can be believed.
    #[error("there are no authorities beside the certificate: put ca.crt into the folder of --certificate-dir")]
    Authorities,
    /// It cannot be told who is meant.
    #[error("the certificate has no DNS name: make it for the name by which proxies reach Weir")]
    Name,
    /// The library does not want to.
    #[error("TLS between replicas: {0}")]
    Tls(#[from] Error),
    /// What is trusted cannot be.
    #[error("an authority cannot be trusted: {0}")]
    Authority(String),
    /// Nobody answers, or it is no replica.
    #[error("{0}")]
    Connection(#[from] std::io::Error),
}

/// Speaks to other replicas and lets them in; cheap to clone.
#[derive(Clone, Debug)]
pub struct Link(Held);

impl Link {
    /// With the certificate that is held.
    #[must_use]
    pub const fn new(held: Held) -> Self {
        Self(held)
    }

    /// Returns once there is a certificate: before, nobody can be reached.
    pub async fn ready(&self) {
        // The sender is our own, so this cannot fail.
        let _ = self.0.changes().wait_for(Option::is_some).await;
    }

    /// How others come in; kept up to date by [`Self::follow`].
    ///
    /// # Errors
    ///
    /// The library does not want to.
    pub fn tls(&self) -> Result<Tls, super::tls::Error> {
        // Until there is a certificate every handshake fails.
        let tls = Tls::new(self.0.clone(), Inside::Grpc, None)?;
        self.refresh(&tls);
        Ok(tls)
    }

    /// Lets in by the newest authorities, for ever.
    pub async fn follow(&self, tls: &Tls) {
        let mut changes = self.0.changes();
        loop {
            self.refresh(tls);
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn refresh(&self, tls: &Tls) {
        match self.server() {
            Ok(config) => tls.replace(config),
            Err(Unlinked::Absent) => {}
            Err(error) => warn!(%error, "other replicas are not let in"),
        }
    }

    fn server(&self) -> Result<Arc<ServerConfig>, Unlinked> {
        let certificate = self.0.get().ok_or(Unlinked::Absent)?;
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots(&certificate)?);
        let inner = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
        let inner = inner.map_err(|error| Unlinked::Authority(error.to_string()))?;
        let verifier = Replicas { inner, names: own_names(&certificate)? };
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_client_cert_verifier(Arc::new(verifier));
        let mut config = builder.with_cert_resolver(Arc::new(self.0.clone()));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Speaks to the replica that listens at `address`, `host:port`.
    ///
    /// # Errors
    ///
    /// Nobody is there, or it is no replica of ours.
    pub async fn connect(&self, address: &str) -> Result<TlsStream<TcpStream>, Unlinked> {
        let certificate = self.0.get().ok_or(Unlinked::Absent)?;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(roots(&certificate)?);
        let mut config = builder.with_client_cert_resolver(Arc::new(Shows(certificate.key.clone())));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Which address it has says nothing; the name does.
        let name = own_names(&certificate)?.into_iter().next().ok_or(Unlinked::Name)?;
        let name = ServerName::try_from(name).map_err(|_| Unlinked::Name)?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
    }
}

fn roots(certificate: &Certificate) -> Result<RootCertStore, Unlinked> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(certificate.pem.authorities.as_bytes()) {
        let authority = authority.map_err(|error| Unlinked::Authority(error.to_string()))?;
        roots.add(authority)?;
    }
    if roots.is_empty() { Err(Unlinked::Authorities) } else { Ok(roots) }
}

fn own_names(certificate: &Certificate) -> Result<Vec<String>, Unlinked> {
    let names = certificate.key.cert.first().map(|own| names(own)).unwrap_or_default();
    if names.is_empty() { Err(Unlinked::Name) } else { Ok(names) }
}

/// Shows one certificate to whoever asks.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Lets in who has a certificate of our authorities and for a name of ours.
#[derive(Debug)]
struct Replicas {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl ClientCertVerifier for Replicas {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(own, chain, now)?;
        if names(own).iter().any(|name| self.names.contains(name)) {
            Ok(verified)
        } else {
            Err(Error::General(format!("the client certificate is not of a replica: it is not for {:?}", self.names)))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

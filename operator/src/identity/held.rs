//! The certificate that is served now: written by its source alone, read by every handshake.

use std::sync::Arc;

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::watch;
use tracing::info;

use super::{Meters, certificate::Certificate};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Held {
    certificate: Arc<watch::Sender<Option<Certificate>>>,
    meters: Meters,
}

impl Held {
    /// Holds none yet: handshakes fail until there is one.
    #[must_use]
    pub fn new(meters: Meters) -> Self {
        Self { certificate: Arc::new(watch::Sender::new(None)), meters }
    }

    pub(super) fn get(&self) -> Option<Certificate> {
        self.certificate.borrow().clone()
    }

    pub(super) fn set(&self, certificate: Certificate) {
        let is_new = |held: &Certificate| held.pem.certificate != certificate.pem.certificate;
        if self.certificate.borrow().as_ref().is_none_or(is_new) {
            info!(until = %certificate.until, "Weir has a certificate");
        }
        self.meters.expires(certificate.until);
        self.certificate.send_replace(Some(certificate));
    }

    /// Woken whenever there is another certificate, or others are to be trusted.
    pub(super) fn changes(&self) -> watch::Receiver<Option<Certificate>> {
        self.certificate.subscribe()
    }
}

impl ResolvesServerCert for Held {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get().map(|certificate| certificate.key)
    }
}

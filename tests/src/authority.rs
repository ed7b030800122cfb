//! Authorities and what they sign, for tests of who trusts whom.

use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// Signs certificates.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, as PEM.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// One of this name.
    ///
    /// # Panics
    ///
    /// When the system has no randomness.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut parameters = valid(CertificateParams::default(), -200, 200);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("the system has randomness");
        let pem = parameters.self_signed(&key).expect("a fresh key signs").pem();
        Self { pem, issuer: Issuer::new(parameters, key) }
    }

    /// What makes somebody trust it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server's certificate for a name, good from so many days ago to so many from now.
    ///
    /// # Panics
    ///
    /// When that is no name.
    #[must_use]
    pub fn server(&self, name: &str, from: i64, until: i64) -> Signed {
        self.sign(valid(CertificateParams::new([name.to_owned()]).expect("a name"), from, until))
    }

    /// A client's certificate with a common name and a URI.
    ///
    /// # Panics
    ///
    /// When that is no URI.
    #[must_use]
    pub fn client(&self, common_name: &str, uri: Option<&str>) -> Signed {
        let mut parameters = valid(CertificateParams::default(), -1, 30);
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        parameters.subject_alt_names =
            uri.map(|uri| SanType::URI(uri.try_into().expect("a URI"))).into_iter().collect();
        self.sign(parameters)
    }

    fn sign(&self, parameters: CertificateParams) -> Signed {
        let key = KeyPair::generate().expect("the system has randomness");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a fresh key signs").pem();
        Signed { certificate, key: key.serialize_pem() }
    }
}

fn valid(mut parameters: CertificateParams, from: i64, until: i64) -> CertificateParams {
    let moment =
        |days: i64| std::time::SystemTime::from(Timestamp::now() + SignedDuration::from_hours(24 * days)).into();
    (parameters.not_before, parameters.not_after) = (moment(from), moment(until));
    parameters
}

//! Weir's own certificate: made, read, and judged whether it is time for the next.
//!
//! Values in, values out: `now` is an argument. An authority is made for each certificate; it signs that one and its key is
//! forgotten, so that nobody can sign another. When half of a certificate's time is gone the next one is made and its authority
//! published; when two thirds are gone it takes its turn. So whoever is told late, such as a pod that gets a `ConfigMap` after a
//! minute, or a replica that turns a little later, has fifteen days, and nobody ever meets a certificate that it cannot trust.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How long a certificate that Weir makes is good.
const VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 90);
/// Clocks of other machines may be behind by this.
const BEHIND: SignedDuration = SignedDuration::from_hours(1);

/// A certificate with its key as they are kept, PEM all of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Pem {
    /// The certificate, then those that lead to its authority.
    pub(super) certificate: String,
    /// Its private key.
    pub(super) key: String,
    /// The authorities that are to be trusted, the newest first. Empty where somebody else sees to that.
    pub(super) authorities: String,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pem").field("authorities", &self.authorities).finish_non_exhaustive()
    }
}

/// What can be served.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    /// As it is kept.
    pub(super) pem: Pem,
    /// For the handshakes.
    pub(super) key: std::sync::Arc<CertifiedKey>,
    /// Good from then on.
    pub(super) from: Timestamp,
    /// Good until then.
    pub(super) until: Timestamp,
}

/// Why nothing can be served with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// There is none.
    #[error("there is no certificate")]
    Absent,
    /// It cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The key cannot be read, or is of another certificate.
    #[error("the key cannot be used: {0}")]
    Key(String),
    /// Its authority did not sign it.
    #[error("no authority beside it has signed the certificate")]
    Authority,
    /// It is for others.
    #[error("the certificate is not for {0}")]
    Name(String),
}

/// Makes an authority and a certificate for `name`, to be trusted together with the newest of the authorities `before`.
///
/// # Errors
/// When the name cannot stand in a certificate.
pub(super) fn make(name: &str, before: &str, now: Timestamp) -> Result<Pem, rcgen::Error> {
    let valid = |mut parameters: CertificateParams| {
        let moment = |at: Timestamp| std::time::SystemTime::from(at).into();
        parameters.not_before = moment(now - BEHIND);
        parameters.not_after = moment(now + VALIDITY);
        parameters
    };
    let mut authority = valid(CertificateParams::default());
    // Two authorities of one name are told apart by their serial numbers alone, which not everybody looks at.
    authority.distinguished_name.push(DnType::CommonName, format!("weir {}", now.as_second()));
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate()?;
    let authorities = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let mut certificate = valid(CertificateParams::new(vec![name.to_owned()])?);
    certificate.distinguished_name.push(DnType::CommonName, "weir");
    certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    certificate.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = certificate.signed_by(&key, &issuer)?.pem();
    Ok(Pem { certificate, key: key.serialize_pem(), authorities: authorities + &first(before) })
}

/// The first certificate of a PEM text, as PEM; empty when there is none.
fn first(text: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    text.find(END).map(|at| format!("{}\n", text[..at + END.len()].trim_start())).unwrap_or_default()
}

/// Reads what is kept.
///
/// # Errors
/// When nothing can be served with it.
pub(super) fn read(pem: Pem) -> Result<Certificate, Unusable> {
    if pem.certificate.trim().is_empty() {
        return Err(Unusable::Absent);
    }
    let unreadable = |error: &dyn std::fmt::Display| Unusable::Certificate(error.to_string());
    let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| unreadable(&error))?;
    let own = chain.first().cloned().ok_or_else(|| unreadable(&"it is no PEM"))?;
    let (_, parsed) = X509Certificate::from_der(&own).map_err(|error| unreadable(&error))?;
    let moment = |seconds| Timestamp::from_second(seconds).map_err(|error| unreadable(&error));
    let from = moment(parsed.validity().not_before.timestamp())?;
    let until = moment(parsed.validity().not_after.timestamp())?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).map_err(|error| Unusable::Key(error.to_string()))?;
    let key = CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map_err(|error| Unusable::Key(error.to_string()))?;
    Ok(Certificate { pem, key: key.into(), from, until })
}

/// The DNS names that a certificate is for; none when it cannot be read.
#[must_use]
pub(super) fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.collect()
}

impl Certificate {
    /// Whether it is for `name` and signed by one of its authorities, so that whoever trusts them will believe it.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn check(&self, name: &str) -> Result<(), Unusable> {
        let own = self.key.cert.first().ok_or(Unusable::Absent)?;
        if !names(own).iter().any(|other| other == name) {
            return Err(Unusable::Name(name.to_owned()));
        }
        let (_, own) = X509Certificate::from_der(own).map_err(|error| Unusable::Certificate(error.to_string()))?;
        let signed = |authority: CertificateDer<'_>| {
            let authority = X509Certificate::from_der(&authority).ok();
            authority.is_some_and(|(_, authority)| own.verify_signature(Some(authority.public_key())).is_ok())
        };
        let mut authorities = CertificateDer::pem_slice_iter(self.pem.authorities.as_bytes()).flatten();
        if authorities.any(signed) { Ok(()) } else { Err(Unusable::Authority) }
    }

    /// Whether it is time for the next one to be served: a third of the time is left, or the clock stands before the beginning.
    #[must_use]
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        now < self.from || now >= self.due()
    }

    /// When the next one is to be served.
    #[must_use]
    pub(super) fn due(&self) -> Timestamp {
        self.until - self.until.duration_since(self.from) / 3
    }

    /// When the next one is to be made and its authority published.
    #[must_use]
    pub(super) fn prepare(&self) -> Timestamp {
        self.until - self.until.duration_since(self.from) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "weir.weir-system.svc";

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn authorities(pem: &Pem) -> usize {
        pem.authorities.matches("-----BEGIN CERTIFICATE-----").count()
    }

    #[test]
    fn one_that_is_made_is_good_for_its_name_and_due_after_two_thirds() {
        let made = read(make(NAME, "", now()).unwrap()).unwrap();
        assert_eq!(made.check(NAME), Ok(()));
        assert_eq!(made.check("weir.other.svc"), Err(Unusable::Name("weir.other.svc".to_owned())));
        let days = |days: i64| now() + SignedDuration::from_hours(24 * days);
        assert!(!made.is_due(now()) && !made.is_due(days(59)));
        assert!(made.is_due(days(61)) && made.is_due(days(91)));
        assert!(made.prepare() > days(44) && made.prepare() < days(46), "fifteen days before");
        assert!(made.is_due(days(-1)), "the clock was set back");
    }

    #[test]
    fn the_authority_before_is_trusted_once_more() {
        let first = make(NAME, "", now()).unwrap();
        let second = make(NAME, &first.authorities, now()).unwrap();
        let third = make(NAME, &second.authorities, now()).unwrap();
        assert_eq!([&first, &second, &third].map(authorities), [1, 2, 2]);
        assert!(second.authorities.ends_with(&first.authorities));
        assert!(!third.authorities.contains(&first.authorities));
        assert_eq!(read(third).unwrap().check(NAME), Ok(()));
        // While the second waits for its turn the first is served, and trusted with either authority.
        let waiting = Pem { authorities: second.authorities, ..first };
        assert_eq!(read(waiting).unwrap().check(NAME), Ok(()));
    }

    #[test]
    fn what_is_damaged_is_told() {
        let (good, other) = (make(NAME, "", now()).unwrap(), make(NAME, "", now()).unwrap());
        assert_eq!(read(Pem::default()).unwrap_err(), Unusable::Absent);
        let garbage = Pem { certificate: "garbage".to_owned(), ..good.clone() };
        assert_eq!(read(garbage).unwrap_err(), Unusable::Certificate("it is no PEM".to_owned()));
        let half = Pem { certificate: good.certificate.replace('M', "N"), ..good.clone() };
        assert!(matches!(read(half).unwrap_err(), Unusable::Certificate(_)));
        let key = Pem { key: other.key.clone(), ..good.clone() };
        assert!(matches!(read(key).unwrap_err(), Unusable::Key(_)));
        let mixed = Pem { authorities: other.authorities, ..good };
        assert_eq!(read(mixed).unwrap().check(NAME), Err(Unusable::Authority));
    }
}

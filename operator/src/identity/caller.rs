//! Who is at the other end of a connection, as far as that was proven, and what it may claim. Values in, values out.

use jiff::Timestamp;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever reaches the port, which is open to this machine alone.
    Anybody,
    /// A pod.
    Pod(Pod),
}

/// A pod that has proven to be it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Until when the proof is good.
    pub until: Timestamp,
}

/// Why a caller gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing was presented.
    #[error(
        "no credential: send a token of the pod's service account for the audience \"weir\" as `authorization: Bearer`"
    )]
    Absent,
    /// What was presented proves nothing.
    #[error("the credential is not accepted: {0}")]
    Invalid(String),
    /// It cannot be told for now.
    #[error("the credential cannot be checked for now: {0}")]
    Unknown(String),
    /// It is another one.
    #[error("the credential is of pod {proven:?}, not of {claimed:?}")]
    Another {
        /// Whose the credential is.
        proven: String,
        /// Who the caller says it is.
        claimed: String,
    },
}

impl Refusal {
    /// A fixed word, for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Invalid(_) => "invalid",
            Self::Unknown(_) => "unknown",
            Self::Another { .. } => "another",
        }
    }
}

impl Caller {
    /// Whether it may speak and hear for this pod.
    ///
    /// # Errors
    ///
    /// It is another one.
    pub fn may_be(&self, namespace: &str, pod: &str) -> Result<(), Refusal> {
        match self {
            Self::Anybody => Ok(()),
            Self::Pod(proven) if proven.namespace == namespace && proven.name == pod => Ok(()),
            Self::Pod(proven) => Err(Refusal::Another {
                proven: format!("{}/{}", proven.namespace, proven.name),
                claimed: format!("{namespace}/{pod}"),
            }),
        }
    }
}

/// The pod that a client certificate, whose chain was verified, is of.
///
/// # Errors
///
/// It names none.
pub(super) fn of_certificate(der: &[u8]) -> Result<Pod, Refusal> {
    let unreadable = |error: &dyn std::fmt::Display| Refusal::Invalid(format!("the client certificate: {error}"));
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| unreadable(&error))?;
    let until = Timestamp::from_second(certificate.validity().not_after.timestamp()).map_err(|e| unreadable(&e))?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let mut found: Vec<(String, String)> = uris.filter_map(of_spiffe).collect();
    if found.is_empty() {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        found.extend(common.filter_map(|name| pair(name.split_once('/')?)));
    }
    match <[_; 1]>::try_from(found) {
        Ok([(namespace, name)]) => Ok(Pod { namespace, name, until }),
        Err(_) => Err(unreadable(
            &"it must name one pod: a URI spiffe://<trust domain>/ns/<namespace>/pod/<pod> among its names, or the \
              common name <namespace>/<pod>",
        )),
    }
}

fn of_spiffe(uri: &str) -> Option<(String, String)> {
    let (_, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    pair(path.strip_prefix("ns/")?.split_once("/pod/")?)
}

fn pair((namespace, pod): (&str, &str)) -> Option<(String, String)> {
    let is_name = |name: &str| !name.is_empty() && name.len() <= 253 && !name.contains('/');
    (is_name(namespace) && is_name(pod)).then(|| (namespace.to_owned(), pod.to_owned()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn pod() -> Caller {
        Caller::Pod(Pod { namespace: "shop".into(), name: "cart-0".into(), until: Timestamp::MAX })
    }

    fn certificate(common: &str, uris: &[&str]) -> Vec<u8> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, common);
        parameters.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_pod_is_itself_and_nobody_else() {
        assert_eq!(pod().may_be("shop", "cart-0"), Ok(()));
        for (namespace, name) in [("shop", "cart-1"), ("billing", "cart-0"), ("shop", "cart-00"), ("", "")] {
            let refused = pod().may_be(namespace, name).unwrap_err();
            assert_eq!(refused.reason(), "another");
            assert!(refused.to_string().contains("shop/cart-0"), "{refused}");
        }
        assert_eq!(Caller::Anybody.may_be("shop", "cart-1"), Ok(()));
    }

    #[test]
    fn a_certificate_names_a_pod_by_spiffe_or_by_its_common_name() {
        let of =
            |common: &str, uris: &[&str]| of_certificate(&certificate(common, uris)).map(|p| (p.namespace, p.name));
        let cart = Ok(("shop".to_owned(), "cart-0".to_owned()));
        assert_eq!(of("x", &["spiffe://example.org/ns/shop/pod/cart-0"]), cart);
        assert_eq!(of("shop/cart-0", &[]), cart);
        assert_eq!(of("shop/other", &["spiffe://example.org/ns/shop/pod/cart-0"]), cart, "the URI is more exact");
        for (common, uris) in [
            ("cart-0", &[][..]),
            ("shop/", &[]),
            ("shop/cart-0/x", &[]),
            ("x", &["spiffe://example.org/ns/shop/sa/cart"]),
            ("x", &["https://example.org/ns/shop/pod/cart-0"]),
            ("x", &["spiffe://example.org/ns/shop/pod/a", "spiffe://example.org/ns/shop/pod/b"]),
        ] {
            let refused = of(common, uris).unwrap_err().to_string();
            assert!(
                refused.contains("spiffe://<trust domain>/ns/<namespace>/pod/<pod>"),
                "{common} {uris:?}: {refused}"
            );
        }
        assert_eq!(of_certificate(b"garbage").unwrap_err().reason(), "invalid");
    }
}

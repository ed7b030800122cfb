//! The keys and certificates of a cluster. Its authority signs the API server, the administrator and the aggregation proxy.

use std::{net::IpAddr, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::network::Place;

/// Writes `ca.crt`, and a `.crt` and `.key` each for `api-server`, `admin` and `front-proxy`, and `service-account.key` and
/// `.pub`.
pub(super) fn write(folder: &Path, place: &Place) {
    let file =
        |name: &str, text: String| std::fs::write(folder.join(name), text).expect("a fresh folder can be written");

    let service_accounts = key();
    file("service-account.key", service_accounts.serialize_pem());
    file("service-account.pub", service_accounts.public_key_pem());

    let mut authority = named("weir-test", None);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_key = key();
    file("ca.crt", authority.self_signed(&authority_key).expect(SIGNS).pem());
    let authority = Issuer::new(authority, authority_key);

    let mut api_server = named("kube-apiserver", None);
    let addresses: [IpAddr; 3] = [[127, 0, 0, 1].into(), place.api_server.ip(), place.service_ip];
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
    api_server.subject_alt_names =
        CertificateParams::new(addresses.iter().map(IpAddr::to_string).chain(names).collect::<Vec<_>>())
            .expect("addresses and names")
            .subject_alt_names;

    for (name, mut certificate, usage) in [
        ("api-server", api_server, ExtendedKeyUsagePurpose::ServerAuth),
        ("admin", named("admin", Some("system:masters")), ExtendedKeyUsagePurpose::ClientAuth),
        ("front-proxy", named("front-proxy", None), ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = key();
        certificate.extended_key_usages = vec![usage];
        file(&format!("{name}.crt"), certificate.signed_by(&key, &authority).expect(SIGNS).pem());
        file(&format!("{name}.key"), key.serialize_pem());
    }
}

const SIGNS: &str = "a fresh key signs";

fn key() -> KeyPair {
    KeyPair::generate().expect("the system has randomness")
}

/// Kubernetes reads the user from the common name and a group from the organization.
fn named(user: &str, group: Option<&str>) -> CertificateParams {
    let mut certificate = CertificateParams::default();
    certificate.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        certificate.distinguished_name.push(DnType::OrganizationName, group);
    }
    certificate
}

//! A server outside the mesh is believed by the names and the authorities of a BackendTLSPolicy, and by nothing else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weir_core::backend_tls::{SubjectName, TlsRoots, TlsTerms};
use weir_tls::{backend_config, backend_server_name, ca_certificates, explain_backend};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

/// A server's settings, with these names in its certificate: `dns:…` or `uri:…`.
fn server(authority: &Authority, names: &[&str], versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let name = |name: &&str| match name.split_once(':').unwrap() {
        ("dns", name) => SanType::DnsName(name.try_into().unwrap()),
        (_, uri) => SanType::URI(uri.try_into().unwrap()),
    };
    params.subject_alt_names = names.iter().map(name).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&key, &authority.issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into());
    Arc::new(config.unwrap())
}

async fn handshake(server: &Arc<ServerConfig>, terms: &TlsTerms) -> Result<Option<String>, String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accepting = tokio::spawn(TlsAcceptor::from(Arc::clone(server)).accept(far));
    let config = backend_config(terms, &[]).unwrap();
    let connected = TlsConnector::from(config).connect(backend_server_name(terms).unwrap(), near).await;
    // Kept until the server has said all that belongs to the handshake.
    let _client = connected.map_err(|error| explain_backend(&error, terms))?;
    let accepted = accepting.await.unwrap().map_err(|error| error.to_string())?;
    Ok(accepted.get_ref().1.server_name().map(str::to_owned))
}

fn terms(authority: &Authority, names: &[&str]) -> TlsTerms {
    let name = |name: &&str| match name.split_once(':').unwrap() {
        ("dns", name) => SubjectName::Dns(name.into()),
        (_, uri) => SubjectName::Uri(uri.into()),
    };
    TlsTerms {
        server_name: "asked.example".into(),
        names: names.iter().map(name).collect(),
        roots: TlsRoots::Certificates(ca_certificates(&authority.pem).unwrap()),
    }
}

#[tokio::test]
async fn a_certificate_must_have_one_of_the_names() {
    let authority = authority();
    for (expected, shown, good) in [
        (&["dns:a.example"][..], &["dns:a.example"][..], true),
        (&["dns:a.example"], &["dns:A.Example"], true),
        (&["dns:a.example"], &["dns:b.example", "dns:a.example"], true),
        (&["dns:a.b.example"], &["dns:*.b.example"], true),
        (&["dns:a.a.b.example"], &["dns:*.b.example"], false),
        (&["dns:a.example"], &["dns:asked.example"], false),
        (&["dns:a.example"], &["uri:dns://a.example"], false),
        (&["dns:*.b.example"], &["dns:*.b.example"], true),
        (&["dns:*.b.example"], &["dns:a.b.example"], false),
        (&["uri:spiffe://a/b"], &["dns:a", "uri:spiffe://a/b"], true),
        (&["uri:spiffe://a/b"], &["uri:spiffe://a/b/"], false),
        (&["dns:a.example", "uri:spiffe://a/b"], &["uri:spiffe://a/b"], true),
    ] {
        let result = handshake(&server(&authority, shown, rustls::ALL_VERSIONS), &terms(&authority, expected)).await;
        assert_eq!(result.is_ok(), good, "{expected:?} of {shown:?}: {result:?}");
        match result {
            Ok(asked) => assert_eq!(asked.as_deref(), Some("asked.example")),
            Err(why) => assert!(why.contains("expected"), "{why}"),
        }
    }
}

#[tokio::test]
async fn only_the_policys_authorities_are_believed_in_either_version_of_tls() {
    let (ours, other) = (authority(), authority());
    for version in rustls::ALL_VERSIONS {
        let config = server(&ours, &["dns:a.example"], &[version]);
        handshake(&config, &terms(&ours, &["dns:a.example"])).await.unwrap();
        let mut both = terms(&other, &["dns:a.example"]);
        let why = handshake(&config, &both).await.unwrap_err();
        assert!(why.contains("none of the policy's CA certificates"), "{why}");
        let pem = format!("{}\n# and\n{}", other.pem, ours.pem);
        both.roots = TlsRoots::Certificates(ca_certificates(&pem).unwrap());
        handshake(&config, &both).await.unwrap();
        let public = TlsTerms { roots: TlsRoots::System, ..terms(&ours, &["dns:a.example"]) };
        let why = handshake(&config, &public).await.unwrap_err();
        assert!(why.contains("none of the public web's authorities"), "{why}");
    }
}

#[test]
fn a_bundle_is_read_whole_or_not_at_all() {
    let pem = authority().pem;
    assert_eq!(ca_certificates(&format!("{pem}{pem}")).unwrap().len(), 2);
    let cut: String = pem.chars().take(200).collect();
    for (text, expected) in [
        (String::new(), "there is no root certificate"),
        ("no certificate".into(), "there is no root certificate"),
        (format!("{pem}{cut}"), "the text ends in the middle of a CERTIFICATE block"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(), "root certificate 1 cannot be used"),
    ] {
        let error = ca_certificates(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

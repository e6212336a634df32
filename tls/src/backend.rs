//! TLS towards servers outside the mesh, as a BackendTLSPolicy says: by names, and by authorities that the policy names.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use weir_core::backend_tls::{SubjectName, TlsRoots, TlsTerms};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::TlsError;
use crate::refusal::{Refusal, refusal};
use crate::sessions::Sessions;

/// Names of a certificate that a message lists.
const MAX_LISTED: usize = 8;

/// The side that opens connections to a server outside the mesh, in TLS 1.2 or 1.3, and shows no certificate.
///
/// Sessions belong to this configuration alone: what was verified by one policy never counts for another.
///
/// # Errors
///
/// [`TlsError::Root`] or [`TlsError::NoRoots`] for roots that are none, [`TlsError::Setup`] when rustls refuses.
pub fn backend_config(terms: &TlsTerms, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match &terms.roots {
        TlsRoots::System => system_roots(),
        TlsRoots::Certificates(ders) => Arc::new(root_store(ders.iter().map(|der| CertificateDer::from(&**der)))?),
    };
    let verifier = VerifyBackend { roots, names: terms.names.clone(), provider: backend_provider() };
    let mut config = ClientConfig::builder_with_provider(backend_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::store(Arc::new(Sessions::default()));
    Ok(Arc::new(config))
}

/// The name that such a server is asked for.
///
/// # Errors
///
/// [`TlsError::Setup`] when it is no DNS name.
pub fn backend_server_name(terms: &TlsTerms) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(terms.server_name.to_string())
        .map_err(|error| TlsError::Setup(format!("`{}` is no host name: {error}", terms.server_name)))
}

/// The certificates of a CA bundle (PEM), as DER. Text between them is ignored.
///
/// # Errors
///
/// [`TlsError::Pem`] for blocks that are cut or damaged, [`TlsError::Root`] with the position of one that is no certificate,
/// [`TlsError::NoRoots`] where there is none.
pub fn ca_certificates(pem: &str) -> Result<Vec<Arc<[u8]>>, TlsError> {
    let ders: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let ders = ders.map_err(|error| {
        let reason = match error {
            pem::Error::MissingSectionEnd { .. } => "the text ends in the middle of a CERTIFICATE block".to_owned(),
            error => error.to_string(),
        };
        TlsError::Pem { what: "CA bundle", reason }
    })?;
    root_store(ders.iter().cloned())?;
    Ok(ders.iter().map(|der| Arc::from(&**der)).collect())
}

/// Why a handshake with such a server failed, as a sentence.
#[must_use]
pub fn explain_backend(error: &io::Error, terms: &TlsTerms) -> String {
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match (rustls, refusal(error)) {
        (Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)), _) => {
            "it speaks no version of HTTP that was offered (ALPN)".to_owned()
        }
        (Some(Error::AlertReceived(AlertDescription::CertificateRequired)), _) => {
            "it wants a certificate of its client, which a BackendTLSPolicy cannot give".to_owned()
        }
        (Some(Error::AlertReceived(AlertDescription::UnrecognisedName)), _) => {
            format!("it has no server of the name {}", terms.server_name)
        }
        (_, Refusal::UnknownIssuer) => match &terms.roots {
            TlsRoots::System => "its certificate leads to none of the public web's authorities".to_owned(),
            TlsRoots::Certificates(_) => "its certificate leads to none of the policy's CA certificates".to_owned(),
        },
        (_, Refusal::NotTls(what)) => format!("it does not speak TLS on this port ({what})"),
        (_, Refusal::PeerRefused { alert, .. }) => format!("it refused the connection ({alert}); see its log"),
        (_, other) => other.to_string(),
    }
}

/// As usual servers have it: also with TLS 1.2, and with every curve and cipher suite of the library.
fn backend_provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// Part of the program, because the proxy's image has no files but the program.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(ROOTS.get_or_init(|| Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })))
}

fn root_store<'a>(ders: impl Iterator<Item = CertificateDer<'a>>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for (index, der) in ders.enumerate() {
        store.add(der.into_owned()).map_err(|error| TlsError::Root { position: index + 1, reason: error.to_string() })?;
    }
    if store.is_empty() { Err(TlsError::NoRoots) } else { Ok(store) }
}

/// Verifies such a server.
#[derive(Debug)]
struct VerifyBackend {
    roots: Arc<RootCertStore>,
    names: Vec<SubjectName>,
    provider: Arc<CryptoProvider>,
}

impl VerifyBackend {
    fn check_names(&self, leaf: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> Result<(), Error> {
        let found = alternative_names(leaf);
        let is_good = |wanted: &SubjectName| match wanted {
            SubjectName::Dns(name) if name.starts_with("*.") => {
                found.iter().any(|it| matches!(it, SubjectName::Dns(it) if it.eq_ignore_ascii_case(name)))
            }
            SubjectName::Dns(name) => ServerName::try_from(&**name).is_ok_and(|name| verify_server_name(parsed, &name).is_ok()),
            SubjectName::Uri(_) => found.contains(wanted),
        };
        if self.names.iter().any(is_good) {
            return Ok(());
        }
        let (found, expected) = (listed(&found), listed(&self.names));
        let wrong = TlsError::WrongName { found, expected };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))))
    }
}

impl ServerCertVerifier for VerifyBackend {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        self.check_names(end_entity, &parsed).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The DNS names and URIs that a certificate is for.
fn alternative_names(leaf: &CertificateDer<'_>) -> Vec<SubjectName> {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return Vec::new() };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(SubjectName::Dns((*name).into())),
        GeneralName::URI(uri) => Some(SubjectName::Uri((*uri).into())),
        _ => None,
    });
    names.collect()
}

fn listed(names: &[SubjectName]) -> String {
    if names.is_empty() {
        return "no DNS name and no URI".to_owned();
    }
    let more = if names.len() > MAX_LISTED { " and others" } else { "" };
    format!("{}{more}", names.iter().take(MAX_LISTED).map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

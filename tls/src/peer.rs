//! Who a certificate belongs to.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use weir_core::names::{Identity, TrustDomain};
use weir_core::rotation::Validity;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::TlsError;
use crate::utc::Utc;

/// Namespace of the control plane's identity.
const CONTROL_PLANE_NAMESPACE: &str = "weir-system";
/// Service account of the control plane's identity.
const CONTROL_PLANE_ACCOUNT: &str = "weir-control-plane";

/// The identity that the control plane of a mesh has: `spiffe://<trust-domain>/ns/weir-system/sa/weir-control-plane`.
#[must_use]
pub fn control_plane_identity(trust_domain: &TrustDomain) -> Identity {
    #[expect(clippy::expect_used, reason = "constants, and a test reads them")]
    let (namespace, service_account) =
        (CONTROL_PLANE_NAMESPACE.parse().expect("a DNS label"), CONTROL_PLANE_ACCOUNT.parse().expect("a DNS name"));
    Identity { trust_domain: trust_domain.clone(), namespace, service_account }
}

/// The identity in the certificates that the other side of a finished handshake presented, leaf first. `None` in, `None` out:
/// it presented none.
///
/// A resumed session shows the certificates of the handshake that it resumes, and nobody verified them again. So the leaf's end
/// is looked at here, each time.
///
/// # Errors
///
/// When the leaf does not name exactly one workload, or has expired since the session began.
pub fn peer_identity(certs: Option<&[CertificateDer<'_>]>) -> Result<Option<Identity>, TlsError> {
    let Some(certs) = certs else { return Ok(None) };
    let leaf = leaf(certs.first().ok_or(TlsError::EmptyChain)?)?;
    let now = SystemTime::now();
    if leaf.validity.not_after < now {
        let not_after = Utc(leaf.validity.not_after);
        return Err(TlsError::Expired { identity: leaf.identity, not_after, now: Utc(now) });
    }
    Ok(Some(leaf.identity))
}

/// What a leaf certificate says.
pub(crate) struct Leaf {
    pub(crate) identity: Identity,
    pub(crate) validity: Validity,
    pub(crate) serial: String,
    pub(crate) issuer: String,
}

/// Reads a leaf. Its signature is not looked at.
pub(crate) fn leaf(der: &CertificateDer<'_>) -> Result<Leaf, TlsError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| TlsError::Certificate(error.to_string()))?;
    if !rest.is_empty() {
        return Err(TlsError::Certificate(format!("{} bytes follow its end", rest.len())));
    }
    Ok(Leaf {
        identity: identity(&certificate)?,
        validity: validity(&certificate),
        serial: serial(&certificate),
        issuer: certificate.issuer().to_string(),
    })
}

pub(crate) fn validity(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity {
        not_before: Utc::from_unix_seconds(validity.not_before.timestamp()).0,
        not_after: Utc::from_unix_seconds(validity.not_after.timestamp()).0,
    }
}

pub(crate) fn serial(certificate: &X509Certificate<'_>) -> String {
    certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The identity of a leaf whose chain was verified.
pub(crate) fn leaf_identity(der: &CertificateDer<'_>) -> Result<Identity, TlsError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| TlsError::Certificate(error.to_string()))?;
    identity(&certificate)
}

/// The one URI of the subject alternative names (X.509-SVID, section 2: exactly one).
fn identity(certificate: &X509Certificate<'_>) -> Result<Identity, TlsError> {
    let names = certificate.subject_alternative_name().map_err(|error| TlsError::Certificate(error.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris.as_slice() {
        [] => Err(TlsError::NoIdentity),
        [uri] => Ok(uri.parse()?),
        more => Err(TlsError::ManyIdentities(more.len())),
    }
}

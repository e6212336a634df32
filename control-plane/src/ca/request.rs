//! What a workload wants signed: a PKCS #10 request (RFC 2986), of which only the public key counts.
//!
//! Names and extensions in it are ignored: who the workload is, its token says. The signature is checked, since it proves that
//! whoever asks has the private key.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// Longest request that is looked at, in bytes. One for a P-384 key has some 400.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// Why a request is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsignable {
    /// Too long.
    #[error("the certificate request is longer than {MAX_REQUEST_BYTES} bytes")]
    TooLong,
    /// Not a request.
    #[error("the certificate request is not PKCS #10 in DER")]
    Malformed,
    /// Whoever asks has not shown that it has the key.
    #[error("the certificate request's signature is not of its own key")]
    NotProven,
    /// Not one of the kinds of key that are signed.
    #[error("the key is not of a kind that is signed: ECDSA P-256 or P-384, or Ed25519")]
    Algorithm,
}

/// The public key of a request.
///
/// # Errors
///
/// When the request is not good.
pub fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, Unsignable> {
    if der.len() > MAX_REQUEST_BYTES {
        return Err(Unsignable::TooLong);
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| Unsignable::Malformed)?;
    if !rest.is_empty() {
        return Err(Unsignable::Malformed);
    }
    let subject_key = &request.certification_request_info.subject_pki;
    let key = SubjectPublicKeyInfo::from_der(subject_key.raw).map_err(|_| Unsignable::Algorithm)?;
    if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519].contains(&key.algorithm()) {
        return Err(Unsignable::Algorithm);
    }
    request.verify_signature().map_err(|_| Unsignable::NotProven)?;
    Ok(key)
}

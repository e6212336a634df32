//! A new key and the request to certify it.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::TlsError;

/// A fresh key and a certificate signing request for it. The key never leaves the process except into its own state directory.
pub struct KeyRequest {
    /// ECDSA P-256, PKCS #8.
    pub key: PrivateKeyDer<'static>,
    /// PKCS #10. It carries the public key and proof of the private one; who the workload is says the token beside it.
    pub csr_der: Vec<u8>,
}

impl KeyRequest {
    /// Makes a key. P-256, because its signatures cost a tenth of RSA's and every other mesh and PKI can verify them.
    ///
    /// # Errors
    ///
    /// [`TlsError::Generate`] when the operating system gives no random numbers.
    pub fn generate() -> Result<Self, TlsError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?;
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(Self { key: PrivateKeyDer::Pkcs8(der), csr_der: csr.der().to_vec() })
    }
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRequest").field("csr_bytes", &self.csr_der.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer, X509CertificationRequest};

    #[test]
    fn a_request_proves_its_key_and_shows_nothing_else() {
        let request = KeyRequest::generate().unwrap();
        let (rest, csr) = X509CertificationRequest::from_der(&request.csr_der).unwrap();
        assert!(rest.is_empty());
        assert!(csr.certification_request_info.subject.iter().next().is_none());
        assert!(rcgen::CertificateSigningRequestParams::from_der(&request.csr_der.as_slice().into()).is_ok());
        assert!(!format!("{request:?}").contains("key:"), "{request:?}");
    }
}

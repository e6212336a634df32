//! A workload's certificate and its key.

use std::fmt;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weir_core::names::Identity;
use weir_core::rotation::Validity;

use crate::peer::{self, Leaf};
use crate::{TlsError, provider};

/// A certificate chain with its private key, checked to belong together. Cheap to clone; printing it never shows the key.
#[derive(Clone)]
pub struct Credentials {
    /// DER, leaf first, then the issuers up to but without the root.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// Who it says that the workload is.
    pub identity: Identity,
    /// When the leaf is valid.
    pub validity: Validity,
    /// The leaf's serial number, as hexadecimal digits.
    pub serial: String,
    /// The subject of the leaf's issuer.
    pub issuer: String,
    key: Arc<PrivateKeyDer<'static>>,
    certified: Arc<CertifiedKey>,
}

impl Credentials {
    /// Puts a chain and its key together. Whether the certificate is valid now is not looked at: see
    /// [`validity`](Self::validity).
    ///
    /// # Errors
    ///
    /// When the leaf cannot be read, names no workload, or the key is not its key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let Leaf { identity, validity, serial, issuer } = peer::leaf(chain.first().ok_or(TlsError::EmptyChain)?)?;
        let signer = provider().key_provider.load_private_key(key.clone_key());
        let signer = signer.map_err(|error| TlsError::Key(error.to_string()))?;
        let certified = CertifiedKey::new(chain.clone(), signer);
        certified.keys_match().map_err(|_| TlsError::KeyMismatch)?;
        Ok(Self { chain: chain.into(), identity, validity, serial, issuer, key: Arc::new(key), certified: Arc::new(certified) })
    }

    /// From the texts that [`chain_pem`](Self::chain_pem) and [`key_pem`](Self::key_pem) made.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and [`TlsError::Pem`].
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let bad = |what| move |error: rustls_pki_types::pem::Error| TlsError::Pem { what, reason: error.to_string() };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(bad("private key"))?;
        Self::new(chain.map_err(bad("certificate chain"))?, key)
    }

    /// The chain as PEM, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|der| pem_block("CERTIFICATE", der)).collect()
    }

    /// The private key as PEM. Whoever reads it is the workload: write it to nothing but a file with mode 0600.
    #[must_use]
    pub fn key_pem(&self) -> String {
        let tag = match &*self.key {
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        pem_block(tag, self.key.secret_der())
    }

    pub(crate) fn certified(&self) -> CertifiedKey {
        (*self.certified).clone()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("validity", &self.validity)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

pub(crate) fn pem_block(tag: &str, der: &[u8]) -> String {
    let line_ending = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), line_ending)
}

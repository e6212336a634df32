//! The roots of a mesh.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use weir_core::names::TrustDomain;
use weir_core::rotation::Validity;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::credentials::pem_block;
use crate::{Accept, Credentials, TlsError, peer, provider, refusal};

/// The certificates that every other certificate of one trust domain must lead to. Cheap to clone.
#[derive(Clone)]
pub struct Roots {
    trust_domain: TrustDomain,
    store: Arc<RootCertStore>,
    ders: Arc<[CertificateDer<'static>]>,
}

/// What a root says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootSubject {
    /// Its name.
    pub subject: String,
    /// Its serial number, as hexadecimal digits.
    pub serial: String,
    /// When it counts.
    pub validity: Validity,
}

impl Roots {
    /// From DER certificates, at least one.
    ///
    /// # Errors
    ///
    /// [`TlsError::NoRoots`], or [`TlsError::Root`] with the position of the one that is not a certificate.
    pub fn from_der<D: AsRef<[u8]>>(trust_domain: TrustDomain, ders: impl IntoIterator<Item = D>) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        let mut kept: Vec<CertificateDer<'static>> = Vec::new();
        for (index, der) in ders.into_iter().enumerate() {
            let der = CertificateDer::from(der.as_ref().to_vec());
            store.add(der.clone()).map_err(|error| TlsError::Root { position: index + 1, reason: error.to_string() })?;
            kept.push(der);
        }
        if kept.is_empty() {
            return Err(TlsError::NoRoots);
        }
        Ok(Self { trust_domain, store: Arc::new(store), ders: kept.into() })
    }

    /// From PEM text with one or more `CERTIFICATE` blocks; text between them is ignored.
    ///
    /// # Errors
    ///
    /// As [`from_der`](Self::from_der), and [`TlsError::Pem`] for blocks that are cut or damaged.
    pub fn from_pem(trust_domain: TrustDomain, pem: &str) -> Result<Self, TlsError> {
        let ders: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let ders = ders.map_err(|error| TlsError::Pem { what: "trust bundle", reason: error.to_string() })?;
        Self::from_der(trust_domain, ders)
    }

    /// The trust domain that they speak for.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The certificates, in the order in which they were given.
    #[must_use]
    pub fn ders(&self) -> &[CertificateDer<'static>] {
        &self.ders
    }

    /// The certificates as PEM, in the order in which they were given.
    #[must_use]
    pub fn pem(&self) -> String {
        self.ders.iter().map(|der| pem_block("CERTIFICATE", der)).collect()
    }

    /// What each root says of itself, in the order in which they were given. One that says nothing legible is left out.
    #[must_use]
    pub fn subjects(&self) -> Vec<RootSubject> {
        let read = |der: &CertificateDer<'static>| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            Some(RootSubject {
                subject: certificate.subject().to_string(),
                serial: peer::serial(&certificate),
                validity: peer::validity(&certificate),
            })
        };
        self.ders.iter().filter_map(read).collect()
    }

    /// Whether a workload that has these roots would take `credentials` at the time `now`.
    ///
    /// # Errors
    ///
    /// [`TlsError::NotAccepted`] with the reason.
    pub fn verify(&self, credentials: &Credentials, now: SystemTime) -> Result<(), TlsError> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (leaf, issuers) = credentials.chain.split_first().ok_or(TlsError::EmptyChain)?;
        let checked = ParsedCertificate::try_from(leaf).and_then(|parsed| {
            let algorithms = provider().signature_verification_algorithms.all;
            let now = UnixTime::since_unix_epoch(seconds);
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.store, issuers, now, algorithms)
        });
        checked.map_err(|error| TlsError::NotAccepted(refusal::of_tls(&error)))?;
        Accept::AnyInDomain.check(credentials.identity.clone(), self)
    }

    /// Those of them that a chain leads to which was verified before; leaf first.
    #[must_use]
    pub fn led_to(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Vec<&CertificateDer<'static>> {
        let (Some((leaf, issuers)), [_, _, ..]) = (chain.split_first(), &*self.ders) else { return self.ders.iter().collect() };
        let Ok(leaf) = ParsedCertificate::try_from(leaf) else { return Vec::new() };
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let algorithms = provider().signature_verification_algorithms.all;
        let leads_to = |root: &&CertificateDer<'static>| {
            let mut store = RootCertStore::empty();
            store.add((*root).clone()).is_ok()
                && verify_server_cert_signed_by_trust_anchor(&leaf, &store, issuers, now, algorithms).is_ok()
        };
        self.ders.iter().filter(leads_to).collect()
    }

    pub(crate) const fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.ders == other.ders
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("trust_domain", &self.trust_domain).field("count", &self.ders.len()).finish()
    }
}

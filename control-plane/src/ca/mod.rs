//! The certificate authority: who a workload is, signed.
//!
//! A root (10 years) signs an issuer (1 year), and the issuer signs what workloads are given (24 hours); or a root or intermediate
//! of the user's own signs it. [`document`] is what is written down, [`files`] keeps it in a directory and
//! [`kube::authority`](crate::kube::authority) in a Secret. [`plan`] says what has to change: an issuer that comes to its end, a
//! root that is replaced step by step, so that nobody notices. [`keep`] does it. [`request`] looks at what a workload wants
//! signed, [`sign`] makes certificates, [`given`] checks what the user gave.

pub mod document;
pub mod files;
pub mod given;
pub mod keep;
pub mod plan;
pub mod request;
pub mod sign;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::PublicKeyData;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weir_core::names::{Identity, TrustDomain};
use weir_core::rotation::Validity;
use weir_core::rotation::overlap::PhaseName;
use weir_core::snapshot::TrustBundle;
use weir_tls::{Credentials, KeyRequest, Roots, TlsError, control_plane_identity};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::kube::Failure;

pub use self::document::Document;
use self::document::Line;
use self::request::Unsignable;
use self::sign::Signer;

/// The authority of a mesh as this process has it in force.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    leaf_lifetime: Duration,
    standing: ArcSwap<Standing>,
}

/// A document, ready to sign.
#[derive(Debug)]
struct Standing {
    document: Document,
    /// Every root that is trusted, DER, what signs first.
    roots: Vec<CertificateDer<'static>>,
    signer: Signer,
    /// What comes after a leaf, up to but without the root.
    chain: Vec<CertificateDer<'static>>,
    /// When all of the chain and the root are valid.
    validity: Validity,
    root_validity: Validity,
}

impl Standing {
    fn new(document: &Document) -> Result<Self, AuthorityError> {
        let line = document.succession.signs();
        let roots: Result<Vec<_>, _> = document.succession.trusted().map(Line::anchor_der).collect();
        let roots = roots?;
        let (anchor, chain) = (line.anchor_der()?, line.chain_ders()?);
        let root_validity = validity(&anchor)?;
        let mut all = root_validity;
        for certificate in &chain {
            all = all.clamp(validity(certificate)?).unwrap_or(Validity { not_after: all.not_before, ..all });
        }
        let key = given::key(line.key.as_bytes()).map_err(AuthorityError::Document)?;
        let certificate = chain.first().unwrap_or(&anchor).clone();
        let signer = Signer::new(certificate, key).map_err(AuthorityError::Document)?;
        Ok(Self { document: document.clone(), roots, signer, chain, validity: all, root_validity })
    }
}

fn validity(certificate: &CertificateDer<'_>) -> Result<Validity, AuthorityError> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, parsed) = parsed.map_err(|error| AuthorityError::Document(format!("it is no certificate: {error}")))?;
    Ok(sign::validity(&parsed))
}

/// A certificate that was signed.
#[derive(Clone, Debug)]
pub struct Certified {
    /// DER, leaf first, then the issuer; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the leaf is valid.
    pub validity: Validity,
    /// The roots of that moment.
    pub bundle: TrustBundle,
}

/// Why the authority cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or directory cannot be read or written.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Some files of an authority are there, and others are not.
    #[error(
        "{dir} has {present} but not {missing}: it was written only in part, or somebody took files away. Put the missing files \
         back, or empty the directory to start with a new authority (then every proxy needs the new ca.crt)"
    )]
    HalfWritten {
        /// The directory.
        dir: PathBuf,
        /// What is there.
        present: String,
        /// What is not.
        missing: String,
    },
    /// A file does not hold what it should.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What was written down cannot be used.
    #[error("the authority cannot be used: {0}")]
    Document(String),
    /// The API server does not do what the authority needs.
    #[error("{what}: {failure}")]
    Api {
        /// What was tried.
        what: String,
        /// Why it did not work.
        failure: Failure,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Sign(String),
    /// A leaf would begin after its issuer has ended.
    #[error("the issuer's certificate has ended; its renewal fails for a reason that the log says")]
    IssuerEnded,
    /// What was made cannot be used with TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Authority {
    /// Opens the authority in a directory, or makes one where there is none.
    ///
    /// # Errors
    ///
    /// When the files cannot be read or written, do not belong together, or are of another trust domain.
    pub fn open(dir: &Path, trust_domain: TrustDomain, leaf_lifetime: Duration) -> Result<Self, AuthorityError> {
        let document = files::open(dir, &trust_domain, SystemTime::now())?;
        Self::new(trust_domain, leaf_lifetime, &document)
    }

    /// With what was written down.
    ///
    /// # Errors
    ///
    /// When it cannot be used.
    pub fn new(trust_domain: TrustDomain, leaf_lifetime: Duration, document: &Document) -> Result<Self, AuthorityError> {
        Ok(Self { trust_domain, leaf_lifetime, standing: ArcSwap::from_pointee(Standing::new(document)?) })
    }

    /// Puts what was written down into force, if it is another. Says whether it was.
    ///
    /// # Errors
    ///
    /// When it cannot be used; then what was in force stays.
    pub fn take(&self, document: &Document) -> Result<bool, AuthorityError> {
        if self.standing.load().document == *document {
            return Ok(false);
        }
        self.standing.store(Arc::new(Standing::new(document)?));
        Ok(true)
    }

    /// Signs a certificate for `identity` and the key of a PKCS #10 request.
    ///
    /// # Errors
    ///
    /// When the request cannot be signed, or there is no issuer right now.
    pub fn certify(&self, identity: &Identity, csr_der: &[u8], now: SystemTime) -> Result<Certified, CertifyError> {
        let key = request::public_key(csr_der)?;
        Ok(self.sign(identity, &key, now)?)
    }

    /// A certificate for the control plane itself, with a new key.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn own_credentials(&self, now: SystemTime) -> Result<Credentials, AuthorityError> {
        let KeyRequest { key, csr_der } = KeyRequest::generate()?;
        let identity = control_plane_identity(&self.trust_domain);
        let public_key = request::public_key(&csr_der).map_err(|error| AuthorityError::Sign(error.to_string()))?;
        let certified = self.sign(&identity, &public_key, now)?;
        let key: PrivateKeyDer<'static> = key;
        Ok(Credentials::new(certified.chain, key)?)
    }

    fn sign(&self, identity: &Identity, key: &impl PublicKeyData, now: SystemTime) -> Result<Certified, AuthorityError> {
        let standing = self.standing.load();
        let wanted = sign::leaf_validity(now, self.leaf_lifetime);
        let validity = wanted.clamp(standing.validity).filter(|it| now < it.not_after).ok_or(AuthorityError::IssuerEnded)?;
        let leaf = standing.signer.leaf(identity, key, validity)?;
        let chain = std::iter::once(leaf).chain(standing.chain.iter().cloned()).collect();
        Ok(Certified { chain, validity, bundle: bundle(&self.trust_domain, &standing) })
    }

    /// What was written down, as it is in force.
    #[must_use]
    pub fn document(&self) -> Document {
        self.standing.load().document.clone()
    }

    /// Which document is in force.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.standing.load().document.generation
    }

    /// Where the rotation of the root stands.
    #[must_use]
    pub fn phase(&self) -> PhaseName {
        self.standing.load().document.succession.name()
    }

    /// When what signs leaves ends, or anything above it.
    #[must_use]
    pub fn issuer_ends(&self) -> SystemTime {
        self.standing.load().validity.not_after
    }

    /// When the root ends that everything new leads to.
    #[must_use]
    pub fn root_ends(&self) -> SystemTime {
        self.standing.load().root_validity.not_after
    }

    /// What proxies are given to trust.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        bundle(&self.trust_domain, &self.standing.load())
    }

    /// What the control plane trusts when proxies connect.
    ///
    /// # Errors
    ///
    /// When the roots cannot be used with TLS.
    pub fn roots(&self) -> Result<Roots, AuthorityError> {
        Ok(Roots::from_der(self.trust_domain.clone(), &self.standing.load().roots)?)
    }

    /// The trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// How long leaves live.
    #[must_use]
    pub const fn leaf_lifetime(&self) -> Duration {
        self.leaf_lifetime
    }
}

fn bundle(trust_domain: &TrustDomain, standing: &Standing) -> TrustBundle {
    let roots = standing.roots.iter().map(|der| der.as_ref().into()).collect();
    TrustBundle { trust_domain: trust_domain.clone(), roots, generation: standing.document.succession.epoch }
}

/// Why a request was not signed.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// The request is not good.
    #[error(transparent)]
    Request(#[from] Unsignable),
    /// The authority cannot sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

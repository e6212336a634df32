//! The certificate authority: who a workload is, signed.
//!
//! A root (10 years) signs an issuer (1 year), and the issuer signs what workloads are given (24 hours). The root is what proxies
//! trust; the issuer is renewed by itself long before it ends, and nobody has to be told. [`files`] keeps them in a directory,
//! [`request`] looks at what a workload wants signed, [`sign`] makes certificates.

pub mod files;
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
use weir_core::rotation::{Purpose, Validity};
use weir_core::snapshot::TrustBundle;
use weir_tls::{Credentials, KeyRequest, Roots, TlsError, control_plane_identity};

use self::request::Unsignable;
use self::sign::Signer;

/// The authority of a mesh.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    dir: PathBuf,
    /// Every root that is trusted, DER; new leaves lead to the one that has its key here.
    roots: Vec<CertificateDer<'static>>,
    root: Signer,
    issuer: ArcSwap<Signer>,
    leaf_lifetime: Duration,
}

/// A certificate that was signed.
#[derive(Clone, Debug)]
pub struct Certified {
    /// DER, leaf first, then the issuer; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the leaf is valid.
    pub validity: Validity,
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
        let files::Opened { roots, root, issuer } = files::open(dir, &trust_domain)?;
        let authority =
            Self { trust_domain, dir: dir.to_owned(), roots, root, issuer: ArcSwap::from_pointee(issuer), leaf_lifetime };
        authority.renew_issuer_if_due(SystemTime::now())?;
        Ok(authority)
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
        let issuer = self.issuer.load();
        let wanted = sign::leaf_validity(now, self.leaf_lifetime);
        let validity = wanted.clamp(issuer.validity).filter(|it| now < it.not_after).ok_or(AuthorityError::IssuerEnded)?;
        let leaf = issuer.leaf(identity, key, validity)?;
        Ok(Certified { chain: vec![leaf, issuer.certificate.clone()], validity })
    }

    /// Makes a new issuer if the present one comes to its end. Says whether it did.
    ///
    /// # Errors
    ///
    /// When it cannot be made or kept; the present one signs on.
    pub fn renew_issuer_if_due(&self, now: SystemTime) -> Result<bool, AuthorityError> {
        if now < self.issuer_renewal_due() {
            return Ok(false);
        }
        let issuer = self.root.issuer(&self.trust_domain, now)?;
        files::replace_issuer(&self.dir, &issuer)?;
        self.issuer.store(Arc::new(issuer.signer));
        Ok(true)
    }

    /// When the issuer is renewed.
    #[must_use]
    pub fn issuer_renewal_due(&self) -> SystemTime {
        let validity = self.issuer.load().validity;
        let purpose = Purpose::Authority { signs_for: self.leaf_lifetime };
        validity.renew_at(purpose, validity.not_before, &mut fastrand::Rng::with_seed(0))
    }

    /// When the issuer ends.
    #[must_use]
    pub fn issuer_ends(&self) -> SystemTime {
        self.issuer.load().validity.not_after
    }

    /// When the root ends.
    #[must_use]
    pub const fn root_ends(&self) -> SystemTime {
        self.root.validity.not_after
    }

    /// What proxies are given to trust.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        let roots = self.roots.iter().map(|der| der.as_ref().into()).collect();
        TrustBundle { trust_domain: self.trust_domain.clone(), roots }
    }

    /// What the control plane trusts when proxies connect.
    ///
    /// # Errors
    ///
    /// When the roots cannot be used with TLS.
    pub fn roots(&self) -> Result<Roots, AuthorityError> {
        Ok(Roots::from_der(self.trust_domain.clone(), &self.roots)?)
    }

    /// The trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
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

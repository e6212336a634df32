//! What can be wrong with certificates, keys and roots.

use weir_core::names::{Identity, InvalidName, TrustDomain};

use crate::refusal::Refusal;
use crate::utc::Utc;

/// What is wrong with a certificate, a key or the roots.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not a certificate.
    #[error("the certificate cannot be read: {0}; it must be an X.509 version 3 certificate")]
    Certificate(String),
    /// A chain needs a leaf.
    #[error("there is no certificate where one should be; expected the workload's certificate first, then its issuers")]
    EmptyChain,
    /// No SPIFFE id.
    #[error(
        "the certificate has no URI among its subject alternative names, so it names no workload; it was not issued by this mesh"
    )]
    NoIdentity,
    /// Several SPIFFE ids.
    #[error("the certificate names {0} URIs; a workload's certificate names exactly one, its SPIFFE id")]
    ManyIdentities(usize),
    /// The URI is not a workload's SPIFFE id.
    #[error("the certificate names no workload: {0}")]
    Identity(#[from] InvalidName),
    /// The other side is somebody else.
    #[error(
        "the certificate is that of {found}, expected {expected}; the address may have gone to another workload, or the trust domain differs"
    )]
    WrongIdentity {
        /// Who presented it.
        found: Identity,
        /// Who should have.
        expected: Identity,
    },
    /// A server outside the mesh is another one.
    #[error("its certificate is for {found}, expected {expected}")]
    WrongName {
        /// The names in its certificate.
        found: String,
        /// Those of which it should have one.
        expected: String,
    },
    /// The roots speak for one trust domain only.
    #[error("the certificate is that of {found}, which is outside of the trust domain {ours} that these roots speak for")]
    ForeignTrustDomain {
        /// Who presented it.
        found: Identity,
        /// The trust domain of the roots.
        ours: TrustDomain,
    },
    /// Out of date.
    #[error(
        "the certificate of {identity} expired at {not_after} and it is {now} here; its owner did not renew it, or a clock is wrong"
    )]
    Expired {
        /// Whose it is.
        identity: Identity,
        /// Its end.
        not_after: Utc,
        /// The time here.
        now: Utc,
    },
    /// The chain does not lead to the roots, or not now.
    #[error("the roots do not accept it: {0}")]
    NotAccepted(Refusal),
    /// The key cannot be used.
    #[error("the private key cannot be used: {0}; it must be PKCS #8 or SEC 1")]
    Key(String),
    /// The key belongs to another certificate.
    #[error("the private key is not that of the certificate; were the two saved at different times?")]
    KeyMismatch,
    /// The key could not be made.
    #[error("no key could be made: {0}")]
    Generate(#[from] rcgen::Error),
    /// Nobody could be trusted.
    #[error("there is no root certificate; a trust bundle holds at least one CERTIFICATE block")]
    NoRoots,
    /// A root is not a certificate.
    #[error("root certificate {position} cannot be used: {reason}")]
    Root {
        /// Its position, from 1.
        position: usize,
        /// What is wrong.
        reason: String,
    },
    /// Not PEM.
    #[error("the {what} is not PEM text: {reason}")]
    Pem {
        /// What was read.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// rustls refuses the combination.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

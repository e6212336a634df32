//! Who is let in: the chain must lead to a root of the mesh, and the leaf must name the right workload.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use weir_core::names::Identity;

use crate::config::ClientAuth;
use crate::peer::leaf_identity;
use crate::{Roots, TlsError, provider};

/// Whom a client accepts on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Accept {
    /// This workload and no other.
    Identity(Identity),
    /// Any workload of the roots' trust domain.
    AnyInDomain,
}

impl Accept {
    pub(crate) fn check(&self, found: Identity, roots: &Roots) -> Result<(), TlsError> {
        match self {
            Self::Identity(expected) if *expected == found => Ok(()),
            Self::Identity(expected) => Err(TlsError::WrongIdentity { found, expected: expected.clone() }),
            Self::AnyInDomain if found.trust_domain == *roots.trust_domain() => Ok(()),
            Self::AnyInDomain => Err(TlsError::ForeignTrustDomain { found, ours: roots.trust_domain().clone() }),
        }
    }
}

/// Verifies servers.
#[derive(Debug)]
pub(crate) struct VerifyServer {
    roots: Roots,
    accept: Accept,
    provider: Arc<CryptoProvider>,
}

impl VerifyServer {
    pub(crate) fn new(roots: Roots, accept: Accept) -> Self {
        Self { roots, accept, provider: provider() }
    }
}

impl ServerCertVerifier for VerifyServer {
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
        verify_server_cert_signed_by_trust_anchor(&parsed, self.roots.store(), intermediates, now, algorithms)?;
        let checked = leaf_identity(end_entity).and_then(|found| self.accept.check(found, &self.roots));
        checked.map(|()| ServerCertVerified::assertion()).map_err(not_accepted)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
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

/// Verifies clients.
#[derive(Debug)]
pub(crate) struct VerifyClient {
    chain: Arc<dyn ClientCertVerifier>,
    roots: Roots,
}

impl VerifyClient {
    pub(crate) fn new(roots: Roots, auth: ClientAuth) -> Result<Self, TlsError> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots.store()), provider());
        let builder = match auth {
            ClientAuth::Required => builder,
            ClientAuth::Optional => builder.allow_unauthenticated(),
        };
        let chain = builder.build().map_err(|error| TlsError::Setup(error.to_string()))?;
        Ok(Self { chain, roots })
    }
}

impl ClientCertVerifier for VerifyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    /// Nothing: a workload has one certificate and needs no hints to choose it, and each would cost bytes in each handshake.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let checked = leaf_identity(end_entity).and_then(|found| Accept::AnyInDomain.check(found, &self.roots));
        checked.map(|()| verified).map_err(not_accepted)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn not_accepted(error: TlsError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn tls13_only() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)
}

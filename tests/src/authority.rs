//! Certificate authorities of the test's own, and TLS peers that hold what such an authority signed.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Signs certificates for workloads.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The issuer's own certificates, which go along with a leaf.
    chain: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// One that no mesh knows.
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    #[must_use]
    pub fn foreign() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { chain: vec![certificate.der().clone()], issuer: Issuer::new(params, key) }
    }

    /// The one that a control plane keeps in this directory.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn kept_in(directory: &Path) -> Self {
        use rustls::pki_types::pem::PemObject;
        let kept = std::fs::read(directory.join("authority.json")).expect("the authority can be read");
        let kept: serde_json::Value = serde_json::from_slice(&kept).expect("the authority is JSON");
        let text = |field: &str| kept["signs"][field].as_str().expect("the authority says what signs");
        let certificates = CertificateDer::pem_slice_iter(text("chain").as_bytes());
        let chain: Vec<_> = certificates.map(|der| der.expect("a certificate")).collect();
        let key = KeyPair::from_pem(text("key")).expect("the key can be parsed");
        let first = chain.first().expect("the chain has a certificate");
        Self { issuer: Issuer::from_ca_cert_der(first, key).expect("the issuer can be parsed"), chain }
    }

    /// A leaf for a SPIFFE id, valid for the hour around now.
    #[must_use]
    pub fn sign(&self, identity: &str) -> Peer {
        let hour = Duration::from_secs(3600);
        self.sign_for(identity, SystemTime::now() - hour, SystemTime::now() + hour)
    }

    /// A leaf that ended a minute ago.
    #[must_use]
    pub fn sign_expired(&self, identity: &str) -> Peer {
        let minute = Duration::from_secs(60);
        self.sign_for(identity, SystemTime::now() - 60 * minute, SystemTime::now() - minute)
    }

    fn sign_for(&self, identity: &str, not_before: SystemTime, not_after: SystemTime) -> Peer {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut params = CertificateParams::default();
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().expect("a SPIFFE id"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.chain.iter().cloned());
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key").clone_key();
        Peer { chain, key }
    }
}

/// A TLS peer with a certificate of its own, which trusts everybody.
#[derive(Debug)]
pub struct Peer {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Peer {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Peer {
    /// Opens TLS to `address` as a sidecar of the mesh would. In TLS 1.3 the server's verdict on the client comes after the
    /// handshake, so an `Ok` means nothing yet: see [`verdict`].
    ///
    /// # Errors
    ///
    /// When the handshake fails at once.
    ///
    /// # Panics
    ///
    /// When nobody listens.
    pub async fn connect(&self, address: SocketAddr, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        connect(address, alpn, Some(self)).await
    }

    /// Answers TLS on `address` with this certificate, in the place of a real sidecar, until the test ends. No request is ever
    /// answered.
    ///
    /// # Panics
    ///
    /// When the address cannot be bound.
    pub async fn impersonate(&self, address: SocketAddr, alpn: &[u8]) {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3 is there")
            .with_client_cert_verifier(WebPkiClientVerifier::no_client_auth())
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("the certificate fits its key");
        config.alpn_protocols = vec![alpn.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let _ = stream.read(&mut [0; 1024]).await;
                    }
                });
            }
        });
    }
}

/// Opens TLS without any certificate.
///
/// # Errors
///
/// When the handshake fails at once.
///
/// # Panics
///
/// When nobody listens.
pub async fn connect_anonymously(address: SocketAddr, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    connect(address, alpn, None).await
}

/// What the server made of the client: `Ok` when it waits for what the client has to say, the error when it closed.
///
/// # Errors
///
/// The alert, or the end of the connection, as the client sees it.
pub async fn verdict(stream: std::io::Result<TlsStream<TcpStream>>) -> Result<(), String> {
    let mut stream = stream.map_err(|error| error.to_string())?;
    match tokio::time::timeout(Duration::from_secs(2), stream.read(&mut [0; 64])).await {
        Err(_) => Ok(()),
        Ok(Ok(0)) => Err("closed".to_owned()),
        // A server may speak first (HTTP/2 settings): it has accepted the client.
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
    }
}

/// The same over a connection that is there already.
///
/// # Errors
///
/// When the handshake fails at once.
pub async fn secure_anonymously(stream: TcpStream, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    secure(stream, alpn, None).await
}

async fn connect(address: SocketAddr, alpn: &[u8], peer: Option<&Peer>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("no connection to {address}: {error}"));
    secure(stream, alpn, peer).await
}

async fn secure(stream: TcpStream, alpn: &[u8], peer: Option<&Peer>) -> std::io::Result<TlsStream<TcpStream>> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustEverybody));
    let mut config = match peer {
        Some(peer) => {
            builder.with_client_auth_cert(peer.chain.clone(), peer.key.clone_key()).expect("the certificate fits its key")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_sni = false;
    TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(stream.peer_addr()?.ip().into()), stream).await
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Accepts any server: the test looks at what the server makes of the client.
#[derive(Debug)]
struct TrustEverybody;

impl ServerCertVerifier for TrustEverybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

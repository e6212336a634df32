//! A mesh made of certificates only, and handshakes without a network.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use time::{Duration, OffsetDateTime};
use weir_core::names::{Identity, TrustDomain};
use weir_tls::{Credentials, Roots};

pub(crate) const DOMAIN: &str = "cluster.local";

pub(crate) fn domain() -> TrustDomain {
    DOMAIN.parse().unwrap()
}

pub(crate) fn identity(account: &str) -> Identity {
    format!("spiffe://{DOMAIN}/ns/shop/sa/{account}").parse().unwrap()
}

/// A root and an issuer below it.
pub(crate) struct Ca {
    pub(crate) root: CertifiedIssuer<'static, KeyPair>,
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a leaf says. The default is a good one.
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    pub(crate) starts_in: Duration,
    pub(crate) ends_in: Duration,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    pub(crate) fn of(identity: &Identity) -> Self {
        Self::with_uris(&[&identity.to_string()])
    }

    pub(crate) fn with_uris(uris: &[&str]) -> Self {
        Self {
            uris: uris.iter().map(ToString::to_string).collect(),
            starts_in: Duration::minutes(-5),
            ends_in: Duration::hours(24),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let authority = |what: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, format!("{name} {what}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params
        };
        let root = CertifiedIssuer::self_signed(authority("root"), KeyPair::generate().unwrap()).unwrap();
        let issuer = CertifiedIssuer::signed_by(authority("issuer"), KeyPair::generate().unwrap(), &root).unwrap();
        Self { root, issuer }
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_der(domain(), [self.root.der()]).unwrap()
    }

    pub(crate) fn sign(&self, leaf: &Leaf) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = leaf.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap())).collect();
        params.not_before = OffsetDateTime::now_utc() + leaf.starts_in;
        params.not_after = OffsetDateTime::now_utc() + leaf.ends_in;
        params.extended_key_usages.clone_from(&leaf.usages);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![certificate.der().clone(), self.issuer.der().clone()];
        (chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
    }

    pub(crate) fn credentials(&self, leaf: &Leaf) -> Credentials {
        let (chain, key) = self.sign(leaf);
        Credentials::new(chain, key).unwrap()
    }

    pub(crate) fn workload(&self, account: &str) -> Credentials {
        self.credentials(&Leaf::of(&identity(account)))
    }
}

/// Both ends after a handshake.
pub(crate) struct Pair {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
}

/// Who noticed that it cannot be, and why.
#[derive(Debug)]
pub(crate) enum Failed {
    Client(io::Error),
    Server(io::Error),
}

/// Shakes hands. After a failure the alert still reaches the other side, whose view is returned as well.
pub(crate) fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Pair, (Failed, Option<Failed>)> {
    handshake_as(client, server, "server.test")
}

pub(crate) fn handshake_as(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<Pair, (Failed, Option<Failed>)> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    for _ in 0..4 {
        if let Err(error) = carry(&mut client, &mut server) {
            return Err((Failed::Server(error), carry(&mut server, &mut client).err().map(Failed::Client)));
        }
        if let Err(error) = carry(&mut server, &mut client) {
            return Err((Failed::Client(error), carry(&mut client, &mut server).err().map(Failed::Server)));
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Pair { client, server })
}

fn carry<A, B, S, T>(from: &mut A, to: &mut B) -> io::Result<()>
where
    A: std::ops::DerefMut<Target = rustls::ConnectionCommon<S>>,
    B: std::ops::DerefMut<Target = rustls::ConnectionCommon<T>>,
    S: rustls::SideData,
    T: rustls::SideData,
{
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes)?;
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest)?;
        to.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
    Ok(())
}

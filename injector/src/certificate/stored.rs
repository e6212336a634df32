//! What the Secret holds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weir_core::rotation::Validity;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::Served;

/// The chain that is served.
pub const CHAIN: &str = "tls.crt";
/// Its key.
pub const KEY: &str = "tls.key";
/// The authorities to trust; of our own, the first signs.
pub const AUTHORITIES: &str = "ca.crt";
/// The key of the first. Somebody else's Secret has none.
pub const AUTHORITY_KEY: &str = "ca.key";

/// More are never in use at once: one that signs, and those of Secrets that were deleted within the last hour.
pub const MAX_AUTHORITIES: usize = 8;
/// A chain has three certificates, a file of authorities a few more.
const MAX_PEM_BYTES: usize = 256 * 1024;

/// Who looks after the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// The injector.
    Injector,
    /// Somebody else, who gave it a certificate and key without the authority's key.
    SomebodyElse,
}

/// A Secret, taken apart. What cannot be used of it is a reason.
pub struct Stored {
    /// Who looks after it.
    pub keeper: Keeper,
    /// What is to be trusted.
    pub authorities: Vec<Authority>,
    /// What signs: the first authority with its key.
    pub signer: Result<Issuer<'static, KeyPair>, String>,
    /// What is served.
    pub leaf: Result<Leaf, String>,
}

/// A certificate that signs others.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// When it counts.
    pub validity: Validity,
}

/// A certificate that can be served, with what has to be known about it.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Chain and key.
    pub key: Arc<CertifiedKey>,
    /// When it counts.
    pub validity: Validity,
    /// DNS names and addresses that it is for.
    pub names: Vec<String>,
    /// Whether the first authority has signed it.
    pub signed_by_first: bool,
}

impl Stored {
    /// Takes a Secret apart. `labelled`: it carries the injector's label.
    #[must_use]
    pub fn read(data: &BTreeMap<String, Vec<u8>>, labelled: bool) -> Self {
        let given = |name: &str| data.get(name).is_some_and(|value| !value.is_empty());
        let theirs = !labelled && given(CHAIN) && given(KEY) && !given(AUTHORITY_KEY);
        let keeper = if theirs { Keeper::SomebodyElse } else { Keeper::Injector };
        let authorities = authorities(data).unwrap_or_default();
        let signer = signer(data, authorities.first());
        let leaf = leaf(data, authorities.first());
        Self { keeper, authorities, signer, leaf }
    }

    /// What can be served.
    #[must_use]
    pub fn served(&self) -> Option<Served> {
        let leaf = self.leaf.as_ref().ok()?;
        let trusted = match self.keeper {
            Keeper::Injector => self.authorities.get(..1).unwrap_or_default(),
            Keeper::SomebodyElse => &self.authorities,
        };
        let anchors = trusted.iter().map(|it| it.certificate.clone()).collect();
        Some(Served { key: Arc::clone(&leaf.key), anchors, validity: leaf.validity })
    }

    /// What API servers are to trust, as PEM. Empty: what they trust anyway.
    #[must_use]
    pub fn bundle(&self) -> Vec<u8> {
        to_pem(self.authorities.iter().map(|it| &it.certificate)).into_bytes()
    }
}

/// Certificates as PEM.
pub fn to_pem<'a>(certificates: impl Iterator<Item = &'a CertificateDer<'static>>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    certificates.map(|it| pem::encode_config(&pem::Pem::new("CERTIFICATE", it.as_ref()), config)).collect()
}

/// All certificates of a PEM file.
///
/// # Errors
///
/// A sentence.
pub fn from_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    if text.len() > MAX_PEM_BYTES {
        return Err(format!("it has more than {MAX_PEM_BYTES} bytes"));
    }
    CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|error| format!("it is not PEM: {error}"))
}

/// When a certificate counts.
///
/// # Errors
///
/// A sentence, when it is none.
pub fn validity(certificate: &[u8]) -> Result<Validity, String> {
    Ok(validity_of(&parse(certificate)?))
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, String> {
    X509Certificate::from_der(certificate).map(|(_, parsed)| parsed).map_err(|error| format!("it is no certificate: {error}"))
}

fn validity_of(certificate: &X509Certificate<'_>) -> Validity {
    let time = |it: x509_parser::time::ASN1Time| SystemTime::from(it.to_datetime());
    Validity { not_before: time(certificate.validity().not_before), not_after: time(certificate.validity().not_after) }
}

fn part<'a>(data: &'a BTreeMap<String, Vec<u8>>, name: &str) -> Result<&'a [u8], String> {
    data.get(name).filter(|value| !value.is_empty()).map(Vec::as_slice).ok_or_else(|| format!("it has no {name}"))
}

fn authorities(data: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Authority>, String> {
    let certificates = from_pem(part(data, AUTHORITIES)?)?;
    let authority = |certificate: CertificateDer<'static>| {
        let validity = validity(&certificate)?;
        Ok(Authority { certificate, validity })
    };
    certificates.into_iter().take(MAX_AUTHORITIES).map(authority).collect()
}

fn signer(data: &BTreeMap<String, Vec<u8>>, first: Option<&Authority>) -> Result<Issuer<'static, KeyPair>, String> {
    let first = first.ok_or_else(|| format!("its {AUTHORITIES} has no certificate that can be read"))?;
    let text = std::str::from_utf8(part(data, AUTHORITY_KEY)?).map_err(|_| format!("its {AUTHORITY_KEY} is not PEM"))?;
    let key = KeyPair::from_pem(text).map_err(|error| format!("its {AUTHORITY_KEY} cannot be used: {error}"))?;
    let parsed = parse(&first.certificate)?;
    if !parsed.is_ca() {
        return Err(format!("its {AUTHORITIES} is no certificate of an authority"));
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(format!("its {AUTHORITY_KEY} is not the key of its {AUTHORITIES}"));
    }
    Issuer::from_ca_cert_der(&first.certificate, key).map_err(|error| format!("its {AUTHORITIES} cannot sign: {error}"))
}

fn leaf(data: &BTreeMap<String, Vec<u8>>, first: Option<&Authority>) -> Result<Leaf, String> {
    let chain = from_pem(part(data, CHAIN)?).map_err(|error| format!("its {CHAIN} cannot be used: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(part(data, KEY)?).map_err(|error| format!("its {KEY} cannot be used: {error}"))?;
    let end = chain.first().cloned().ok_or_else(|| format!("its {CHAIN} has no certificate"))?;
    let parsed = parse(&end).map_err(|error| format!("its {CHAIN} cannot be used: {error}"))?;
    let names = names(&parsed);
    let authority = first.and_then(|it| parse(&it.certificate).ok());
    let signed_by_first = authority.is_some_and(|it| parsed.verify_signature(Some(it.public_key())).is_ok());
    let validity = validity_of(&parsed);
    let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|error| format!("its {CHAIN} and {KEY} do not fit together: {error}"))?;
    Ok(Leaf { key: Arc::new(key), validity, names, signed_by_first })
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|it| it.to_string()),
        _ => None,
    };
    extension.map(|it| it.value.general_names.iter().filter_map(name).collect()).unwrap_or_default()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

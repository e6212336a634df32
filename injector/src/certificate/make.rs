//! Certificates, made.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use weir_core::rotation::Validity;

use super::BACKDATED;
use super::stored::{AUTHORITIES, AUTHORITY_KEY, Authority, CHAIN, KEY, MAX_AUTHORITIES, to_pem, validity};

const DAY: Duration = Duration::from_secs(86_400);
/// Replacing an authority means that every API server has to hear of it, so it lives long.
pub const AUTHORITY_LIFETIME: Duration = DAY.saturating_mul(3652);
/// Renewed after some two thirds: a month is left to notice that it fails.
pub const LEAF_LIFETIME: Duration = DAY.saturating_mul(90);

/// A certificate could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot make a certificate: {0}")]
pub struct Unmade(String);

/// The data of a Secret with a new authority and a certificate of it. `trusted` are the authorities so far, which stay trusted
/// for a while.
///
/// # Errors
///
/// When the system gives no random numbers, or a name cannot be in a certificate.
pub fn authority(trusted: &[Authority], names: &[String], now: SystemTime) -> Result<BTreeMap<String, Vec<u8>>, Unmade> {
    let key = KeyPair::generate().map_err(failed)?;
    let mut params =
        params("Weir injector authority", Validity { not_before: now - BACKDATED, not_after: now + AUTHORITY_LIFETIME })?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(failed)?.der().clone();
    let key_pem = key.serialize_pem();
    let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(failed)?;
    let mut data = leaf(&issuer, &certificate, names, now)?;
    let others = trusted.iter().map(|it| &it.certificate).take(MAX_AUTHORITIES - 1);
    data.insert(AUTHORITIES.to_owned(), to_pem(std::iter::once(&certificate).chain(others)).into_bytes());
    data.insert(AUTHORITY_KEY.to_owned(), key_pem.into_bytes());
    Ok(data)
}

/// The data of a Secret with a new certificate of the authority that is there; without the authority itself.
///
/// # Errors
///
/// As [`authority`], or when the authority has ended.
pub fn leaf(
    issuer: &Issuer<'static, KeyPair>,
    authority: &CertificateDer<'static>,
    names: &[String],
    now: SystemTime,
) -> Result<BTreeMap<String, Vec<u8>>, Unmade> {
    let wanted = Validity { not_before: now - BACKDATED, not_after: now + LEAF_LIFETIME };
    let within = validity(authority).map_err(Unmade)?;
    let counts = wanted.clamp(within).filter(|it| now < it.not_after);
    let counts = counts.ok_or_else(|| Unmade("the authority has ended".to_owned()))?;
    let mut params = params("Weir injector", counts)?;
    params.subject_alt_names = names.iter().map(|name| subject_name(name)).collect::<Result<_, _>>()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, issuer).map_err(failed)?;
    let parts = [(CHAIN, to_pem(std::iter::once(certificate.der()))), (KEY, key.serialize_pem())];
    Ok(parts.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes())).collect())
}

fn subject_name(name: &str) -> Result<SanType, Unmade> {
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.try_into().map_err(failed)?)),
    }
}

fn params(common_name: &str, validity: Validity) -> Result<CertificateParams, Unmade> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Weir");
    params.distinguished_name.push(DnType::CommonName, common_name);
    // 128 random bits, positive. Without them the number would be made of the key.
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| Unmade("the system gives no random numbers".to_owned()))?;
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = OffsetDateTime::from(validity.not_before);
    params.not_after = OffsetDateTime::from(validity.not_after);
    Ok(params)
}

#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
fn failed(error: rcgen::Error) -> Unmade {
    Unmade(error.to_string())
}

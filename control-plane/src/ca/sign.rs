//! Certificates of the three kinds, made.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use weir_core::names::{Identity, TrustDomain};
use weir_core::rotation::Validity;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::AuthorityError;

const DAY: Duration = Duration::from_secs(86_400);
/// Replacing a root means telling every proxy, so it lives long.
pub const ROOT_LIFETIME: Duration = DAY.saturating_mul(3652);
/// Replacing an issuer is nobody's business but the control plane's; a year leaves months for a renewal that fails.
pub const ISSUER_LIFETIME: Duration = DAY.saturating_mul(365);
/// Certificates begin this long before they are made: clocks differ, and a peer whose clock is behind would take a new
/// certificate for one of the future. Clocks that are a minute apart do no harm, with another minute to spare.
pub const BACKDATED: Duration = Duration::from_secs(120);
/// How long workloads' certificates live unless told otherwise.
pub const LEAF_LIFETIME: Duration = DAY;

/// A certificate that signs others, with its key.
pub struct Signer {
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// When it is valid.
    pub validity: Validity,
    issuer: Issuer<'static, KeyPair>,
}

/// A signer that was just made, with what is written to files.
#[derive(Debug)]
pub struct Made {
    /// The signer.
    pub signer: Signer,
    /// Its certificate as PEM.
    pub certificate_pem: String,
    /// Its key as PEM.
    pub key_pem: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("validity", &self.validity).finish_non_exhaustive()
    }
}

/// The validity of a leaf made now.
#[must_use]
pub fn leaf_validity(now: SystemTime, lifetime: Duration) -> Validity {
    Validity { not_before: now - BACKDATED, not_after: now + lifetime }
}

/// When a certificate is valid.
#[must_use]
pub fn validity(certificate: &X509Certificate<'_>) -> Validity {
    let time = |it: x509_parser::time::ASN1Time| SystemTime::from(it.to_datetime());
    Validity { not_before: time(certificate.validity().not_before), not_after: time(certificate.validity().not_after) }
}

/// A new root.
///
/// # Errors
///
/// When it cannot be made.
pub fn root(trust_domain: &TrustDomain, now: SystemTime) -> Result<Made, AuthorityError> {
    let key = KeyPair::generate().map_err(failed)?;
    let validity = Validity { not_before: now - BACKDATED, not_after: now + ROOT_LIFETIME };
    let mut params = authority_params(trust_domain, "Weir root", validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    let certificate = params.self_signed(&key).map_err(failed)?;
    finish(&certificate, key)
}

impl Signer {
    /// Puts a certificate and its key together.
    ///
    /// # Errors
    ///
    /// A sentence: the certificate cannot be read, is no authority, or the key is not its key.
    pub fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| format!("it is no certificate: {error}"))?;
        if !parsed.is_ca() {
            return Err("the certificate is not one of an authority".to_owned());
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err("the key is not the certificate's".to_owned());
        }
        let validity = validity(&parsed);
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| error.to_string())?;
        Ok(Self { certificate: certificate.clone(), validity, issuer })
    }

    /// A new issuer, signed by this root. It never outlives the root.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or the root has ended.
    pub fn issuer(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Made, AuthorityError> {
        let key = KeyPair::generate().map_err(failed)?;
        let wanted = Validity { not_before: now - BACKDATED, not_after: now + ISSUER_LIFETIME };
        let validity = wanted.clamp(self.validity).filter(|it| now < it.not_after);
        let validity = validity.ok_or_else(|| AuthorityError::Sign("the root's certificate has ended".to_owned()))?;
        let mut params = authority_params(trust_domain, "Weir issuer", validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        finish(&certificate, key)
    }

    /// A certificate for a workload (SPIFFE X.509-SVID).
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn leaf(
        &self,
        identity: &Identity,
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("Weir workload");
        params.subject_alt_names = vec![uri(&identity.to_string())?];
        params.serial_number = Some(serial()?);
        set_validity(&mut params, validity);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer).map_err(failed)?.der().clone())
    }
}

fn finish(certificate: &rcgen::Certificate, key: KeyPair) -> Result<Made, AuthorityError> {
    let (certificate_pem, key_pem) = (certificate.pem(), key.serialize_pem());
    let signer = Signer::new(certificate.der().clone(), key).map_err(AuthorityError::Sign)?;
    Ok(Made { signer, certificate_pem, key_pem })
}

fn authority_params(trust_domain: &TrustDomain, name: &str, validity: Validity) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(name);
    // The trust domain that it signs for (X.509-SVID, section 3.1).
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.serial_number = Some(serial()?);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, validity);
    Ok(params)
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Weir");
    name.push(DnType::CommonName, common_name);
    name
}

fn uri(text: &str) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(text.try_into().map_err(failed)?))
}

/// 128 random bits. Without it the serial number would be made of the key, and two certificates for one key would share it.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| AuthorityError::Sign("the system gives no random numbers".to_owned()))?;
    // A serial number is positive.
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn set_validity(params: &mut CertificateParams, validity: Validity) {
    params.not_before = OffsetDateTime::from(validity.not_before);
    params.not_after = OffsetDateTime::from(validity.not_after);
}

#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
fn failed(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Sign(error.to_string())
}

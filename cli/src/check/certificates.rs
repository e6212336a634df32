//! What checks look at in certificates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::parse_x509_certificate;

/// Certificates of one bundle. A bundle that rotates has a handful.
const MAX_CERTIFICATES: usize = 100;

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    der: Vec<u8>,
    /// Name of its subject.
    pub(super) subject: String,
    /// Whether it is its own issuer, as roots are.
    pub(super) is_root: bool,
    /// From when on it is valid, as Unix time.
    pub(super) begins: i64,
    /// From when on it is not, as Unix time.
    pub(super) ends: i64,
}

/// The certificates in PEM text; what is something else is left out.
pub(super) fn read(pem: &[u8]) -> Vec<Certificate> {
    let blocks = pem::parse_many(pem).unwrap_or_default();
    let certificates = blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE").take(MAX_CERTIFICATES);
    certificates.filter_map(|block| one(block.into_contents())).collect()
}

/// The same in base64, as Secrets and webhook configurations have it.
pub(super) fn read_base64(text: &str) -> Vec<Certificate> {
    STANDARD.decode(text).map(|pem| read(&pem)).unwrap_or_default()
}

/// The certificates in a Secret, whatever its keys are and whether they are PEM or JSON with PEM in it.
pub(super) fn anywhere<'a>(values: impl Iterator<Item = &'a String>) -> Vec<Certificate> {
    let texts = values.filter_map(|value| STANDARD.decode(value).ok()).filter_map(|bytes| String::from_utf8(bytes).ok());
    texts.flat_map(|text| read(text.replace("\\n", "\n").as_bytes())).collect()
}

fn one(der: Vec<u8>) -> Option<Certificate> {
    let (_, parsed) = parse_x509_certificate(&der).ok()?;
    let (subject, is_root) = (parsed.subject().to_string(), parsed.subject() == parsed.issuer());
    let (begins, ends) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    Some(Certificate { der, subject, is_root, begins, ends })
}

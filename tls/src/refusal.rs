//! Why a handshake failed, as a closed set and as a sentence.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use crate::TlsError;
use crate::utc::Utc;

/// Why a TLS connection was refused, by us or by the other side. Prints as a sentence for a log, with the likely cause, and both
/// times where a clock is in question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The chain does not lead to a root of the mesh.
    #[error(
        "the certificate does not lead to a root of this mesh; it belongs to another mesh, or one of the two trust bundles is \
         out of date"
    )]
    UnknownIssuer,
    /// The certificate is out of date.
    #[error("{0}")]
    Expired(String),
    /// The certificate is not valid yet.
    #[error("{0}")]
    NotYetValid(String),
    /// A good certificate of somebody else.
    #[error("{0}")]
    WrongIdentity(String),
    /// The other side has no certificate and needs one.
    #[error("the other side showed no certificate; it is not part of the mesh, or has not received its certificate yet")]
    NoCertificate,
    /// What came is not TLS.
    #[error("the other side does not speak TLS here ({0}); is the port right, and is its sidecar running?")]
    NotTls(String),
    /// The certificate is damaged, or not meant for this.
    #[error("{0}")]
    BadCertificate(String),
    /// The other side refused ours.
    #[error("the other side refused the connection ({alert}): {cause}")]
    PeerRefused {
        /// Its alert, as RFC 8446, section 6 spells it: `unknown_ca`.
        alert: String,
        /// What that most likely means.
        cause: &'static str,
    },
    /// Something else, a broken connection for example.
    #[error("{0}")]
    Other(String),
}

impl Refusal {
    /// The reason for labels and headers, in kebab-case.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::UnknownIssuer => "unknown-issuer",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not-yet-valid",
            Self::WrongIdentity(_) => "wrong-identity",
            Self::NoCertificate => "no-certificate",
            Self::NotTls(_) => "not-tls",
            Self::BadCertificate(_) => "bad-certificate",
            Self::PeerRefused { .. } => "peer-refused",
            Self::Other(_) => "other",
        }
    }
}

/// Why a handshake, or the first read after it, failed. With TLS 1.3 a client learns only then that the server refused it.
#[must_use]
pub fn refusal(error: &io::Error) -> Refusal {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(error) => of_tls(error),
        None => Refusal::Other(error.to_string()),
    }
}

/// The failure as a sentence for a log: [`refusal`], printed.
#[must_use]
pub fn explain(error: &io::Error) -> String {
    refusal(error).to_string()
}

pub(crate) fn of_tls(error: &Error) -> Refusal {
    match error {
        Error::InvalidCertificate(reason) => of_certificate(reason),
        Error::NoCertificatesPresented => Refusal::NoCertificate,
        Error::AlertReceived(alert) => Refusal::PeerRefused { alert: alert_name(*alert), cause: alert_cause(*alert) },
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload,
        )
        | Error::PeerSentOversizedRecord => Refusal::NotTls(error.to_string()),
        other => Refusal::Other(other.to_string()),
    }
}

fn of_certificate(reason: &CertificateError) -> Refusal {
    match reason {
        CertificateError::ExpiredContext { time, not_after } => Refusal::Expired(format!(
            "the certificate expired at {} and it is {} here; it was not renewed, or a clock is wrong",
            utc(*not_after),
            utc(*time)
        )),
        CertificateError::Expired => {
            Refusal::Expired("the certificate has expired; it was not renewed, or a clock is wrong".into())
        }
        CertificateError::NotValidYetContext { time, not_before } => Refusal::NotYetValid(format!(
            "the certificate is valid from {} and it is {} here; one of the clocks is wrong",
            utc(*not_before),
            utc(*time)
        )),
        CertificateError::NotValidYet => {
            Refusal::NotYetValid("the certificate is not valid yet; one of the clocks is wrong".into())
        }
        // A root with the right name and another key shows as a bad signature: it is another CA all the same.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Refusal::UnknownIssuer,
        CertificateError::Other(inner) => match inner.0.downcast_ref::<TlsError>() {
            Some(error @ (TlsError::WrongIdentity { .. } | TlsError::ForeignTrustDomain { .. })) => {
                Refusal::WrongIdentity(error.to_string())
            }
            _ => Refusal::BadCertificate(inner.0.to_string()),
        },
        other => Refusal::BadCertificate(format!("the certificate is not acceptable: {other}")),
    }
}

const fn alert_cause(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "our certificate does not lead to a root that it knows; its trust bundle may be out of date"
        }
        AlertDescription::CertificateExpired => "for it our certificate is not valid now; one of the clocks is wrong",
        AlertDescription::CertificateRequired => "it wants a certificate and we have none yet",
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => "it does not accept our identity",
        AlertDescription::NoApplicationProtocol => "it does not speak the mesh's protocol; is it a Weir proxy of this version?",
        _ => "see the log of the other side",
    }
}

/// `unknown_ca` as RFC 8446 spells it.
fn alert_name(alert: AlertDescription) -> String {
    let camel = format!("{alert:?}");
    let mut name = String::with_capacity(camel.len() + 4);
    let mut before = None::<char>;
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() && before.is_some_and(|b| b.is_ascii_lowercase()) {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
        before = Some(letter);
    }
    name
}

fn utc(time: rustls_pki_types::UnixTime) -> Utc {
    Utc::from_unix_seconds(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

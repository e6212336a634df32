//! The authority as it is written down: in a directory, or in a Secret.
//!
//! One JSON document has everything, so that it is replaced whole or not at all, and whoever takes over the lead finds the
//! rotation where it was left.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use weir_core::names::TrustDomain;
use weir_core::rotation::overlap::{Pace, Phase, PhaseName, Succession};

use super::AuthorityError;
use super::sign;

/// The version of the format.
const FORMAT: u32 = 1;
/// Longest document that is read, in bytes. Two lines of RSA keys with long chains have some 40 KiB.
pub const MAX_DOCUMENT: usize = 512 * 1024;

/// A root, and whatever signs leaves under it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Line {
    /// Whether it is the user's own.
    pub given: bool,
    /// The root's certificate, PEM.
    pub anchor: String,
    /// The root's key, PEM, where the authority made it: new issuers need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor_key: Option<String>,
    /// From what signs leaves up to but without the root, PEM. Empty: the root signs leaves itself.
    pub chain: String,
    /// The key of what signs leaves, PEM.
    pub key: String,
}

/// Never shows a key.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("given", &self.given).finish_non_exhaustive()
    }
}

/// Everything that the authority is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Grows with every change, also with one that is no step of a rotation.
    pub generation: u64,
    /// Its roots.
    pub succession: Succession<Line>,
    /// The last request for a rotation that was taken up.
    pub asked: String,
}

/// As JSON has it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    format: u32,
    trust_domain: String,
    generation: u64,
    epoch: u64,
    phase: String,
    since_seconds: u64,
    #[serde(default)]
    prompt: bool,
    #[serde(default)]
    asked: String,
    signs: Line,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    other: Option<Line>,
}

impl Line {
    /// A new root with an issuer.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn make(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        let root = sign::root(trust_domain, now)?;
        let issuer = root.signer.issuer(trust_domain, now)?;
        Ok(Self {
            given: false,
            anchor: root.certificate_pem,
            anchor_key: Some(root.key_pem),
            chain: issuer.certificate_pem,
            key: issuer.key_pem,
        })
    }

    /// The root's certificate.
    ///
    /// # Errors
    ///
    /// When it is not PEM.
    pub fn anchor_der(&self) -> Result<CertificateDer<'static>, AuthorityError> {
        let wrong = |error: rustls_pki_types::pem::Error| AuthorityError::Document(format!("a root is not PEM: {error}"));
        CertificateDer::from_pem_slice(self.anchor.as_bytes()).map_err(wrong)
    }

    /// The chain's certificates.
    ///
    /// # Errors
    ///
    /// When they are not PEM.
    pub fn chain_ders(&self) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let wrong = |error: rustls_pki_types::pem::Error| AuthorityError::Document(format!("a chain is not PEM: {error}"));
        CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<_, _>>().map_err(wrong)
    }

    /// Whether both lead to one root.
    #[must_use]
    pub fn same_root(&self, other: &Self) -> bool {
        match (self.anchor_der(), other.anchor_der()) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        }
    }
}

/// As precise as it is written down: what was written must be what is read.
pub(super) fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

impl Document {
    /// A new authority.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn make(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        Ok(Self::of(Line::make(trust_domain, now)?, now))
    }

    /// With one root.
    #[must_use]
    pub fn of(line: Line, now: SystemTime) -> Self {
        let succession = Succession::new(line, whole_seconds(now));
        Self { generation: succession.epoch, succession, asked: String::new() }
    }

    /// All roots that are trusted, what signs first, as PEM: what proxies are given.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.succession.trusted().map(|line| line.anchor.as_str()).collect()
    }

    /// As text.
    ///
    /// # Errors
    ///
    /// When it cannot be written, which does not happen.
    pub fn to_json(&self, trust_domain: &TrustDomain) -> Result<String, AuthorityError> {
        let since = self.succession.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let written = Written {
            format: FORMAT,
            trust_domain: trust_domain.to_string(),
            generation: self.generation,
            epoch: self.succession.epoch,
            phase: self.succession.name().as_str().to_owned(),
            since_seconds: since.as_secs(),
            prompt: self.succession.pace() == Some(Pace::Prompt),
            asked: self.asked.clone(),
            signs: self.succession.signs().clone(),
            other: self.succession.other().cloned(),
        };
        serde_json::to_string_pretty(&written).map_err(|error| AuthorityError::Document(error.to_string()))
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    ///
    /// When it is not that, or is of another trust domain.
    pub fn from_json(text: &[u8], trust_domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let wrong = AuthorityError::Document;
        if text.len() > MAX_DOCUMENT {
            return Err(wrong(format!("it has {} bytes, and at most {MAX_DOCUMENT} are read", text.len())));
        }
        // The error of a JSON reader may quote what it read, and there are keys in it.
        let place =
            |error: serde_json::Error| wrong(format!("it cannot be read (line {}, {:?})", error.line(), error.classify()));
        let written: Written = serde_json::from_slice(text).map_err(place)?;
        if written.format != FORMAT {
            return Err(wrong(format!("it has the format {}, and this version of Weir reads {FORMAT}", written.format)));
        }
        if written.trust_domain != trust_domain.as_str() {
            let said: String = written.trust_domain.chars().take(80).flat_map(char::escape_default).collect();
            return Err(wrong(format!(
                "it is of the trust domain `{said}`, and --trust-domain (WEIR_TRUST_DOMAIN) says `{trust_domain}`"
            )));
        }
        let pace = if written.prompt { Pace::Prompt } else { Pace::Careful };
        let phase = PhaseName::ALL.into_iter().find(|it| it.as_str() == written.phase);
        let phase = match (phase, written.signs, written.other) {
            (Some(PhaseName::Stable), signs, None) => Phase::Stable { signs },
            (Some(PhaseName::Published), signs, Some(next)) => Phase::Published { signs, next, pace },
            (Some(PhaseName::Signing), signs, Some(old)) => Phase::Signing { signs, old, pace },
            (Some(_), ..) => return Err(wrong("its phase and its roots do not go together".to_owned())),
            (None, ..) => return Err(wrong("it is in a phase that this version of Weir does not know".to_owned())),
        };
        let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(written.since_seconds));
        let since = since.ok_or_else(|| wrong("its time is none".to_owned()))?;
        let succession = Succession { epoch: written.epoch, phase, since };
        Ok(Self { generation: written.generation, succession, asked: written.asked })
    }
}

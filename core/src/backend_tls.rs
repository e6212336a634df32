//! What a BackendTLSPolicy says: how a caller's sidecar reaches endpoints outside the mesh by TLS.

use std::fmt;
use std::sync::Arc;

/// TLS towards an endpoint, which nobody is sent to in plaintext instead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendTls {
    /// The BackendTLSPolicy that says so, `namespace/name`.
    pub policy: Arc<str>,
    /// How; or why it cannot be done, and every request is refused.
    pub terms: Result<TlsTerms, Arc<str>>,
}

/// Which server is asked for, and which one is believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsTerms {
    /// The name that is asked for (SNI, RFC 6066): a DNS name.
    pub server_name: Arc<str>,
    /// The certificate must have one of these names; there is at least one.
    pub names: Vec<SubjectName>,
    /// What its chain must lead to.
    pub roots: TlsRoots,
}

/// A subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SubjectName {
    /// A DNS name, which the certificate may cover by a wildcard (RFC 9525). One that begins with `*.` is looked for as it is.
    Dns(Arc<str>),
    /// A URI, as it is.
    Uri(Arc<str>),
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) | Self::Uri(name) => f.write_str(name),
        }
    }
}

/// Who is believed about a server's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TlsRoots {
    /// The authorities of the public web that this build of the proxy brings along.
    System,
    /// These certificates (DER), at least one.
    Certificates(Vec<Arc<[u8]>>),
}

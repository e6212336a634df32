//! BackendTLSPolicies, as far as a proxy is concerned.

use std::sync::Arc;

use weir_core::backend_tls::{BackendTls, SubjectName, TlsRoots, TlsTerms};
use weir_proto::v1;

use super::{Invalid, each, required};

/// How endpoints outside the mesh are reached. What cannot be read is refused: it must not become plaintext, nor trust in anybody.
pub(super) fn read(wire: &v1::BackendTls) -> Result<BackendTls, Invalid> {
    let policy = wire.policy.as_str().into();
    if !wire.invalid.is_empty() {
        return Ok(BackendTls { policy, terms: Err(wire.invalid.as_str().into()) });
    }
    let names = each("names", &wire.names, |it| match required("kind", it.kind.as_ref())? {
        v1::subject_name::Kind::Dns(name) => Ok(SubjectName::Dns(name.as_str().into())),
        v1::subject_name::Kind::Uri(uri) => Ok(SubjectName::Uri(uri.as_str().into())),
    })?;
    if names.is_empty() {
        return Err(Invalid::new("names", "is empty: no certificate could have the right name"));
    }
    if wire.server_name.is_empty() {
        return Err(Invalid::new("server_name", "is missing"));
    }
    let roots = match required("roots", wire.roots.as_ref())? {
        v1::backend_tls::Roots::System(true) => TlsRoots::System,
        v1::backend_tls::Roots::System(false) => return Err(Invalid::new("system", "is false, and nothing else is said")),
        v1::backend_tls::Roots::Certificates(it) if it.ders.is_empty() => {
            return Err(Invalid::new("certificates", "is empty: nobody could be believed"));
        }
        v1::backend_tls::Roots::Certificates(it) => {
            TlsRoots::Certificates(it.ders.iter().map(|der| Arc::from(&der[..])).collect())
        }
    };
    Ok(BackendTls { policy, terms: Ok(TlsTerms { server_name: wire.server_name.as_str().into(), names, roots }) })
}

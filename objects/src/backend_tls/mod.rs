//! BackendTLSPolicies of the Gateway API (GEP-1897), and the ConfigMaps that they name.
//!
//! A policy that is wrong is kept all the same, with what is wrong in it: whoever asks for TLS must not get plaintext because of a
//! slip of the pen. Refused whole is only what does not say which Service it is for.

mod read;

use std::sync::Arc;

use weir_core::backend_tls::SubjectName;
use weir_core::names::ObjectName;

use crate::policy::PolicyTarget;
use crate::{FieldPath, Kind, NamespacedName, ObjectKey, Problem};

pub(crate) use read::{config_map, policy};

/// The key of a ConfigMap that holds CA certificates.
pub const CA_KEY: &str = "ca.crt";

/// The most bytes of a CA bundle that are read: all authorities of the public web fit.
pub const MAX_CA: usize = 256 * 1024;

/// A BackendTLSPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendTlsPolicy {
    /// Namespace and name.
    pub key: NamespacedName,
    /// Seconds since 1970 (UTC): of two policies for one port the older one counts.
    pub created_seconds: i64,
    /// `metadata.generation`.
    pub generation: i64,
    /// The Services, or ports of them, that it is for. What is no Service is left to others.
    pub targets: Vec<PolicyTarget>,
    /// Which server is asked for.
    pub hostname: Arc<str>,
    /// One of these names must be in its certificate.
    pub names: Vec<SubjectName>,
    /// Who is believed about that.
    pub authorities: Authorities,
    /// What is wrong with it. If anything is, nobody can be reached by it.
    pub invalid: Vec<Problem>,
}

/// Who is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// Those of the public web.
    System,
    /// Those in these objects.
    Refs(Vec<CaRef>),
}

/// An object with CA certificates, in the policy's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaRef {
    /// Its position in `caCertificateRefs`.
    pub index: usize,
    /// The ConfigMap's name; `None`: it is no ConfigMap.
    pub config_map: Option<ObjectName>,
    /// The reference in one line.
    pub text: Arc<str>,
}

impl CaRef {
    /// Where it is written.
    #[must_use]
    pub fn field(&self) -> FieldPath {
        FieldPath::of(&["spec", "validation", "caCertificateRefs"]).index(self.index)
    }
}

impl BackendTlsPolicy {
    /// The ConfigMaps that it names.
    pub fn config_maps(&self) -> impl Iterator<Item = NamespacedName> {
        let refs = match &self.authorities {
            Authorities::System => &[][..],
            Authorities::Refs(refs) => refs,
        };
        let names = refs.iter().filter_map(|it| it.config_map.clone());
        names.map(|name| NamespacedName { namespace: self.key.namespace.clone(), name })
    }
}

/// A ConfigMap, of which nothing is kept but its CA certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMap {
    /// Namespace and name.
    pub key: NamespacedName,
    /// What stands under [`CA_KEY`].
    pub ca: CaBundle,
}

/// CA certificates as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaBundle {
    /// There is no such key.
    None,
    /// So many bytes are more than are read.
    TooLarge(usize),
    /// PEM, if it is what it should be.
    Text(Arc<str>),
}

/// The policy as any object is named.
#[must_use]
pub fn object_key(policy: &NamespacedName) -> ObjectKey {
    ObjectKey { kind: Kind::BackendTlsPolicy, namespace: policy.namespace.as_str().into(), name: policy.name.as_str().into() }
}

/// The policy that an object's key names. `None`: it is no policy's, or cannot be one.
#[must_use]
pub fn policy_key(key: &ObjectKey) -> Option<NamespacedName> {
    match key.kind {
        Kind::BackendTlsPolicy => Some(NamespacedName { namespace: key.namespace.parse().ok()?, name: key.name.parse().ok()? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

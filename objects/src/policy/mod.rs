//! TrafficPolicies (`weir.dev/v1alpha1`), attached to Services as GEP-713 has it: what their callers keep to, and what their
//! workloads take.
//!
//! A policy is Weir's own, so one that is wrong anywhere is refused whole, with all reasons at once; the version before it counts.

mod read;
mod spec;

use std::sync::Arc;

use weir_core::names::ServiceRef;
use weir_core::policy::{AdaptiveConcurrency, BackendPolicy, Injection, RateLimit};

use crate::{FieldPath, Kind, NamespacedName, ObjectKey};

pub(crate) use read::{number, policy, time};

/// A TrafficPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficPolicy {
    /// Namespace and name.
    pub key: NamespacedName,
    /// Seconds since 1970 (UTC): of two policies for one port the older one counts.
    pub created_seconds: i64,
    /// `metadata.generation`.
    pub generation: i64,
    /// The Services, or ports of them, that it is for. Policies and Services share their namespace.
    pub targets: Vec<PolicyTarget>,
    /// How callers choose endpoints, and how often they try again.
    pub backend: BackendPolicy,
    /// Whether it says how often they try again; if not, an XBackendTrafficPolicy may.
    pub says_budget: bool,
    /// Whether it says which zone's endpoints are preferred; if not, the Service does.
    pub says_locality: bool,
    /// How many requests the workloads take.
    pub rate_limits: Vec<RateLimit>,
    /// How the workloads find out how many they can serve at a time.
    pub concurrency: Option<Arc<AdaptiveConcurrency>>,
    /// The faults that callers meet.
    pub injections: Vec<Injection>,
}

/// What a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTarget {
    /// Its position in `targetRefs`.
    pub index: usize,
    /// The Service.
    pub service: ServiceRef,
    /// The name of its port; `None`: all ports that no other policy names.
    pub section: Option<Arc<str>>,
}

impl PolicyTarget {
    /// Where it is written.
    #[must_use]
    pub fn field(&self) -> FieldPath {
        FieldPath::of(&["spec", "targetRefs"]).index(self.index)
    }
}

/// The policy as any object is named.
#[must_use]
pub fn object_key(policy: &NamespacedName) -> ObjectKey {
    ObjectKey { kind: Kind::TrafficPolicy, namespace: policy.namespace.as_str().into(), name: policy.name.as_str().into() }
}

/// The policy that an object's key names. `None`: it is no policy's, or cannot be one.
#[must_use]
pub fn policy_key(key: &ObjectKey) -> Option<NamespacedName> {
    match key.kind {
        Kind::TrafficPolicy => Some(NamespacedName { namespace: key.namespace.parse().ok()?, name: key.name.parse().ok()? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

//! XBackendTrafficPolicies of the Gateway API's experimental channel (GEP-3388 and GEP-1619): a retry budget for a Service, and
//! sessions that stay with its endpoints.
//!
//! One that is wrong anywhere is refused whole, with all reasons at once; the version before it counts.

mod read;

use std::fmt;
use std::sync::Arc;

use weir_core::budget::BudgetConfig;
use weir_core::policy::hash;
use weir_core::session::{Carrier, Session};

use crate::policy::PolicyTarget;
use crate::{Kind, NamespacedName, ObjectKey};

pub(crate) use read::policy;

/// An XBackendTrafficPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTrafficPolicy {
    /// Namespace and name.
    pub key: NamespacedName,
    /// Seconds since 1970 (UTC): of two policies for one Service the older one counts.
    pub created_seconds: i64,
    /// `metadata.generation`.
    pub generation: i64,
    /// The Services that it is for. What is no Service is left to others.
    pub targets: Vec<PolicyTarget>,
    /// How many retries callers may make, if it says so.
    pub budget: Option<BudgetConfig>,
    /// How sessions are kept, if they are.
    pub persistence: Option<Persistence>,
}

/// How the sessions of a Service are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    session: Session,
    /// The name is the author's; otherwise each place has one of its own.
    is_named: bool,
}

impl Persistence {
    /// How they are kept for what goes through `place`: a rule of a route, or a port. Two places share a session where the policy
    /// names it, and only there.
    #[must_use]
    pub fn at(&self, place: &impl fmt::Display) -> Session {
        let mut session = self.session.clone();
        if self.is_named {
            return session;
        }
        let name = format!("weir-session-{:x}", hash::displayed(place));
        session.carrier = match session.carrier {
            Carrier::Cookie { permanent, .. } => Carrier::Cookie { name: Arc::from(name), permanent },
            Carrier::Header(usual) => Carrier::Header(name.parse().unwrap_or(usual)),
        };
        session
    }

    /// The name that its author gave, if there is one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.is_named.then(|| match &self.session.carrier {
            Carrier::Cookie { name, .. } => &**name,
            Carrier::Header(name) => name.as_str(),
        })
    }

    /// `cookie` or `header`.
    #[must_use]
    pub const fn carrier(&self) -> &'static str {
        match self.session.carrier {
            Carrier::Cookie { .. } => "cookie",
            Carrier::Header(_) => "header",
        }
    }
}

/// The policy as any object is named.
#[must_use]
pub fn object_key(policy: &NamespacedName) -> ObjectKey {
    ObjectKey { kind: Kind::BackendTrafficPolicy, namespace: policy.namespace.as_str().into(), name: policy.name.as_str().into() }
}

/// The policy that an object's key names. `None`: it is no policy's, or cannot be one.
#[must_use]
pub fn policy_key(key: &ObjectKey) -> Option<NamespacedName> {
    match key.kind {
        Kind::BackendTrafficPolicy => {
            Some(NamespacedName { namespace: key.namespace.parse().ok()?, name: key.name.parse().ok()? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

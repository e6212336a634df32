//! What a BackendTLSPolicy asks of callers, and what its author must know.

use std::sync::Arc;

use weir_core::backend_tls::{BackendTls, TlsRoots, TlsTerms};
use weir_core::names::ServiceRef;

use super::policy::{Attach, attachment, holding, target_text};
use super::status::{CONTROLLER, Condition, ParentStatus, Status};
use crate::index::Index;
use crate::objects::backend_tls::{Authorities, BackendTlsPolicy, CA_KEY, CaBundle, CaRef, MAX_CA};
use crate::objects::policy::PolicyTarget;
use crate::objects::{FieldPath, NamespacedName, Problem, ServicePort};

/// The most certificates that callers are told of one policy: they all have to hold them.
const MAX_CERTIFICATES: usize = 512;

impl Attach for BackendTlsPolicy {
    const KIND: &'static str = "BackendTLSPolicy";

    fn key(&self) -> &NamespacedName {
        &self.key
    }

    fn created_seconds(&self) -> i64 {
        self.created_seconds
    }

    fn targets(&self) -> &[PolicyTarget] {
        &self.targets
    }

    fn of_service<'a>(index: &'a Index, service: &ServiceRef) -> impl Iterator<Item = &'a Self> {
        index.tls_policies_of(service).map(AsRef::as_ref)
    }
}

/// The BackendTLSPolicy that holds for a port. One that is wrong holds as well: then nobody is reached.
#[must_use]
pub fn tls_in_force<'a>(index: &'a Index, service: &ServiceRef, port: &ServicePort) -> Option<&'a BackendTlsPolicy> {
    holding(index, service, port)
}

/// What callers of a policy's Service are told.
#[must_use]
pub fn backend_tls(index: &Index, policy: &BackendTlsPolicy) -> BackendTls {
    let resolved = resolve(index, policy);
    let terms = match unusable(policy, &resolved) {
        Some((_, why)) => Err(why.into()),
        None => Ok(TlsTerms {
            server_name: Arc::clone(&policy.hostname),
            names: policy.names.clone(),
            roots: match policy.authorities {
                Authorities::System => TlsRoots::System,
                Authorities::Refs(_) => TlsRoots::Certificates(resolved.certificates),
            },
        }),
    };
    BackendTls { policy: policy.key.to_string().into(), terms }
}

/// The status of a BackendTLSPolicy; `None` if there is none, or no target of it is a Service.
#[must_use]
pub fn backend_tls_status(index: &Index, key: &NamespacedName) -> Option<Status> {
    let policy = index.tls_policy(key)?;
    if policy.targets.is_empty() {
        return None;
    }
    let resolved = resolve(index, policy);
    let condition = |kind, holds, reason, message| Condition {
        kind,
        status: if holds { "True" } else { "False" },
        reason,
        message,
        observed_generation: policy.generation,
    };
    let references = match resolved.lost.first() {
        None => condition("ResolvedRefs", true, "ResolvedRefs", "every CA certificate can be used".to_owned()),
        Some(first) => condition("ResolvedRefs", false, first.reason, listed(resolved.lost.iter().map(Lost::text))),
    };
    let parents = policy.targets.iter().map(|target| {
        let accepted = match (attachment(index, &**policy, target), unusable(policy, &resolved)) {
            (Err((reason, message)), _) => condition("Accepted", false, reason, message),
            (Ok(_), Some((reason, message))) => {
                condition("Accepted", false, reason, format!("{message}; endpoints without a sidecar are not called"))
            }
            (Ok(message), None) => {
                let but = "endpoints with a sidecar are reached by the mesh's mutual TLS instead";
                condition("Accepted", true, "Accepted", format!("{message}; {but}"))
            }
        };
        ParentStatus {
            parent: target_text(target),
            parent_index: target.index,
            controller_name: CONTROLLER,
            conditions: vec![accepted, references.clone()],
        }
    });
    Some(Status {
        kind: BackendTlsPolicy::KIND,
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        parents: parents.collect(),
    })
}

/// What a BackendTLSPolicy names and is not there, or has another policy.
#[must_use]
pub fn backend_tls_unresolved(index: &Index, key: &NamespacedName) -> Vec<Problem> {
    let Some(policy) = index.tls_policy(key) else { return Vec::new() };
    let unattached = policy.targets.iter().filter_map(|target| {
        let (reason, message) = attachment(index, &**policy, target).err()?;
        Some(Problem::new(target.field(), format!("{message} ({reason})")))
    });
    let lost = resolve(index, policy).lost;
    unattached.chain(lost.into_iter().map(|it| Problem::new(it.field, format!("{} ({})", it.message, it.reason)))).collect()
}

/// Why nobody can be reached by it.
fn unusable(policy: &BackendTlsPolicy, resolved: &Resolved) -> Option<(&'static str, String)> {
    if !policy.invalid.is_empty() {
        return Some(("Invalid", listed(policy.invalid.iter().map(ToString::to_string))));
    }
    let without = policy.authorities != Authorities::System && resolved.certificates.is_empty();
    without.then(|| {
        ("NoValidCACertificate", format!("there is no valid CA certificate: {}", listed(resolved.lost.iter().map(Lost::text))))
    })
}

/// The CA certificates of a policy.
struct Resolved {
    /// DER.
    certificates: Vec<Arc<[u8]>>,
    lost: Vec<Lost>,
}

/// A reference that leads to no CA certificate.
struct Lost {
    field: FieldPath,
    reason: &'static str,
    message: String,
}

impl Lost {
    fn text(&self) -> String {
        format!("{}: {}", self.field, self.message)
    }
}

/// Those that can be used count, whatever is wrong with others: a server that only the others know is not believed.
fn resolve(index: &Index, policy: &BackendTlsPolicy) -> Resolved {
    let mut resolved = Resolved { certificates: Vec::new(), lost: Vec::new() };
    let Authorities::Refs(refs) = &policy.authorities else { return resolved };
    for reference in refs {
        match certificates(index, policy, reference) {
            Ok(certificates) if resolved.certificates.len() + certificates.len() > MAX_CERTIFICATES => {
                let message = format!("{MAX_CERTIFICATES} CA certificates are the most for one policy");
                resolved.lost.push(Lost { field: reference.field(), reason: "InvalidCACertificateRef", message });
            }
            Ok(certificates) => resolved.certificates.extend(certificates),
            Err((reason, message)) => resolved.lost.push(Lost { field: reference.field(), reason, message }),
        }
    }
    resolved
}

fn certificates(index: &Index, policy: &BackendTlsPolicy, reference: &CaRef) -> Result<Vec<Arc<[u8]>>, (&'static str, String)> {
    let invalid = |message: String| ("InvalidCACertificateRef", message);
    let Some(name) = &reference.config_map else {
        return Err(("InvalidKind", format!("{} is not read; expected kind ConfigMap of the group \"\"", reference.text)));
    };
    let key = NamespacedName { namespace: policy.key.namespace.clone(), name: name.clone() };
    let bundle = index.config_map(&key).map_or(&CaBundle::None, |it| &it.ca);
    match bundle {
        CaBundle::None => Err(invalid(format!("there is no ConfigMap {key} with a key `{CA_KEY}`"))),
        CaBundle::TooLarge(size) => {
            Err(invalid(format!("`{CA_KEY}` of ConfigMap {key} has {size} bytes, and {MAX_CA} are the most")))
        }
        CaBundle::Text(text) => {
            weir_tls::ca_certificates(text).map_err(|error| invalid(format!("`{CA_KEY}` of ConfigMap {key}: {error}")))
        }
    }
}

fn listed(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join("; ")
}

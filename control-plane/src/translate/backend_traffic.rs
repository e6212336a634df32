//! What an XBackendTrafficPolicy asks of callers, and what its author must know.

use std::fmt;
use std::sync::Arc;

use weir_core::budget::BudgetConfig;
use weir_core::names::{BackendRef, ServiceRef};
use weir_core::session::Session;

use super::policy::{Attach, attachment, holding, in_force, target_text};
use super::status::{CONTROLLER, Condition, ParentStatus, Status};
use crate::index::Index;
use crate::objects::backend_traffic::BackendTrafficPolicy;
use crate::objects::policy::PolicyTarget;
use crate::objects::{NamespacedName, Problem, ServicePort};

impl Attach for BackendTrafficPolicy {
    const KIND: &'static str = "XBackendTrafficPolicy";

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
        index.traffic_policies_of(service).map(AsRef::as_ref)
    }
}

/// The XBackendTrafficPolicy that holds for a port.
#[must_use]
pub fn traffic_in_force<'a>(index: &'a Index, service: &ServiceRef, port: &ServicePort) -> Option<&'a BackendTrafficPolicy> {
    holding(index, service, port)
}

/// The retry budget that it gives to a port. `None`: it gives none, or a TrafficPolicy does, which goes before it.
pub(super) fn budget(index: &Index, service: &ServiceRef, port: &ServicePort) -> Option<BudgetConfig> {
    let budget = traffic_in_force(index, service, port)?.budget?;
    budget_of_another(index, service, port).is_none().then_some(budget)
}

/// The TrafficPolicy that gives a port its retry budget.
fn budget_of_another<'a>(index: &'a Index, service: &ServiceRef, port: &ServicePort) -> Option<&'a NamespacedName> {
    in_force(index, service, port).filter(|policy| policy.says_budget).map(|policy| &policy.key)
}

/// How the sessions of a backend are kept, for what goes there through `place`.
pub(super) fn session(index: &Index, backend: &BackendRef, place: &impl fmt::Display) -> Option<Arc<Session>> {
    let port = index.service(&backend.service)?.port(backend.port)?;
    let policy = traffic_in_force(index, &backend.service, port)?;
    policy.persistence.as_ref().map(|it| Arc::new(it.at(place)))
}

/// The status of an XBackendTrafficPolicy; `None` if there is none, or no target of it is a Service.
#[must_use]
pub fn backend_traffic_status(index: &Index, key: &NamespacedName) -> Option<Status> {
    let policy = index.traffic_policy(key)?;
    if policy.targets.is_empty() {
        return None;
    }
    let parents = policy.targets.iter().map(|target| {
        let (status, reason, message) = match attachment(index, &**policy, target) {
            Ok(message) => ("True", "Accepted", format!("{message}{}", overridden(index, policy, target))),
            Err((reason, message)) => ("False", reason, message),
        };
        let accepted = Condition { kind: "Accepted", status, reason, message, observed_generation: policy.generation };
        ParentStatus {
            parent: target_text(target),
            parent_index: target.index,
            controller_name: CONTROLLER,
            conditions: vec![accepted],
        }
    });
    Some(Status {
        kind: BackendTrafficPolicy::KIND,
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        parents: parents.collect(),
    })
}

/// Where its retry budget does not count, for another one does.
fn overridden(index: &Index, policy: &BackendTrafficPolicy, target: &PolicyTarget) -> String {
    let service = index.service(&target.service).filter(|_| policy.budget.is_some());
    let ports = service.iter().flat_map(|service| &service.ports);
    let held = ports.filter(|port| traffic_in_force(index, &target.service, port).is_some_and(|holder| holder.key == policy.key));
    let others = held.filter_map(|port| {
        let other = budget_of_another(index, &target.service, port)?;
        Some(format!("; the retryBudget of TrafficPolicy {other} counts instead of retryConstraint on port {}", port.port))
    });
    others.collect()
}

/// What an XBackendTrafficPolicy names and is not there, or has another policy.
#[must_use]
pub fn backend_traffic_unresolved(index: &Index, key: &NamespacedName) -> Vec<Problem> {
    let Some(policy) = index.traffic_policy(key) else { return Vec::new() };
    let lost = policy.targets.iter().filter_map(|target| {
        let (reason, message) = attachment(index, &**policy, target).err()?;
        Some(Problem::new(target.field(), format!("{message} ({reason})")))
    });
    lost.collect()
}

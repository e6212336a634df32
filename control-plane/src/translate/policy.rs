//! Which policy holds for a port, and what the author of a TrafficPolicy must know.

use weir_core::names::ServiceRef;

use super::status::{CONTROLLER, Condition, ParentStatus, Status};
use crate::index::Index;
use crate::objects::policy::{PolicyTarget, TrafficPolicy};
use crate::objects::{NamespacedName, Problem, Service, ServiceForm, ServicePort};

/// A policy that is attached to Services, or to ports of them (GEP-713).
pub(super) trait Attach: Sized + 'static {
    /// Its kind.
    const KIND: &'static str;

    /// Its name.
    fn key(&self) -> &NamespacedName;

    /// When it was created, in seconds since 1970.
    fn created_seconds(&self) -> i64;

    /// What it is for.
    fn targets(&self) -> &[PolicyTarget];

    /// Those that name a Service as a target.
    fn of_service<'a>(index: &'a Index, service: &ServiceRef) -> impl Iterator<Item = &'a Self>;
}

impl Attach for TrafficPolicy {
    const KIND: &'static str = "TrafficPolicy";

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
        index.policies_of(service).map(AsRef::as_ref)
    }
}

/// The TrafficPolicy that holds for a port.
#[must_use]
pub fn in_force<'a>(index: &'a Index, service: &ServiceRef, port: &ServicePort) -> Option<&'a TrafficPolicy> {
    holding(index, service, port)
}

/// The policy of a kind that holds for a port. One that names the port goes before one for the whole Service; of two alike the
/// older one counts, and then the first by name (GEP-713). It counts whole: two policies are never mixed.
pub(super) fn holding<'a, P: Attach>(index: &'a Index, service: &ServiceRef, port: &ServicePort) -> Option<&'a P> {
    let for_port = |policy: &&'a P, named: bool| {
        policy.targets().iter().any(|it| it.service == *service && means(it, port) && it.section.is_some() == named)
    };
    let oldest = |named: bool| {
        let policies = P::of_service(index, service);
        policies.filter(|it| for_port(it, named)).min_by_key(|it| (it.created_seconds(), it.key()))
    };
    oldest(true).or_else(|| oldest(false))
}

fn means(target: &PolicyTarget, port: &ServicePort) -> bool {
    target.section.as_ref().is_none_or(|section| **section == *port.name)
}

/// The status of a policy; `None` if there is no such policy.
#[must_use]
pub fn policy_status(index: &Index, key: &NamespacedName) -> Option<Status> {
    let policy = index.policy(key)?;
    let parents = policy.targets.iter().map(|target| {
        let (status, reason, message) = match attachment(index, &**policy, target) {
            Ok(message) => ("True", "Accepted", message),
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
        kind: "TrafficPolicy",
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        parents: parents.collect(),
    })
}

/// What a policy names and is not there, or has another policy.
#[must_use]
pub fn policy_unresolved(index: &Index, key: &NamespacedName) -> Vec<Problem> {
    let Some(policy) = index.policy(key) else { return Vec::new() };
    let lost = policy.targets.iter().filter_map(|target| {
        let (reason, message) = attachment(index, &**policy, target).err()?;
        Some(Problem::new(target.field(), format!("{message} ({reason})")))
    });
    lost.collect()
}

pub(super) fn target_text(target: &PolicyTarget) -> String {
    match &target.section {
        Some(section) => format!("{}#{section}", target.service),
        None => target.service.to_string(),
    }
}

/// Where a policy holds for one of its targets, in a sentence, or why it does not.
pub(super) fn attachment<P: Attach>(index: &Index, policy: &P, target: &PolicyTarget) -> Result<String, (&'static str, String)> {
    let name = &target.service;
    let none = |message: String| Err(("TargetNotFound", message));
    let Some(service) = index.service(name) else { return none(format!("Service {name} does not exist")) };
    if service.form == ServiceForm::ExternalName {
        return none(format!("Service {name} is of type ExternalName: the mesh has no part in its traffic"));
    }
    let meant: Vec<&ServicePort> = service.ports.iter().filter(|port| means(target, port)).collect();
    if meant.is_empty() {
        return none(no_port(service, target));
    }
    let holder = |port: &ServicePort| holding::<P>(index, name, port).map(Attach::key);
    let (own, others): (Vec<&ServicePort>, Vec<&ServicePort>) =
        meant.into_iter().partition(|port| holder(port) == Some(policy.key()));
    let but: Vec<String> =
        others.iter().filter_map(|port| Some(format!("{} {} has port {}", P::KIND, holder(port)?, port.port))).collect();
    if own.is_empty() {
        return Err(("Conflicted", format!("{} of Service {name}; one policy holds for a port", but.join("; "))));
    }
    let ports: Vec<String> = own.iter().map(|port| port.port.to_string()).collect();
    let but = if but.is_empty() { String::new() } else { format!("; {}", but.join("; ")) };
    Ok(format!("in force for Service {name} on port {}{but}", ports.join(", ")))
}

fn no_port(service: &Service, target: &PolicyTarget) -> String {
    let has: Vec<String> = service.ports.iter().map(|port| format!("`{}`", port.name)).collect();
    let has = if has.is_empty() { "no TCP ports".to_owned() } else { format!("ports named {}", has.join(", ")) };
    format!("{} names no port of Service {}, which has {has}", target_text(target), service.name)
}

//! The status of a route: what its author must know. That of a policy has the same form.

use serde::Serialize;
use weir_core::names::ServiceRef;
use weir_core::route::{RouteKind, RouteRef};

use super::{attach, backend};
use crate::index::Index;
use crate::objects::{FieldPath, Problem, Service, ServiceForm, ServicePort};
use crate::routes::{self, Parent, Route, RouteProblem, parent_text};

/// The mesh's name as a controller of the Gateway API.
pub const CONTROLLER: &str = "weir.dev/mesh";

/// A message lists this many problems; the rest is counted. Kubernetes takes messages of 32,768 characters.
const MAX_LISTED: usize = 8;

/// The status of a route or a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `HTTPRoute`, `GRPCRoute`, `TLSRoute`, `TCPRoute`, `TrafficPolicy`, `BackendTLSPolicy` or `XBackendTrafficPolicy`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// One entry for each parent of a route that the mesh answers for, or each target of a policy.
    pub parents: Vec<ParentStatus>,
}

/// The status for one of the parents, or targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The parent in one line: `shop/reviews:80`.
    pub parent: String,
    /// Position in `parentRefs`, or `targetRefs`.
    pub parent_index: usize,
    /// Always [`CONTROLLER`].
    pub controller_name: &'static str,
    /// `Accepted`, `ResolvedRefs`, and `PartiallyInvalid` where it holds.
    pub conditions: Vec<Condition>,
}

/// A condition as Kubernetes writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `True` or `False`.
    pub status: &'static str,
    /// In one word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
    /// The route's `metadata.generation` that this is about.
    pub observed_generation: i64,
}

/// The status of a route, `None` if there is no such route or none of its parents is a Service.
#[must_use]
pub fn status(index: &Index, key: &RouteRef) -> Option<Status> {
    let route = index.route(key)?;
    if route.parents.is_empty() {
        return None;
    }
    let lost = lost(index, route);
    let parents = route.parents.iter().map(|parent| ParentStatus {
        parent: parent_text(parent),
        parent_index: parent.index,
        controller_name: CONTROLLER,
        conditions: conditions(index, route, parent, &lost),
    });
    Some(Status {
        kind: routes::object_key(key).kind.as_str(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        parents: parents.collect(),
    })
}

/// What a route refers to and is not there: Services as parents and as backends.
#[must_use]
pub fn unresolved(index: &Index, key: &RouteRef) -> Vec<Problem> {
    let Some(route) = index.route(key) else { return Vec::new() };
    let unattached = route.parents.iter().filter_map(|parent| {
        let (reason, message) = attachment(index, route, parent).err()?;
        Some(Problem::new(parent.field(), format!("{message} ({reason})")))
    });
    let lost = lost(index, route).into_iter();
    unattached.chain(lost.map(|it| Problem::new(it.field, format!("{} ({})", it.message, it.reason)))).collect()
}

/// A backendRef that leads nowhere.
struct Lost {
    field: FieldPath,
    reason: &'static str,
    message: String,
}

fn lost(index: &Index, route: &Route) -> Vec<Lost> {
    let backends = route.rules.iter().flat_map(routes::Rule::references);
    // Nobody waits for a backend that takes no request.
    let serving = backends.filter(|backend| backend.weight > 0);
    let found = serving.filter_map(|it| Some((it.field.clone(), backend::unresolved(index, route.key.kind, it)?)));
    found.map(|(field, why)| Lost { field, reason: why.reason, message: why.message }).collect()
}

fn conditions(index: &Index, route: &Route, parent: &Parent, lost: &[Lost]) -> Vec<Condition> {
    let generation = route.generation;
    let condition = |kind, holds, reason, message| Condition {
        kind,
        status: if holds { "True" } else { "False" },
        reason,
        message,
        observed_generation: generation,
    };
    let honoured = honoured(route);
    let mut conditions = vec![match (attachment(index, route, parent), &honoured) {
        (Err((reason, message)), _) => condition("Accepted", false, reason, message),
        (Ok(_), Honoured::None(reason, message)) => condition("Accepted", false, reason, message.clone()),
        (Ok(message), Honoured::All | Honoured::Some(..)) => condition("Accepted", true, "Accepted", message),
    }];
    conditions.push(match lost.first() {
        None => condition("ResolvedRefs", true, "ResolvedRefs", "every backend is a Service that exists".to_owned()),
        Some(first) => {
            let listed = list(lost.iter().map(|it| format!("{}: {}", it.field, it.message)));
            condition("ResolvedRefs", false, first.reason, listed)
        }
    });
    if let Honoured::Some(reason, message) = honoured {
        conditions.push(condition("PartiallyInvalid", true, reason, message));
    }
    conditions
}

/// How much of a route is honoured.
enum Honoured {
    All,
    Some(&'static str, String),
    None(&'static str, String),
}

fn honoured(route: &Route) -> Honoured {
    // A parent that cannot be read has no status entry of its own; it spoils no rule.
    let rules = FieldPath::of(&["spec", "rules"]);
    let in_rules: Vec<&RouteProblem> = route.problems.iter().filter(|it| it.field.is_inside(&rules)).collect();
    let Some(first) = in_rules.first() else { return Honoured::All };
    let listed = list(in_rules.iter().map(|it| format!("{}: {}", it.field, it.message)));
    let whole = |rule: &&routes::Rule| rule.invalid.is_none() && rule.backends.iter().all(|backend| backend.invalid.is_none());
    // A rule is also served where only some of its backends are spoiled.
    let serves = |rule: &routes::Rule| {
        rule.invalid.is_none() && (rule.backends.is_empty() || rule.backends.iter().any(|backend| backend.invalid.is_none()))
    };
    if route.rules.iter().any(serves) {
        let (all, spoiled) = (route.rules_written, route.rules_written - route.rules.iter().filter(whole).count());
        let message = format!("Dropped Rule: {spoiled} of {all} rules cannot be honoured, or not in all parts: {listed}");
        Honoured::Some(first.reason.as_str(), message)
    } else {
        Honoured::None(first.reason.as_str(), listed)
    }
}

fn list(messages: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = messages.collect();
    let listed = all.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join("; ");
    if all.len() > MAX_LISTED { format!("{listed}; and {} more", all.len() - MAX_LISTED) } else { listed }
}

/// Where a route is served for one of its parents, in a sentence, or why it is not.
fn attachment(index: &Index, route: &Route, parent: &Parent) -> Result<String, (&'static str, String)> {
    let none = |message: String| Err(("NoMatchingParent", message));
    let name = &parent.service;
    let Some(service) = index.service(name) else { return none(format!("Service {name} does not exist")) };
    match service.form {
        ServiceForm::ClusterIp(_) => {}
        ServiceForm::Headless => return none(format!("Service {name} is headless: its clients choose a Pod themselves")),
        ServiceForm::ExternalName => return none(format!("Service {name} is of type ExternalName")),
    }
    let meant: Vec<&ServicePort> = service.ports.iter().filter(|port| parent.means(port)).collect();
    if meant.is_empty() {
        return none(no_port(service, parent));
    }
    let fitting: Vec<&ServicePort> =
        meant.into_iter().filter(|port| attach::fits(index, service, port, parent, route.key.kind)).collect();
    if fitting.is_empty() {
        let what = match route.key.kind {
            RouteKind::Http => "HTTP",
            RouteKind::Grpc => "gRPC",
            RouteKind::Tls => "TLS of the application's own",
            RouteKind::Tcp => "TCP",
        };
        return none(format!("{} means no port of Service {name} that carries {what}", parent_text(parent)));
    }
    let (served, taken): (Vec<&ServicePort>, Vec<&ServicePort>) =
        fitting.into_iter().partition(|port| is_served(index, service, port, route));
    if served.is_empty() && !route.rules.is_empty() {
        return Err(("Conflicted", format!("{} of Service {name}", takers(index, service, &taken, route))));
    }
    let for_whom = if route.key.namespace == name.namespace {
        "every client".to_owned()
    } else {
        format!("clients in namespace {}", route.key.namespace)
    };
    let but = if taken.is_empty() { String::new() } else { format!("; {}", takers(index, service, &taken, route)) };
    Ok(format!("served to {for_whom} of Service {name} on port {}{but}", numbers(&served)))
}

/// Who has the ports that a route wanted too.
fn takers(index: &Index, service: &Service, taken: &[&ServicePort], route: &Route) -> String {
    let of = |port: &ServicePort| {
        let group = attach::group(index, service, port, &route.key.namespace);
        let who = group.routes.first().map(|it| format!("{} {}", it.key.kind.as_str(), it.key)).unwrap_or_default();
        format!("{who} has port {}", port.port)
    };
    taken.iter().map(|port| of(port)).collect::<Vec<_>>().join("; ")
}

fn is_served(index: &Index, service: &Service, port: &ServicePort, route: &Route) -> bool {
    attach::group(index, service, port, &route.key.namespace).routes.iter().any(|it| it.key == route.key)
}

fn no_port(service: &Service, parent: &Parent) -> String {
    let name: &ServiceRef = &service.name;
    let has: Vec<String> = service.ports.iter().map(|port| format!("{} `{}`", port.port, port.name)).collect();
    let has = if has.is_empty() { "no TCP ports".to_owned() } else { format!("the ports {}", has.join(", ")) };
    format!("{} names no port of Service {name}, which has {has}", parent_text(parent))
}

fn numbers(ports: &[&ServicePort]) -> String {
    ports.iter().map(|port| port.port.to_string()).collect::<Vec<_>>().join(", ")
}

//! A Service as its callers see it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_core::names::{BackendRef, Label, ServiceRef};
use weir_core::route::{HttpRule, RouteKind, RouteTable, WeightedBackend};
use weir_core::snapshot::{Protocol, Service, ServicePort};

use super::attach::{self, Attached};
use super::backend::unresolved;
use super::protocol::{said, server_first};
use crate::index::Index;
use crate::objects::{self, ServiceForm};
use crate::routes::{Route, RouteBackend, Rule};

/// A Service with what it refers to.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceView {
    /// The Service.
    pub service: Service,
    /// Its own ports, and every backend of its routes that leads somewhere: whoever has the Service needs their endpoints.
    pub refers: BTreeSet<BackendRef>,
}

/// Whether clients in `client` see a Service differently from others: the namespace then, `None` for the common view.
#[must_use]
pub fn view(index: &Index, name: &ServiceRef, client: &Label) -> Option<Label> {
    let own = *client != name.namespace && index.routes_to(name).any(|route| route.key.namespace == *client);
    own.then(|| client.clone())
}

/// A Service as clients in `client` see it. `None`: there is no such Service, or it is only another name for a host outside.
#[must_use]
pub fn service(index: &Index, name: &ServiceRef, client: &Label) -> Option<ServiceView> {
    let object = index.service(name)?;
    if object.form == ServiceForm::ExternalName {
        return None;
    }
    let mut refers = BTreeSet::new();
    let mut ports = BTreeMap::new();
    for port in &object.ports {
        refers.insert(BackendRef { service: name.clone(), port: port.port });
        let attached = attach::for_client(index, object, port, client);
        ports.insert(port.port, service_port(index, object, port, &attached, &mut refers));
    }
    let service = Service { name: name.clone(), addresses: object.addresses().to_vec(), ports };
    Some(ServiceView { service, refers })
}

fn service_port(
    index: &Index,
    service: &objects::Service,
    port: &objects::ServicePort,
    attached: &Attached<'_>,
    refers: &mut BTreeSet<BackendRef>,
) -> ServicePort {
    let by_routes = attached.routes.first().map(|route| match route.key.kind {
        RouteKind::Http => Protocol::Http,
        RouteKind::Grpc => Protocol::Http2,
    });
    let by_number = server_first(port.port).then_some(Protocol::Opaque);
    let protocol = said(index, service, port).or(by_routes).or(by_number).unwrap_or_default();
    let table = by_routes.is_some().then(|| {
        let pairs = attached.routes.iter().flat_map(|route| route.rules.iter().map(move |rule| (route, rule)));
        Arc::new(RouteTable::new(pairs.map(|(route, rule)| http_rule(index, route, rule, refers)).collect()))
    });
    ServicePort { name: Arc::clone(&port.name), protocol, routes: table }
}

fn http_rule(index: &Index, route: &Route, rule: &Rule, refers: &mut BTreeSet<BackendRef>) -> HttpRule {
    let backends = rule.backends.iter().map(|backend| weighted(index, backend, refers)).collect();
    HttpRule {
        route: route.key.clone(),
        index: u32::try_from(rule.index).unwrap_or(u32::MAX),
        name: Arc::clone(&rule.name),
        created_seconds: route.created_seconds,
        matches: rule.matches.clone(),
        filters: rule.filters.clone(),
        backends,
        timeouts: rule.timeouts,
        retry: rule.retry.clone(),
        invalid: rule.invalid.clone(),
    }
}

fn weighted(index: &Index, backend: &RouteBackend, refers: &mut BTreeSet<BackendRef>) -> WeightedBackend {
    let lost = || unresolved(index, backend).map(|why| format!("{}: {}", why.reason, why.message).into());
    let invalid = backend.invalid.clone().or_else(lost);
    if invalid.is_none() {
        refers.insert(backend.backend.clone());
    }
    WeightedBackend { backend: backend.backend.clone(), weight: backend.weight, filters: backend.filters.clone(), invalid }
}

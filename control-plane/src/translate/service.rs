//! A Service as its callers see it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_core::names::{BackendRef, Label, ServiceRef};
use weir_core::route::{HttpRule, Mirror, RouteKind, RouteTable, StreamRule, StreamTable, WeightedBackend};
use weir_core::snapshot::{Protocol, Service, ServicePort};

use super::attach::{self, Attached};
use super::backend::unresolved;
use super::backend_traffic::session;
use super::policy::in_force;
use super::protocol::{said, server_first};
use crate::index::Index;
use crate::objects::{self, ServiceForm};
use crate::routes::{Route, RouteBackend, RouteMirror, Rule};

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
    let kind = attached.routes.first().map(|route| route.key.kind);
    let said = said(index, service, port);
    let protocol = match kind {
        Some(RouteKind::Http) => said.unwrap_or(Protocol::Http),
        Some(RouteKind::Grpc) => said.unwrap_or(Protocol::Http2),
        // Whatever is spoken, what is routed is the connection.
        Some(RouteKind::Tls) => Protocol::Tls,
        Some(RouteKind::Tcp) => Protocol::Opaque,
        None => {
            let by_number = server_first(port.port).then_some(Protocol::Opaque);
            said.or(by_number).unwrap_or_default()
        }
    };
    let pairs = attached.routes.iter().flat_map(|route| route.rules.iter().map(move |rule| (route, rule)));
    let (mut routes, mut streams) = (None, None);
    match kind {
        Some(RouteKind::Http | RouteKind::Grpc) => {
            let rules = pairs.map(|(route, rule)| http_rule(index, route, rule, refers)).collect();
            routes = Some(Arc::new(RouteTable::new(rules)));
        }
        Some(kind @ (RouteKind::Tls | RouteKind::Tcp)) => {
            let rules = pairs.map(|(route, rule)| stream_rule(index, route, rule, refers)).collect();
            let table = if kind == RouteKind::Tls { StreamTable::tls(rules) } else { StreamTable::tcp(rules) };
            streams = Some(Arc::new(table));
        }
        None => {}
    }
    let injections = in_force(index, &service.name, port).map(|it| it.injections.clone()).unwrap_or_default();
    let own = BackendRef { service: service.name.clone(), port: port.port };
    let session = if kind.is_none() { session(index, &own, &own) } else { None };
    ServicePort { name: Arc::clone(&port.name), protocol, routes, streams, injections, session }
}

fn stream_rule(index: &Index, route: &Route, rule: &Rule, refers: &mut BTreeSet<BackendRef>) -> StreamRule {
    StreamRule {
        route: route.key.clone(),
        index: u32::try_from(rule.index).unwrap_or(u32::MAX),
        name: Arc::clone(&rule.name),
        hostnames: route.hostnames.clone(),
        backends: rule.backends.iter().map(|backend| weighted(index, route.key.kind, backend, refers)).collect(),
    }
}

fn http_rule(index: &Index, route: &Route, rule: &Rule, refers: &mut BTreeSet<BackendRef>) -> HttpRule {
    let place = format!("{} {} {}", route.key.kind.as_str(), route.key, rule.index);
    let of_backend = |backend: &RouteBackend| match &rule.session {
        Some(_) => None,
        None => session(index, &backend.backend, &place),
    };
    let backends = rule.backends.iter().map(|backend| {
        let weighted = weighted(index, route.key.kind, backend, refers);
        WeightedBackend { session: of_backend(backend).filter(|_| weighted.invalid.is_none()), ..weighted }
    });
    let backends = backends.collect();
    let mirrors = mirrors(index, route.key.kind, &rule.mirrors, refers);
    HttpRule {
        route: route.key.clone(),
        index: u32::try_from(rule.index).unwrap_or(u32::MAX),
        name: Arc::clone(&rule.name),
        created_seconds: route.created_seconds,
        matches: rule.matches.clone(),
        filters: rule.filters.clone(),
        mirrors,
        backends,
        timeouts: rule.timeouts,
        retry: rule.retry.clone(),
        session: rule.session.clone(),
        invalid: rule.invalid.clone(),
    }
}

fn weighted(index: &Index, kind: RouteKind, backend: &RouteBackend, refers: &mut BTreeSet<BackendRef>) -> WeightedBackend {
    let lost = || unresolved(index, kind, backend).map(|why| format!("{}: {}", why.reason, why.message).into());
    let invalid = backend.invalid.clone().or_else(lost);
    if invalid.is_none() {
        refers.insert(backend.backend.clone());
    }
    WeightedBackend {
        backend: backend.backend.clone(),
        weight: backend.weight,
        filters: backend.filters.clone(),
        mirrors: mirrors(index, kind, &backend.mirrors, refers),
        session: None,
        invalid,
    }
}

/// A mirror that leads nowhere gets nothing, as the Gateway API has it: the route's status says so, and its requests are served.
fn mirrors(index: &Index, kind: RouteKind, mirrors: &[RouteMirror], refers: &mut BTreeSet<BackendRef>) -> Vec<Mirror> {
    let leads = mirrors.iter().filter(|it| it.to.wrong_kind.is_none() && unresolved(index, kind, &it.to).is_none());
    leads
        .map(|it| {
            refers.insert(it.to.backend.clone());
            Mirror { backend: it.to.backend.clone(), share: it.share }
        })
        .collect()
}

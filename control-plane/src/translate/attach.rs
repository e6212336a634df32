//! Which routes are attached to a port of a Service (GEP-1294).
//!
//! Routes in the Service's namespace are the producer's, and for every client. Routes of another namespace are a consumer's, for
//! clients in that namespace only; there they replace the producer's. Routes of one group merge, those of two never do.

use std::sync::Arc;

use weir_core::names::Label;
use weir_core::route::RouteKind;
use weir_core::snapshot::Protocol;

use super::protocol::{said, server_first};
use crate::index::Index;
use crate::objects::{Service, ServiceForm, ServicePort};
use crate::routes::{Parent, Route};

/// The routes of one group that a port has.
#[derive(Debug, Default)]
pub(super) struct Attached<'a> {
    /// Those that are served, the oldest first.
    pub(super) routes: Vec<&'a Arc<Route>>,
}

/// The routes for clients in `client`.
pub(super) fn for_client<'a>(index: &'a Index, service: &Service, port: &ServicePort, client: &Label) -> Attached<'a> {
    if *client != service.name.namespace {
        let consumer = group(index, service, port, client);
        if !consumer.routes.is_empty() {
            return consumer;
        }
    }
    group(index, service, port, &service.name.namespace)
}

/// The routes of the group in `namespace`.
pub(super) fn group<'a>(index: &'a Index, service: &Service, port: &ServicePort, namespace: &Label) -> Attached<'a> {
    if !is_parent(service) {
        return Attached::default();
    }
    let mine = index.routes_to(&service.name).filter(|route| route.key.namespace == *namespace && !route.rules.is_empty());
    let mut routes: Vec<&Arc<Route>> = mine.filter(|route| fits_somehow(index, service, port, route)).collect();
    // Kinds do not mix on one port: the more specific protocol has it.
    let kind = RouteKind::BY_PRECEDENCE.into_iter().find(|kind| routes.iter().any(|route| route.key.kind == *kind));
    routes.retain(|route| Some(route.key.kind) == kind);
    routes.sort_by_key(|route| (route.created_seconds, &route.key.namespace, &route.key.name));
    if kind == Some(RouteKind::Tcp) {
        // Each takes every connection.
        routes.truncate(1);
    }
    Attached { routes }
}

/// Whether routes can be attached to it at all.
pub(super) fn is_parent(service: &Service) -> bool {
    matches!(service.form, ServiceForm::ClusterIp(_))
}

fn fits_somehow(index: &Index, service: &Service, port: &ServicePort, route: &Route) -> bool {
    let parents = route.parents.iter().filter(|parent| parent.service == service.name && parent.means(port));
    parents.into_iter().any(|parent| fits(index, service, port, parent, route.key.kind))
}

/// Whether a route of this kind can be served on a port that its parent means.
pub(super) fn fits(index: &Index, service: &Service, port: &ServicePort, parent: &Parent, kind: RouteKind) -> bool {
    match (said(index, service, port), kind) {
        (_, RouteKind::Tcp) | (Some(Protocol::Tls), RouteKind::Tls) => true,
        (Some(Protocol::Opaque), _)
        | (Some(Protocol::Tls), RouteKind::Http | RouteKind::Grpc)
        | (Some(Protocol::Http1), RouteKind::Grpc)
        | (Some(Protocol::Http | Protocol::Http1 | Protocol::Http2), RouteKind::Tls) => false,
        (Some(Protocol::Http | Protocol::Http1 | Protocol::Http2), RouteKind::Http | RouteKind::Grpc) => true,
        // A route that names the port says by that what is spoken on it; one that takes all ports does not mean the database.
        (Some(Protocol::Detect) | None, _) => parent.names_a_port() || !server_first(port.port),
    }
}

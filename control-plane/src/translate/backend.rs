//! Whether a backendRef leads anywhere.

use weir_core::names::ServiceRef;
use weir_core::route::RouteKind;
use weir_core::snapshot::Protocol;

use super::protocol::said;
use crate::index::Index;
use crate::objects::ServiceForm;
use crate::routes::RouteBackend;

/// Why a backendRef leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unresolved {
    /// In the words of the Gateway API.
    pub(super) reason: &'static str,
    /// In a sentence.
    pub(super) message: String,
}

/// Follows a backendRef of a route of this kind. A backend of weight 0 may name a Service that does not exist: it takes no request.
pub(super) fn unresolved(index: &Index, kind: RouteKind, backend: &RouteBackend) -> Option<Unresolved> {
    if let Some(why) = &backend.wrong_kind {
        return Some(Unresolved { reason: "InvalidKind", message: why.to_string() });
    }
    if backend.invalid.is_some() {
        // Already said where the route was read.
        return None;
    }
    let not_found = |message| Some(Unresolved { reason: "BackendNotFound", message });
    let name = &backend.backend.service;
    let Some(service) = index.service(name) else {
        return not_found(format!("Service {name} does not exist"));
    };
    if service.form == ServiceForm::ExternalName {
        return not_found(format!("Service {name} is of type ExternalName, whose endpoints the mesh does not know"));
    }
    let number = backend.backend.port;
    let Some(port) = service.port(number) else {
        let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
        let has = if ports.is_empty() { "no TCP port".to_owned() } else { format!("{} only", ports.join(", ")) };
        return not_found(format!("Service {name} has no port {number}: it has {has}"));
    };
    if !kind.routes_requests() {
        // Bytes are bytes.
        return None;
    }
    match said(index, service, port) {
        Some(Protocol::Opaque) => unsupported(format!("port {number} of Service {name} is said to be opaque, not HTTP")),
        Some(Protocol::Tls) => unsupported(format!("port {number} of Service {name} is said to be TLS of the application's own")),
        Some(Protocol::Http1) if kind == RouteKind::Grpc => {
            unsupported(format!("port {number} of Service {name} is said to be HTTP/1.1, and gRPC needs HTTP/2"))
        }
        Some(Protocol::Detect | Protocol::Http | Protocol::Http1 | Protocol::Http2) | None => {
            unsupported(unknown_protocol(port.unknown.as_deref()?, number, name))
        }
    }
}

/// Nobody knows whether requests can be sent in a protocol of somebody's own (GEP-1911).
fn unknown_protocol(value: &str, number: u16, name: &ServiceRef) -> String {
    format!(
        "port {number} of Service {name} has the appProtocol `{value}`, which Weir does not know: kubernetes.io/h2c, kubernetes.io/ws \
         and names without a prefix, such as http, http2 and grpc, are supported"
    )
}

const fn unsupported(message: String) -> Option<Unresolved> {
    Some(Unresolved { reason: "UnsupportedProtocol", message })
}

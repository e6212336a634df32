//! What is spoken on a port.
//!
//! In this order: an annotation says that the port is opaque; `appProtocol` or the port's name says it; a route that is attached
//! says it; the port's number is that of a protocol whose server speaks first; and else the first bytes will tell.

use weir_core::names::Label;
use weir_core::snapshot::Protocol;

use super::backend_tls::tls_in_force;
use crate::index::Index;
use crate::objects::{Pod, PortSet, Service, ServicePort};

/// Ports of protocols whose server speaks first, or whose client's first bytes are mistaken for something else: FTP, SSH, SMTP,
/// POP3, IMAP, submission, MySQL, NATS, Galera, PostgreSQL, Redis, Elasticsearch's transport, memcached.
const SERVER_FIRST: [u16; 13] = [21, 22, 25, 110, 143, 587, 3306, 4222, 4444, 5432, 6379, 9300, 11211];

/// What somebody wrote about a Service's port.
pub(super) fn said(index: &Index, service: &Service, port: &ServicePort) -> Option<Protocol> {
    let inherited = || namespace_opaque(index, &service.name.namespace);
    let opaque = service.opaque_ports.as_ref().or_else(inherited);
    match port.said {
        _ if opaque.is_some_and(|set| set.contains(port.port)) => Some(Protocol::Opaque),
        // What is said is what the server speaks. TLS is begun by the callers' sidecars, and inside of it is whatever clients say.
        Some(Protocol::Tls) if tls_in_force(index, &service.name, port).is_some() => None,
        said => said,
    }
}

/// Whether an unsaid port is taken as opaque by its number.
pub(super) fn server_first(port: u16) -> bool {
    SERVER_FIRST.contains(&port)
}

/// What a workload speaks on the port behind a Service's port, as far as somebody said it.
pub(super) fn behind(said: Option<Protocol>, target_port: u16, opaque: Option<&PortSet>) -> Protocol {
    if opaque.is_some_and(|set| set.contains(target_port)) { Protocol::Opaque } else { said.unwrap_or_default() }
}

/// The opaque ports of a Pod: its own word, or else its Namespace's.
pub(super) fn pod_opaque<'a>(index: &'a Index, pod: &'a Pod) -> Option<&'a PortSet> {
    pod.policy.opaque_ports.as_ref().or_else(|| namespace_opaque(index, &pod.key.namespace))
}

/// The opaque ports that a Namespace gives to what is in it.
pub(super) fn namespace_opaque<'a>(index: &'a Index, namespace: &Label) -> Option<&'a PortSet> {
    index.namespace(namespace)?.policy.opaque_ports.as_ref()
}

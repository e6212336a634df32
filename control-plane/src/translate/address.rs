//! What stands behind an address that a workload dialled.

use std::net::{IpAddr, SocketAddr};

use weir_core::names::TrustDomain;
use weir_core::snapshot::{AddressTarget, Endpoint, Protocol};

use super::endpoints::identity;
use crate::index::Index;

/// The Service or the workload at an address. `None`: nothing that the mesh knows.
#[must_use]
pub fn address(index: &Index, ip: IpAddr, trust_domain: &TrustDomain) -> Option<AddressTarget> {
    if let Some(service) = index.service_at(ip) {
        return Some(AddressTarget::Service(service.name.clone()));
    }
    let pod = index.pod_at(ip)?;
    Some(AddressTarget::Workload(Endpoint {
        address: SocketAddr::new(ip, 0),
        identity: identity(pod, trust_domain),
        // A policy is for a Service's callers.
        tls: None,
        zone: "".into(),
        // It differs from port to port, and the caller's first bytes tell as well.
        protocol: Protocol::Detect,
        pod: pod.key.name.as_str().into(),
    }))
}

//! What a workload's own proxy must know.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weir_core::names::{BackendRef, Label, ObjectName};
use weir_core::snapshot::{Inbound, InboundPort, Protocol};

use super::policy::in_force;
use super::protocol::{behind, namespace_opaque, said, server_first};
use crate::index::Index;
use crate::objects::{EndpointSlice, NamespacedName, Pod, PortSet};

/// A range of opaque ports may name all 65,535; a proxy is told of this many that no Service names. Opaque ports are few: the
/// annotation exists for databases and the like.
const MAX_OPAQUE_PORTS: usize = 1024;

/// Who asks: a proxy's workload, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: Label,
    /// Name of its Pod.
    pub pod: Option<ObjectName>,
    /// Its service account.
    pub service_account: ObjectName,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

impl Workload {
    /// The key of its Pod.
    #[must_use]
    pub fn pod_key(&self) -> Option<NamespacedName> {
        self.pod.as_ref().map(|name| NamespacedName { namespace: self.namespace.clone(), name: name.clone() })
    }
}

/// The inbound policy of a workload. One that has no Pod object gets what its namespace and its addresses say.
#[must_use]
pub fn inbound(index: &Index, workload: &Workload) -> Inbound {
    let key = workload.pod_key();
    let pod = key.as_ref().and_then(|key| index.pod(key)).filter(|pod| pod.service_account == workload.service_account);
    let namespace = index.namespace(&workload.namespace);
    let mtls = pod.and_then(|pod| pod.policy.mtls).or_else(|| namespace?.policy.mtls).unwrap_or_default();
    let own = pod.and_then(|pod| pod.policy.opaque_ports.as_ref());
    let opaque = own.or_else(|| namespace_opaque(index, &workload.namespace));

    let mut ports: BTreeMap<u16, InboundPort> = BTreeMap::new();
    for ip in ips(workload, pod) {
        for slice in index.slices_at(*ip) {
            if names(slice, *ip, key.as_ref()) {
                add(index, slice, opaque, &mut ports);
            }
        }
    }
    for port in opaque.iter().flat_map(|set| set.iter()).take(MAX_OPAQUE_PORTS) {
        ports.entry(port).or_insert(InboundPort { protocol: Protocol::Opaque, ..InboundPort::default() });
    }
    Inbound { mtls, ports, zone: zone(index, pod, ips(workload, pod)) }
}

/// Which zone a workload is in: as its Pod is labelled, or as the slices say that have it.
fn zone(index: &Index, pod: Option<&Arc<Pod>>, ips: &[IpAddr]) -> Arc<str> {
    if let Some(pod) = pod.filter(|pod| !pod.zone.is_empty()) {
        return Arc::clone(&pod.zone);
    }
    let endpoints = ips.iter().flat_map(|ip| index.slices_at(*ip).flat_map(|it| &it.endpoints).filter(move |it| it.ip == *ip));
    endpoints.map(|it| &it.zone).find(|zone| !zone.is_empty()).map_or_else(|| "".into(), Arc::clone)
}

/// The Pod's word on its addresses counts; a proxy without a Pod object says them itself.
fn ips<'a>(workload: &'a Workload, pod: Option<&'a Arc<Pod>>) -> &'a [IpAddr] {
    pod.map(|pod| pod.ips.as_slice()).filter(|ips| !ips.is_empty()).unwrap_or(&workload.ips)
}

/// Whether the slice means this workload: Pods on their node's network share its address.
fn names(slice: &EndpointSlice, ip: IpAddr, key: Option<&NamespacedName>) -> bool {
    let at = slice.endpoints.iter().filter(|endpoint| endpoint.ip == ip);
    at.into_iter().any(|endpoint| match (&endpoint.pod, key) {
        (Some(named), Some(key)) => named == key,
        _ => true,
    })
}

fn add(index: &Index, slice: &EndpointSlice, opaque: Option<&PortSet>, ports: &mut BTreeMap<u16, InboundPort>) {
    let Some(service) = slice.service.as_ref().and_then(|name| index.service(name)) else { return };
    for target in &slice.ports {
        for port in service.ports.iter().filter(|port| port.name == target.name) {
            let by_number = (server_first(port.port) || server_first(target.port)).then_some(Protocol::Opaque);
            let protocol = behind(said(index, service, port).or(by_number), target.port, opaque);
            let backend = BackendRef { service: service.name.clone(), port: port.port };
            let new = || InboundPort { protocol, service: Some(backend.clone()), ..InboundPort::default() };
            let entry = ports.entry(target.port).or_insert_with(new);
            entry.protocol = both(entry.protocol, protocol);
            // Of every Service that leads here: whoever calls by one of them has passed the others' limits too.
            let limits = in_force(index, &service.name, port).into_iter().flat_map(|policy| &policy.rate_limits);
            for limit in limits {
                if !entry.rate_limits.contains(limit) {
                    entry.rate_limits.push(limit.clone());
                }
            }
            // There is one bound of what is under way at the port: of several that say how it is found the first by name counts.
            let found = in_force(index, &service.name, port).and_then(|policy| policy.concurrency.as_ref());
            if let Some(found) = found.filter(|it| entry.concurrency.as_ref().is_none_or(|has| it.policy < has.policy)) {
                entry.concurrency = Some(Arc::clone(found));
            }
            // Of several Services that lead here the first by name gives the labels.
            if entry.service.as_ref().is_none_or(|current| backend < *current) {
                entry.service = Some(backend);
            }
        }
    }
}

/// What is spoken on a port of which two Services say something: what both say, and if they disagree the first bytes tell.
fn both(one: Protocol, other: Protocol) -> Protocol {
    match (one, other) {
        (one, other) if one == other => one,
        (one, other) if one.is_http() && other.is_http() => Protocol::Http,
        _ => Protocol::Detect,
    }
}

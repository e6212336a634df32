//! Who answers for a port of a Service.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use weir_core::balance::Locality;
use weir_core::names::{BackendRef, Identity, TrustDomain};
use weir_core::snapshot::{Endpoint, Endpoints, Protocol};

use super::backend_tls::{backend_tls, tls_in_force};
use super::backend_traffic::budget;
use super::policy::in_force;
use super::protocol::{behind, pod_opaque, said};
use crate::index::Index;
use crate::objects::{Pod, ServicePort, SliceEndpoint};

/// The endpoints of a Service's port. `None`: there is no such port.
///
/// Where no endpoint is ready, those that still serve while they end are better than none (KEP-1669).
#[must_use]
pub fn endpoints(index: &Index, name: &BackendRef, trust_domain: &TrustDomain) -> Option<Endpoints> {
    let service = index.service(&name.service)?;
    let port = service.port(name.port)?;
    let said = said(index, service, port);
    let collect = |takes: fn(&SliceEndpoint) -> bool| collect(index, name, port, said, trust_domain, takes);
    let mut endpoints = collect(|it| it.ready);
    if endpoints.is_empty() {
        endpoints = collect(|it| it.serving && it.terminating);
    }
    if let Some(tls) = tls_in_force(index, &name.service, port).map(|policy| Arc::new(backend_tls(index, policy))) {
        for endpoint in endpoints.values_mut().filter(|it| it.identity.is_none()) {
            endpoint.tls = Some(Arc::clone(&tls));
        }
    }
    let policy = in_force(index, &name.service, port);
    // What Kubernetes was asked for holds unless a policy says something else.
    let near = service.near_callers || hinted(index, name, port);
    let says_locality = policy.is_some_and(|it| it.says_locality);
    let mut policy = policy.map(|it| it.backend.clone()).unwrap_or_default();
    if near && !says_locality {
        policy.balance.locality = Some(Locality::default());
    }
    if let Some(budget) = budget(index, &name.service, port) {
        policy.budget = budget;
    }
    Some(Endpoints { name: name.clone(), endpoints: endpoints.into_values().collect(), policy: Arc::new(policy) })
}

/// Whether Kubernetes says of every ready endpoint which zone's callers it is meant for. As kube-proxy does, hints are not
/// followed unless all have one.
fn hinted(index: &Index, name: &BackendRef, port: &ServicePort) -> bool {
    let slices = index.slices_of(&name.service).filter(|slice| slice.ports.iter().any(|it| it.name == port.name));
    let mut ready = slices.flat_map(|slice| &slice.endpoints).filter(|it| it.ready).peekable();
    ready.peek().is_some() && ready.all(|it| it.hint.is_some())
}

fn collect(
    index: &Index,
    name: &BackendRef,
    port: &ServicePort,
    said: Option<Protocol>,
    trust_domain: &TrustDomain,
    takes: fn(&SliceEndpoint) -> bool,
) -> BTreeMap<SocketAddr, Endpoint> {
    let mut endpoints = BTreeMap::new();
    for slice in index.slices_of(&name.service) {
        for target in slice.ports.iter().filter(|it| it.name == port.name) {
            for it in slice.endpoints.iter().filter(|it| takes(it)) {
                let address = SocketAddr::new(it.ip, target.port);
                let pod = pod(index, it);
                let opaque = pod.and_then(|pod| pod_opaque(index, pod));
                // While an endpoint moves from one slice to another, both have it: the first by name counts.
                endpoints.entry(address).or_insert_with(|| Endpoint {
                    address,
                    identity: pod.and_then(|pod| identity(pod, trust_domain)),
                    tls: None,
                    zone: Arc::clone(it.hint.as_ref().unwrap_or(&it.zone)),
                    protocol: behind(said, target.port, opaque),
                    pod: pod_name(pod, it),
                });
            }
        }
    }
    endpoints
}

/// The Pod behind an endpoint: the one that the slice names if it really has the address, or else whoever has it. One that has no
/// address yet counts as well: slices and Pods are heard of separately, and the slice may be the first to say what it is.
pub(super) fn pod<'a>(index: &'a Index, endpoint: &SliceEndpoint) -> Option<&'a Arc<Pod>> {
    let named = endpoint.pod.as_ref().and_then(|key| index.pod(key));
    named
        .filter(|pod| (pod.ips.is_empty() || pod.ips.contains(&endpoint.ip)) && !pod.finished)
        .or_else(|| index.pod_at(endpoint.ip))
}

fn pod_name(pod: Option<&Arc<Pod>>, endpoint: &SliceEndpoint) -> Arc<str> {
    let name = pod.map(|pod| &pod.key.name).or_else(|| endpoint.pod.as_ref().map(|key| &key.name));
    name.map_or_else(|| "".into(), |name| name.as_str().into())
}

/// Who a Pod with a sidecar is.
pub(super) fn identity(pod: &Pod, trust_domain: &TrustDomain) -> Option<Arc<Identity>> {
    pod.meshed.then(|| {
        Arc::new(Identity {
            trust_domain: trust_domain.clone(),
            namespace: pod.key.namespace.clone(),
            service_account: pod.service_account.clone(),
        })
    })
}

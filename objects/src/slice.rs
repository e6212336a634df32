//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use weir_core::names::ServiceRef;

use super::field::{FieldPath, excerpt};
use super::reader::{Reader, structure};
use super::{NamespacedName, Object, Read, raw};

/// The label that names a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Some of the endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: NamespacedName,
    /// The Service; `None` for a slice that somebody made for another purpose.
    pub service: Option<ServiceRef>,
    /// The TCP ports that all its endpoints have.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service's port that it stands for.
    pub name: Arc<str>,
    /// The port that the workload listens on.
    pub port: u16,
}

/// An endpoint of a slice. Consumers use the first of its addresses only, as Kubernetes says they should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Where it listens.
    pub ip: IpAddr,
    /// It takes traffic.
    pub ready: bool,
    /// It could take traffic, though it may be on its way out.
    pub serving: bool,
    /// It is on its way out.
    pub terminating: bool,
    /// Topology zone, empty if unknown.
    pub zone: Arc<str>,
    /// The zone whose callers it is meant for, if Kubernetes gave a hint (KEP-2433).
    pub hint: Option<Arc<str>>,
    /// The Pod behind it.
    pub pod: Option<NamespacedName>,
}

pub(super) fn slice(value: &Value) -> Read {
    let raw: raw::EndpointSlice = structure(value)?;
    let mut reader = Reader::default();
    let key = reader.key(&raw.metadata);
    let service = raw.metadata.labels.get(SERVICE_NAME).and_then(|name| {
        let namespace = key.as_ref()?.namespace.clone();
        let name = reader.parse(FieldPath::of(&["metadata", "labels", SERVICE_NAME]), name)?;
        Some(ServiceRef { namespace, name })
    });
    if !raw.metadata.labels.contains_key(SERVICE_NAME) {
        let message = format!("the label {SERVICE_NAME} is missing, so these endpoints belong to no Service");
        reader.note(FieldPath::of(&["metadata", "labels"]), message);
    }
    let ports = ports(&raw.ports, &mut reader);
    let endpoints = match raw.address_type.as_deref() {
        Some("IPv4" | "IPv6") => endpoints(&raw.endpoints, key.as_ref(), &mut reader),
        Some("FQDN") => {
            reader.note(FieldPath::of(&["addressType"]), "FQDN endpoints are not served: write IPv4 or IPv6 addresses");
            Vec::new()
        }
        other => {
            let found = other.map_or_else(|| "nothing".to_owned(), |text| format!("`{}`", excerpt(text)));
            reader.refuse(FieldPath::of(&["addressType"]), format!("expected IPv4, IPv6 or FQDN, found {found}"));
            Vec::new()
        }
    };
    let slice = key.map(|key| EndpointSlice { key, service, ports, endpoints });
    reader.finish(slice.map(|slice| Object::EndpointSlice(Arc::new(slice))))
}

fn ports(raw: &[raw::SlicePort], reader: &mut Reader) -> Vec<SlicePort> {
    let mut ports = Vec::with_capacity(raw.len());
    for (i, it) in raw.iter().enumerate() {
        let port = reader.port(FieldPath::of(&["ports"]).index(i).key("port"), it.port);
        if let (Some(port), None | Some("TCP" | "")) = (port, it.protocol.as_deref()) {
            ports.push(SlicePort { name: it.name.as_deref().unwrap_or_default().into(), port });
        }
    }
    ports
}

fn endpoints(raw: &[raw::SliceEndpoint], key: Option<&NamespacedName>, reader: &mut Reader) -> Vec<SliceEndpoint> {
    let mut endpoints = Vec::with_capacity(raw.len());
    for (i, it) in raw.iter().enumerate() {
        let field = FieldPath::of(&["endpoints"]).index(i);
        let Some(address) = it.addresses.first() else {
            reader.refuse(field.key("addresses"), "is missing: expected one address");
            continue;
        };
        let Some(ip) = reader.parse(field.key("addresses").index(0), address) else { continue };
        // A condition that is not said counts as true, except `terminating`: so the fields are documented in Kubernetes.
        let ready = it.conditions.ready.unwrap_or(true);
        endpoints.push(SliceEndpoint {
            ip,
            ready,
            serving: it.conditions.serving.unwrap_or(ready),
            terminating: it.conditions.terminating.unwrap_or(false),
            zone: it.zone.as_deref().unwrap_or_default().into(),
            hint: it.hints.for_zones.first().map(|zone| zone.name.as_str().into()),
            pod: it.target_ref.as_ref().and_then(|target| pod(target, key?)),
        });
    }
    endpoints
}

/// A reference that cannot be read is only a hint lost: the address tells who the Pod is as well.
fn pod(target: &raw::TargetRef, slice: &NamespacedName) -> Option<NamespacedName> {
    if target.kind.as_deref() != Some("Pod") {
        return None;
    }
    let namespace = target.namespace.as_deref().map_or_else(|| Some(slice.namespace.clone()), |text| text.parse().ok())?;
    Some(NamespacedName { namespace, name: target.name.as_deref()?.parse().ok()? })
}

//! Namespaces and Pods: who a workload is, and what it asks of the mesh.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use weir_core::names::{Label, ObjectName};

use super::annotations::{MESHED, PolicyAnnotations};
use super::field::FieldPath;
use super::reader::{Reader, structure};
use super::{NamespacedName, Object, Read, raw};

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Label,
    /// What it says for its Pods.
    pub policy: PolicyAnnotations,
}

/// A Pod, as far as it matters to its callers and its proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: NamespacedName,
    /// The service account, half of its identity.
    pub service_account: ObjectName,
    /// Its addresses, sorted.
    pub ips: Vec<IpAddr>,
    /// It shares its node's addresses, so they do not tell who it is.
    pub host_network: bool,
    /// It has ended, and its addresses may be somebody else's by now.
    pub finished: bool,
    /// It has a sidecar.
    pub meshed: bool,
    /// Topology zone, empty if it does not say one. Kubernetes labels Pods with their node's since 1.35.
    pub zone: Arc<str>,
    /// What it says for itself.
    pub policy: PolicyAnnotations,
}

/// The label of nodes, and of the Pods on them, that names their zone.
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn namespace(value: &Value) -> Read {
    let raw: raw::Bare = structure(value)?;
    let mut reader = Reader::default();
    let name = reader.parse(FieldPath::of(&["metadata", "name"]), &raw.metadata.name);
    let policy = PolicyAnnotations::read(&raw.metadata, &mut reader);
    reader.finish(name.map(|name| Object::Namespace(Arc::new(Namespace { name, policy }))))
}

pub(super) fn pod(value: &Value) -> Read {
    let raw: raw::Pod = structure(value)?;
    let mut reader = Reader::default();
    let key = reader.key(&raw.metadata);
    let account = raw.spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let service_account = reader.parse(FieldPath::of(&["spec", "serviceAccountName"]), account);
    let ips = pod_ips(&raw.status, &mut reader);
    let policy = PolicyAnnotations::read(&raw.metadata, &mut reader);
    let pod = key.zip(service_account).map(|(key, service_account)| Pod {
        key,
        service_account,
        ips: ips.into_iter().collect(),
        host_network: raw.spec.host_network,
        finished: matches!(raw.status.phase.as_deref(), Some("Succeeded" | "Failed")),
        meshed: raw.metadata.annotations.contains_key(MESHED),
        zone: raw.metadata.labels.get(ZONE).map(String::as_str).unwrap_or_default().into(),
        policy,
    });
    reader.finish(pod.map(|pod| Object::Pod(Arc::new(pod))))
}

fn pod_ips(status: &raw::PodStatus, reader: &mut Reader) -> BTreeSet<IpAddr> {
    let field = FieldPath::of(&["status"]);
    let first = status.pod_ip.iter().map(|ip| (field.key("podIP"), ip.as_str()));
    let all = status.pod_ips.iter().enumerate().map(|(i, it)| (field.key("podIPs").index(i).key("ip"), it.ip.as_str()));
    // An empty address is how Kubernetes writes a Pod that has none yet.
    let written = first.chain(all).filter(|(_, ip)| !ip.is_empty());
    written.filter_map(|(field, ip)| reader.parse(field, ip)).collect()
}

//! Services.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use weir_core::names::ServiceRef;
use weir_core::snapshot::Protocol;

use super::annotations;
use super::field::{FieldPath, excerpt};
use super::port_set::PortSet;
use super::reader::{Reader, structure};
use super::{Object, Read, raw};

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceRef,
    /// How it is reached.
    pub form: ServiceForm,
    /// Its TCP ports, by number.
    pub ports: Vec<ServicePort>,
    /// Ports of the Service whose bytes are not looked at.
    pub opaque_ports: Option<PortSet>,
    /// `trafficDistribution` asks for endpoints near the caller (KEP-4444).
    pub near_callers: bool,
}

/// How a Service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceForm {
    /// By virtual addresses of its own; none yet where Kubernetes has not given it one.
    ClusterIp(Vec<IpAddr>),
    /// By the addresses of its endpoints.
    Headless,
    /// It is another name for a host outside.
    ExternalName,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The name, empty if it has none. EndpointSlices refer to it.
    pub name: Arc<str>,
    /// The number.
    pub port: u16,
    /// What `appProtocol` or else the name's prefix says. `None`: they say nothing.
    pub said: Option<Protocol>,
    /// An `appProtocol` of somebody's own (`example.com/custom`) that nobody here knows. A name without a prefix is never one: those
    /// of IANA's registry that are not known are told by the first bytes.
    pub unknown: Option<Arc<str>>,
}

impl Service {
    /// Its virtual addresses.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        match &self.form {
            ServiceForm::ClusterIp(addresses) => addresses,
            ServiceForm::Headless | ServiceForm::ExternalName => &[],
        }
    }

    /// The port with this number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }
}

pub(super) fn service(value: &Value) -> Read {
    let raw: raw::Service = structure(value)?;
    let mut reader = Reader::default();
    let namespace = reader.namespace(&raw.metadata);
    let name = reader.parse(FieldPath::of(&["metadata", "name"]), &raw.metadata.name);
    let form = form(&raw.spec, &mut reader);
    let ports = ports(&raw.spec.ports, &mut reader);
    let opaque_ports = annotations::opaque_ports(&raw.metadata, &mut reader);
    // Sidecars know zones, and no nodes: the closest that they can come to a caller's node is its zone.
    let near = |asked: &str| matches!(asked, "PreferClose" | "PreferSameZone" | "PreferSameNode");
    let near_callers = raw.spec.traffic_distribution.as_deref().is_some_and(near);
    let name = namespace.zip(name).map(|(namespace, name)| ServiceRef { namespace, name });
    let service = name.map(|name| Service { name, form, ports, opaque_ports, near_callers });
    reader.finish(service.map(|service| Object::Service(Arc::new(service))))
}

fn form(spec: &raw::ServiceSpec, reader: &mut Reader) -> ServiceForm {
    let field = FieldPath::of(&["spec"]);
    match spec.kind.as_deref() {
        None | Some("ClusterIP" | "NodePort" | "LoadBalancer") => {}
        Some("ExternalName") => return ServiceForm::ExternalName,
        Some(other) => {
            let message = "expected ClusterIP, NodePort, LoadBalancer or ExternalName, found";
            reader.refuse(field.key("type"), format!("{message} `{}`", excerpt(other)));
        }
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        return ServiceForm::Headless;
    }
    let first = spec.cluster_ip.iter().map(|ip| (field.key("clusterIP"), ip));
    let all = spec.cluster_ips.iter().enumerate().map(|(i, ip)| (field.key("clusterIPs").index(i), ip));
    let written = first.chain(all).filter(|(_, ip)| !ip.is_empty() && *ip != "None");
    let addresses: BTreeSet<IpAddr> = written.filter_map(|(field, ip)| reader.parse(field, ip)).collect();
    ServiceForm::ClusterIp(addresses.into_iter().collect())
}

fn ports(raw: &[raw::ServicePort], reader: &mut Reader) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::with_capacity(raw.len());
    for (i, it) in raw.iter().enumerate() {
        let field = FieldPath::of(&["spec", "ports"]).index(i);
        let port = reader.port(field.key("port"), it.port);
        // The mesh carries TCP; other protocols pass it by.
        let (Some(port), None | Some("TCP" | "")) = (port, it.protocol.as_deref()) else { continue };
        let name = it.name.as_deref().unwrap_or_default();
        if ports.iter().any(|other| other.port == port || *other.name == *name) {
            reader.refuse(field, format!("port {port} named `{}` repeats the number or the name of another", excerpt(name)));
            continue;
        }
        let said = it.app_protocol.as_deref().and_then(app_protocol).or_else(|| by_name(name));
        let unknown = it.app_protocol.as_deref().filter(|text| text.contains('/') && app_protocol(text).is_none());
        ports.push(ServicePort { name: name.into(), port, said, unknown: unknown.map(|text| excerpt(text).to_string().into()) });
    }
    ports.sort_by_key(|port| port.port);
    ports
}

/// What `appProtocol` says: names of IANA's registry, and those of Kubernetes (KEP-3726). `None` for others.
fn app_protocol(text: &str) -> Option<Protocol> {
    match text.to_ascii_lowercase().as_str() {
        "kubernetes.io/h2c" => Some(Protocol::Http2),
        "kubernetes.io/ws" => Some(Protocol::Http1),
        "kubernetes.io/wss" => Some(Protocol::Tls),
        plain => protocol(plain),
    }
}

/// What a port's name says: `http`, or `http-` and anything.
fn by_name(name: &str) -> Option<Protocol> {
    protocol(name).or_else(|| protocol(name.split_once('-')?.0))
}

fn protocol(name: &str) -> Option<Protocol> {
    match name {
        "http" => Some(Protocol::Http),
        "http1" => Some(Protocol::Http1),
        "http2" | "h2c" | "grpc" => Some(Protocol::Http2),
        "https" | "tls" | "wss" => Some(Protocol::Tls),
        "tcp" | "mysql" | "postgres" | "postgresql" | "mongo" | "mongodb" | "redis" | "amqp" | "kafka" | "nats" | "smtp"
        | "imap" | "pop3" | "ftp" | "ssh" | "memcached" | "cassandra" => Some(Protocol::Opaque),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_protocol_with_a_prefix_is_an_unknown_one() {
        let spec = |text: &str| {
            serde_json::json!({
                "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"ports": [{"name": "http", "port": 80, "appProtocol": text}]},
            })
        };
        for (text, expected) in [
            ("example.com/custom", Some("example.com/custom")),
            ("kubernetes.io/h3", Some("kubernetes.io/h3")),
            ("kubernetes.io/h2c", None),
            ("kubernetes.io/WS", None),
            ("ldap", None),
            ("mysql", None),
            ("HTTP2", None),
            ("", None),
        ] {
            let Ok((Object::Service(service), _)) = super::service(&spec(text)) else { panic!("{text}") };
            assert_eq!(service.ports[0].unknown.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn names_and_app_protocols_say_what_is_spoken() {
        for (name, expected) in [
            ("http", Some(Protocol::Http)),
            ("http-admin", Some(Protocol::Http)),
            ("httpadmin", None),
            ("grpc-web-api", Some(Protocol::Http2)),
            ("mysql", Some(Protocol::Opaque)),
            ("tls-x", Some(Protocol::Tls)),
            ("", None),
        ] {
            assert_eq!(by_name(name), expected, "{name}");
        }
        assert_eq!(app_protocol("kubernetes.io/h2c"), Some(Protocol::Http2));
        assert_eq!(app_protocol("HTTP"), Some(Protocol::Http));
        assert_eq!(app_protocol("example.com/custom"), None);
    }
}

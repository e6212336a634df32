//! From the wire to the core's types: the only file of the proxy that knows both.
//!
//! Nothing that comes in is trusted to make sense. A message that does not is refused whole, and the error names the resource
//! and the field, in the words of the `.proto` file. Routes are read in `decode/rules.rs`.

mod backend_tls;
mod policy;
mod rules;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weir_core::authz::MtlsMode;
use weir_core::names::{BackendRef, Identity, ServiceRef, TrustDomain};
use weir_core::route::RouteTable;
use weir_core::snapshot::{
    AddressTarget, Endpoint, Endpoints, Inbound, InboundPort, Protocol, Resource, ResourceName, Service, ServicePort,
    TrustBundle, Update,
};
use weir_proto::v1;

/// A message that does not make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The resource that it is in, as far as its name could be read.
    pub name: Option<ResourceName>,
    /// The path of the field: `ports[0].http_routes.rules[2].matches[0].path_regex`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Invalid {
    fn new(field: &str, reason: impl fmt::Display) -> Self {
        Self { name: None, field: field.to_owned(), reason: reason.to_string() }
    }

    fn under(mut self, parent: impl fmt::Display) -> Self {
        self.field = if self.field.is_empty() { parent.to_string() } else { format!("{parent}.{}", self.field) };
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{}: ", describe(name))?;
        }
        write!(f, "field {}: {}", self.field, self.reason)
    }
}

impl std::error::Error for Invalid {}

/// A response's content.
///
/// # Errors
///
/// The first field that makes no sense.
pub fn update(response: &v1::DiscoveryResponse) -> Result<Update, Invalid> {
    Ok(Update {
        set: each("updated", &response.updated, resource)?,
        removed: each("removed", &response.removed, resource_name)?,
        forgotten: each("forgotten", &response.forgotten, resource_name)?,
    })
}

/// One resource with its version.
///
/// # Errors
///
/// The first field that makes no sense; a body that is of another kind or name than the resource's name.
pub fn resource(wire: &v1::Resource) -> Result<(Resource, Arc<str>), Invalid> {
    let name = required("name", wire.name.as_ref()).and_then(|name| resource_name(name).map_err(|e| e.under("name")))?;
    let of_this = |mut invalid: Invalid| {
        invalid.name = Some(name.clone());
        invalid
    };
    let body = required("body", wire.body.as_ref()).map_err(of_this)?;
    let resource = match body {
        v1::resource::Body::Service(it) => service(it).map(|it| Resource::Service(Arc::new(it))),
        v1::resource::Body::Endpoints(it) => endpoints(it).map(|it| Resource::Endpoints(Arc::new(it))),
        v1::resource::Body::Address(it) => address(it).map(|(ip, target)| Resource::Address(ip, target)),
        v1::resource::Body::Inbound(it) => inbound(it).map(|it| Resource::Inbound(Arc::new(it))),
        v1::resource::Body::Trust(it) => {
            trust_bundle(&it.trust_domain, &it.roots, it.generation).map(|it| Resource::Trust(Arc::new(it)))
        }
    };
    let resource = resource.map_err(of_this)?;
    let found = resource.name();
    if found != name {
        return Err(of_this(Invalid::new("body", format!("is that of {}", describe(&found)))));
    }
    Ok((resource, wire.version.as_str().into()))
}

/// The name of a resource.
///
/// # Errors
///
/// The field that makes no sense.
pub fn resource_name(wire: &v1::ResourceName) -> Result<ResourceName, Invalid> {
    let unnamed = |name: ResourceName| match wire.name.is_empty() {
        true => Ok(name),
        false => Err(Invalid::new("name", format!("must be empty for this kind, not `{}`", excerpt(&wire.name)))),
    };
    match v1::ResourceKind::try_from(wire.kind) {
        Ok(v1::ResourceKind::Service) => Ok(ResourceName::Service(parse("name", &wire.name)?)),
        Ok(v1::ResourceKind::Endpoints) => Ok(ResourceName::Endpoints(parse("name", &wire.name)?)),
        Ok(v1::ResourceKind::Address) => Ok(ResourceName::Address(ip("name", &wire.name)?)),
        Ok(v1::ResourceKind::Inbound) => unnamed(ResourceName::Inbound),
        Ok(v1::ResourceKind::Trust) => unnamed(ResourceName::Trust),
        Ok(v1::ResourceKind::Unspecified) | Err(_) => Err(unknown("kind", "a kind of resource", wire.kind)),
    }
}

/// A name for the wire.
#[must_use]
pub fn wire_name(name: &ResourceName) -> v1::ResourceName {
    let (kind, name) = match name {
        ResourceName::Service(it) => (v1::ResourceKind::Service, it.to_string()),
        ResourceName::Endpoints(it) => (v1::ResourceKind::Endpoints, it.to_string()),
        ResourceName::Address(it) => (v1::ResourceKind::Address, it.to_string()),
        ResourceName::Inbound => (v1::ResourceKind::Inbound, String::new()),
        ResourceName::Trust => (v1::ResourceKind::Trust, String::new()),
    };
    v1::ResourceName { kind: kind.into(), name }
}

/// A name for people: `service shop/reviews`.
#[must_use]
pub fn describe(name: &ResourceName) -> String {
    match name {
        ResourceName::Service(it) => format!("service {it}"),
        ResourceName::Endpoints(it) => format!("endpoints of {it}"),
        ResourceName::Address(it) => format!("address {it}"),
        ResourceName::Inbound => "the inbound policy".into(),
        ResourceName::Trust => "the trust bundle".into(),
    }
}

/// A trust bundle; whether its roots are certificates is for the one who uses them to find out.
///
/// # Errors
///
/// A trust domain that is none.
pub fn trust_bundle<R: AsRef<[u8]>>(trust_domain: &str, roots: &[R], generation: u64) -> Result<TrustBundle, Invalid> {
    let trust_domain: TrustDomain = parse("trust_domain", trust_domain)?;
    Ok(TrustBundle { trust_domain, roots: roots.iter().map(|root| Arc::from(root.as_ref())).collect(), generation })
}

fn service(wire: &v1::Service) -> Result<Service, Invalid> {
    let name = required("name", wire.name.as_ref()).and_then(|it| service_name(it).map_err(|e| e.under("name")))?;
    let addresses = each("addresses", &wire.addresses, |text| ip("", text))?;
    let mut ports = BTreeMap::new();
    for (index, port) in wire.ports.iter().enumerate() {
        let (number, decoded) = service_port(port).map_err(|e| e.under(format_args!("ports[{index}]")))?;
        if ports.insert(number, decoded).is_some() {
            return Err(Invalid::new(&format!("ports[{index}].port"), format!("{number} is there twice")));
        }
    }
    Ok(Service { name, addresses, ports })
}

fn service_port(wire: &v1::ServicePort) -> Result<(u16, ServicePort), Invalid> {
    let routes = wire.http_routes.as_ref().map(|routes| each("rules", &routes.rules, rules::rule));
    let routes = routes.transpose().map_err(|e| e.under("http_routes"))?;
    let streams = wire.stream_routes.as_ref().map(rules::streams);
    let decoded = ServicePort {
        name: wire.name.as_str().into(),
        protocol: protocol(wire.protocol)?,
        routes: routes.map(|rules| Arc::new(RouteTable::new(rules))),
        streams: streams.map(|it| it.map(Arc::new).map_err(|e| e.under("stream_routes"))).transpose()?,
        injections: each("injections", &wire.injections, policy::injection)?,
        session: rules::shared_session(wire.session.as_ref())?,
    };
    Ok((port("port", wire.port)?, decoded))
}

fn endpoints(wire: &v1::Endpoints) -> Result<Endpoints, Invalid> {
    let name = required("name", wire.name.as_ref()).and_then(|it| backend_name(it).map_err(|e| e.under("name")))?;
    let mut endpoints = each("endpoints", &wire.endpoints, |it| endpoint(it, PortMeans::WhereItListens))?;
    if !wire.tls_endpoints.is_empty() {
        let tls = required("tls", wire.tls.as_ref()).and_then(|it| backend_tls::read(it).map_err(|e| e.under("tls")))?;
        let tls = Arc::new(tls);
        let outside = each("tls_endpoints", &wire.tls_endpoints, |it| endpoint(it, PortMeans::WhereItListens))?;
        if let Some(meshed) = outside.iter().find(|it| it.identity.is_some()) {
            return Err(Invalid::new("tls_endpoints", format!("{} is in the mesh", meshed.address)));
        }
        endpoints.extend(outside.into_iter().map(|it| Endpoint { tls: Some(Arc::clone(&tls)), ..it }));
    }
    endpoints.sort_by_key(|endpoint| endpoint.address);
    let twice = endpoints.windows(2).find_map(|pair| match pair {
        [a, b] if a.address == b.address => Some(a.address),
        _ => None,
    });
    match twice {
        Some(address) => Err(Invalid::new("endpoints", format!("{address} is there twice"))),
        None => {
            let policy = wire.policy.as_ref().map(policy::backend).transpose().map_err(|e| e.under("policy"))?;
            Ok(Endpoints { name, endpoints, policy: Arc::new(policy.unwrap_or_default()) })
        }
    }
}

/// What the port of an endpoint's address is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PortMeans {
    WhereItListens,
    Nothing,
}

fn endpoint(wire: &v1::Endpoint, port_means: PortMeans) -> Result<Endpoint, Invalid> {
    let wrong = |reason: &str| Invalid::new("address", format!("`{}` {reason}", excerpt(&wire.address)));
    let address: SocketAddr = wire.address.parse().map_err(|_| wrong("is not IP:PORT"))?;
    if address.port() == 0 && port_means == PortMeans::WhereItListens {
        return Err(wrong("has port 0, at which nobody listens"));
    }
    let identity: Option<Identity> = match wire.identity.as_str() {
        "" => None,
        text => Some(parse("identity", text)?),
    };
    Ok(Endpoint {
        address,
        identity: identity.map(Arc::new),
        tls: None,
        zone: wire.zone.as_str().into(),
        protocol: protocol(wire.protocol)?,
        pod: wire.pod.as_str().into(),
    })
}

fn address(wire: &v1::Address) -> Result<(IpAddr, AddressTarget), Invalid> {
    let target = match required("target", wire.target.as_ref())? {
        v1::address::Target::Service(it) => AddressTarget::Service(service_name(it).map_err(|e| e.under("service"))?),
        v1::address::Target::Workload(it) => {
            AddressTarget::Workload(endpoint(it, PortMeans::Nothing).map_err(|e| e.under("workload"))?)
        }
    };
    Ok((ip("address", &wire.address)?, target))
}

fn inbound(wire: &v1::Inbound) -> Result<Inbound, Invalid> {
    let mtls = match v1::MtlsMode::try_from(wire.mtls) {
        Ok(v1::MtlsMode::Permissive) => MtlsMode::Permissive,
        Ok(v1::MtlsMode::Strict) => MtlsMode::Strict,
        Err(_) => return Err(unknown("mtls", "a mode", wire.mtls)),
    };
    let mut ports = BTreeMap::new();
    for (index, entry) in wire.ports.iter().enumerate() {
        let (number, decoded) = inbound_port(entry).map_err(|e| e.under(format_args!("ports[{index}]")))?;
        if ports.insert(number, decoded).is_some() {
            return Err(Invalid::new(&format!("ports[{index}].port"), format!("{number} is there twice")));
        }
    }
    Ok(Inbound { mtls, ports, zone: wire.zone.as_str().into() })
}

fn inbound_port(wire: &v1::InboundPort) -> Result<(u16, InboundPort), Invalid> {
    let service = wire.service.as_ref().map(|it| backend_name(it).map_err(|e| e.under("service"))).transpose()?;
    let rate_limits = each("rate_limits", &wire.rate_limits, policy::rate_limit)?;
    let concurrency =
        wire.concurrency.as_ref().map(|it| policy::concurrency(it).map_err(|e| e.under("concurrency"))).transpose()?;
    let concurrency = concurrency.map(Arc::new);
    Ok((port("port", wire.port)?, InboundPort { protocol: protocol(wire.protocol)?, service, rate_limits, concurrency }))
}

fn protocol(wire: i32) -> Result<Protocol, Invalid> {
    match v1::Protocol::try_from(wire) {
        Ok(v1::Protocol::Detect) => Ok(Protocol::Detect),
        Ok(v1::Protocol::Http) => Ok(Protocol::Http),
        Ok(v1::Protocol::Http1) => Ok(Protocol::Http1),
        Ok(v1::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(v1::Protocol::Tls) => Ok(Protocol::Tls),
        Ok(v1::Protocol::Opaque) => Ok(Protocol::Opaque),
        Err(_) => Err(unknown("protocol", "a protocol", wire)),
    }
}

fn service_name(wire: &v1::ServiceName) -> Result<ServiceRef, Invalid> {
    Ok(ServiceRef { namespace: parse("namespace", &wire.namespace)?, name: parse("name", &wire.name)? })
}

fn backend_name(wire: &v1::BackendName) -> Result<BackendRef, Invalid> {
    let service = required("service", wire.service.as_ref())?;
    Ok(BackendRef { service: service_name(service).map_err(|e| e.under("service"))?, port: port("port", wire.port)? })
}

fn port(field: &str, wire: u32) -> Result<u16, Invalid> {
    let port = u16::try_from(wire).ok().filter(|port| *port != 0);
    port.ok_or_else(|| Invalid::new(field, format!("{wire} is not a port: 1 to 65535")))
}

fn ip(field: &str, text: &str) -> Result<IpAddr, Invalid> {
    text.parse().map_err(|_| Invalid::new(field, format!("`{}` is not an IP address", excerpt(text))))
}

fn parse<T: std::str::FromStr<Err: fmt::Display>>(field: &str, text: &str) -> Result<T, Invalid> {
    text.parse().map_err(|error| Invalid::new(field, error))
}

fn required<'a, T>(field: &str, value: Option<&'a T>) -> Result<&'a T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is missing, or of a kind that this proxy is too old to know"))
}

fn unknown(field: &str, what: &str, value: i32) -> Invalid {
    Invalid::new(field, format!("{value} is not {what} that this proxy knows; is it older than the control plane?"))
}

/// Decodes a list; an error says at which position it is.
fn each<W, T>(field: &str, wire: &[W], decode: impl Fn(&W) -> Result<T, Invalid>) -> Result<Vec<T>, Invalid> {
    wire.iter().enumerate().map(|(index, it)| decode(it).map_err(|e| e.under(format_args!("{field}[{index}]")))).collect()
}

/// Shortens what somebody else wrote so that it fits into a message.
fn excerpt(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests;

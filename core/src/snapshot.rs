//! A proxy's configuration: immutable, versioned, replaced whole or not at all.
//!
//! The control plane sends an [`Update`]; [`Snapshot::apply`] makes the next snapshot of it or says why it cannot, and then the
//! old one serves on. What a snapshot holds is what its proxy subscribed to, not the mesh.

mod apply;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::authz::MtlsMode;
use crate::backend_tls::BackendTls;
use crate::names::{BackendRef, Identity, ServiceRef, TrustDomain};
use crate::policy::{AdaptiveConcurrency, BackendPolicy, Injection, RateLimit};
use crate::route::{RouteTable, StreamTable};
use crate::session::Session;

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Not said: the first bytes tell.
    #[default]
    Detect,
    /// HTTP in whichever version the client speaks.
    Http,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge, gRPC included.
    Http2,
    /// The application's own TLS.
    Tls,
    /// Bytes that are not looked at.
    Opaque,
}

impl Protocol {
    /// Whether requests are routed one by one.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http1 | Self::Http2)
    }
}

/// A Service as its callers see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceRef,
    /// Virtual addresses; empty for a headless service.
    pub addresses: Vec<IpAddr>,
    /// Ports by number.
    pub ports: BTreeMap<u16, ServicePort>,
}

/// One port of a [`Service`].
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// The port's name, empty if it has none.
    pub name: Arc<str>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The routes attached to it. `None`: none is attached and requests go to the service's own endpoints.
    /// An empty table: routes are attached, and none of them matches anything.
    pub routes: Option<Arc<RouteTable>>,
    /// The TCPRoutes or TLSRoutes attached to it, which route connections as a whole. Never beside `routes`.
    pub streams: Option<Arc<StreamTable>>,
    /// What its callers are made to meet, on purpose.
    pub injections: Vec<Injection>,
    /// How requests that belong together go to one endpoint, where no route is attached.
    pub session: Option<Arc<Session>>,
}

/// Who can answer for one port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The service and its port.
    pub name: BackendRef,
    /// Ready endpoints, sorted by address, each address once.
    pub endpoints: Vec<Endpoint>,
    /// How callers choose among them.
    pub policy: Arc<BackendPolicy>,
}

/// One workload behind a service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Set when it has a sidecar: callers use mutual TLS and accept this identity only.
    pub identity: Option<Arc<Identity>>,
    /// Set when it has none, and a policy says that it is reached by TLS. It is part of what the endpoint is: under other terms it
    /// is another one, to which no connection leads yet.
    pub tls: Option<Arc<BackendTls>>,
    /// Topology zone, empty if unknown.
    pub zone: Arc<str>,
    /// What the workload speaks on this port.
    pub protocol: Protocol,
    /// Name of the pod, for errors and logs; empty if unknown.
    pub pod: Arc<str>,
}

/// What stands behind an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressTarget {
    /// A Service's virtual address: traffic is routed.
    Service(ServiceRef),
    /// A workload's own address: traffic is secured, not routed. The port in it means nothing.
    Workload(Endpoint),
}

/// The proxy's policy for connections that come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbound {
    /// Whether plaintext may enter.
    pub mtls: MtlsMode,
    /// What is known of the workload's ports.
    pub ports: BTreeMap<u16, InboundPort>,
    /// Topology zone that the workload is in, empty if unknown.
    pub zone: Arc<str>,
}

/// One port that the workload listens on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboundPort {
    /// What the workload speaks on it.
    pub protocol: Protocol,
    /// The service and port that callers reach it by, for labels and messages.
    pub service: Option<BackendRef>,
    /// How many requests it takes.
    pub rate_limits: Vec<RateLimit>,
    /// How many it takes at a time, where that is to be found out.
    pub concurrency: Option<Arc<AdaptiveConcurrency>>,
}

/// The roots that peers' certificates must lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// DER certificates. If `generation` is not 0, new certificates lead to the first one.
    pub roots: Vec<Arc<[u8]>>,
    /// Grows with each change; of two bundles the greater one counts. 0: not said.
    pub generation: u64,
}

/// What the control plane knows about a name: something, or that there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known<T> {
    /// It exists.
    Present(T),
    /// The control plane said that it does not exist.
    Absent,
}

impl<T> Known<T> {
    /// The thing, if there is one.
    pub const fn present(&self) -> Option<&T> {
        match self {
            Self::Present(it) => Some(it),
            Self::Absent => None,
        }
    }
}

/// Names a resource of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceName {
    /// See [`Service`].
    Service(ServiceRef),
    /// See [`Endpoints`].
    Endpoints(BackendRef),
    /// See [`AddressTarget`].
    Address(IpAddr),
    /// See [`Inbound`].
    Inbound,
    /// See [`TrustBundle`].
    Trust,
}

/// As a message names it: `service shop/reviews`.
impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service {name}"),
            Self::Endpoints(name) => write!(f, "endpoints {name}"),
            Self::Address(ip) => write!(f, "address {ip}"),
            Self::Inbound => f.write_str("inbound policy"),
            Self::Trust => f.write_str("trust bundle"),
        }
    }
}

/// One resource of an [`Update`].
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A service with its routes.
    Service(Arc<Service>),
    /// The endpoints of one service port.
    Endpoints(Arc<Endpoints>),
    /// What stands behind an address.
    Address(IpAddr, AddressTarget),
    /// The proxy's own inbound policy.
    Inbound(Arc<Inbound>),
    /// The trust bundle.
    Trust(Arc<TrustBundle>),
}

impl Resource {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> ResourceName {
        match self {
            Self::Service(it) => ResourceName::Service(it.name.clone()),
            Self::Endpoints(it) => ResourceName::Endpoints(it.name.clone()),
            Self::Address(it, _) => ResourceName::Address(*it),
            Self::Inbound(_) => ResourceName::Inbound,
            Self::Trust(_) => ResourceName::Trust,
        }
    }
}

/// A change of the configuration, applied whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// New or changed resources, each with its opaque version.
    pub set: Vec<(Resource, Arc<str>)>,
    /// Names that are known not to exist.
    pub removed: Vec<ResourceName>,
    /// Names that nothing refers to any more.
    pub forgotten: Vec<ResourceName>,
}

/// Why an update was refused. The old snapshot serves on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// One update says two things about one name.
    #[error("the {0} is named twice in one update")]
    NamedTwice(ResourceName),
    /// Every proxy has an inbound policy and a trust bundle. Without the one a strict workload would let plaintext in, without
    /// the other it would let nobody in.
    #[error("the {0} can be replaced, not removed")]
    Indispensable(ResourceName),
    /// A trust bundle without roots would cut every connection.
    #[error("the trust bundle has no roots")]
    NoRoots,
    /// The trust domain is part of every identity and cannot change under running workloads.
    #[error("the trust domain is {old}, and an update says {new}; restart the workloads to move them to another trust domain")]
    TrustDomainChanged {
        /// What it is.
        old: TrustDomain,
        /// What the update says.
        new: TrustDomain,
    },
    /// Over the bound on what one proxy holds.
    #[error("the update would bring the configuration to {count} resources, more than the {max} that a proxy holds")]
    TooLarge {
        /// Resources after the update.
        count: usize,
        /// The bound.
        max: usize,
    },
}

/// The most resources that one proxy holds. A workload that calls every service of a 10,000-service mesh on three ports each
/// stays below; a broken control plane that sends without end does not.
pub const MAX_RESOURCES: usize = 100_000;

/// A proxy's whole configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    services: HashMap<ServiceRef, Known<Arc<Service>>>,
    endpoints: HashMap<BackendRef, Arc<Endpoints>>,
    addresses: HashMap<IpAddr, Known<AddressTarget>>,
    inbound: Arc<Inbound>,
    trust: Option<Arc<TrustBundle>>,
    versions: HashMap<ResourceName, Arc<str>>,
    generation: u64,
}

impl Snapshot {
    /// What is known of a service. `None`: nothing yet, ask for it.
    #[must_use]
    pub fn service(&self, name: &ServiceRef) -> Option<&Known<Arc<Service>>> {
        self.services.get(name)
    }

    /// A port of a service that is there. What it refers to is in this snapshot too, and may be in no other: whoever reads a
    /// port's routes looks their endpoints up here.
    #[must_use]
    pub fn service_port(&self, name: &BackendRef) -> Option<&ServicePort> {
        match self.services.get(&name.service)? {
            Known::Present(service) => service.ports.get(&name.port),
            Known::Absent => None,
        }
    }

    /// The endpoints of a service port. `None` where the port is not known.
    #[must_use]
    pub fn endpoints(&self, name: &BackendRef) -> Option<&Arc<Endpoints>> {
        self.endpoints.get(name)
    }

    /// What is known of an address. `None`: nothing yet, ask for it.
    #[must_use]
    pub fn address(&self, ip: IpAddr) -> Option<&Known<AddressTarget>> {
        self.addresses.get(&ip)
    }

    /// The inbound policy; the default one until the control plane sends another.
    #[must_use]
    pub const fn inbound(&self) -> &Arc<Inbound> {
        &self.inbound
    }

    /// The trust bundle, once there is one.
    #[must_use]
    pub const fn trust(&self) -> Option<&Arc<TrustBundle>> {
        self.trust.as_ref()
    }

    /// How many updates have been applied.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// All services that are known of, in the order of their names.
    pub fn services(&self) -> impl ExactSizeIterator<Item = (&ServiceRef, &Known<Arc<Service>>)> {
        sorted(&self.services)
    }

    /// The endpoints of all service ports, in the order of their names.
    pub fn all_endpoints(&self) -> impl ExactSizeIterator<Item = (&BackendRef, &Arc<Endpoints>)> {
        sorted(&self.endpoints)
    }

    /// All addresses that are known of, in their order.
    pub fn addresses(&self) -> impl ExactSizeIterator<Item = (&IpAddr, &Known<AddressTarget>)> {
        sorted(&self.addresses)
    }

    /// The version of a resource that is held. `None`: it is not, or it is known not to exist.
    #[must_use]
    pub fn version(&self, name: &ResourceName) -> Option<&Arc<str>> {
        self.versions.get(name)
    }

    /// Names and versions of everything held, in the order of the names.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<ResourceName, Arc<str>> {
        self.versions.iter().map(|(name, version)| (name.clone(), Arc::clone(version))).collect()
    }
}

fn sorted<K: Ord, V>(map: &HashMap<K, V>) -> impl ExactSizeIterator<Item = (&K, &V)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries.into_iter()
}

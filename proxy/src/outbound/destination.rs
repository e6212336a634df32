//! From what the client wrote to what the mesh knows.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use weir_core::names::{BackendRef, Target};
use weir_core::route::StreamTable;
use weir_core::snapshot::{AddressTarget, Endpoint, Known, Protocol, Snapshot};

use crate::fault::{Fault, Reason};
use crate::worker::Worker;

/// How long the system's resolver may take over a name outside the cluster.
const DNS_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a request or a connection goes.
#[derive(Clone)]
pub(crate) enum Destination {
    /// A port of a service: routed and balanced, as the configuration says at that moment.
    Service(BackendRef),
    /// A workload by its own address: secured, not routed.
    Workload(Endpoint),
    /// Outside the mesh: passed on as it is.
    Outside(SocketAddr),
}

impl Destination {
    /// The routes for connections, where it is a service's port that has some.
    pub(crate) fn streams<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a StreamTable> {
        match self {
            Self::Service(backend) => snapshot.service_port(backend)?.streams.as_deref(),
            Self::Workload(_) | Self::Outside(_) => None,
        }
    }

    /// What is spoken there.
    pub(crate) fn protocol(&self, snapshot: &Snapshot) -> Protocol {
        match self {
            Self::Service(backend) => snapshot.service_port(backend).map_or(Protocol::Detect, |port| port.protocol),
            Self::Workload(endpoint) => endpoint.protocol,
            Self::Outside(_) => Protocol::Opaque,
        }
    }
}

/// The address that a redirected connection was made to, and what stands behind it. Connections outlive configurations: what
/// stands there is looked up again when the configuration is another one.
pub(crate) struct Dialled {
    /// The address.
    pub(crate) address: SocketAddr,
    /// As of the snapshot of this generation.
    found: RefCell<(u64, Destination)>,
}

impl Dialled {
    /// Finds what stands behind an address.
    ///
    /// # Errors
    ///
    /// As [`find`].
    pub(crate) async fn find(worker: &Worker, address: SocketAddr) -> Result<Self, Fault> {
        let generation = worker.shared.snapshot.load().generation();
        let found = by_address(worker, address).await?;
        Ok(Self { address, found: RefCell::new((generation, found)) })
    }

    /// What stands there now.
    ///
    /// # Errors
    ///
    /// As [`find`].
    pub(crate) async fn destination(&self, worker: &Worker) -> Result<Destination, Fault> {
        let generation = worker.shared.snapshot.load().generation();
        {
            let found = self.found.borrow();
            if found.0 == generation {
                return Ok(found.1.clone());
            }
        }
        let destination = by_address(worker, self.address).await?;
        self.found.replace((generation, destination.clone()));
        Ok(destination)
    }
}

/// Finds the destination, asking the control plane and the system's resolver where needed.
///
/// # Errors
///
/// Nothing is there, or nobody can say.
pub(crate) async fn find(worker: &Worker, target: Target) -> Result<Destination, Fault> {
    match target {
        Target::Service(backend) => service(worker, backend).await,
        Target::Address(address) => by_address(worker, address).await,
        Target::External { host, port } => outside(worker, &host, port).await,
    }
}

/// Finds what stands behind an address that was dialled.
///
/// # Errors
///
/// As [`find`].
async fn by_address(worker: &Worker, address: SocketAddr) -> Result<Destination, Fault> {
    refuse_loop(worker, address)?;
    match worker.address(address.ip()).await? {
        Known::Present(AddressTarget::Service(name)) => service(worker, BackendRef { service: name, port: address.port() }).await,
        Known::Present(AddressTarget::Workload(endpoint)) => Ok(Destination::Workload(Endpoint { address, ..endpoint })),
        Known::Absent => Ok(Destination::Outside(address)),
    }
}

async fn service(worker: &Worker, backend: BackendRef) -> Result<Destination, Fault> {
    let Known::Present(service) = worker.service(&backend.service).await? else {
        let detail = format!("there is no service {}; names of two parts are read as SERVICE.NAMESPACE", backend.service);
        return Err(Fault::new(Reason::UnknownDestination, detail));
    };
    if !service.ports.contains_key(&backend.port) {
        let ports: Vec<_> = service.ports.keys().map(ToString::to_string).collect();
        let detail = format!("service {} has no port {}; it has {}", backend.service, backend.port, ports.join(", "));
        return Err(Fault::new(Reason::UnknownPort, detail));
    }
    Ok(Destination::Service(backend))
}

async fn outside(worker: &Worker, host: &str, port: u16) -> Result<Destination, Fault> {
    let unknown = |why: String| Fault::new(Reason::UnknownDestination, format!("{host} is no service of the mesh, and {why}"));
    let found = tokio::time::timeout(DNS_TIMEOUT, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| unknown(String::from("DNS does not answer")))?
        .map_err(|error| unknown(format!("DNS says: {error}")))?
        .next()
        .ok_or_else(|| unknown(String::from("DNS has no address for it")))?;
    // A name may point into the mesh; then its policies hold, whatever the name.
    by_address(worker, found).await
}

/// A request to one of the proxy's own listeners would come back here until everything is used up.
fn refuse_loop(worker: &Worker, address: SocketAddr) -> Result<(), Fault> {
    let settings = &worker.shared.settings;
    let ipv6 = &settings.ipv6;
    let own = [Some(settings.outbound_listen), settings.inbound_listen, Some(settings.admin_listen)];
    let is_own = own.into_iter().chain([ipv6.outbound, ipv6.inbound, ipv6.admin]).flatten().any(|it| {
        it.port() == address.port()
            && (it.ip() == address.ip() || (it.ip().is_unspecified() && is_this_workload(worker, address.ip())))
    });
    if is_own {
        return Err(Fault::new(Reason::Loop, format!("{address} is this proxy itself")));
    }
    Ok(())
}

fn is_this_workload(worker: &Worker, ip: std::net::IpAddr) -> bool {
    ip.is_loopback() || worker.shared.settings.workload.pod_ips.contains(&ip)
}

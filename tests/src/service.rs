//! A Service and who stands behind it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::NAMESPACE;
use crate::manifest::ServiceObjects;
use crate::mesh::Ground;
use crate::workload::{POD_PORT, Workload};

/// What a Service shall be. [`Self::apply`] writes it; applying another of the same name edits it.
pub struct ServiceBuilder {
    ground: Arc<Ground>,
    name: String,
    namespace: String,
    cluster_ip: Option<Ipv4Addr>,
    port: u16,
    port_name: String,
    app_protocol: Option<String>,
    endpoints: Vec<(String, Ipv4Addr, bool)>,
}

impl ServiceBuilder {
    pub(crate) fn new(ground: Arc<Ground>, name: &str) -> Self {
        let cluster_ip = Some(ground.cluster_ip(name));
        Self {
            ground,
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            cluster_ip,
            port: 80,
            port_name: "http".to_owned(),
            app_protocol: None,
            endpoints: Vec::new(),
        }
    }

    /// In another namespace.
    #[must_use]
    pub fn namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self }
    }

    /// With this port, whose name tells the protocol: `http`, `grpc`, `tcp` ….
    #[must_use]
    pub fn port(self, port: u16, name: &str) -> Self {
        Self { port, port_name: name.to_owned(), ..self }
    }

    /// With an `appProtocol`.
    #[must_use]
    pub fn app_protocol(self, protocol: &str) -> Self {
        Self { app_protocol: Some(protocol.to_owned()), ..self }
    }

    /// Behind it stand these.
    #[must_use]
    pub fn backed_by<'a>(mut self, workloads: impl IntoIterator<Item = &'a Workload>) -> Self {
        self.endpoints.extend(workloads.into_iter().map(|it| (it.name().to_owned(), it.address(), true)));
        self
    }

    /// Behind it stands something at this address that the harness did not start.
    #[must_use]
    pub fn backed_by_address(mut self, pod: &str, address: Ipv4Addr) -> Self {
        self.endpoints.push((pod.to_owned(), address, true));
        self
    }

    /// Behind it stands this, and it is not ready.
    #[must_use]
    pub fn unready(mut self, workload: &Workload) -> Self {
        self.endpoints.push((workload.name().to_owned(), workload.address(), false));
        self
    }

    /// Writes it.
    pub fn apply(self) {
        let objects = ServiceObjects {
            name: &self.name,
            namespace: &self.namespace,
            cluster_ip: self.cluster_ip,
            port_name: &self.port_name,
            port: self.port,
            target_port: POD_PORT,
            app_protocol: self.app_protocol.as_deref(),
            endpoints: &self.endpoints,
        };
        self.ground.manifests.write(&format!("service-{}", self.name), &objects.yaml());
    }
}

//! What a change may have changed for somebody.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weir_core::names::{Label, ServiceRef};
use weir_core::route::RouteRef;

use crate::objects::NamespacedName;

/// What a proxy may now see differently.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services: their ports, addresses and routes.
    pub services: BTreeSet<ServiceRef>,
    /// Services whose endpoints may be others, on any port.
    pub endpoints: BTreeSet<ServiceRef>,
    /// What stands behind these addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The inbound policy of these Pods.
    pub pods: BTreeSet<NamespacedName>,
    /// The inbound policy of workloads at these addresses that have no Pod.
    pub workload_ips: BTreeSet<IpAddr>,
    /// The inbound policy of workloads in these namespaces that have no Pod.
    pub namespaces: BTreeSet<Label>,
    /// The status of these routes.
    pub routes: BTreeSet<RouteRef>,
    /// The status of these TrafficPolicies.
    pub policies: BTreeSet<NamespacedName>,
    /// The status of these BackendTLSPolicies.
    pub tls_policies: BTreeSet<NamespacedName>,
    /// The status of these XBackendTrafficPolicies.
    pub traffic_policies: BTreeSet<NamespacedName>,
    /// The trust bundle.
    pub trust: bool,
}

impl Dirty {
    /// Adds what `other` names.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.endpoints.extend(other.endpoints);
        self.addresses.extend(other.addresses);
        self.pods.extend(other.pods);
        self.workload_ips.extend(other.workload_ips);
        self.namespaces.extend(other.namespaces);
        self.routes.extend(other.routes);
        self.policies.extend(other.policies);
        self.tls_policies.extend(other.tls_policies);
        self.traffic_policies.extend(other.traffic_policies);
        self.trust |= other.trust;
    }

    /// Whether it names nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

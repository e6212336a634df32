//! Who refers to whom, kept up to date with every change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_core::names::ServiceRef;
use weir_core::route::RouteRef;

use crate::objects::backend_tls::BackendTlsPolicy;
use crate::objects::backend_traffic::BackendTrafficPolicy;
use crate::objects::policy::TrafficPolicy;
use crate::objects::{EndpointSlice, NamespacedName, Pod, Service};
use crate::routes::Route;

/// One thing to many.
type Many<K, V> = BTreeMap<K, BTreeSet<V>>;

/// References, from the one that is referred to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Relations {
    pods_by_ip: Many<IpAddr, NamespacedName>,
    services_by_ip: Many<IpAddr, ServiceRef>,
    slices_by_service: Many<ServiceRef, NamespacedName>,
    slices_by_ip: Many<IpAddr, NamespacedName>,
    routes_by_parent: Many<ServiceRef, RouteRef>,
    routes_by_backend: Many<ServiceRef, RouteRef>,
    policies_by_target: Many<ServiceRef, NamespacedName>,
    tls_by_target: Many<ServiceRef, NamespacedName>,
    traffic_by_target: Many<ServiceRef, NamespacedName>,
    tls_by_config_map: Many<NamespacedName, NamespacedName>,
}

impl Relations {
    pub(super) fn pods_at(&self, ip: IpAddr) -> impl Iterator<Item = &NamespacedName> {
        self.pods_by_ip.get(&ip).into_iter().flatten()
    }

    pub(super) fn services_at(&self, ip: IpAddr) -> impl Iterator<Item = &ServiceRef> {
        self.services_by_ip.get(&ip).into_iter().flatten()
    }

    pub(super) fn slices_of(&self, service: &ServiceRef) -> impl Iterator<Item = &NamespacedName> {
        self.slices_by_service.get(service).into_iter().flatten()
    }

    pub(super) fn slices_at(&self, ip: IpAddr) -> impl Iterator<Item = &NamespacedName> {
        self.slices_by_ip.get(&ip).into_iter().flatten()
    }

    /// Routes that name the Service as a parent.
    pub(super) fn routes_to(&self, service: &ServiceRef) -> impl Iterator<Item = &RouteRef> {
        self.routes_by_parent.get(service).into_iter().flatten()
    }

    /// Routes that name the Service as a backend.
    pub(super) fn routes_from(&self, service: &ServiceRef) -> impl Iterator<Item = &RouteRef> {
        self.routes_by_backend.get(service).into_iter().flatten()
    }

    /// Policies that name the Service as a target.
    pub(super) fn policies_of(&self, service: &ServiceRef) -> impl Iterator<Item = &NamespacedName> {
        self.policies_by_target.get(service).into_iter().flatten()
    }

    /// BackendTLSPolicies that name the Service as a target.
    pub(super) fn tls_of(&self, service: &ServiceRef) -> impl Iterator<Item = &NamespacedName> {
        self.tls_by_target.get(service).into_iter().flatten()
    }

    /// XBackendTrafficPolicies that name the Service as a target.
    pub(super) fn traffic_of(&self, service: &ServiceRef) -> impl Iterator<Item = &NamespacedName> {
        self.traffic_by_target.get(service).into_iter().flatten()
    }

    /// BackendTLSPolicies that name the ConfigMap.
    pub(super) fn tls_from(&self, config_map: &NamespacedName) -> impl Iterator<Item = &NamespacedName> {
        self.tls_by_config_map.get(config_map).into_iter().flatten()
    }

    pub(super) fn backend_tls(&mut self, key: &NamespacedName, old: Option<&BackendTlsPolicy>, new: Option<&BackendTlsPolicy>) {
        let targets = |policy: Option<&BackendTlsPolicy>| -> Vec<ServiceRef> {
            policy.into_iter().flat_map(|policy| policy.targets.iter().map(|target| target.service.clone())).collect()
        };
        relate(&mut self.tls_by_target, key, targets(old), targets(new));
        let config_maps = |policy: Option<&BackendTlsPolicy>| -> Vec<NamespacedName> {
            policy.into_iter().flat_map(BackendTlsPolicy::config_maps).collect()
        };
        relate(&mut self.tls_by_config_map, key, config_maps(old), config_maps(new));
    }

    pub(super) fn backend_traffic(
        &mut self,
        key: &NamespacedName,
        old: Option<&BackendTrafficPolicy>,
        new: Option<&BackendTrafficPolicy>,
    ) {
        let targets = |policy: Option<&BackendTrafficPolicy>| -> Vec<ServiceRef> {
            policy.into_iter().flat_map(|policy| policy.targets.iter().map(|target| target.service.clone())).collect()
        };
        relate(&mut self.traffic_by_target, key, targets(old), targets(new));
    }

    pub(super) fn policy(&mut self, key: &NamespacedName, old: Option<&TrafficPolicy>, new: Option<&TrafficPolicy>) {
        let targets = |policy: Option<&TrafficPolicy>| -> Vec<ServiceRef> {
            policy.into_iter().flat_map(|policy| policy.targets.iter().map(|it| it.service.clone())).collect()
        };
        relate(&mut self.policies_by_target, key, targets(old), targets(new));
    }

    pub(super) fn pod(&mut self, key: &NamespacedName, old: Option<&Pod>, new: Option<&Pod>) {
        let ips = |pod: Option<&Pod>| pod.map(|pod| pod.ips.clone()).unwrap_or_default();
        relate(&mut self.pods_by_ip, key, ips(old), ips(new));
    }

    pub(super) fn service(&mut self, key: &ServiceRef, old: Option<&Service>, new: Option<&Service>) {
        let ips = |service: Option<&Service>| service.map(|it| it.addresses().to_vec()).unwrap_or_default();
        relate(&mut self.services_by_ip, key, ips(old), ips(new));
    }

    pub(super) fn slice(&mut self, key: &NamespacedName, old: Option<&EndpointSlice>, new: Option<&EndpointSlice>) {
        let service = |slice: Option<&EndpointSlice>| slice.and_then(|slice| slice.service.clone());
        relate(&mut self.slices_by_service, key, service(old), service(new));
        let ips = |slice: Option<&EndpointSlice>| -> Vec<IpAddr> {
            slice.into_iter().flat_map(|slice| slice.endpoints.iter().map(|it| it.ip)).collect()
        };
        relate(&mut self.slices_by_ip, key, ips(old), ips(new));
    }

    pub(super) fn route(&mut self, key: &RouteRef, old: Option<&Route>, new: Option<&Route>) {
        let parents = |route: Option<&Route>| -> Vec<ServiceRef> {
            route.into_iter().flat_map(|route| route.parents.iter().map(|parent| parent.service.clone())).collect()
        };
        relate(&mut self.routes_by_parent, key, parents(old), parents(new));
        let backends = |route: Option<&Route>| -> Vec<ServiceRef> {
            let rules = route.into_iter().flat_map(|route| &route.rules);
            rules.flat_map(|rule| rule.references().map(|it| it.backend.service.clone())).collect()
        };
        relate(&mut self.routes_by_backend, key, backends(old), backends(new));
    }
}

fn relate<K: Ord, V: Ord + Clone>(
    map: &mut Many<K, V>,
    value: &V,
    old: impl IntoIterator<Item = K>,
    new: impl IntoIterator<Item = K>,
) {
    for key in old {
        if let Some(values) = map.get_mut(&key) {
            values.remove(value);
            // Nothing is kept for what nobody refers to any more.
            if values.is_empty() {
                map.remove(&key);
            }
        }
    }
    for key in new {
        map.entry(key).or_default().insert(value.clone());
    }
}

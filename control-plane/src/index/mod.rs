//! All objects, and who refers to whom.
//!
//! Pure: [`Index::apply`] takes one [`Event`] and says in a [`Dirty`] set what a proxy may now see differently. Whoever holds a
//! translation of something in the set makes it again. The set may name too much (the publisher compares what comes out before
//! it sends anything), never too little; a property test holds it to that.

mod dirty;
mod relations;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weir_core::names::{Label, ServiceRef};
use weir_core::route::RouteRef;

pub use dirty::Dirty;

use self::relations::Relations;
use crate::objects::backend_tls::{self, BackendTlsPolicy, ConfigMap};
use crate::objects::backend_traffic::{self, BackendTrafficPolicy};
use crate::objects::policy::{TrafficPolicy, policy_key};
use crate::objects::{EndpointSlice, Kind, Namespace, NamespacedName, Object, ObjectKey, Pod, Service};
use crate::routes::{Route, route_key};

/// Something happened to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It is there, new or changed.
    Apply(Object),
    /// It is gone.
    Delete(ObjectKey),
}

/// All objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Index {
    namespaces: BTreeMap<Label, Arc<Namespace>>,
    pods: BTreeMap<NamespacedName, Arc<Pod>>,
    services: BTreeMap<ServiceRef, Arc<Service>>,
    slices: BTreeMap<NamespacedName, Arc<EndpointSlice>>,
    routes: BTreeMap<RouteRef, Arc<Route>>,
    policies: BTreeMap<NamespacedName, Arc<TrafficPolicy>>,
    tls_policies: BTreeMap<NamespacedName, Arc<BackendTlsPolicy>>,
    traffic_policies: BTreeMap<NamespacedName, Arc<BackendTrafficPolicy>>,
    config_maps: BTreeMap<NamespacedName, Arc<ConfigMap>>,
    relations: Relations,
}

impl Index {
    /// Takes one event.
    pub fn apply(&mut self, event: Event) -> Dirty {
        let mut dirty = Dirty::default();
        match event {
            Event::Apply(Object::Namespace(it)) => self.put_namespace(&it.name.clone(), Some(it), &mut dirty),
            Event::Apply(Object::Pod(it)) => self.put_pod(&it.key.clone(), Some(it), &mut dirty),
            Event::Apply(Object::Service(it)) => self.put_service(&it.name.clone(), Some(it), &mut dirty),
            Event::Apply(Object::EndpointSlice(it)) => self.put_slice(&it.key.clone(), Some(it), &mut dirty),
            Event::Apply(Object::Route(it)) => self.put_route(&it.key.clone(), Some(it), &mut dirty),
            Event::Apply(Object::TrafficPolicy(it)) => self.put_policy(&it.key.clone(), Some(it), &mut dirty),
            Event::Apply(Object::BackendTlsPolicy(it)) => self.put_tls_policy(&it.key.clone(), Some(it), &mut dirty),
            Event::Apply(Object::BackendTrafficPolicy(it)) => self.put_traffic_policy(&it.key.clone(), Some(it), &mut dirty),
            Event::Apply(Object::ConfigMap(it)) => self.put_config_map(&it.key.clone(), Some(it), &mut dirty),
            Event::Delete(key) => self.delete(&key, &mut dirty),
        }
        dirty
    }

    /// A key that cannot be a name never was an object's, so there is nothing to delete.
    fn delete(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        if key.kind == Kind::Namespace {
            if let Ok(name) = key.name.parse() {
                self.put_namespace(&name, None, dirty);
            }
            return;
        }
        let (Ok(namespace), Ok(name)) = (key.namespace.parse::<Label>(), key.name.parse()) else { return };
        match key.kind {
            Kind::Namespace => {}
            Kind::Pod => self.put_pod(&NamespacedName { namespace, name }, None, dirty),
            Kind::EndpointSlice => self.put_slice(&NamespacedName { namespace, name }, None, dirty),
            Kind::TrafficPolicy => self.put_policy(&NamespacedName { namespace, name }, None, dirty),
            Kind::BackendTlsPolicy => self.put_tls_policy(&NamespacedName { namespace, name }, None, dirty),
            Kind::BackendTrafficPolicy => self.put_traffic_policy(&NamespacedName { namespace, name }, None, dirty),
            Kind::ConfigMap => self.put_config_map(&NamespacedName { namespace, name }, None, dirty),
            Kind::Service => {
                if let Ok(name) = key.name.parse() {
                    self.put_service(&ServiceRef { namespace, name }, None, dirty);
                }
            }
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
                if let Some(route) = route_key(key) {
                    self.put_route(&route, None, dirty);
                }
            }
        }
    }

    /// The namespace, if there is an object for it.
    #[must_use]
    pub fn namespace(&self, name: &Label) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    /// The Pod of this name.
    #[must_use]
    pub fn pod(&self, key: &NamespacedName) -> Option<&Arc<Pod>> {
        self.pods.get(key)
    }

    /// The Pod that has this address: of several the first by name, and none that shares its node's address or has ended.
    #[must_use]
    pub fn pod_at(&self, ip: IpAddr) -> Option<&Arc<Pod>> {
        let keys = self.relations.pods_at(ip);
        keys.filter_map(|key| self.pods.get(key)).find(|pod| !pod.host_network && !pod.finished)
    }

    /// The Service of this name.
    #[must_use]
    pub fn service(&self, name: &ServiceRef) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The Service that has this virtual address, of several the first by name.
    #[must_use]
    pub fn service_at(&self, ip: IpAddr) -> Option<&Arc<Service>> {
        self.relations.services_at(ip).next().and_then(|name| self.services.get(name))
    }

    /// All Services by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The slices of a Service, by name.
    pub fn slices_of(&self, service: &ServiceRef) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.relations.slices_of(service).filter_map(|key| self.slices.get(key))
    }

    /// The slices with an endpoint at this address, by name.
    pub fn slices_at(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.relations.slices_at(ip).filter_map(|key| self.slices.get(key))
    }

    /// The route of this name.
    #[must_use]
    pub fn route(&self, key: &RouteRef) -> Option<&Arc<Route>> {
        self.routes.get(key)
    }

    /// All routes by name.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values()
    }

    /// The routes that name this Service as a parent, by name.
    pub fn routes_to(&self, service: &ServiceRef) -> impl Iterator<Item = &Arc<Route>> {
        self.relations.routes_to(service).filter_map(|key| self.routes.get(key))
    }

    /// The policy of this name.
    #[must_use]
    pub fn policy(&self, key: &NamespacedName) -> Option<&Arc<TrafficPolicy>> {
        self.policies.get(key)
    }

    /// All policies by name.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<TrafficPolicy>> {
        self.policies.values()
    }

    /// The policies that name this Service as a target, by name.
    pub fn policies_of(&self, service: &ServiceRef) -> impl Iterator<Item = &Arc<TrafficPolicy>> {
        self.relations.policies_of(service).filter_map(|key| self.policies.get(key))
    }

    /// The BackendTLSPolicy of this name.
    #[must_use]
    pub fn tls_policy(&self, key: &NamespacedName) -> Option<&Arc<BackendTlsPolicy>> {
        self.tls_policies.get(key)
    }

    /// All BackendTLSPolicies by name.
    pub fn tls_policies(&self) -> impl Iterator<Item = &Arc<BackendTlsPolicy>> {
        self.tls_policies.values()
    }

    /// The BackendTLSPolicies that name this Service as a target, by name.
    pub fn tls_policies_of(&self, service: &ServiceRef) -> impl Iterator<Item = &Arc<BackendTlsPolicy>> {
        self.relations.tls_of(service).filter_map(|key| self.tls_policies.get(key))
    }

    /// The XBackendTrafficPolicy of this name.
    #[must_use]
    pub fn traffic_policy(&self, key: &NamespacedName) -> Option<&Arc<BackendTrafficPolicy>> {
        self.traffic_policies.get(key)
    }

    /// The XBackendTrafficPolicies that name this Service as a target, by name.
    pub fn traffic_policies_of(&self, service: &ServiceRef) -> impl Iterator<Item = &Arc<BackendTrafficPolicy>> {
        self.relations.traffic_of(service).filter_map(|key| self.traffic_policies.get(key))
    }

    /// The ConfigMap of this name.
    #[must_use]
    pub fn config_map(&self, key: &NamespacedName) -> Option<&Arc<ConfigMap>> {
        self.config_maps.get(key)
    }

    /// `metadata.generation` of a route or a policy.
    #[must_use]
    pub fn judged_generation(&self, key: &ObjectKey) -> Option<i64> {
        let route = route_key(key).and_then(|key| self.routes.get(&key)).map(|route| route.generation);
        let policy = || Some(self.policies.get(&policy_key(key)?)?.generation);
        let tls_policy = || Some(self.tls_policies.get(&backend_tls::policy_key(key)?)?.generation);
        let traffic_policy = || Some(self.traffic_policies.get(&backend_traffic::policy_key(key)?)?.generation);
        route.or_else(policy).or_else(tls_policy).or_else(traffic_policy)
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let of_kubernetes = self.namespaces.len() + self.pods.len() + self.services.len() + self.slices.len();
        let of_policies = self.policies.len() + self.tls_policies.len() + self.traffic_policies.len();
        of_kubernetes + self.routes.len() + of_policies + self.config_maps.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put_namespace(&mut self, name: &Label, new: Option<Arc<Namespace>>, dirty: &mut Dirty) {
        if replace(&mut self.namespaces, name, new.clone()) == new {
            return;
        }
        // Its annotations hold for every Pod in it that says nothing itself, and for its Services.
        dirty.namespaces.insert(name.clone());
        let pods: Vec<Arc<Pod>> = self.pods.values().filter(|pod| pod.key.namespace == *name).cloned().collect();
        for pod in pods {
            self.pod_changed(&pod, dirty);
        }
        let services: Vec<Arc<Service>> = self.services.values().filter(|it| it.name.namespace == *name).cloned().collect();
        for service in services {
            self.service_changed(&service.name, dirty);
        }
    }

    fn put_pod(&mut self, key: &NamespacedName, new: Option<Arc<Pod>>, dirty: &mut Dirty) {
        let old = replace(&mut self.pods, key, new.clone());
        if old == new {
            return;
        }
        self.relations.pod(key, old.as_deref(), new.as_deref());
        for pod in old.iter().chain(&new) {
            self.pod_changed(pod, dirty);
        }
    }

    /// Whoever calls it, and its own proxy.
    fn pod_changed(&self, pod: &Pod, dirty: &mut Dirty) {
        dirty.pods.insert(pod.key.clone());
        dirty.addresses.extend(&pod.ips);
        let mut slices: BTreeSet<&NamespacedName> = BTreeSet::new();
        for ip in &pod.ips {
            self.ip_changed(*ip, dirty);
            slices.extend(self.relations.slices_at(*ip));
        }
        dirty.endpoints.extend(slices.into_iter().filter_map(|key| self.slices.get(key)?.service.clone()));
    }

    /// The inbound policy of whoever has this address.
    fn ip_changed(&self, ip: IpAddr, dirty: &mut Dirty) {
        dirty.workload_ips.insert(ip);
        dirty.pods.extend(self.relations.pods_at(ip).cloned());
    }

    fn put_service(&mut self, name: &ServiceRef, new: Option<Arc<Service>>, dirty: &mut Dirty) {
        let old = replace(&mut self.services, name, new.clone());
        if old == new {
            return;
        }
        self.relations.service(name, old.as_deref(), new.as_deref());
        for service in old.iter().chain(&new) {
            dirty.addresses.extend(service.addresses());
        }
        self.service_changed(name, dirty);
    }

    fn service_changed(&self, name: &ServiceRef, dirty: &mut Dirty) {
        dirty.services.insert(name.clone());
        dirty.endpoints.insert(name.clone());
        // Routes attached to it may be attached no more; routes that send to it may have lost or found a backend.
        let as_parent = self.relations.routes_to(name);
        let as_backend: Vec<&RouteRef> = self.relations.routes_from(name).collect();
        for route in as_backend.iter().filter_map(|key| self.routes.get(*key)) {
            dirty.services.extend(route.parents.iter().map(|parent| parent.service.clone()));
        }
        dirty.routes.extend(as_parent.chain(as_backend).cloned());
        dirty.policies.extend(self.relations.policies_of(name).cloned());
        dirty.tls_policies.extend(self.relations.tls_of(name).cloned());
        dirty.traffic_policies.extend(self.relations.traffic_of(name).cloned());
        self.workloads_changed(name, dirty);
    }

    /// The inbound policy of all workloads behind a Service.
    fn workloads_changed(&self, name: &ServiceRef, dirty: &mut Dirty) {
        let ips: BTreeSet<IpAddr> = self.slices_of(name).flat_map(|slice| slice.endpoints.iter().map(|it| it.ip)).collect();
        for ip in ips {
            self.ip_changed(ip, dirty);
        }
    }

    fn put_slice(&mut self, key: &NamespacedName, new: Option<Arc<EndpointSlice>>, dirty: &mut Dirty) {
        let old = replace(&mut self.slices, key, new.clone());
        if old == new {
            return;
        }
        self.relations.slice(key, old.as_deref(), new.as_deref());
        for slice in old.iter().chain(&new) {
            dirty.endpoints.extend(slice.service.clone());
            for endpoint in &slice.endpoints {
                self.ip_changed(endpoint.ip, dirty);
            }
        }
    }

    fn put_route(&mut self, key: &RouteRef, new: Option<Arc<Route>>, dirty: &mut Dirty) {
        let old = replace(&mut self.routes, key, new.clone());
        if old == new {
            return;
        }
        self.relations.route(key, old.as_deref(), new.as_deref());
        dirty.routes.insert(key.clone());
        for parent in old.iter().chain(&new).flat_map(|route| &route.parents) {
            dirty.services.insert(parent.service.clone());
            // One route may take a port from another.
            dirty.routes.extend(self.relations.routes_to(&parent.service).cloned());
        }
    }

    fn put_policy(&mut self, key: &NamespacedName, new: Option<Arc<TrafficPolicy>>, dirty: &mut Dirty) {
        let old = replace(&mut self.policies, key, new.clone());
        if old == new {
            return;
        }
        self.relations.policy(key, old.as_deref(), new.as_deref());
        dirty.policies.insert(key.clone());
        for target in old.iter().chain(&new).flat_map(|policy| &policy.targets) {
            dirty.services.insert(target.service.clone());
            dirty.endpoints.insert(target.service.clone());
            // One policy may take a port from another.
            dirty.policies.extend(self.relations.policies_of(&target.service).cloned());
            // Or its retry budget may count, and another's no more.
            dirty.traffic_policies.extend(self.relations.traffic_of(&target.service).cloned());
            self.workloads_changed(&target.service, dirty);
        }
    }

    fn put_tls_policy(&mut self, key: &NamespacedName, new: Option<Arc<BackendTlsPolicy>>, dirty: &mut Dirty) {
        let old = replace(&mut self.tls_policies, key, new.clone());
        if old == new {
            return;
        }
        self.relations.backend_tls(key, old.as_deref(), new.as_deref());
        dirty.tls_policies.insert(key.clone());
        for target in old.iter().chain(&new).flat_map(|policy| &policy.targets) {
            // One policy may take a port from another, and what is spoken on a port may be another thing now.
            self.service_changed(&target.service, dirty);
        }
    }

    fn put_traffic_policy(&mut self, key: &NamespacedName, new: Option<Arc<BackendTrafficPolicy>>, dirty: &mut Dirty) {
        let old = replace(&mut self.traffic_policies, key, new.clone());
        if old == new {
            return;
        }
        self.relations.backend_traffic(key, old.as_deref(), new.as_deref());
        dirty.traffic_policies.insert(key.clone());
        for target in old.iter().chain(&new).flat_map(|policy| &policy.targets) {
            // One policy may take a port from another, and whoever routes to the Service keeps sessions otherwise.
            self.service_changed(&target.service, dirty);
        }
    }

    fn put_config_map(&mut self, key: &NamespacedName, new: Option<Arc<ConfigMap>>, dirty: &mut Dirty) {
        if replace(&mut self.config_maps, key, new.clone()) == new {
            return;
        }
        for policy in self.relations.tls_from(key).filter_map(|policy| self.tls_policies.get(policy)) {
            dirty.tls_policies.insert(policy.key.clone());
            dirty.endpoints.extend(policy.targets.iter().map(|target| target.service.clone()));
        }
    }
}

fn replace<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, key: &K, new: Option<V>) -> Option<V> {
    match new {
        Some(new) => map.insert(key.clone(), new),
        None => map.remove(key),
    }
}

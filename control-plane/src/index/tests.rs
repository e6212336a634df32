use std::collections::BTreeMap;

use fastrand::Rng;
use weir_core::names::{BackendRef, Label};

use super::{Dirty, Event, Index};
use crate::objects::ObjectKey;
use crate::testing::{CLIENTS, all_policies, all_routes, all_services, all_workloads, random_event, trust_domain};
use crate::translate;

/// Worlds that are played through; more with each run would find little more, these run in a second or two.
const SEEDS: u64 = 60;
const STEPS: usize = 60;

#[test]
fn taking_events_one_by_one_equals_building_from_what_is_left() {
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let mut index = Index::default();
        let mut present: BTreeMap<ObjectKey, Event> = BTreeMap::new();
        for _ in 0..STEPS {
            let event = random_event(&mut rng);
            match &event {
                Event::Apply(object) => present.insert(object.key(), event.clone()),
                Event::Delete(key) => present.remove(key),
            };
            index.apply(event);
        }
        let mut scratch = Index::default();
        for event in present.into_values() {
            scratch.apply(event);
        }
        assert_eq!(index, scratch, "seed {seed}");
        for key in keys(&index) {
            index.apply(Event::Delete(key));
        }
        assert_eq!(index, Index::default(), "nothing is kept for what is gone, seed {seed}");
    }
}

fn keys(index: &Index) -> Vec<ObjectKey> {
    use crate::objects::Object;
    let namespaces = index.namespaces.values().map(|it| Object::Namespace(it.clone()).key());
    let pods = index.pods.values().map(|it| Object::Pod(it.clone()).key());
    let services = index.services.values().map(|it| Object::Service(it.clone()).key());
    let slices = index.slices.values().map(|it| Object::EndpointSlice(it.clone()).key());
    let routes = index.routes.values().map(|it| Object::Route(it.clone()).key());
    let policies = index.policies.values().map(|it| Object::TrafficPolicy(it.clone()).key());
    let tls_policies = index.tls_policies.values().map(|it| Object::BackendTlsPolicy(it.clone()).key());
    let config_maps = index.config_maps.values().map(|it| Object::ConfigMap(it.clone()).key());
    let traffic_policies = index.traffic_policies.values().map(|it| Object::BackendTrafficPolicy(it.clone()).key());
    let policies = policies.chain(tls_policies).chain(traffic_policies).chain(config_maps);
    namespaces.chain(pods).chain(services).chain(slices).chain(routes).chain(policies).collect()
}

#[test]
fn whatever_looks_different_after_an_event_is_in_its_dirty_set() {
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let mut index = Index::default();
        for step in 0..STEPS {
            let before = index.clone();
            let event = random_event(&mut rng);
            let dirty = index.apply(event.clone());
            check(&before, &index, &dirty, &format!("seed {seed} step {step}: {event:?}"));
        }
    }
}

fn check(before: &Index, after: &Index, dirty: &Dirty, when: &str) {
    let domain = trust_domain();
    for name in all_services() {
        for client in CLIENTS {
            let client: Label = client.parse().unwrap();
            if translate::service(before, &name, &client) != translate::service(after, &name, &client)
                || translate::view(before, &name, &client) != translate::view(after, &name, &client)
            {
                assert!(dirty.services.contains(&name), "Service {name} for {client}, {when}");
            }
        }
        for port in [80, 3306] {
            let backend = BackendRef { service: name.clone(), port };
            if translate::endpoints(before, &backend, &domain) != translate::endpoints(after, &backend, &domain) {
                assert!(dirty.endpoints.contains(&name), "Endpoints {backend}, {when}");
            }
        }
    }
    for ip in (1..=5).map(|last| [10, 0, 0, last].into()) {
        if translate::address(before, ip, &domain) != translate::address(after, ip, &domain) {
            assert!(dirty.addresses.contains(&ip), "Address {ip}, {when}");
        }
    }
    for workload in all_workloads() {
        if translate::inbound(before, &workload) != translate::inbound(after, &workload) {
            let by_pod = workload.pod_key().is_some_and(|key| dirty.pods.contains(&key));
            let by_ip = workload.ips.iter().any(|ip| dirty.workload_ips.contains(ip));
            let by_namespace = dirty.namespaces.contains(&workload.namespace);
            assert!(by_pod || by_ip || by_namespace, "Inbound of {workload:?}, {when}");
        }
    }
    for route in all_routes() {
        let differs = translate::status(before, &route) != translate::status(after, &route)
            || translate::unresolved(before, &route) != translate::unresolved(after, &route);
        assert!(!differs || dirty.routes.contains(&route), "status of {route}, {when}");
    }
    for policy in all_policies() {
        let differs = translate::policy_status(before, &policy) != translate::policy_status(after, &policy)
            || translate::policy_unresolved(before, &policy) != translate::policy_unresolved(after, &policy);
        assert!(!differs || dirty.policies.contains(&policy), "status of policy {policy}, {when}");
        let differs = translate::backend_tls_status(before, &policy) != translate::backend_tls_status(after, &policy)
            || translate::backend_tls_unresolved(before, &policy) != translate::backend_tls_unresolved(after, &policy);
        assert!(!differs || dirty.tls_policies.contains(&policy), "status of TLS policy {policy}, {when}");
        let differs = translate::backend_traffic_status(before, &policy) != translate::backend_traffic_status(after, &policy)
            || translate::backend_traffic_unresolved(before, &policy) != translate::backend_traffic_unresolved(after, &policy);
        assert!(!differs || dirty.traffic_policies.contains(&policy), "status of traffic policy {policy}, {when}");
    }
}

#[test]
fn the_same_again_changes_nothing() {
    let mut rng = Rng::with_seed(7);
    let mut index = Index::default();
    for _ in 0..200 {
        let event = random_event(&mut rng);
        index.apply(event.clone());
        assert!(index.apply(event).is_empty());
    }
}

impl Index {
    /// The objects of kinds that nobody else lists.
    pub(crate) fn others_for_tests(&self) -> Vec<Event> {
        use crate::objects::Object;
        let namespaces = self.namespaces.values().map(|it| Event::Apply(Object::Namespace(it.clone())));
        let pods = self.pods.values().map(|it| Event::Apply(Object::Pod(it.clone())));
        let slices = self.slices.values().map(|it| Event::Apply(Object::EndpointSlice(it.clone())));
        let policies = self.policies.values().map(|it| Event::Apply(Object::TrafficPolicy(it.clone())));
        let tls_policies = self.tls_policies.values().map(|it| Event::Apply(Object::BackendTlsPolicy(it.clone())));
        let config_maps = self.config_maps.values().map(|it| Event::Apply(Object::ConfigMap(it.clone())));
        let traffic = self.traffic_policies.values().map(|it| Event::Apply(Object::BackendTrafficPolicy(it.clone())));
        let policies = policies.chain(tls_policies).chain(traffic).chain(config_maps);
        namespaces.chain(pods).chain(slices).chain(policies).collect()
    }
}

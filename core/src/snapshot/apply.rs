//! How an update becomes the next snapshot.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Known, MAX_RESOURCES, Rejected, Resource, ResourceName, Snapshot, TrustBundle, Update};

impl Snapshot {
    /// The snapshot after an update.
    ///
    /// What is set replaces what was there. What is removed is remembered as absent if it is a service or an address, so that
    /// requests for it fail at once instead of asking again; endpoints that are removed are gone. What is forgotten is as if it
    /// had never been heard of. Removing or forgetting what is not there is no mistake.
    ///
    /// # Errors
    ///
    /// Why the update was refused. `self` is then what goes on serving: nothing of the update has taken effect.
    pub fn apply(&self, update: Update) -> Result<Self, Rejected> {
        check_names(&update)?;
        let mut next = self.clone();
        for name in update.removed {
            next.remove(name);
        }
        for name in update.forgotten {
            next.forget(&name);
        }
        for (resource, version) in update.set {
            next.set(resource, version)?;
        }
        let count = next.resource_count();
        // A snapshot that is full may still shrink, and change what it holds.
        if count > MAX_RESOURCES && count > self.resource_count() {
            return Err(Rejected::TooLarge { count, max: MAX_RESOURCES });
        }
        next.generation = self.generation.saturating_add(1);
        Ok(next)
    }

    /// What is bounded: everything held, and every absence remembered.
    fn resource_count(&self) -> usize {
        self.services.len() + self.endpoints.len() + self.addresses.len()
    }

    fn set(&mut self, resource: Resource, version: Arc<str>) -> Result<(), Rejected> {
        self.versions.insert(resource.name(), version);
        match resource {
            Resource::Service(service) => {
                self.services.insert(service.name.clone(), Known::Present(service));
            }
            Resource::Endpoints(endpoints) => {
                self.endpoints.insert(endpoints.name.clone(), endpoints);
            }
            Resource::Address(ip, target) => {
                self.addresses.insert(ip, Known::Present(target));
            }
            Resource::Inbound(inbound) => self.inbound = inbound,
            Resource::Trust(trust) => {
                check_trust(self.trust.as_deref(), &trust)?;
                self.trust = Some(trust);
            }
        }
        Ok(())
    }

    fn remove(&mut self, name: ResourceName) {
        self.forget(&name);
        match name {
            ResourceName::Service(name) => {
                self.services.insert(name, Known::Absent);
            }
            ResourceName::Address(ip) => {
                self.addresses.insert(ip, Known::Absent);
            }
            ResourceName::Endpoints(_) | ResourceName::Inbound | ResourceName::Trust => {}
        }
    }

    fn forget(&mut self, name: &ResourceName) {
        self.versions.remove(name);
        match name {
            ResourceName::Service(name) => {
                self.services.remove(name);
            }
            ResourceName::Endpoints(name) => {
                self.endpoints.remove(name);
            }
            ResourceName::Address(ip) => {
                self.addresses.remove(ip);
            }
            // `check_names` lets neither come here.
            ResourceName::Inbound | ResourceName::Trust => {}
        }
    }
}

/// An update has no order, so one name may stand in it only once; and two resources are never taken away.
fn check_names(update: &Update) -> Result<(), Rejected> {
    let set = update.set.iter().map(|(resource, _)| resource.name());
    let gone = || update.removed.iter().chain(&update.forgotten);
    let mut seen = HashSet::with_capacity(update.set.len() + gone().count());
    for name in set.chain(gone().cloned()) {
        if let Some(name) = seen.replace(name) {
            return Err(Rejected::NamedTwice(name));
        }
    }
    match gone().find(|name| matches!(name, ResourceName::Inbound | ResourceName::Trust)) {
        Some(name) => Err(Rejected::Indispensable(name.clone())),
        None => Ok(()),
    }
}

fn check_trust(old: Option<&TrustBundle>, new: &TrustBundle) -> Result<(), Rejected> {
    if new.roots.iter().all(|root| root.is_empty()) {
        return Err(Rejected::NoRoots);
    }
    match old {
        Some(old) if old.trust_domain != new.trust_domain => {
            Err(Rejected::TrustDomainChanged { old: old.trust_domain.clone(), new: new.trust_domain.clone() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::MtlsMode;
    use crate::names::{BackendRef, ServiceRef};
    use crate::snapshot::{AddressTarget, Endpoints, Inbound, Service};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::{IpAddr, Ipv4Addr};

    fn service_ref(name: &str) -> ServiceRef {
        format!("shop/{name}").parse().unwrap()
    }

    fn backend_ref(name: &str) -> BackendRef {
        format!("shop/{name}:80").parse().unwrap()
    }

    fn service(name: &str) -> Resource {
        Resource::Service(Arc::new(Service { name: service_ref(name), addresses: Vec::new(), ports: BTreeMap::new() }))
    }

    fn endpoints(name: &str) -> Resource {
        Resource::Endpoints(Arc::new(Endpoints { name: backend_ref(name), endpoints: Vec::new(), policy: Arc::default() }))
    }

    fn address(ip: impl Into<IpAddr>, name: &str) -> Resource {
        Resource::Address(ip.into(), AddressTarget::Service(service_ref(name)))
    }

    fn trust(domain: &str, roots: &[&[u8]]) -> Resource {
        let roots = roots.iter().map(|it| Arc::from(*it)).collect();
        Resource::Trust(Arc::new(TrustBundle { trust_domain: domain.parse().unwrap(), roots, generation: 0 }))
    }

    fn set(resources: Vec<Resource>) -> Update {
        Update { set: resources.into_iter().map(|it| (it, "1".into())).collect(), ..Update::default() }
    }

    fn removed(names: Vec<ResourceName>) -> Update {
        Update { removed: names, ..Update::default() }
    }

    fn forgotten(names: Vec<ResourceName>) -> Update {
        Update { forgotten: names, ..Update::default() }
    }

    /// One resource of each kind.
    fn full() -> Snapshot {
        let strict = Resource::Inbound(Arc::new(Inbound { mtls: MtlsMode::Strict, ..Inbound::default() }));
        let resources =
            vec![service("a"), endpoints("a"), address(Ipv4Addr::LOCALHOST, "a"), strict, trust("cluster.local", &[b"root"])];
        Snapshot::default().apply(set(resources)).unwrap()
    }

    #[test]
    fn what_is_set_is_there_with_its_version() {
        let snapshot = full();
        assert_eq!(snapshot.generation(), 1);
        assert!(snapshot.service(&service_ref("a")).unwrap().present().is_some());
        assert!(snapshot.endpoints(&backend_ref("a")).is_some());
        assert!(snapshot.address(Ipv4Addr::LOCALHOST.into()).unwrap().present().is_some());
        assert_eq!(snapshot.inbound().mtls, MtlsMode::Strict);
        assert_eq!(snapshot.trust().unwrap().trust_domain.as_str(), "cluster.local");
        assert_eq!(snapshot.versions().len(), 5);
        let again = Update { set: vec![(service("a"), "2".into())], ..Update::default() };
        let next = snapshot.apply(again).unwrap();
        assert_eq!(next.version(&ResourceName::Service(service_ref("a"))).map(|it| &**it), Some("2"));
        assert_eq!(next.version(&ResourceName::Trust).map(|it| &**it), Some("1"));
        assert_eq!((next.versions().len(), next.generation()), (5, 2));
    }

    #[test]
    fn removed_services_and_addresses_are_remembered_as_absent_and_the_rest_goes() {
        let names = || {
            let gone = [ResourceName::Service(service_ref("a")), ResourceName::Address(Ipv4Addr::LOCALHOST.into())];
            gone.into_iter()
                .chain([ResourceName::Endpoints(backend_ref("a")), ResourceName::Service(service_ref("new"))])
                .collect()
        };
        let snapshot = full().apply(removed(names())).unwrap();
        assert_eq!(snapshot.service(&service_ref("a")), Some(&Known::Absent));
        assert_eq!(snapshot.service(&service_ref("new")), Some(&Known::Absent));
        assert_eq!(snapshot.address(Ipv4Addr::LOCALHOST.into()), Some(&Known::Absent));
        assert_eq!(snapshot.endpoints(&backend_ref("a")), None);
        assert_eq!(snapshot.versions().into_keys().collect::<Vec<_>>(), [ResourceName::Inbound, ResourceName::Trust]);

        let snapshot = snapshot.apply(forgotten(names())).unwrap();
        assert_eq!((snapshot.services().len(), snapshot.addresses().len(), snapshot.all_endpoints().len()), (0, 0, 0));
        assert_eq!(snapshot.service(&service_ref("a")), None);
    }

    #[test]
    fn what_is_held_is_listed_in_the_order_of_names() {
        let resources = ["c", "a", "b"].map(service).into_iter().chain(["z", "y"].map(endpoints)).collect();
        let snapshot = Snapshot::default().apply(set(resources)).unwrap();
        assert_eq!(snapshot.services().map(|(name, _)| name.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(snapshot.all_endpoints().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), ["shop/y:80", "shop/z:80"]);
    }

    #[test]
    fn one_name_may_stand_in_an_update_once() {
        let name = ResourceName::Service(service_ref("a"));
        let twice = Err(Rejected::NamedTwice(name.clone()));
        let both = |update: Update| Snapshot::default().apply(update);
        assert_eq!(both(set(vec![service("a"), service("a")])), twice);
        assert_eq!(both(removed(vec![name.clone(), name.clone()])), twice);
        assert_eq!(both(Update { removed: vec![name.clone()], ..set(vec![service("a")]) }), twice);
        assert_eq!(both(Update { removed: vec![name.clone()], forgotten: vec![name.clone()], ..Update::default() }), twice);
        assert_eq!(Rejected::NamedTwice(name).to_string(), "the service shop/a is named twice in one update");
    }

    #[test]
    fn trust_and_inbound_policy_cannot_be_taken_away() {
        for name in [ResourceName::Inbound, ResourceName::Trust] {
            let refused = Err(Rejected::Indispensable(name.clone()));
            assert_eq!(full().apply(removed(vec![name.clone()])), refused);
            assert_eq!(full().apply(forgotten(vec![name])), refused);
        }
    }

    #[test]
    fn a_trust_bundle_needs_roots_and_keeps_its_domain() {
        assert_eq!(full().apply(set(vec![trust("cluster.local", &[])])), Err(Rejected::NoRoots));
        assert_eq!(full().apply(set(vec![trust("cluster.local", &[b""])])), Err(Rejected::NoRoots));
        let (old, new) = ("cluster.local".parse().unwrap(), "other.example".parse().unwrap());
        assert_eq!(full().apply(set(vec![trust("other.example", &[b"root"])])), Err(Rejected::TrustDomainChanged { old, new }));
        assert!(full().apply(set(vec![trust("cluster.local", &[b"root", b"next root"])])).is_ok());
    }

    #[test]
    fn a_full_snapshot_refuses_more_and_still_changes() {
        let ip = |number: usize| Ipv4Addr::from(u32::try_from(number).unwrap());
        let addresses = (0..MAX_RESOURCES).map(|it| address(ip(it), "a")).collect();
        let snapshot = Snapshot::default().apply(set(addresses)).unwrap();
        let too_large = Err(Rejected::TooLarge { count: MAX_RESOURCES + 1, max: MAX_RESOURCES });
        assert_eq!(snapshot.apply(set(vec![service("a")])), too_large);
        // What is remembered as absent counts too.
        assert_eq!(snapshot.apply(removed(vec![ResourceName::Service(service_ref("a"))])), too_large);
        assert!(snapshot.apply(set(vec![address(ip(0), "b")])).is_ok());
        let exchange = forgotten(vec![ResourceName::Address(ip(0).into())]);
        assert!(snapshot.apply(Update { forgotten: exchange.forgotten, ..set(vec![service("a")]) }).is_ok());
    }

    /// What one update says about one name.
    #[derive(Clone, Debug)]
    enum Change {
        Set(u8),
        Removed,
        Forgotten,
    }

    fn name(number: u8) -> ResourceName {
        let text = format!("s{}", number / 3);
        match number % 3 {
            0 => ResourceName::Service(service_ref(&text)),
            1 => ResourceName::Endpoints(backend_ref(&text)),
            _ => ResourceName::Address(Ipv4Addr::new(10, 0, 0, number).into()),
        }
    }

    fn resource(number: u8, content: u8) -> Resource {
        match name(number) {
            ResourceName::Service(name) => {
                let addresses = vec![Ipv4Addr::new(10, 1, 0, content).into()];
                Resource::Service(Arc::new(Service { name, addresses, ports: BTreeMap::new() }))
            }
            ResourceName::Endpoints(name) => {
                Resource::Endpoints(Arc::new(Endpoints { name, endpoints: Vec::new(), policy: Arc::default() }))
            }
            ResourceName::Address(ip) => address(ip, &format!("s{content}")),
            ResourceName::Inbound | ResourceName::Trust => unreachable!(),
        }
    }

    fn update(changes: &BTreeMap<u8, Change>) -> Update {
        let mut update = Update::default();
        for (number, change) in changes {
            match change {
                Change::Set(content) => update.set.push((resource(*number, *content), content.to_string().into())),
                Change::Removed => update.removed.push(name(*number)),
                Change::Forgotten => update.forgotten.push(name(*number)),
            }
        }
        update
    }

    fn changes() -> impl Strategy<Value = BTreeMap<u8, Change>> {
        let change = prop_oneof![3 => (0..4u8).prop_map(Change::Set), 1 => Just(Change::Removed), 1 => Just(Change::Forgotten)];
        prop::collection::btree_map(0..18u8, change, 0..12)
    }

    proptest! {
        #[test]
        fn two_updates_are_what_their_merge_is(before in changes(), first in changes(), second in changes()) {
            let base = full().apply(update(&before)).unwrap();
            let mut stepwise = base.apply(update(&first)).unwrap().apply(update(&second)).unwrap();
            let mut merged = first;
            merged.extend(second);
            let at_once = base.apply(update(&merged)).unwrap();
            prop_assert_eq!(stepwise.generation, at_once.generation + 1);
            stepwise.generation = at_once.generation;
            prop_assert_eq!(stepwise, at_once);
        }

        #[test]
        fn versions_are_those_of_exactly_what_is_held(before in changes(), then in changes()) {
            let snapshot = Snapshot::default().apply(update(&before)).unwrap().apply(update(&then)).unwrap();
            let services = snapshot.services().filter(|(_, it)| it.present().is_some());
            let addresses = snapshot.addresses().filter(|(_, it)| it.present().is_some());
            let held: BTreeSet<_> = services.map(|(name, _)| ResourceName::Service(name.clone()))
                .chain(addresses.map(|(ip, _)| ResourceName::Address(*ip)))
                .chain(snapshot.all_endpoints().map(|(name, _)| ResourceName::Endpoints(name.clone())))
                .collect();
            prop_assert_eq!(snapshot.versions().into_keys().collect::<BTreeSet<_>>(), held);
        }

        #[test]
        fn a_refused_update_changes_nothing(before in changes(), then in changes(), fault in 0..4u8) {
            let snapshot = full().apply(update(&before)).unwrap();
            let untouched = snapshot.clone();
            let mut refused = update(&then);
            match fault {
                0 => refused.set.push((trust("cluster.local", &[]), "1".into())),
                1 => refused.set.push((trust("other.example", &[b"root"]), "1".into())),
                2 => refused.removed.push(ResourceName::Inbound),
                _ => refused.forgotten.extend([name(0), name(0)]),
            }
            prop_assert!(snapshot.apply(refused).is_err());
            prop_assert_eq!(snapshot, untouched);
        }
    }
}

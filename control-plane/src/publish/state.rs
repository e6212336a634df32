//! The only copy of everything: the objects, what was made of them, and what is wrong with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_core::names::{ServiceRef, TrustDomain};
use weir_core::snapshot::{Resource, ResourceName, TrustBundle};

use super::resources::{Encoded, Resources};
use crate::index::{Dirty, Event, Index};
use crate::objects::{ObjectKey, Problem, backend_tls, backend_traffic, policy};
use crate::routes;
use crate::translate::{self, Status, Workload};

/// Everything that proxies and pages are told.
#[derive(Debug)]
pub struct State {
    index: Index,
    resources: Resources,
    trust: Arc<TrustBundle>,
    /// Of routes and policies.
    statuses: BTreeMap<ObjectKey, Status>,
    unresolved: BTreeMap<ObjectKey, Vec<Problem>>,
    mismatched: BTreeMap<ServiceRef, Vec<(ObjectKey, Problem)>>,
}

/// What became of a batch of events.
#[derive(Debug, Default)]
pub struct Applied {
    /// What may look different now.
    pub dirty: Dirty,
    /// Routes and policies whose status is another, and what it is now; `None` for one that is gone.
    pub statuses: Vec<(ObjectKey, Option<Status>)>,
}

impl State {
    /// Without any object.
    #[must_use]
    pub fn new(trust: TrustBundle) -> Self {
        Self {
            index: Index::default(),
            resources: Resources::default(),
            trust: Arc::new(trust),
            statuses: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            mismatched: BTreeMap::new(),
        }
    }

    /// Takes events, all of them before anybody sees the first.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> Applied {
        let mut dirty = Dirty::default();
        for event in events {
            dirty.merge(self.index.apply(event));
        }
        self.resources.forget(&dirty);
        for service in &dirty.endpoints {
            keep(&mut self.mismatched, service, translate::mismatched(&self.index, service));
        }
        let mut statuses = Vec::new();
        let index = &self.index;
        let routes = dirty
            .routes
            .iter()
            .map(|route| (routes::object_key(route), translate::unresolved(index, route), translate::status(index, route)));
        let policies = dirty.policies.iter().map(|policy| {
            (policy::object_key(policy), translate::policy_unresolved(index, policy), translate::policy_status(index, policy))
        });
        let tls_policies = dirty.tls_policies.iter().map(|policy| {
            let unresolved = translate::backend_tls_unresolved(index, policy);
            (backend_tls::object_key(policy), unresolved, translate::backend_tls_status(index, policy))
        });
        let traffic_policies = dirty.traffic_policies.iter().map(|policy| {
            let unresolved = translate::backend_traffic_unresolved(index, policy);
            (backend_traffic::object_key(policy), unresolved, translate::backend_traffic_status(index, policy))
        });
        for (key, unresolved, new) in routes.chain(policies).chain(tls_policies).chain(traffic_policies) {
            keep(&mut self.unresolved, &key, unresolved);
            let old = match &new {
                Some(status) => self.statuses.insert(key.clone(), status.clone()),
                None => self.statuses.remove(&key),
            };
            if old != new {
                statuses.push((key, new));
            }
        }
        Applied { dirty, statuses }
    }

    /// Replaces the trust bundle.
    pub fn set_trust(&mut self, trust: TrustBundle) -> Dirty {
        self.trust = Arc::new(trust);
        let dirty = Dirty { trust: true, ..Dirty::default() };
        self.resources.forget(&dirty);
        dirty
    }

    /// The version of the trust bundle.
    pub fn trust_version(&mut self) -> Option<Arc<str>> {
        encoded_trust(&mut self.resources, &self.trust).map(|encoded| Arc::clone(&encoded.version))
    }

    /// A resource as `workload` sees it. `None`: it does not exist.
    pub fn find(&mut self, name: &ResourceName, workload: &Workload) -> Option<Arc<Encoded>> {
        let Self { index, resources, trust, .. } = self;
        let domain: &TrustDomain = &trust.trust_domain;
        match name {
            ResourceName::Service(service) => {
                let view = translate::view(index, service, &workload.namespace);
                resources.find(name, view.as_ref(), || {
                    let made = translate::service(index, service, &workload.namespace)?;
                    Some(Encoded::new(&Resource::Service(Arc::new(made.service)), made.refers))
                })
            }
            ResourceName::Endpoints(backend) => resources.find(name, None, || {
                let made = translate::endpoints(index, backend, domain)?;
                Some(Encoded::new(&Resource::Endpoints(Arc::new(made)), []))
            }),
            ResourceName::Address(ip) => resources.find(name, None, || {
                let made = translate::address(index, *ip, domain)?;
                Some(Encoded::new(&Resource::Address(*ip, made), []))
            }),
            ResourceName::Trust => encoded_trust(resources, trust),
            // Every workload has its own, so there is nobody to share it with.
            ResourceName::Inbound => {
                let made = translate::inbound(index, workload);
                Some(Arc::new(Encoded::new(&Resource::Inbound(Arc::new(made)), [])))
            }
        }
    }

    /// The objects.
    #[must_use]
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// The trust bundle.
    #[must_use]
    pub const fn trust(&self) -> &Arc<TrustBundle> {
        &self.trust
    }

    /// The status of every route and every policy.
    #[must_use]
    pub const fn statuses(&self) -> &BTreeMap<ObjectKey, Status> {
        &self.statuses
    }

    /// What objects say of others that is not so: routes and their backends and parents, policies and their targets, slices and
    /// their Services.
    #[must_use]
    pub fn problems(&self) -> Vec<(ObjectKey, Problem)> {
        let unresolved =
            self.unresolved.iter().flat_map(|(key, problems)| problems.iter().map(|problem| (key.clone(), problem.clone())));
        unresolved.chain(self.mismatched.values().flatten().cloned()).collect()
    }
}

fn encoded_trust(resources: &mut Resources, trust: &Arc<TrustBundle>) -> Option<Arc<Encoded>> {
    resources.find(&ResourceName::Trust, None, || Some(Encoded::new(&Resource::Trust(Arc::clone(trust)), [])))
}

fn keep<K: Ord + Clone, V>(map: &mut BTreeMap<K, Vec<V>>, key: &K, values: Vec<V>) {
    if values.is_empty() {
        map.remove(key);
    } else {
        map.insert(key.clone(), values);
    }
}

//! What one proxy subscribed to, holds and refused; and the next response that it gets. Pure: no sockets, no waiting.
//!
//! A name is *wanted* when the proxy subscribed to it, when a wanted Service refers to it, or always (its inbound policy and the
//! trust bundle). A response brings what is wanted and differs from what the proxy holds, each Service together with the
//! endpoints that it refers to. Then nothing more is sent until the proxy has answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_core::names::{BackendRef, ServiceRef};
use weir_core::snapshot::ResourceName;

use super::encode;
use super::resources::Encoded;
use super::state::State;
use super::wire::SharedResponse;
use crate::index::Dirty;
use crate::translate::Workload;

/// How many names a proxy may subscribe to. A workload that calls more different services than this is a crawler, not a client.
pub const MAX_SUBSCRIPTIONS: usize = 10_000;
/// A response that has grown to this many bytes is sent, and the rest follows in the next one: the proxy applies each whole, and
/// large ones would hold up its small news. A Service and its endpoints are never torn apart.
const RESPONSE_BYTES: usize = 1024 * 1024;

/// What a proxy has for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holding {
    /// The resource with this version.
    Version(Arc<str>),
    /// It knows that there is nothing.
    Absence,
}

/// A response that the proxy has not answered yet.
#[derive(Debug)]
struct Outstanding {
    sequence: u64,
    /// For every name in it: what the proxy held before, and what it holds if it agrees.
    changes: BTreeMap<ResourceName, (Option<Holding>, Option<Holding>)>,
}

/// Why a proxy refused a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The response.
    pub sequence: u64,
    /// Its sentence.
    pub reason: String,
    /// The resource at fault, if it named one.
    pub name: Option<ResourceName>,
}

/// A proxy that does not keep to the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaviour {
    /// Too many subscriptions.
    #[error("a proxy may subscribe to {MAX_SUBSCRIPTIONS} names at most")]
    TooManySubscriptions,
    /// Endpoints come with their Services.
    #[error("Endpoints cannot be subscribed to alone: subscribe to the Service {0}")]
    EndpointsAlone(ServiceRef),
    /// An answer to a response that was not sent, or was answered.
    #[error("response {0} is not the one that waits for an answer")]
    WrongSequence(u64),
}

/// One proxy.
#[derive(Debug)]
pub struct Session {
    workload: Workload,
    subscribed: BTreeSet<ResourceName>,
    /// For each wanted Service the service ports that it refers to.
    references: BTreeMap<ServiceRef, Arc<[BackendRef]>>,
    /// How many wanted Services refer to a service port.
    referred: BTreeMap<BackendRef, u32>,
    held: BTreeMap<ResourceName, Holding>,
    /// Services and addresses that it brought along and has not asked for yet.
    unclaimed: BTreeSet<ResourceName>,
    /// Names that may differ from what is held.
    dirty: BTreeSet<ResourceName>,
    outstanding: Option<Outstanding>,
    /// What the proxy will not have, until it is something else.
    refused: BTreeMap<ResourceName, Option<Holding>>,
    last_refusal: Option<Refusal>,
    sequence: u64,
}

impl Session {
    /// For a proxy that holds `held` from before.
    #[must_use]
    pub fn new(workload: Workload, held: impl IntoIterator<Item = (ResourceName, String)>) -> Self {
        let held: BTreeMap<ResourceName, Holding> = held
            .into_iter()
            .take(MAX_SUBSCRIPTIONS * 4)
            .map(|(name, version)| (name, Holding::Version(version.into())))
            .collect();
        let can_be_asked_for = |name: &&ResourceName| matches!(name, ResourceName::Service(_) | ResourceName::Address(_));
        Self {
            workload,
            subscribed: BTreeSet::new(),
            references: BTreeMap::new(),
            referred: BTreeMap::new(),
            unclaimed: held.keys().filter(can_be_asked_for).cloned().collect(),
            held,
            dirty: BTreeSet::from([ResourceName::Inbound, ResourceName::Trust]),
            outstanding: None,
            refused: BTreeMap::new(),
            last_refusal: None,
            sequence: 0,
        }
    }

    /// Whose proxy it is.
    #[must_use]
    pub const fn workload(&self) -> &Workload {
        &self.workload
    }

    /// What it asked for.
    #[must_use]
    pub const fn subscribed(&self) -> &BTreeSet<ResourceName> {
        &self.subscribed
    }

    /// The response that waits for an answer.
    #[must_use]
    pub fn awaiting(&self) -> Option<u64> {
        self.outstanding.as_ref().map(|it| it.sequence)
    }

    /// The version of a resource that the proxy is known to have: acknowledged, or brought along.
    #[must_use]
    pub fn acknowledged(&self, name: &ResourceName) -> Option<&Arc<str>> {
        let outstanding = self.outstanding.as_ref().and_then(|it| it.changes.get(name));
        match outstanding.map_or_else(|| self.held.get(name), |(before, _)| before.as_ref()) {
            Some(Holding::Version(version)) => Some(version),
            Some(Holding::Absence) | None => None,
        }
    }

    /// The number of the last response.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The last refusal that still stands: something is kept from the proxy because of it.
    #[must_use]
    pub fn standing_refusal(&self) -> Option<&Refusal> {
        self.last_refusal.as_ref().filter(|_| !self.refused.is_empty())
    }

    /// Adds subscriptions.
    ///
    /// # Errors
    ///
    /// When the proxy asks for what it cannot have.
    pub fn subscribe(&mut self, names: impl IntoIterator<Item = ResourceName>) -> Result<(), Misbehaviour> {
        for name in names {
            match &name {
                ResourceName::Endpoints(backend) => return Err(Misbehaviour::EndpointsAlone(backend.service.clone())),
                ResourceName::Inbound | ResourceName::Trust => continue,
                ResourceName::Service(_) | ResourceName::Address(_) => {}
            }
            if self.subscribed.len() >= MAX_SUBSCRIPTIONS && !self.subscribed.contains(&name) {
                return Err(Misbehaviour::TooManySubscriptions);
            }
            self.unclaimed.remove(&name);
            if self.subscribed.insert(name.clone()) {
                self.dirty.insert(name);
            }
        }
        Ok(())
    }

    /// Takes subscriptions back.
    pub fn unsubscribe(&mut self, names: impl IntoIterator<Item = ResourceName>) {
        for name in names {
            self.unclaimed.remove(&name);
            if self.subscribed.remove(&name) || self.held.contains_key(&name) {
                self.dirty.insert(name);
            }
        }
    }

    /// Notes what may have changed. Says whether that is of any interest to this proxy.
    pub fn mark(&mut self, dirty: &Dirty) -> bool {
        let before = self.dirty.len();
        let services = dirty.services.iter().map(|name| ResourceName::Service(name.clone()));
        let addresses = dirty.addresses.iter().map(|ip| ResourceName::Address(*ip));
        self.dirty.extend(services.chain(addresses).filter(|name| self.subscribed.contains(name)));
        for service in &dirty.endpoints {
            let first = BackendRef { service: service.clone(), port: 0 };
            let ports = self.referred.range(first..).map(|(backend, _)| backend).take_while(|it| it.service == *service);
            self.dirty.extend(ports.map(|backend| ResourceName::Endpoints(backend.clone())));
        }
        let own_pod = self.workload.pod_key().is_some_and(|key| dirty.pods.contains(&key));
        if own_pod
            || dirty.namespaces.contains(&self.workload.namespace)
            || self.workload.ips.iter().any(|ip| dirty.workload_ips.contains(ip))
        {
            self.dirty.insert(ResourceName::Inbound);
        }
        if dirty.trust {
            self.dirty.insert(ResourceName::Trust);
        }
        self.dirty.len() > before
    }

    /// Notes that anything may have changed.
    pub fn mark_all(&mut self) {
        self.dirty.extend(self.subscribed.iter().cloned());
        self.dirty.extend(self.referred.keys().map(|backend| ResourceName::Endpoints(backend.clone())));
        self.dirty.extend([ResourceName::Inbound, ResourceName::Trust]);
    }

    /// The proxy took a response.
    ///
    /// # Errors
    ///
    /// When it is not the one that was sent last.
    pub fn ack(&mut self, sequence: u64) -> Result<(), Misbehaviour> {
        self.answered(sequence).map(|_| ())
    }

    /// The proxy refused a response: it has what it had before. What it refused is not sent again until it is something else;
    /// where it named the resource at fault, the rest of the response is.
    ///
    /// # Errors
    ///
    /// When it is not the one that was sent last.
    pub fn nack(&mut self, refusal: Refusal) -> Result<(), Misbehaviour> {
        let outstanding = self.answered(refusal.sequence)?;
        let at_fault = refusal.name.clone().filter(|name| outstanding.changes.contains_key(name));
        for (name, (before, after)) in outstanding.changes {
            match before {
                Some(before) => self.held.insert(name.clone(), before),
                None => self.held.remove(&name),
            };
            if at_fault.as_ref().is_none_or(|fault| *fault == name) {
                self.refused.insert(name, after);
            } else {
                self.dirty.insert(name);
            }
        }
        self.last_refusal = Some(refusal);
        Ok(())
    }

    fn answered(&mut self, sequence: u64) -> Result<Outstanding, Misbehaviour> {
        match self.outstanding.take() {
            Some(outstanding) if outstanding.sequence == sequence => Ok(outstanding),
            other => {
                self.outstanding = other;
                Err(Misbehaviour::WrongSequence(sequence))
            }
        }
    }

    /// The next response, if the proxy has answered the last one and there is anything to say.
    pub fn respond(&mut self, state: &mut State) -> Option<SharedResponse> {
        if self.outstanding.is_some() {
            return None;
        }
        let mut draft = Draft::default();
        // Few bytes, and of use at once: they do not wait behind a thousand services.
        for name in [ResourceName::Trust, ResourceName::Inbound] {
            if self.dirty.remove(&name) {
                self.settle(name, state, &mut draft);
            }
        }
        while let Some(name) = self.dirty.pop_first() {
            if draft.bytes >= RESPONSE_BYTES {
                self.dirty.insert(name);
                break;
            }
            self.settle(name, state, &mut draft);
        }
        self.forget_leftovers(&mut draft);
        if draft.news {
            // The response is another one now, so what was refused with the last one may be taken with this.
            self.retry_unnamed(state, &mut draft);
        }
        if draft.changes.is_empty() { None } else { Some(self.send(draft)) }
    }

    /// Takes for granted that the proxy will agree; [`nack`](Self::nack) takes it back.
    fn send(&mut self, draft: Draft) -> SharedResponse {
        self.sequence += 1;
        let mut response = SharedResponse { sequence: self.sequence, ..SharedResponse::default() };
        let mut changes = BTreeMap::new();
        for (name, change) in draft.changes {
            match &change {
                Change::Set(encoded) => response.updated.push(encoded.bytes.clone()),
                Change::Removed => response.removed.push(encode::name(&name)),
                Change::Forgotten => response.forgotten.push(encode::name(&name)),
            }
            let after = change.holding();
            let before = match after.clone() {
                Some(after) => self.held.insert(name.clone(), after),
                None => self.held.remove(&name),
            };
            changes.insert(name, (before, after));
        }
        self.outstanding = Some(Outstanding { sequence: self.sequence, changes });
        response
    }

    /// Puts into the draft whatever the proxy must be told about one name.
    fn settle(&mut self, name: ResourceName, state: &mut State, draft: &mut Draft) {
        if !self.wants(&name) {
            if let ResourceName::Service(service) = &name {
                self.refer(service, None, state, draft);
            }
            self.forget(name, draft);
            return;
        }
        let found = state.find(&name, &self.workload);
        if let ResourceName::Service(service) = &name {
            let refers = found.as_ref().map(|it| Arc::clone(&it.refers));
            self.refer(service, refers, state, draft);
        }
        self.tell(name, found, draft);
    }

    fn wants(&self, name: &ResourceName) -> bool {
        match name {
            ResourceName::Inbound | ResourceName::Trust => true,
            ResourceName::Endpoints(backend) => self.referred.contains_key(backend),
            ResourceName::Service(_) | ResourceName::Address(_) => self.subscribed.contains(name),
        }
    }

    /// Replaces what a Service refers to, and settles the endpoints that came or went with that.
    fn refer(&mut self, service: &ServiceRef, refers: Option<Arc<[BackendRef]>>, state: &mut State, draft: &mut Draft) {
        let old = match &refers {
            Some(new) => self.references.insert(service.clone(), Arc::clone(new)),
            None => self.references.remove(service),
        };
        let new: &[BackendRef] = refers.as_deref().unwrap_or_default();
        let mut touched: BTreeSet<BackendRef> = BTreeSet::new();
        for backend in new {
            *self.referred.entry(backend.clone()).or_default() += 1;
            touched.insert(backend.clone());
        }
        for backend in old.as_deref().unwrap_or_default() {
            if let Some(count) = self.referred.get_mut(backend) {
                *count -= 1;
                if *count == 0 {
                    self.referred.remove(backend);
                }
            }
            touched.insert(backend.clone());
        }
        for backend in touched {
            let wanted = self.referred.contains_key(&backend);
            let name = ResourceName::Endpoints(backend);
            self.dirty.remove(&name);
            if wanted {
                let found = state.find(&name, &self.workload);
                self.tell(name, found, draft);
            } else {
                self.forget(name, draft);
            }
        }
    }

    fn tell(&mut self, name: ResourceName, found: Option<Arc<Encoded>>, draft: &mut Draft) {
        let change = found.map_or(Change::Removed, Change::Set);
        let now = change.holding();
        if self.held.get(&name) == now.as_ref() {
            self.refused.remove(&name);
            draft.withdraw(&name);
        } else if self.refused.get(&name) != Some(&now) {
            self.refused.remove(&name);
            draft.put(name, change);
        }
    }

    fn forget(&mut self, name: ResourceName, draft: &mut Draft) {
        if !self.held.contains_key(&name) {
            self.refused.remove(&name);
            draft.withdraw(&name);
        } else if self.refused.get(&name) != Some(&None) {
            self.refused.remove(&name);
            draft.put(name, Change::Forgotten);
        }
    }

    /// Once a proxy that came back has asked again for everything that it held, what nothing refers to can go.
    fn forget_leftovers(&mut self, draft: &mut Draft) {
        if !self.unclaimed.is_empty() || !self.dirty.is_empty() {
            return;
        }
        let is_left_over = |name: &&ResourceName| match name {
            ResourceName::Endpoints(backend) => !self.referred.contains_key(backend),
            ResourceName::Service(_) | ResourceName::Address(_) | ResourceName::Inbound | ResourceName::Trust => false,
        };
        let left_over: Vec<ResourceName> = self.held.keys().filter(is_left_over).cloned().collect();
        for name in left_over {
            self.forget(name, draft);
        }
    }

    /// What was refused without naming a culprit goes along with the next news.
    fn retry_unnamed(&mut self, state: &mut State, draft: &mut Draft) {
        if self.last_refusal.as_ref().is_none_or(|refusal| refusal.name.is_some()) {
            return;
        }
        for name in std::mem::take(&mut self.refused).into_keys() {
            self.settle(name, state, draft);
        }
    }
}

/// What a response says of one name.
#[derive(Clone, Debug)]
enum Change {
    Set(Arc<Encoded>),
    Removed,
    Forgotten,
}

impl Change {
    /// What a proxy holds that agreed to it.
    fn holding(&self) -> Option<Holding> {
        match self {
            Self::Set(encoded) => Some(Holding::Version(Arc::clone(&encoded.version))),
            Self::Removed => Some(Holding::Absence),
            Self::Forgotten => None,
        }
    }
}

/// A response in the making.
#[derive(Debug, Default)]
struct Draft {
    changes: BTreeMap<ResourceName, Change>,
    bytes: usize,
    /// Something in it is not what the proxy refused.
    news: bool,
}

impl Draft {
    fn put(&mut self, name: ResourceName, change: Change) {
        if let Change::Set(encoded) = &change {
            self.bytes += encoded.bytes.len();
        }
        self.news = true;
        self.changes.insert(name, change);
    }

    /// Two Services may refer to one thing: what the first one's change took away, the second one's may bring back.
    fn withdraw(&mut self, name: &ResourceName) {
        self.changes.remove(name);
    }
}

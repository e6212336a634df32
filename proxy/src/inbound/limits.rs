//! Limits of the workload's own ports, as TrafficPolicies say: how many requests in a time, and how many at a time.
//!
//! All workers share the buckets: a limit is the workload's, not a worker's. A connection looks its buckets up once for each
//! configuration; then a request costs one atomic number for each limit, and where there is none nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use weir_core::clock::Moment;
use weir_core::names::Identity;
use weir_core::policy::concurrency::Priority;
use weir_core::policy::rate::Bucket;
use weir_core::policy::{RateKey, RateLimit};
use weir_core::snapshot::Inbound;

use super::gate::{Gate, Passage};
use crate::fault::Fault;
use crate::shared::Shared;

/// Buckets at a time. Above it callers whose bucket is not known share that of callers without an identity.
const MAX_BUCKETS: usize = 10_000;

/// Whose a bucket is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    port: u16,
    policy: Arc<str>,
    requests: u32,
    per: std::time::Duration,
    burst: u32,
    key: RateKey,
    peer: Option<Arc<Identity>>,
}

/// The buckets of a workload.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    known: Mutex<HashMap<Key, Arc<Bucket>>>,
}

impl Buckets {
    fn find(&self, port: u16, limit: &RateLimit, peer: Option<&Arc<Identity>>, now: Moment) -> Arc<Bucket> {
        let peer = peer.filter(|_| limit.key == RateKey::Caller).cloned();
        let RateLimit { policy, requests, per, burst, key } = limit;
        let (policy, requests, per, burst, key) = (Arc::clone(policy), *requests, *per, *burst, *key);
        let mut wanted = Key { port, policy, requests, per, burst, key, peer };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_BUCKETS && !known.contains_key(&wanted) {
            known.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_full(now));
            if known.len() >= MAX_BUCKETS {
                wanted.peer = None;
            }
        }
        Arc::clone(known.entry(wanted).or_default())
    }
}

/// The buckets of a connection.
#[derive(Debug)]
struct Known {
    /// As of this configuration.
    of: Arc<Inbound>,
    buckets: Vec<(RateLimit, Arc<Bucket>)>,
    /// What finds out how many requests the port can serve, and how important those of this connection are.
    gate: Option<(Arc<Gate>, Priority)>,
}

/// The limits that hold for one connection.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    known: RefCell<Option<Known>>,
}

impl Limits {
    /// Takes a request of `peer` on `port`. Where it is to be found out how many the port can serve, it is one of them until what
    /// this answers with is dropped.
    ///
    /// # Errors
    ///
    /// A limit that is used up, and until when; or the port has enough to do.
    pub(crate) fn take(&self, shared: &Arc<Shared>, port: u16, peer: Option<&Arc<Identity>>) -> Result<Option<Passage>, Fault> {
        let snapshot = shared.snapshot.load();
        let inbound = snapshot.inbound();
        let (limits, concurrency) = match inbound.ports.get(&port) {
            Some(port) => (port.rate_limits.as_slice(), port.concurrency.as_ref()),
            None => (&[][..], None),
        };
        if limits.is_empty() && concurrency.is_none() {
            return Ok(None);
        }
        let now = shared.now();
        let mut known = self.known.borrow_mut();
        let current = match &mut *known {
            Some(current) if Arc::ptr_eq(&current.of, inbound) => current,
            other => {
                let buckets = limits.iter().map(|limit| (limit.clone(), shared.buckets.find(port, limit, peer, now)));
                let buckets = buckets.collect();
                let gate = concurrency.map(|config| {
                    let priority = config.priority(peer.map(AsRef::as_ref));
                    (shared.gates.of(port, config, now), priority)
                });
                other.insert(Known { of: Arc::clone(inbound), buckets, gate })
            }
        };
        for (limit, bucket) in &current.buckets {
            if let Err(wait) = bucket.take(limit, now) {
                return Err(refused(limit, peer, wait));
            }
        }
        current.gate.as_ref().map(|(gate, priority)| gate.enter(shared, *priority)).transpose()
    }
}

fn refused(limit: &RateLimit, peer: Option<&Arc<Identity>>, wait: std::time::Duration) -> Fault {
    let whose = match (limit.key, peer) {
        (RateKey::All, _) => "all callers together".to_owned(),
        (RateKey::Caller, Some(peer)) => format!("caller {peer}"),
        (RateKey::Caller, None) => "callers without an identity".to_owned(),
    };
    let RateLimit { policy, requests, per, .. } = limit;
    Fault::rate_limited(wait, format!("TrafficPolicy {policy} gives {whose} {requests} requests in {per:?}"))
}

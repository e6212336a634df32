//! How much one proxy has under way to a backend, over all of its workers: the bound that a TrafficPolicy's `limits` sets.
//!
//! A permit is one of a semaphore, whose waiters are served in the order in which they came. Without limits there is no
//! semaphore, and nothing to pay.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weir_core::names::BackendRef;
use weir_core::policy::Limits;

use crate::fault::{Fault, Reason};

/// What is under way to one backend.
pub(crate) struct Slots {
    backend: BackendRef,
    limits: Limits,
    requests: Option<Arc<Semaphore>>,
    connections: Option<Arc<Semaphore>>,
    waiting: AtomicU32,
}

/// One of the things that are under way; dropping it lets the next one begin.
pub(crate) type Slot = OwnedSemaphorePermit;

impl Slots {
    fn new(backend: BackendRef, limits: Limits) -> Self {
        let of = |limit: Option<u32>| {
            let permits = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS));
            permits.map(|permits| Arc::new(Semaphore::new(permits)))
        };
        let (requests, connections) = (of(limits.requests), of(limits.connections));
        Self { backend, limits, requests, connections, waiting: AtomicU32::new(0) }
    }

    /// Waits until one more request may be under way.
    ///
    /// # Errors
    ///
    /// As many as may are under way, and as many as may wait do.
    pub(crate) async fn request(&self) -> Result<Option<Slot>, Fault> {
        let Some(requests) = &self.requests else { return Ok(None) };
        if let Ok(slot) = Arc::clone(requests).try_acquire_owned() {
            return Ok(Some(slot));
        }
        let waiting = Waiting::begin(&self.waiting, self.limits.pending);
        let _waiting = waiting.ok_or_else(|| self.overloaded("requests", self.limits.requests, self.limits.pending))?;
        // The semaphore is never closed.
        Ok(Arc::clone(requests).acquire_owned().await.ok())
    }

    /// The same for a request that does not wait: a copy that nobody misses.
    pub(crate) fn copy(&self) -> Result<Option<Slot>, ()> {
        let Some(requests) = &self.requests else { return Ok(None) };
        Arc::clone(requests).try_acquire_owned().map(Some).map_err(|_| ())
    }

    /// One more connection that is carried as bytes.
    ///
    /// # Errors
    ///
    /// As many as may are open.
    pub(crate) fn connection(&self) -> Result<Option<Slot>, Fault> {
        let Some(connections) = &self.connections else { return Ok(None) };
        let slot = Arc::clone(connections).try_acquire_owned();
        slot.map(Some).map_err(|_| self.overloaded("connections", self.limits.connections, 0))
    }

    /// What a request is told whose time went by while it waited.
    pub(crate) fn waited_in_vain(&self) -> String {
        let limit = self.limits.requests.unwrap_or_default();
        format!("its time went by while {limit} other requests of this workload were under way to {}", self.backend)
    }

    fn overloaded(&self, what: &str, limit: Option<u32>, pending: u32) -> Fault {
        let limit = limit.unwrap_or_default();
        let waiting = if pending == 0 { String::new() } else { format!(" and {pending} wait") };
        let detail = format!(
            "{limit} {what} of this workload are under way to {}{waiting}, as many as limits.{what} of its TrafficPolicy allows",
            self.backend
        );
        Fault::new(Reason::Overloaded, detail)
    }
}

/// A place among those that wait.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicU32, most: u32) -> Option<Self> {
        let one_more = |count: u32| (count < most).then_some(count + 1);
        waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok().map(|_| Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The slots of all backends that have a limit, for all workers.
#[derive(Default)]
pub(crate) struct AllSlots(Mutex<HashMap<BackendRef, Weak<Slots>>>);

impl AllSlots {
    /// The slots of a backend; `None` when nothing is limited. After a change of the limits what was under way before is no
    /// longer counted, and ends within the bounds that held then.
    pub(crate) fn of(&self, backend: &BackendRef, limits: Limits) -> Option<Arc<Slots>> {
        if limits.requests.is_none() && limits.connections.is_none() {
            return None;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(backend).and_then(Weak::upgrade).filter(|known| known.limits == limits) {
            return Some(known);
        }
        all.retain(|_, slots| slots.strong_count() > 0);
        let slots = Arc::new(Slots::new(backend.clone(), limits));
        all.insert(backend.clone(), Arc::downgrade(&slots));
        Some(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> BackendRef {
        BackendRef {
            service: weir_core::names::ServiceRef { namespace: "shop".parse().unwrap(), name: "db".parse().unwrap() },
            port: 80,
        }
    }

    fn limits(requests: Option<u32>, pending: u32, connections: Option<u32>) -> Limits {
        Limits { requests, pending, connections, streams: None }
    }

    #[tokio::test]
    async fn requests_wait_in_turn_and_as_many_as_may() {
        let slots = Arc::new(Slots::new(backend(), limits(Some(1), 1, None)));
        let first = slots.request().await.ok().flatten();
        assert!(first.is_some() && slots.copy().is_err());
        let mut second = Box::pin(slots.request());
        assert!(futures_util::poll!(&mut second).is_pending());
        let Err(refused) = slots.request().await else { panic!("a third is one too many") };
        assert_eq!(refused.reason, Reason::Overloaded);
        assert!(
            refused.detail.contains("1 requests of this workload are under way to shop/db:80 and 1 wait"),
            "{}",
            refused.detail
        );
        drop(first);
        assert!(second.await.ok().flatten().is_some());
        assert!(slots.request().await.is_ok(), "nobody waits any more, and nothing is under way");
    }

    #[tokio::test]
    async fn one_that_goes_away_while_it_waits_leaves_its_place() {
        let slots = Slots::new(backend(), limits(Some(1), 1, None));
        let _first = slots.request().await.ok().flatten();
        {
            let mut second = Box::pin(slots.request());
            assert!(futures_util::poll!(&mut second).is_pending());
        }
        let mut third = Box::pin(slots.request());
        assert!(futures_util::poll!(&mut third).is_pending(), "there is a place again");
    }

    #[tokio::test]
    async fn what_is_not_limited_costs_nothing() {
        let all = AllSlots::default();
        assert!(all.of(&backend(), Limits::default()).is_none());
        let slots = all.of(&backend(), limits(None, 0, Some(1))).unwrap();
        assert!(matches!(slots.request().await, Ok(None)) && matches!(slots.copy(), Ok(None)));
        let open = slots.connection().ok().flatten();
        assert!(open.is_some() && slots.connection().is_err());
    }

    #[test]
    fn workers_share_the_slots_of_a_backend_as_long_as_its_limits_stay() {
        let all = AllSlots::default();
        let one = all.of(&backend(), limits(Some(3), 0, None)).unwrap();
        assert!(Arc::ptr_eq(&one, &all.of(&backend(), limits(Some(3), 0, None)).unwrap()));
        assert!(!Arc::ptr_eq(&one, &all.of(&backend(), limits(Some(4), 0, None)).unwrap()));
    }
}

//! The bound of requests under way at a port of the workload, found by [adaptive concurrency](weir_core::policy::concurrency).
//!
//! All workers share the gate of a port. A request costs two atomic numbers, and a lock that nobody waits for: while another
//! worker has it, an answer is not looked at, which only means one sample less.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::StatusCode;
use weir_core::clock::Moment;
use weir_core::policy::AdaptiveConcurrency;
use weir_core::policy::concurrency::{Gradient, Priority};

use crate::fault::{Fault, Reason};
use crate::shared::Shared;

/// What a port's requests have to pass.
#[derive(Debug)]
pub(crate) struct Gate {
    port: u16,
    config: Arc<AdaptiveConcurrency>,
    in_flight: AtomicU32,
    limit: AtomicU32,
    gradient: Mutex<Gradient>,
}

impl Gate {
    fn new(port: u16, config: Arc<AdaptiveConcurrency>, now: Moment) -> Self {
        let gradient = Gradient::new(&config, now);
        let limit = AtomicU32::new(gradient.limit());
        Self { port, config, in_flight: AtomicU32::new(0), limit, gradient: Mutex::new(gradient) }
    }

    /// Lets a request in, or refuses it while too many of its importance are under way.
    ///
    /// # Errors
    ///
    /// The workload has enough to do.
    pub(super) fn enter(self: &Arc<Self>, shared: &Arc<Shared>, priority: Priority) -> Result<Passage, Fault> {
        let limit = self.limit.load(Ordering::Relaxed);
        let room = self.config.room(limit, priority);
        let one_more = |count: u32| (count < room).then_some(count + 1);
        let Ok(before) = self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) else {
            return Err(self.refused(limit, room, priority));
        };
        let (gate, shared) = (Arc::clone(self), Arc::clone(shared));
        let began = shared.now();
        Ok(Passage { gate, began, in_flight: before + 1, answered: false, shared })
    }

    fn refused(&self, limit: u32, room: u32, priority: Priority) -> Fault {
        let share = match priority {
            Priority::Low => " for callers of low priority",
            Priority::Normal if room < limit => " for callers of normal priority",
            Priority::Normal | Priority::High => "",
        };
        let detail = format!(
            "{room} requests are under way at port {}, as many as keep it fast{share} (TrafficPolicy {}, now {limit} in all)",
            self.port, self.config.policy
        );
        Fault::new(Reason::Overloaded, detail)
    }

    fn sample(&self, took: std::time::Duration, in_flight: u32, now: Moment, shared: &Shared) {
        let Ok(mut gradient) = self.gradient.try_lock() else { return };
        if let Some(limit) = gradient.sample(took, in_flight, now, &self.config) {
            self.limit.store(limit, Ordering::Relaxed);
            shared.metrics.concurrency_limit(self.port, limit);
        }
    }
}

/// A request under way.
pub(crate) struct Passage {
    gate: Arc<Gate>,
    began: Moment,
    /// How many were, itself included, as it began.
    in_flight: u32,
    answered: bool,
    shared: Arc<Shared>,
}

impl Passage {
    /// The answer has begun. One of a server that failed says nothing of how long an answer takes: it may fail fast.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        if !self.answered && !status.is_server_error() {
            let now = self.shared.now();
            self.gate.sample(now.since(self.began), self.in_flight, now, &self.shared);
        }
        self.answered = true;
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if !self.answered {
            // Its caller had no more patience: the answer would have taken at least that long.
            let now = self.shared.now();
            self.gate.sample(now.since(self.began), self.in_flight, now, &self.shared);
        }
        self.gate.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The gates of a workload's ports.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<HashMap<u16, Weak<Gate>>>);

impl Gates {
    /// The gate of a port, with what it has learnt, as long as the policy stays as it is.
    pub(super) fn of(&self, port: u16, config: &Arc<AdaptiveConcurrency>, now: Moment) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = gates.get(&port).and_then(Weak::upgrade).filter(|known| known.config == *config) {
            return known;
        }
        let gate = Arc::new(Gate::new(port, Arc::clone(config), now));
        gates.insert(port, Arc::downgrade(&gate));
        gate
    }
}

//! What the threads of one proxy share: the current configuration, the current certificate, and what has been asked for.
//!
//! Workers read; the control thread writes. Everything a request touches here is a lock-free load of an immutable value.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use weir_core::clock::Moment;
use weir_core::names::Resolver;
use weir_core::snapshot::{ResourceName, Snapshot};
use weir_tls::{Credentials, Roots};

use crate::inbound::gate::Gates;
use crate::inbound::limits::Buckets;
use crate::metrics::Metrics;
use crate::probe::Prober;
use crate::settings::Settings;
use crate::slots::AllSlots;

/// The shared state of one proxy.
pub(crate) struct Shared {
    /// How it was started.
    pub(crate) settings: Settings,
    /// Reads authorities the way this workload means them.
    pub(crate) resolver: Resolver,
    /// The configuration in force.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// The snapshot's generation, for those who wait for a change.
    pub(crate) changed: watch::Sender<u64>,
    /// Names that workers asked for.
    pub(crate) demand: Demand,
    /// The certificate in force and the roots; `None` until the first certificate is there.
    pub(crate) tls: ArcSwapOption<MeshTls>,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// Starting, serving, draining.
    pub(crate) lifecycle: Lifecycle,
    /// How well the control plane is followed.
    pub(crate) control: ControlState,
    /// Whether the workload's traffic comes here, as far as that is asked for.
    pub(crate) redirected: AtomicBool,
    /// Asks the application's own probes.
    pub(crate) prober: Prober,
    /// How far rate limits are used up.
    pub(crate) buckets: Buckets,
    /// How many requests ports of the workload can serve at a time.
    pub(crate) gates: Gates,
    /// How much is under way to backends that have a limit.
    pub(crate) slots: AllSlots,
    /// Questions to the workers, filled as they start.
    pub(crate) workers: Mutex<Vec<mpsc::Sender<WorkerQuestion>>>,
    /// The start of this process's [`Moment`]s.
    pub(crate) started: Instant,
}

impl Shared {
    /// A proxy that has not started yet.
    pub(crate) fn new(settings: Settings, metrics: Metrics) -> Self {
        let resolver = Resolver::new(settings.workload.namespace.clone(), &settings.cluster_domain);
        let listeners = settings.workers.get();
        let prober = Prober::new(settings.probes.clone(), &settings.workload.pod_ips, &settings.inbound);
        let redirected = AtomicBool::new(!settings.expect_redirection);
        Self {
            resolver,
            settings,
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            changed: watch::Sender::new(0),
            demand: Demand::default(),
            tls: ArcSwapOption::empty(),
            metrics,
            lifecycle: Lifecycle::new(listeners),
            control: ControlState::default(),
            redirected,
            prober,
            buckets: Buckets::default(),
            gates: Gates::default(),
            slots: AllSlots::default(),
            workers: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// The time, for the core.
    pub(crate) fn now(&self) -> Moment {
        Moment::after_start(self.started.elapsed())
    }
}

/// A certificate with everything made of it. Replaced whole, so that a connection never mixes two.
pub(crate) struct MeshTls {
    /// Counts replacements; caches of connections and client settings compare it.
    pub(crate) generation: u64,
    /// The certificate and its key.
    pub(crate) credentials: Credentials,
    /// Accepted roots.
    pub(crate) roots: Roots,
    /// For connections that come in over the mesh.
    pub(crate) inbound: Arc<ServerConfig>,
}

/// Names that the workload turned out to need. Workers add, the control thread subscribes.
#[derive(Default)]
pub(crate) struct Demand {
    asked: Mutex<HashSet<ResourceName>>,
    added: Notify,
}

impl Demand {
    /// The most names that are remembered. A client that asks for random names cannot grow the proxy beyond this.
    pub(crate) const MAX: usize = 20_000;

    /// Asks for a resource. Repeating is harmless. `false`: over the bound, the name is not followed.
    pub(crate) fn ask(&self, name: &ResourceName) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.contains(name) {
            return true;
        }
        if asked.len() >= Self::MAX {
            return false;
        }
        asked.insert(name.clone());
        drop(asked);
        self.added.notify_one();
        true
    }

    /// Waits until a name was added since the last call returned.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    /// Everything asked for so far, sorted.
    pub(crate) fn names(&self) -> Vec<ResourceName> {
        let mut names: Vec<_> = self.asked.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        names.sort();
        names
    }
}

/// Where the proxy is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not all workers listen yet.
    Starting,
    /// Serving.
    Serving,
    /// No new connections from peers are wanted; what runs is finished.
    Draining,
}

/// The phase and how it is announced.
pub(crate) struct Lifecycle {
    phase: AtomicU8,
    /// Workers that do not listen yet.
    not_listening: AtomicUsize,
    draining: watch::Sender<bool>,
    ending: watch::Sender<bool>,
    /// Connections that are being served, for the drain to wait on.
    open: AtomicUsize,
}

impl Lifecycle {
    fn new(workers: usize) -> Self {
        Self {
            phase: AtomicU8::new(0),
            not_listening: AtomicUsize::new(workers),
            draining: watch::Sender::new(false),
            ending: watch::Sender::new(false),
            open: AtomicUsize::new(0),
        }
    }

    /// One worker's listeners are bound.
    pub(crate) fn worker_listens(&self) {
        if self.not_listening.fetch_sub(1, Ordering::AcqRel) == 1 {
            let _ = self.phase.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// The phase now.
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// Says that this workload goes away, to whoever asks whether it is ready. There is no way back.
    pub(crate) fn leave(&self) {
        self.phase.store(2, Ordering::Release);
    }

    /// Begins the drain.
    pub(crate) fn drain(&self) {
        self.leave();
        self.draining.send_replace(true);
    }

    /// Ends the threads, and with them every connection that is left.
    pub(crate) fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Turns true when the threads are to end.
    pub(crate) fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// Turns true when the drain begins.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Counts a connection for as long as the guard lives.
    pub(crate) fn connection(&self) -> OpenConnection<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self)
    }

    /// Connections being served.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// A connection that is being served.
pub(crate) struct OpenConnection<'a>(&'a Lifecycle);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How well the control plane is followed. Written by the control thread.
#[derive(Default)]
pub(crate) struct ControlState {
    /// Milliseconds after the process's start when the configuration was last known to be current; 0: never.
    current_at_ms: AtomicU64,
    /// Whether a stream to the control plane is open.
    connected: AtomicBool,
}

impl ControlState {
    /// The stream stands and nothing is outstanding.
    pub(crate) fn is_current(&self, now: Moment) {
        let ms = u64::try_from(now.since_start().as_millis()).unwrap_or(u64::MAX);
        self.current_at_ms.store(ms.max(1), Ordering::Relaxed);
    }

    /// The stream opened or broke.
    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Whether the stream is open.
    pub(crate) fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// How old the configuration may be. `None`: it never came from a control plane in this process's life.
    pub(crate) fn age(&self, now: Moment) -> Option<Duration> {
        match self.current_at_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(now.since_start().saturating_sub(Duration::from_millis(ms))),
        }
    }
}

/// What the admin page asks a worker.
pub(crate) enum WorkerQuestion {
    /// The state of every endpoint that it balances over.
    Clusters(oneshot::Sender<Vec<ClusterView>>),
}

/// One backend port as one worker sees it.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct ClusterView {
    /// `namespace/name:port`.
    pub(crate) backend: String,
    /// The worker, from 0.
    pub(crate) worker: usize,
    /// Its endpoints.
    pub(crate) endpoints: Vec<ClusterEndpoint>,
}

/// One endpoint as one worker sees it.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct ClusterEndpoint {
    /// `ip:port`.
    pub(crate) address: String,
    /// Pod name, if known.
    pub(crate) pod: String,
    /// SPIFFE id, if meshed.
    pub(crate) identity: Option<String>,
    /// Requests under way.
    pub(crate) outstanding: u32,
    /// Peak-EWMA of the time to an answer, in milliseconds; none before the first.
    pub(crate) rtt_ms: Option<f64>,
    /// Length of its ejection, if it is ejected.
    pub(crate) ejected_seconds: Option<f64>,
}

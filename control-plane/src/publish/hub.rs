//! Where changes meet proxies.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use weir_core::snapshot::TrustBundle;

use super::proxies::{Behind, Proxies};
use super::state::{Applied, State};
use crate::index::{Dirty, Event};
use crate::metrics::Metrics;

/// Changes that a stream may be behind before it is told to look at everything instead of at each.
const BACKLOG: usize = 1024;

/// The state, and the streams that follow it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changes: broadcast::Sender<Arc<Dirty>>,
    proxies: Proxies,
    metrics: Metrics,
    stop: CancellationToken,
}

impl Hub {
    /// Without any object. Streams end when `stop` is cancelled.
    #[must_use]
    pub fn new(trust: TrustBundle, metrics: Metrics, stop: CancellationToken) -> Self {
        let inner = Inner {
            state: Mutex::new(State::new(trust)),
            changes: broadcast::Sender::new(BACKLOG),
            proxies: Proxies::default(),
            metrics,
            stop,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes events, all of them at once, and tells every stream.
    pub fn apply(&self, events: impl IntoIterator<Item = Event>) -> Applied {
        let applied = self.state().apply(events);
        self.tell(applied.dirty.clone());
        applied
    }

    /// Replaces the trust bundle, and tells every stream.
    pub fn set_trust(&self, trust: TrustBundle) {
        let dirty = self.state().set_trust(trust);
        self.tell(dirty);
    }

    /// Which connected proxies are not ready for the next step of a rotation: without the trust bundle that is in force, or with a
    /// certificate that does not lead to its first root.
    #[must_use]
    pub fn behind(&self) -> Behind {
        let (version, root) = {
            let mut state = self.state();
            (state.trust_version().unwrap_or_default(), state.trust().roots.first().cloned().unwrap_or_default())
        };
        self.proxies().behind(&version, &root)
    }

    /// The state, for as long as it takes to look something up; never across an `await`.
    pub fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; and if something did, serving on is the better half.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What changes from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Arc<Dirty>> {
        self.inner.changes.subscribe()
    }

    /// The proxies that are connected.
    #[must_use]
    pub fn proxies(&self) -> &Proxies {
        &self.inner.proxies
    }

    /// The control plane's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Cancelled when the streams are to end.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    fn tell(&self, dirty: Dirty) {
        if !dirty.is_empty() {
            // No stream at all is no error.
            let _ = self.inner.changes.send(Arc::new(dirty));
        }
    }
}

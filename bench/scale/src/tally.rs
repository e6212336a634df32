//! Who has heard of what, and when.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

/// What all proxies' streams add to.
#[derive(Default)]
pub(crate) struct Tally {
    phase: Mutex<Phase>,
    changed: Notify,
    reading: Notify,
    /// Whether all streams are to end.
    ending: watch::Sender<bool>,
}

#[derive(Default)]
struct Phase {
    began: Option<Instant>,
    messages: u64,
    bytes: u64,
    /// What each proxy still has to hear: the Services, and what the versions of their endpoints add up to at least.
    missing: HashMap<usize, HashMap<usize, u64>>,
    /// Those of whom it only counts that their stream is open.
    unopened: HashSet<usize>,
    took: Vec<Duration>,
    /// What each proxy has heard of each Service, in this phase and before.
    known: HashMap<(usize, usize), u64>,
}

/// What came of a phase.
pub(crate) struct Outcome {
    /// How long each proxy took that had something to hear, shortest first.
    pub(crate) took: Vec<Duration>,
    /// Responses, to whomever.
    pub(crate) messages: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl Tally {
    /// A phase begins in which these proxies are to hear of these Services, until their versions add up to this. Whoever has
    /// heard of it before is not waited for.
    pub(crate) fn begin(&self, missing: HashMap<usize, HashMap<usize, u64>>) {
        let mut phase = self.lock();
        *phase = Phase { known: std::mem::take(&mut phase.known), ..Phase::default() };
        phase.wait_for(missing);
    }

    /// The same for proxies that know nothing any more.
    pub(crate) fn begin_anew(&self, missing: HashMap<usize, HashMap<usize, u64>>) {
        let mut phase = self.lock();
        *phase = Phase::default();
        phase.wait_for(missing);
    }

    /// A phase begins in which so many proxies only open their streams.
    pub(crate) fn begin_opening(&self, proxies: usize) {
        *self.lock() = Phase { began: Some(Instant::now()), unopened: (0..proxies).collect(), ..Phase::default() };
    }

    /// The phase goes on with something more to hear, and its clock begins anew.
    pub(crate) fn still_missing(&self, missing: HashMap<usize, HashMap<usize, u64>>) {
        let mut phase = self.lock();
        phase.took.clear();
        phase.wait_for(missing);
    }

    /// Waits until everybody has heard everything.
    ///
    /// # Errors
    ///
    /// Who has not within `patience`.
    pub(crate) async fn end(&self, patience: Duration) -> Result<(), String> {
        let all = async {
            loop {
                let mut changed = pin!(self.changed.notified());
                // From here on no word is missed.
                changed.as_mut().enable();
                if self.is_over() {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(patience, all).await.is_ok() {
            return Ok(());
        }
        let phase = self.lock();
        let waiting = phase.missing.len() + phase.unopened.len();
        Err(format!("{waiting} proxies have not heard of it after {patience:?}"))
    }

    /// What came of the phase so far.
    pub(crate) fn outcome(&self) -> Outcome {
        let phase = self.lock();
        let mut took = phase.took.clone();
        took.sort_unstable();
        Outcome { took, messages: phase.messages, bytes: phase.bytes }
    }

    pub(crate) fn opened(&self, proxy: usize) {
        let mut phase = self.lock();
        if phase.unopened.remove(&proxy) {
            phase.heard();
            self.notify(&phase);
        }
    }

    pub(crate) fn received(&self, proxy: usize, bytes: usize, seen: &[(usize, u64)]) {
        let mut phase = self.lock();
        phase.messages += 1;
        phase.bytes += bytes as u64;
        phase.known.extend(seen.iter().map(|(service, sum)| ((proxy, *service), *sum)));
        let Some(missing) = phase.missing.get_mut(&proxy) else { return };
        for (service, sum) in seen {
            if missing.get(service).is_some_and(|wanted| sum >= wanted) {
                missing.remove(service);
            }
        }
        if missing.is_empty() {
            phase.missing.remove(&proxy);
            phase.heard();
            self.notify(&phase);
        }
    }

    /// Those that did not read may do so again.
    pub(crate) fn let_read(&self) {
        self.reading.notify_waiters();
    }

    /// Waits for that.
    pub(crate) async fn reads_again(&self) {
        // A word that was said just before would be missed otherwise.
        let _ = tokio::time::timeout(Duration::from_millis(100), self.reading.notified()).await;
    }

    /// All streams end.
    pub(crate) fn end_streams(&self) {
        self.ending.send_replace(true);
    }

    /// Those that begin from now on do not.
    pub(crate) fn streams_may_begin(&self) {
        self.ending.send_replace(false);
    }

    /// Waits until they are to end.
    pub(crate) async fn streams_end(&self) {
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }

    fn is_over(&self) -> bool {
        let phase = self.lock();
        phase.missing.is_empty() && phase.unopened.is_empty()
    }

    fn notify(&self, phase: &Phase) {
        if phase.missing.is_empty() && phase.unopened.is_empty() {
            self.changed.notify_waiters();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Phase {
    fn wait_for(&mut self, mut missing: HashMap<usize, HashMap<usize, u64>>) {
        missing.retain(|proxy, services| {
            services.retain(|service, wanted| self.known.get(&(*proxy, *service)).is_none_or(|known| known < wanted));
            !services.is_empty()
        });
        (self.began, self.missing) = (Some(Instant::now()), missing);
    }

    fn heard(&mut self) {
        if let Some(began) = self.began {
            self.took.push(began.elapsed());
        }
    }
}

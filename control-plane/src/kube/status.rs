//! Writes what became of routes and policies into their status.
//!
//! [`StatusQueue`] knows every route as the API server has it and which of them should be looked at; [`StatusWriter`] looks at
//! them on the replica that leads. A route is looked at when it changes, when the mesh judges it otherwise, and once when this
//! replica begins to lead; written is only what differs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::api::{GetParams, Patch, PatchParams};
use kube::core::Request;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use super::status_merge::StatusObject;
use super::status_merge::{Known, Verdict, judge};
use super::{Cluster, FIELD_MANAGER, Failure, backoff};
use crate::objects::ObjectKey;
use crate::publish::Hub;
use crate::source::kube::kinds::watched;

/// Between two writes: a Service that comes and goes must not keep an API server busy with the routes that name it.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two writes of one route.
const PAUSE_OF_ROUTE: Duration = Duration::from_millis(250);
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The first wait after a failure, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Routes whose status should be looked at. Cheap to clone; as large as there are routes.
#[derive(Clone, Debug, Default)]
pub struct StatusQueue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    routes: Mutex<BTreeMap<ObjectKey, Entry>>,
    wake: Notify,
}

#[derive(Debug)]
struct Entry {
    object: StatusObject,
    /// When it should be looked at.
    due: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    /// When it was written last.
    written: Option<Instant>,
}

impl StatusQueue {
    /// Takes routes as the API server has them now, those that it has no more, and those that the mesh judges otherwise.
    pub fn update<'a>(
        &self,
        seen: Vec<StatusObject>,
        gone: impl Iterator<Item = &'a ObjectKey>,
        judged: impl Iterator<Item = &'a ObjectKey>,
    ) {
        let now = Instant::now();
        let mut routes = self.lock();
        for key in gone {
            routes.remove(key);
        }
        for object in seen {
            let before = routes.remove(&object.key);
            let written = before.and_then(|entry| entry.written);
            routes.insert(object.key.clone(), Entry { object, due: Some(due(now, written)), failures: 0, written });
        }
        for key in judged {
            if let Some(entry) = routes.get_mut(key) {
                entry.due = Some(due(now, entry.written));
            }
        }
        drop(routes);
        self.shared.wake.notify_one();
    }

    /// All of them should be looked at.
    fn look_at_all(&self) {
        let now = Instant::now();
        for entry in self.lock().values_mut() {
            entry.due = Some(now);
            entry.failures = 0;
        }
    }

    /// Takes a route that is due, or says when the next one is.
    fn take(&self, now: Instant) -> Result<StatusObject, Option<Instant>> {
        let mut routes = self.lock();
        let first = routes.values_mut().filter(|entry| entry.due.is_some()).min_by_key(|entry| entry.due);
        match first {
            Some(entry) if entry.due.is_some_and(|due| due <= now) => {
                entry.due = None;
                Ok(entry.object.clone())
            }
            Some(entry) => Err(entry.due),
            None => Err(None),
        }
    }

    /// The route as it is after a request, unless something newer has been heard in the meantime.
    fn replace(&self, before: &StatusObject, after: StatusObject, written: bool) {
        if let Some(entry) = self.lock().get_mut(&before.key) {
            if written {
                entry.failures = 0;
                entry.written = Some(Instant::now());
            }
            if entry.object.version == before.version {
                entry.object = after;
            }
        }
    }

    /// Look at it again: at once after a conflict, later after anything else.
    fn again(&self, key: &ObjectKey, at_once: bool, rng: &mut fastrand::Rng) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.failures = entry.failures.saturating_add(1);
            let wait = if at_once && entry.failures == 1 {
                Duration::ZERO
            } else {
                backoff(entry.failures, FIRST_WAIT, LONGEST_WAIT, rng)
            };
            entry.due = Some(Instant::now() + wait);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Entry>> {
        self.shared.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn due(now: Instant, written: Option<Instant>) -> Instant {
    written.map_or(now, |written| (written + PAUSE_OF_ROUTE).max(now))
}

/// Writes statuses while this replica leads.
pub struct StatusWriter {
    queue: StatusQueue,
    hub: Hub,
    cluster: Cluster,
    rng: fastrand::Rng,
    /// What was logged last, so that it is said once and not for every route.
    complained: Option<&'static str>,
}

impl StatusWriter {
    /// Writes what `queue` names, as `hub` judges it.
    #[must_use]
    pub fn new(queue: StatusQueue, hub: Hub, cluster: Cluster) -> Self {
        Self { queue, hub, cluster, rng: fastrand::Rng::new(), complained: None }
    }

    /// Writes until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut leadership = self.cluster.leadership.clone();
        let mut led = false;
        loop {
            let leads = leadership.is_leader();
            self.hub.metrics().leader.set(i64::from(leads));
            if leads && !led {
                self.queue.look_at_all();
            }
            led = leads;
            let next = if leads { self.queue.take(Instant::now()) } else { Err(None) };
            match next {
                Ok(route) => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.look_at(&route) => {}
                    }
                }
                Err(due) => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = leadership.changed() => {}
                        () = self.queue.shared.wake.notified() => {}
                        () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
                    }
                }
            }
        }
    }

    /// Compares a route's status with what it should be, and writes that.
    async fn look_at(&mut self, route: &StatusObject) {
        let Verdict::Write(parents) = self.judge(route) else { return };
        if !self.cluster.leadership.is_leader() {
            return;
        }
        let result = match self.write(route, &parents).await {
            Ok(answer) => {
                let after = route.again(&answer);
                let kept = after.generation != route.generation || !matches!(self.judge(&after), Verdict::Write(_));
                self.queue.replace(route, after, true);
                if kept { Ok(()) } else { Err(Failure::Server("it did not keep what was written".to_owned())) }
            }
            Err(Failure::Conflict(why)) => {
                self.count("conflict");
                self.refresh(route, why).await
            }
            // The watch will tell that it is gone.
            Err(Failure::NotFound(_)) => return,
            Err(failure) => Err(failure),
        };
        match result {
            Ok(()) => {
                self.count("written");
                if self.complained.take().is_some() {
                    tracing::info!("statuses can be written again");
                }
            }
            Err(failure) => {
                let conflict = matches!(failure, Failure::Conflict(_));
                self.queue.again(&route.key, conflict, &mut self.rng);
                if !conflict {
                    self.count("failed");
                    self.complain(&route.key, &failure);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }

    fn judge(&self, route: &StatusObject) -> Verdict {
        let known = {
            let state = self.hub.state();
            let generation = state.index().judged_generation(&route.key);
            generation.map(|generation| Known { generation, status: state.statuses().get(&route.key).cloned() })
        };
        judge(route, known.as_ref(), &now())
    }

    /// A merge patch, because it needs nothing but the part that changes (of the rest of the route nothing is kept), and replaces
    /// a list as a whole, which an atomic list is anyway. Server-side apply would own the list, and with it others' entries. The
    /// version makes the API server refuse it where anybody has written since.
    async fn write(&self, route: &StatusObject, entries: &[Value]) -> Result<Value, Failure> {
        let body = json!({"metadata": {"resourceVersion": route.version}, "status": {route.form.entries: entries}});
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let name = &route.key.name;
        let request = requests(&route.key)?.patch_subresource("status", name, &parameters, &Patch::Merge(&body));
        self.send(request).await
    }

    /// Reads a route again that somebody else has written in the meantime.
    async fn refresh(&self, route: &StatusObject, why: String) -> Result<(), Failure> {
        let request = requests(&route.key)?.get(&route.key.name, &GetParams::default());
        let fresh = self.send(request).await?;
        self.queue.replace(route, route.again(&fresh), false);
        Err(Failure::Conflict(why))
    }

    async fn send(&self, request: Result<http::Request<Vec<u8>>, kube::core::request::Error>) -> Result<Value, Failure> {
        let request = request.map_err(|error| Failure::Server(format!("a request cannot be made: {error}")))?;
        match tokio::time::timeout(REQUEST_TIMEOUT, self.cluster.client.request(request)).await {
            Ok(answer) => answer.map_err(|error| Failure::of(&error)),
            Err(_) => Err(Failure::Unreachable(format!("no answer in {REQUEST_TIMEOUT:?}"))),
        }
    }

    fn count(&self, result: &str) {
        self.hub.metrics().status_writes.with_label_values(&[result]).inc();
    }

    fn complain(&mut self, key: &ObjectKey, failure: &Failure) {
        if self.complained.replace(failure.reason()) != Some(failure.reason()) {
            tracing::warn!(object = %key, "cannot write a status: {failure}; it is tried again, and what it is about is served all the same");
        }
    }
}

fn requests(key: &ObjectKey) -> Result<Request, Failure> {
    let watched = watched(key.kind).ok_or_else(|| Failure::Server(format!("{} is not watched", key.kind.as_str())))?;
    Ok(Request::new(watched.path_in(&key.namespace)))
}

/// The time as Kubernetes writes it, in whole seconds.
fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

//! The trust bundle in every namespace: ConfigMap `weir-trust-bundle` with the key `ca.crt`, which sidecars mount.
//!
//! The replica that leads writes it: into a new namespace at once, since its pods wait for it; again where somebody changed or
//! deleted it; and everywhere when the bundle changes. Kubernetes itself keeps the cluster's own root in every namespace in the
//! same way (`kube-root-ca.crt`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{Stream, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Cluster, FIELD_MANAGER, Failure, backoff};
use crate::ca::keep::Force;

/// The ConfigMap's name.
pub const NAME: &str = "weir-trust-bundle";
const KEY: &str = "ca.crt";
/// Kubernetes' own; nothing in them is ever injected.
const LEFT_ALONE: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// Between two writes: a hundred a second, so that a thousand namespaces are done in ten seconds and the API server does not notice.
const PACE: Duration = Duration::from_millis(10);
/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A namespace in which a write fails, or is undone, is written to again after this long, then ever more rarely.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const MOST_WAIT: Duration = Duration::from_secs(60);
/// What was written longer ago than this was not undone by the same hand that fights us.
const CALM: Duration = Duration::from_secs(120);

/// What stands in the namespaces. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Bundles {
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    namespaces: BTreeMap<String, Attempts>,
    /// What the ConfigMaps say; `None`: there is one, without the key.
    texts: BTreeMap<String, Option<String>>,
    /// Both lists are complete.
    listed: (bool, bool),
}

/// What was tried in a namespace.
#[derive(Clone, Debug, Default)]
struct Attempts {
    in_a_row: u32,
    last: Option<Instant>,
    not_before: Option<Instant>,
    complained: Option<String>,
}

impl Bundles {
    /// In how many namespaces it is not what is wanted. As long as not all is known, one more.
    #[must_use]
    pub fn behind(&self, wanted: &str) -> usize {
        let known = self.known();
        let unknown = usize::from(known.listed != (true, true));
        unknown + known.namespaces.keys().filter(|name| !known.is_right(name, wanted)).count()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_right(&self, namespace: &str, wanted: &str) -> bool {
        self.texts.get(namespace).and_then(Option::as_deref) == Some(wanted)
    }

    /// The next namespace to write to, or how long to wait until there may be one.
    fn next(&self, wanted: &str, now: Instant) -> Result<String, Option<Duration>> {
        if self.listed != (true, true) {
            return Err(None);
        }
        let mut wait = None::<Duration>;
        for (name, attempts) in self.namespaces.iter().filter(|(name, _)| !self.is_right(name, wanted)) {
            match attempts.not_before.map(|at| at.saturating_duration_since(now)).filter(|it| !it.is_zero()) {
                None => return Ok(name.clone()),
                Some(left) => wait = Some(wait.map_or(left, |wait| wait.min(left))),
            }
        }
        Err(wait)
    }

    /// Notes a write. A complaint is given back when it is another than the last one.
    fn tried(&mut self, name: &str, failure: Option<String>, wanted: &str, now: Instant) -> Option<String> {
        let attempts = self.namespaces.get_mut(name)?;
        let recent = attempts.last.is_some_and(|last| now.saturating_duration_since(last) < CALM);
        attempts.in_a_row = if recent { attempts.in_a_row.saturating_add(1) } else { 1 };
        attempts.last = Some(now);
        attempts.not_before = Some(now + backoff(attempts.in_a_row, FIRST_WAIT, MOST_WAIT, &mut fastrand::Rng::new()));
        let news = failure.clone().filter(|it| attempts.complained.as_ref() != Some(it));
        if failure.is_none() {
            // The watch will say the same.
            self.texts.insert(name.to_owned(), Some(wanted.to_owned()));
        }
        if let Some(attempts) = self.namespaces.get_mut(name) {
            attempts.complained = failure;
        }
        news
    }

    /// Another bundle is written at once, also where the last was written a moment ago.
    fn forget_waits(&mut self) {
        for attempts in self.namespaces.values_mut().filter(|it| it.complained.is_none()) {
            *attempts = Attempts::default();
        }
    }
}

/// Keeps the bundle in every namespace while this replica leads, until `stop`.
pub async fn run(cluster: Cluster, force: Force, bundles: Bundles, stop: CancellationToken) {
    let mut leadership = cluster.leadership.clone();
    loop {
        if leadership.is_leader() {
            *bundles.known() = Known::default();
            let changed = Notify::new();
            let lost = async {
                while leadership.is_leader() {
                    leadership.changed().await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = lost => {}
                () = follow_namespaces(&cluster, &bundles, &changed) => {}
                () = follow_bundles(&cluster, &bundles, &changed) => {}
                () = write(&cluster, &force, &bundles, &changed) => {}
            }
            force.hub.metrics().bundles_behind.set(0);
        } else {
            tokio::select! {
                () = stop.cancelled() => return,
                () = leadership.changed() => {}
            }
        }
    }
}

async fn follow_namespaces(cluster: &Cluster, bundles: &Bundles, changed: &Notify) {
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(cluster.client.clone());
    let stream = watch(namespaces, watcher::Config::default());
    let mut listed = Vec::new();
    follow("namespaces", stream, |event| {
        let mut known = bundles.known();
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(it) => listed.extend(writable(&it.name_any(), it.metadata.deletion_timestamp.is_some())),
            Event::InitDone => {
                let names = std::mem::take(&mut listed);
                known.namespaces.retain(|name, _| names.contains(name));
                for name in names {
                    known.namespaces.entry(name).or_default();
                }
                known.listed.0 = true;
            }
            Event::Apply(it) => match writable(&it.name_any(), it.metadata.deletion_timestamp.is_some()) {
                Some(name) => drop(known.namespaces.entry(name).or_default()),
                None => drop(known.namespaces.remove(&it.name_any())),
            },
            Event::Delete(it) => drop(known.namespaces.remove(&it.name_any())),
        }
        drop(known);
        changed.notify_one();
    })
    .await;
}

/// Nothing can be made in a namespace that ends.
fn writable(name: &str, ends: bool) -> Option<String> {
    (!ends && !LEFT_ALONE.contains(&name)).then(|| name.to_owned())
}

async fn follow_bundles(cluster: &Cluster, bundles: &Bundles, changed: &Notify) {
    let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let stream = watch(Api::<ConfigMap>::all(cluster.client.clone()), config);
    let mut listed = BTreeMap::new();
    follow("ConfigMaps weir-trust-bundle", stream, |event| {
        let mut known = bundles.known();
        let text = |it: &ConfigMap| it.data.as_ref().and_then(|data| data.get(KEY).cloned());
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(it) => drop(listed.insert(it.namespace().unwrap_or_default(), text(&it))),
            Event::InitDone => {
                known.texts = std::mem::take(&mut listed);
                known.listed.1 = true;
            }
            Event::Apply(it) => drop(known.texts.insert(it.namespace().unwrap_or_default(), text(&it))),
            Event::Delete(it) => drop(known.texts.remove(&it.namespace().unwrap_or_default())),
        }
        drop(known);
        changed.notify_one();
    })
    .await;
}

/// Follows a watch for ever; what does not work is said once and tried again.
async fn follow<K: Send + 'static>(
    what: &str,
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    mut take: impl FnMut(Event<K>),
) {
    let mut stream = std::pin::pin!(stream.default_backoff());
    let mut complained = None;
    loop {
        match stream.try_next().await {
            Ok(Some(event)) => {
                if complained.take().is_some() {
                    tracing::info!(what, "the API server is followed again");
                }
                take(event);
            }
            Ok(None) => return,
            Err(error) => {
                let failure = super::authority::watch_failure(&error);
                if complained != Some(failure.reason()) {
                    tracing::warn!(what, "cannot be followed: {failure}; trying again");
                    complained = Some(failure.reason());
                }
            }
        }
    }
}

async fn write(cluster: &Cluster, force: &Force, bundles: &Bundles, changed: &Notify) {
    let mut steps = force.changes();
    let mut wanted = force.authority.document().bundle_pem();
    loop {
        let next = bundles.known().next(&wanted, Instant::now());
        let behind = i64::try_from(bundles.behind(&wanted)).unwrap_or(i64::MAX);
        force.hub.metrics().bundles_behind.set(behind);
        match next {
            Ok(namespace) if cluster.leadership.is_leader() => {
                let failure = apply(cluster, &namespace, &wanted).await.err().map(|failure| failure.to_string());
                let done = failure.is_none();
                let news = bundles.known().tried(&namespace, failure, &wanted, Instant::now());
                if let Some(why) = news {
                    tracing::warn!(
                        namespace,
                        "cannot write the ConfigMap {NAME}: {why}; new sidecars there cannot start. Trying again"
                    );
                } else if done {
                    tracing::debug!(namespace, "wrote the ConfigMap {NAME}");
                }
                tokio::time::sleep(PACE).await;
            }
            Ok(_) => return,
            Err(wait) => tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(wait.unwrap_or(MOST_WAIT)) => {}
                _ = steps.changed() => {}
            },
        }
        let now_wanted = force.authority.document().bundle_pem();
        if now_wanted != wanted {
            wanted = now_wanted;
            bundles.known().forget_waits();
        }
    }
}

async fn apply(cluster: &Cluster, namespace: &str, text: &str) -> Result<(), Failure> {
    let bundles: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
    let bundle = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/part-of": "weir"}},
        "data": {KEY: text},
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&bundle);
    match tokio::time::timeout(PATIENCE, bundles.patch(NAME, &parameters, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Failure::of(&error)),
        Err(_) => Err(Failure::Unreachable(format!("no answer within {PATIENCE:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(namespaces: &[&str]) -> Known {
        let namespaces = namespaces.iter().map(|name| ((*name).to_owned(), Attempts::default())).collect();
        Known { namespaces, texts: BTreeMap::new(), listed: (true, true) }
    }

    #[test]
    fn every_namespace_but_those_of_kubernetes_gets_it() {
        for name in ["shop", "default", "weir-system"] {
            assert_eq!(writable(name, false).as_deref(), Some(name));
            assert_eq!(writable(name, true), None, "it ends");
        }
        for name in LEFT_ALONE {
            assert_eq!(writable(name, false), None);
        }
    }

    #[test]
    fn what_is_missing_or_changed_is_written_and_what_is_right_is_not() {
        let (mut known, now) = (known(&["a", "b", "c"]), Instant::now());
        known.texts.insert("a".to_owned(), Some("pem".to_owned()));
        known.texts.insert("b".to_owned(), Some("something else".to_owned()));
        assert_eq!(known.next("pem", now), Ok("b".to_owned()));
        assert_eq!(known.tried("b", None, "pem", now), None);
        assert_eq!(known.next("pem", now), Ok("c".to_owned()));
        known.tried("c", None, "pem", now);
        assert_eq!(known.next("pem", now), Err(None));
        let bundles = Bundles { known: Arc::new(Mutex::new(known)) };
        assert_eq!(bundles.behind("pem"), 0);
        assert_eq!(bundles.behind("another"), 3);
        assert_eq!(Bundles::default().behind("pem"), 1, "nothing is known yet");
    }

    #[test]
    fn whoever_changes_it_again_and_again_makes_us_slow() {
        let (mut known, mut now) = (known(&["a"]), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..12 {
            known.tried("a", None, "pem", now);
            known.texts.insert("a".to_owned(), None);
            let wait = known.next("pem", now).unwrap_err().unwrap();
            waits.push(wait);
            now += wait;
        }
        assert!(waits[0] <= FIRST_WAIT && waits[11] >= MOST_WAIT / 2 && waits[11] <= MOST_WAIT, "{waits:?}");
        known.forget_waits();
        assert_eq!(known.next("another", now), Ok("a".to_owned()), "another bundle does not wait");
    }

    #[test]
    fn a_failure_is_said_once() {
        let (mut known, now) = (known(&["a"]), Instant::now());
        let why = || Some("forbidden".to_owned());
        assert_eq!(known.tried("a", why(), "pem", now), why());
        assert_eq!(known.tried("a", why(), "pem", now), None);
        assert_eq!(known.tried("a", Some("gone".to_owned()), "pem", now), Some("gone".to_owned()));
        assert!(known.next("pem", now).is_err(), "not at once again");
    }
}

//! Makes batches of changes.
//!
//! Pure: [`Collector::take`] takes a change, [`Collector::due`] says when the next batch should be made, [`Collector::batch`]
//! makes it. Of several changes of one object in a batch the last counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::follow::{Change, What};
use crate::diagnostics::{Diagnostic, Level, Locate, Location, at};
use crate::index::Event;
use crate::kube::status::StatusObject;
use crate::objects::backend_tls::{CaBundle, ConfigMap};
use crate::objects::{self, Decoded, EndpointSlice, FieldPath, Kind, Object, ObjectKey, Problem};
use crate::source::Batch;

/// After a change, wait until nothing has changed for this long: a rollout changes Pods, slices and Services together.
const QUIET: Duration = Duration::from_millis(5);
/// But not longer than this, even if it goes on and on.
const MAX_WAIT: Duration = Duration::from_millis(50);
/// Nor until more objects than this have changed.
const MAX_OBJECTS: usize = 4096;
/// How long a slice waits for the Pods that it names. They come on a connection of their own, and without them nobody knows that
/// the endpoint has a sidecar and must be spoken to in TLS.
const MAX_HOLD: Duration = Duration::from_secs(5);
/// CA bundles of which another ConfigMap may have the same.
const MAX_BUNDLES: usize = 8;
/// Objects whose problems are shown; the rest is counted.
const MAX_SHOWN: usize = 1000;

/// Collects changes.
#[derive(Debug)]
pub(super) struct Collector {
    kinds: BTreeMap<Kind, Listed>,
    /// The objects that are there, and the list or watch that told of each last.
    known: BTreeMap<ObjectKey, u64>,
    pending: BTreeMap<ObjectKey, Event>,
    /// Slices that name Pods which are not known, and since when.
    held: BTreeMap<ObjectKey, (Arc<EndpointSlice>, Instant)>,
    /// Routes and policies.
    judged: BTreeMap<ObjectKey, StatusObject>,
    problems: BTreeMap<ObjectKey, Vec<Diagnostic>>,
    /// The CA bundles that were new last.
    bundles: VecDeque<Arc<str>>,
    /// When the first and the last change since the last batch came.
    changed: Option<(Instant, Instant)>,
    /// The first batch has been made.
    begun: bool,
}

/// How far the list of a kind is.
#[derive(Clone, Copy, Debug, Default)]
struct Listed {
    /// Counts the lists.
    round: u64,
    /// One was complete.
    complete: bool,
}

impl Collector {
    /// For these kinds, of which nothing is known yet.
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self {
            kinds: kinds.into_iter().map(|kind| (kind, Listed::default())).collect(),
            known: BTreeMap::new(),
            pending: BTreeMap::new(),
            held: BTreeMap::new(),
            judged: BTreeMap::new(),
            problems: BTreeMap::new(),
            bundles: VecDeque::new(),
            changed: None,
            begun: false,
        }
    }

    /// Takes a change.
    pub(super) fn take(&mut self, change: Change, now: Instant) {
        match change.what {
            What::Listing => self.kinds.entry(change.kind).or_default().round += 1,
            What::Put(value) => self.put(&value, change.kind),
            What::Delete(value) => {
                if let Some(key) = key_of(change.kind, &value) {
                    self.delete(&key);
                }
            }
            What::Listed => self.listed(change.kind),
            What::Absent => {
                self.kinds.entry(change.kind).or_default().round += 1;
                self.listed(change.kind);
            }
        }
        let first = self.changed.map_or(now, |(first, _)| first);
        self.changed = Some((first, now));
    }

    /// When the next batch should be made, if anything asks for one.
    pub(super) fn due(&self) -> Option<Instant> {
        if !self.kinds.values().all(|it| it.complete) {
            return None;
        }
        let (first, last) = self.changed.unzip();
        let changes = first.zip(last).map(|(first, last)| {
            if !self.begun || self.pending.len() >= MAX_OBJECTS { first } else { (last + QUIET).min(first + MAX_WAIT) }
        });
        let held = self.held.values().map(|(_, since)| *since + MAX_HOLD).min();
        changes.into_iter().chain(held).min()
    }

    /// The next batch, if it is due.
    pub(super) fn batch(&mut self, now: Instant) -> Option<Batch> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        self.changed = None;
        let mut events = Vec::with_capacity(self.pending.len());
        for (key, event) in std::mem::take(&mut self.pending) {
            match event {
                // At the start everything has been listed, and a Service without endpoints would be the worse half.
                Event::Apply(Object::EndpointSlice(slice)) if self.begun => self.hold(key, slice, now),
                event => events.push(event),
            }
        }
        self.release(now, &mut events);
        self.begun = true;
        let judged = std::mem::take(&mut self.judged).into_values().collect();
        Some(Batch { events, diagnostics: self.diagnostics(), locate: Arc::new(nowhere), judged })
    }

    fn put(&mut self, value: &Value, kind: Kind) {
        let round = self.kinds.entry(kind).or_default().round;
        match objects::decode(value) {
            // Nothing is kept of the many ConfigMaps that have no CA certificates; one that had some is as good as gone.
            Decoded::Object(Object::ConfigMap(it), _) if it.ca == CaBundle::None => {
                let key = Object::ConfigMap(it).key();
                if self.known.contains_key(&key) {
                    self.delete(&key);
                }
            }
            Decoded::Object(object, problems) => {
                let object = self.share(object);
                let key = object.key();
                self.known.insert(key.clone(), round);
                self.note(&key, &problems);
                if let Some(read) = StatusObject::read(&key, value, None) {
                    self.judged.insert(key.clone(), read);
                }
                self.pending.insert(key, Event::Apply(object));
            }
            Decoded::Refused(Some(key), problems) => {
                self.known.insert(key.clone(), round);
                self.note(&key, &problems);
                let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
                if let Some(read) = StatusObject::read(&key, value, Some(texts.join("; "))) {
                    self.judged.insert(key, read);
                }
            }
            // An API server has no objects without a name, and sends no others than it was asked for.
            Decoded::Refused(None, _) | Decoded::Unknown { .. } => {
                tracing::debug!(kind = kind.as_str(), "an object without a name was passed over");
            }
        }
    }

    /// Keeps one copy of what stands in every namespace: the API server's own CA certificate, and the mesh's.
    fn share(&mut self, object: Object) -> Object {
        let Object::ConfigMap(config_map) = &object else { return object };
        let CaBundle::Text(text) = &config_map.ca else { return object };
        if let Some(known) = self.bundles.iter().find(|known| *known == text) {
            let ca = CaBundle::Text(Arc::clone(known));
            return Object::ConfigMap(Arc::new(ConfigMap { key: config_map.key.clone(), ca }));
        }
        self.bundles.truncate(MAX_BUNDLES - 1);
        self.bundles.push_front(Arc::clone(text));
        object
    }

    fn delete(&mut self, key: &ObjectKey) {
        self.known.remove(key);
        self.problems.remove(key);
        self.held.remove(key);
        self.judged.remove(key);
        // Also where it is not known: whoever was told of it then is told that it is gone.
        self.pending.insert(key.clone(), Event::Delete(key.clone()));
    }

    /// The list of a kind is complete: whatever it did not name is gone.
    fn listed(&mut self, kind: Kind) {
        let listed = self.kinds.entry(kind).or_default();
        listed.complete = true;
        let round = listed.round;
        let first = ObjectKey { kind, namespace: "".into(), name: "".into() };
        let of_kind = self.known.range(first..).take_while(|(key, _)| key.kind == kind);
        let gone: Vec<ObjectKey> = of_kind.filter(|(_, told)| **told != round).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.delete(&key);
        }
    }

    fn note(&mut self, key: &ObjectKey, problems: &[Problem]) {
        if problems.is_empty() {
            self.problems.remove(key);
        } else {
            let locate: Locate = Arc::new(nowhere);
            let found = problems.iter().map(|problem| at(key, problem, &locate)).collect();
            self.problems.insert(key.clone(), found);
        }
    }

    /// A slice waits for its Pods, since the version before it began to if that did.
    fn hold(&mut self, key: ObjectKey, slice: Arc<EndpointSlice>, now: Instant) {
        let since = self.held.get(&key).map_or(now, |(_, since)| *since);
        self.held.insert(key, (slice, since));
    }

    fn release(&mut self, now: Instant, events: &mut Vec<Event>) {
        let known = &self.known;
        self.held.retain(|_, (slice, since)| {
            let keep = now.duration_since(*since) < MAX_HOLD && !names_only_known(known, slice);
            if !keep {
                events.push(Event::Apply(Object::EndpointSlice(Arc::clone(slice))));
            }
            keep
        });
    }

    fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut shown: Vec<Diagnostic> = self.problems.values().take(MAX_SHOWN).flatten().cloned().collect();
        if let Some(more) = self.problems.len().checked_sub(MAX_SHOWN).filter(|it| *it > 0) {
            let message = format!("{more} more objects have problems, which are not listed here");
            let (file, line, column) = (None, None, None);
            shown.push(Diagnostic { file, line, column, level: Level::Error, object: None, field: None, message });
        }
        shown
    }
}

/// Objects of an API server are written in no file.
const fn nowhere(_: &ObjectKey, _: &FieldPath) -> Option<Location> {
    None
}

fn names_only_known(known: &BTreeMap<ObjectKey, u64>, slice: &EndpointSlice) -> bool {
    slice.endpoints.iter().filter(|it| it.serving).filter_map(|it| it.pod.as_ref()).all(|pod| {
        let key = ObjectKey { kind: Kind::Pod, namespace: pod.namespace.as_str().into(), name: pod.name.as_str().into() };
        known.contains_key(&key)
    })
}

fn key_of(kind: Kind, value: &Value) -> Option<ObjectKey> {
    let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
    Some(ObjectKey {
        kind,
        namespace: text("/metadata/namespace").unwrap_or_default().into(),
        name: text("/metadata/name")?.into(),
    })
}

//! What is known about the running demo: written by the load, the scrapes and the story, read by the view.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use weir_core::clock::Moment;

use super::counters::Counters;
use super::tally::Tally;
use super::view::Hint;

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at: Moment,
    pub(crate) mark: Mark,
    pub(crate) text: String,
}

/// What kind of news it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The story does something.
    Act,
    /// It had the effect that it should have.
    Held,
    /// It had not.
    Broken,
}

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Up,
    Down,
}

/// The facts.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) tally: Tally,
    /// By workload, as last seen: those of a killed sidecar stay.
    pub(crate) counters: BTreeMap<String, Counters>,
    /// Weights in the route's file, by backend.
    pub(crate) wanted: BTreeMap<String, u32>,
    pub(crate) events: Vec<Event>,
    /// In the order in which they are shown.
    pub(crate) processes: Vec<(String, Health)>,
    /// Commands to try, once the story is over.
    pub(crate) hints: Vec<Hint>,
}

impl Facts {
    /// All sidecars together.
    pub(crate) fn traffic(&self) -> Counters {
        self.counters.values().copied().fold(Counters::default(), |sum, counters| sum + counters)
    }

    /// Notes that a process runs or does not.
    pub(crate) fn set_health(&mut self, process: &str, health: Health) {
        match self.processes.iter_mut().find(|(name, _)| name == process) {
            Some((_, known)) => *known = health,
            None => self.processes.push((process.to_owned(), health)),
        }
    }

    /// Percent of the traffic that the weights give to a backend; `None` if no weights are known.
    pub(crate) fn wanted_percent(&self, backend: &str) -> Option<f64> {
        let sum: u32 = self.wanted.values().sum();
        let weight = self.wanted.get(backend)?;
        (sum > 0).then(|| f64::from(*weight) * 100.0 / f64::from(sum))
    }
}

/// The facts, shared between the demo's tasks, and its clock.
#[derive(Clone)]
pub(crate) struct Scene {
    started: Instant,
    facts: Arc<Mutex<Facts>>,
}

impl Scene {
    /// Time begins now.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), facts: Arc::default() }
    }

    /// The time since the demo's start.
    pub(crate) fn now(&self) -> Moment {
        Moment::after_start(self.started.elapsed())
    }

    /// The facts, for a look or a note. Never held across an await.
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells an event.
    pub(crate) fn tell(&self, mark: Mark, text: impl Into<String>) {
        let at = self.now();
        self.facts().events.push(Event { at, mark, text: text.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_become_percent() {
        let wanted = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 3)]);
        let facts = Facts { wanted, ..Facts::default() };
        assert_eq!(facts.wanted_percent("b"), Some(75.0));
        assert_eq!(facts.wanted_percent("c"), None);
        let zero = Facts { wanted: BTreeMap::from([("a".to_owned(), 0)]), ..Facts::default() };
        assert_eq!(zero.wanted_percent("a"), None);
    }

    #[test]
    fn a_process_is_listed_once() {
        let mut facts = Facts::default();
        facts.set_health("a", Health::Up);
        facts.set_health("b", Health::Up);
        facts.set_health("a", Health::Down);
        assert_eq!(facts.processes, [("a".to_owned(), Health::Down), ("b".to_owned(), Health::Up)]);
    }
}

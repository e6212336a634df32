//! Where the objects come from.
//!
//! A source sends [`Batch`]es: events that belong together, what is wrong at the moment, and a way to find where an object is
//! written. [`dir`] watches a directory, [`kube`] an API server.

pub mod dir;
pub mod kube;

use crate::diagnostics::{Diagnostic, Locate};
use crate::index::Event;
use crate::kube::status::StatusObject;

/// What a source saw at one time.
pub struct Batch {
    /// What happened, in order. It is taken whole before anybody is told of any of it.
    pub events: Vec<Event>,
    /// All that is wrong in the source at the moment.
    pub diagnostics: Vec<Diagnostic>,
    /// Finds where an object's field is written.
    pub locate: Locate,
    /// The routes and policies among the events as the API server has them, for whoever writes their status. A directory has none.
    pub judged: Vec<StatusObject>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("events", &self.events).field("diagnostics", &self.diagnostics).finish_non_exhaustive()
    }
}

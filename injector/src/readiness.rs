//! Whether the API server may be sent here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What has to be there before the first review, each part told by who knows it.
#[derive(Debug)]
pub struct Readiness {
    /// Why API servers cannot call, or nothing.
    not_callable: Mutex<Option<String>>,
    namespaces: AtomicBool,
    version: AtomicBool,
    stopping: AtomicBool,
}

impl Default for Readiness {
    fn default() -> Self {
        let reason = "the webhook configurations have not been read yet".to_owned();
        Self {
            not_callable: Mutex::new(Some(reason)),
            namespaces: AtomicBool::new(false),
            version: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }
}

impl Readiness {
    /// Whether API servers can call, by certificate and configurations; if not, why.
    pub fn callable(&self, problem: Option<String>) {
        let mut current = self.not_callable.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != problem {
            match &problem {
                Some(reason) => tracing::warn!(reason, "API servers cannot call"),
                None => tracing::info!("API servers can call"),
            }
            *current = problem;
        }
    }

    /// All namespaces have been read.
    pub fn namespaces_are_read(&self) {
        self.namespaces.store(true, Ordering::Relaxed);
    }

    /// The version of the cluster is known.
    pub fn version_is_known(&self) {
        self.version.store(true, Ordering::Relaxed);
    }

    /// The process is about to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the process is about to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// All that is missing; empty when nothing is.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let callable = self.not_callable.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let part = |there: &AtomicBool, text: &str| (!there.load(Ordering::Relaxed)).then(|| text.to_owned());
        let namespaces = part(&self.namespaces, "namespaces have not been read yet");
        let version = part(&self.version, "the version of the cluster is not known yet");
        let stopping = self.is_stopping().then(|| "it is stopping".to_owned());
        [callable, namespaces, version, stopping].into_iter().flatten().collect()
    }
}

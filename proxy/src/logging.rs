//! Log lines, on stderr.

use std::sync::{Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::settings::{LogFormat, Settings};

/// Begins to log. Called once; a second call changes nothing.
pub(crate) fn start(settings: &Settings) {
    // The filter was checked with the other settings.
    let filter = EnvFilter::try_new(&settings.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.log_format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging had been started before");
    }
}

/// Panics go to the log as everything else does. One request's panic costs that request; a thread's own ends the process.
pub(crate) fn panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let said = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let said = said.unwrap_or("something that is not text");
        tracing::error!(thread, at, "panic: {said}; this is a bug in Weir, please report it");
    }));
}

/// Remembers what was said last, so that a failure that repeats every few seconds is one line and not thousands.
#[derive(Debug, Default)]
pub(crate) struct LastSaid(Mutex<Option<String>>);

impl LastSaid {
    /// Whether `text` differs from what was said before, and so is worth saying.
    pub(crate) fn is_news(&self, text: &str) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_deref() == Some(text) {
            return false;
        }
        *last = Some(text.to_owned());
        true
    }

    /// The trouble is over. Whether there had been any.
    pub(crate) fn is_over(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_once_until_it_changes() {
        let last = LastSaid::default();
        assert!(!last.is_over());
        assert!(last.is_news("refused"));
        assert!(!last.is_news("refused"));
        assert!(last.is_news("timed out"));
        assert!(last.is_news("refused"));
        assert!(last.is_over());
        assert!(last.is_news("refused"));
    }
}

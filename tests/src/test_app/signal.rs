//! The end that Kubernetes announces.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Becomes true at the first SIGTERM, or SIGINT.
///
/// # Errors
///
/// When the process cannot be told of signals.
pub fn told_to_end() -> Result<watch::Receiver<bool>, String> {
    let failed = |error| format!("signals cannot be received: {error}");
    let (mut term, mut int) =
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?);
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tell.send_replace(true);
    });
    Ok(told)
}

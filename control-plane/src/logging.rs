//! Log lines, to stderr.

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, Settings};

/// Starts logging. Does nothing where somebody else in the process has started it.
pub fn start(settings: &Settings) {
    let filter = EnvFilter::try_new(with_defaults(&settings.log_filter)).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.log_format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    drop(started);
}

/// The client of the API server reports every attempt that fails; whoever made it says so once, in words.
fn with_defaults(filter: &str) -> String {
    if filter.contains("kube_client") { filter.to_owned() } else { format!("{filter},kube_client=off") }
}

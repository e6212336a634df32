//! Log lines, to stderr.

use tracing_subscriber::EnvFilter;

use crate::flags::Checked;
use crate::settings::LogFormat;

/// Starts logging. Does nothing where somebody else in the process has started it.
pub fn start(checked: &Checked) {
    let filter = EnvFilter::try_new(filter(&checked.log_filter)).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match checked.log_format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    drop(started);
}

/// The filter as it is given, or, where it is only a level, without what the client of the API server says of its failures: the
/// injector says the same in one line and with the likely cause.
fn filter(given: &str) -> String {
    let quiet = matches!(given, "error" | "warn" | "info");
    if quiet { format!("{given},kube_client=off,kube_runtime=off") } else { given.to_owned() }
}

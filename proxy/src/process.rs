//! The process: how it starts, what it does on signals, how it ends.
//!
//! Exit codes: 0 after a drain, 1 for a failure or when told to end at once, 2 for settings that are missing or wrong.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use crate::control::{self, Saved};
use crate::listen::ListenError;
use crate::metrics::Metrics;
use crate::settings::{Asked, BadUsage, Settings};
use crate::shared::Shared;
use crate::{admin, init, logging, worker};

/// How often the threads are looked at. A thread that died has taken its share of the connections with it, so it is noticed
/// well before anybody's probe fails for the second time.
const THREAD_CHECK: Duration = Duration::from_millis(500);
/// How often a drain looks at what is still open.
const DRAIN_CHECK: Duration = Duration::from_millis(50);
/// Threads that have been told to end are waited for so long: each only lets go of what it holds.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// How often they are looked at.
const END_CHECK: Duration = Duration::from_millis(5);

/// Runs the proxy until it has drained, failed or was told to end at once.
#[must_use]
pub fn main() -> ExitCode {
    let settings = match Asked::read(std::env::args_os()) {
        Ok(Asked::Run(settings)) => *settings,
        Ok(Asked::Init(settings)) => return init::run(&settings),
        Err(BadUsage::CommandLine(request)) => {
            // Help and the version are answers and go to stdout; everything else is an error.
            let code = if request.use_stderr() { 2 } else { 0 };
            let _ = request.print();
            return ExitCode::from(code);
        }
        Err(problems @ BadUsage::Settings(_)) => {
            eprint!("{problems}");
            return ExitCode::from(2);
        }
    };
    logging::start(&settings);
    logging::panics();
    allow_many_connections();
    match run(settings) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Lets the process have as many connections as the system allows it. The limit that programs start with is low for the sake of
/// those that still use select(2).
fn allow_many_connections() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Why the proxy could not start or go on.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Admin(#[from] ListenError),
    #[error("{0}")]
    Worker(String),
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the operating system refused {what}: {source}")]
    System { what: &'static str, source: std::io::Error },
    #[error("a {0} thread ended; the proxy ends too, so that it is started again whole. The panic is in the log above")]
    ThreadEnded(&'static str),
}

fn run(settings: Settings) -> Result<ExitCode, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Failed::System { what: "a runtime for signals", source })?;
    // Before anything serves: a signal that comes early drains as well, and is not the end.
    let signals = runtime.block_on(async { Signals::watch() })?;
    let saved = Saved::load(&settings);
    let shared = Arc::new(Shared::new(settings, Metrics::new()?));
    let store = control::restore(&shared, saved);
    let admin = admin::bind(&shared.settings)?;
    let workers = start_workers(&shared)?;
    let control = control::start(Arc::clone(&shared), store, admin)
        .map_err(|source| Failed::System { what: "a thread for the control plane", source })?;
    let settings = &shared.settings;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        workload = %format_args!("{}/{}", settings.workload.namespace, settings.workload.pod),
        outbound = %settings.outbound_listen,
        admin = %settings.admin_listen,
        workers = settings.workers.get(),
        "started"
    );
    let code = runtime.block_on(until_the_end(&shared, signals, &workers, &control))?;
    shared.lifecycle.end();
    runtime.block_on(threads_ended(&workers, &control));
    Ok(code)
}

fn start_workers(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>, Failed> {
    (0..shared.settings.workers.get())
        .map(|index| worker::start(Arc::clone(shared), index).map_err(|error| Failed::Worker(error.to_string())))
        .collect()
}

/// Serves until a signal or a request to drain, then drains.
async fn until_the_end(
    shared: &Shared,
    mut signals: Signals,
    workers: &[JoinHandle<()>],
    control: &JoinHandle<()>,
) -> Result<ExitCode, Failed> {
    let mut draining = shared.lifecycle.draining();
    tokio::select! {
        name = signals.next() => {
            tracing::info!("{name}: draining for at most {:?}; a second signal ends at once", shared.settings.drain_timeout);
            shared.lifecycle.leave();
        }
        _ = draining.wait_for(|draining| *draining) => tracing::info!("draining on request"),
        name = thread_end(workers, control) => return Err(Failed::ThreadEnded(name)),
    }
    tokio::select! {
        name = signals.next() => {
            tracing::warn!(open = shared.lifecycle.open(), "{name} again: ending at once");
            Ok(ExitCode::FAILURE)
        }
        () = drained(shared) => Ok(ExitCode::SUCCESS),
        name = thread_end(workers, control) => Err(Failed::ThreadEnded(name)),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn watch() -> Result<Self, Failed> {
        let listen = |kind| signal(kind).map_err(|source| Failed::System { what: "to watch signals", source });
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Returns when a thread has ended, which none does while the process lives.
async fn thread_end(workers: &[JoinHandle<()>], control: &JoinHandle<()>) -> &'static str {
    let mut check = interval(THREAD_CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        check.tick().await;
        if workers.iter().any(JoinHandle::is_finished) {
            return "worker";
        }
        if control.is_finished() {
            return "control";
        }
    }
}

/// Returns when the threads have ended, or do not in time.
async fn threads_ended(workers: &[JoinHandle<()>], control: &JoinHandle<()>) {
    let ended = async {
        while !workers.iter().chain([control]).all(JoinHandle::is_finished) {
            sleep(END_CHECK).await;
        }
    };
    if timeout(END_TIMEOUT, ended).await.is_err() {
        tracing::debug!("not every thread has ended in time");
    }
}

/// Returns when nothing is open any more, or the time is over.
async fn drained(shared: &Shared) {
    let Settings { drain_delay, drain_quiet, .. } = shared.settings;
    let quiet = async {
        // Connections that come meanwhile are served: not everybody has learnt yet that this workload goes.
        sleep(drain_delay).await;
        shared.lifecycle.drain();
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < drain_quiet {
            sleep(DRAIN_CHECK).await;
            if shared.lifecycle.open() > 0 {
                quiet_since = Instant::now();
            }
        }
    };
    let limit = shared.settings.drain_timeout;
    if timeout_at(Instant::now() + limit, quiet).await.is_ok() {
        tracing::info!("drained");
    } else {
        let open = shared.lifecycle.open();
        tracing::warn!(
            open,
            "{open} connections were still open after {limit:?} and are cut; WEIR_DRAIN_TIMEOUT gives them longer"
        );
    }
}

//! All parts put together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weir_core::rotation::Purpose;
use weir_tls::{ClientAuth, Credentials, TlsError, Utc, server_config};

use crate::ca::{Authority, AuthorityError};
use crate::diagnostics::Diagnostics;
use crate::http;
use crate::identity::Certifier;
use crate::metrics::Metrics;
use crate::publish::Hub;
use crate::server;
use crate::settings::{Settings, Source};
use crate::source::dir::SourceError;
use crate::source::{Batch, dir};
use crate::tokens::Tokens;

/// Batches that wait to be taken; the source waits with the next one meanwhile.
const BATCHES: usize = 4;
/// Connections that the kernel holds until they are accepted. Proxies come back all at once after a restart.
const BACKLOG: u32 = 4096;
/// How long streams may take to end after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long threads may take to end after that. They do not wait for anything, so it is a bound on what should not happen.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often certificates are looked at. Leaves of a test live for seconds.
const RENEWAL_CHECK: Duration = Duration::from_secs(1);

/// Why the control plane ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The runtime could not be started.
    #[error("cannot start: {0}")]
    Start(#[source] std::io::Error),
    /// A port is taken, or the address is not this machine's.
    #[error("cannot listen on {address} ({flag}): {source}; is another program there? Give another address with {flag}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The setting that says so.
        flag: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The certificate authority cannot work.
    #[error("certificate authority: {0}")]
    Authority(#[from] AuthorityError),
    /// The token file cannot be read.
    #[error("cannot read {path} (--token-file): {source}")]
    Tokens {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Metrics cannot be set up.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A server ended by itself.
    #[error("the {what} server ended: {reason}")]
    Server {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// Runs the control plane until it is told to stop.
///
/// # Errors
///
/// When it cannot start, or a part of it ends by itself.
pub fn run(settings: Settings) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(RunError::Start)?;
    let ended = runtime.block_on(serve(settings));
    // Whatever still runs has no more to say. Its threads end before the process does: the exit of a process wipes the random
    // generators of every thread, which must not meet a handshake that is using one.
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    ended
}

/// What the pages show beside the hub.
#[derive(Clone, Debug)]
pub struct Shared {
    /// See [`Hub`].
    pub hub: Hub,
    diagnostics: Arc<Mutex<Diagnostics>>,
    ready: CancellationToken,
}

impl Shared {
    /// What is wrong in the source.
    pub fn diagnostics(&self) -> MutexGuard<'_, Diagnostics> {
        self.diagnostics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all objects have been read and nobody has said to stop.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.is_cancelled() && !self.hub.stop().is_cancelled()
    }
}

async fn serve(settings: Settings) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Start)?;
    let grpc = listen(settings.grpc_listen, "--grpc-listen")?;
    let pages = listen(settings.http_listen, "--http-listen")?;

    let authority = Arc::new(Authority::open(&settings.ca_dir, settings.trust_domain.clone(), settings.leaf_lifetime)?);
    let tokens = match &settings.token_file {
        Some(path) => {
            let opened = Tokens::open(path).map_err(|source| RunError::Tokens { path: path.clone(), source })?;
            Some(Arc::new(opened))
        }
        None => None,
    };
    let metrics = Metrics::new()?;
    let stop = CancellationToken::new();
    let hub = Hub::new(authority.bundle(), metrics.clone(), stop.clone());
    let shared = Shared { hub: hub.clone(), diagnostics: Arc::default(), ready: CancellationToken::new() };

    let own = authority.own_credentials(SystemTime::now())?;
    let tls = Arc::new(ArcSwap::new(tls_config(&own, &authority)?));
    tokio::spawn(renew(Arc::clone(&authority), own, Arc::clone(&tls), metrics.clone()));

    let (sender, batches) = mpsc::channel(BATCHES);
    let Source::Directory(root) = settings.source.clone();
    let mut source = tokio::spawn(dir::watch(root, sender));
    tokio::spawn(follow(batches, shared.clone()));

    let certifier = Certifier::new(authority, tokens, metrics);
    let read = shared.ready.clone();
    let mut grpc_server = tokio::spawn(async move {
        // Before the source has been read once, every name would be answered with "does not exist", and proxies that come
        // back to a control plane that restarted would drop what they serve. The kernel holds their connections meanwhile.
        read.cancelled().await;
        server::serve(grpc, tls, certifier, hub).await
    });
    let mut page_server = tokio::spawn(http::serve(pages, shared, settings.http_listen));
    tracing::info!(
        grpc = %settings.grpc_listen, http = %settings.http_listen, source = ?settings.source,
        ca = %settings.ca_dir.display(), trust_domain = %settings.trust_domain, "the control plane serves"
    );

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut source => return Err(source_ended(ended)),
        ended = &mut grpc_server => return Err(RunError::Server { what: "gRPC", reason: reason(ended) }),
        ended = &mut page_server => return Err(RunError::Server { what: "HTTP", reason: reason(ended) }),
    }
    tracing::info!("stopping: streams end, proxies serve on with what they have; a second signal ends at once");
    stop.cancel();
    tokio::select! {
        _ = &mut grpc_server => {}
        () = tokio::time::sleep(STOP_TIMEOUT) => tracing::warn!("some streams did not end after {STOP_TIMEOUT:?}"),
        () = again(&mut terminate, &mut interrupt) => tracing::warn!("ended at once"),
    }
    Ok(())
}

async fn again(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn source_ended(ended: Result<Result<(), SourceError>, tokio::task::JoinError>) -> RunError {
    match ended {
        Ok(Err(error)) => RunError::Source(error),
        Ok(Ok(())) => RunError::Server { what: "source", reason: "nobody listens to it".to_owned() },
        Err(error) => RunError::Server { what: "source", reason: error.to_string() },
    }
}

fn reason<E: std::fmt::Display>(ended: Result<Result<(), E>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "without a reason".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    }
}

fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, RunError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for connections of the process before to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| RunError::Listen { address, flag, source })
}

/// Takes batches as they come.
async fn follow(mut batches: mpsc::Receiver<Batch>, shared: Shared) {
    while let Some(batch) = batches.recv().await {
        take(&batch, &shared);
        shared.ready.cancel();
    }
}

fn take(batch: &Batch, shared: &Shared) {
    let (hub, metrics) = (&shared.hub, shared.hub.metrics());
    let applied = hub.apply(batch.events.iter().cloned());
    metrics.changes.inc();
    let (objects, problems) = {
        let state = hub.state();
        (state.index().len(), state.problems())
    };
    metrics.objects.set(i64::try_from(objects).unwrap_or(i64::MAX));
    shared.diagnostics().replace(&batch.diagnostics, &problems, &batch.locate, metrics);
    if !batch.events.is_empty() {
        tracing::info!(changes = batch.events.len(), objects, "took a change of the source");
    }
    for (route, status) in applied.statuses {
        for parent in status.iter().flat_map(|status| &status.parents) {
            let summary: Vec<String> =
                parent.conditions.iter().map(|it| format!("{}={} ({})", it.kind, it.status, it.reason)).collect();
            tracing::info!(route = %route, parent = parent.parent, "route status: {}", summary.join(", "));
        }
        if status.is_none() {
            tracing::info!(route = %route, "route status: gone");
        }
    }
}

fn tls_config(own: &Credentials, authority: &Authority) -> Result<Arc<ServerConfig>, RunError> {
    Ok(server_config(own, &authority.roots()?, ClientAuth::Optional, &[b"h2"])?)
}

/// Keeps the issuer and the control plane's own certificate from ending.
async fn renew(authority: Arc<Authority>, own: Credentials, tls: Arc<ArcSwap<ServerConfig>>, metrics: Metrics) {
    let mut rng = fastrand::Rng::new();
    let mut validity = own.validity;
    let mut due = validity.renew_at(Purpose::Leaf, SystemTime::now(), &mut rng);
    let mut failures = 0;
    let mut next_try = SystemTime::UNIX_EPOCH;
    warn_about_root(&authority);
    loop {
        metrics.issuer_expiry.set(Utc(authority.issuer_ends()).unix_seconds() as f64);
        tokio::time::sleep(RENEWAL_CHECK).await;
        let now = SystemTime::now();
        if now < next_try {
            continue;
        }
        let renewed = renew_due(&authority, &tls, due, now);
        match renewed {
            Ok(None) => failures = 0,
            Ok(Some(own)) => {
                tracing::info!(ends = %Utc(own.validity.not_after), "renewed the control plane's own certificate");
                validity = own.validity;
                due = validity.renew_at(Purpose::Leaf, now, &mut rng);
                failures = 0;
            }
            Err(error) => {
                failures += 1;
                let wait = validity.retry_in(now, failures, &mut rng);
                tracing::error!(%error, ?wait, "cannot renew a certificate; trying again");
                next_try = now + wait;
            }
        }
    }
}

/// Renews what is due. The control plane's own certificate, if it was.
fn renew_due(
    authority: &Authority,
    tls: &ArcSwap<ServerConfig>,
    due: SystemTime,
    now: SystemTime,
) -> Result<Option<Credentials>, RunError> {
    if authority.renew_issuer_if_due(now)? {
        tracing::info!(ends = %Utc(authority.issuer_ends()), "renewed the issuer");
    }
    if now < due {
        return Ok(None);
    }
    let own = authority.own_credentials(now)?;
    tls.store(tls_config(&own, authority)?);
    Ok(Some(own))
}

fn warn_about_root(authority: &Authority) {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    let ends = authority.root_ends();
    if ends < SystemTime::now() + YEAR {
        tracing::warn!(ends = %Utc(ends), "the root certificate ends within a year, and everything that it signed ends with it");
    }
}

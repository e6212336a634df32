//! All parts put together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_core::snapshot::TrustBundle;
use weir_tls::TlsError;

use crate::ca::keep::{self, Force};
use crate::ca::{Authority, AuthorityError};
use crate::diagnostics::Diagnostics;
use crate::http;
use crate::identity::{Certifier, Verifier};
use crate::intake;
use crate::kube::authority::Place;
use crate::kube::lease::Candidate;
use crate::kube::review::Reviewer;
use crate::kube::status::{StatusQueue, StatusWriter};
use crate::kube::{self, ClientError, Cluster};
use crate::metrics::Metrics;
use crate::publish::Hub;
use crate::server;
use crate::settings::{Settings, Source};
use crate::source::dir::SourceError;
use crate::source::{Batch, dir, kube as api_server};
use crate::tokens::Tokens;

/// Batches that wait to be taken; the source waits with the next one meanwhile.
const BATCHES: usize = 4;
/// Connections that the kernel holds until they are accepted. Proxies come back all at once after a restart.
const BACKLOG: u32 = 4096;
/// How long streams may take to end after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the Lease may take to be given back; the streams end meanwhile.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long threads may take to end after that. They do not wait for anything, so it is a bound on what should not happen.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// There is no API server to speak to.
    #[error(transparent)]
    Cluster(#[from] ClientError),
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
    read: CancellationToken,
    /// Of an API server as the source.
    in_cluster: Option<InCluster>,
    /// What the cluster's DNS names end in.
    pub cluster_domain: Arc<str>,
}

/// What there is with an API server only.
#[derive(Clone, Debug)]
struct InCluster {
    health: api_server::Health,
    statuses: StatusQueue,
}

impl Shared {
    /// What is wrong in the source.
    pub fn diagnostics(&self) -> MutexGuard<'_, Diagnostics> {
        self.diagnostics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all objects have been read and nobody has said to stop.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.read.is_cancelled() && !self.hub.stop().is_cancelled()
    }

    /// All objects have been read.
    pub(crate) fn set_read(&self) {
        self.read.cancel();
    }

    /// How well the API server is followed, if there is one.
    #[must_use]
    pub fn health(&self) -> Option<&api_server::Health> {
        self.in_cluster.as_ref().map(|it| &it.health)
    }

    /// The routes whose status an API server is told, if there is one.
    #[must_use]
    pub fn cluster_statuses(&self) -> Option<&StatusQueue> {
        self.in_cluster.as_ref().map(|it| &it.statuses)
    }
}

async fn serve(settings: Settings) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Start)?;
    let grpc = listen(settings.grpc_listen, "--grpc-listen")?;
    let pages = listen(settings.http_listen, "--http-listen")?;
    let metrics = Metrics::new()?;
    let stop = CancellationToken::new();
    let origin = origin(&settings.source, &stop, &metrics).await?;

    // Nothing is trusted until the authority is there, and nothing is served either.
    let nobody = TrustBundle { trust_domain: settings.trust_domain.clone(), roots: Vec::new(), generation: 0 };
    let hub = Hub::new(nobody, metrics, stop.clone());
    let shared = Shared {
        hub: hub.clone(),
        diagnostics: Arc::default(),
        read: CancellationToken::new(),
        in_cluster: origin.in_cluster(),
        cluster_domain: settings.cluster_domain.as_str().into(),
    };
    let mut page_server = tokio::spawn(http::serve(pages, shared.clone(), settings.http_listen));
    let opened = tokio::select! {
        opened = open_authority(&settings, &origin) => opened?,
        () = again(&mut terminate, &mut interrupt) => return Ok(()),
    };
    let force = Force::new(opened, hub.clone())?;
    let verifier = verifier(&settings, &origin)?;
    keep_authority(&settings, &origin, &force);

    let (sender, batches) = mpsc::channel(BATCHES);
    let mut source = start_source(&origin, &hub, sender);
    tokio::spawn(intake::follow(batches, shared.clone()));

    let certifier = Certifier::new(Arc::clone(&force.authority), verifier, hub.metrics().clone());
    let read = shared.read.clone();
    let mut grpc_server = tokio::spawn(async move {
        // Before the source has been read once, every name would be answered with "does not exist", and proxies that come
        // back to a control plane that restarted would drop what they serve. The kernel holds their connections meanwhile.
        read.cancelled().await;
        server::serve(grpc, force.tls(), certifier, hub).await
    });
    tracing::info!(
        grpc = %settings.grpc_listen, http = %settings.http_listen, source = %settings.source,
        trust_domain = %settings.trust_domain, "the control plane serves"
    );

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut source => return Err(source_ended(ended)),
        ended = &mut grpc_server => return Err(RunError::Server { what: "gRPC", reason: reason(ended) }),
        ended = &mut page_server => return Err(RunError::Server { what: "HTTP", reason: reason(ended) }),
    }
    tracing::info!("stopping: streams end, proxies serve on with what they have; a second signal ends at once");
    // Not ready from here on; the Lease is given back and the streams end at the same time.
    stop.cancel();
    tokio::select! {
        () = ended(&mut grpc_server, origin) => {}
        () = again(&mut terminate, &mut interrupt) => tracing::warn!("ended at once"),
    }
    Ok(())
}

/// Where objects come from, ready to be read.
#[expect(clippy::large_enum_variant, reason = "a process has one of it")]
enum Origin {
    Directory(PathBuf),
    Cluster {
        cluster: Cluster,
        /// Stands for election, and gives the Lease back in the end.
        candidacy: JoinHandle<()>,
        shown: InCluster,
    },
}

impl Origin {
    fn in_cluster(&self) -> Option<InCluster> {
        match self {
            Self::Directory(_) => None,
            Self::Cluster { shown, .. } => Some(shown.clone()),
        }
    }
}

/// Connects to the API server and stands for election, where that is the source.
async fn origin(source: &Source, stop: &CancellationToken, metrics: &Metrics) -> Result<Origin, RunError> {
    let settings = match source {
        Source::Directory(root) => return Ok(Origin::Directory(root.clone())),
        Source::Kubernetes(settings) => settings,
    };
    let client = kube::connect(settings.kubeconfig.as_deref()).await?;
    let (candidate, leadership) = Candidate::new(client.clone(), &settings.namespace, &settings.pod_name);
    let candidacy = tokio::spawn(candidate.run(stop.clone()));
    let cluster = Cluster { client, namespace: settings.namespace.clone(), leadership };
    let shown = InCluster { health: api_server::Health::new(metrics.clone()), statuses: StatusQueue::default() };
    Ok(Origin::Cluster { cluster, candidacy, shown })
}

/// Starts to read the source, and to write statuses where it is an API server.
fn start_source(origin: &Origin, hub: &Hub, batches: mpsc::Sender<Batch>) -> JoinHandle<Result<(), SourceError>> {
    match origin {
        Origin::Directory(root) => tokio::spawn(dir::watch(root.clone(), batches)),
        Origin::Cluster { cluster, shown, .. } => {
            let writer = StatusWriter::new(shown.statuses.clone(), hub.clone(), cluster.clone());
            tokio::spawn(writer.run(hub.stop().clone()));
            let (client, health) = (cluster.client.clone(), shown.health.clone());
            tokio::spawn(async move {
                api_server::watch(client, health, batches).await;
                Ok(())
            })
        }
    }
}

/// The authority of a directory, or of the cluster; waits until the cluster has one.
async fn open_authority(settings: &Settings, origin: &Origin) -> Result<Authority, RunError> {
    let (trust_domain, leaf_lifetime) = (settings.trust_domain.clone(), settings.leaf_lifetime);
    match origin {
        Origin::Directory(_) => Ok(Authority::open(&ca_dir(settings), trust_domain, leaf_lifetime)?),
        Origin::Cluster { cluster, .. } => {
            let document = kube::authority::open(&place(settings, cluster)).await;
            Ok(Authority::new(trust_domain, leaf_lifetime, &document)?)
        }
    }
}

/// Renews certificates and rotates roots from here on.
fn keep_authority(settings: &Settings, origin: &Origin, force: &Force) {
    let stop = force.hub.stop().clone();
    match origin {
        Origin::Directory(_) => drop(tokio::spawn(keep::run(ca_dir(settings), force.clone()))),
        Origin::Cluster { cluster, .. } => {
            drop(tokio::spawn(kube::authority::run(place(settings, cluster), force.clone(), stop)));
        }
    }
}

/// Who knows whose a token is.
fn verifier(settings: &Settings, origin: &Origin) -> Result<Verifier, RunError> {
    match (origin, &settings.token_file) {
        (Origin::Cluster { cluster, .. }, _) => Ok(Verifier::ApiServer(Reviewer::new(cluster.client.clone()))),
        (Origin::Directory(_), Some(path)) => {
            let opened = Tokens::open(path).map_err(|source| RunError::Tokens { path: path.clone(), source })?;
            Ok(Verifier::File(Arc::new(opened)))
        }
        (Origin::Directory(_), None) => Ok(Verifier::Nobody),
    }
}

/// Settings have one wherever the source is a directory.
fn ca_dir(settings: &Settings) -> PathBuf {
    settings.ca_dir.clone().unwrap_or_default()
}

fn place(settings: &Settings, cluster: &Cluster) -> Place {
    let pod_name = match &settings.source {
        Source::Kubernetes(it) => it.pod_name.clone(),
        Source::Directory(_) => String::new(),
    };
    Place { cluster: cluster.clone(), pod_name, trust_domain: settings.trust_domain.clone() }
}

/// Waits for the end of everything that takes a moment to end.
async fn ended<T>(grpc_server: &mut JoinHandle<T>, origin: Origin) {
    let released = async {
        if let Origin::Cluster { candidacy, .. } = origin {
            drop(tokio::time::timeout(RELEASE_TIMEOUT, candidacy).await);
        }
    };
    let streams = async {
        if tokio::time::timeout(STOP_TIMEOUT, grpc_server).await.is_err() {
            tracing::warn!("some streams did not end after {STOP_TIMEOUT:?}");
        }
    };
    tokio::join!(released, streams);
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

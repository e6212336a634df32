//! All parts put together.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::certificate::Shown;
use crate::cluster::namespaces::Namespaces;
use crate::cluster::upkeep::{Names, Upkeep};
use crate::cluster::version;
use crate::flags::Checked;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::webhook::{self, Webhook};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;
/// Open reviews after the drain: an API server waits for one no longer than ten seconds.
const FINISH_TIMEOUT: Duration = Duration::from_secs(12);
/// How long threads may take to end after that.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// A review takes fractions of a millisecond.
const WORKERS: usize = 2;

/// Why the injector ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The runtime could not be started.
    #[error("cannot start: {0}")]
    Start(#[source] std::io::Error),
    /// A port is taken, or the address is not this machine's.
    #[error("cannot listen on {address} (--listen): {source}; is another program there? Give another address with --listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not known where the API server is.
    #[error(
        "there is no way to the API server: {0}; in a cluster the pod needs its service account's token, elsewhere give a file with \
         --kubeconfig"
    )]
    NoCluster(String),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Metrics cannot be set up.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A part ended by itself.
    #[error("a part of the injector ended by itself: {0}")]
    Part(String),
}

/// Runs the injector until it is told to stop.
///
/// # Errors
///
/// When it cannot start, or a part of it ends by itself.
pub fn run(checked: Checked) -> Result<(), RunError> {
    // The client of the API server asks for the process's provider.
    let _ = aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.map_err(RunError::Start)?;
    let ended = runtime.block_on(serve(checked));
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    ended
}

async fn serve(checked: Checked) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Start)?;
    let listener = listen(checked.listen)?;
    let client = client(checked.kubeconfig.as_deref()).await?;
    let metrics = Metrics::new()?;
    let readiness = Arc::new(Readiness::default());
    let shown = Arc::new(Shown::default());
    let tls = Arc::new(tls(&shown)?);
    let mut parts = JoinSet::new();

    let (namespaces, follow) = Namespaces::watched(&client);
    parts.spawn(follow);
    let installation = Arc::new(ArcSwap::from_pointee(checked.installation.clone()));
    let (known, version) = watch::channel(checked.fixed_version);
    if !checked.fixed_version {
        parts.spawn(version::follow(client.clone(), Arc::clone(&installation), known));
    }
    tokio::spawn(note(namespaces.clone(), version, Arc::clone(&readiness)));
    let names = Names {
        namespace: checked.installation.namespace.clone(),
        secret: checked.tls_secret.clone(),
        configuration: checked.webhook_configuration.clone(),
        certificate: checked.tls_names.clone(),
        spread: checked.pod_name.clone(),
    };
    parts.spawn(Upkeep::new(&client, names, shown, Arc::clone(&readiness), metrics.clone()).run());

    let webhook = Webhook {
        installation,
        namespaces,
        readiness: Arc::clone(&readiness),
        metrics,
        budget: webhook::body::Budget::default(),
    };
    let finish = CancellationToken::new();
    let mut server = tokio::spawn(webhook::serve(listener, tls, webhook, finish.clone()));
    tracing::info!(
        listen = %checked.listen, namespace = checked.installation.namespace, image = checked.installation.image,
        "the injector serves"
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = parts.join_next() => return Err(RunError::Part(format!("{ended:?}"))),
        ended = &mut server => return Err(RunError::Part(format!("the server: {ended:?}"))),
    }
    readiness.stop();
    tracing::info!(
        "stopping: serving on for {:?} until no API server calls here; a second signal ends at once",
        checked.drain_delay
    );
    let drained = async {
        tokio::time::sleep(checked.drain_delay).await;
        finish.cancel();
        if tokio::time::timeout(FINISH_TIMEOUT, &mut server).await.is_err() {
            tracing::warn!("some reviews were not answered after {FINISH_TIMEOUT:?}");
        }
    };
    tokio::select! {
        () = drained => {}
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

fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    let bound = || {
        let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|source| RunError::Listen { address, source })
}

async fn client(kubeconfig: Option<&Path>) -> Result<Client, RunError> {
    let config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(|error| RunError::NoCluster(error.to_string()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(|error| error.to_string())
        }
        // In a Pod its own account counts, whatever files the image has.
        None => match Config::incluster() {
            Ok(config) => Ok(config),
            Err(_) => Config::infer().await.map_err(|error| error.to_string()),
        },
    };
    let config = config.map_err(RunError::NoCluster)?;
    Client::try_from(config).map_err(|error| RunError::NoCluster(error.to_string()))
}

/// What API servers are answered with. TLS 1.2 is for those whose cryptography was certified before 1.3.
///
/// # Errors
///
/// When the library does not know its own versions.
pub fn tls(shown: &Arc<Shown>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::<Shown>::clone(shown));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Passes on to readiness what others find out once.
async fn note(namespaces: Namespaces, mut version: watch::Receiver<bool>, readiness: Arc<Readiness>) {
    if version.wait_for(|known| *known).await.is_ok() {
        readiness.version_is_known();
    }
    namespaces.complete().await;
    readiness.namespaces_are_read();
}

//! The HTTPS server that API servers call.
//!
//! [`serve`] accepts, [`respond`] answers one request, [`body`] reads what came with it, [`mutate`] and [`validate`] ask those
//! who decide. HTTP/1.1 only: API servers do not speak HTTP/2 to webhooks, so that their calls are spread.

pub mod body;
pub mod mutate;
pub mod respond;
pub mod validate;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::namespaces::Namespaces;
use crate::installation::Installation;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use body::Budget;

/// Connections at once. An API server keeps a few for as long as it has something to ask; probes and scrapers are a dozen.
const MAX_CONNECTIONS: usize = 1024;
/// How long a client may take for its handshake. A slow one over a bad line needs two or three seconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may then take until its first request is there.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take for that when the server is about to end.
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may be idle, and a later request's head may take. An API server closes idle connections after 90
/// seconds: it is better that it does, since a request may be on its way when the server closes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Heads of reviews are short.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Wait after a connection could not be accepted: out of descriptors, for example, and trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What requests are answered from.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// How the mesh is installed.
    pub installation: Arc<ArcSwap<Installation>>,
    /// The namespaces that pods are created in.
    pub namespaces: Namespaces,
    /// Whether API servers may be sent here.
    pub readiness: Arc<Readiness>,
    /// What is counted.
    pub metrics: Metrics,
    /// Memory for bodies.
    pub budget: Budget,
}

/// Serves until `finish` is cancelled and every open request has been answered.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, webhook: Webhook, finish: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let webhook = Arc::new(webhook);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = finish.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((tcp, peer, place)) => {
                let (acceptor, webhook, finish) = (acceptor.clone(), Arc::clone(&webhook), finish.clone());
                connections.spawn(async move {
                    connection(tcp, peer, acceptor, webhook, finish).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Waits for a place first, so that the kernel holds what is too much. Nothing is lost when it is cancelled.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (tcp, peer) = listener.accept().await?;
    Ok((tcp, peer, place))
}

async fn connection(tcp: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor, webhook: Arc<Webhook>, finish: CancellationToken) {
    // An answer is one segment or a few, and somebody waits for it.
    let _ = tcp.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            // Port probes end here as well, so it is no warning.
            webhook.metrics.handshake_failed("tls");
            tracing::debug!(%peer, %error, "a client's handshake failed; one that says `bad certificate` does not trust caBundle");
            return;
        }
        Err(_) => return webhook.metrics.handshake_failed("timeout"),
    };
    let asked = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        let webhook = Arc::clone(&webhook);
        async move { Ok::<_, Infallible>(respond::respond(&webhook, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(tls), service);
    let mut connection = std::pin::pin!(connection);
    let silent = async |patience: Duration| {
        tokio::time::sleep(patience).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // A client that goes in the middle of an answer is nobody's problem but its own.
        ended = connection.as_mut() => return drop(ended),
        () = silent(FIRST_REQUEST_TIMEOUT) => return webhook.metrics.handshake_failed("silent"),
        () = finish.cancelled() => {}
    }
    if !asked.load(Ordering::Relaxed) {
        // Whoever has just connected has a request on its way.
        tokio::select! {
            ended = connection.as_mut() => return drop(ended),
            () = tokio::time::sleep(LAST_REQUEST_TIMEOUT) => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    drop(connection.await);
}

#[cfg(test)]
mod tests;

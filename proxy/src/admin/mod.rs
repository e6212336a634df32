//! The admin page: readiness, metrics, and a look at what this proxy holds.
//!
//! It stands on the control thread, so it answers while the workers are busy. Whoever reaches its port can read; only a process of
//! the same pod can change anything ([`drain`]). Keys are never shown.

mod config;
mod drain;
mod pages;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::settings::Settings;
use crate::shared::Shared;

/// Connections at one time. Prometheus, the kubelet and a few people use one each; the bound keeps a flood away from memory.
const MAX_CONNECTIONS: usize = 128;
/// Time for a request's head, and for an idle connection: longer than Prometheus' usual interval.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// The life of a connection. One that stops reading in the middle of an answer is cut then.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);
/// Head of a request. Probes and scrapes need a few hundred bytes.
const MAX_HEAD: usize = 16 * 1024;

const PATHS: &str = "\
GET  /ready     200 when this proxy serves, 503 with the reasons otherwise
GET  /live      200 while the process lives
GET  /metrics   Prometheus text
GET  /config    the configuration in force, JSON
GET  /clusters  endpoints and their balancing, per worker, JSON
GET  /certs     the certificate and the roots, JSON
POST /drain     finish what runs and exit; from this pod only
";

/// The address of the admin page cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the admin page cannot listen on {address} (WEIR_ADMIN_LISTEN): {source}; is another proxy running with the same address?"
)]
pub(crate) struct CannotListen {
    address: SocketAddr,
    source: io::Error,
}

/// What an answer is made of.
type Answer = Response<Full<Bytes>>;

/// Takes the admin page's address.
///
/// # Errors
///
/// When it is taken or not this machine's.
pub(crate) fn bind(settings: &Settings) -> Result<StdListener, CannotListen> {
    let address = settings.admin_listen;
    let listener = StdListener::bind(address).and_then(|it| it.set_nonblocking(true).map(|()| it));
    listener.map_err(|source| CannotListen { address, source })
}

/// Answers, for ever.
///
/// # Errors
///
/// When the listener cannot be used at all.
pub(crate) async fn serve(shared: Arc<Shared>, listener: StdListener) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        match listener.accept().await {
            Ok((stream, peer)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    connection(shared, stream, peer).await;
                    drop(place);
                });
            }
            // A connection that was reset before it was accepted, or no file descriptor is free: neither is forever.
            Err(error) => {
                tracing::debug!(%error, "the admin page could not accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, &request, peer).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Failures are those of one client, which sees them itself.
    let _ = timeout(CONNECTION_LIFE, serving).await;
}

async fn answer(shared: &Shared, request: &Request<Incoming>, peer: SocketAddr) -> Answer {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match (request.uri().path(), reads) {
        ("/ready", true) => pages::ready(shared),
        ("/live", true) => text(StatusCode::OK, "live\n"),
        ("/metrics", true) => {
            let mut answer = text(StatusCode::OK, shared.metrics.render(shared));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
            answer
        }
        ("/config", true) => json(&config::page(shared)),
        ("/clusters", true) => json(&pages::clusters(shared).await),
        ("/certs", true) => json(&pages::certs(shared)),
        ("/drain", _) if request.method() == Method::POST => drain::answer(shared, request.headers(), request.uri(), peer),
        ("/drain", _) => wrong_method("POST"),
        ("/ready" | "/live" | "/metrics" | "/config" | "/clusters" | "/certs", false) => wrong_method("GET, HEAD"),
        _ => text(StatusCode::NOT_FOUND, format!("There is nothing at this path. There is:\n\n{PATHS}")),
    }
}

fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("This path takes {allowed}.\n"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body.into())
}

fn json(value: &serde_json::Value) -> Answer {
    with_type(StatusCode::OK, "application/json", format!("{value:#}\n").into())
}

fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

#[cfg(test)]
mod tests;

//! The admin page: readiness, metrics, and a look at what this proxy holds.
//!
//! It stands on the control thread, so it answers while the workers are busy. Whoever reaches its port can ask whether the proxy
//! is well and scrape it, and the kubelet asks for the application there ([`probe`]). What the proxy holds, which names other
//! workloads and their addresses, is shown to the same pod only, and only from there anything is changed ([`drain`]). Keys are
//! never shown.

mod config;
mod drain;
mod pages;
mod probe;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
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

use crate::listen::{self, ListenError, Place};
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
GET  /probe/CONTAINER/KIND  the application's own probe or hook

From this pod only:

GET  /config    the configuration in force, JSON
GET  /clusters  endpoints and their balancing, per worker, JSON
GET  /certs     the certificate and the roots, JSON
POST /drain     finish what runs and exit; over loopback
";

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the application could not be asked")]
struct BreakOff;

/// What an answer is made of.
type Answer = Response<Full<Bytes>>;

/// Takes the admin page's address, on IPv6 as well where nobody said otherwise.
///
/// # Errors
///
/// When it is taken or not this machine's.
pub(crate) fn bind(settings: &Settings) -> Result<Vec<StdListener>, ListenError> {
    let beside = settings.ipv6.admin.map(|address| Place::beside(address, SETTING));
    let places = std::iter::once(Place::of(settings.admin_listen, SETTING)).chain(beside);
    places.filter_map(|place| listen::bind_alone(&place).transpose()).collect()
}

const SETTING: &str = "WEIR_ADMIN_LISTEN";

/// Answers, for ever.
///
/// # Errors
///
/// When a listener cannot be used at all.
pub(crate) async fn serve(shared: Arc<Shared>, listeners: Vec<StdListener>) -> io::Result<Infallible> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let listeners = listeners.into_iter().map(|it| accept(Arc::clone(&shared), Arc::clone(&places), it));
    let (ended, ..) = futures_util::future::select_all(listeners.map(Box::pin)).await;
    ended
}

async fn accept(shared: Arc<Shared>, places: Arc<Semaphore>, listener: StdListener) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
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
        async move { answer(&shared, &request, peer).await }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Failures are those of one client, which sees them itself.
    let _ = timeout(CONNECTION_LIFE, serving).await;
}

async fn answer(shared: &Shared, request: &Request<Incoming>, peer: SocketAddr) -> Result<Answer, BreakOff> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = request.uri().path();
    if let Some(probe) = path.strip_prefix("/probe/").filter(|_| reads) {
        return probe::answer(shared, probe, request.headers()).await;
    }
    if matches!(path, "/config" | "/clusters" | "/certs") && !is_own(shared, peer.ip()) {
        let refused = "This is shown to processes of the same pod only; `weir proxy` asks from there.\n";
        return Ok(text(StatusCode::FORBIDDEN, refused));
    }
    Ok(match (path, reads) {
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
        (probe, false) if probe.starts_with("/probe/") => wrong_method("GET, HEAD"),
        _ => text(StatusCode::NOT_FOUND, format!("There is nothing at this path. There is:\n\n{PATHS}")),
    })
}

/// Whether somebody asks from this pod: over loopback, where a forwarded port arrives as well, or from the pod's own address.
fn is_own(shared: &Shared, peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    peer.is_loopback() || shared.settings.workload.pod_ips.contains(&peer)
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

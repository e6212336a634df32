//! Health, metrics and the JSON API, for people and programs of the operator.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::diagnostics::Diagnostic;
use crate::objects::ServiceForm;
use crate::publish::proxies::ProxyStatus;
use crate::run::Shared;
use crate::translate::Status;

/// Connections at once. Scrapers, probes and some people are a dozen.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may take for a request's head, and how long it may keep a connection without asking for anything.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait after a connection could not be accepted: out of descriptors, for example, and trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the process ends: also while streams end, somebody wants to see it.
///
/// # Errors
///
/// None so far: a connection that cannot be accepted is logged, and the next one is waited for.
pub async fn serve(listener: TcpListener, shared: Shared, address: SocketAddr) -> std::io::Result<()> {
    let router = Router::new()
        .route("/ready", get(ready))
        .route("/live", get(live))
        .route("/metrics", get(metrics))
        .route("/api/v1/routes", get(routes))
        .route("/api/v1/policies", get(policies))
        .route("/api/v1/services", get(services))
        .route("/api/v1/proxies", get(proxies))
        .route("/api/v1/diagnostics", get(diagnostics))
        .with_state(shared);
    let router = if address.ip().is_loopback() { router.layer(middleware::from_fn(own_name_only)) } else { router };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((tcp, _)) => {
                let service = TowerToHyperService::new(router.clone());
                tokio::spawn(async move {
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADER_TIMEOUT)
                        .serve_connection(TokioIo::new(tcp), service);
                    // A client that goes in the middle of an answer is nobody's problem but its own.
                    drop(connection.await);
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// On a loopback address, a page of somebody else's must not be able to read this one by giving its own name this address.
async fn own_name_only(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_local(host) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "ask for this page by an IP address or as localhost\n").into_response()
    }
}

fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|it| it.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(shared): State<Shared>) -> Response {
    if shared.is_ready() {
        "ready\n".into_response()
    } else {
        let mut text = "not ready: the source has not been read yet, or the control plane is stopping\n".to_owned();
        for diagnostic in shared.health().iter().flat_map(|health| health.diagnostics()) {
            text.push_str(&format!("{diagnostic}\n"));
        }
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let metrics = shared.hub.metrics();
    metrics.connected_proxies.set(i64::try_from(shared.hub.proxies().len()).unwrap_or(i64::MAX));
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn routes(State(shared): State<Shared>) -> Json<Vec<Status>> {
    Json(statuses(&shared, true))
}

async fn policies(State(shared): State<Shared>) -> Json<Vec<Status>> {
    Json(statuses(&shared, false))
}

fn statuses(shared: &Shared, of_routes: bool) -> Vec<Status> {
    let state = shared.hub.state();
    let wanted = state.statuses().iter().filter(|(key, _)| key.kind.route().is_some() == of_routes);
    wanted.map(|(_, status)| status.clone()).collect()
}

async fn proxies(State(shared): State<Shared>) -> Json<Vec<ProxyStatus>> {
    Json(shared.hub.proxies().list())
}

/// What is wrong, as it is written and in one line.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    diagnostic: Diagnostic,
    text: String,
}

async fn diagnostics(State(shared): State<Shared>) -> Json<Vec<Shown>> {
    let mut all = shared.health().map(|health| health.diagnostics()).unwrap_or_default();
    all.extend(shared.diagnostics().list().iter().cloned());
    Json(all.into_iter().map(|diagnostic| Shown { text: diagnostic.to_string(), diagnostic }).collect())
}

/// A Service in a few words.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceSummary {
    namespace: String,
    name: String,
    /// Its DNS name.
    host: String,
    addresses: Vec<IpAddr>,
    form: &'static str,
    ports: Vec<PortSummary>,
}

#[derive(Serialize)]
struct PortSummary {
    port: u16,
    name: String,
    /// What `appProtocol` or the name says.
    protocol: Option<String>,
    endpoints: usize,
    meshed: usize,
}

async fn services(State(shared): State<Shared>) -> Json<Vec<ServiceSummary>> {
    use crate::translate::endpoints;
    use weir_core::names::BackendRef;

    let state = shared.hub.state();
    let (index, domain) = (state.index(), &state.trust().trust_domain);
    let summary = index.services().map(|service| ServiceSummary {
        namespace: service.name.namespace.to_string(),
        name: service.name.name.to_string(),
        host: format!("{}.{}.svc.{}", service.name.name, service.name.namespace, shared.cluster_domain),
        addresses: service.addresses().to_vec(),
        form: match service.form {
            ServiceForm::ClusterIp(_) => "ClusterIP",
            ServiceForm::Headless => "Headless",
            ServiceForm::ExternalName => "ExternalName",
        },
        ports: service
            .ports
            .iter()
            .map(|port| {
                let backend = BackendRef { service: service.name.clone(), port: port.port };
                let found = endpoints(index, &backend, domain).map(|it| it.endpoints).unwrap_or_default();
                PortSummary {
                    port: port.port,
                    name: port.name.to_string(),
                    protocol: port.said.map(|said| format!("{said:?}").to_lowercase()),
                    endpoints: found.len(),
                    meshed: found.iter().filter(|it| it.identity.is_some()).count(),
                }
            })
            .collect(),
    });
    Json(summary.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_our_own_names() {
        for good in ["127.0.0.1:15411", "localhost:15411", "LOCALHOST", "[::1]:15411", "[::1]", "127.0.0.1", ""] {
            assert!(is_local(good), "{good}");
        }
        for bad in ["evil.example:15411", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:1"] {
            assert!(!is_local(bad), "{bad}");
        }
    }
}

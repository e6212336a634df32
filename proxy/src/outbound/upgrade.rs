//! Requests that turn their connection into something else, such as WebSocket.
//!
//! Between sidecars an upgrade travels as an extended CONNECT (RFC 8441) on the shared HTTP/2 connection; to an endpoint outside
//! the mesh as it came.

use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use weir_core::balance::{FailureCause, Outcome};

use super::request::{Route, To, attempt_series};
use crate::body::{Body, RequestBody};
use crate::cluster::Pick;
use crate::exchange::{Exchange, Tracked};
use crate::fault::{Fault, Reason};
use crate::http::strip_hop_by_hop;
use crate::io::copy::copy_both;
use crate::metrics::Labels;
use crate::pool::{Answer, PROTO_HTTP1, SendError, Upstream, WEIR_PROTO, Wire};
use crate::worker::Worker;

/// Endpoints that are tried before the client is told that none accepts.
const ATTEMPTS: usize = 3;

/// The client's half of the connection, once it has been answered with 101.
pub(super) fn client_half(parts: &mut Parts) -> Option<OnUpgrade> {
    parts.extensions.remove::<OnUpgrade>()
}

/// Carries the request to an endpoint, and the connection after it.
///
/// # Errors
///
/// No endpoint took the request.
pub(super) async fn run(
    worker: &Rc<Worker>,
    route: &Route,
    parts: Parts,
    token: &str,
    client: Option<OnUpgrade>,
    exchange: &mut Option<Exchange>,
) -> Result<Response<Body>, Fault> {
    let client = client.ok_or_else(|| Fault::new(Reason::UpgradeFailed, "this connection cannot be upgraded"))?;
    let mut tried: Vec<SocketAddr> = Vec::new();
    loop {
        let (upstream, pick) = pick(worker, route, &tried)?;
        if let (Some(exchange), To::Backend(cluster)) = (exchange.as_mut(), &route.to)
            && let Some(series) = attempt_series(exchange, worker, cluster, upstream.identity.as_ref())
        {
            exchange.counted_in(series);
        }
        let (request, wire) = request(&parts, token, &upstream);
        match upstream.send(request, wire).await {
            Ok(answer) => return finish(worker, &upstream, answer, pick, token, client, exchange),
            Err(SendError::NotProcessed(fault)) => {
                if let Some(pick) = pick {
                    pick.finish(Outcome::Failure(FailureCause::Connect));
                }
                tried.push(upstream.address);
                if tried.len() >= ATTEMPTS {
                    return Err(fault);
                }
            }
            Err(SendError::Broke(fault)) => {
                if let Some(pick) = pick {
                    pick.finish(Outcome::Failure(FailureCause::Reset));
                }
                return Err(fault);
            }
        }
    }
}

fn pick(worker: &Rc<Worker>, route: &Route, tried: &[SocketAddr]) -> Result<(Rc<Upstream>, Option<Pick>), Fault> {
    match &route.to {
        To::Backend(cluster) => {
            let pick = cluster.pick(tried)?;
            Ok((Rc::clone(&pick.upstream), Some(pick)))
        }
        To::Endpoint(address, identity) => Ok((worker.direct(*address, identity.as_ref()), None)),
    }
}

fn request(parts: &Parts, token: &str, upstream: &Upstream) -> (Request<RequestBody>, Wire) {
    let mut request = Request::new(RequestBody::Empty);
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = parts.headers.clone();
    let headers = request.headers_mut();
    headers.remove(&WEIR_PROTO);
    headers.remove(CONTENT_LENGTH);
    if upstream.identity.is_some() {
        headers.insert(WEIR_PROTO, PROTO_HTTP1);
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from(token));
        return (request, Wire::Http2);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(token) = HeaderValue::from_str(token) {
        headers.insert(UPGRADE, token);
    }
    (request, Wire::Http1)
}

fn finish(
    worker: &Rc<Worker>,
    upstream: &Upstream,
    answer: Answer,
    pick: Option<Pick>,
    token: &str,
    client: OnUpgrade,
    exchange: &mut Option<Exchange>,
) -> Result<Response<Body>, Fault> {
    let Answer { mut response, lease } = answer;
    let accepted = if upstream.identity.is_some() { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS };
    let mut exchange =
        exchange.take().ok_or_else(|| Fault::new(Reason::UpgradeFailed, "the request has been answered already"))?;
    if response.status() != accepted {
        let (mut parts, incoming) = response.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        exchange.answered(parts.status, &parts.headers);
        let tracked = Tracked::new(incoming, exchange, lease, pick.map(|pick| (pick, Outcome::Success)));
        return Ok(Response::from_parts(parts, Body::Upstream(tracked)));
    }
    let server = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    parts.status = StatusCode::SWITCHING_PROTOCOLS;
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(token) = HeaderValue::from_str(token) {
        parts.headers.insert(UPGRADE, token);
    }
    exchange.answered(parts.status, &parts.headers);
    if let Some(pick) = pick {
        pick.finish(Outcome::Success);
    }
    let backend = exchange.series().and_then(|series| series.backend().cloned());
    let series = worker.connections.find(&Labels {
        hop: crate::fault::Hop::Outbound,
        service: backend.as_ref().map(|it| it.service.clone()),
        route: None,
        backend,
        peer: upstream.identity.clone(),
    });
    let busy = worker.in_flight.enter();
    tokio::task::spawn_local(async move {
        let (_busy, _lease) = (busy, lease);
        match tokio::try_join!(client, server) {
            Ok((client, server)) => {
                let _open = series.open();
                let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
                let _ = copy_both(&mut client, &mut server, &series.sent, &series.received).await;
            }
            Err(error) => tracing::debug!(%error, "an upgraded connection ended before it began"),
        }
    });
    Ok(Response::from_parts(parts, Body::Empty))
}

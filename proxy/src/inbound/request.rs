//! One HTTP request for the application: authorized, cleaned, passed on.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use weir_core::authz::Permit;
use weir_core::hop::strip_hop_by_hop;
use weir_core::snapshot::Protocol;

use super::{Caller, upgrade};
use crate::body::{Body, ReplayBody, RequestBody};
use crate::exchange::{Exchange, Held, LabelsRef, Series, Tracked};
use crate::fault::{Fault, Hop, Reason, WEIR_ERROR, is_grpc};
use crate::http::{WEIR_CLIENT_ID, named_host, upgrade_token};
use crate::metrics::Labels;
use crate::pool::{Answer, SendError, WEIR_PROTO, WEIR_STATUS, Wire};
use crate::worker::MAX_IN_FLIGHT;

/// Times that a request is offered to the application while it provably has not seen it: it restarts, or closes idle connections
/// in the same moment as they are used.
const OFFERS: usize = 2;

/// A request being served.
pub(super) type Serving = Pin<Box<dyn Future<Output = Response<Body>>>>;

/// Serves one request; every failure becomes an answer. Cancelled when the client goes away.
pub(super) fn serve(caller: Caller, request: Request<Incoming>) -> Serving {
    Box::pin(async move {
        let started = Instant::now();
        let grpc = is_grpc(request.headers());
        let mut exchange = Some(begin(&caller, started, grpc));
        match admit(&caller, request, &mut exchange).await {
            Ok(mut response) => {
                // To a client of HTTP/1.0 hyper writes HTTP/1.0, and keeps the connection if that client asked for it.
                *response.version_mut() = Version::HTTP_11;
                response
            }
            Err(fault) => refuse(&caller, &fault, grpc, exchange),
        }
    })
}

fn begin(caller: &Caller, started: Instant, grpc: bool) -> Exchange {
    let mut exchange = Exchange::begin(started, grpc, caller.worker.in_flight.enter());
    let snapshot = caller.worker.shared.snapshot.load();
    let backend = snapshot.inbound().ports.get(&caller.port.number).and_then(|port| port.service.as_ref());
    let labels = LabelsRef { service: backend.map(|it| &it.service), route: None, peer: caller.peer.as_ref() };
    exchange.counted_in(caller.port.series.find(&labels, || {
        let labels = Labels {
            hop: Hop::Inbound,
            service: backend.map(|it| it.service.clone()),
            route: None,
            backend: backend.cloned(),
            peer: caller.peer.clone(),
        };
        Series::new(&caller.worker.shared, labels)
    }));
    exchange
}

fn refuse(caller: &Caller, fault: &Fault, grpc: bool, exchange: Option<Exchange>) -> Response<Body> {
    caller.worker.shared.metrics.fault(Hop::Inbound, fault.reason);
    tracing::debug!(hop = "inbound", reason = fault.reason.as_str(), detail = %fault.detail, "request refused");
    let response = fault.response(Hop::Inbound, grpc);
    if let Some(mut exchange) = exchange {
        exchange.answered(response.status(), response.headers());
    }
    response
}

async fn admit(caller: &Caller, request: Request<Incoming>, exchange: &mut Option<Exchange>) -> Result<Response<Body>, Fault> {
    if caller.worker.in_flight.count() > MAX_IN_FLIGHT {
        let detail = format!("{MAX_IN_FLIGHT} requests are under way in this worker already");
        return Err(Fault::new(Reason::Overloaded, detail));
    }
    let permit = caller.authorize()?;
    let passage = caller.limits.take(&caller.worker.shared, caller.port.number, caller.peer.as_ref())?;
    let (mut parts, body) = request.into_parts();
    let from_http1 = is_from_http1(caller, &parts);
    let upgraded = upgrade::asked(&mut parts, upgrade_token);
    clean(caller, &mut parts)?;
    if let Some(asked) = upgraded {
        // What it turns into may be open for hours, and is no request that is under way.
        drop(passage);
        return upgrade::run(caller, permit, parts, asked?, exchange).await;
    }
    if parts.method == Method::CONNECT {
        let detail = "a tunnel's target is the connection's own; CONNECT is not served here";
        return Err(Fault::new(Reason::BadRequest, detail));
    }
    let wire = match caller.protocol() {
        Protocol::Http2 => Wire::Http2,
        Protocol::Http1 => Wire::Http1,
        Protocol::Detect | Protocol::Http | Protocol::Tls | Protocol::Opaque if from_http1 => Wire::Http1,
        Protocol::Detect | Protocol::Http | Protocol::Tls | Protocol::Opaque => Wire::Http2,
    };
    if let (Some(exchange), Some(passage)) = (exchange.as_mut(), passage) {
        exchange.holds(Held::Passage(passage));
    }
    forward(caller, permit, parts, body, wire, exchange).await
}

/// In which version the client itself wrote its request. Only another sidecar can say that it was not the connection's.
fn is_from_http1(caller: &Caller, parts: &Parts) -> bool {
    parts.version != Version::HTTP_2 || (caller.peer.is_some() && parts.headers.contains_key(&WEIR_PROTO))
}

/// Removes what is not the application's to see, adds who calls, and brings the target into absolute form.
fn clean(caller: &Caller, parts: &mut Parts) -> Result<(), Fault> {
    strip_hop_by_hop(&mut parts.headers);
    let host = named_host(parts)?;
    let headers = &mut parts.headers;
    headers.remove(&WEIR_PROTO);
    headers.remove(&WEIR_CLIENT_ID);
    if let Some(id) = &caller.client_id {
        headers.insert(WEIR_CLIENT_ID, id.clone());
    }
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.authority = match host {
        Some(host) => Some(host),
        // HTTP/1.0 clients need not name a host (RFC 1945); for others it is part of the request (RFC 9112, section 3.2).
        None if parts.version != Version::HTTP_11 => Authority::try_from(caller.port.app.address.to_string()).ok(),
        None => return Err(Fault::new(Reason::BadRequest, "the request names no host")),
    };
    uri.scheme = Some(Scheme::HTTP);
    uri.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from_parts(uri)
        .map_err(|error| Fault::new(Reason::BadRequest, format!("the request's target is not valid: {error}")))?;
    Ok(())
}

async fn forward(
    caller: &Caller,
    _: Permit,
    parts: Parts,
    body: Incoming,
    wire: Wire,
    exchange: &mut Option<Exchange>,
) -> Result<Response<Body>, Fault> {
    let replay = if hyper::body::Body::is_end_stream(&body) { None } else { Some(ReplayBody::new(body)) };
    let mut offers = 0;
    loop {
        let body = replay.as_ref().map_or(RequestBody::Empty, |replay| RequestBody::Replay(replay.reader()));
        let request = Request::from_parts(parts.clone(), body);
        match caller.port.app.send(request, wire).await {
            Ok(answer) => return Ok(pass_on(answer, exchange)),
            Err(SendError::Broke(fault)) if replay.as_ref().is_some_and(ReplayBody::is_broken) => {
                return Err(Fault::new(Reason::ClientAborted, fault.detail));
            }
            Err(SendError::Broke(fault)) => return Err(fault),
            Err(error @ (SendError::NotProcessed(_) | SendError::Stale(_))) => {
                offers += usize::from(matches!(error, SendError::NotProcessed(_)));
                if offers >= OFFERS || !replay.as_ref().is_none_or(ReplayBody::replayable) {
                    return Err(error.into_fault());
                }
            }
        }
    }
}

/// Passes the application's answer on and follows its body.
pub(super) fn pass_on(answer: Answer, exchange: &mut Option<Exchange>) -> Response<Body> {
    let Answer { response, lease } = answer;
    let (mut parts, incoming) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    // Only the mesh says what the mesh did.
    parts.headers.remove(&WEIR_ERROR);
    parts.headers.remove(&WEIR_STATUS);
    let body = match exchange.take() {
        Some(mut exchange) => {
            exchange.answered(parts.status, &parts.headers);
            Body::Upstream(Tracked::new(incoming, exchange, lease, None))
        }
        // The exchange is there until the one answer that takes it.
        None => Body::Empty,
    };
    Response::from_parts(parts, body)
}

/// The series of an upgraded connection's caller.
pub(super) fn connection_labels(caller: &Caller) -> Labels {
    let backend = caller.service();
    Labels {
        hop: Hop::Inbound,
        service: backend.as_ref().map(|it| it.service.clone()),
        route: None,
        backend,
        peer: caller.peer.as_ref().map(Arc::clone),
    }
}

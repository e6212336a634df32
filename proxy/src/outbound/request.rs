//! One HTTP request of the application: where it goes, and what is done to it on the way.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol as StreamProtocol;
use weir_core::deadline::Deadline;
use weir_core::hop::strip_hop_by_hop;
use weir_core::names::{BackendRef, Identity, Target};
use weir_core::policy::injection::{Disturbance, disturb};
use weir_core::route::decide::{Decision, Refusal, decide};
use weir_core::route::filter::apply_response;
use weir_core::route::filter::cors::Grant;
use weir_core::route::mirror::chosen;
use weir_core::route::{Found, HttpRule, RetryPolicy, RouteTable, Timeouts};
use weir_core::session::{Session, Token, backend_number, endpoint_number};
use weir_core::snapshot::Protocol;

use super::attempt::{self, Attempts, ClientBody};
use super::destination::{self, Destination};
use super::upgrade::{self, Upgrade};
use super::{Mode, mirror, tunnel};
use crate::body::{Body, ReplayBody};
use crate::cluster::Cluster;
use crate::exchange::{Exchange, LabelsRef, Series, SeriesCache};
use crate::fault::{Fault, Hop, Reason, is_grpc};
use crate::http::{WEIR_CLIENT_ID, named_host, upgrade_token};
use crate::metrics::Labels;
use crate::worker::{MAX_IN_FLIGHT, Worker};

/// Serves one request; every failure becomes an answer. Cancelled when the client goes away, and then what runs upstream ends.
pub(super) async fn serve(worker: Rc<Worker>, mode: Rc<Mode>, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let grpc = is_grpc(request.headers());
    let mut exchange = Some(Exchange::begin(started, grpc, worker.in_flight.enter()));
    let served = if worker.in_flight.count() > MAX_IN_FLIGHT {
        let detail = format!("{MAX_IN_FLIGHT} requests are under way in this worker already");
        Err(Fault::new(Reason::Overloaded, detail))
    } else if request.method() == Method::CONNECT && request.extensions().get::<StreamProtocol>().is_none() {
        tunnel::connect(&worker, &mode, request, &mut exchange).await
    } else {
        forward(&worker, &mode, request, &mut exchange).await
    };
    match served {
        Ok(mut response) => {
            // To a client of HTTP/1.0 hyper writes HTTP/1.0, and keeps the connection if that client asked for it.
            *response.version_mut() = Version::HTTP_11;
            response
        }
        Err(fault) => refuse(&worker, &fault, grpc, exchange),
    }
}

fn refuse(worker: &Worker, fault: &Fault, grpc: bool, exchange: Option<Exchange>) -> Response<Body> {
    worker.shared.metrics.fault(Hop::Outbound, fault.reason);
    tracing::debug!(hop = "outbound", reason = fault.reason.as_str(), detail = %fault.detail, "request refused");
    let response = fault.response(Hop::Outbound, grpc);
    if let Some(mut exchange) = exchange {
        if !exchange.is_counted() {
            exchange.counted_in(unknown_series(worker));
        }
        exchange.answered(response.status(), response.headers());
    }
    response
}

fn unknown_series(worker: &Worker) -> Rc<Series> {
    let labels = LabelsRef { service: None, route: None, peer: None };
    worker.unknown.find(&labels, || Series::new(&worker.shared, Labels::unknown(Hop::Outbound)))
}

async fn forward(
    worker: &Rc<Worker>,
    mode: &Mode,
    request: Request<Incoming>,
    exchange: &mut Option<Exchange>,
) -> Result<Response<Body>, Fault> {
    let (mut parts, body) = request.into_parts();
    let (destination, authority) = match mode {
        Mode::Proxy => {
            let authority = authority(&parts)?;
            let default_port = if parts.uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
            let target = worker
                .shared
                .resolver
                .resolve(authority.as_str(), default_port)
                .map_err(|error| Fault::new(Reason::BadRequest, error.to_string()))?;
            (destination::find(worker, target).await?, authority)
        }
        Mode::Dialled(dialled) => {
            let authority = match named_host(&parts)? {
                Some(authority) => authority,
                // HTTP/1.0 clients need not name a host (RFC 1945); for others it is part of the request (RFC 9112, section 3.2).
                None if parts.version != Version::HTTP_11 => authority_of(&dialled.address.to_string())?,
                None => return Err(Fault::new(Reason::BadRequest, "the request names no host")),
            };
            (dialled.destination(worker).await?, authority)
        }
    };
    if parts.uri.scheme() == Some(&Scheme::HTTPS) {
        let detail = "a request for https:// cannot be forwarded in plaintext; use CONNECT";
        return Err(Fault::new(Reason::BadRequest, detail));
    }
    absolute_form(&mut parts, authority)?;
    let client_http2 = parts.version == Version::HTTP_2;
    let upgrade = if client_http2 { upgrade::of_stream(&mut parts) } else { upgrade_token(&parts.headers) };
    let sent = Sent { client_http2, upgrade };
    match destination {
        Destination::Service(service) => to_service(worker, &service, parts, body, sent, exchange).await,
        Destination::Workload(endpoint) => {
            let route = Route::direct(endpoint.address, endpoint.identity.clone(), endpoint.protocol);
            run(worker, route, Asked { parts, body, sent, disturbance: None }, exchange).await
        }
        Destination::Outside(address) => {
            let route = Route::direct(address, None, Protocol::Detect);
            run(worker, route, Asked { parts, body, sent, disturbance: None }, exchange).await
        }
    }
}

/// How the client sent a request.
pub(super) struct Sent {
    /// In HTTP/2, prior knowledge.
    pub(super) client_http2: bool,
    /// The protocol that it wants the connection to become.
    pub(super) upgrade: Option<String>,
}

/// The decision for one request.
pub(super) struct Route {
    /// Who gets it.
    pub(super) to: To,
    /// The rule's, if a rule matched.
    rule: Option<(Arc<RouteTable>, Found, usize)>,
    /// What is spoken on the port.
    pub(super) protocol: Protocol,
    /// What the answer says to a browser of another origin.
    grant: Grant,
    /// Who gets a copy.
    pub(super) mirrors: Vec<Rc<Cluster>>,
    /// How sessions are kept where no route is attached, and the backend.
    session: Option<(Arc<Session>, BackendRef)>,
    /// The session that it belongs to.
    pub(super) token: Option<Token>,
}

/// Who gets a request.
pub(super) enum To {
    /// An endpoint of a backend.
    Backend(Rc<Cluster>),
    /// One endpoint, by its address.
    Endpoint(SocketAddr, Option<Arc<Identity>>),
}

impl Route {
    fn direct(address: SocketAddr, identity: Option<Arc<Identity>>, protocol: Protocol) -> Self {
        Self {
            to: To::Endpoint(address, identity),
            rule: None,
            protocol,
            grant: Grant::default(),
            mirrors: Vec::new(),
            session: None,
            token: None,
        }
    }

    fn rule(&self) -> Option<&HttpRule> {
        self.rule.as_ref().map(|(table, found, _)| table.rule(*found))
    }

    /// The route's timeouts.
    pub(super) fn timeouts(&self) -> Timeouts {
        self.rule().map(|rule| rule.timeouts).unwrap_or_default()
    }

    /// The route's retries.
    pub(super) fn retry(&self) -> Option<&RetryPolicy> {
        self.rule().and_then(|rule| rule.retry.as_ref())
    }

    /// How sessions are kept, and the backend that keeps this one.
    fn session(&self) -> Option<(&Session, &BackendRef)> {
        let Some((table, found, index)) = &self.rule else {
            return self.session.as_ref().map(|(session, backend)| (&**session, backend));
        };
        let rule = table.rule(*found);
        let backend = rule.backends.get(*index)?;
        Some((rule.session.as_ref().or(backend.session.as_deref())?, &backend.backend))
    }

    /// Tells the client which session it is in, where sessions are kept.
    pub(super) fn tell_session(&self, headers: &mut http::HeaderMap, endpoint: SocketAddr) {
        if let Some((session, backend)) = self.session() {
            let (backend, endpoint) = (backend_number(backend), endpoint_number(endpoint));
            session.tell(headers, backend, endpoint, self.token, unix_seconds());
        }
    }

    /// Changes the answer's headers as the rule and its backend say.
    pub(super) fn apply_to_answer(&self, headers: &mut http::HeaderMap) {
        if let (Some(rule), Some((.., backend))) = (self.rule(), &self.rule) {
            if let Some(backend) = rule.backends.get(*backend) {
                apply_response(&backend.filters, headers);
            }
            apply_response(&rule.filters, headers);
            self.grant.apply(headers);
        }
    }
}

async fn to_service(
    worker: &Rc<Worker>,
    service: &BackendRef,
    mut parts: Parts,
    body: Incoming,
    sent: Sent,
    exchange: &mut Option<Exchange>,
) -> Result<Response<Body>, Fault> {
    // One snapshot for the routes and for the endpoints that they refer to: in the next one these may be gone.
    let snapshot = worker.shared.snapshot.load();
    let Some(port) = snapshot.service_port(service) else {
        return Err(Fault::new(Reason::UnknownPort, format!("{service} is not there any more")));
    };
    let disturbance = disturb(&port.injections, &parts.headers, &mut worker.rng.borrow_mut());
    let Some(table) = port.routes.clone() else {
        // A request on a port whose connections are routed, which only a client of the forward proxy can make.
        let streams = port.streams.as_ref().map(|table| table.choose(None, &mut worker.rng.borrow_mut()));
        let backend = streams.transpose().map_err(|why| tunnel::refused(service, &why))?;
        let cluster = worker.cluster(backend.map_or(service, |it| &it.backend), &snapshot);
        count_in(worker, exchange, service, None, &cluster);
        let session = port.session.clone().map(|session| (session, service.clone()));
        let token = session.as_ref().and_then(|(session, _)| session.of(&parts.headers, unix_seconds()));
        let token = token.filter(|it| it.backend == backend_number(service));
        let route = Route {
            to: To::Backend(cluster),
            rule: None,
            protocol: port.protocol,
            grant: Grant::default(),
            mirrors: Vec::new(),
            session,
            token,
        };
        drop(snapshot);
        return run(worker, route, Asked { parts, body, sent, disturbance }, exchange).await;
    };
    let decision = decide(&table, &mut parts, service.port, &mut worker.rng.borrow_mut(), unix_seconds);
    let route = match decision {
        Decision::Forward { found, rule, index, backend, grant, token } => {
            let cluster = worker.cluster(&backend.backend, &snapshot);
            count_in(worker, exchange, service, Some(rule), &cluster);
            let mut rng = worker.rng.borrow_mut();
            let mirrors = chosen(rule, backend, &mut rng).map(|backend| worker.cluster(backend, &snapshot)).collect();
            drop(rng);
            let rule = Some((Arc::clone(&table), found, index));
            Route { to: To::Backend(cluster), protocol: port.protocol, rule, grant, mirrors, session: None, token }
        }
        Decision::Preflight { rule, grant } => {
            count_in(worker, exchange, service, Some(rule), &worker.cluster(service, &snapshot));
            return Ok(answer_here(StatusCode::NO_CONTENT, None, &grant, exchange));
        }
        Decision::Redirect { rule, status, location, grant } => {
            count_in(worker, exchange, service, Some(rule), &worker.cluster(service, &snapshot));
            return Ok(answer_here(status, Some(location), &grant, exchange));
        }
        Decision::Refused { rule, why } => {
            count_in(worker, exchange, service, rule, &worker.cluster(service, &snapshot));
            return Err(refusal(service, rule, &why));
        }
    };
    drop(snapshot);
    run(worker, route, Asked { parts, body, sent, disturbance }, exchange).await
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn refusal(service: &BackendRef, rule: Option<&HttpRule>, why: &Refusal) -> Fault {
    let place = match rule {
        Some(rule) => format!("rule {} of route {}", rule.index, rule.route),
        None => service.to_string(),
    };
    Fault::new(why.reason(), format!("{place}: {why}"))
}

/// The answer to a request that a filter answers and no backend sees.
fn answer_here(
    status: StatusCode,
    location: Option<http::HeaderValue>,
    grant: &Grant,
    exchange: &mut Option<Exchange>,
) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    if let Some(location) = location {
        response.headers_mut().insert(http::header::LOCATION, location);
    }
    grant.apply(response.headers_mut());
    if let Some(mut exchange) = exchange.take() {
        exchange.answered(status, response.headers());
    }
    response
}

/// Says where the exchange is counted as far as it is known now; the endpoint's identity comes with the attempt.
fn count_in(worker: &Worker, exchange: &mut Option<Exchange>, service: &BackendRef, rule: Option<&HttpRule>, cluster: &Cluster) {
    if let Some(exchange) = exchange {
        exchange.counted_in(series(worker, service, rule, cluster, None));
    }
}

fn series(
    worker: &Worker,
    service: &BackendRef,
    rule: Option<&HttpRule>,
    cluster: &Cluster,
    peer: Option<&Arc<Identity>>,
) -> Rc<Series> {
    let labels = LabelsRef { service: Some(&service.service), route: rule.map(|rule| &rule.route), peer };
    cluster.series.find(&labels, || {
        let labels = Labels {
            hop: Hop::Outbound,
            service: Some(service.service.clone()),
            route: rule.map(|rule| rule.route.clone()),
            backend: Some(cluster.backend.clone()),
            peer: peer.cloned(),
        };
        Series::new(&worker.shared, labels)
    })
}

/// Where one attempt is counted, once it is known which endpoint it goes to.
pub(super) fn attempt_series(
    exchange: &Exchange,
    worker: &Worker,
    cache: &SeriesCache,
    peer: Option<&Arc<Identity>>,
) -> Option<Rc<Series>> {
    let counted = exchange.series()?;
    let labels = LabelsRef { service: counted.service(), route: counted.route(), peer };
    if counted.is_for(&labels) {
        return None;
    }
    Some(cache.find(&labels, || Series::new(&worker.shared, counted.labels_with_peer(peer.cloned()))))
}

/// A request that has been decided on.
struct Asked {
    parts: Parts,
    body: Incoming,
    sent: Sent,
    /// What a policy wants to happen to it.
    disturbance: Option<Disturbance>,
}

async fn run(worker: &Rc<Worker>, route: Route, asked: Asked, exchange: &mut Option<Exchange>) -> Result<Response<Body>, Fault> {
    let Asked { mut parts, body, sent, disturbance } = asked;
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(&WEIR_CLIENT_ID);
    if let Some(current) = exchange.as_mut().filter(|it| !it.is_counted()) {
        current.counted_in(unknown_series(worker));
    }
    let deadline = Deadline::new(worker.shared.now(), route.timeouts());
    if let Some(disturbance) = disturbance {
        suffer(worker, disturbance, &deadline, route.timeouts()).await?;
    }
    let asked = sent.upgrade.filter(|_| parts.method == Method::GET);
    let upgrade = asked.and_then(|token| Upgrade::take(token, sent.client_http2, &mut parts));
    let body =
        if hyper::body::Body::is_end_stream(&body) { ClientBody::Empty } else { ClientBody::Replay(ReplayBody::new(body)) };
    if !route.mirrors.is_empty() && upgrade.is_none() {
        mirror::start(worker, &route, &parts, &body, sent.client_http2);
    }
    let attempts = Attempts { worker, route: &route, parts, body, client_http2: sent.client_http2, upgrade, deadline };
    attempt::run(attempts, exchange).await
}

/// Lets happen to a request what a policy wants. The route's time runs meanwhile, so that a delay shows what it is worth.
async fn suffer(worker: &Worker, disturbance: Disturbance, deadline: &Deadline, timeouts: Timeouts) -> Result<(), Fault> {
    if !disturbance.delay.is_zero() {
        let left = deadline.remaining(worker.shared.now());
        tokio::time::sleep(left.map_or(disturbance.delay, |left| left.min(disturbance.delay))).await;
        if left.is_some_and(|left| left <= disturbance.delay) {
            let limit = timeouts.request.unwrap_or_default();
            let detail =
                format!("the route gives a request {limit:?}, and a TrafficPolicy delays this one by {:?}", disturbance.delay);
            return Err(Fault::new(Reason::RequestTimeout, detail));
        }
    }
    match disturbance.abort {
        Some(status) => Err(Fault::injected(status, "a TrafficPolicy of the service wants this request to fail")),
        None => Ok(()),
    }
}

/// What the request names as its host, which a request to a proxy must.
fn authority(parts: &Parts) -> Result<Authority, Fault> {
    named_host(parts)?.ok_or_else(|| Fault::new(Reason::BadRequest, "the request names no host"))
}

pub(super) fn authority_of(text: &str) -> Result<Authority, Fault> {
    Authority::try_from(text).map_err(|_| Fault::new(Reason::BadRequest, format!("`{text}` is no host")))
}

/// Requests travel through the proxy in absolute form, whatever the client wrote.
fn absolute_form(parts: &mut Parts, authority: Authority) -> Result<(), Fault> {
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    uri.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from_parts(uri)
        .map_err(|error| Fault::new(Reason::BadRequest, format!("the request's target is not valid: {error}")))?;
    Ok(())
}

/// The target of a CONNECT.
pub(super) fn connect_target(worker: &Worker, parts: &Parts) -> Result<Target, Fault> {
    let authority = parts.uri.authority().ok_or_else(|| Fault::new(Reason::BadRequest, "CONNECT without HOST:PORT"))?;
    if authority.port_u16().is_none() {
        return Err(Fault::new(Reason::BadRequest, "CONNECT needs a port: HOST:PORT"));
    }
    let resolved = worker.shared.resolver.resolve(authority.as_str(), 0);
    resolved.map_err(|error| Fault::new(Reason::BadRequest, error.to_string()))
}

/// An empty answer of the mesh's own that is no failure.
pub(super) fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Full(Bytes::new()));
    *response.status_mut() = status;
    response
}

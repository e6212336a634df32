//! The attempts that one request is worth.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use weir_core::backoff::Backoff;
use weir_core::balance::{FailureCause, Outcome, Preference};
use weir_core::deadline::{Deadline, Expiry};
use weir_core::hop::strip_hop_by_hop;
use weir_core::retry::{AttemptEnd, RequestFacts, Verdict, wants_retry};
use weir_core::snapshot::Protocol;

use super::request::{Route, To, attempt_series};
use super::upgrade::{self, Upgrade};
use crate::body::{Body, ReplayBody, RequestBody};
use crate::cluster::Pick;
use crate::exchange::{Exchange, Held, Tracked};
use crate::fault::{Fault, Hop, Reason, WEIR_ERROR};
use crate::http::WEIR_CLIENT_ID;
use crate::pool::{Answer, PROTO_HTTP1, SendError, Upstream, WEIR_PROTO, Wire};
use crate::worker::Worker;

/// Why there is no further attempt: the retry budget is spent.
const OVER_BUDGET: &str = "retry-budget";

/// A request that is ready to be sent, as often as it takes.
pub(super) struct Attempts<'a> {
    /// The worker.
    pub(super) worker: &'a Rc<Worker>,
    /// The decision.
    pub(super) route: &'a Route,
    /// The request's head, absolute form, free of hop-by-hop headers.
    pub(super) parts: Parts,
    /// Its body.
    pub(super) body: ClientBody,
    /// Whether the client spoke HTTP/2.
    pub(super) client_http2: bool,
    /// What the client wants its connection to become.
    pub(super) upgrade: Option<Upgrade>,
    /// Its time.
    pub(super) deadline: Deadline,
}

/// A client's body.
pub(super) enum ClientBody {
    /// None.
    Empty,
    /// One that may be sent again while it is small.
    Replay(ReplayBody),
}

impl ClientBody {
    /// Whether it can be sent again.
    fn replayable(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Replay(replay) => replay.replayable(),
        }
    }

    fn is_broken(&self) -> bool {
        matches!(self, Self::Replay(replay) if replay.is_broken())
    }
}

/// How one attempt ended without an answer for the client.
struct Failed {
    end: AttemptEnd,
    fault: Fault,
    /// An answer that may be passed on after all, if nothing better comes.
    answer: Option<(Answer, Option<Pick>)>,
    /// Where it went.
    address: SocketAddr,
}

/// What an attempt brought. The outer error ends the request.
type Sent = Result<Result<(Answer, Option<Pick>), Box<Failed>>, Fault>;

/// Where an attempt goes.
struct Target {
    upstream: Rc<Upstream>,
    protocol: Protocol,
    /// `None`: the endpoint was called by its own address.
    pick: Option<Pick>,
}

impl Failed {
    /// Another attempt follows: the answer that was there is not wanted.
    fn give_up(self) {
        let cause = match self.end {
            AttemptEnd::NotProcessed => FailureCause::Connect,
            AttemptEnd::Broke => FailureCause::Reset,
            AttemptEnd::AttemptTimeout => FailureCause::Timeout,
            AttemptEnd::Status(_) => FailureCause::ServerError,
        };
        finish(self.answer.and_then(|(_, pick)| pick), Outcome::Failure(cause));
    }
}

/// Sends the request until it is answered or not worth another attempt.
///
/// # Errors
///
/// The last attempt's failure.
pub(super) async fn run(attempts: Attempts<'_>, exchange: &mut Option<Exchange>) -> Result<Response<Body>, Fault> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut retries = 0;
    match &attempts.route.to {
        To::Backend(cluster) => cluster.deposit(),
        To::Endpoint(..) => attempts.worker.deposit(),
    }
    attempts.admit(exchange).await?;
    loop {
        let failed = match attempts.once(&mut tried, exchange).await? {
            Ok((answer, pick)) => return Ok(attempts.pass_on(answer, pick, exchange)),
            Err(failed) => failed,
        };
        match attempts.wait_to_retry(&failed, retries).await {
            Ok(()) => {
                failed.give_up();
                retries += 1;
            }
            Err(why) => return attempts.last(failed, retries, why, exchange),
        }
        if let Some(series) = exchange.as_ref().and_then(Exchange::series) {
            series.retried();
        }
    }
}

impl Attempts<'_> {
    /// Waits until one more request may be under way to the backend, where that is limited. Its retries are the same request.
    async fn admit(&self, exchange: &mut Option<Exchange>) -> Result<(), Fault> {
        let To::Backend(cluster) = &self.route.to else { return Ok(()) };
        let Some(slots) = cluster.slots() else { return Ok(()) };
        let slot = match self.deadline.remaining(self.worker.shared.now()) {
            None => slots.request().await?,
            Some(left) => {
                let waited = tokio::time::timeout(left, slots.request()).await;
                waited.map_err(|_| Fault::new(Reason::RequestTimeout, slots.waited_in_vain()))??
            }
        };
        if let (Some(exchange), Some(slot)) = (exchange, slot) {
            exchange.holds(Held::Slot(slot));
        }
        Ok(())
    }

    /// One attempt, or two where a policy hedges.
    async fn once(&self, tried: &mut Vec<SocketAddr>, exchange: &mut Option<Exchange>) -> Sent {
        let limit = self.deadline.attempt(self.worker.shared.now());
        if limit.is_some_and(|(left, _)| left.is_zero()) {
            return Err(self.timed_out());
        }
        let target = self.pick(tried)?;
        self.count(&target.upstream, exchange);
        let sent = match self.hedge_after(tried) {
            None => self.send(target, limit).await?,
            // Boxed: the room for two attempts is for those who asked for them.
            Some(after) => Box::pin(self.hedged(target, limit, after, tried, exchange)).await?,
        };
        if let Err(failed) = &sent {
            tried.push(failed.address);
        }
        Ok(sent)
    }

    /// When a second attempt joins the first, if it has brought no answer until then. Only what could be sent twice without harm
    /// may be, and a session's endpoint has no second.
    fn hedge_after(&self, tried: &[SocketAddr]) -> Option<Duration> {
        let To::Backend(cluster) = &self.route.to else { return None };
        let alone = self.upgrade.is_none() && self.route.token.is_none() && matches!(self.body, ClientBody::Empty);
        if !alone || !tried.is_empty() {
            return None;
        }
        cluster.hedging()?.after(RequestFacts::new(&self.parts.method, true))
    }

    /// The attempt at `first`, and one at another endpoint when that takes long. The first answer that is none of the mesh's own
    /// counts; the other attempt is cancelled.
    async fn hedged(
        &self,
        first: Target,
        limit: Option<(Duration, Expiry)>,
        after: Duration,
        tried: &mut Vec<SocketAddr>,
        exchange: &mut Option<Exchange>,
    ) -> Sent {
        let address = first.upstream.address;
        let mut first = Box::pin(self.send(first, limit));
        tokio::select! {
            biased;
            sent = &mut first => return sent,
            () = tokio::time::sleep(after) => {}
        }
        let second = self.pick(&[address]).ok().filter(|it| it.upstream.address != address);
        let (To::Backend(cluster), Some(second)) = (&self.route.to, second) else { return first.await };
        if !cluster.withdraw() {
            return first.await;
        }
        let upstream = Rc::clone(&second.upstream);
        let mut second = Box::pin(self.send(second, self.deadline.attempt(self.worker.shared.now())));
        let (sent, hedge_won) = tokio::select! {
            biased;
            sent = &mut first => match answered(sent, tried) {
                Some(sent) => (sent, false),
                None => (second.await, true),
            },
            sent = &mut second => match answered(sent, tried) {
                Some(sent) => (sent, true),
                None => (first.await, false),
            },
        };
        let won = hedge_won && matches!(sent, Ok(Ok(_)));
        self.worker.shared.metrics.hedged(&cluster.backend, won);
        if hedge_won {
            self.count(&upstream, exchange);
        }
        sent
    }

    /// Sends the request to one endpoint and waits for its answer.
    async fn send(&self, target: Target, limit: Option<(Duration, Expiry)>) -> Sent {
        let Target { upstream, protocol, mut pick } = target;
        let address = upstream.address;
        let failed = |end, fault| Ok(Err(Box::new(Failed { end, fault, answer: None, address })));
        let sending = async {
            loop {
                let (request, wire) = self.request(&upstream, protocol);
                match upstream.send(request, wire).await {
                    Err(SendError::Stale(_)) if self.body.replayable() => {}
                    sent => return sent,
                }
            }
        };
        let sent = match limit {
            None => sending.await,
            Some((limit, expiry)) => match tokio::time::timeout(limit, sending).await {
                Ok(sent) => sent,
                Err(_) => {
                    finish(pick, Outcome::Failure(FailureCause::Timeout));
                    return match expiry {
                        Expiry::Request => Err(self.timed_out()),
                        Expiry::BackendRequest => {
                            let detail = format!("{} did not answer within {limit:?}", upstream.describe());
                            failed(AttemptEnd::AttemptTimeout, Fault::new(Reason::BackendRequestTimeout, detail))
                        }
                    };
                }
            },
        };
        match sent {
            Ok(answer) => {
                if let Some(pick) = &mut pick {
                    pick.answered();
                }
                Ok(self.judge(answer, pick, &upstream))
            }
            Err(SendError::NotProcessed(fault) | SendError::Stale(fault)) => {
                finish(pick, Outcome::Failure(FailureCause::Connect));
                failed(AttemptEnd::NotProcessed, fault)
            }
            // It was the client that broke off, in the middle of its body: nobody else's fault.
            Err(SendError::Broke(fault)) if self.body.is_broken() => Err(Fault::new(Reason::ClientAborted, fault.detail)),
            Err(SendError::Broke(fault)) => {
                finish(pick, Outcome::Failure(FailureCause::Reset));
                failed(AttemptEnd::Broke, fault)
            }
        }
    }

    /// What an answer means: for the client, or for another attempt.
    fn judge(&self, mut answer: Answer, pick: Option<Pick>, upstream: &Upstream) -> Result<(Answer, Option<Pick>), Box<Failed>> {
        if upstream.identity.is_none() {
            // Only the mesh says what the mesh did.
            answer.response.headers_mut().remove(WEIR_ERROR);
        }
        if self.upgrade.is_some() {
            upgrade::read_answer(&mut answer.response, upstream.identity.is_some());
        }
        let status = answer.response.status();
        let end = match upstream.identity.as_ref().and(peer_fault(answer.response.headers())) {
            Some(end) => end,
            None if self.route.retry().is_some_and(|policy| policy.codes.contains(&status)) => AttemptEnd::Status(status),
            None => return Ok((answer, pick)),
        };
        let fault = Fault::new(Reason::UpstreamReset, format!("{} answered {status}", upstream.describe()));
        Err(Box::new(Failed { end, fault, answer: Some((answer, pick)), address: upstream.address }))
    }

    fn pick(&self, tried: &[SocketAddr]) -> Result<Target, Fault> {
        match &self.route.to {
            To::Backend(cluster) => {
                if !tried.is_empty() {
                    // Time has passed: endpoints may have come and gone.
                    let snapshot = self.worker.shared.snapshot.load();
                    cluster.reconcile(snapshot.endpoints(&cluster.backend));
                }
                let pinned = self.route.token.filter(|_| tried.is_empty()).map(|token| Preference::Endpoint(token.endpoint));
                let pick = cluster.pick(tried, pinned.unwrap_or_else(|| cluster.preference(&self.parts.headers)))?;
                Ok(Target { upstream: Rc::clone(&pick.upstream), protocol: pick.protocol, pick: Some(pick) })
            }
            To::Endpoint(address, identity) => {
                let upstream = self.worker.direct(*address, identity.as_ref());
                Ok(Target { upstream, protocol: self.route.protocol, pick: None })
            }
        }
    }

    fn count(&self, upstream: &Upstream, exchange: &mut Option<Exchange>) {
        let Some(exchange) = exchange else { return };
        let cache = match &self.route.to {
            To::Backend(cluster) => &cluster.series,
            To::Endpoint(..) => &self.worker.unknown,
        };
        if let Some(series) = attempt_series(exchange, self.worker, cache, upstream.identity.as_ref()) {
            exchange.counted_in(series);
        }
    }

    /// The request for this endpoint. The head is copied because another attempt may need it.
    fn request(&self, upstream: &Upstream, endpoint_protocol: Protocol) -> (Request<RequestBody>, Wire) {
        let body = match &self.body {
            ClientBody::Empty => RequestBody::Empty,
            ClientBody::Replay(replay) => RequestBody::Replay(replay.reader()),
        };
        let protocols = [self.route.protocol, endpoint_protocol];
        let (request, wire) = addressed(self.worker, &self.parts, body, upstream, self.client_http2, protocols);
        match &self.upgrade {
            Some(upgrade) => upgrade.offer(request, upstream.identity.is_some()),
            None => (request, wire),
        }
    }

    /// Waits until the next attempt may begin. The error says why there is none.
    async fn wait_to_retry(&self, failed: &Failed, retries: u32) -> Result<(), &'static str> {
        let replayable = self.body.replayable();
        let policy = self.route.retry();
        let facts = RequestFacts::new(&self.parts.method, replayable);
        if let Verdict::Stop(stop) = wants_retry(failed.end, facts, policy, retries) {
            return Err(stop.as_str());
        }
        let delay = self.delay(failed.end, retries);
        if !self.deadline.allows(self.worker.shared.now(), delay) {
            return Err("timeout");
        }
        let granted = match &self.route.to {
            To::Backend(cluster) => cluster.withdraw(),
            To::Endpoint(..) => self.worker.withdraw(),
        };
        if !granted {
            return Err(OVER_BUDGET);
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        Ok(())
    }

    fn delay(&self, end: AttemptEnd, retries: u32) -> Duration {
        let policy = self.route.retry();
        // Nobody has done any work for it yet, and the next endpoint is another one.
        if end == AttemptEnd::NotProcessed && retries == 0 && policy.is_none() {
            return Duration::ZERO;
        }
        let backoff = match policy.map(|policy| policy.backoff).filter(|it| !it.is_zero()) {
            Some(base) => Backoff { base, max: base.saturating_mul(10) },
            None => Backoff::default(),
        };
        backoff.delay(retries + 1, &mut self.worker.rng.borrow_mut())
    }

    fn timed_out(&self) -> Fault {
        let limit = self.route.timeouts().request.unwrap_or_default();
        Fault::new(Reason::RequestTimeout, format!("the route gives a request {limit:?}, retries included"))
    }

    /// What the client gets when no further attempt is made.
    fn last(
        &self,
        mut failed: Box<Failed>,
        retries: u32,
        why: &'static str,
        exchange: &mut Option<Exchange>,
    ) -> Result<Response<Body>, Fault> {
        let unavailable = why == OVER_BUDGET && matches!(&self.route.to, To::Backend(cluster) if cluster.answers_unavailable());
        if let Some((answer, pick)) = failed.answer.take_if(|_| !unavailable) {
            return Ok(self.pass_on(answer, pick, exchange));
        }
        let Fault { reason, detail, .. } = &failed.fault;
        let (reason, detail) = (*reason, format!("{detail} (retries: {retries}; no further one: {why})"));
        if !unavailable {
            return Err(Fault::new(reason, detail));
        }
        failed.give_up();
        Err(Fault::new(Reason::RetryBudget, detail))
    }

    /// Hands the answer to the client, and follows its body.
    fn pass_on(&self, answer: Answer, pick: Option<Pick>, exchange: &mut Option<Exchange>) -> Response<Body> {
        let Answer { mut response, lease } = answer;
        let server = upgrade::server_half(&mut response);
        let (mut parts, incoming) = response.into_parts();
        parts.version = Version::HTTP_11;
        strip_hop_by_hop(&mut parts.headers);
        if let Some(pick) = &pick {
            self.route.tell_session(&mut parts.headers, pick.upstream.address);
        }
        self.route.apply_to_answer(&mut parts.headers);
        let outcome =
            if is_gateway_failure(parts.status) { Outcome::Failure(FailureCause::ServerError) } else { Outcome::Success };
        let body = match exchange.take() {
            Some(exchange) if let (Some(upgrade), Some(server)) = (&self.upgrade, server) => {
                finish(pick, outcome);
                upgrade.switch(self.worker, &mut parts, server, exchange, lease);
                Body::Empty
            }
            Some(mut exchange) => {
                if let Some(upgrade) = &self.upgrade {
                    upgrade.declined(&mut parts);
                }
                exchange.answered(parts.status, &parts.headers);
                let tracked = Tracked::new(incoming, exchange, lease, pick.map(|pick| (pick, outcome)));
                Body::Upstream(self.bounded(tracked))
            }
            // The exchange is there until the one answer that takes it.
            None => Body::Empty,
        };
        Response::from_parts(parts, body)
    }

    /// The request's time covers its answer's body.
    fn bounded(&self, tracked: Tracked) -> Tracked {
        let Some(left) = self.deadline.remaining(self.worker.shared.now()) else { return tracked };
        let worker = Rc::clone(self.worker);
        tracked.until(tokio::time::Instant::now() + left, move || {
            worker.shared.metrics.fault(Hop::Outbound, Reason::RequestTimeout);
        })
    }
}

/// What the first of two attempts to end brought, if that was an answer. A failure is the endpoint's, and the other attempt decides.
fn answered(sent: Sent, tried: &mut Vec<SocketAddr>) -> Option<Sent> {
    match sent {
        Ok(Ok(answer)) => Some(Ok(Ok(answer))),
        Ok(Err(failed)) => {
            tried.push(failed.address);
            failed.give_up();
            None
        }
        // The request's time is over, for the other as well.
        Err(_) => None,
    }
}

/// The request as one endpoint gets it, and how it is written.
pub(super) fn addressed(
    worker: &Worker,
    parts: &Parts,
    body: RequestBody,
    upstream: &Upstream,
    client_http2: bool,
    protocols: [Protocol; 2],
) -> (Request<RequestBody>, Wire) {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = parts.headers.clone();
    request.headers_mut().remove(&WEIR_PROTO);
    if upstream.identity.is_some() && !client_http2 {
        request.headers_mut().insert(WEIR_PROTO, PROTO_HTTP1);
    }
    if upstream.own {
        // What the inbound side would say, which this request does not pass.
        let tls = worker.shared.tls.load();
        let id = tls.as_ref().and_then(|it| HeaderValue::from_str(&it.credentials.identity.to_string()).ok());
        if let Some(id) = id {
            request.headers_mut().insert(WEIR_CLIENT_ID, id);
        }
    }
    (request, wire(client_http2, upstream.identity.is_some(), protocols))
}

/// How a request is written to its endpoint.
pub(super) fn wire(client_http2: bool, meshed: bool, protocols: [Protocol; 2]) -> Wire {
    if meshed || protocols.contains(&Protocol::Http2) {
        return Wire::Http2;
    }
    if client_http2 && !protocols.contains(&Protocol::Http1) { Wire::Http2 } else { Wire::Http1 }
}

/// What the endpoint's own sidecar says of a request that it could not serve. Only that sidecar can have said it: it removes the
/// header from what its application answers.
fn peer_fault(headers: &HeaderMap) -> Option<AttemptEnd> {
    let text = headers.get(WEIR_ERROR)?.to_str().ok()?;
    let reason = text.split(';').next()?;
    let not_processed = [Reason::ConnectFailed, Reason::ConnectTimeout, Reason::Overloaded];
    if not_processed.iter().any(|it| it.as_str() == reason) {
        return Some(AttemptEnd::NotProcessed);
    }
    (reason == Reason::UpstreamReset.as_str()).then_some(AttemptEnd::Broke)
}

/// Statuses by which a server says that it, or what stands behind it, is not well. A 500 is as often the request's fault.
const fn is_gateway_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

fn finish(pick: Option<Pick>, outcome: Outcome) {
    if let Some(pick) = pick {
        pick.finish(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_request_is_written_as_its_endpoint_understands_it() {
        let any = [Protocol::Detect, Protocol::Detect];
        for (client_http2, meshed, protocols, expected) in [
            (false, true, any, Wire::Http2),
            (true, true, any, Wire::Http2),
            (false, false, any, Wire::Http1),
            (true, false, any, Wire::Http2),
            (true, false, [Protocol::Http1, Protocol::Detect], Wire::Http1),
            (false, false, [Protocol::Detect, Protocol::Http2], Wire::Http2),
        ] {
            assert_eq!(wire(client_http2, meshed, protocols), expected, "{client_http2} {meshed} {protocols:?}");
        }
    }

    #[test]
    fn the_other_sidecar_says_whether_its_application_saw_the_request() {
        let said = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(WEIR_ERROR, HeaderValue::from_static(text));
            peer_fault(&headers)
        };
        assert_eq!(said("connect-failed; hop=inbound; detail=\"x\""), Some(AttemptEnd::NotProcessed));
        assert_eq!(said("upstream-reset; hop=inbound; detail=\"x\""), Some(AttemptEnd::Broke));
        assert_eq!(said("plaintext-refused; hop=inbound"), None);
        assert_eq!(peer_fault(&HeaderMap::new()), None);
    }
}

//! One request and its answer, from arrival to the last byte: timing, counting, and the bounds that outlive the headers.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus::IntCounter;
use tokio::time::Sleep;
use weir_core::balance::{FailureCause, Outcome};

use crate::body::BodyError;
use crate::cluster::Pick;
use crate::inbound::gate::Passage;
use crate::metrics::{ConnectionSeries, Labels, RequestSeries};
use crate::pool::Lease;
use crate::shared::Shared;
use crate::slots::Slot;

/// Where the requests of one combination of labels are counted, with the counters already looked up.
pub(crate) struct Series {
    labels: Labels,
    shared: Arc<Shared>,
    requests: RequestSeries,
    by_status: RefCell<Vec<(StatusCode, Option<u8>, IntCounter)>>,
}

impl Series {
    /// Looks the labels up. Slow; keep it.
    pub(crate) fn new(shared: &Arc<Shared>, labels: Labels) -> Self {
        let requests = shared.metrics.requests(&labels);
        Self { labels, shared: Arc::clone(shared), requests, by_status: RefCell::default() }
    }

    /// Whether this is where requests with these labels are counted.
    pub(crate) fn is_for(&self, labels: &LabelsRef<'_>) -> bool {
        self.labels.route.as_ref() == labels.route
            && self.labels.service.as_ref() == labels.service
            && match (&self.labels.peer, labels.peer) {
                (None, None) => true,
                (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs) || mine == theirs,
                _ => false,
            }
    }

    /// See [`Labels::service`].
    pub(crate) const fn service(&self) -> Option<&weir_core::names::ServiceRef> {
        self.labels.service.as_ref()
    }

    /// See [`Labels::route`].
    pub(crate) const fn route(&self) -> Option<&weir_core::route::RouteRef> {
        self.labels.route.as_ref()
    }

    /// The labels of the connection that a request may turn into.
    pub(crate) fn connection_labels(&self) -> Labels {
        Labels { route: None, ..self.labels.clone() }
    }

    /// The same labels for another peer.
    pub(crate) fn labels_with_peer(&self, peer: Option<Arc<weir_core::names::Identity>>) -> Labels {
        Labels { peer, ..self.labels.clone() }
    }

    /// Counts an attempt after the first.
    pub(crate) fn retried(&self) {
        self.requests.retries.inc();
    }

    fn ended(&self, status: StatusCode, grpc: Option<u8>, started: Instant) {
        self.requests.duration.observe(started.elapsed().as_secs_f64());
        let mut by_status = self.by_status.borrow_mut();
        if let Some((.., counter)) = by_status.iter().find(|(s, g, _)| *s == status && *g == grpc) {
            counter.inc();
            return;
        }
        let grpc_label = grpc.map(|code| code.to_string()).unwrap_or_default();
        let counter = self.shared.metrics.requests_with_status(&self.requests, status.as_str(), &grpc_label);
        counter.inc();
        // Statuses are numbers from 100 to 999 that the application chooses: the cache is bounded, the registry by the status
        // classes that applications really use.
        if by_status.len() < 64 {
            by_status.push((status, grpc, counter));
        }
    }
}

/// Borrowed [`Labels`], for looking up without cloning.
pub(crate) struct LabelsRef<'a> {
    /// See [`Labels::service`].
    pub(crate) service: Option<&'a weir_core::names::ServiceRef>,
    /// See [`Labels::route`].
    pub(crate) route: Option<&'a weir_core::route::RouteRef>,
    /// See [`Labels::peer`].
    pub(crate) peer: Option<&'a Arc<weir_core::names::Identity>>,
}

/// The series of one backend or one inbound port, found without hashing: there are few per place.
#[derive(Default)]
pub(crate) struct SeriesCache(RefCell<Vec<Rc<Series>>>);

/// Series kept per place. A callee with more callers than this looks some of them up anew, at the cost of a hash.
const MAX_CACHED: usize = 128;

impl SeriesCache {
    /// The series for these labels, made if it is not there.
    pub(crate) fn find(&self, labels: &LabelsRef<'_>, make: impl FnOnce() -> Series) -> Rc<Series> {
        let mut cache = self.0.borrow_mut();
        if let Some(found) = cache.iter().find(|series| series.is_for(labels)) {
            return Rc::clone(found);
        }
        let series = Rc::new(make());
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.push(Rc::clone(&series));
        series
    }
}

/// The series of opaque connections of one worker. A connection pays a short walk, which its handshake dwarfs.
pub(crate) struct ConnectionCache {
    shared: Arc<Shared>,
    known: RefCell<Vec<(Labels, ConnectionSeries)>>,
}

impl ConnectionCache {
    /// Empty.
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, known: RefCell::new(Vec::new()) }
    }

    /// The series for these labels, made if it is not there.
    pub(crate) fn find(&self, labels: &Labels) -> ConnectionSeries {
        let mut known = self.known.borrow_mut();
        if let Some((_, series)) = known.iter().find(|(it, _)| it == labels) {
            return series.clone();
        }
        let series = self.shared.metrics.connections(labels);
        if known.len() >= MAX_CACHED {
            known.clear();
        }
        known.push((labels.clone(), series.clone()));
        series
    }
}

/// Counts requests under way in one worker.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Rc<Cell<usize>>);

impl InFlight {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.get()
    }

    /// One more, for as long as the guard lives.
    pub(crate) fn enter(&self) -> InFlightGuard {
        self.0.set(self.0.get() + 1);
        InFlightGuard(Rc::clone(&self.0))
    }
}

/// A request under way.
pub(crate) struct InFlightGuard(Rc<Cell<usize>>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A request that is being served. Counted once, when it is dropped: with the answer's end, or when the client goes away.
pub(crate) struct Exchange {
    started: Instant,
    series: Option<Rc<Series>>,
    status: StatusCode,
    grpc: bool,
    grpc_status: Option<u8>,
    /// One of as many as may be under way, where that is limited. Boxed, because most requests have none and all carry the room
    /// for it.
    held: Option<Box<Held>>,
    _in_flight: InFlightGuard,
}

/// One of a number of requests that may be under way.
pub(crate) enum Held {
    /// To a backend.
    #[expect(dead_code, reason = "it is held, and dropped in the end")]
    Slot(Slot),
    /// At a port of the workload.
    Passage(Passage),
}

/// nginx's code for a client that went away before it was answered; never sent, only counted.
const CLIENT_CLOSED: u16 = 499;

impl Exchange {
    /// A request has arrived.
    pub(crate) fn begin(started: Instant, grpc: bool, in_flight: InFlightGuard) -> Self {
        let status = StatusCode::from_u16(CLIENT_CLOSED).unwrap_or(StatusCode::BAD_REQUEST);
        Self { started, series: None, status, grpc, grpc_status: None, held: None, _in_flight: in_flight }
    }

    /// Where it is counted. The last word wins: a retry may go to another backend.
    pub(crate) fn counted_in(&mut self, series: Rc<Series>) {
        self.series = Some(series);
    }

    /// It is one of those that may be under way, until it has ended.
    pub(crate) fn holds(&mut self, held: Held) {
        self.held = Some(Box::new(held));
    }

    /// Where it is counted, so far.
    pub(crate) const fn series(&self) -> Option<&Rc<Series>> {
        self.series.as_ref()
    }

    /// Whether something says where it is counted.
    pub(crate) const fn is_counted(&self) -> bool {
        self.series.is_some()
    }

    /// The answer's headers are there.
    pub(crate) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status;
        if let Some(Held::Passage(passage)) = self.held.as_deref_mut() {
            passage.answered(status);
        }
        self.read_grpc_status(headers);
    }

    fn read_grpc_status(&mut self, headers: &HeaderMap) {
        if self.grpc
            && let Some(value) = headers.get("grpc-status")
        {
            // The specification's codes end at 16; anything else is an application's mistake and counted as UNKNOWN.
            let code = value.to_str().ok().and_then(|text| text.parse::<u8>().ok());
            self.grpc_status = Some(code.filter(|code| *code <= 16).unwrap_or(2));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(series) = &self.series {
            series.ended(self.status, self.grpc_status, self.started);
        }
    }
}

/// An answer's body on its way to the client.
pub(crate) struct Tracked {
    incoming: Incoming,
    exchange: Option<Exchange>,
    /// The connection that the answer comes over; given back when it has ended.
    lease: Option<Lease>,
    /// The endpoint that gives it, and what its answer's head said of it.
    pick: Option<(Pick, Outcome)>,
    /// The end of the request's time, if it has one.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Called when the time is over.
    on_timeout: Option<Box<dyn FnOnce()>>,
}

impl Tracked {
    /// Follows an answer to its end.
    pub(crate) fn new(incoming: Incoming, exchange: Exchange, lease: Lease, pick: Option<(Pick, Outcome)>) -> Self {
        let (exchange, lease) = (Some(exchange), Some(lease));
        let mut tracked = Self { incoming, exchange, lease, pick, deadline: None, on_timeout: None };
        if tracked.incoming.is_end_stream() {
            tracked.finished();
        }
        tracked
    }

    /// Breaks the answer off when the request's time is over.
    pub(crate) fn until(mut self, deadline: tokio::time::Instant, on_timeout: impl FnOnce() + 'static) -> Self {
        if self.lease.is_some() {
            self.deadline = Some(Box::pin(tokio::time::sleep_until(deadline)));
            self.on_timeout = Some(Box::new(on_timeout));
        }
        self
    }

    /// The answer is complete: the connection is free for the next request.
    fn finished(&mut self) {
        self.exchange = None;
        self.deadline = None;
        if let Some(lease) = self.lease.take() {
            lease.release();
        }
        if let Some((pick, outcome)) = self.pick.take() {
            pick.finish(outcome);
        }
    }

    /// The answer will never be complete.
    fn broken(&mut self, cause: FailureCause) {
        self.exchange = None;
        self.lease = None;
        if let Some((pick, _)) = self.pick.take() {
            pick.finish(Outcome::Failure(cause));
        }
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            if let Some(report) = self.on_timeout.take() {
                report();
            }
            self.broken(FailureCause::Timeout);
            return Poll::Ready(Some(Err("the request's time is over".into())));
        }
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match &frame {
            None => self.finished(),
            Some(Ok(frame)) => {
                if let (Some(trailers), Some(exchange)) = (frame.trailers_ref(), &mut self.exchange) {
                    exchange.read_grpc_status(trailers);
                }
                if self.incoming.is_end_stream() {
                    self.finished();
                }
            }
            Some(Err(_)) => self.broken(FailureCause::Reset),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

//! Connections of one worker to one endpoint.
//!
//! A meshed endpoint is reached over one mutually authenticated HTTP/2 connection that all requests share (more when it is
//! crowded); any other over pooled HTTP/1.1 connections or HTTP/2 with prior knowledge, as the service speaks. Nothing here is
//! shared between workers. Where a policy says so, such an endpoint is reached by TLS ([`outside`]).

mod connect;
mod http1;
mod http2;
mod outside;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use weir_core::backend_tls::BackendTls;
use weir_core::names::Identity;
use weir_core::policy::{BackendPolicy, Connections};

pub(crate) use connect::TcpUpstream;
pub(crate) use http1::Http1Lease;
pub(crate) use http2::Http2Lease;

use crate::body::RequestBody;
use crate::fault::{Fault, Reason};
use crate::shared::Shared;

/// How requests are written to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1, one request at a time on a connection.
    Http1,
    /// HTTP/2: over mutual TLS where the endpoint is meshed, else with prior knowledge.
    Http2,
}

/// An endpoint and the connections to it.
pub(crate) struct Upstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Who must answer; `None` for an endpoint outside the mesh, and for the workload's own application.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Whether this is the workload's own application, which is reached past its inbound side.
    pub(crate) own: bool,
    keeping: Cell<Keeping>,
    shared: Arc<Shared>,
    tls: RefCell<connect::ClientTls>,
    /// TLS that a policy wants; only where there is no identity.
    outside: Option<outside::Outside>,
    http1: http1::Pool,
    http2: http2::Pool,
}

/// How a TrafficPolicy wants connections kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keeping {
    connections: Connections,
    streams: Option<u32>,
}

impl Keeping {
    /// As this policy says.
    pub(crate) fn of(policy: &BackendPolicy) -> Self {
        Self { connections: policy.connections, streams: policy.limits.streams }
    }

    /// Whether a connection that was opened then takes no more requests.
    fn is_old(&self, opened: Instant, now: Instant) -> bool {
        self.connections.max_age.is_some_and(|max| now.saturating_duration_since(opened) >= max)
    }
}

/// Why there is no answer.
pub(crate) enum SendError {
    /// The endpoint has provably not seen the request; it comes back for another attempt.
    NotProcessed(Fault),
    /// The same, because a connection that was kept had been closed. It says nothing of the endpoint, and another connection may
    /// be tried at once; there are only so many that were kept.
    Stale(Fault),
    /// Some of the request was sent; whether it was processed nobody knows.
    Broke(Fault),
}

impl SendError {
    /// What the client is told.
    pub(crate) fn into_fault(self) -> Fault {
        match self {
            Self::NotProcessed(fault) | Self::Stale(fault) | Self::Broke(fault) => fault,
        }
    }
}

/// The connection that an answer comes over. Dropping it early gives the connection up (HTTP/1.1) or resets the stream (HTTP/2).
pub(crate) enum Lease {
    /// One request at a time.
    Http1(Http1Lease),
    /// A stream among others.
    Http2(Http2Lease),
}

impl Lease {
    /// The answer is complete.
    pub(crate) fn release(self) {
        match self {
            Self::Http1(lease) => lease.release(),
            Self::Http2(lease) => drop(lease),
        }
    }
}

/// An answer's head, its body still to come.
pub(crate) struct Answer {
    /// The answer.
    pub(crate) response: Response<Incoming>,
    /// Its connection.
    pub(crate) lease: Lease,
}

impl Upstream {
    /// An endpoint without connections.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        address: SocketAddr,
        identity: Option<Arc<Identity>>,
        tls: Option<&Arc<BackendTls>>,
    ) -> Rc<Self> {
        let own = identity.is_some() && shared.settings.is_own_application(address);
        Rc::new(Self {
            address,
            outside: tls.filter(|_| identity.is_none()).map(outside::Outside::new),
            identity: identity.filter(|_| !own),
            own,
            keeping: Cell::default(),
            shared: Arc::clone(shared),
            tls: RefCell::default(),
            http1: http1::Pool::default(),
            http2: http2::Pool::default(),
        })
    }

    /// How its connections are to be kept from now on.
    pub(crate) fn keep(&self, keeping: Keeping) {
        self.keeping.set(keeping);
    }

    /// Sends a request and waits for the answer's head. The request's URI is absolute with scheme `http`. Cancelling resets the
    /// stream, or closes the connection where requests do not share it.
    ///
    /// # Errors
    ///
    /// Whether the endpoint can have seen the request decides which of the two it is.
    pub(crate) async fn send(self: &Rc<Self>, request: Request<RequestBody>, wire: Wire) -> Result<Answer, SendError> {
        match wire {
            Wire::Http1 => http1::send(self, request).await,
            Wire::Http2 => http2::send(self, request).await,
        }
    }

    /// Closes connections that nothing has used for a while.
    pub(crate) fn sweep(&self, now: Instant) {
        self.http1.sweep(self.keeping.get(), now);
        self.http2.sweep(self.keeping.get(), now);
    }

    /// Names the endpoint in messages.
    pub(crate) fn describe(&self) -> String {
        match &self.identity {
            Some(identity) => format!("{} ({identity})", self.address),
            None => self.address.to_string(),
        }
    }

    fn broke(&self, error: &hyper::Error) -> SendError {
        let reason = if error.is_parse() { Reason::BadResponse } else { Reason::UpstreamReset };
        SendError::Broke(Fault::new(reason, format!("{}: {}", self.describe(), root_cause(error))))
    }
}

/// The innermost message of an error, which says most.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Whether the endpoint said that it has not processed the request (RFC 9113, section 8.7): the stream was refused, or lies
/// beyond the last one that a graceful GOAWAY covers.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            let refused = h2.is_reset() && h2.is_remote() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
            let beyond = h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR);
            return refused || beyond;
        }
        cause = error.source();
    }
    false
}

/// Marks a request that its client wrote in HTTP/1, so that the other sidecar writes it so again. Between sidecars only.
pub(crate) const WEIR_PROTO: http::HeaderName = http::HeaderName::from_static("weir-proto");

/// The value of [`WEIR_PROTO`].
pub(crate) const PROTO_HTTP1: HeaderValue = HeaderValue::from_static("1");

/// The application's status where an extended CONNECT cannot carry it: a success that is no upgrade. Between sidecars only.
pub(crate) const WEIR_STATUS: http::HeaderName = http::HeaderName::from_static("weir-status");

//! Every way in which the mesh itself fails a request, in one closed list.
//!
//! One [`Fault`] gives the HTTP status, the gRPC status, the `weir-error` header, the metric label and the log field, each by an
//! exhaustive match, so that they cannot disagree. `docs/ERRORS.md` has cause and fix for each.

use std::borrow::Cow;
use std::fmt;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use weir_core::authz::Denied;

use crate::body::Body;

/// Carries the reason on every answer that the mesh made.
pub(crate) const WEIR_ERROR: HeaderName = HeaderName::from_static("weir-error");

/// Which side of the mesh failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hop {
    /// The caller's sidecar.
    Outbound,
    /// The callee's sidecar.
    Inbound,
}

impl Hop {
    /// As label and in `weir-error`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// The request has no usable target.
    BadRequest,
    /// The client broke off in the middle of its body.
    ClientAborted,
    /// No such service, and no such host.
    UnknownDestination,
    /// The service has no such port.
    UnknownPort,
    /// The control plane has not said yet what this destination is.
    NoConfiguration,
    /// Routes are attached and none matches.
    NoRoute,
    /// The rule that matched cannot be honoured.
    InvalidRoute,
    /// The backend that was chosen does not exist.
    InvalidBackend,
    /// The backend has no ready endpoint.
    NoEndpoint,
    /// This proxy has no certificate yet.
    NoCertificate,
    /// The endpoint did not accept the connection.
    ConnectFailed,
    /// The endpoint did not answer the connection attempt in time.
    ConnectTimeout,
    /// Mutual TLS with the endpoint failed.
    MtlsFailed,
    /// The endpoint took the request and broke off before its answer began.
    UpstreamReset,
    /// The answer broke off, or is no HTTP.
    BadResponse,
    /// The route's request timeout.
    RequestTimeout,
    /// The route's timeout of a single attempt.
    BackendRequestTimeout,
    /// Too much is under way.
    Overloaded,
    /// The request would come back to this proxy.
    Loop,
    /// The upgrade could not be completed.
    UpgradeFailed,
    /// Plaintext where policy asks for mutual TLS.
    PlaintextRefused,
    /// The peer's identity is of another trust domain.
    ForeignTrustDomain,
    /// The peer's identity cannot be judged before the control plane has said which trust domain is ours.
    TrustDomainUnknown,
    /// The bytes on a connection are not what its port speaks.
    NotHttp,
    /// A peer's TLS handshake failed.
    HandshakeFailed,
    /// The connection said nothing for too long.
    DetectTimeout,
}

impl Reason {
    /// All of them, for the metrics' bound and the documentation's test.
    pub(crate) const ALL: [Self; 26] = [
        Self::BadRequest,
        Self::ClientAborted,
        Self::UnknownDestination,
        Self::UnknownPort,
        Self::NoConfiguration,
        Self::NoRoute,
        Self::InvalidRoute,
        Self::InvalidBackend,
        Self::NoEndpoint,
        Self::NoCertificate,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::MtlsFailed,
        Self::UpstreamReset,
        Self::BadResponse,
        Self::RequestTimeout,
        Self::BackendRequestTimeout,
        Self::Overloaded,
        Self::Loop,
        Self::UpgradeFailed,
        Self::PlaintextRefused,
        Self::ForeignTrustDomain,
        Self::TrustDomainUnknown,
        Self::NotHttp,
        Self::HandshakeFailed,
        Self::DetectTimeout,
    ];

    /// As in `weir-error`, metrics and logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::ClientAborted => "client-aborted",
            Self::UnknownDestination => "unknown-destination",
            Self::UnknownPort => "unknown-port",
            Self::NoConfiguration => "no-configuration",
            Self::NoRoute => "no-route",
            Self::InvalidRoute => "invalid-route",
            Self::InvalidBackend => "invalid-backend",
            Self::NoEndpoint => "no-endpoint",
            Self::NoCertificate => "no-certificate",
            Self::ConnectFailed => "connect-failed",
            Self::ConnectTimeout => "connect-timeout",
            Self::MtlsFailed => "mtls-failed",
            Self::UpstreamReset => "upstream-reset",
            Self::BadResponse => "bad-response",
            Self::RequestTimeout => "request-timeout",
            Self::BackendRequestTimeout => "backend-request-timeout",
            Self::Overloaded => "overloaded",
            Self::Loop => "loop",
            Self::UpgradeFailed => "upgrade-failed",
            Self::PlaintextRefused => "plaintext-refused",
            Self::ForeignTrustDomain => "foreign-trust-domain",
            Self::TrustDomainUnknown => "trust-domain-unknown",
            Self::NotHttp => "not-http",
            Self::HandshakeFailed => "handshake-failed",
            Self::DetectTimeout => "detect-timeout",
        }
    }

    /// The HTTP status of the answer.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::ClientAborted | Self::NotHttp => StatusCode::BAD_REQUEST,
            Self::PlaintextRefused | Self::ForeignTrustDomain | Self::TrustDomainUnknown => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::DetectTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::InvalidRoute | Self::InvalidBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ConnectFailed
            | Self::MtlsFailed
            | Self::HandshakeFailed
            | Self::UpstreamReset
            | Self::BadResponse
            | Self::UpgradeFailed => StatusCode::BAD_GATEWAY,
            Self::UnknownDestination
            | Self::UnknownPort
            | Self::NoConfiguration
            | Self::NoEndpoint
            | Self::NoCertificate
            | Self::Overloaded
            | Self::Loop => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout | Self::RequestTimeout | Self::BackendRequestTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The gRPC status of the answer, as the gRPC specification numbers them.
    pub(crate) const fn grpc_status(self) -> u8 {
        match self {
            Self::BadRequest | Self::NotHttp => 13,
            Self::ClientAborted => 1,
            Self::PlaintextRefused | Self::ForeignTrustDomain | Self::TrustDomainUnknown => 7,
            Self::NoRoute => 12,
            Self::ConnectTimeout | Self::RequestTimeout | Self::BackendRequestTimeout | Self::DetectTimeout => 4,
            Self::Overloaded => 8,
            Self::UnknownDestination
            | Self::UnknownPort
            | Self::NoConfiguration
            | Self::InvalidRoute
            | Self::InvalidBackend
            | Self::NoEndpoint
            | Self::NoCertificate
            | Self::ConnectFailed
            | Self::MtlsFailed
            | Self::HandshakeFailed
            | Self::UpstreamReset
            | Self::BadResponse
            | Self::Loop
            | Self::UpgradeFailed => 14,
        }
    }
}

/// A failure, with what is known about it.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// What went wrong.
    pub(crate) reason: Reason,
    /// A sentence for the operator: which thing, what it said.
    pub(crate) detail: Cow<'static, str>,
}

/// The longest detail that is sent. Details quote names and system errors, never bodies; the bound is for names made to be long.
const MAX_DETAIL: usize = 400;

impl Fault {
    /// A failure.
    pub(crate) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The value of `weir-error`.
    fn header(&self, hop: Hop) -> HeaderValue {
        let detail: String = self
            .detail
            .chars()
            .map(|c| {
                if c == '"' || c == '\\' {
                    '\''
                } else if c.is_ascii_graphic() || c == ' ' {
                    c
                } else {
                    '?'
                }
            })
            .take(MAX_DETAIL)
            .collect();
        let text = format!("{}; hop={}; detail=\"{detail}\"", self.reason.as_str(), hop.as_str());
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(self.reason.as_str()))
    }

    /// The answer that tells the client. A gRPC client gets a 200 without a body that carries the status in its headers
    /// ("Trailers-Only" in the gRPC protocol), because it looks nowhere else.
    pub(crate) fn response(&self, hop: Hop, grpc: bool) -> Response<Body> {
        if grpc { self.grpc_response(hop) } else { self.http_response(hop) }
    }

    fn http_response(&self, hop: Hop) -> Response<Body> {
        let text = format!("weir: {}: {}\n", self.reason.as_str(), self.detail);
        let mut response = Response::new(Body::full(text));
        *response.status_mut() = self.reason.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().insert(WEIR_ERROR, self.header(hop));
        response
    }

    fn grpc_response(&self, hop: Hop) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(self.reason.grpc_status())));
        let message = percent_encode(&format!("weir: {}: {}", self.reason.as_str(), self.detail));
        if let Ok(value) = HeaderValue::try_from(message) {
            headers.insert("grpc-message", value);
        }
        headers.insert(WEIR_ERROR, self.header(hop));
        response
    }
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        let reason = match &denied {
            Denied::PlaintextRefused { .. } => Reason::PlaintextRefused,
            Denied::ForeignTrustDomain { .. } => Reason::ForeignTrustDomain,
            Denied::TrustDomainUnknown { .. } => Reason::TrustDomainUnknown,
        };
        Self::new(reason, denied.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.detail)
    }
}

/// Whether a request is gRPC, by its content type (`application/grpc`, `application/grpc+proto`, `application/grpc-web` …).
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// `grpc-message` is percent-encoded: everything outside printable ASCII, and `%`.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes().take(MAX_DETAIL * 2) {
        match byte {
            b'%' => out.push_str("%25"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_a_name_of_its_own_and_an_error_status() {
        let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.status().as_u16() >= 400, "{reason:?}");
            assert!((1..=16).contains(&reason.grpc_status()), "{reason:?}");
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{reason:?}");
        }
    }

    #[test]
    fn what_a_client_wrote_cannot_break_out_of_the_header() {
        let fault = Fault::new(Reason::UnknownDestination, "a\r\nset-cookie: x=\"1\"\u{1f980}");
        let response = fault.response(Hop::Outbound, false);
        assert_eq!(response.headers()["weir-error"], "unknown-destination; hop=outbound; detail=\"a??set-cookie: x='1'?\"");
    }

    #[test]
    fn grpc_clients_get_their_status_in_a_200() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        let response = Fault::new(Reason::NoEndpoint, "50 % down").response(Hop::Outbound, is_grpc(&headers));
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "weir: no-endpoint: 50 %25 down");
    }

    #[test]
    fn every_reason_is_explained_in_the_documentation() {
        let docs = include_str!("../../docs/ERRORS.md");
        for reason in Reason::ALL {
            assert!(docs.contains(&format!("`{}`", reason.as_str())), "docs/ERRORS.md does not explain {}", reason.as_str());
        }
    }
}

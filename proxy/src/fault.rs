//! Every way in which the mesh itself fails a request, in one closed list.
//!
//! The list is [`Reason`], in the core. One [`Fault`] gives the HTTP status, the gRPC status, the `weir-error` header, the metric
//! label and the log field, each by an exhaustive match, so that they cannot disagree. `docs/ERRORS.md` has cause and fix for each.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use weir_core::authz::Denied;
pub(crate) use weir_core::reason::Reason;
use weir_core::reason::grpc_status_of;

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

/// A failure, with what is known about it.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// What went wrong.
    pub(crate) reason: Reason,
    /// A sentence for the operator: which thing, what it said.
    pub(crate) detail: Cow<'static, str>,
    /// The status, where it is not the reason's.
    status: Option<StatusCode>,
    /// When another request will pass.
    retry_after: Option<Duration>,
}

/// The longest detail that is sent. Details quote names and system errors, never bodies; the bound is for names made to be long.
const MAX_DETAIL: usize = 400;

impl Fault {
    /// A failure.
    pub(crate) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into(), status: None, retry_after: None }
    }

    /// A failure that a policy wants.
    pub(crate) fn injected(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status: Some(status), ..Self::new(Reason::FaultInjected, detail) }
    }

    /// A rate limit that is used up for this long.
    pub(crate) fn rate_limited(wait: Duration, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(wait), ..Self::new(Reason::RateLimited, detail) }
    }

    /// The value of `weir-error`.
    pub(crate) fn header(&self, hop: Hop) -> HeaderValue {
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
        *response.status_mut() = self.status.unwrap_or_else(|| self.reason.status());
        if let Some(wait) = self.retry_after {
            // In whole seconds (RFC 9110, section 10.2.3), and never too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().insert(WEIR_ERROR, self.header(hop));
        response
    }

    fn grpc_response(&self, hop: Hop) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let status = self.status.map_or_else(|| self.reason.grpc_status(), grpc_status_of);
        headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
        if let Some(wait) = self.retry_after {
            // gRPC's own word for it (gRFC A6).
            let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
            headers.insert("grpc-retry-pushback-ms", HeaderValue::from(milliseconds));
        }
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
        assert_eq!(response.status(), http::StatusCode::OK);
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

//! Why the mesh itself answers a request, or closes a connection: one closed list.
//!
//! `docs/ERRORS.md` has cause and fix for each.

use http::StatusCode;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request has no usable target.
    BadRequest,
    /// The request's head is over the bound.
    HeadersTooLarge,
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
    /// TLS with an endpoint outside the mesh failed, which a policy asks for.
    BackendTlsFailed,
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
    /// A policy's rate limit is used up.
    RateLimited,
    /// A policy wants this failure.
    FaultInjected,
    /// One more attempt was due, and a policy's retry budget is spent.
    RetryBudget,
}

impl Reason {
    /// All of them, for the metrics' bound and the documentation's test.
    pub const ALL: [Self; 31] = [
        Self::BadRequest,
        Self::HeadersTooLarge,
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
        Self::BackendTlsFailed,
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
        Self::RateLimited,
        Self::FaultInjected,
        Self::RetryBudget,
    ];

    /// As in `weir-error`, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::HeadersTooLarge => "headers-too-large",
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
            Self::BackendTlsFailed => "backend-tls-failed",
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
            Self::RateLimited => "rate-limited",
            Self::FaultInjected => "fault-injected",
            Self::RetryBudget => "retry-budget",
        }
    }

    /// The HTTP status of the answer; of an injected fault what it is where its policy says nothing.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::ClientAborted | Self::NotHttp => StatusCode::BAD_REQUEST,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::PlaintextRefused | Self::ForeignTrustDomain | Self::TrustDomainUnknown => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::DetectTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::InvalidRoute | Self::InvalidBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ConnectFailed
            | Self::MtlsFailed
            | Self::BackendTlsFailed
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
            | Self::FaultInjected
            | Self::RetryBudget
            | Self::Loop => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout | Self::RequestTimeout | Self::BackendRequestTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The gRPC status of the answer, as the gRPC specification numbers them.
    #[must_use]
    pub const fn grpc_status(self) -> u8 {
        match self {
            Self::BadRequest | Self::NotHttp => 13,
            Self::ClientAborted => 1,
            Self::PlaintextRefused | Self::ForeignTrustDomain | Self::TrustDomainUnknown => 7,
            Self::NoRoute => 12,
            Self::ConnectTimeout | Self::RequestTimeout | Self::BackendRequestTimeout | Self::DetectTimeout => 4,
            Self::Overloaded | Self::HeadersTooLarge | Self::RateLimited => 8,
            Self::UnknownDestination
            | Self::UnknownPort
            | Self::NoConfiguration
            | Self::InvalidRoute
            | Self::InvalidBackend
            | Self::NoEndpoint
            | Self::NoCertificate
            | Self::ConnectFailed
            | Self::MtlsFailed
            | Self::BackendTlsFailed
            | Self::HandshakeFailed
            | Self::UpstreamReset
            | Self::BadResponse
            | Self::Loop
            | Self::FaultInjected
            | Self::RetryBudget
            | Self::UpgradeFailed => 14,
        }
    }
}

/// The gRPC status that stands for an HTTP status, as the gRPC project maps them ("HTTP to gRPC Status Code Mapping").
#[must_use]
pub const fn grpc_status_of(status: StatusCode) -> u8 {
    match status {
        StatusCode::BAD_REQUEST => 13,
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND => 12,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => 14,
        _ => 2,
    }
}

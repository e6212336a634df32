//! What a rule does to its requests and answers.
//!
//! A filter is applied or the request is refused; it is never skipped. What can be known beforehand is said by [`check`], so
//! that a route with such a filter is refused where it is written; [`apply_request`] finds the rest, and is safe without it.

pub mod cors;
mod headers;
mod uri;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::model::Filter;

/// What filters need to know of a request beside its head.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    /// How much of the path the matched prefix is, from [`Found::prefix_len`](super::Found::prefix_len).
    pub prefix_len: usize,
    /// The scheme that the client used: `http` or `https`.
    pub scheme: &'a str,
    /// The port that the client dialled.
    pub dialled_port: u16,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a redirect has to be answered, and a refused request must not go on"]
pub enum RequestOutcome {
    /// It goes to a backend.
    Continue,
    /// It is answered with a redirect.
    Redirect {
        /// The answer's status.
        status: StatusCode,
        /// The answer's `Location`: an absolute URI.
        location: HeaderValue,
    },
    /// A filter cannot be applied to it. The request may have been changed in part and must not be sent on: it is answered
    /// with 500, as are those of a rule that is invalid.
    Refused(Unapplicable),
}

/// Why a filter cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unapplicable {
    /// The connection's headers are not a route's.
    #[error("header `{0}` belongs to the connection or to the message's framing and cannot be changed by a route")]
    ConnectionHeader(HeaderName),
    /// A request has exactly one host.
    #[error("a request has exactly one Host: set it, or use a hostname rewrite; it cannot be added to or removed")]
    Host,
    /// Not a host.
    #[error("`{0}` is not a host name")]
    Hostname(String),
    /// Not a scheme that a redirect can name.
    #[error("`{0}` is not a scheme that can be redirected to: write http or https")]
    Scheme(String),
    /// More than a path.
    #[error("`{0}` is not a path: `?` and `#` cannot stand in one")]
    Path(String),
    /// The rule replaces a prefix and was not matched by one.
    #[error("a prefix of the path is to be replaced and the request's path does not begin with it; match by PathPrefix")]
    NoPrefix,
    /// A redirect without a hostname repeats the request's, and there is none.
    #[error("the request names no host to redirect to; give the redirect a hostname")]
    NoHost,
    /// The result is too long for a URI.
    #[error("the new path is too long for a URI")]
    TooLong,
}

/// Whether a filter can be applied at all.
///
/// # Errors
///
/// The first thing in it that can never be applied.
pub fn check(filter: &Filter) -> Result<(), Unapplicable> {
    match filter {
        Filter::RequestHeaders(changes) => headers::check_request(changes),
        Filter::ResponseHeaders(changes) => headers::check(changes),
        Filter::Redirect(redirect) => uri::check_redirect(redirect),
        Filter::Rewrite(rewrite) => uri::check_rewrite(rewrite),
        Filter::Cors(_) => Ok(()),
    }
}

/// Applies the request's side of filters in their order. Those of a backend are applied in a call of their own, after the
/// rule's.
pub fn apply_request(filters: &[Filter], parts: &mut Parts, context: RequestContext<'_>) -> RequestOutcome {
    for filter in filters {
        let applied = match filter {
            Filter::RequestHeaders(changes) => headers::change_request(changes, parts),
            // Nothing can be refused once there is an answer, so it is done here.
            Filter::ResponseHeaders(changes) => headers::check(changes),
            Filter::Redirect(redirect) => match uri::location(redirect, parts, context) {
                Ok(location) => return RequestOutcome::Redirect { status: redirect.status, location },
                Err(error) => Err(error),
            },
            Filter::Rewrite(rewrite) => uri::rewrite(rewrite, parts, context.prefix_len),
            // Decided once for the rule, before everything else: see [`sharing`].
            Filter::Cors(_) => Ok(()),
        };
        if let Err(error) = applied {
            return RequestOutcome::Refused(error);
        }
    }
    RequestOutcome::Continue
}

/// What cross-origin sharing makes of a request, before any other filter has changed it.
#[must_use]
pub fn sharing(filters: &[Filter], parts: &Parts) -> cors::Sharing {
    let cors = filters.iter().find_map(|filter| if let Filter::Cors(cors) = filter { Some(cors) } else { None });
    cors.map_or_else(|| cors::Sharing::Actual(cors::Grant::default()), |cors| cors.decide(parts))
}

/// Applies the answer's side of filters in their order. Redirects that a filter made go through it too.
pub fn apply_response(filters: &[Filter], headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::ResponseHeaders(changes) = filter {
            headers::change(changes, headers);
        }
    }
}

//! What a route says, as values that cannot be wrong.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::filter::cors::Cors;
use super::mirror::Mirror;
use crate::names::{BackendRef, Label, ObjectName};
use crate::session::Session;

/// Which kind of route an object is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// `HTTPRoute`.
    #[default]
    Http,
    /// `GRPCRoute`.
    Grpc,
    /// `TLSRoute`.
    Tls,
    /// `TCPRoute`.
    Tcp,
}

impl RouteKind {
    /// All of them. Where several kinds are attached to one port, the first of these has it (GEP-1294 and the Gateway API's
    /// order: the most specific protocol wins).
    pub const BY_PRECEDENCE: [Self; 4] = [Self::Grpc, Self::Http, Self::Tls, Self::Tcp];

    /// The kind as Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }

    /// Whether requests are routed one by one, not connections.
    #[must_use]
    pub const fn routes_requests(self) -> bool {
        matches!(self, Self::Http | Self::Grpc)
    }
}

/// Names a route object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteRef {
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace.
    pub namespace: Label,
    /// Its name.
    pub name: ObjectName,
}

impl fmt::Display for RouteRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One rule of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRule {
    /// The route it is part of.
    pub route: RouteRef,
    /// Its position there, from 0.
    pub index: u32,
    /// Its own name, empty if it has none.
    pub name: Arc<str>,
    /// When the route was created, in seconds since 1970 (UTC).
    pub created_seconds: i64,
    /// Any of these; none at all is the prefix `/`.
    pub matches: Vec<HttpMatch>,
    /// Applied in this order.
    pub filters: Vec<Filter>,
    /// Who gets copies of its requests, as the filters have changed them.
    pub mirrors: Vec<Mirror>,
    /// Who gets its requests.
    pub backends: Vec<WeightedBackend>,
    /// How long a request may take.
    pub timeouts: Timeouts,
    /// Retries beyond those that are always safe.
    pub retry: Option<RetryPolicy>,
    /// Whether requests that belong together go to one endpoint. Where it says so, what the backends say does not count.
    pub session: Option<Session>,
    /// Set when the rule cannot be honoured: its requests are answered with 500 and this reason, never served without it.
    pub invalid: Option<Arc<str>>,
}

/// All of these must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpMatch {
    /// The path.
    pub path: PathMatch,
    /// Headers; each must match.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters; each must match.
    pub query: Vec<QueryMatch>,
    /// The method, if one is asked for.
    pub method: Option<Method>,
}

/// How the path is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// Equal, case and all.
    Exact(Arc<str>),
    /// Whole segments: `/v2` matches `/v2`, `/v2/` and `/v2/x`, not `/v2x`.
    Prefix(Arc<str>),
    /// The whole path matches.
    Regex(Pattern),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".into())
    }
}

/// A header and the value it must have.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// Names are compared without case.
    pub name: HeaderName,
    /// The value.
    pub value: ValueMatch,
}

/// A query parameter and the value it must have. Of parameters with one name only the first counts.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryMatch {
    /// Names are compared with case.
    pub name: Arc<str>,
    /// The value.
    pub value: ValueMatch,
}

/// How a value is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatch {
    /// Equal.
    Exact(Arc<str>),
    /// The whole value matches.
    Regex(Pattern),
}

/// A regular expression (RE2 syntax, matched in linear time) over a whole text.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: Arc<str>,
    regex: regex::Regex,
}

/// A regular expression may compile to this much, in bytes. Enough for any real pattern, and a bound against those that are
/// written to exhaust memory.
const MAX_PATTERN_SIZE: usize = 256 * 1024;

impl Pattern {
    /// Compiles it.
    ///
    /// # Errors
    ///
    /// What is wrong with the expression, in words.
    pub fn new(source: &str) -> Result<Self, InvalidPattern> {
        let compile = |text: &str| {
            let built = regex::RegexBuilder::new(text).size_limit(MAX_PATTERN_SIZE).build();
            built.map_err(|error| InvalidPattern { source_text: source.into(), reason: error.to_string() })
        };
        // By itself first: `a)|(?:b` would be an expression between the parentheses, and match parts of a text.
        compile(source)?;
        Ok(Self { source: source.into(), regex: compile(&format!("^(?:{source})$"))? })
    }

    /// Whether all of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// A regular expression that does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the regular expression `{source_text}` is not valid: {reason}")]
pub struct InvalidPattern {
    /// The expression.
    pub source_text: String,
    /// What is wrong.
    pub reason: String,
}

/// What a rule does to its requests and answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Changes the request's headers.
    RequestHeaders(HeaderChanges),
    /// Changes the answer's headers.
    ResponseHeaders(HeaderChanges),
    /// Answers with a redirect; no backend is asked.
    Redirect(Redirect),
    /// Changes host and path on the way to the backend.
    Rewrite(Rewrite),
    /// Says which other origins may read the answers, and answers preflights.
    Cors(Cors),
}

/// Changes of a header map: first set, then add, then remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Overwritten or created.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appended to what is there, joined by `,`.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}

/// A redirect. What is `None` stays as the request had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// Host.
    pub hostname: Option<Arc<str>>,
    /// Path.
    pub path: Option<PathChange>,
    /// Port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// A rewrite. What is `None` stays as the request had it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Host.
    pub hostname: Option<Arc<str>>,
    /// Path.
    pub path: Option<PathChange>,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// In place of all of it.
    Full(Arc<str>),
    /// In place of the prefix that matched.
    Prefix(Arc<str>),
}

/// A backend and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// The service port.
    pub backend: BackendRef,
    /// Its share is this over the sum of all; 0 takes none.
    pub weight: u32,
    /// Applied after the rule's own.
    pub filters: Vec<Filter>,
    /// Who gets copies of its share, beside the rule's mirrors.
    pub mirrors: Vec<Mirror>,
    /// How its requests that belong together go to one endpoint, where the rule says nothing of that.
    pub session: Option<Arc<Session>>,
    /// Set when the reference is invalid: its share is answered with 500 and this reason.
    pub invalid: Option<Arc<str>>,
}

/// How long things may take. `None`: as long as they like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's arrival to the answer's end, retries included.
    pub request: Option<Duration>,
    /// One attempt.
    pub backend_request: Option<Duration>,
}

/// Retries that a route asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Statuses worth another attempt.
    pub codes: Vec<StatusCode>,
    /// Retries after the first attempt.
    pub attempts: u32,
    /// Least wait before a retry.
    pub backoff: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_text_or_is_refused() {
        let matches = |source: &str, text: &str| Pattern::new(source).unwrap().matches(text);
        assert!(matches("a|b", "b") && !matches("a|b", "ab") && !matches("a|b", "b\n"));
        assert!(matches("(?i)A", "a") && !matches("(?m)a", "a\nb"));
        for bad in ["a)|(?:b", "(", "[", "a{1000}{1000}"] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
    }
}

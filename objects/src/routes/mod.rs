//! Routes, judged by what they say alone.
//!
//! What comes in is a route as it is written; what goes out is a [`Route`]: rules as values that cannot be wrong, and a
//! [`RouteProblem`] for everything that could not be made one. Whether the Services that it names exist is asked later, in
//! the control plane, because that changes while the route stays the same.

mod backend;
pub(crate) mod duration;
mod filter;
mod grpc;
mod http;
mod matching;
mod parent;
mod session;
mod stream;

use std::sync::Arc;

use weir_core::names::BackendRef;
use weir_core::route::{Filter, HeaderMatch, HostPattern, HttpMatch, RetryPolicy, RouteKind, RouteRef, Share, Timeouts};
use weir_core::session::Session;

pub use grpc::grpc;
pub use http::http;
pub use parent::{Parent, parent_text};
pub(crate) use session::shared_session;
pub use stream::{tcp, tls};

use crate::reader::Reader;
use crate::{FieldPath, KeyValueMatchSpec, Kind, ObjectKey, ParentRefSpec, Problem};

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Kind, namespace and name.
    pub key: RouteRef,
    /// Seconds since 1970 (UTC): the older route wins a tie.
    pub created_seconds: i64,
    /// `metadata.generation`.
    pub generation: i64,
    /// The Services that it is attached to.
    pub parents: Vec<Parent>,
    /// The names that a TLSRoute is for; of the others none.
    pub hostnames: Vec<HostPattern>,
    /// Its rules, without those that can match nothing.
    pub rules: Vec<Rule>,
    /// How many rules were written.
    pub rules_written: usize,
    /// What is not honoured.
    pub problems: Vec<RouteProblem>,
}

/// A rule of a [`Route`].
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its position in the route, from 0.
    pub index: usize,
    /// Its name, empty if it has none.
    pub name: Arc<str>,
    /// Any of these; none at all is the prefix `/`.
    pub matches: Vec<HttpMatch>,
    /// Applied in this order.
    pub filters: Vec<Filter>,
    /// Who gets copies of its requests.
    pub mirrors: Vec<RouteMirror>,
    /// Who gets its requests.
    pub backends: Vec<RouteBackend>,
    /// How long a request may take.
    pub timeouts: Timeouts,
    /// Retries beyond those that are always safe.
    pub retry: Option<RetryPolicy>,
    /// Whether requests that belong together go to one endpoint.
    pub session: Option<Session>,
    /// Why its requests are answered with 500.
    pub invalid: Option<Arc<str>>,
}

/// A backend of a [`Rule`].
#[derive(Clone, Debug, PartialEq)]
pub struct RouteBackend {
    /// Where it is written.
    pub field: FieldPath,
    /// The service port, or a stand-in where `wrong_kind` or `invalid` is set.
    pub backend: BackendRef,
    /// Its share.
    pub weight: u32,
    /// Applied after the rule's own.
    pub filters: Vec<Filter>,
    /// Who gets copies of its share, beside the rule's mirrors.
    pub mirrors: Vec<RouteMirror>,
    /// The reference is to something that is not a Service: why.
    pub wrong_kind: Option<Arc<str>>,
    /// The backend cannot be used as it is written: why.
    pub invalid: Option<Arc<str>>,
}

impl Rule {
    /// Everything that it refers to: backends, and mirrors of the rule and of its backends.
    pub fn references(&self) -> impl Iterator<Item = &RouteBackend> {
        let mirrors = self.mirrors.iter().chain(self.backends.iter().flat_map(|backend| &backend.mirrors));
        self.backends.iter().chain(mirrors.map(|mirror| &mirror.to))
    }
}

/// A backend that gets copies of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMirror {
    /// Who gets them. Its weight means nothing, and it has neither filters nor mirrors.
    pub to: RouteBackend,
    /// How many.
    pub share: Share,
}

/// Why something in a route is not honoured, in the words of the Gateway API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteReason {
    /// A value is unknown, wrong, or of a feature that is not served.
    UnsupportedValue,
    /// Two filters cannot be used together.
    IncompatibleFilters,
}

impl RouteReason {
    /// The reason as a condition writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnsupportedValue => "UnsupportedValue",
            Self::IncompatibleFilters => "IncompatibleFilters",
        }
    }
}

/// Something in a route that is not honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteProblem {
    /// Where.
    pub field: FieldPath,
    /// What is wrong.
    pub message: String,
    /// What kind of wrong.
    pub reason: RouteReason,
}

/// Collects problems while a route is read.
#[derive(Debug, Default)]
struct Problems {
    partial: Vec<RouteProblem>,
    malformed: Vec<Problem>,
}

impl Problems {
    /// No API server takes such a value, so the whole route is refused, and the version before it counts: a slip of the pen in
    /// a weight must not cost anybody a request.
    fn malformed(&mut self, field: FieldPath, message: impl Into<String>) {
        self.malformed.push(Problem::new(field, message));
    }

    /// A value that is in form and cannot be honoured: a feature that is not served, an enumeration's value of tomorrow.
    fn unsupported(&mut self, field: FieldPath, message: impl Into<String>) {
        self.partial.push(RouteProblem { field, message: message.into(), reason: RouteReason::UnsupportedValue });
    }

    fn incompatible(&mut self, field: FieldPath, message: impl Into<String>) {
        self.partial.push(RouteProblem { field, message: message.into(), reason: RouteReason::IncompatibleFilters });
    }

    /// The first problem since `mark` in one line, if there is one.
    fn since(&self, mark: usize) -> Option<Arc<str>> {
        self.partial.get(mark).map(|problem| format!("{}: {}", problem.field, problem.message).into())
    }

    const fn mark(&self) -> usize {
        self.partial.len()
    }
}

/// Headers that something other than a route matches; whatever is wrong with them refuses that.
pub(crate) fn header_matches(specs: &[KeyValueMatchSpec], field: &FieldPath, reader: &mut Reader) -> Vec<HeaderMatch> {
    let mut problems = Problems::default();
    let headers = matching::headers(specs, field, &mut problems);
    problems.malformed.into_iter().for_each(|it| reader.refuse(it.field, it.message));
    problems.partial.into_iter().for_each(|it| reader.refuse(it.field, it.message));
    headers
}

/// The route as any object is named.
#[must_use]
pub fn object_key(route: &RouteRef) -> ObjectKey {
    let kind = match route.kind {
        RouteKind::Http => Kind::HttpRoute,
        RouteKind::Grpc => Kind::GrpcRoute,
        RouteKind::Tls => Kind::TlsRoute,
        RouteKind::Tcp => Kind::TcpRoute,
    };
    ObjectKey { kind, namespace: route.namespace.as_str().into(), name: route.name.as_str().into() }
}

/// The route that an object's key names. `None`: it is no route's, or cannot be one.
#[must_use]
pub fn route_key(key: &ObjectKey) -> Option<RouteRef> {
    Some(RouteRef { kind: key.kind.route()?, namespace: key.namespace.parse().ok()?, name: key.name.parse().ok()? })
}

/// How a route is put together, whichever kind it is.
fn assemble(
    kind: RouteKind,
    metadata: crate::RouteMetadata,
    parent_refs: &[ParentRefSpec],
    rules_written: usize,
    rules: impl FnOnce(&RouteRef, &mut Problems) -> Vec<Rule>,
) -> Result<Route, Vec<Problem>> {
    let key = RouteRef { kind, namespace: metadata.key.namespace, name: metadata.key.name };
    let mut problems = Problems::default();
    let parents = parent::parents(parent_refs, &key.namespace, &mut problems);
    let rules = rules(&key, &mut problems);
    let Problems { partial, malformed } = problems;
    if !malformed.is_empty() {
        return Err(malformed);
    }
    Ok(Route {
        key,
        created_seconds: metadata.created_seconds,
        generation: metadata.generation,
        parents,
        hostnames: Vec::new(),
        rules,
        rules_written,
        problems: partial,
    })
}

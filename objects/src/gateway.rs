//! Routes of the Gateway API as they are written. [`crate::routes`] judges what they say.

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::field::{FieldPath, Problem, excerpt};
use super::reader::{Reader, structure};
use super::{NamespacedName, Object, Read, raw};
use crate::routes::{self, Route};

/// What a route's metadata says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMetadata {
    /// Namespace and name.
    pub key: NamespacedName,
    /// Seconds since 1970 (UTC). A file has none: then it is 0, so that among files the name decides.
    pub created_seconds: i64,
    /// `metadata.generation`, 0 where there is none.
    pub generation: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (an HTTPRoute)")]
struct HttpRouteObject {
    metadata: raw::Metadata,
    spec: HttpRouteSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (a GRPCRoute)")]
struct GrpcRouteObject {
    metadata: raw::Metadata,
    spec: GrpcRouteSpec,
}

/// `spec` of an HTTPRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (an HTTPRoute's spec)")]
pub struct HttpRouteSpec {
    /// What it is attached to.
    pub parent_refs: Vec<ParentRefSpec>,
    /// Its rules.
    pub rules: Vec<HttpRuleSpec>,
}

/// `spec` of a GRPCRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a GRPCRoute's spec)")]
pub struct GrpcRouteSpec {
    /// What it is attached to.
    pub parent_refs: Vec<ParentRefSpec>,
    /// Its rules.
    pub rules: Vec<GrpcRuleSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (a TLSRoute or TCPRoute)")]
struct StreamRouteObject {
    metadata: raw::Metadata,
    spec: StreamRouteSpec,
}

/// `spec` of a TLSRoute or a TCPRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (the spec of a TLSRoute or TCPRoute)")]
pub struct StreamRouteSpec {
    /// What it is attached to.
    pub parent_refs: Vec<ParentRefSpec>,
    /// The names that clients ask for; of a TLSRoute only.
    pub hostnames: Vec<String>,
    /// Its rules.
    pub rules: Vec<StreamRuleSpec>,
}

/// A rule of a TLSRoute or a TCPRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a rule)")]
pub struct StreamRuleSpec {
    /// Name of the rule.
    pub name: Option<String>,
    /// Who gets the connections.
    pub backend_refs: Vec<BackendRefSpec>,
}

/// An item of `parentRefs`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a parentRef)")]
pub struct ParentRefSpec {
    /// The Gateway API's group where absent.
    pub group: Option<String>,
    /// `Gateway` where absent.
    pub kind: Option<String>,
    /// The route's own where absent.
    pub namespace: Option<String>,
    /// Name of the parent.
    pub name: String,
    /// Name of the Service's port.
    pub section_name: Option<String>,
    /// Number of the Service's port.
    pub port: Option<i64>,
}

/// A rule of an HTTPRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a rule)")]
pub struct HttpRuleSpec {
    /// Name of the rule.
    pub name: Option<String>,
    /// Any of these.
    pub matches: Vec<HttpMatchSpec>,
    /// Applied in this order.
    pub filters: Vec<GatewayFilter>,
    /// Who gets the requests.
    pub backend_refs: Vec<BackendRefSpec>,
    /// How long a request may take.
    pub timeouts: Option<TimeoutsSpec>,
    /// Retries.
    pub retry: Option<RetrySpec>,
    /// Whether requests that belong together go to one endpoint.
    pub session_persistence: Option<SessionPersistenceSpec>,
}

/// `sessionPersistence` of a rule (GEP-1619).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (sessionPersistence)")]
pub struct SessionPersistenceSpec {
    /// Name of the cookie or header.
    pub session_name: Option<String>,
    /// How long a session lives.
    pub absolute_timeout: Option<String>,
    /// How long it lives without a request.
    pub idle_timeout: Option<String>,
    /// `Cookie` where absent.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// How long the client keeps a cookie.
    pub cookie_config: Option<CookieSpec>,
}

/// `cookieConfig` of a session.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (cookieConfig)")]
pub struct CookieSpec {
    /// `Session` where absent.
    pub lifetime_type: Option<String>,
}

/// A rule of a GRPCRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a rule)")]
pub struct GrpcRuleSpec {
    /// Name of the rule.
    pub name: Option<String>,
    /// Any of these.
    pub matches: Vec<GrpcMatchSpec>,
    /// Applied in this order.
    pub filters: Vec<GatewayFilter>,
    /// Who gets the requests.
    pub backend_refs: Vec<BackendRefSpec>,
    /// Whether requests that belong together go to one endpoint.
    pub session_persistence: Option<SessionPersistenceSpec>,
}

/// A match of an HTTPRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a match)")]
pub struct HttpMatchSpec {
    /// The path: `type` and `value`.
    pub path: Option<TypedValueSpec>,
    /// Headers.
    pub headers: Vec<KeyValueMatchSpec>,
    /// Query parameters.
    pub query_params: Vec<KeyValueMatchSpec>,
    /// The method.
    pub method: Option<String>,
}

/// A match of a GRPCRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a match)")]
pub struct GrpcMatchSpec {
    /// Service and method.
    pub method: Option<GrpcMethodSpec>,
    /// Headers.
    pub headers: Vec<KeyValueMatchSpec>,
}

/// What a GRPCRoute says of the method.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping with `service` and `method`")]
pub struct GrpcMethodSpec {
    /// `Exact` where absent.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The gRPC service, with its package.
    pub service: Option<String>,
    /// The method.
    pub method: Option<String>,
}

/// A value and how it is compared.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping with `type` and `value`")]
pub struct TypedValueSpec {
    /// The kind of comparison.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The value.
    pub value: Option<String>,
}

/// A named value and how it is compared.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping with `name` and `value`")]
pub struct KeyValueMatchSpec {
    /// `Exact` where absent.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Name of the header or query parameter.
    pub name: String,
    /// The value.
    pub value: String,
}

/// A filter of a rule or a backend, of either kind of route.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a filter)")]
pub struct GatewayFilter {
    /// Which of the fields below counts.
    #[serde(rename = "type")]
    pub kind: String,
    /// For `RequestHeaderModifier`.
    pub request_header_modifier: Option<HeaderFilterSpec>,
    /// For `ResponseHeaderModifier`.
    pub response_header_modifier: Option<HeaderFilterSpec>,
    /// For `RequestRedirect`.
    pub request_redirect: Option<RedirectSpec>,
    /// For `URLRewrite`.
    pub url_rewrite: Option<RewriteSpec>,
    /// For `CORS`.
    pub cors: Option<CorsSpec>,
    /// For `RequestMirror`.
    pub request_mirror: Option<MirrorSpec>,
}

/// Copies of requests.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (requestMirror)")]
pub struct MirrorSpec {
    /// Who gets them.
    pub backend_ref: Option<BackendRefSpec>,
    /// How many of a hundred requests; all where neither this nor `fraction` is given.
    pub percent: Option<i64>,
    /// How many, more finely.
    pub fraction: Option<FractionSpec>,
}

/// A part of all requests.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping with `numerator` and `denominator`")]
pub struct FractionSpec {
    /// So many
    pub numerator: Option<i64>,
    /// of so many; 100 where absent.
    pub denominator: Option<i64>,
}

/// Cross-origin resource sharing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (CORS)")]
pub struct CorsSpec {
    /// Who may read the answers: `*`, `https://example.com`, `https://*.example.com`.
    pub allow_origins: Vec<String>,
    /// Whether cookies may be sent along.
    pub allow_credentials: Option<bool>,
    /// Methods, or `*`.
    pub allow_methods: Vec<String>,
    /// Request headers, or `*`.
    pub allow_headers: Vec<String>,
    /// Headers of the answer that a script may read, or `*`.
    pub expose_headers: Vec<String>,
    /// Seconds for which a preflight's answer may be remembered; 5 if it is not given.
    pub max_age: Option<i64>,
}

/// Changes of headers.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping with `set`, `add` or `remove`")]
pub struct HeaderFilterSpec {
    /// Overwritten.
    pub set: Vec<HeaderSpec>,
    /// Appended.
    pub add: Vec<HeaderSpec>,
    /// Removed.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping with `name` and `value`")]
pub struct HeaderSpec {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A redirect.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (requestRedirect)")]
pub struct RedirectSpec {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifierSpec>,
    /// Port.
    pub port: Option<i64>,
    /// Status.
    pub status_code: Option<i64>,
}

/// A rewrite.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (urlRewrite)")]
pub struct RewriteSpec {
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifierSpec>,
}

/// A new path.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a path)")]
pub struct PathModifierSpec {
    /// Which of the fields below counts.
    #[serde(rename = "type")]
    pub kind: String,
    /// For `ReplaceFullPath`.
    pub replace_full_path: Option<String>,
    /// For `ReplacePrefixMatch`.
    pub replace_prefix_match: Option<String>,
}

/// An item of `backendRefs`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (a backendRef)")]
pub struct BackendRefSpec {
    /// The core group where absent.
    pub group: Option<String>,
    /// `Service` where absent.
    pub kind: Option<String>,
    /// The route's own where absent.
    pub namespace: Option<String>,
    /// Name of the Service.
    pub name: String,
    /// The Service's port.
    pub port: Option<i64>,
    /// 1 where absent.
    pub weight: Option<i64>,
    /// Applied after the rule's own.
    pub filters: Vec<GatewayFilter>,
}

/// `timeouts` of a rule.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (timeouts)")]
pub struct TimeoutsSpec {
    /// The whole request.
    pub request: Option<String>,
    /// One attempt.
    pub backend_request: Option<String>,
}

/// `retry` of a rule.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (retry)")]
pub struct RetrySpec {
    /// Statuses worth another attempt.
    pub codes: Vec<i64>,
    /// Retries after the first attempt.
    pub attempts: Option<i64>,
    /// Least wait before a retry.
    pub backoff: Option<String>,
}

pub(super) fn http_route(value: &Value) -> Read {
    let raw: HttpRouteObject = structure(value)?;
    finish(&raw.metadata, |metadata| routes::http(metadata, &raw.spec))
}

pub(super) fn grpc_route(value: &Value) -> Read {
    let raw: GrpcRouteObject = structure(value)?;
    finish(&raw.metadata, |metadata| routes::grpc(metadata, &raw.spec))
}

pub(super) fn tls_route(value: &Value) -> Read {
    let raw: StreamRouteObject = structure(value)?;
    finish(&raw.metadata, |metadata| routes::tls(metadata, &raw.spec))
}

pub(super) fn tcp_route(value: &Value) -> Read {
    let raw: StreamRouteObject = structure(value)?;
    finish(&raw.metadata, |metadata| routes::tcp(metadata, &raw.spec))
}

fn finish(raw: &raw::Metadata, judge: impl FnOnce(RouteMetadata) -> Result<Route, Vec<Problem>>) -> Read {
    let mut reader = Reader::default();
    let created_seconds = created(raw, &mut reader);
    let key = reader.key(raw);
    let Some(key) = key else { return reader.finish(None) };
    let route = match judge(RouteMetadata { key, created_seconds, generation: raw.generation.unwrap_or(0) }) {
        Ok(route) => route,
        Err(malformed) => {
            for Problem { field, message } in malformed {
                reader.refuse(field, message);
            }
            return reader.finish(None);
        }
    };
    for problem in &route.problems {
        reader.note(problem.field.clone(), problem.message.clone());
    }
    reader.finish(Some(Object::Route(route.into())))
}

pub(super) fn created(raw: &raw::Metadata, reader: &mut Reader) -> i64 {
    let Some(text) = raw.creation_timestamp.as_deref() else { return 0 };
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(time) => time.unix_timestamp(),
        Err(_) => {
            let field = FieldPath::of(&["metadata", "creationTimestamp"]);
            reader.refuse(field, format!("expected a time like 2026-01-31T12:00:00Z, found `{}`", excerpt(text)));
            0
        }
    }
}

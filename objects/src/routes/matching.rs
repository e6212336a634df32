//! Matches of HTTPRoutes and GRPCRoutes.

use std::sync::Arc;

use http::{HeaderName, Method};
use weir_core::route::{HeaderMatch, HttpMatch, PathMatch, Pattern, QueryMatch, ValueMatch};

use super::Problems;
use crate::{FieldPath, GrpcMatchSpec, GrpcMethodSpec, HttpMatchSpec, KeyValueMatchSpec, TypedValueSpec, excerpt};

/// The methods that an HTTPRoute may name.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];

/// A match of an HTTPRoute. `None`: it cannot be honoured, and why is among the problems.
pub(super) fn http(spec: &HttpMatchSpec, field: &FieldPath, problems: &mut Problems) -> Option<HttpMatch> {
    let mark = problems.mark();
    let path = spec.path.as_ref().map(|path| http_path(path, &field.key("path"), problems));
    let headers = headers(&spec.headers, &field.key("headers"), problems);
    let query = query(&spec.query_params, &field.key("queryParams"), problems);
    let method = spec.method.as_deref().and_then(|text| {
        let known = METHODS.iter().find(|method| method.as_str() == text);
        if known.is_none() {
            problems.unsupported(field.key("method"), format!("expected an HTTP method in capitals, found `{}`", excerpt(text)));
        }
        known.cloned()
    });
    let path = path.unwrap_or_else(|| Some(PathMatch::default()));
    if problems.mark() > mark { None } else { Some(HttpMatch { path: path?, headers, query, method }) }
}

/// A match of a GRPCRoute: a gRPC request is a POST to `/SERVICE/METHOD`.
pub(super) fn grpc(spec: &GrpcMatchSpec, field: &FieldPath, problems: &mut Problems) -> Option<HttpMatch> {
    let mark = problems.mark();
    let path = match &spec.method {
        Some(method) => grpc_path(method, &field.key("method"), problems),
        None => Some(PathMatch::default()),
    };
    let headers = headers(&spec.headers, &field.key("headers"), problems);
    if problems.mark() > mark { None } else { Some(HttpMatch { path: path?, headers, query: Vec::new(), method: None }) }
}

fn http_path(spec: &TypedValueSpec, field: &FieldPath, problems: &mut Problems) -> Option<PathMatch> {
    let value = spec.value.as_deref().unwrap_or("/");
    match spec.kind.as_deref().unwrap_or("PathPrefix") {
        "PathPrefix" => {
            let path = plain_path(value, field, problems)?;
            // The specification ignores a slash at the end of a prefix.
            let trimmed = path.trim_end_matches('/');
            Some(PathMatch::Prefix(if trimmed.is_empty() { "/" } else { trimmed }.into()))
        }
        "Exact" => plain_path(value, field, problems).map(|path| PathMatch::Exact(path.into())),
        "RegularExpression" => pattern(value, &field.key("value"), problems).map(PathMatch::Regex),
        other => {
            let message = format!("expected Exact, PathPrefix or RegularExpression, found `{}`", excerpt(other));
            problems.unsupported(field.key("type"), message);
            None
        }
    }
}

/// A path that can be compared as it is: what the Gateway API refuses could be written in several ways, and so match in none.
fn plain_path<'a>(value: &'a str, field: &FieldPath, problems: &mut Problems) -> Option<&'a str> {
    let forbidden = ["//", "/./", "/../", "%2f", "%2F", "#"].into_iter().find(|part| value.contains(part));
    let ending = ["/..", "/."].into_iter().find(|end| value.ends_with(end));
    let message = match (value.starts_with('/'), forbidden.or(ending)) {
        (true, None) => return Some(value),
        (false, _) => format!("expected a path that begins with `/`, found `{}`", excerpt(value)),
        (true, Some(part)) => format!("a path must not have `{part}` in it, found `{}`", excerpt(value)),
    };
    problems.malformed(field.key("value"), message);
    None
}

fn grpc_path(spec: &GrpcMethodSpec, field: &FieldPath, problems: &mut Problems) -> Option<PathMatch> {
    let given = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned);
    let (service, method) = (given(&spec.service), given(&spec.method));
    match spec.kind.as_deref().unwrap_or("Exact") {
        "Exact" => {
            for (name, text) in [("service", &service), ("method", &method)] {
                if text.as_ref().is_some_and(|text| text.contains('/')) {
                    problems.malformed(field.key(name), "a name without `/` is expected");
                    return None;
                }
            }
            match (service, method) {
                (Some(service), Some(method)) => Some(PathMatch::Exact(format!("/{service}/{method}").into())),
                (Some(service), None) => Some(PathMatch::Prefix(format!("/{service}").into())),
                (None, Some(method)) => {
                    let source = format!("/[^/]+/{}", regex::escape(&method));
                    pattern(&source, field, problems).map(PathMatch::Regex)
                }
                (None, None) => nothing_said(field, problems),
            }
        }
        "RegularExpression" => {
            if service.is_none() && method.is_none() {
                return nothing_said(field, problems);
            }
            let part = |text: Option<String>| text.map_or_else(|| "[^/]+".to_owned(), |text| format!("(?:{text})"));
            let source = format!("/{}/{}", part(service), part(method));
            pattern(&source, field, problems).map(PathMatch::Regex)
        }
        other => {
            let message = format!("expected Exact or RegularExpression, found `{}`", excerpt(other));
            problems.unsupported(field.key("type"), message);
            None
        }
    }
}

fn nothing_said(field: &FieldPath, problems: &mut Problems) -> Option<PathMatch> {
    problems.malformed(field.clone(), "`service`, `method` or both are expected");
    None
}

pub(super) fn headers(specs: &[KeyValueMatchSpec], field: &FieldPath, problems: &mut Problems) -> Vec<HeaderMatch> {
    let mut headers: Vec<HeaderMatch> = Vec::with_capacity(specs.len());
    for (i, spec) in specs.iter().enumerate() {
        let field = field.index(i);
        let Ok(name) = HeaderName::from_bytes(spec.name.as_bytes()) else {
            problems.malformed(field.key("name"), format!("expected a header's name, found `{}`", excerpt(&spec.name)));
            continue;
        };
        // Of several with one name, in whatever case, the first counts.
        if let (false, Some(value)) = (headers.iter().any(|it| it.name == name), value(spec, &field, problems)) {
            headers.push(HeaderMatch { name, value });
        }
    }
    headers
}

fn query(specs: &[KeyValueMatchSpec], field: &FieldPath, problems: &mut Problems) -> Vec<QueryMatch> {
    let mut parameters: Vec<QueryMatch> = Vec::with_capacity(specs.len());
    for (i, spec) in specs.iter().enumerate() {
        let field = field.index(i);
        if spec.name.is_empty() {
            problems.malformed(field.key("name"), "is missing: expected a query parameter's name");
            continue;
        }
        let name: Arc<str> = spec.name.as_str().into();
        if let (false, Some(value)) = (parameters.iter().any(|it| it.name == name), value(spec, &field, problems)) {
            parameters.push(QueryMatch { name, value });
        }
    }
    parameters
}

fn value(spec: &KeyValueMatchSpec, field: &FieldPath, problems: &mut Problems) -> Option<ValueMatch> {
    match spec.kind.as_deref().unwrap_or("Exact") {
        "Exact" => Some(ValueMatch::Exact(spec.value.as_str().into())),
        "RegularExpression" => pattern(&spec.value, &field.key("value"), problems).map(ValueMatch::Regex),
        other => {
            let message = format!("expected Exact or RegularExpression, found `{}`", excerpt(other));
            problems.unsupported(field.key("type"), message);
            None
        }
    }
}

fn pattern(source: &str, field: &FieldPath, problems: &mut Problems) -> Option<Pattern> {
    match Pattern::new(source) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            // The reason draws the expression over several lines; its last one says what is wrong.
            let reason = error.reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            problems.unsupported(field.clone(), format!("`{}` is not a regular expression (RE2): {reason}", excerpt(source)));
            None
        }
    }
}

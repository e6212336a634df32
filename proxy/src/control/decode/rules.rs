//! Routing rules from the wire.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use weir_core::route::filter::cors::{Cors, Names, OriginPattern};
use weir_core::route::{
    Filter, HeaderChanges, HeaderMatch, HostPattern, HttpMatch, HttpRule, Mirror, PathChange, PathMatch, Pattern, QueryMatch,
    Redirect, RetryPolicy, Rewrite, RouteKind, RouteRef, Share, StreamRule, StreamTable, Timeouts, ValueMatch, WeightedBackend,
};
use weir_core::session::{Carrier, Session};
use weir_proto::v1;

use super::{Invalid, backend_name, each, excerpt, parse, port, required, unknown};

pub(super) fn rule(wire: &v1::HttpRule) -> Result<HttpRule, Invalid> {
    let route = required("route", wire.route.as_ref()).and_then(|it| route_name(it).map_err(|e| e.under("route")))?;
    Ok(HttpRule {
        route,
        index: wire.index,
        name: wire.name.as_str().into(),
        created_seconds: wire.created_seconds,
        matches: each("matches", &wire.matches, http_match)?,
        filters: each("filters", &wire.filters, filter)?,
        mirrors: each("mirrors", &wire.mirrors, mirror)?,
        backends: each("backends", &wire.backends, weighted_backend)?,
        timeouts: Timeouts {
            request: wire.request_timeout_ms.map(Duration::from_millis),
            backend_request: wire.backend_request_timeout_ms.map(Duration::from_millis),
        },
        retry: wire.retry.as_ref().map(|it| retry(it).map_err(|e| e.under("retry"))).transpose()?,
        session: wire.session.as_ref().map(|it| session(it).map_err(|e| e.under("session"))).transpose()?,
        invalid: not_empty(&wire.invalid),
    })
}

pub(super) fn streams(wire: &v1::StreamRoutes) -> Result<StreamTable, Invalid> {
    let rules = each("rules", &wire.rules, stream_rule)?;
    match v1::RouteKind::try_from(wire.kind) {
        Ok(v1::RouteKind::Tls) => Ok(StreamTable::tls(rules)),
        Ok(v1::RouteKind::Tcp) => Ok(StreamTable::tcp(rules)),
        Ok(v1::RouteKind::Http | v1::RouteKind::Grpc) | Err(_) => {
            Err(unknown("kind", "a kind of route for connections", wire.kind))
        }
    }
}

fn stream_rule(wire: &v1::StreamRule) -> Result<StreamRule, Invalid> {
    let route = required("route", wire.route.as_ref()).and_then(|it| route_name(it).map_err(|e| e.under("route")))?;
    Ok(StreamRule {
        route,
        index: wire.index,
        name: wire.name.as_str().into(),
        hostnames: each("hostnames", &wire.hostnames, |text| {
            text.parse::<HostPattern>().map_err(|error| Invalid::new("", error))
        })?,
        backends: each("backends", &wire.backends, weighted_backend)?,
    })
}

fn route_name(wire: &v1::RouteName) -> Result<RouteRef, Invalid> {
    let kind = match v1::RouteKind::try_from(wire.kind) {
        Ok(v1::RouteKind::Http) => RouteKind::Http,
        Ok(v1::RouteKind::Grpc) => RouteKind::Grpc,
        Ok(v1::RouteKind::Tls) => RouteKind::Tls,
        Ok(v1::RouteKind::Tcp) => RouteKind::Tcp,
        Err(_) => return Err(unknown("kind", "a kind of route", wire.kind)),
    };
    Ok(RouteRef { kind, namespace: parse("namespace", &wire.namespace)?, name: parse("name", &wire.name)? })
}

fn http_match(wire: &v1::HttpMatch) -> Result<HttpMatch, Invalid> {
    let path = match &wire.path {
        None => PathMatch::default(),
        Some(v1::http_match::Path::PathExact(text)) => PathMatch::Exact(absolute("path_exact", text)?),
        Some(v1::http_match::Path::PathPrefix(text)) => PathMatch::Prefix(absolute("path_prefix", text)?),
        Some(v1::http_match::Path::PathRegex(text)) => PathMatch::Regex(pattern("path_regex", text)?),
    };
    let method = match wire.method.as_str() {
        "" => None,
        text => Some(Method::from_bytes(text.as_bytes()).map_err(|_| is_not("method", text, "a method"))?),
    };
    Ok(HttpMatch {
        path,
        headers: each("headers", &wire.headers, |it| {
            Ok(HeaderMatch { name: header_name("name", &it.name)?, value: value_match(it.value.as_ref())? })
        })?,
        query: each("query", &wire.query, |it| match it.name.as_str() {
            "" => Err(Invalid::new("name", "is empty")),
            name => Ok(QueryMatch { name: name.into(), value: value_match(it.value.as_ref())? }),
        })?,
        method,
    })
}

pub(super) fn value_match(wire: Option<&v1::key_match::Value>) -> Result<ValueMatch, Invalid> {
    match required("value", wire)? {
        v1::key_match::Value::Exact(text) => Ok(ValueMatch::Exact(text.as_str().into())),
        v1::key_match::Value::Regex(text) => Ok(ValueMatch::Regex(pattern("regex", text)?)),
    }
}

fn filter(wire: &v1::HttpFilter) -> Result<Filter, Invalid> {
    match required("kind", wire.kind.as_ref())? {
        v1::http_filter::Kind::RequestHeaders(it) => {
            Ok(Filter::RequestHeaders(header_changes(it).map_err(|e| e.under("request_headers"))?))
        }
        v1::http_filter::Kind::ResponseHeaders(it) => {
            Ok(Filter::ResponseHeaders(header_changes(it).map_err(|e| e.under("response_headers"))?))
        }
        v1::http_filter::Kind::Redirect(it) => Ok(Filter::Redirect(redirect(it).map_err(|e| e.under("redirect"))?)),
        v1::http_filter::Kind::Rewrite(it) => Ok(Filter::Rewrite(rewrite(it).map_err(|e| e.under("rewrite"))?)),
        v1::http_filter::Kind::Cors(it) => Ok(Filter::Cors(cors(it).map_err(|e| e.under("cors"))?)),
    }
}

fn header_changes(wire: &v1::HeaderModifier) -> Result<HeaderChanges, Invalid> {
    Ok(HeaderChanges {
        set: each("set", &wire.set, header)?,
        add: each("add", &wire.add, header)?,
        remove: each("remove", &wire.remove, |name| header_name("", name))?,
    })
}

fn header(wire: &v1::Header) -> Result<(HeaderName, HeaderValue), Invalid> {
    let value = HeaderValue::from_bytes(wire.value.as_bytes()).map_err(|_| is_not("value", &wire.value, "a header's value"))?;
    Ok((header_name("name", &wire.name)?, value))
}

pub(super) fn header_name(field: &str, text: &str) -> Result<HeaderName, Invalid> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| is_not(field, text, "a header's name"))
}

fn redirect(wire: &v1::Redirect) -> Result<Redirect, Invalid> {
    let scheme = match wire.scheme.as_str() {
        "" | "http" | "https" => not_empty(&wire.scheme),
        other => return Err(is_not("scheme", other, "http or https")),
    };
    let code = if wire.status == 0 { 302 } else { wire.status };
    let status = match code {
        301 | 302 | 303 | 307 | 308 => status("status", code)?,
        _ => return Err(Invalid::new("status", format!("{code} is not 301, 302, 303, 307 or 308"))),
    };
    Ok(Redirect {
        scheme,
        hostname: hostname(&wire.hostname)?,
        path: wire.path.as_ref().map(path_change).transpose()?,
        port: (wire.port != 0).then(|| port("port", wire.port)).transpose()?,
        status,
    })
}

fn rewrite(wire: &v1::UrlRewrite) -> Result<Rewrite, Invalid> {
    Ok(Rewrite { hostname: hostname(&wire.hostname)?, path: wire.path.as_ref().map(path_change).transpose()? })
}

fn cors(wire: &v1::Cors) -> Result<Cors, Invalid> {
    let names = |field: &str, text: &str| match text {
        "*" => Ok(Names::Any),
        text if HeaderValue::from_str(text).is_ok() => Ok(Names::Listed(text.into())),
        text => Err(is_not(field, text, "a list of names")),
    };
    Ok(Cors {
        origins: each("origins", &wire.origins, |text| text.parse::<OriginPattern>().map_err(|_| is_not("", text, "an origin")))?,
        credentials: wire.credentials,
        methods: names("methods", &wire.methods)?,
        headers: names("headers", &wire.headers)?,
        expose: names("expose", &wire.expose)?,
        max_age: wire.max_age_seconds,
    })
}

fn path_change(wire: &v1::PathRewrite) -> Result<PathChange, Invalid> {
    let part = |field: &str, text: &str| match text {
        "" => Ok(Arc::from("")),
        text => absolute(field, text),
    };
    let change = match required("kind", wire.kind.as_ref()).map_err(|e| e.under("path"))? {
        v1::path_rewrite::Kind::Full(text) => PathChange::Full(part("path.full", text)?),
        v1::path_rewrite::Kind::Prefix(text) => PathChange::Prefix(part("path.prefix", text)?),
    };
    Ok(change)
}

/// A host that may stand in a Location or Host header: an authority without port and user.
fn hostname(text: &str) -> Result<Option<Arc<str>>, Invalid> {
    let plain = |host: &str| {
        let bytes = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        bytes && host.len() <= 253
    };
    if plain(text) { Ok(not_empty(text)) } else { Err(is_not("hostname", text, "a host name")) }
}

fn weighted_backend(wire: &v1::WeightedBackend) -> Result<WeightedBackend, Invalid> {
    let backend = required("backend", wire.backend.as_ref()).and_then(|it| backend_name(it).map_err(|e| e.under("backend")))?;
    let filters = each("filters", &wire.filters, filter)?;
    let mirrors = each("mirrors", &wire.mirrors, mirror)?;
    let session = shared_session(wire.session.as_ref())?;
    Ok(WeightedBackend { backend, weight: wire.weight, filters, mirrors, session, invalid: not_empty(&wire.invalid) })
}

fn mirror(wire: &v1::Mirror) -> Result<Mirror, Invalid> {
    let backend = required("backend", wire.backend.as_ref()).and_then(|it| backend_name(it).map_err(|e| e.under("backend")))?;
    Ok(Mirror { backend, share: share(wire.numerator, wire.denominator)? })
}

/// A share of requests; a denominator of 0 stands for all of them.
pub(super) fn share(numerator: u32, denominator: u32) -> Result<Share, Invalid> {
    match denominator {
        0 => Ok(Share::ALL),
        denominator => Share::new(numerator, denominator).map_err(|error| Invalid::new("denominator", error)),
    }
}

/// The sessions of a backend, whichever rule leads there.
pub(super) fn shared_session(wire: Option<&v1::Session>) -> Result<Option<Arc<Session>>, Invalid> {
    wire.map(|it| session(it).map(Arc::new).map_err(|e| e.under("session"))).transpose()
}

fn session(wire: &v1::Session) -> Result<Session, Invalid> {
    // The name of a cookie has the form of a header's.
    let name = header_name("name", &wire.name)?;
    let carrier = match wire.header {
        true => Carrier::Header(name),
        false => Carrier::Cookie { name: wire.name.as_str().into(), permanent: wire.permanent },
    };
    let (absolute, idle) = (wire.absolute_ms.map(Duration::from_millis), wire.idle_ms.map(Duration::from_millis));
    Ok(Session { carrier, absolute, idle })
}

fn retry(wire: &v1::Retry) -> Result<RetryPolicy, Invalid> {
    Ok(RetryPolicy {
        codes: each("codes", &wire.codes, |code| status("", *code))?,
        attempts: wire.attempts,
        backoff: Duration::from_millis(wire.backoff_ms),
    })
}

pub(super) fn status(field: &str, code: u32) -> Result<StatusCode, Invalid> {
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    status.ok_or_else(|| Invalid::new(field, format!("{code} is not an HTTP status")))
}

/// A path from its root, without query and fragment.
fn absolute(field: &str, text: &str) -> Result<Arc<str>, Invalid> {
    let plain = text.starts_with('/') && !text.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'?' || b == b'#');
    if plain { Ok(text.into()) } else { Err(is_not(field, text, "a path that begins with `/`, without spaces, `?` and `#`")) }
}

fn pattern(field: &str, text: &str) -> Result<Pattern, Invalid> {
    Pattern::new(text).map_err(|error| Invalid::new(field, error))
}

fn not_empty(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

fn is_not(field: &str, text: &str, what: &str) -> Invalid {
    Invalid::new(field, format!("`{}` is not {what}", excerpt(text)))
}

//! Filters of rules and of backends.

use http::{HeaderName, HeaderValue, StatusCode};
use weir_core::names::Label;
use weir_core::route::filter::cors::{Cors, Names, OriginPattern};
use weir_core::route::{Filter, HeaderChanges, PathChange, Redirect, Rewrite, Share};

use super::{Problems, RouteMirror};
use crate::{
    CorsSpec, FieldPath, GatewayFilter, HeaderFilterSpec, HeaderSpec, MirrorSpec, PathModifierSpec, RedirectSpec, RewriteSpec,
    excerpt,
};

/// Where filters stand; not every filter may stand everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a rule of an HTTPRoute. The flag: every match of it is a prefix, so that a prefix can be replaced.
    HttpRule { prefixes_only: bool },
    /// In a backendRef of an HTTPRoute.
    HttpBackend { prefixes_only: bool },
    /// In a rule or a backendRef of a GRPCRoute.
    Grpc,
    /// In a backendRef of a TLSRoute or a TCPRoute, which knows none.
    Stream,
}

/// What filters ask for.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// What changes requests and answers, in order.
    pub(super) filters: Vec<Filter>,
    /// Who gets copies.
    pub(super) mirrors: Vec<RouteMirror>,
}

/// The filters. What cannot be honoured is among the problems, and then none of the rule's requests may be served without it.
pub(super) fn filters(
    specs: &[GatewayFilter],
    own_namespace: &Label,
    place: Place,
    field: &FieldPath,
    problems: &mut Problems,
) -> Filters {
    let (mut filters, mut mirrors) = (Vec::new(), Vec::new());
    for (i, spec) in specs.iter().enumerate() {
        let field = field.index(i);
        if spec.kind == "RequestMirror" && place != Place::Stream {
            mirrors.extend(mirror(spec, own_namespace, &field, problems));
        } else {
            filters.extend(filter(spec, place, &field, problems));
        }
    }
    let count = |wanted: fn(&Filter) -> bool| filters.iter().filter(|it| wanted(it)).count();
    let redirects = count(|it| matches!(it, Filter::Redirect(_)));
    let rewrites = count(|it| matches!(it, Filter::Rewrite(_)));
    if redirects > 0 && rewrites > 0 {
        problems.incompatible(field.clone(), "RequestRedirect and URLRewrite cannot be used together");
    }
    let requests = count(|it| matches!(it, Filter::RequestHeaders(_)));
    let responses = count(|it| matches!(it, Filter::ResponseHeaders(_)));
    let sharing = count(|it| matches!(it, Filter::Cors(_)));
    for (name, times) in [
        ("CORS", sharing),
        ("RequestRedirect", redirects),
        ("URLRewrite", rewrites),
        ("RequestHeaderModifier", requests),
        ("ResponseHeaderModifier", responses),
    ] {
        if times > 1 {
            problems.incompatible(field.clone(), format!("{name} may be used once, and is used {times} times"));
        }
    }
    Filters { filters, mirrors }
}

fn filter(spec: &GatewayFilter, place: Place, field: &FieldPath, problems: &mut Problems) -> Option<Filter> {
    let prefixes_only = match place {
        Place::HttpRule { prefixes_only } | Place::HttpBackend { prefixes_only } => prefixes_only,
        Place::Grpc | Place::Stream => false,
    };
    match (spec.kind.as_str(), place) {
        (_, Place::Stream) => {
            problems.unsupported(field.clone(), "a route for connections has no filters");
            None
        }
        ("RequestHeaderModifier", _) => {
            let inner = field.key("requestHeaderModifier");
            given(spec.request_header_modifier.as_ref(), &inner, problems)
                .and_then(|spec| header_changes(spec, &inner, problems))
                .map(Filter::RequestHeaders)
        }
        ("ResponseHeaderModifier", _) => {
            let inner = field.key("responseHeaderModifier");
            given(spec.response_header_modifier.as_ref(), &inner, problems)
                .and_then(|spec| header_changes(spec, &inner, problems))
                .map(Filter::ResponseHeaders)
        }
        ("RequestRedirect", Place::HttpRule { .. }) => {
            let inner = field.key("requestRedirect");
            let spec = given(spec.request_redirect.as_ref(), &inner, problems)?;
            redirect(spec, prefixes_only, &inner, problems).map(Filter::Redirect)
        }
        ("URLRewrite", Place::HttpRule { .. } | Place::HttpBackend { .. }) => {
            let inner = field.key("urlRewrite");
            let spec = given(spec.url_rewrite.as_ref(), &inner, problems)?;
            rewrite(spec, prefixes_only, &inner, problems).map(Filter::Rewrite)
        }
        ("CORS", Place::HttpRule { .. }) => {
            let inner = field.key("cors");
            let spec = given(spec.cors.as_ref(), &inner, problems)?;
            cors(spec, &inner, problems).map(Filter::Cors)
        }
        ("RequestRedirect" | "URLRewrite" | "CORS", Place::HttpBackend { .. } | Place::Grpc) => {
            problems.unsupported(field.key("type"), format!("{} cannot stand here", spec.kind));
            None
        }
        ("ExternalAuth" | "ExtensionRef", _) => {
            let message =
                format!("{} is not served by this version of Weir, and is never skipped: its requests get 500", spec.kind);
            problems.unsupported(field.key("type"), message);
            None
        }
        (other, _) => {
            problems.unsupported(field.key("type"), format!("`{}` is not a type of filter", excerpt(other)));
            None
        }
    }
}

fn mirror(spec: &GatewayFilter, own_namespace: &Label, field: &FieldPath, problems: &mut Problems) -> Option<RouteMirror> {
    let field = field.key("requestMirror");
    let spec = given(spec.request_mirror.as_ref(), &field, problems)?;
    let share = share(spec, &field, problems);
    let Some(backend) = &spec.backend_ref else {
        problems.malformed(field.key("backendRef"), "is missing: a mirror names the Service that gets the copies");
        return None;
    };
    Some(RouteMirror { to: super::backend::mirror(backend, own_namespace, &field.key("backendRef"), problems), share: share? })
}

fn share(spec: &MirrorSpec, field: &FieldPath, problems: &mut Problems) -> Option<Share> {
    let (field, numerator, denominator) = match (&spec.percent, &spec.fraction) {
        (None, None) => return Some(Share::ALL),
        (Some(percent), None) => (field.key("percent"), *percent, 100),
        (None, Some(fraction)) => {
            (field.key("fraction"), fraction.numerator.unwrap_or_default(), fraction.denominator.unwrap_or(100))
        }
        (Some(_), Some(_)) => {
            problems.malformed(field.key("percent"), "`percent` and `fraction` cannot both be given");
            return None;
        }
    };
    let share = u32::try_from(numerator).ok().zip(u32::try_from(denominator).ok());
    let share = share.and_then(|(numerator, denominator)| Share::new(numerator, denominator).ok());
    if share.is_none() {
        problems.malformed(field, format!("expected a part from 0 to all, found {numerator} of {denominator}"));
    }
    share
}

fn given<'a, T>(spec: Option<&'a T>, field: &FieldPath, problems: &mut Problems) -> Option<&'a T> {
    if spec.is_none() {
        problems.malformed(field.clone(), "is missing, though `type` says that it is here");
    }
    spec
}

fn header_changes(spec: &HeaderFilterSpec, field: &FieldPath, problems: &mut Problems) -> Option<HeaderChanges> {
    let mark = problems.mark();
    let set = pairs(&spec.set, &field.key("set"), problems);
    let add = pairs(&spec.add, &field.key("add"), problems);
    let mut remove = Vec::with_capacity(spec.remove.len());
    for (i, text) in spec.remove.iter().enumerate() {
        remove.extend(header_name(text, field.key("remove").index(i), problems));
    }
    (problems.mark() == mark).then_some(HeaderChanges { set, add, remove })
}

fn pairs(specs: &[HeaderSpec], field: &FieldPath, problems: &mut Problems) -> Vec<(HeaderName, HeaderValue)> {
    let mut pairs = Vec::with_capacity(specs.len());
    for (i, spec) in specs.iter().enumerate() {
        let field = field.index(i);
        let name = header_name(&spec.name, field.key("name"), problems);
        match HeaderValue::from_str(&spec.value) {
            Ok(value) => pairs.extend(name.map(|name| (name, value))),
            Err(_) => problems.unsupported(field.key("value"), "a header's value must be visible ASCII characters"),
        }
    }
    pairs
}

fn header_name(text: &str, field: FieldPath, problems: &mut Problems) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    if name.is_none() {
        problems.malformed(field, format!("expected a header's name, found `{}`", excerpt(text)));
    }
    name
}

fn redirect(spec: &RedirectSpec, prefixes_only: bool, field: &FieldPath, problems: &mut Problems) -> Option<Redirect> {
    let mark = problems.mark();
    if let Some(other) = spec.scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
        problems.unsupported(field.key("scheme"), format!("expected http or https, found `{}`", excerpt(other)));
    }
    let port = spec.port.map(u16::try_from);
    if matches!(port, Some(Err(_) | Ok(0))) {
        problems.malformed(field.key("port"), "expected a port from 1 to 65535");
    }
    let status = match spec.status_code.unwrap_or(302) {
        301 => StatusCode::MOVED_PERMANENTLY,
        302 => StatusCode::FOUND,
        303 => StatusCode::SEE_OTHER,
        307 => StatusCode::TEMPORARY_REDIRECT,
        308 => StatusCode::PERMANENT_REDIRECT,
        other => {
            problems.unsupported(field.key("statusCode"), format!("expected 301, 302, 303, 307 or 308, found {other}"));
            StatusCode::FOUND
        }
    };
    check_hostname(spec.hostname.as_deref(), field, problems);
    let path = spec.path.as_ref().and_then(|path| path_change(path, prefixes_only, &field.key("path"), problems));
    (problems.mark() == mark).then(|| Redirect {
        scheme: spec.scheme.as_deref().map(Into::into),
        hostname: spec.hostname.as_deref().map(Into::into),
        path,
        port: port.and_then(Result::ok),
        status,
    })
}

fn rewrite(spec: &RewriteSpec, prefixes_only: bool, field: &FieldPath, problems: &mut Problems) -> Option<Rewrite> {
    let mark = problems.mark();
    check_hostname(spec.hostname.as_deref(), field, problems);
    let path = spec.path.as_ref().and_then(|path| path_change(path, prefixes_only, &field.key("path"), problems));
    (problems.mark() == mark).then(|| Rewrite { hostname: spec.hostname.as_deref().map(Into::into), path })
}

/// A browser's default for `Access-Control-Max-Age`, and the Gateway API's.
const DEFAULT_MAX_AGE: u32 = 5;

fn cors(spec: &CorsSpec, field: &FieldPath, problems: &mut Problems) -> Option<Cors> {
    let mark = problems.mark();
    let mut origins = Vec::with_capacity(spec.allow_origins.len());
    for (i, text) in spec.allow_origins.iter().enumerate() {
        match text.parse::<OriginPattern>() {
            Ok(origin) => origins.push(origin),
            Err(error) => problems.unsupported(field.key("allowOrigins").index(i), error.to_string()),
        }
    }
    let max_age = match spec.max_age.map(u32::try_from) {
        None => DEFAULT_MAX_AGE,
        Some(Ok(seconds)) if seconds > 0 => seconds,
        Some(_) => {
            problems.malformed(field.key("maxAge"), "expected seconds, at least 1");
            DEFAULT_MAX_AGE
        }
    };
    let methods = names(&spec.allow_methods, &field.key("allowMethods"), problems);
    let headers = names(&spec.allow_headers, &field.key("allowHeaders"), problems);
    let expose = names(&spec.expose_headers, &field.key("exposeHeaders"), problems);
    let credentials = spec.allow_credentials.unwrap_or_default();
    (problems.mark() == mark).then_some(Cors { origins, credentials, methods, headers, expose, max_age })
}

fn names(texts: &[String], field: &FieldPath, problems: &mut Problems) -> Names {
    for (i, text) in texts.iter().enumerate() {
        // Names of methods and of headers are both tokens (RFC 9110, section 5.6.2).
        if HeaderName::from_bytes(text.as_bytes()).is_err() {
            problems.malformed(field.index(i), format!("expected a name or `*`, found `{}`", excerpt(text)));
        }
    }
    if texts.iter().any(|text| text == "*") { Names::Any } else { Names::Listed(texts.join(", ").into()) }
}

fn check_hostname(hostname: Option<&str>, field: &FieldPath, problems: &mut Problems) {
    let Some(hostname) = hostname else { return };
    if let Err(error) = hostname.parse::<weir_core::names::ObjectName>() {
        problems.malformed(field.key("hostname"), error.to_string());
    }
}

fn path_change(spec: &PathModifierSpec, prefixes_only: bool, field: &FieldPath, problems: &mut Problems) -> Option<PathChange> {
    let (name, text) = match spec.kind.as_str() {
        "ReplaceFullPath" => ("replaceFullPath", &spec.replace_full_path),
        "ReplacePrefixMatch" => ("replacePrefixMatch", &spec.replace_prefix_match),
        other => {
            let message = format!("expected ReplaceFullPath or ReplacePrefixMatch, found `{}`", excerpt(other));
            problems.unsupported(field.key("type"), message);
            return None;
        }
    };
    let Some(text) = text.as_deref() else {
        problems.malformed(field.key(name), "is missing, though `type` says that it is here");
        return None;
    };
    // It becomes part of a URI, and of a header where it is a redirect.
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['?', '#']) {
        problems.unsupported(field.key(name), format!("expected a path without spaces, `?` and `#`, found `{}`", excerpt(text)));
        return None;
    }
    if name == "replaceFullPath" {
        return Some(PathChange::Full(text.into()));
    }
    if !prefixes_only {
        problems.malformed(field.key(name), "a prefix can be replaced only where every match of the rule is a PathPrefix");
        return None;
    }
    Some(PathChange::Prefix(text.into()))
}

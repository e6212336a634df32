//! Redirects and rewrites.

use std::fmt::Write as _;

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue};

use super::{RequestContext, Unapplicable};
use crate::route::matching::hex_digit;
use crate::route::model::{PathChange, Redirect, Rewrite};

/// How much of somebody else's text stands in an error.
const EXCERPT: usize = 80;

pub(super) fn check_redirect(redirect: &Redirect) -> Result<(), Unapplicable> {
    if let Some(scheme) = redirect.scheme.as_deref().filter(|scheme| well_known_port(scheme).is_none()) {
        return Err(Unapplicable::Scheme(excerpt(scheme)));
    }
    redirect.hostname.as_deref().map_or(Ok(()), |name| hostname(name).map(drop))?;
    redirect.path.as_ref().map_or(Ok(()), check_path)
}

pub(super) fn check_rewrite(rewrite: &Rewrite) -> Result<(), Unapplicable> {
    rewrite.hostname.as_deref().map_or(Ok(()), |name| hostname(name).map(drop))?;
    rewrite.path.as_ref().map_or(Ok(()), check_path)
}

/// Where a redirect leads: an absolute URI.
///
/// The port is the redirect's own, else the one that is usual for the redirect's own scheme, else the one that was dialled; it
/// is left out where it is usual for the scheme. The query stays.
pub(super) fn location(redirect: &Redirect, parts: &Parts, context: RequestContext<'_>) -> Result<HeaderValue, Unapplicable> {
    check_redirect(redirect)?;
    let scheme = redirect.scheme.as_deref().unwrap_or(context.scheme);
    let port =
        redirect.port.unwrap_or_else(|| redirect.scheme.as_deref().and_then(well_known_port).unwrap_or(context.dialled_port));
    let requested = requested_authority(parts);
    let host = match &redirect.hostname {
        Some(hostname) => hostname,
        None => requested.as_ref().map(Authority::host).filter(|host| hostname(host).is_ok()).ok_or(Unapplicable::NoHost)?,
    };
    let mut text = format!("{scheme}://{host}");
    if well_known_port(scheme) != Some(port) {
        // Writing to a String does not fail.
        let _ = write!(text, ":{port}");
    }
    match redirect.path.as_ref().map(|change| changed_path(parts.uri.path(), change, context.prefix_len)).transpose()? {
        Some(path) => push_encoded(&mut text, &path, is_path),
        None if parts.uri.path().starts_with('/') => push_encoded(&mut text, parts.uri.path(), is_path),
        // `OPTIONS *` is about the server as a whole.
        None => text.push('/'),
    }
    if let Some(query) = parts.uri.query() {
        text.push('?');
        push_encoded(&mut text, query, is_query);
    }
    HeaderValue::try_from(text).map_err(|_| Unapplicable::TooLong)
}

/// Changes a request's host and path. The query stays. A request without a path (`OPTIONS *`, CONNECT) has none to change.
pub(super) fn rewrite(rewrite: &Rewrite, parts: &mut Parts, prefix_len: usize) -> Result<(), Unapplicable> {
    check_rewrite(rewrite)?;
    if let Some(name) = &rewrite.hostname {
        let authority = hostname(name)?;
        if parts.headers.contains_key(HOST) || parts.uri.authority().is_none() {
            insert_host(&mut parts.headers, &authority)?;
        }
        replace_authority(parts, authority)?;
    }
    match &rewrite.path {
        Some(change) if parts.uri.path().starts_with('/') => {
            let mut path = changed_path(parts.uri.path(), change, prefix_len)?;
            if let Some(query) = parts.uri.query() {
                path.push('?');
                path.push_str(query);
            }
            replace_path(parts, path)
        }
        _ => Ok(()),
    }
}

/// Replaces the host and port in a URI that has them.
pub(super) fn replace_authority(parts: &mut Parts, authority: Authority) -> Result<(), Unapplicable> {
    if parts.uri.authority().is_none() {
        return Ok(());
    }
    let mut uri = parts.uri.clone().into_parts();
    uri.authority = Some(authority);
    parts.uri = Uri::from_parts(uri).map_err(|_| Unapplicable::TooLong)?;
    Ok(())
}

/// A header's value as a host, with or without a port.
pub(super) fn authority(value: &HeaderValue) -> Result<Authority, Unapplicable> {
    let wrong = || Unapplicable::Hostname(excerpt(&String::from_utf8_lossy(value.as_bytes())));
    let authority = Authority::try_from(value.as_bytes()).map_err(|_| wrong())?;
    let port_follows = authority
        .as_str()
        .strip_prefix(authority.host())
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()));
    if authority.host().is_empty() || !port_follows { Err(wrong()) } else { Ok(authority) }
}

/// A host without a port.
fn hostname(text: &str) -> Result<Authority, Unapplicable> {
    let authority = Authority::try_from(text).ok().filter(|it| !text.is_empty() && it.host() == text);
    authority.ok_or_else(|| Unapplicable::Hostname(excerpt(text)))
}

/// The URI's host counts before the header's (RFC 9112, section 3.2.2).
fn requested_authority(parts: &Parts) -> Option<Authority> {
    let header = || Authority::try_from(parts.headers.get(HOST)?.as_bytes()).ok();
    parts.uri.authority().cloned().or_else(header).filter(|it| !it.host().is_empty())
}

fn insert_host(headers: &mut HeaderMap, authority: &Authority) -> Result<(), Unapplicable> {
    let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Unapplicable::Hostname(excerpt(authority.as_str())))?;
    headers.try_insert(HOST, value).map(drop).map_err(|_| Unapplicable::TooLong)
}

fn replace_path(parts: &mut Parts, path_and_query: String) -> Result<(), Unapplicable> {
    let mut uri = parts.uri.clone().into_parts();
    uri.path_and_query = Some(PathAndQuery::try_from(path_and_query).map_err(|_| Unapplicable::TooLong)?);
    parts.uri = Uri::from_parts(uri).map_err(|_| Unapplicable::TooLong)?;
    Ok(())
}

fn check_path(change: &PathChange) -> Result<(), Unapplicable> {
    let (PathChange::Full(text) | PathChange::Prefix(text)) = change;
    if text.contains(['?', '#']) { Err(Unapplicable::Path(excerpt(text))) } else { Ok(()) }
}

/// The path that a change makes of `path`. It begins with `/`, and what came from the route is percent-encoded where it has to
/// be.
fn changed_path(path: &str, change: &PathChange, prefix_len: usize) -> Result<String, Unapplicable> {
    let (text, rest) = match change {
        PathChange::Full(text) => (&**text, ""),
        PathChange::Prefix(text) => {
            let rest = path.get(prefix_len..).filter(|rest| rest.is_empty() || rest.starts_with('/'));
            let rest = rest.ok_or(Unapplicable::NoPrefix)?;
            // Where the path goes on, it brings its own slash.
            (if rest.is_empty() { text } else { text.trim_end_matches('/') }, rest)
        }
    };
    let mut changed = String::with_capacity(1 + text.len() + rest.len());
    if !text.starts_with('/') && (!text.is_empty() || rest.is_empty()) {
        changed.push('/');
    }
    push_encoded(&mut changed, text, is_path);
    changed.push_str(rest);
    Ok(changed)
}

/// Appends `raw`, each byte that `stays` does not admit as `%XX`. What is encoded already stays as it is.
fn push_encoded(text: &mut String, raw: &str, stays: fn(u8) -> bool) {
    let bytes = raw.as_bytes();
    for (at, byte) in bytes.iter().copied().enumerate() {
        let digits = || bytes.iter().skip(at + 1).take(2).filter(|digit| hex_digit(**digit).is_some()).count();
        if stays(byte) || (byte == b'%' && digits() == 2) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

/// What may stand in a path (RFC 3986, section 3.3).
const fn is_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@')
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// What may stand in a query (RFC 3986, section 3.4).
const fn is_query(byte: u8) -> bool {
    is_path(byte) || byte == b'?'
}

fn well_known_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::filter::{RequestOutcome, apply_request, check};
    use crate::route::model::Filter;
    use http::{Request, StatusCode};
    use proptest::prelude::*;

    fn parts(uri: &str, host: Option<&str>) -> Parts {
        let mut request = Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn context(prefix_len: usize) -> RequestContext<'static> {
        RequestContext { prefix_len, scheme: "http", dialled_port: 8080 }
    }

    fn full(path: &str) -> Option<PathChange> {
        Some(PathChange::Full(path.into()))
    }

    fn prefix(path: &str) -> Option<PathChange> {
        Some(PathChange::Prefix(path.into()))
    }

    fn rewritten(uri: &str, path: Option<PathChange>, prefix_len: usize) -> String {
        let mut parts = parts(uri, Some("a"));
        let filter = Filter::Rewrite(Rewrite { hostname: None, path });
        assert_eq!(apply_request(&[filter], &mut parts, context(prefix_len)), RequestOutcome::Continue, "{uri}");
        parts.uri.to_string()
    }

    #[test]
    fn paths_are_rewritten_as_the_gateway_api_says() {
        for (uri, change, prefix_len, expected) in [
            ("/foo/bar", prefix("/xyz"), 4, "/xyz/bar"),
            ("/foo/bar", prefix("/xyz/"), 4, "/xyz/bar"),
            ("/foo", prefix("/xyz"), 4, "/xyz"),
            ("/foo/", prefix("/xyz"), 4, "/xyz/"),
            ("/foo", prefix("/xyz/"), 4, "/xyz/"),
            ("/foo/bar", prefix(""), 4, "/bar"),
            ("/foo/", prefix(""), 4, "/"),
            ("/foo", prefix(""), 4, "/"),
            ("/foo/", prefix("/"), 4, "/"),
            ("/foo", prefix("/"), 4, "/"),
            ("/foo/bar", prefix("/"), 4, "/bar"),
            ("/bar", prefix("/xyz"), 0, "/xyz/bar"),
            ("/", prefix("/xyz"), 0, "/xyz/"),
            ("/foo/bar", prefix("xyz"), 4, "/xyz/bar"),
            ("/foo/%2F?a=b&c", prefix("/xyz"), 4, "/xyz/%2F?a=b&c"),
            ("/foo/bar?q", full("/one/two"), 4, "/one/two?q"),
            ("/foo/bar", full(""), 4, "/"),
            ("/foo/bar", full("one"), 4, "/one"),
            ("/foo", full("/a b/ä/%41/%"), 0, "/a%20b/%C3%A4/%41/%25"),
            ("http://a/foo/bar?q", prefix("/xyz"), 4, "http://a/xyz/bar?q"),
            ("*", full("/x"), 0, "*"),
            ("/foo", None, 4, "/foo"),
        ] {
            assert_eq!(rewritten(uri, change.clone(), prefix_len), expected, "{uri} {change:?}");
        }
    }

    #[test]
    fn hosts_are_rewritten_where_the_request_has_them() {
        for (uri, host, new_uri, new_host) in [
            ("/x?q", Some("old:80"), "/x?q", Some("new.example")),
            ("/x", None, "/x", Some("new.example")),
            ("http://old:80/x?q", None, "http://new.example/x?q", None),
            ("http://old/x", Some("old"), "http://new.example/x", Some("new.example")),
        ] {
            let mut parts = parts(uri, host);
            let filter = Filter::Rewrite(Rewrite { hostname: Some("new.example".into()), path: None });
            assert_eq!(apply_request(&[filter], &mut parts, context(0)), RequestOutcome::Continue);
            assert_eq!(parts.uri.to_string(), new_uri);
            assert_eq!(parts.headers.get(HOST).map(|it| it.to_str().unwrap()), new_host, "{uri}");
        }
    }

    struct To {
        scheme: Option<&'static str>,
        hostname: Option<&'static str>,
        port: Option<u16>,
        path: Option<PathChange>,
    }

    const SAME: To = To { scheme: None, hostname: None, port: None, path: None };

    impl From<To> for Redirect {
        fn from(to: To) -> Self {
            let (scheme, hostname) = (to.scheme.map(Into::into), to.hostname.map(Into::into));
            Self { scheme, hostname, path: to.path, port: to.port, status: StatusCode::FOUND }
        }
    }

    #[test]
    fn redirects_lead_where_the_gateway_api_says() {
        let from = |scheme, dialled_port| RequestContext { prefix_len: 4, scheme, dialled_port };
        for (to, context, expected) in [
            (SAME, from("http", 80), "http://a/foo/bar?q=1"),
            (SAME, from("http", 8080), "http://a:8080/foo/bar?q=1"),
            (SAME, from("https", 443), "https://a/foo/bar?q=1"),
            (SAME, from("http", 443), "http://a:443/foo/bar?q=1"),
            (SAME, from("https", 80), "https://a:80/foo/bar?q=1"),
            (To { scheme: Some("https"), ..SAME }, from("http", 8080), "https://a/foo/bar?q=1"),
            (To { scheme: Some("http"), ..SAME }, from("https", 8443), "http://a/foo/bar?q=1"),
            (To { scheme: Some("https"), port: Some(8443), ..SAME }, from("http", 80), "https://a:8443/foo/bar?q=1"),
            (To { scheme: Some("https"), port: Some(443), ..SAME }, from("http", 80), "https://a/foo/bar?q=1"),
            (To { scheme: Some("http"), port: Some(443), ..SAME }, from("http", 80), "http://a:443/foo/bar?q=1"),
            (To { port: Some(80), ..SAME }, from("http", 8080), "http://a/foo/bar?q=1"),
            (To { port: Some(81), ..SAME }, from("http", 80), "http://a:81/foo/bar?q=1"),
            (To { hostname: Some("b.example"), ..SAME }, from("http", 80), "http://b.example/foo/bar?q=1"),
            (To { hostname: Some("b.example"), ..SAME }, from("http", 81), "http://b.example:81/foo/bar?q=1"),
            (To { path: full("/new"), ..SAME }, from("http", 80), "http://a/new?q=1"),
            (To { path: prefix("/new"), ..SAME }, from("http", 80), "http://a/new/bar?q=1"),
            (To { path: prefix("/"), ..SAME }, from("http", 80), "http://a/bar?q=1"),
            (To { path: prefix(""), ..SAME }, from("http", 80), "http://a/bar?q=1"),
        ] {
            let redirect = Redirect::from(to);
            for mut parts in [parts("/foo/bar?q=1", Some("a:99")), parts("http://a:99/foo/bar?q=1", Some("ignored"))] {
                let outcome = apply_request(&[Filter::Redirect(redirect.clone())], &mut parts, context);
                let location = HeaderValue::from_static(expected);
                assert_eq!(outcome, RequestOutcome::Redirect { status: StatusCode::FOUND, location }, "{redirect:?}");
            }
        }
    }

    #[test]
    fn a_location_is_a_valid_uri_whatever_the_request_had_in_it() {
        let located =
            |uri: &str, host| location(&SAME.into(), &parts(uri, host), context(0)).map(|it| it.to_str().unwrap().to_owned());
        assert_eq!(located("//evil.example/\\x", Some("a")).unwrap(), "http://a:8080//evil.example/%5Cx");
        assert_eq!(located("/a\"b{c}?d|e`f?g", Some("a")).unwrap(), "http://a:8080/a%22b%7Bc%7D?d%7Ce%60f?g");
        assert_eq!(located("/%41%4x%", Some("a")).unwrap(), "http://a:8080/%41%254x%25");
        assert_eq!(located("*", Some("[::1]:5")).unwrap(), "http://[::1]:8080/");
        assert_eq!(located("/", Some("user:secret@a:5")).unwrap(), "http://a:8080/");
        assert_eq!(located("/", None), Err(Unapplicable::NoHost));
        assert_eq!(located("/", Some("a b")), Err(Unapplicable::NoHost));
    }

    #[test]
    fn what_can_never_be_applied_is_known_beforehand_and_refused() {
        let redirect = |to: To| Filter::Redirect(to.into());
        let rewrite = |hostname: Option<&str>, path| Filter::Rewrite(Rewrite { hostname: hostname.map(Into::into), path });
        for (filter, error) in [
            (redirect(To { scheme: Some("ftp"), ..SAME }), Unapplicable::Scheme("ftp".into())),
            (redirect(To { hostname: Some("a:80"), ..SAME }), Unapplicable::Hostname("a:80".into())),
            (redirect(To { path: full("/a?b"), ..SAME }), Unapplicable::Path("/a?b".into())),
            (rewrite(None, prefix("/a#b")), Unapplicable::Path("/a#b".into())),
            (rewrite(Some(""), None), Unapplicable::Hostname(String::new())),
            (rewrite(Some("a/b"), None), Unapplicable::Hostname("a/b".into())),
            (rewrite(Some("u@a"), None), Unapplicable::Hostname("u@a".into())),
        ] {
            assert_eq!(check(&filter), Err(error.clone()));
            let outcome = apply_request(&[filter], &mut parts("/foo", Some("a")), context(4));
            assert_eq!(outcome, RequestOutcome::Refused(error));
        }
        let replaced = rewrite(None, prefix("/x"));
        assert_eq!(check(&replaced), Ok(()));
        for (uri, prefix_len) in [("/foo", 3), ("/foo", 9)] {
            let outcome = apply_request(std::slice::from_ref(&replaced), &mut parts(uri, Some("a")), context(prefix_len));
            assert_eq!(outcome, RequestOutcome::Refused(Unapplicable::NoPrefix));
        }
        let long = rewrite(None, full(&"/x".repeat(40_000)));
        assert_eq!(
            apply_request(&[long], &mut parts("/", Some("a")), context(0)),
            RequestOutcome::Refused(Unapplicable::TooLong)
        );
    }

    proptest! {
        #[test]
        fn every_result_is_a_valid_uri(
            path in "/[a-z/%\"{}|\\\\^äß.]{0,12}",
            query in prop::option::of("[a-z?/%`&=ä]{0,8}"),
            replacement in "\\PC{0,12}",
            whole in any::<bool>(),
            prefix_len in 0..8usize,
            absolute in any::<bool>(),
        ) {
            let uri = [if absolute { "http://old:1" } else { "" }, &path, &query.as_ref().map_or(String::new(), |it| format!("?{it}"))].concat();
            let change = if whole { full(&replacement) } else { prefix(&replacement) };
            let mut parts = parts(&uri, Some("a"));
            let to = Redirect::from(To { path: change.clone(), ..SAME });
            if let RequestOutcome::Redirect { location, .. } = apply_request(&[Filter::Redirect(to)], &mut parts, context(prefix_len)) {
                let text = location.to_str().unwrap();
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"{}|\\^`<>".contains(&byte)), "{}", text);
                let parsed: Uri = text.parse().unwrap();
                prop_assert_eq!(parsed.query().is_some(), query.is_some());
                prop_assert_eq!(parsed.port_u16(), Some(8080));
            }
            let filter = Filter::Rewrite(Rewrite { hostname: Some("b.example".into()), path: change });
            if apply_request(&[filter], &mut parts, context(prefix_len)) == RequestOutcome::Continue {
                prop_assert!(parts.uri.path().starts_with('/'));
                prop_assert_eq!(parts.uri.query(), query.as_deref());
                prop_assert_eq!(parts.uri.to_string().parse::<Uri>().unwrap(), parts.uri);
            }
        }
    }
}

//! Header modifiers.

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Unapplicable;
use super::uri::{authority, replace_authority};
use crate::route::model::HeaderChanges;

/// What says where a message ends or what the connection does. Changed by a route it would only tell one side; that is how
/// requests are smuggled.
const OF_THE_CONNECTION: [HeaderName; 8] = [
    CONNECTION,
    CONTENT_LENGTH,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Whether a route may make these changes.
pub(super) fn check(changes: &HeaderChanges) -> Result<(), Unapplicable> {
    let named = changes.set.iter().chain(&changes.add).map(|(name, _)| name).chain(&changes.remove);
    match named.into_iter().find(|name| OF_THE_CONNECTION.contains(name)) {
        Some(name) => Err(Unapplicable::ConnectionHeader(name.clone())),
        None => Ok(()),
    }
}

/// The same for a request, which has a host besides.
pub(super) fn check_request(changes: &HeaderChanges) -> Result<(), Unapplicable> {
    check(changes)?;
    if changes.add.iter().any(|(name, _)| *name == HOST) || changes.remove.contains(&HOST) {
        return Err(Unapplicable::Host);
    }
    changes.set.iter().filter(|(name, _)| *name == HOST).try_for_each(|(_, value)| authority(value).map(drop))
}

/// Changes a request's headers. `Host` is changed where the request has it, in the header, the URI or both.
pub(super) fn change_request(changes: &HeaderChanges, parts: &mut Parts) -> Result<(), Unapplicable> {
    check_request(changes)?;
    let had_host = parts.headers.get(HOST).cloned();
    change(changes, &mut parts.headers);
    if let Some((_, value)) = changes.set.iter().rfind(|(name, _)| *name == HOST) {
        // HTTP/2 has the host in the URI only, and gets no second one.
        if had_host.is_none() && parts.uri.authority().is_some() {
            parts.headers.remove(HOST);
        }
        replace_authority(parts, authority(value)?)?;
    }
    Ok(())
}

/// Changes headers: what is set overwrites, what is added joins, what is removed goes, in this order.
pub(super) fn change(changes: &HeaderChanges, headers: &mut HeaderMap) {
    for (name, value) in &changes.set {
        // Fails only in a map of more than 32,768 names, far above what any message may have.
        let _ = headers.try_insert(name, value.clone());
    }
    for (name, value) in &changes.add {
        add(headers, name, value);
    }
    for name in &changes.remove {
        headers.remove(name);
    }
}

/// Appends to the last line of this name, for recipients that read only one line. `Set-Cookie` cannot be joined (RFC 9110,
/// section 5.3), and cookies are joined in their own way (RFC 6265, section 5.4).
fn add(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    let separator: &[u8] = if *name == COOKIE { b"; " } else { b"," };
    if *name != SET_COOKIE
        && let http::header::Entry::Occupied(mut lines) = headers.entry(name)
        && let Some(last) = lines.iter_mut().last()
        && let Ok(mut joined) = HeaderValue::from_bytes(&[last.as_bytes(), separator, value.as_bytes()].concat())
    {
        joined.set_sensitive(last.is_sensitive() || value.is_sensitive());
        *last = joined;
        return;
    }
    let _ = headers.try_append(name, value.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::filter::{RequestContext, RequestOutcome, apply_request, apply_response, check as check_filter};
    use crate::route::model::Filter;
    use http::Request;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn name(text: &str) -> HeaderName {
        HeaderName::from_bytes(text.as_bytes()).unwrap()
    }

    fn changes(set: Pairs<'_>, add: Pairs<'_>, remove: &[&str]) -> HeaderChanges {
        let pairs = |it: Pairs<'_>| it.iter().map(|(key, value)| (name(key), value.parse().unwrap())).collect();
        HeaderChanges { set: pairs(set), add: pairs(add), remove: remove.iter().map(|it| name(it)).collect() }
    }

    fn map(pairs: Pairs<'_>) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (key, value) in pairs {
            map.append(name(key), value.parse().unwrap());
        }
        map
    }

    /// Applied to an answer, and to a request too.
    fn changed(before: Pairs<'_>, changes: HeaderChanges) -> HeaderMap {
        let mut headers = map(before);
        apply_response(
            &[Filter::ResponseHeaders(changes.clone()), Filter::RequestHeaders(HeaderChanges::default())],
            &mut headers,
        );
        let mut parts = Request::new(()).into_parts().0;
        parts.headers = map(before);
        assert_eq!(apply(Filter::RequestHeaders(changes), &mut parts), RequestOutcome::Continue);
        assert_eq!(parts.headers, headers);
        headers
    }

    fn apply(filter: Filter, parts: &mut Parts) -> RequestOutcome {
        apply_request(&[filter], parts, RequestContext { prefix_len: 0, scheme: "http", dialled_port: 80 })
    }

    #[test]
    fn set_overwrites_add_joins_and_remove_removes() {
        for (before, changes, after) in [
            (&[][..], changes(&[("x-a", "1")], &[], &[]), &[("x-a", "1")][..]),
            (&[("x-a", "0"), ("x-a", "2")], changes(&[("X-A", "1")], &[], &[]), &[("x-a", "1")]),
            (&[], changes(&[], &[("x-a", "1")], &[]), &[("x-a", "1")]),
            (&[("x-a", "0")], changes(&[], &[("X-A", "1")], &[]), &[("x-a", "0,1")]),
            (&[("x-a", "0")], changes(&[], &[("x-a", "1"), ("x-a", "2")], &[]), &[("x-a", "0,1,2")]),
            (&[("x-a", "0"), ("x-a", "1")], changes(&[], &[("x-a", "2")], &[]), &[("x-a", "0"), ("x-a", "1,2")]),
            (&[("x-a", "0")], changes(&[("x-a", "1")], &[("x-a", "2")], &[]), &[("x-a", "1,2")]),
            (&[("x-a", "0"), ("x-a", "1"), ("x-b", "2")], changes(&[], &[], &["X-A", "x-c"]), &[("x-b", "2")]),
            (
                &[("set-cookie", "a=1")],
                changes(&[], &[("set-cookie", "b=2")], &[]),
                &[("set-cookie", "a=1"), ("set-cookie", "b=2")],
            ),
            (&[("cookie", "a=1")], changes(&[], &[("cookie", "b=2")], &[]), &[("cookie", "a=1; b=2")]),
        ] {
            assert_eq!(changed(before, changes.clone()), map(after), "{changes:?} on {before:?}");
        }
    }

    #[test]
    fn sensitive_values_stay_sensitive() {
        let mut headers = HeaderMap::new();
        let mut secret = HeaderValue::from_static("a");
        secret.set_sensitive(true);
        headers.insert("x-a", secret);
        change(&changes(&[], &[("x-a", "b")], &[]), &mut headers);
        assert!(headers["x-a"].is_sensitive());
        assert_eq!(headers["x-a"], "a,b");
    }

    #[test]
    fn the_connections_own_headers_are_refused_on_both_ways() {
        for header in OF_THE_CONNECTION {
            let pair = [(header.as_str(), "1")];
            for changes in [changes(&pair, &[], &[]), changes(&[], &pair, &[]), changes(&[], &[], &[header.as_str()])] {
                for filter in [Filter::RequestHeaders(changes.clone()), Filter::ResponseHeaders(changes)] {
                    let refused = Unapplicable::ConnectionHeader(header.clone());
                    assert_eq!(check_filter(&filter), Err(refused.clone()));
                    let mut parts = Request::new(()).into_parts().0;
                    assert_eq!(apply(filter, &mut parts), RequestOutcome::Refused(refused));
                    assert!(parts.headers.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_host_is_set_where_the_request_has_it() {
        for (uri, host, new_uri, new_host) in [
            ("/x", Some("old"), "/x", Some("new:81")),
            ("/x", None, "/x", Some("new:81")),
            ("http://old/x?q", None, "http://new:81/x?q", None),
            ("http://old/x", Some("old"), "http://new:81/x", Some("new:81")),
        ] {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            let mut parts = request.body(()).unwrap().into_parts().0;
            let filter = Filter::RequestHeaders(changes(&[("host", "new:81")], &[], &[]));
            assert_eq!(apply(filter, &mut parts), RequestOutcome::Continue);
            assert_eq!(parts.uri.to_string(), new_uri);
            assert_eq!(parts.headers.get(HOST).map(|it| it.to_str().unwrap()), new_host, "{uri}");
        }
    }

    #[test]
    fn a_request_keeps_exactly_one_host() {
        for bad in [changes(&[], &[("host", "b")], &[]), changes(&[], &[], &["host"])] {
            assert_eq!(check_filter(&Filter::RequestHeaders(bad.clone())), Err(Unapplicable::Host));
            assert_eq!(check_filter(&Filter::ResponseHeaders(bad)), Ok(()));
        }
        for bad in ["a b", "", "user@a", "a/b", "a:x", ":80"] {
            let filter = Filter::RequestHeaders(changes(&[("host", bad)], &[], &[]));
            assert_eq!(check_filter(&filter), Err(Unapplicable::Hostname(bad.into())), "{bad}");
        }
    }
}

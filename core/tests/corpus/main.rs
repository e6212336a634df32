//! Inputs that are kept in `corpus/`, one directory a target, and thousands that are made of them: what holds for every input
//! holds for these. An input that has once broken something is added as a file.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking; that is how it fails")]

mod mutate;

use std::mem::discriminant;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use weir_core::names::{Resolver, Target};
use weir_core::route::filter::{RequestContext, RequestOutcome, apply_request, apply_response, check};
use weir_core::route::{Filter, HeaderChanges, PathChange, Redirect, Rewrite};
use weir_core::sniff::{MAX_SNIFF, Sniffed, sniff};

/// Inputs made for each target: about half a second's worth.
const ROUNDS: usize = 20_000;

#[test]
fn what_first_bytes_say_stays_true() {
    let mut rng = fastrand::Rng::with_seed(1);
    mutate::each("sniff", ROUNDS, |bytes| {
        let whole = sniff(bytes);
        assert!(whole != Sniffed::NeedMore || bytes.len() < MAX_SNIFF);
        if let Sniffed::Tls(hello) = &whole
            && let Some(name) = &hello.sni
        {
            assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
        }
        let early = sniff(&bytes[..rng.usize(..=bytes.len())]);
        assert!(early == Sniffed::NeedMore || discriminant(&early) == discriminant(&whole), "{early:?} became {whole:?}");
    });
}

/// The lines of an input, each a word and what follows it.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    bytes.split(|byte| *byte == b'\n').map(|line| {
        let at = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        (&line[..at], line.get(at + 1..).unwrap_or_default())
    })
}

/// `name: value`, if it is a header.
fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let at = line.iter().position(|byte| *byte == b':')?;
    let value = line[at + 1..].trim_ascii();
    Some((HeaderName::from_bytes(&line[..at]).ok()?, HeaderValue::from_bytes(value).ok()?))
}

/// A request and changes of its headers: lines `has|set|add NAME: VALUE`, `remove NAME`.
fn header_changes(bytes: &[u8]) -> (HeaderMap, HeaderChanges) {
    let (mut has, mut changes) = (HeaderMap::new(), HeaderChanges::default());
    for (word, rest) in lines(bytes) {
        match word {
            b"has" => has.extend(header(rest).map(|(name, value)| (Some(name), value))),
            b"set" => changes.set.extend(header(rest)),
            b"add" => changes.add.extend(header(rest)),
            b"remove" => changes.remove.extend(HeaderName::from_bytes(rest).ok()),
            _ => {}
        }
    }
    (has, changes)
}

fn assert_valid(headers: &HeaderMap) {
    for (name, value) in headers {
        assert!(HeaderValue::from_bytes(value.as_bytes()).is_ok(), "{name}: {value:?}");
        assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | b'\0')), "{name}: {value:?}");
    }
}

fn request(uri: Uri, headers: HeaderMap) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.uri, parts.headers) = (uri, headers);
    parts
}

const fn context(prefix_len: usize) -> RequestContext<'static> {
    RequestContext { prefix_len, scheme: "http", dialled_port: 8080 }
}

#[test]
fn changed_headers_are_headers() {
    mutate::each("headers", ROUNDS, |bytes| {
        let (has, changes) = header_changes(bytes);
        let framing = |headers: &HeaderMap| headers.get_all("content-length").iter().cloned().collect::<Vec<_>>();
        let before = framing(&has);
        let idempotent = changes.add.is_empty();
        for uri in ["/", "http://catalog.shop:80/a?b"] {
            let filters = [Filter::RequestHeaders(changes.clone())];
            let refusable = check(&filters[0]).is_err();
            let mut parts = request(uri.parse().unwrap(), has.clone());
            let outcome = apply_request(&filters, &mut parts, context(0));
            if refusable {
                assert!(matches!(outcome, RequestOutcome::Refused(_)), "{changes:?}");
                continue;
            }
            assert_eq!(outcome, RequestOutcome::Continue, "{changes:?}");
            assert_valid(&parts.headers);
            assert_eq!(framing(&parts.headers), before, "a route says nothing of a message's length");
            if idempotent {
                let once = (parts.uri.clone(), parts.headers.clone());
                assert_eq!(apply_request(&filters, &mut parts, context(0)), RequestOutcome::Continue);
                assert_eq!((parts.uri, parts.headers), once, "{changes:?}");
            }
        }
        let mut answer = has;
        apply_response(&[Filter::ResponseHeaders(changes)], &mut answer);
        assert_valid(&answer);
    });
}

#[test]
fn a_changed_path_is_a_path_and_the_query_stays() {
    let mut applied = 0_usize;
    // Lines `uri URI`, `full PATH`, `prefix LENGTH PATH`, `hostname NAME`.
    mutate::each("path", ROUNDS, |bytes| {
        let (mut uri, mut path, mut hostname, mut prefix_len) = (Uri::from_static("/"), None, None, 0);
        for (word, rest) in lines(bytes) {
            let text = String::from_utf8_lossy(rest);
            match word {
                b"uri" => uri = text.parse().unwrap_or_default(),
                b"full" => path = Some(PathChange::Full(text.as_ref().into())),
                b"prefix" => {
                    let (length, text) = text.split_once(' ').unwrap_or(("0", ""));
                    prefix_len = length.parse().unwrap_or(0);
                    path = Some(PathChange::Prefix(text.into()));
                }
                b"hostname" => hostname = Some(text.as_ref().into()),
                _ => {}
            }
        }
        let mut parts = request(uri.clone(), HeaderMap::new());
        let rewrite = Filter::Rewrite(Rewrite { hostname: hostname.clone(), path: path.clone() });
        if apply_request(std::slice::from_ref(&rewrite), &mut parts, context(prefix_len)) == RequestOutcome::Continue {
            applied += 1;
            assert!(check(&rewrite).is_ok());
            assert_eq!(parts.uri.query(), uri.query());
            assert!(parts.uri.path().starts_with('/') || parts.uri.path() == uri.path(), "{}", parts.uri);
            assert!(Uri::try_from(parts.uri.to_string()).is_ok(), "{}", parts.uri);
            assert_valid(&parts.headers);
            if !matches!(path, Some(PathChange::Prefix(_))) {
                let once = parts.uri.clone();
                assert_eq!(apply_request(&[rewrite], &mut parts, context(prefix_len)), RequestOutcome::Continue);
                assert_eq!(parts.uri, once);
            }
        }
        let redirect = Filter::Redirect(Redirect { scheme: None, hostname, path, port: None, status: StatusCode::FOUND });
        match apply_request(&[redirect], &mut request(uri, HeaderMap::new()), context(prefix_len)) {
            RequestOutcome::Redirect { location, .. } => {
                let text = location.to_str().unwrap();
                assert!(text.starts_with("http://") && !text.contains(char::is_whitespace), "{text}");
                Uri::try_from(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            }
            RequestOutcome::Refused(_) => {}
            RequestOutcome::Continue => panic!("a redirect went on"),
        }
    });
    assert!(applied > ROUNDS / 20, "only {applied} inputs were changes at all");
}

#[test]
fn what_an_authority_names_is_named_by_its_own_form_too() {
    let resolver = Resolver::new("shop".parse().unwrap(), "cluster.local");
    let mut named = 0_usize;
    mutate::each("authority", ROUNDS, |bytes| {
        let Ok(target) = resolver.resolve(&String::from_utf8_lossy(bytes), 80) else { return };
        named += 1;
        let canonical = match &target {
            Target::Service(backend) => {
                format!("{}.{}.svc.cluster.local:{}", backend.service.name, backend.service.namespace, backend.port)
            }
            Target::Address(address) => address.to_string(),
            Target::External { host, port } => format!("{host}:{port}"),
        };
        assert_eq!(resolver.resolve(&canonical, 1).as_ref(), Ok(&target), "{canonical}");
    });
    assert!(named > ROUNDS / 20, "only {named} inputs were authorities at all");
}

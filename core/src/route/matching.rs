//! Whether a request satisfies one match.
//!
//! What is compared is what came over the wire:
//!
//! - **Paths** are not decoded and dots are not resolved, so what is decided on is what is forwarded.
//! - **Headers** are compared byte by byte. Of several lines with one name only the first counts. A value that is not UTF-8 can
//!   equal nothing and matches no expression.
//! - **Query parameters** are read as browsers write them (`application/x-www-form-urlencoded`): split at `&` only, name and
//!   value apart at the first `=`, `+` is a space, `%XX` is a byte, and a `%` that no two hex digits follow is itself. A
//!   parameter without `=` has the empty value. Names and values are compared after decoding. Of several parameters with one
//!   name only the first counts; a value that does not decode to UTF-8 matches no expression.
//!
//! Where a match itself asks for one name twice, only the first counts, as the Gateway API says.

use std::borrow::Cow;

use http::{HeaderMap, Method};

use super::model::{HeaderMatch, HttpMatch, QueryMatch, ValueMatch};

/// What a match looks at beside the path.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestFacts<'a> {
    pub(super) method: &'a Method,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
}

/// Whether everything but the path matches.
pub(super) fn conditions_hold(wanted: &HttpMatch, request: RequestFacts<'_>) -> bool {
    wanted.method.as_ref().is_none_or(|method| method == request.method)
        && distinct_headers(&wanted.headers).all(|header| header_matches(header, request.headers))
        && distinct_query(&wanted.query).all(|parameter| parameter_matches(parameter, request.query.unwrap_or_default()))
}

/// The header matches that count: the first of each name.
pub(super) fn distinct_headers(all: &[HeaderMatch]) -> impl Iterator<Item = &HeaderMatch> {
    all.iter().enumerate().filter(|(at, it)| !all.iter().take(*at).any(|earlier| earlier.name == it.name)).map(|(_, it)| it)
}

/// The parameter matches that count: the first of each name.
pub(super) fn distinct_query(all: &[QueryMatch]) -> impl Iterator<Item = &QueryMatch> {
    all.iter().enumerate().filter(|(at, it)| !all.iter().take(*at).any(|earlier| earlier.name == it.name)).map(|(_, it)| it)
}

/// A prefix as the text that a path must equal or continue with `/`: one slash at its end means nothing. Empty for `/`, which
/// matches everything.
pub(super) fn prefix_key(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

pub(crate) fn header_matches(wanted: &HeaderMatch, headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(&wanted.name) else { return false };
    match &wanted.value {
        ValueMatch::Exact(text) => text.as_bytes() == value.as_bytes(),
        ValueMatch::Regex(pattern) => std::str::from_utf8(value.as_bytes()).is_ok_and(|text| pattern.matches(text)),
    }
}

pub(super) fn parameter_matches(wanted: &QueryMatch, query: &str) -> bool {
    let Some(raw) = first_parameter(query, &wanted.name) else { return false };
    match &wanted.value {
        ValueMatch::Exact(text) => decodes_to(raw, text),
        ValueMatch::Regex(pattern) => decoded(raw).is_some_and(|text| pattern.matches(&text)),
    }
}

/// The value, still encoded, of the first parameter with this name.
fn first_parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(raw_name, _)| decodes_to(raw_name, name))
        .map(|(_, value)| value)
}

fn decodes_to(raw: &str, text: &str) -> bool {
    decoded_bytes(raw).eq(text.bytes())
}

/// Allocates only when something in `raw` is encoded.
fn decoded(raw: &str) -> Option<Cow<'_, str>> {
    if raw.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        String::from_utf8(decoded_bytes(raw).collect()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(raw))
    }
}

fn decoded_bytes(raw: &str) -> impl Iterator<Item = u8> {
    let mut rest = raw.as_bytes();
    std::iter::from_fn(move || {
        let (byte, after) = match rest {
            [b'%', high, low, after @ ..] => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', rest.get(1..)?),
            },
            [b'+', after @ ..] => (b' ', after),
            [byte, after @ ..] => (*byte, after),
            [] => return None,
        };
        rest = after;
        Some(byte)
    })
}

/// The value of a hexadecimal digit.
pub(super) const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::model::Pattern;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn exact(text: &str) -> ValueMatch {
        ValueMatch::Exact(text.into())
    }

    fn regex(text: &str) -> ValueMatch {
        ValueMatch::Regex(Pattern::new(text).unwrap())
    }

    fn query_holds(name: &str, value: ValueMatch, query: &str) -> bool {
        parameter_matches(&QueryMatch { name: name.into(), value }, query)
    }

    #[test]
    fn query_parameters_are_compared_after_decoding() {
        for (value, query, holds) in [
            (exact("1"), "a=1", true),
            (exact("1"), "b=2&a=1", true),
            (exact("1"), "a=2&a=1", false),
            (exact("1"), "A=1", false),
            (exact("1"), "a=1;b=2", false),
            (exact("1;b=2"), "a=1;b=2", true),
            (exact(""), "a", true),
            (exact(""), "a=", true),
            (exact(""), "", false),
            (exact(""), "&&", false),
            (exact("b=c"), "a=b=c", true),
            (exact("x y"), "a=x+y", true),
            (exact("x y"), "a=x%20y", true),
            (exact("x+y"), "a=x%2by", true),
            (exact("x+y"), "a=x+y", false),
            (exact("ä"), "a=%C3%A4", true),
            (exact("%"), "a=%", true),
            (exact("%zz"), "a=%zz", true),
            (exact("%4"), "a=%4", true),
            (exact("%A"), "a=%%41", true),
            (exact("1"), "%61=1", true),
            (regex("[0-9]+"), "a=12", true),
            (regex("[0-9]+"), "a=12x", false),
            (regex("x y"), "a=x+y", true),
            (regex("x.y"), "a=x%20y", true),
            (regex(".*"), "a=%ff", false),
            (regex(".*"), "b=1", false),
        ] {
            assert_eq!(query_holds("a", value.clone(), query), holds, "{value:?} on {query}");
        }
        assert!(!query_holds("", exact(""), ""));
    }

    #[test]
    fn headers_are_compared_by_the_first_line_and_never_panic_on_bytes() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("one"));
        headers.append("x-a", HeaderValue::from_static("two"));
        headers.append("x-bytes", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        headers.append("x-utf8", HeaderValue::from_bytes("grün".as_bytes()).unwrap());
        for (name, value, holds) in [
            ("x-a", exact("one"), true),
            ("X-A", exact("one"), true),
            ("x-a", exact("two"), false),
            ("x-a", exact("One"), false),
            ("x-a", regex("o.e"), true),
            ("x-a", regex("o"), false),
            ("x-bytes", regex(".*"), false),
            ("x-bytes", exact("\u{ff}\u{fe}"), false),
            ("x-utf8", exact("grün"), true),
            ("x-utf8", regex("gr.n"), true),
            ("x-none", regex(".*"), false),
            ("x-none", exact(""), false),
        ] {
            let wanted = HeaderMatch { name: HeaderName::from_bytes(name.as_bytes()).unwrap(), value };
            assert_eq!(header_matches(&wanted, &headers), holds, "{wanted:?}");
        }
    }

    #[test]
    fn of_a_name_asked_for_twice_only_the_first_counts() {
        let header = |value| HeaderMatch { name: HeaderName::from_static("x-a"), value };
        let parameter = |value| QueryMatch { name: "q".into(), value };
        let wanted = HttpMatch {
            headers: vec![header(exact("one")), header(exact("two"))],
            query: vec![parameter(exact("1")), parameter(exact("2"))],
            ..HttpMatch::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("one"));
        assert!(conditions_hold(&wanted, RequestFacts { method: &Method::GET, query: Some("q=1"), headers: &headers }));
        assert!(!conditions_hold(&wanted, RequestFacts { method: &Method::GET, query: Some("q=2"), headers: &headers }));
        assert!(!conditions_hold(&wanted, RequestFacts { method: &Method::GET, query: None, headers: &headers }));
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text in "\\PC{0,30}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert!(decodes_to(&encoded, &text));
            prop_assert_eq!(decoded(&encoded), Some(Cow::Borrowed(&*text)));
        }

        #[test]
        fn no_query_panics(query in "[a%+&=0-9;\\PC]{0,60}", name in "\\PC{0,5}") {
            let _ = query_holds(&name, exact("a"), &query);
            let _ = query_holds(&name, regex(".*"), &query);
        }
    }
}

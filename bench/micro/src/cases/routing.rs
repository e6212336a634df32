//! Finding the rule of a request.

use std::hint::black_box;
use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use weir_core::route::{HeaderMatch, HttpMatch, HttpRule, PathMatch, RouteKind, RouteRef, RouteTable, Timeouts, ValueMatch};

use super::Case;

const SIZES: [usize; 3] = [10, 1_000, 10_000];

/// How rules differ from each other.
#[derive(Clone, Copy)]
enum Kind {
    Exact,
    Prefix,
    /// A third each of prefixes with a header, of prefixes and of exact paths. The first and the last have a header.
    Mixed,
    /// One path, and a header that differs: rules among which no index can choose.
    OneHeaderEach,
}

const VARIANT: HeaderName = HeaderName::from_static("x-variant");

pub(super) fn cases() -> Vec<Case> {
    let kinds =
        [("exact", Kind::Exact), ("prefix", Kind::Prefix), ("mixed", Kind::Mixed), ("one-header-each", Kind::OneHeaderEach)];
    let mut cases = Vec::new();
    for (name, kind) in kinds {
        for size in SIZES {
            let Some(rules) = (0..size).map(|number| rule(kind, number)).collect::<Option<Vec<_>>>() else { continue };
            let table = Rc::new(RouteTable::new(rules));
            for (which, number) in [("first", 0), ("last", size - 1), ("none", size)] {
                cases.push(lookup(format!("route/{name}/{size}/{which}"), kind, &table, number));
            }
        }
    }
    cases
}

fn lookup(name: String, kind: Kind, table: &Rc<RouteTable>, number: usize) -> Case {
    let table = Rc::clone(table);
    let path = match kind {
        Kind::OneHeaderEach => "/shop".to_owned(),
        Kind::Exact => path(number),
        Kind::Prefix | Kind::Mixed => path(number) + "/items/1",
    };
    let mut headers = HeaderMap::new();
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(http::header::USER_AGENT, HeaderValue::from_static("curl/8"));
    headers.insert(VARIANT, HeaderValue::from(number));
    Case::new(name, move || {
        black_box(table.find(black_box(&Method::GET), black_box(&path), None, black_box(&headers)));
    })
}

fn path(number: usize) -> String {
    format!("/api/v1/resource-{number:05}")
}

/// `None`: the names are no names, which they are.
fn rule(kind: Kind, number: usize) -> Option<HttpRule> {
    let header = HeaderMatch { name: VARIANT, value: ValueMatch::Exact(number.to_string().into()) };
    let (path, headers) = match (kind, number % 3) {
        (Kind::Mixed, 0) => (PathMatch::Prefix(path(number).into()), vec![header]),
        (Kind::Prefix, _) | (Kind::Mixed, 1) => (PathMatch::Prefix(path(number).into()), Vec::new()),
        (Kind::Exact | Kind::Mixed, _) => (PathMatch::Exact(path(number).into()), Vec::new()),
        (Kind::OneHeaderEach, _) => (PathMatch::Prefix("/shop".into()), vec![header]),
    };
    Some(HttpRule {
        route: RouteRef { kind: RouteKind::Http, namespace: "shop".parse().ok()?, name: "web".parse().ok()? },
        index: u32::try_from(number).ok()?,
        name: "".into(),
        created_seconds: 0,
        matches: vec![HttpMatch { path, headers, ..HttpMatch::default() }],
        filters: Vec::new(),
        mirrors: Vec::new(),
        backends: Vec::new(),
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        invalid: None,
    })
}

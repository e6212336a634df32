//! The index against a reference: every match tried in turn, and compared by the specification's words.

use std::cmp::Ordering;
use std::fmt;
use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::tests::rule;
use super::{Found, RouteTable};
use crate::route::model::{HeaderMatch, HttpMatch, HttpRule, PathMatch, Pattern, QueryMatch, RouteKind, RouteRef, ValueMatch};

static PATH_PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| patterns(&["/a.*", "/(a|b)/?", ".*b", "/a/[ab]+(/.*)?"]));
static VALUE_PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| patterns(&["[12]", "1|3", ".*"]));

fn patterns(sources: &[&str]) -> Vec<Pattern> {
    sources.iter().map(|it| Pattern::new(it).unwrap()).collect()
}

struct Request {
    method: Method,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

fn reference(rules: &[HttpRule], request: &Request) -> Option<Found> {
    let mut best: Option<(usize, usize, HttpMatch)> = None;
    for (number, rule) in rules.iter().enumerate() {
        let matches = if rule.matches.is_empty() { vec![HttpMatch::default()] } else { rule.matches.clone() };
        for (position, candidate) in matches.into_iter().enumerate().filter(|(_, it)| satisfied(it, request)) {
            let better = best.as_ref().is_none_or(|(best_rule, best_position, best_match)| {
                compare((&rules[*best_rule], *best_position, best_match), (rule, position, &candidate)) == Ordering::Greater
            });
            if better {
                best = Some((number, position, candidate));
            }
        }
    }
    best.map(|(rule, _, matched)| Found {
        rule,
        prefix_len: match matched.path {
            PathMatch::Prefix(prefix) => prefix.strip_suffix('/').unwrap_or(&prefix).len(),
            PathMatch::Exact(_) | PathMatch::Regex(_) => 0,
        },
    })
}

fn satisfied(wanted: &HttpMatch, request: &Request) -> bool {
    let path = match &wanted.path {
        PathMatch::Exact(path) => **path == request.path,
        PathMatch::Prefix(prefix) if **prefix == *"/" => true,
        PathMatch::Prefix(prefix) => {
            let segments: Vec<_> = prefix.strip_suffix('/').unwrap_or(prefix).split('/').collect();
            request.path.split('/').take(segments.len()).eq(segments.iter().copied())
        }
        PathMatch::Regex(pattern) => pattern.matches(&request.path),
    };
    let value = |wanted: &ValueMatch, text: &str| match wanted {
        ValueMatch::Exact(exact) => **exact == *text,
        ValueMatch::Regex(pattern) => pattern.matches(text),
    };
    let header = |it: &HeaderMatch| request.headers.get(&it.name).is_some_and(|v| value(&it.value, v.to_str().unwrap()));
    let query = |it: &QueryMatch| {
        let mut pairs = request.query.iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| **name == *it.name).is_some_and(|(_, text)| value(&it.value, text))
    };
    path && wanted.method.as_ref().is_none_or(|it| *it == request.method)
        && wanted.headers.iter().all(header)
        && wanted.query.iter().all(query)
}

fn compare(left: (&HttpRule, usize, &HttpMatch), right: (&HttpRule, usize, &HttpMatch)) -> Ordering {
    let rank = |path: &PathMatch| match path {
        PathMatch::Exact(_) => (0, 0),
        PathMatch::Prefix(prefix) if **prefix == *"/" => (3, 0),
        PathMatch::Prefix(prefix) => (1, -prefix.chars().count().cast_signed()),
        PathMatch::Regex(_) => (2, 0),
    };
    let name = |rule: &HttpRule| format!("{}/{}", rule.route.namespace, rule.route.name);
    rank(&left.2.path)
        .cmp(&rank(&right.2.path))
        .then(left.2.method.is_none().cmp(&right.2.method.is_none()))
        .then(right.2.headers.len().cmp(&left.2.headers.len()))
        .then(right.2.query.len().cmp(&left.2.query.len()))
        .then(left.0.created_seconds.cmp(&right.0.created_seconds))
        .then(name(left.0).cmp(&name(right.0)))
        .then(left.0.index.cmp(&right.0.index))
        .then(left.1.cmp(&right.1))
}

fn path_text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["/a", "/b", "/ab", "/"]), 1..5).prop_map(|it| it.concat())
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        path_text().prop_map(|it| PathMatch::Exact(it.into())),
        path_text().prop_map(|it| PathMatch::Prefix(it.into())),
        path_text().prop_map(|it| PathMatch::Prefix(it.into())),
        prop::sample::select(&PATH_PATTERNS[..]).prop_map(PathMatch::Regex),
    ]
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        prop::sample::select(vec!["1", "2"]).prop_map(|it| ValueMatch::Exact(it.into())),
        prop::sample::select(&VALUE_PATTERNS[..]).prop_map(ValueMatch::Regex),
    ]
}

fn keyed() -> impl Strategy<Value = Vec<(String, ValueMatch)>> {
    prop::collection::btree_map("[xy]", value_match(), 0..3).prop_map(|it| it.into_iter().collect())
}

prop_compose! {
    fn any_match()(path in path_match(), method in 0..4u8, headers in keyed(), query in keyed()) -> HttpMatch {
        HttpMatch {
            path,
            method: match method { 0 => Some(Method::GET), 1 => Some(Method::POST), _ => None },
            headers: headers.into_iter().map(|(name, value)| HeaderMatch { name: name.parse().unwrap(), value }).collect(),
            query: query.into_iter().map(|(name, value)| QueryMatch { name: name.into(), value }).collect(),
        }
    }
}

prop_compose! {
    fn any_rule()(
        matches in prop::collection::vec(any_match(), 0..4),
        created_seconds in 0..3i64,
        namespace in prop::sample::select(vec!["a", "a-b"]),
        name in "[a-c]",
        index in 0..3u32,
    ) -> HttpRule {
        let route = RouteRef { kind: RouteKind::Http, namespace: namespace.parse().unwrap(), name: name.parse().unwrap() };
        HttpRule { route, index, created_seconds, ..rule(matches) }
    }
}

prop_compose! {
    fn any_request()(
        path in prop_oneof![9 => path_text(), 1 => Just("*".to_owned())],
        method in prop::sample::select(vec![Method::GET, Method::POST, Method::PUT]),
        query in prop::option::of("([xyz]=[123]&){0,3}"),
        headers in prop::collection::vec(("[xyz]", "[123]"), 0..4),
    ) -> Request {
        let header = |(name, value): &(String, String)| -> (HeaderName, HeaderValue) { (name.parse().unwrap(), value.parse().unwrap()) };
        let mut map = HeaderMap::new();
        for (name, value) in headers.iter().map(header) {
            map.append(name, value);
        }
        Request { method, path, query, headers: map }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}?{:?} {:?}", self.method, self.path, self.query, self.headers)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_index_finds_what_a_linear_search_finds(
        rules in prop::collection::vec(any_rule(), 0..12),
        requests in prop::collection::vec(any_request(), 1..12),
    ) {
        let table = RouteTable::new(rules.clone());
        for request in &requests {
            let found = table.find(&request.method, &request.path, request.query.as_deref(), &request.headers);
            prop_assert_eq!(found, reference(&rules, request), "{:?}", request);
        }
    }
}

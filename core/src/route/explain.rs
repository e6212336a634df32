//! Why a request falls under the rule that it falls under, for people.
//!
//! [`consider`] walks over every match in the order of precedence and says of each what keeps it from the request.
//! [`RouteTable::find`] asks the same conditions through an index; a property test holds that both agree.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};

use super::matching::{RequestFacts, distinct_headers, distinct_query, header_matches, parameter_matches, prefix_key};
use super::model::{HttpMatch, HttpRule, PathMatch};
use super::precedence::Precedence;
use super::table::RouteTable;

/// What became of one match of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Position in [`RouteTable::rules`].
    pub rule: usize,
    /// Position in the rule's matches. `None`: the rule has none, and matches everything.
    pub matched: Option<usize>,
    /// Whether the request satisfies it.
    pub verdict: Verdict,
}

/// Whether a request satisfies a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does, and no more specific one is satisfied: this is the one.
    Taken,
    /// It does, and a more specific one does as well.
    LessSpecific,
    /// It does not.
    Missed(Missed),
}

/// The first condition of a match that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missed {
    /// The path.
    Path,
    /// The method.
    Method,
    /// This header is not there.
    NoHeader(HeaderName),
    /// This header has another value.
    Header(HeaderName),
    /// This query parameter is not there, or has another value.
    Query(Arc<str>),
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("the path is another"),
            Self::Method => f.write_str("the method is another"),
            Self::NoHeader(name) => write!(f, "there is no header {name}"),
            Self::Header(name) => write!(f, "header {name} has another value"),
            Self::Query(name) => write!(f, "query parameter {name} is missing or has another value"),
        }
    }
}

/// Every match of a table, the most specific one first.
#[must_use]
pub fn consider(table: &RouteTable, method: &Method, path: &str, query: Option<&str>, headers: &HeaderMap) -> Vec<Considered> {
    let catch_all = HttpMatch::default();
    let mut ranked: Vec<(Precedence, usize, Option<usize>, &HttpMatch)> = Vec::new();
    for (number, rule) in table.rules().iter().enumerate() {
        if rule.matches.is_empty() {
            ranked.push((Precedence::new(rule, &catch_all, 0), number, None, &catch_all));
        }
        for (position, matched) in rule.matches.iter().enumerate() {
            ranked.push((Precedence::new(rule, matched, position), number, Some(position), matched));
        }
    }
    ranked.sort_by(|(left, ..), (right, ..)| left.cmp(right));
    let request = RequestFacts { method, query, headers };
    let mut taken = false;
    let judged = ranked.into_iter().map(|(_, rule, matched, wanted)| {
        let verdict = match missed(wanted, path, request) {
            Some(why) => Verdict::Missed(why),
            None if std::mem::replace(&mut taken, true) => Verdict::LessSpecific,
            None => Verdict::Taken,
        };
        Considered { rule, matched, verdict }
    });
    judged.collect()
}

fn missed(wanted: &HttpMatch, path: &str, request: RequestFacts<'_>) -> Option<Missed> {
    if !path_matches(&wanted.path, path) {
        return Some(Missed::Path);
    }
    if wanted.method.as_ref().is_some_and(|method| method != request.method) {
        return Some(Missed::Method);
    }
    let header = distinct_headers(&wanted.headers).find(|header| !header_matches(header, request.headers));
    if let Some(header) = header {
        let name = header.name.clone();
        return Some(if request.headers.contains_key(&name) { Missed::Header(name) } else { Missed::NoHeader(name) });
    }
    let query = request.query.unwrap_or_default();
    distinct_query(&wanted.query).find(|it| !parameter_matches(it, query)).map(|it| Missed::Query(Arc::clone(&it.name)))
}

fn path_matches(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => **exact == *path,
        PathMatch::Prefix(prefix) => {
            let rest = path.strip_prefix(prefix_key(prefix));
            prefix_key(prefix).is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(pattern) => pattern.matches(path),
    }
}

/// A match as a line: `path prefix /v2, method GET, header x-user = ada`.
#[must_use]
pub fn describe(matched: &HttpMatch) -> String {
    use super::model::ValueMatch;
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(text) => format!("= {text}"),
        ValueMatch::Regex(pattern) => format!("~ {}", pattern.source()),
    };
    let mut parts = vec![match &matched.path {
        PathMatch::Exact(path) => format!("path = {path}"),
        PathMatch::Prefix(prefix) => format!("path prefix {prefix}"),
        PathMatch::Regex(pattern) => format!("path ~ {}", pattern.source()),
    }];
    parts.extend(matched.method.as_ref().map(|method| format!("method {method}")));
    parts.extend(matched.headers.iter().map(|it| format!("header {} {}", it.name, value(&it.value))));
    parts.extend(matched.query.iter().map(|it| format!("query {} {}", it.name, value(&it.value))));
    parts.join(", ")
}

/// The match of a rule that was considered, as a line.
#[must_use]
pub fn describe_considered(rule: &HttpRule, considered: &Considered) -> String {
    match considered.matched.and_then(|position| rule.matches.get(position)) {
        Some(matched) => describe(matched),
        None => "everything".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{HeaderMatch, Pattern, QueryMatch, RouteKind, RouteRef, Timeouts, ValueMatch};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn rule(number: u32, matches: Vec<HttpMatch>) -> HttpRule {
        HttpRule {
            route: RouteRef { kind: RouteKind::Http, namespace: "shop".parse().unwrap(), name: "route".parse().unwrap() },
            index: number,
            name: "".into(),
            created_seconds: 0,
            matches,
            filters: vec![],
            mirrors: vec![],
            backends: vec![],
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            invalid: None,
        }
    }

    fn any_match() -> impl Strategy<Value = HttpMatch> {
        let text = || "(/[ab]){0,3}/?";
        let path = prop_oneof![
            text().prop_map(|it| PathMatch::Exact(it.into())),
            text().prop_map(|it| PathMatch::Prefix(if it.is_empty() { "/".into() } else { it.into() })),
            Just(PathMatch::Regex(Pattern::new("/[ab].*").unwrap())),
        ];
        let method = option::of(prop_oneof![Just(Method::GET), Just(Method::POST)]);
        let value = || "[xy]".prop_map(|it| ValueMatch::Exact(it.into()));
        let header = ("[hk]", value()).prop_map(|(name, value)| HeaderMatch { name: name.parse().unwrap(), value });
        let query = ("[qr]", value()).prop_map(|(name, value)| QueryMatch { name: name.into(), value });
        (path, method, vec(header, 0..3), vec(query, 0..3)).prop_map(|(path, method, headers, query)| HttpMatch {
            path,
            headers,
            query,
            method,
        })
    }

    proptest! {
        #[test]
        fn what_is_said_to_be_taken_is_what_the_table_finds(
            rules in vec(vec(any_match(), 0..3), 0..6),
            path in "(/[ab]){1,3}/?",
            query in option::of("[qr]=[xy](&[qr]=[xy])?"),
            headers in vec(("[hk]", "[xy]"), 0..3),
            method in prop_oneof![Just(Method::GET), Just(Method::POST)],
        ) {
            let rules = (0..).zip(rules).map(|(number, matches)| rule(number, matches)).collect();
            let table = RouteTable::new(rules);
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            let found = table.find(&method, &path, query.as_deref(), &map).map(|found| found.rule);
            let considered = consider(&table, &method, &path, query.as_deref(), &map);
            let taken: Vec<usize> =
                considered.iter().filter(|it| it.verdict == Verdict::Taken).map(|it| it.rule).collect();
            prop_assert_eq!(&taken, &found.into_iter().collect::<Vec<_>>());
            // What is more specific than the one that is taken is missed, each for a reason.
            let before = considered.iter().take_while(|it| it.verdict != Verdict::Taken);
            prop_assert!(before.into_iter().all(|it| matches!(it.verdict, Verdict::Missed(_))));
        }
    }

    #[test]
    fn the_first_condition_that_does_not_hold_is_named() {
        let header = |name: &str| HeaderMatch { name: name.parse().unwrap(), value: ValueMatch::Exact("1".into()) };
        let wanted = HttpMatch {
            path: PathMatch::Prefix("/v2".into()),
            method: Some(Method::GET),
            headers: vec![header("x-one"), header("x-two")],
            query: vec![QueryMatch { name: "q".into(), value: ValueMatch::Regex(Pattern::new("a+").unwrap()) }],
        };
        assert_eq!(describe(&wanted), "path prefix /v2, method GET, header x-one = 1, header x-two = 1, query q ~ a+");
        let table = RouteTable::new(vec![rule(0, vec![wanted])]);
        let mut headers = HeaderMap::new();
        let ask = |method: &Method, path: &str, query: Option<&str>, headers: &HeaderMap| match &consider(
            &table, method, path, query, headers,
        )[0]
        .verdict
        {
            Verdict::Missed(why) => why.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(ask(&Method::GET, "/v2x", None, &headers), "the path is another");
        assert_eq!(ask(&Method::PUT, "/v2/x", None, &headers), "the method is another");
        assert_eq!(ask(&Method::GET, "/v2", None, &headers), "there is no header x-one");
        headers.insert("x-one", "1".parse().unwrap());
        headers.insert("x-two", "2".parse().unwrap());
        assert_eq!(ask(&Method::GET, "/v2", None, &headers), "header x-two has another value");
        headers.insert("x-two", "1".parse().unwrap());
        assert_eq!(ask(&Method::GET, "/v2", Some("q=b"), &headers), "query parameter q is missing or has another value");
        assert_eq!(ask(&Method::GET, "/v2", Some("q=aa"), &headers), "Taken");
    }
}

//! Which of two matches is the more specific one.
//!
//! The Gateway API orders every match of every route attached to a service port, not whole routes. [`Precedence`] is that order
//! as a derived comparison: its fields stand in the order in which they count, and the smallest value wins.

use std::cmp::Reverse;

use super::matching::{distinct_headers, distinct_query, prefix_key};
use super::model::{HttpMatch, HttpRule, PathMatch};

/// The rank of one match. Less is more specific.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    path: PathRank,
    /// A match that asks for a method comes before one that does not.
    method: Reverse<bool>,
    /// The more headers, the earlier.
    headers: Reverse<usize>,
    /// The more query parameters, the earlier.
    query: Reverse<usize>,
    /// The oldest route first.
    created_seconds: i64,
    /// `namespace/name`. As one text and not as a pair: `-` sorts before `/`, so `a-b/x` comes before `a/x`.
    route: String,
    rule: u32,
    position: usize,
}

/// The rank of a path.
///
/// The specification leaves open where regular expressions stand. Here they come after every prefix except `/`: a prefix says
/// how specific it is and an expression does not, but `/` says nothing about the path at all, and a catch-all rule that hid
/// every expression would make them useless. Among themselves expressions are equal and the next criteria decide; the length of
/// an expression tells nothing about what it admits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    /// By length, the longest first.
    Prefix(Reverse<usize>),
    Regex,
    /// The prefix `/`.
    Any,
}

impl PathRank {
    fn of(path: &PathMatch) -> Self {
        match path {
            PathMatch::Exact(_) => Self::Exact,
            PathMatch::Prefix(prefix) if prefix_key(prefix).is_empty() => Self::Any,
            PathMatch::Prefix(prefix) => Self::Prefix(Reverse(prefix.len())),
            PathMatch::Regex(_) => Self::Regex,
        }
    }
}

impl Precedence {
    /// The rank of a rule's match at `position` (from 0) in its list.
    #[must_use]
    pub fn new(rule: &HttpRule, matched: &HttpMatch, position: usize) -> Self {
        Self {
            path: PathRank::of(&matched.path),
            method: Reverse(matched.method.is_some()),
            headers: Reverse(distinct_headers(&matched.headers).count()),
            query: Reverse(distinct_query(&matched.query).count()),
            created_seconds: rule.created_seconds,
            route: rule.route.to_string(),
            rule: rule.index,
            position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::model::{HeaderMatch, Pattern, QueryMatch, RouteKind, RouteRef, Timeouts, ValueMatch};
    use http::Method;

    fn rule(created_seconds: i64, namespace: &str, name: &str, index: u32) -> HttpRule {
        HttpRule {
            route: RouteRef { kind: RouteKind::Http, namespace: namespace.parse().unwrap(), name: name.parse().unwrap() },
            index,
            name: "".into(),
            created_seconds,
            matches: Vec::new(),
            filters: Vec::new(),
            mirrors: Vec::new(),
            backends: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            invalid: None,
        }
    }

    fn on(path: PathMatch, method: bool, headers: &[&str], query: &[&str]) -> HttpMatch {
        let value = || ValueMatch::Exact("1".into());
        HttpMatch {
            path,
            method: method.then_some(Method::GET),
            headers: headers.iter().map(|it| HeaderMatch { name: it.parse().unwrap(), value: value() }).collect(),
            query: query.iter().map(|it| QueryMatch { name: (*it).into(), value: value() }).collect(),
        }
    }

    fn prefix(text: &str) -> PathMatch {
        PathMatch::Prefix(text.into())
    }

    #[test]
    fn criteria_count_in_the_order_of_the_gateway_api() {
        let (old, new) = (rule(1, "z", "z", 9), rule(2, "a", "a", 0));
        let regex = || PathMatch::Regex(Pattern::new("/a.*").unwrap());
        // Each line is more specific than the next, although everything that counts less speaks against it.
        let order = [
            Precedence::new(&new, &on(PathMatch::Exact("/a".into()), false, &[], &[]), 9),
            Precedence::new(&new, &on(prefix("/a/b/c"), false, &[], &[]), 9),
            Precedence::new(&new, &on(prefix("/a/b/"), false, &[], &[]), 9),
            Precedence::new(&new, &on(prefix("/a/b"), true, &[], &[]), 9),
            Precedence::new(&new, &on(prefix("/a/b"), false, &["x", "y"], &[]), 9),
            Precedence::new(&new, &on(prefix("/a/b"), false, &["x"], &["x", "y"]), 9),
            Precedence::new(&new, &on(prefix("/a/b"), false, &["x"], &["x"]), 9),
            Precedence::new(&old, &on(prefix("/a/b"), false, &["x"], &[]), 9),
            Precedence::new(&rule(2, "a-b", "z", 9), &on(prefix("/a/b"), false, &["x"], &[]), 9),
            Precedence::new(&rule(2, "a", "a", 9), &on(prefix("/a/b"), false, &["x"], &[]), 9),
            Precedence::new(&rule(2, "a", "b", 0), &on(prefix("/a/b"), false, &["x"], &[]), 9),
            Precedence::new(&rule(2, "a", "b", 1), &on(prefix("/a/b"), false, &["x"], &[]), 0),
            Precedence::new(&rule(2, "a", "b", 1), &on(prefix("/a/b"), false, &["x"], &[]), 1),
            Precedence::new(&new, &on(regex(), true, &["x"], &["x"]), 0),
            Precedence::new(&new, &on(prefix("/"), true, &["x", "y"], &["x"]), 0),
            Precedence::new(&new, &HttpMatch::default(), 0),
        ];
        for pair in order.windows(2) {
            assert!(pair[0] < pair[1], "{:#?} should come before {:#?}", pair[0], pair[1]);
        }
    }

    #[test]
    fn a_name_asked_for_twice_counts_once() {
        let rule = rule(0, "a", "a", 0);
        let once = Precedence::new(&rule, &on(prefix("/"), false, &["x"], &["q"]), 0);
        assert_eq!(Precedence::new(&rule, &on(prefix("/"), false, &["x", "X"], &["q", "q"]), 0), once);
        // Names of query parameters have case.
        assert!(Precedence::new(&rule, &on(prefix("/"), false, &["x"], &["q", "Q"]), 0) < once);
    }
}

//! The rules of one service port, compiled so that a request pays for its path and not for the number of rules.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method};

use super::matching::{RequestFacts, conditions_hold, prefix_key};
use super::model::{HttpMatch, HttpRule, PathMatch};
use super::precedence::Precedence;

/// The rules of all routes attached to one service port.
///
/// Matches are indexed by path. An exact path costs one hash lookup, prefixes one for each segment of the request's path (never
/// more than the deepest prefix has); only regular expressions, and matches that share one path and differ in method, headers
/// or query, are tried one after the other.
#[derive(Clone, Default)]
pub struct RouteTable {
    rules: Vec<HttpRule>,
    exact: PathIndex,
    /// Keyed by [`prefix_key`]; without the prefix `/`.
    prefixes: PathIndex,
    regexes: Vec<Entry>,
    /// Matches of the prefix `/`.
    anything: Vec<Entry>,
}

/// The rule that a request falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Position in [`RouteTable::rules`].
    pub rule: usize,
    /// How many bytes of the path the matched prefix is long, without a slash at its end: 2 where `/v` or `/v/` matched `/v/x`.
    /// 0 for the prefix `/`, and where the path was not matched by a prefix.
    pub prefix_len: usize,
}

/// One match of one rule.
#[derive(Clone, Copy)]
struct Entry {
    rule: usize,
    /// Position in the rule's matches; past their end for a rule without any.
    position: usize,
}

/// Matches by path. Each list is in the order of precedence.
#[derive(Clone, Default)]
struct PathIndex {
    entries: HashMap<Arc<str>, Vec<Entry>>,
    /// Length of the longest key: a longer text need not be hashed, so a huge path costs no more than an ordinary one.
    longest: usize,
    /// Slashes in the key that has the most.
    deepest: usize,
}

impl RouteTable {
    /// Compiles rules. Their order means nothing, see [`Precedence`], unless two are alike in everything that counts.
    #[must_use]
    pub fn new(rules: Vec<HttpRule>) -> Self {
        let catch_all = HttpMatch::default();
        let mut ranked: Vec<(Precedence, Entry, &PathMatch)> = Vec::with_capacity(rules.len());
        for (number, rule) in rules.iter().enumerate() {
            let matches = if rule.matches.is_empty() { std::slice::from_ref(&catch_all) } else { &rule.matches };
            ranked.extend(matches.iter().enumerate().map(|(position, matched)| {
                (Precedence::new(rule, matched, position), Entry { rule: number, position }, &matched.path)
            }));
        }
        ranked.sort_by(|(left, ..), (right, ..)| left.cmp(right));

        let mut table = Self::default();
        for (_, entry, path) in ranked {
            match path {
                PathMatch::Exact(path) => table.exact.insert(path, entry),
                PathMatch::Prefix(prefix) => match prefix_key(prefix) {
                    "" => table.anything.push(entry),
                    key => table.prefixes.insert(key, entry),
                },
                PathMatch::Regex(_) => table.regexes.push(entry),
            }
        }
        table.rules = rules;
        table
    }

    /// The rules as they were given.
    #[must_use]
    pub fn rules(&self) -> &[HttpRule] {
        &self.rules
    }

    /// The rule that was found.
    ///
    /// # Panics
    ///
    /// If `found` comes from another table, one with more rules.
    #[must_use]
    pub fn rule(&self, found: Found) -> &HttpRule {
        &self.rules[found.rule]
    }

    /// The rule of the most specific match that a request satisfies. `None`: no rule is for it.
    ///
    /// `uri_path` and `query` are as they stand in the request, not decoded. Nothing is allocated, except where a regular
    /// expression looks at a query parameter that is percent-encoded.
    #[must_use]
    pub fn find(&self, method: &Method, uri_path: &str, query: Option<&str>, headers: &HeaderMap) -> Option<Found> {
        let request = RequestFacts { method, query, headers };
        // The four steps are the order of `Precedence`'s path rank.
        self.first_of(self.exact.at(uri_path), request)
            .or_else(|| self.longest_prefix(uri_path, request))
            .or_else(|| self.first_regex(uri_path, request))
            .or_else(|| self.first_of(&self.anything, request))
    }

    fn longest_prefix(&self, path: &str, request: RequestFacts<'_>) -> Option<Found> {
        segment_prefixes(path, self.prefixes.deepest).find_map(|prefix| {
            let found = self.first_of(self.prefixes.at(prefix), request)?;
            Some(Found { prefix_len: prefix.len(), ..found })
        })
    }

    fn first_regex(&self, path: &str, request: RequestFacts<'_>) -> Option<Found> {
        let mut entries = self.regexes.iter();
        let entry = entries.find(|entry| {
            self.matched(**entry).is_some_and(
                |it| matches!(&it.path, PathMatch::Regex(pattern) if conditions_hold(it, request) && pattern.matches(path)),
            )
        })?;
        Some(Found { rule: entry.rule, prefix_len: 0 })
    }

    /// The first entry whose conditions beside the path hold.
    fn first_of(&self, entries: &[Entry], request: RequestFacts<'_>) -> Option<Found> {
        let entry = entries.iter().find(|entry| self.matched(**entry).is_none_or(|it| conditions_hold(it, request)))?;
        Some(Found { rule: entry.rule, prefix_len: 0 })
    }

    /// `None` for the entry of a rule that has no matches, which matches everything.
    fn matched(&self, entry: Entry) -> Option<&HttpMatch> {
        self.rules.get(entry.rule)?.matches.get(entry.position)
    }
}

impl PathIndex {
    fn insert(&mut self, key: &str, entry: Entry) {
        self.longest = self.longest.max(key.len());
        self.deepest = self.deepest.max(memchr::memchr_iter(b'/', key.as_bytes()).count());
        self.entries.entry(key.into()).or_default().push(entry);
    }

    fn at(&self, key: &str) -> &[Entry] {
        if key.len() > self.longest {
            return &[];
        }
        self.entries.get(key).map_or(&[], Vec::as_slice)
    }
}

/// The prefixes of a path that end where a segment ends, the longest first, without the empty one and those with more than
/// `deepest` slashes: `/a/b/c` has `/a/b` and `/a` at a depth of 2.
fn segment_prefixes(path: &str, deepest: usize) -> impl Iterator<Item = &str> {
    let end = memchr::memchr_iter(b'/', path.as_bytes()).nth(deepest);
    let longest = end.and_then(|end| path.get(..end)).unwrap_or(path);
    std::iter::successors(Some(longest), |prefix| Some(prefix.rsplit_once('/')?.0)).filter(|prefix| !prefix.is_empty())
}

/// Tables are equal when their rules are; the index follows from them.
impl PartialEq for RouteTable {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable").field("rules", &self.rules).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod against_linear_search;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::model::{Pattern, RouteKind, RouteRef, Timeouts};

    pub(super) fn rule(matches: Vec<HttpMatch>) -> HttpRule {
        HttpRule {
            route: RouteRef { kind: RouteKind::Http, namespace: "shop".parse().unwrap(), name: "web".parse().unwrap() },
            index: 0,
            name: "".into(),
            created_seconds: 0,
            matches,
            filters: Vec::new(),
            mirrors: Vec::new(),
            backends: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            invalid: None,
        }
    }

    fn on(path: PathMatch) -> HttpRule {
        rule(vec![HttpMatch { path, ..HttpMatch::default() }])
    }

    fn exact(path: &str) -> PathMatch {
        PathMatch::Exact(path.into())
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.into())
    }

    fn regex(source: &str) -> PathMatch {
        PathMatch::Regex(Pattern::new(source).unwrap())
    }

    fn get(table: &RouteTable, path: &str) -> Option<(usize, usize)> {
        table.find(&Method::GET, path, None, &HeaderMap::new()).map(|it| (it.rule, it.prefix_len))
    }

    #[test]
    fn paths_match_as_the_gateway_api_says() {
        for (path, request, found) in [
            (exact("/a"), "/a", Some(0)),
            (exact("/a"), "/a/", None),
            (exact("/a"), "/A", None),
            (exact("/a"), "/a/b", None),
            (exact("/a/"), "/a", None),
            (exact("/"), "/", Some(0)),
            (prefix("/v2"), "/v2", Some(3)),
            (prefix("/v2"), "/v2/", Some(3)),
            (prefix("/v2"), "/v2/x", Some(3)),
            (prefix("/v2"), "/v2//x", Some(3)),
            (prefix("/v2"), "/v2x", None),
            (prefix("/v2"), "/v", None),
            (prefix("/v2"), "/V2", None),
            (prefix("/v2"), "/x/v2", None),
            (prefix("/v2"), "//v2", None),
            (prefix("/v2/"), "/v2", Some(3)),
            (prefix("/v2/"), "/v2/x", Some(3)),
            (prefix("/v2/"), "/v2x", None),
            (prefix("/v2/x"), "/v2/x/y/z", Some(5)),
            (prefix("/v2/x"), "/v2/%78", None),
            (prefix("/"), "/anything", Some(0)),
            (prefix("/"), "/", Some(0)),
            (prefix("/"), "*", Some(0)),
            (prefix("/"), "", Some(0)),
            (prefix(""), "/x", Some(0)),
            (regex("/v[0-9]+"), "/v12", Some(0)),
            (regex("/v[0-9]+"), "/v12/", None),
            (regex("/v[0-9]+"), "/x/v12", None),
            (regex("/a|/b"), "/b", Some(0)),
            (regex("/a|/b"), "/bc", None),
        ] {
            let table = RouteTable::new(vec![on(path.clone())]);
            assert_eq!(get(&table, request), found.map(|len| (0, len)), "{path:?} on {request}");
        }
    }

    #[test]
    fn the_most_specific_path_wins_whatever_the_order() {
        let rules = vec![on(prefix("/")), on(prefix("/a")), on(regex("/a?b?.*")), on(prefix("/a/b")), on(exact("/a/b"))];
        let table = RouteTable::new(rules);
        for (path, expected) in [("/a/b", (4, 0)), ("/a/b/", (3, 4)), ("/a/c", (1, 2)), ("/ab", (2, 0)), ("*", (0, 0))] {
            assert_eq!(get(&table, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn a_match_whose_conditions_fail_leaves_the_request_to_less_specific_ones() {
        let put = HttpMatch { path: exact("/a"), method: Some(Method::PUT), ..HttpMatch::default() };
        let table = RouteTable::new(vec![rule(vec![put]), on(prefix("/a"))]);
        assert_eq!(get(&table, "/a"), Some((1, 2)));
        assert_eq!(table.find(&Method::PUT, "/a", None, &HeaderMap::new()), Some(Found { rule: 0, prefix_len: 0 }));
        assert_eq!(get(&RouteTable::default(), "/a"), None);
    }

    #[test]
    fn a_rule_without_matches_takes_everything() {
        let table = RouteTable::new(vec![rule(Vec::new()), on(prefix("/a"))]);
        assert_eq!(get(&table, "/b"), Some((0, 0)));
        assert_eq!(get(&table, "/a"), Some((1, 2)));
        let found = table.find(&Method::GET, "/b", None, &HeaderMap::new()).unwrap();
        assert!(table.rule(found).matches.is_empty());
    }

    #[test]
    fn a_path_is_looked_up_no_more_often_than_the_deepest_prefix_needs() {
        let hostile = "/".repeat(60_000);
        assert_eq!(segment_prefixes(&hostile, 3).count(), 3);
        assert_eq!(segment_prefixes("/a/b/c", 2).collect::<Vec<_>>(), ["/a/b", "/a"]);
        assert_eq!(segment_prefixes("/a/b/c", 3).collect::<Vec<_>>(), ["/a/b/c", "/a/b", "/a"]);
        assert_eq!(segment_prefixes("/a/", 9).collect::<Vec<_>>(), ["/a/", "/a"]);
        assert_eq!(segment_prefixes("*", 9).collect::<Vec<_>>(), ["*"]);
        assert_eq!(segment_prefixes("", 9).count(), 0);
    }

    #[test]
    fn thousands_of_rules_are_told_apart() {
        let rules = (0..10_000).map(|it| on(if it % 2 == 0 { exact(&format!("/s/{it}")) } else { prefix(&format!("/s/{it}")) }));
        let table = RouteTable::new(rules.collect());
        assert_eq!(get(&table, "/s/9998"), Some((9998, 0)));
        assert_eq!(get(&table, "/s/9999/x/y"), Some((9999, 7)));
        assert_eq!(get(&table, "/s/9998/x"), None);
    }
}

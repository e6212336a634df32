//! Which backend gets a connection that is routed as a whole: TCPRoutes by weight, TLSRoutes by the server's name that the
//! client gives (SNI, RFC 6066) and then by weight. TLS is never terminated.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use fastrand::Rng;

use super::model::{RouteRef, WeightedBackend};
use super::split;
use crate::reason::Reason;

/// One rule of a TCPRoute or a TLSRoute.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamRule {
    /// The route it is part of.
    pub route: RouteRef,
    /// Its position there, from 0.
    pub index: u32,
    /// Its own name, empty if it has none.
    pub name: Arc<str>,
    /// The names that it is for. None at all: every connection, also one that gives no name.
    pub hostnames: Vec<HostPattern>,
    /// Who gets its connections; without filters and mirrors.
    pub backends: Vec<WeightedBackend>,
}

/// A server's name, or all names below one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name.
    Exact(Arc<str>),
    /// Names that end in a dot and this, with one label or more before it: `*.example.com` is `example.com` here.
    Below(Arc<str>),
}

impl FromStr for HostPattern {
    type Err = InvalidHostPattern;

    fn from_str(text: &str) -> Result<Self, InvalidHostPattern> {
        let (name, below) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        let label = |label: &str| {
            let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            (1..=63).contains(&label.len()) && inner && !label.starts_with('-') && !label.ends_with('-')
        };
        if text.len() > 253 || !name.split('.').all(label) || name.parse::<std::net::IpAddr>().is_ok() {
            return Err(InvalidHostPattern(text.chars().take(253).collect()));
        }
        Ok(if below { Self::Below(name.into()) } else { Self::Exact(name.into()) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// Not a name that TLS can ask for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a host name in lower case, such as db.example.com or *.example.com (and not an address: SNI has none)")]
pub struct InvalidHostPattern(String);

/// The rules of all TCPRoutes or TLSRoutes attached to one service port, compiled.
#[derive(Clone, Debug)]
pub struct StreamTable {
    /// In the order that decides between equals: the oldest route's first.
    rules: Vec<StreamRule>,
    by_name: bool,
    exact: HashMap<Arc<str>, usize>,
    below: HashMap<Arc<str>, usize>,
    any: Option<usize>,
}

impl PartialEq for StreamTable {
    fn eq(&self, other: &Self) -> bool {
        self.by_name == other.by_name && self.rules == other.rules
    }
}

/// Why a connection has no backend; it is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamRefusal {
    /// No rule is for this name.
    #[error("TLSRoutes are attached, and none is for {}", .0.as_deref().unwrap_or("a client that names no server (SNI)"))]
    NoRoute(Option<String>),
    /// The rule has no backend with a weight above 0.
    #[error("rule {index} of route {route} has no backend with a weight above 0")]
    NoBackend {
        /// The route.
        route: RouteRef,
        /// The rule's position.
        index: u32,
    },
    /// The share of a backend that does not exist.
    #[error("rule {index} of route {route}: {why}")]
    InvalidBackend {
        /// The route.
        route: RouteRef,
        /// The rule's position.
        index: u32,
        /// What is wrong with the backend.
        why: Arc<str>,
    },
}

impl StreamRefusal {
    /// The reason that is counted, and named where there is an answer.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NoRoute(_) => Reason::NoRoute,
            Self::NoBackend { .. } | Self::InvalidBackend { .. } => Reason::InvalidBackend,
        }
    }
}

impl StreamTable {
    /// A table of TCPRoutes' rules. Each takes every connection, so the first one takes all.
    #[must_use]
    pub fn tcp(rules: Vec<StreamRule>) -> Self {
        let any = (!rules.is_empty()).then_some(0);
        Self { rules, by_name: false, exact: HashMap::new(), below: HashMap::new(), any }
    }

    /// A table of TLSRoutes' rules: an exact name before a wildcard, a longer wildcard before a shorter one, any wildcard before a
    /// rule without names, and between equals the first.
    #[must_use]
    pub fn tls(rules: Vec<StreamRule>) -> Self {
        let (mut exact, mut below, mut any) = (HashMap::new(), HashMap::new(), None);
        for (index, rule) in rules.iter().enumerate() {
            for name in &rule.hostnames {
                match name {
                    HostPattern::Exact(name) => exact.entry(Arc::clone(name)).or_insert(index),
                    HostPattern::Below(name) => below.entry(Arc::clone(name)).or_insert(index),
                };
            }
            if rule.hostnames.is_empty() {
                any = any.or(Some(index));
            }
        }
        Self { rules, by_name: true, exact, below, any }
    }

    /// Whether the client's ClientHello must be read before it can be said who gets the connection.
    #[must_use]
    pub const fn by_name(&self) -> bool {
        self.by_name
    }

    /// All rules, the oldest route's first.
    #[must_use]
    pub fn rules(&self) -> &[StreamRule] {
        &self.rules
    }

    /// The rule for a connection whose client asks for this server. The name's case does not matter, nor a dot at its end.
    #[must_use]
    pub fn find(&self, sni: Option<&str>) -> Option<&StreamRule> {
        let named = sni.filter(|_| self.by_name).and_then(|name| {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            if let Some(index) = self.exact.get(name.as_str()) {
                return Some(*index);
            }
            let mut rest = name.as_str();
            while let Some((_, parent)) = rest.split_once('.') {
                if let Some(index) = self.below.get(parent) {
                    return Some(*index);
                }
                rest = parent;
            }
            None
        });
        named.or(self.any).and_then(|index| self.rules.get(index))
    }

    /// Throws the dice for one connection.
    ///
    /// # Errors
    ///
    /// Why nobody gets it.
    pub fn choose(&self, sni: Option<&str>, rng: &mut Rng) -> Result<&WeightedBackend, StreamRefusal> {
        let rule = self.find(sni).ok_or_else(|| StreamRefusal::NoRoute(sni.map(ToOwned::to_owned)))?;
        let backend = split::choose(&rule.backends, rng).and_then(|index| rule.backends.get(index));
        let (route, index) = (&rule.route, rule.index);
        let backend = backend.ok_or_else(|| StreamRefusal::NoBackend { route: route.clone(), index })?;
        match &backend.invalid {
            None => Ok(backend),
            Some(why) => Err(StreamRefusal::InvalidBackend { route: route.clone(), index, why: Arc::clone(why) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::RouteKind;
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert_eq, proptest};

    fn rule(name: &str, hostnames: &[&str]) -> StreamRule {
        StreamRule {
            route: RouteRef { kind: RouteKind::Tls, namespace: "shop".parse().unwrap(), name: name.parse().unwrap() },
            index: 0,
            name: "".into(),
            hostnames: hostnames.iter().map(|it| it.parse().unwrap()).collect(),
            backends: vec![backend(&format!("shop/{name}:443"), 1)],
        }
    }

    fn backend(name: &str, weight: u32) -> WeightedBackend {
        WeightedBackend { backend: name.parse().unwrap(), weight, filters: vec![], mirrors: vec![], session: None, invalid: None }
    }

    #[test]
    fn the_most_specific_name_wins_and_between_equals_the_first() {
        let table = StreamTable::tls(vec![
            rule("wide", &["*.example.com"]),
            rule("narrow", &["*.db.example.com"]),
            rule("exact", &["a.db.example.com", "example.com"]),
            rule("late", &["a.db.example.com", "*.example.com", "late.example.org"]),
        ]);
        for (sni, expected) in [
            (Some("a.db.example.com"), Some("exact")),
            (Some("A.DB.Example.COM."), Some("exact")),
            (Some("b.db.example.com"), Some("narrow")),
            (Some("x.b.db.example.com"), Some("narrow")),
            (Some("db.example.com"), Some("wide")),
            (Some("example.com"), Some("exact")),
            (Some("late.example.org"), Some("late")),
            (Some("example.org"), None),
            (Some("notexample.com"), None),
            (Some(""), None),
            (None, None),
        ] {
            assert_eq!(table.find(sni).map(|rule| rule.route.name.as_str()), expected, "{sni:?}");
        }
        let with_rest = StreamTable::tls(vec![rule("rest", &[]), rule("one", &["one.example"])]);
        let name = |sni| with_rest.find(sni).map(|rule| rule.route.name.as_str());
        assert_eq!((name(Some("one.example")), name(Some("two")), name(None)), (Some("one"), Some("rest"), Some("rest")));
    }

    #[test]
    fn whoever_gets_no_connection_is_told_why() {
        let mut rng = Rng::with_seed(1);
        let table = StreamTable::tls(vec![rule("one", &["one.example"])]);
        assert_eq!(table.choose(Some("two"), &mut rng), Err(StreamRefusal::NoRoute(Some("two".into()))));
        let message = table.choose(None, &mut rng).unwrap_err().to_string();
        assert_eq!(message, "TLSRoutes are attached, and none is for a client that names no server (SNI)");
        let empty = StreamRule { backends: vec![backend("shop/a:1", 0)], ..rule("empty", &[]) };
        assert!(matches!(StreamTable::tcp(vec![empty]).choose(None, &mut rng), Err(StreamRefusal::NoBackend { .. })));
        let gone = WeightedBackend { invalid: Some("gone".into()), ..backend("shop/a:1", 1) };
        let lost = StreamRule { backends: vec![gone], ..rule("lost", &[]) };
        let why = StreamTable::tcp(vec![lost]).choose(None, &mut rng).unwrap_err().to_string();
        assert_eq!(why, "rule 0 of route shop/lost: gone");
        assert!(StreamTable::tcp(vec![]).choose(None, &mut rng).is_err());
    }

    #[test]
    fn names_that_tls_cannot_ask_for_are_refused() {
        for bad in ["", "*", "*.", "a..b", "A.example", "-a.example", "10.0.0.1", "a.*.example", "a_b.example", "::1", "*.*.x"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        for good in ["a", "a.b", "*.b", "xn--bcher-kva.example", "1.a"] {
            assert_eq!(good.parse::<HostPattern>().unwrap().to_string(), good);
        }
    }

    proptest! {
        #[test]
        fn the_compiled_table_finds_what_a_plain_search_finds(
            patterns in vec(vec("(\\*\\.)?[ab](\\.[ab]){0,3}", 0..3), 0..6),
            sni in "[ab](\\.[ab]){0,4}",
        ) {
            let rules: Vec<StreamRule> = patterns
                .iter()
                .enumerate()
                .map(|(i, names)| rule(&format!("r{i}"), &names.iter().map(String::as_str).collect::<Vec<_>>()))
                .collect();
            let rank = |rule: &StreamRule| {
                let of = |pattern: &HostPattern| match pattern {
                    HostPattern::Exact(name) => (**name == *sni).then_some(usize::MAX),
                    HostPattern::Below(name) => sni.ends_with(&format!(".{name}")).then_some(name.len() + 1),
                };
                if rule.hostnames.is_empty() { Some(0) } else { rule.hostnames.iter().filter_map(of).max() }
            };
            let best = rules.iter().enumerate().filter_map(|(i, rule)| Some((rank(rule)?, std::cmp::Reverse(i)))).max();
            let expected = best.map(|(_, std::cmp::Reverse(i))| format!("r{i}"));
            let found = StreamTable::tls(rules).find(Some(&sni)).map(|rule| rule.route.name.to_string());
            prop_assert_eq!(found, expected);
        }
    }
}

//! The whole decision about one request: rule, filters, backend.

use std::fmt;
use std::sync::Arc;

use fastrand::Rng;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::filter::cors::{Grant, Sharing};
use super::filter::{RequestContext, RequestOutcome, Unapplicable, apply_request, sharing};
use super::model::{Filter, HttpRule, WeightedBackend};
use super::split;
use super::table::{Found, RouteTable};
use crate::reason::Reason;
use crate::session::{Token, backend_number};

/// What becomes of a request for a service that has routes.
#[derive(Debug)]
pub enum Decision<'t> {
    /// It goes to this backend; its head has been changed as the filters say.
    Forward {
        /// Finds the rule again, see [`RouteTable::rule`].
        found: Found,
        /// The rule.
        rule: &'t HttpRule,
        /// Position of the backend in the rule.
        index: usize,
        /// The backend.
        backend: &'t WeightedBackend,
        /// What the answer says to a browser of another origin.
        grant: Grant,
        /// The session that it belongs to, if the rule or the backend keeps sessions and this one goes on.
        token: Option<Token>,
    },
    /// It is a browser's question whether it may ask across origins, and is answered with 204.
    Preflight {
        /// The rule that says what is allowed.
        rule: &'t HttpRule,
        /// What is allowed.
        grant: Grant,
    },
    /// It is answered with a redirect.
    Redirect {
        /// The rule that says so.
        rule: &'t HttpRule,
        /// Status.
        status: StatusCode,
        /// Location.
        location: HeaderValue,
        /// What the answer says to a browser of another origin.
        grant: Grant,
    },
    /// It is answered with an error of the mesh's own.
    Refused {
        /// The rule that it fell under, if any.
        rule: Option<&'t HttpRule>,
        /// Why.
        why: Refusal,
    },
}

/// Why routes do not let a request through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No rule matches.
    NoRoute,
    /// The rule cannot be honoured.
    InvalidRule(Arc<str>),
    /// A filter cannot be applied to this request.
    Filter(Unapplicable),
    /// The rule has no backend with a weight above 0.
    NoBackend,
    /// The share of a backend that does not exist.
    InvalidBackend(Arc<str>),
}

impl Refusal {
    /// The reason that the answer names.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NoRoute => Reason::NoRoute,
            Self::InvalidRule(_) | Self::Filter(_) => Reason::InvalidRoute,
            Self::NoBackend | Self::InvalidBackend(_) => Reason::InvalidBackend,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("routes are attached, and none of their rules matches the request"),
            Self::InvalidRule(why) | Self::InvalidBackend(why) => f.write_str(why),
            Self::Filter(why) => why.fmt(f),
            Self::NoBackend => f.write_str("the rule has no backend with a weight above 0"),
        }
    }
}

/// Decides, and changes the request's head as the filters of rule and backend say. `dialled_port` is the service's port; `clock`
/// gives the seconds since 1970, and is asked only where sessions are kept.
pub fn decide<'t>(
    table: &'t RouteTable,
    parts: &mut Parts,
    dialled_port: u16,
    rng: &mut Rng,
    clock: impl FnOnce() -> u64,
) -> Decision<'t> {
    let Some(found) = table.find(&parts.method, parts.uri.path(), parts.uri.query(), &parts.headers) else {
        return Decision::Refused { rule: None, why: Refusal::NoRoute };
    };
    let rule = table.rule(found);
    let refused = |why| Decision::Refused { rule: Some(rule), why };
    if let Some(why) = &rule.invalid {
        return refused(Refusal::InvalidRule(Arc::clone(why)));
    }
    let grant = match sharing(&rule.filters, parts) {
        Sharing::Preflight(grant) => return Decision::Preflight { rule, grant },
        Sharing::Actual(grant) => grant,
    };
    // As the client wrote it, before filters change headers.
    let token = session_token(rule, &parts.headers, clock);
    let context = RequestContext { prefix_len: found.prefix_len, scheme: "http", dialled_port };
    if let Some(end) = filtered(rule, &rule.filters, parts, context, &grant) {
        return end;
    }
    // A session stays where it is; weights are for new ones.
    let stays =
        token.and_then(|token| rule.backends.iter().position(|it| it.weight > 0 && backend_number(&it.backend) == token.backend));
    let token = token.filter(|_| stays.is_some());
    let chosen = stays.or_else(|| split::choose(&rule.backends, rng)).and_then(|index| Some((index, rule.backends.get(index)?)));
    let Some((index, backend)) = chosen else { return refused(Refusal::NoBackend) };
    if let Some(why) = &backend.invalid {
        return refused(Refusal::InvalidBackend(Arc::clone(why)));
    }
    if let Some(end) = filtered(rule, &backend.filters, parts, context, &grant) {
        return end;
    }
    Decision::Forward { found, rule, index, backend, grant, token }
}

/// The session that a request belongs to: the rule's, or else that of one of its backends.
fn session_token(rule: &HttpRule, headers: &HeaderMap, clock: impl FnOnce() -> u64) -> Option<Token> {
    if let Some(session) = &rule.session {
        return session.of(headers, clock());
    }
    let serving = rule.backends.iter().filter(|it| it.weight > 0);
    let mut kept = serving.filter_map(|it| Some((&it.backend, it.session.as_deref()?))).peekable();
    kept.peek()?;
    let now = clock();
    kept.find_map(|(backend, session)| session.of(headers, now).filter(|token| token.backend == backend_number(backend)))
}

fn filtered<'t>(
    rule: &'t HttpRule,
    filters: &[Filter],
    parts: &mut Parts,
    context: RequestContext<'_>,
    grant: &Grant,
) -> Option<Decision<'t>> {
    match apply_request(filters, parts, context) {
        RequestOutcome::Continue => None,
        RequestOutcome::Redirect { status, location } => {
            Some(Decision::Redirect { rule, status, location, grant: grant.clone() })
        }
        RequestOutcome::Refused(why) => Some(Decision::Refused { rule: Some(rule), why: Refusal::Filter(why) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{HeaderChanges, HttpMatch, PathMatch, Redirect, RouteKind, RouteRef, Timeouts};
    use http::{HeaderName, Request};

    fn rule(prefix: &str) -> HttpRule {
        HttpRule {
            route: RouteRef { kind: RouteKind::Http, namespace: "shop".parse().unwrap(), name: "route".parse().unwrap() },
            index: 0,
            name: "".into(),
            created_seconds: 0,
            matches: vec![HttpMatch { path: PathMatch::Prefix(prefix.into()), ..HttpMatch::default() }],
            filters: vec![],
            mirrors: vec![],
            backends: vec![backend("shop/good:80", 1)],
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            invalid: None,
        }
    }

    fn backend(name: &str, weight: u32) -> WeightedBackend {
        WeightedBackend { backend: name.parse().unwrap(), weight, filters: vec![], mirrors: vec![], session: None, invalid: None }
    }

    fn set(name: &'static str) -> Filter {
        let header = (HeaderName::from_static(name), HeaderValue::from_static("1"));
        Filter::RequestHeaders(HeaderChanges { set: vec![header], ..HeaderChanges::default() })
    }

    fn ask(rule: HttpRule, path: &str) -> (String, Parts) {
        let table = RouteTable::new(vec![rule]);
        let (mut parts, ()) = Request::get(format!("http://svc{path}")).body(()).unwrap().into_parts();
        let text = match decide(&table, &mut parts, 80, &mut Rng::with_seed(1), || 0) {
            Decision::Forward { backend, .. } => format!("forward {}", backend.backend),
            Decision::Redirect { status, location, .. } => format!("{} {}", status.as_u16(), location.to_str().unwrap()),
            Decision::Preflight { .. } => "preflight".to_owned(),
            Decision::Refused { rule, why } => format!("refused {} {why:?}", rule.is_some()),
        };
        (text, parts)
    }

    #[test]
    fn each_way_out_is_taken_for_its_own_reason() {
        let invalid = HttpRule { invalid: Some("why".into()), ..rule("/") };
        let empty = HttpRule { backends: vec![backend("shop/good:80", 0)], ..rule("/") };
        let missing = HttpRule {
            backends: vec![WeightedBackend { invalid: Some("gone".into()), ..backend("shop/gone:80", 1) }],
            ..rule("/")
        };
        let redirect = Redirect { scheme: None, hostname: None, path: None, port: Some(81), status: StatusCode::FOUND };
        let redirected = HttpRule { filters: vec![Filter::Redirect(redirect)], ..rule("/") };
        for (rule, path, expected) in [
            (rule("/"), "/x", "forward shop/good:80"),
            (rule("/y"), "/x", "refused false NoRoute"),
            (invalid, "/", r#"refused true InvalidRule("why")"#),
            (empty, "/", "refused true NoBackend"),
            (missing, "/", r#"refused true InvalidBackend("gone")"#),
            (redirected, "/x?q", "302 http://svc:81/x?q"),
        ] {
            assert_eq!(ask(rule, path).0, expected);
        }
    }

    #[test]
    fn the_backends_filters_follow_the_rules_own() {
        let rule = HttpRule {
            filters: vec![set("x-rule")],
            backends: vec![WeightedBackend { filters: vec![set("x-backend")], ..backend("shop/good:80", 1) }],
            ..rule("/")
        };
        let (_, parts) = ask(rule, "/");
        assert!(parts.headers.contains_key("x-rule") && parts.headers.contains_key("x-backend"));
    }

    #[test]
    fn a_session_stays_with_its_backend_while_that_takes_requests() {
        use crate::session::{Carrier, Session};
        let session = Session { carrier: Carrier::Header("x-session".parse().unwrap()), absolute: None, idle: None };
        let mut kept = rule("/");
        kept.backends = vec![backend("shop/one:80", 1), backend("shop/two:80", 1), backend("shop/off:80", 0)];
        kept.session = Some(session);
        let table = RouteTable::new(vec![kept]);
        let mut rng = Rng::with_seed(3);
        let mut chosen = |of: &str| {
            let token = Token { backend: backend_number(&of.parse().unwrap()), endpoint: 5, begun: 0, used: 0 };
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..50 {
                let request = Request::get("http://shop/").header("x-session", token.to_string()).body(()).unwrap();
                let (mut parts, ()) = request.into_parts();
                let Decision::Forward { index, token, .. } = decide(&table, &mut parts, 80, &mut rng, || 9) else {
                    panic!("refused")
                };
                seen.insert((index, token.map(|it| it.endpoint)));
            }
            seen.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(chosen("shop/two:80"), [(1, Some(5))]);
        assert_eq!(chosen("shop/off:80"), [(0, None), (1, None)], "who takes no request keeps no session");
        assert_eq!(chosen("shop/other:80"), [(0, None), (1, None)]);
    }

    #[test]
    fn a_backend_keeps_sessions_where_the_rule_says_nothing() {
        use crate::session::{Carrier, Session};
        let by = |name: &str| Session { carrier: Carrier::Header(name.parse().unwrap()), absolute: None, idle: None };
        let kept = |name: &str, header: &str| WeightedBackend { session: Some(Arc::new(by(header))), ..backend(name, 1) };
        let token = |of: &str| Token { backend: backend_number(&of.parse().unwrap()), endpoint: 5, begun: 0, used: 0 };
        let backends = vec![kept("shop/one:80", "x-one"), kept("shop/two:80", "x-two"), backend("shop/three:80", 1)];
        let chosen = |rule: HttpRule, headers: &[(&str, Token)]| {
            let table = RouteTable::new(vec![rule]);
            let mut rng = Rng::with_seed(3);
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..50 {
                let mut request = Request::get("http://shop/");
                for (name, token) in headers {
                    request = request.header(*name, token.to_string());
                }
                let (mut parts, ()) = request.body(()).unwrap().into_parts();
                let Decision::Forward { index, token, .. } = decide(&table, &mut parts, 80, &mut rng, || 9) else {
                    panic!("refused")
                };
                seen.insert((index, token.is_some()));
            }
            seen.into_iter().collect::<Vec<_>>()
        };
        let all = [(0, false), (1, false), (2, false)];
        let of_backends = HttpRule { backends: backends.clone(), ..rule("/") };
        assert_eq!(chosen(of_backends.clone(), &[]), all);
        assert_eq!(chosen(of_backends.clone(), &[("x-two", token("shop/two:80"))]), [(1, true)]);
        assert_eq!(chosen(of_backends.clone(), &[("x-one", token("shop/two:80"))]), all, "a token is its own backend's");
        assert_eq!(chosen(of_backends, &[("x-three", token("shop/three:80"))]), all, "it keeps none");
        // The rule's own word wins.
        let of_rule = HttpRule { backends: backends.clone(), session: Some(by("x-rule")), ..rule("/") };
        assert_eq!(chosen(of_rule.clone(), &[("x-two", token("shop/two:80"))]), all);
        assert_eq!(chosen(of_rule, &[("x-rule", token("shop/three:80"))]), [(2, true)]);
        let off = vec![WeightedBackend { weight: 0, ..backends[0].clone() }, backends[1].clone()];
        let off = HttpRule { backends: off, ..rule("/") };
        let (one, two) = (("x-one", token("shop/one:80")), ("x-two", token("shop/two:80")));
        assert_eq!(chosen(off.clone(), &[one]), [(1, false)], "who takes no request keeps no session");
        assert_eq!(chosen(off, &[one, two]), [(1, true)]);
    }
}

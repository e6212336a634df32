use super::*;
use proptest::prelude::*;
use prost::Message;
use v1::http_filter::Kind as FilterKind;
use weir_core::route::{Filter, PathMatch};
use weir_core::snapshot::Snapshot;

fn service_name(name: &str) -> v1::ServiceName {
    v1::ServiceName { namespace: "shop".into(), name: name.into() }
}

fn backend(name: &str, port: u32) -> v1::BackendName {
    v1::BackendName { service: Some(service_name(name)), port }
}

fn named(kind: v1::ResourceKind, name: &str) -> Option<v1::ResourceName> {
    Some(v1::ResourceName { kind: kind.into(), name: name.into() })
}

fn rule() -> v1::HttpRule {
    let header = v1::Header { name: "x-canary".into(), value: "yes".into() };
    v1::HttpRule {
        route: Some(v1::RouteName { kind: 0, namespace: "shop".into(), name: "reviews.v1".into() }),
        matches: vec![v1::HttpMatch {
            path: Some(v1::http_match::Path::PathPrefix("/v2".into())),
            headers: vec![v1::KeyMatch { name: "X-User".into(), value: Some(v1::key_match::Value::Regex("a.*".into())) }],
            method: "GET".into(),
            ..v1::HttpMatch::default()
        }],
        filters: vec![v1::HttpFilter {
            kind: Some(FilterKind::RequestHeaders(v1::HeaderModifier { set: vec![header], ..v1::HeaderModifier::default() })),
        }],
        backends: vec![v1::WeightedBackend {
            backend: Some(backend("reviews-v2", 80)),
            weight: 9,
            ..v1::WeightedBackend::default()
        }],
        request_timeout_ms: Some(1500),
        retry: Some(v1::Retry { codes: vec![503], attempts: 2, backoff_ms: 25 }),
        ..v1::HttpRule::default()
    }
}

fn reviews() -> v1::Resource {
    let port = v1::ServicePort {
        port: 80,
        name: "http".into(),
        protocol: v1::Protocol::Http.into(),
        http_routes: Some(v1::HttpRoutes { rules: vec![rule()] }),
        stream_routes: None,
        injections: Vec::new(),
        session: None,
    };
    let service = v1::Service { name: Some(service_name("reviews")), addresses: vec!["10.96.0.1".into()], ports: vec![port] };
    v1::Resource {
        name: named(v1::ResourceKind::Service, "shop/reviews"),
        version: "7".into(),
        body: Some(v1::resource::Body::Service(service)),
    }
}

#[test]
fn a_service_with_a_route_is_read() {
    let (decoded, version) = resource(&reviews()).unwrap();
    let Resource::Service(service) = decoded else { panic!("{decoded:?}") };
    assert_eq!((&*version, service.name.to_string().as_str()), ("7", "shop/reviews"));
    let port = service.ports.get(&80).unwrap();
    let rules = port.routes.as_ref().unwrap().rules();
    assert_eq!(port.protocol, Protocol::Http);
    assert_eq!(rules[0].matches[0].path, PathMatch::Prefix("/v2".into()));
    assert_eq!(rules[0].matches[0].headers[0].name, "x-user");
    assert!(matches!(&rules[0].filters[0], Filter::RequestHeaders(changes) if changes.set.len() == 1));
    assert_eq!(rules[0].backends[0].backend.to_string(), "shop/reviews-v2:80");
    assert_eq!(rules[0].timeouts.request.unwrap().as_millis(), 1500);
    assert_eq!(rules[0].retry.as_ref().unwrap().codes, [503]);
}

#[test]
fn no_routes_and_routes_without_rules_are_different_things() {
    let routes = |http_routes| {
        let port = v1::ServicePort { port: 80, http_routes, ..v1::ServicePort::default() };
        service_port(&port).unwrap().1.routes
    };
    assert!(routes(None).is_none());
    assert!(routes(Some(v1::HttpRoutes::default())).unwrap().rules().is_empty());
}

/// Changes one thing of a good service.
fn broken(change: impl FnOnce(&mut v1::Resource, &mut v1::Service)) -> String {
    let mut wire = reviews();
    let Some(v1::resource::Body::Service(mut service)) = wire.body.take() else { panic!() };
    change(&mut wire, &mut service);
    wire.body = Some(v1::resource::Body::Service(service));
    let response = v1::DiscoveryResponse { updated: vec![wire], ..v1::DiscoveryResponse::default() };
    update(&response).unwrap_err().to_string()
}

fn first_rule(service: &mut v1::Service) -> &mut v1::HttpRule {
    &mut service.ports[0].http_routes.as_mut().unwrap().rules[0]
}

#[test]
fn an_error_names_the_resource_and_the_field() {
    let rules = "service shop/reviews: field updated[0].ports[0].http_routes.rules[0]";
    let cases = [
        (broken(|_, s| s.ports[0].port = 70_000), "service shop/reviews: field updated[0].ports[0].port: 70000".to_owned()),
        (broken(|_, s| s.ports[0].protocol = 99), "ports[0].protocol: 99".into()),
        (broken(|_, s| s.ports.push(s.ports[0].clone())), "ports[1].port: 80 is there twice".into()),
        (broken(|_, s| s.addresses.push("ten".into())), "updated[0].addresses[1]: `ten`".into()),
        (broken(|w, _| w.name = named(v1::ResourceKind::Service, "shop/other")), "body: is that of service shop/reviews".into()),
        (broken(|w, _| w.name = None), "updated[0].name: is missing".into()),
        (broken(|w, _| w.name = named(v1::ResourceKind::Unspecified, "a/b")), "name.kind: 0".into()),
        (broken(|_, s| first_rule(s).route = None), format!("{rules}.route: is missing")),
        (broken(|_, s| first_rule(s).matches[0].method = "G T".into()), format!("{rules}.matches[0].method: `G T`")),
        (broken(|_, s| first_rule(s).matches[0].headers[0].name = "x y".into()), format!("{rules}.matches[0].headers[0].name")),
        (broken(|_, s| first_rule(s).matches[0].headers[0].value = None), format!("{rules}.matches[0].headers[0].value")),
        (
            broken(|_, s| first_rule(s).matches[0].path = Some(v1::http_match::Path::PathRegex("(".into()))),
            format!("{rules}.matches[0].path_regex"),
        ),
        (
            broken(|_, s| first_rule(s).matches[0].path = Some(v1::http_match::Path::PathExact("v2".into()))),
            format!("{rules}.matches[0].path_exact: `v2` is not a path"),
        ),
        (broken(|_, s| first_rule(s).filters[0].kind = None), format!("{rules}.filters[0].kind: is missing, or of a kind")),
        (broken(|_, s| first_rule(s).backends[0].backend = Some(backend("r", 0))), format!("{rules}.backends[0].backend.port")),
        (broken(|_, s| first_rule(s).retry.as_mut().unwrap().codes[0] = 9), format!("{rules}.retry.codes[0]: 9")),
        (
            broken(|_, s| {
                let redirect = v1::Redirect { status: 200, ..v1::Redirect::default() };
                first_rule(s).filters[0].kind = Some(FilterKind::Redirect(redirect));
            }),
            format!("{rules}.filters[0].redirect.status: 200"),
        ),
        (
            broken(|_, s| {
                let rewrite = v1::UrlRewrite { hostname: "a\r\nb".into(), path: None };
                first_rule(s).filters[0].kind = Some(FilterKind::Rewrite(rewrite));
            }),
            format!("{rules}.filters[0].rewrite.hostname: `a\\r\\nb`"),
        ),
    ];
    for (message, expected) in cases {
        assert!(message.contains(&expected), "`{message}` does not contain `{expected}`");
    }
}

#[test]
fn endpoints_are_sorted_and_each_is_there_once() {
    let at = |address: &str| v1::Endpoint { address: address.into(), ..v1::Endpoint::default() };
    let list = |addresses: &[&str]| {
        let endpoints = addresses.iter().map(|address| at(address)).collect();
        super::endpoints(&v1::Endpoints { name: Some(backend("reviews", 80)), endpoints, ..v1::Endpoints::default() })
    };
    let sorted = list(&["10.0.0.2:80", "[::1]:80", "10.0.0.1:80"]).unwrap();
    let addresses: Vec<_> = sorted.endpoints.iter().map(|it| it.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"]);
    assert!(list(&["10.0.0.1:80", "10.0.0.1:80"]).unwrap_err().to_string().contains("10.0.0.1:80 is there twice"));
    assert!(list(&["10.0.0.1:0"]).unwrap_err().to_string().contains("port 0"));
}

#[test]
fn names_survive_a_round_trip() {
    for name in [
        ResourceName::Service("shop/reviews".parse().unwrap()),
        ResourceName::Endpoints("shop/reviews:80".parse().unwrap()),
        ResourceName::Address("10.0.0.1".parse().unwrap()),
        ResourceName::Address("::1".parse().unwrap()),
        ResourceName::Inbound,
        ResourceName::Trust,
    ] {
        assert_eq!(resource_name(&wire_name(&name)), Ok(name));
    }
}

/// Makes messages that are nearly right: each value comes from a pool of good and bad ones.
struct Chaos(fastrand::Rng);

const TEXTS: &[&str] = &[
    "",
    "a",
    "shop",
    "reviews",
    "shop/reviews",
    "shop/reviews:80",
    "10.0.0.1",
    "10.0.0.1:80",
    "::1",
    "[::1]:80",
    "/",
    "/v2",
    "v2",
    "GET",
    "x-user",
    "a b",
    "\u{0}",
    "ü",
    "spiffe://cluster.local/ns/shop/sa/web",
    "cluster.local",
    "http",
    "(",
    "[a-z]+",
    "a{999999}",
    "..",
    "\r\n",
];
const NUMBERS: &[u32] = &[0, 1, 2, 3, 5, 80, 200, 301, 302, 503, 65_535, 65_536, u32::MAX];

impl Chaos {
    fn text(&mut self) -> String {
        self.0.choice(TEXTS).copied().unwrap_or_default().into()
    }

    fn number(&mut self) -> u32 {
        self.0.choice(NUMBERS).copied().unwrap_or_default()
    }

    fn code(&mut self) -> i32 {
        self.0.i32(-1..8)
    }

    fn some<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.0.u8(..10) > 0).then(|| make(self))
    }

    fn list<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.0.usize(..3)).map(|_| make(self)).collect()
    }

    fn response(&mut self) -> v1::DiscoveryResponse {
        v1::DiscoveryResponse {
            sequence: 1,
            updated: self.list(Self::resource),
            removed: self.list(Self::name),
            forgotten: self.list(Self::name),
        }
    }

    fn name(&mut self) -> v1::ResourceName {
        v1::ResourceName { kind: self.code(), name: self.text() }
    }

    fn service_name(&mut self) -> v1::ServiceName {
        v1::ServiceName { namespace: self.text(), name: self.text() }
    }

    fn backend(&mut self) -> v1::BackendName {
        v1::BackendName { service: self.some(Self::service_name), port: self.number() }
    }

    fn resource(&mut self) -> v1::Resource {
        use v1::resource::Body;
        let body = match self.0.u8(..6) {
            0 => Some(Body::Service(v1::Service {
                name: self.some(Self::service_name),
                addresses: self.list(Self::text),
                ports: self.list(|it| v1::ServicePort {
                    port: it.number(),
                    name: it.text(),
                    protocol: it.code(),
                    http_routes: it.some(|it| v1::HttpRoutes { rules: it.list(Self::rule) }),
                    stream_routes: it.some(|it| v1::StreamRoutes { kind: it.code(), rules: it.list(Self::stream_rule) }),
                    injections: it.list(|it| v1::Injection {
                        numerator: it.number(),
                        denominator: it.number(),
                        headers: it.list(Self::key),
                        delay_ms: it.0.u64(..),
                        abort_status: it.number(),
                    }),
                    session: it.some(Self::session),
                }),
            })),
            1 => {
                let (name, endpoints, policy) =
                    (self.some(Self::backend), self.list(Self::endpoint), self.some(Self::backend_policy));
                let (tls, tls_endpoints) = (self.some(Self::backend_tls), self.list(Self::endpoint));
                Some(Body::Endpoints(v1::Endpoints { name, endpoints, policy, tls, tls_endpoints }))
            }
            2 => {
                let target = match self.0.u8(..3) {
                    0 => None,
                    1 => Some(v1::address::Target::Service(self.service_name())),
                    _ => Some(v1::address::Target::Workload(self.endpoint())),
                };
                Some(Body::Address(v1::Address { address: self.text(), target }))
            }
            3 => Some(Body::Inbound(v1::Inbound {
                zone: self.text(),
                mtls: self.code(),
                ports: self.list(|it| v1::InboundPort {
                    port: it.number(),
                    protocol: it.code(),
                    service: it.some(Self::backend),
                    rate_limits: it.list(|it| v1::RateLimit {
                        policy: it.text(),
                        requests: it.number(),
                        per_ms: it.0.u64(..),
                        burst: it.number(),
                        key: it.code(),
                    }),
                    concurrency: it.some(|it| v1::AdaptiveConcurrency {
                        policy: it.text(),
                        min: it.number(),
                        max: it.number(),
                        tolerance_percent: it.number(),
                        priorities: it.list(|it| v1::CallerPriority {
                            namespace: it.text(),
                            service_account: it.text(),
                            priority: it.code(),
                        }),
                    }),
                }),
            })),
            4 => Some(Body::Trust(v1::TrustBundle {
                trust_domain: self.text(),
                roots: self.list(|it| it.text().into()),
                generation: self.number().into(),
            })),
            _ => None,
        };
        v1::Resource { name: self.some(Self::name), version: self.text(), body }
    }

    fn backend_tls(&mut self) -> v1::BackendTls {
        let roots = match self.0.u8(..3) {
            0 => None,
            1 => Some(v1::backend_tls::Roots::System(self.0.bool())),
            _ => Some(v1::backend_tls::Roots::Certificates(v1::CaCertificates {
                ders: self.list(|it| it.text().into_bytes().into()),
            })),
        };
        v1::BackendTls {
            policy: self.text(),
            invalid: self.text(),
            server_name: self.text(),
            names: self.list(|it| v1::SubjectName { kind: it.some(|it| v1::subject_name::Kind::Dns(it.text())) }),
            roots,
        }
    }

    fn backend_policy(&mut self) -> v1::BackendPolicy {
        use v1::hash_on::Kind;
        let on = match self.0.u8(..3) {
            0 => None,
            1 => Some(Kind::Header(self.text())),
            _ => Some(Kind::Cookie(self.text())),
        };
        v1::BackendPolicy {
            balancer: self.code(),
            hash_on: self.some(|_| v1::HashOn { kind: on }),
            slow_start_ms: self.0.u64(..),
            ejection: self.some(|it| v1::Ejection {
                consecutive_failures: it.number(),
                base_ms: it.0.u64(..),
                max_ms: it.0.u64(..),
                max_ejected_percent: it.number(),
                judgement: it.some(|it| v1::Judgement {
                    interval_ms: it.0.u64(..),
                    min_requests: it.number(),
                    min_success_percent: it.number(),
                    max_latency_factor: it.number(),
                }),
            }),
            retry_budget: self.some(|it| v1::RetryBudget {
                percent: it.number(),
                min_per_second: it.number(),
                window_ms: it.0.u64(..),
                min_per_window: it.number(),
                answers_unavailable: it.0.bool(),
            }),
            locality: self.some(|it| v1::Locality { min_serving_percent: it.number(), max_outstanding: it.number() }),
            hedge_after_ms: self.0.u64(..),
            limits: self.some(|it| v1::Limits {
                requests: it.number(),
                pending: it.number(),
                connections: it.number(),
                streams: it.number(),
            }),
            connections: self.some(|it| v1::Connections {
                idle_timeout_ms: it.0.u64(..),
                max_age_ms: it.0.u64(..),
                keep_alive_ms: it.0.u64(..),
            }),
        }
    }

    fn endpoint(&mut self) -> v1::Endpoint {
        v1::Endpoint { address: self.text(), identity: self.text(), zone: self.text(), protocol: self.code(), pod: self.text() }
    }

    fn rule(&mut self) -> v1::HttpRule {
        v1::HttpRule {
            route: self.some(|it| v1::RouteName { kind: it.code(), namespace: it.text(), name: it.text() }),
            index: self.number(),
            name: self.text(),
            created_seconds: self.0.i64(..),
            matches: self.list(Self::http_match),
            filters: self.list(Self::filter),
            backends: self.list(|it| v1::WeightedBackend {
                backend: it.some(Self::backend),
                weight: it.number(),
                filters: it.list(Self::filter),
                invalid: it.text(),
                mirrors: it.list(Self::mirror),
                session: it.some(Self::session),
            }),
            request_timeout_ms: self.some(|it| it.0.u64(..)),
            backend_request_timeout_ms: self.some(|it| it.0.u64(..)),
            retry: self.some(|it| v1::Retry { codes: it.list(Self::number), attempts: it.number(), backoff_ms: it.0.u64(..) }),
            invalid: self.text(),
            mirrors: self.list(Self::mirror),
            session: self.some(Self::session),
        }
    }

    fn session(&mut self) -> v1::Session {
        v1::Session {
            name: self.text(),
            header: self.0.bool(),
            permanent: self.0.bool(),
            absolute_ms: self.some(|it| it.0.u64(..)),
            idle_ms: self.some(|it| it.0.u64(..)),
        }
    }

    fn stream_rule(&mut self) -> v1::StreamRule {
        v1::StreamRule {
            route: self.some(|it| v1::RouteName { kind: it.code(), namespace: it.text(), name: it.text() }),
            index: self.number(),
            name: self.text(),
            hostnames: self.list(Self::text),
            backends: self.list(|it| v1::WeightedBackend {
                backend: it.some(Self::backend),
                weight: it.number(),
                ..v1::WeightedBackend::default()
            }),
        }
    }

    fn mirror(&mut self) -> v1::Mirror {
        v1::Mirror { backend: self.some(Self::backend), numerator: self.number(), denominator: self.number() }
    }

    fn http_match(&mut self) -> v1::HttpMatch {
        use v1::http_match::Path;
        let path = match self.0.u8(..4) {
            0 => Some(Path::PathExact(self.text())),
            1 => Some(Path::PathPrefix(self.text())),
            2 => Some(Path::PathRegex(self.text())),
            _ => None,
        };
        v1::HttpMatch { path, headers: self.list(Self::key), query: self.list(Self::key), method: self.text() }
    }

    fn key(&mut self) -> v1::KeyMatch {
        use v1::key_match::Value;
        let value = if self.0.bool() { Value::Exact(self.text()) } else { Value::Regex(self.text()) };
        v1::KeyMatch { name: self.text(), value: self.some(|_| value) }
    }

    fn filter(&mut self) -> v1::HttpFilter {
        let header = |it: &mut Self| v1::Header { name: it.text(), value: it.text() };
        let path = |it: &mut Self| v1::PathRewrite {
            kind: it.some(|it| match it.0.bool() {
                true => v1::path_rewrite::Kind::Full(it.text()),
                false => v1::path_rewrite::Kind::Prefix(it.text()),
            }),
        };
        let kind = match self.0.u8(..5) {
            0 => {
                let (set, add, remove) = (self.list(header), self.list(header), self.list(Self::text));
                Some(FilterKind::ResponseHeaders(v1::HeaderModifier { set, add, remove }))
            }
            1 => Some(FilterKind::Redirect(v1::Redirect {
                scheme: self.text(),
                hostname: self.text(),
                path: self.some(path),
                port: self.number(),
                status: self.number(),
            })),
            2 => Some(FilterKind::Rewrite(v1::UrlRewrite { hostname: self.text(), path: self.some(path) })),
            3 => Some(FilterKind::Cors(v1::Cors {
                origins: self.list(Self::text),
                credentials: self.0.bool(),
                methods: self.text(),
                headers: self.text(),
                expose: self.text(),
                max_age_seconds: self.number(),
            })),
            _ => None,
        };
        v1::HttpFilter { kind }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_message_panics_and_what_is_read_is_applied_or_refused(seed: u64) {
        let response = Chaos(fastrand::Rng::with_seed(seed)).response();
        // Each part on its own too: a whole response is rarely without a mistake.
        for wire in &response.updated {
            let _ = resource(wire);
        }
        match update(&response) {
            Ok(update) => {
                let _ = Snapshot::default().apply(update);
            }
            Err(error) => prop_assert!(!error.field.is_empty() && !error.reason.is_empty(), "{error}"),
        }
    }

    #[test]
    fn no_damage_to_a_good_message_panics(position: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let good = v1::DiscoveryResponse { updated: vec![reviews()], ..v1::DiscoveryResponse::default() };
        let mut bytes = good.encode_to_vec();
        let at = position.index(bytes.len());
        bytes[at] = byte;
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            if let Ok(message) = v1::DiscoveryResponse::decode(bytes) {
                let _ = update(&message);
            }
        }
    }
}

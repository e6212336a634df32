//! Any configuration that the core's types can hold and the mesh can mean.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use weir_core::authz::MtlsMode;
use weir_core::backend_tls::{BackendTls, SubjectName, TlsRoots, TlsTerms};
use weir_core::balance::{Algorithm, BalanceConfig, EjectionConfig, Judgement, Locality};
use weir_core::budget::BudgetConfig;
use weir_core::names::{BackendRef, Identity, Label, ObjectName, ServiceRef, TrustDomain};
use weir_core::policy::concurrency::{CallerPriority, Priority};
use weir_core::policy::{
    AdaptiveConcurrency, BackendPolicy, Connections, HashOn, Hedging, Injection, Limits, RateKey, RateLimit,
};
use weir_core::route::filter::cors::{Cors, Names};
use weir_core::route::{
    Filter, HeaderChanges, HeaderMatch, HttpMatch, HttpRule, Mirror, PathChange, PathMatch, Pattern, QueryMatch, Redirect,
    RetryPolicy, Rewrite, RouteKind, RouteRef, RouteTable, Share, StreamRule, StreamTable, Timeouts, ValueMatch, WeightedBackend,
};
use weir_core::session::{Carrier, Session};
use weir_core::snapshot::{
    AddressTarget, Endpoint, Endpoints, Inbound, InboundPort, Protocol, Resource, ResourceName, Service, ServicePort, TrustBundle,
};

/// A resource of any kind.
pub(crate) fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        service().prop_map(|it| Resource::Service(Arc::new(it))),
        endpoints().prop_map(|it| Resource::Endpoints(Arc::new(it))),
        (any::<IpAddr>(), target()).prop_map(|(ip, target)| Resource::Address(ip, target)),
        inbound().prop_map(|it| Resource::Inbound(Arc::new(it))),
        trust().prop_map(|it| Resource::Trust(Arc::new(it))),
    ]
}

/// A name of any kind.
pub(crate) fn name() -> impl Strategy<Value = ResourceName> {
    prop_oneof![
        service_ref().prop_map(ResourceName::Service),
        backend_ref().prop_map(ResourceName::Endpoints),
        any::<IpAddr>().prop_map(ResourceName::Address),
        Just(ResourceName::Inbound),
        Just(ResourceName::Trust),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    let routes = prop_oneof![
        Just((None, None)),
        vec(rule(), 0..4).prop_map(|rules| (Some(Arc::new(RouteTable::new(rules))), None)),
        vec(stream_rule(), 0..4).prop_map(|rules| (None, Some(Arc::new(StreamTable::tls(rules))))),
        vec(stream_rule(), 0..4).prop_map(|rules| (None, Some(Arc::new(StreamTable::tcp(rules))))),
    ];
    let port = (text(), protocol(), routes, vec(injection(), 0..3), shared_session());
    let port = port.prop_map(|(name, protocol, (routes, streams), injections, session)| ServicePort {
        name,
        protocol,
        routes,
        streams,
        injections,
        session,
    });
    (service_ref(), vec(any::<IpAddr>(), 0..3), btree_map(1_u16.., port, 0..3)).prop_map(|(name, addresses, ports)| Service {
        name,
        addresses,
        ports,
    })
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let tls = option::of(backend_tls().prop_map(Arc::new));
    (backend_ref(), vec((endpoint(), any::<bool>()), 0..6), backend_policy(), tls).prop_map(|(name, endpoints, policy, tls)| {
        let with_tls = |(it, wanted): (Endpoint, bool)| {
            let tls = tls.clone().filter(|_| wanted && it.identity.is_none());
            Endpoint { tls, ..it }
        };
        let mut endpoints: Vec<Endpoint> = endpoints.into_iter().map(with_tls).collect();
        endpoints.sort_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        Endpoints { name, endpoints, policy: Arc::new(policy) }
    })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let address = (any::<IpAddr>(), 1_u16..).prop_map(SocketAddr::from);
    (address, option::of(identity()), text(), protocol(), text()).prop_map(|(address, identity, zone, protocol, pod)| Endpoint {
        address,
        identity: identity.map(Arc::new),
        tls: None,
        zone,
        protocol,
        pod,
    })
}

fn backend_tls() -> impl Strategy<Value = BackendTls> {
    let name = prop_oneof![hostname().prop_map(SubjectName::Dns), reason().prop_map(SubjectName::Uri)];
    let der = vec(any::<u8>(), 1..64).prop_map(Arc::from);
    let roots = prop_oneof![Just(TlsRoots::System), vec(der, 1..3).prop_map(TlsRoots::Certificates)];
    let terms = (hostname(), vec(name, 1..4), roots);
    let terms = terms.prop_map(|(server_name, names, roots)| TlsTerms { server_name, names, roots });
    let terms = prop_oneof![terms.prop_map(Ok), reason().prop_map(Err)];
    (text(), terms).prop_map(|(policy, terms)| BackendTls { policy, terms })
}

fn target() -> impl Strategy<Value = AddressTarget> {
    prop_oneof![service_ref().prop_map(AddressTarget::Service), endpoint().prop_map(AddressTarget::Workload)]
}

fn inbound() -> impl Strategy<Value = Inbound> {
    let concurrency = option::of(concurrency().prop_map(Arc::new));
    let port = (protocol(), option::of(backend_ref()), vec(rate_limit(), 0..3), concurrency);
    let port = port.prop_map(|(protocol, service, rate_limits, concurrency)| InboundPort {
        protocol,
        service,
        rate_limits,
        concurrency,
    });
    let mtls = prop_oneof![Just(MtlsMode::Permissive), Just(MtlsMode::Strict)];
    (mtls, btree_map(1_u16.., port, 0..4), text()).prop_map(|(mtls, ports, zone)| Inbound { mtls, ports, zone })
}

fn milliseconds() -> impl Strategy<Value = Duration> {
    any::<u32>().prop_map(|ms| Duration::from_millis(ms.into()))
}

fn backend_policy() -> impl Strategy<Value = BackendPolicy> {
    let algorithm =
        prop::sample::select(vec![Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::RingHash]);
    let hash_on = prop_oneof![Just(HashOn::Source), header_name().prop_map(HashOn::Header), text().prop_map(HashOn::Cookie),];
    let judgement = (milliseconds(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
        |(interval, min_requests, min_success_percent, max_latency_factor)| Judgement {
            interval,
            min_requests,
            min_success_percent,
            max_latency_factor,
        },
    );
    let ejection = (any::<u32>(), milliseconds(), milliseconds(), any::<u32>(), judgement).prop_map(
        |(consecutive_failures, base, max, max_ejected_percent, judgement)| EjectionConfig {
            consecutive_failures,
            base,
            max,
            max_ejected_percent,
            judgement,
        },
    );
    let locality = option::of((any::<u32>(), any::<u32>()))
        .prop_map(|it| it.map(|(min_serving_percent, max_outstanding)| Locality { min_serving_percent, max_outstanding }));
    let budget = (any::<[u32; 3]>(), milliseconds(), any::<bool>()).prop_map(|(numbers, window, answers_unavailable)| {
        let [percent, min_per_second, min_per_window] = numbers;
        BudgetConfig { percent, min_per_second, min_per_window, window, answers_unavailable }
    });
    let balance = (algorithm, milliseconds(), ejection, locality).prop_map(|(algorithm, slow_start, ejection, locality)| {
        BalanceConfig { algorithm, slow_start, ejection, locality, ..BalanceConfig::default() }
    });
    let hedging = option::of((1_u32..).prop_map(|ms| Hedging { after: Duration::from_millis(ms.into()) }));
    (balance, hash_on, budget, limits(), connections(), hedging).prop_map(
        |(balance, hash_on, budget, limits, connections, hedging)| BackendPolicy {
            balance,
            hash_on,
            budget,
            limits,
            connections,
            hedging,
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let limit = || option::of(1_u32..);
    (limit(), any::<u32>(), limit(), limit()).prop_map(|(requests, pending, connections, streams)| Limits {
        requests,
        pending,
        connections,
        streams,
    })
}

fn connections() -> impl Strategy<Value = Connections> {
    let length = || option::of((1_u32..).prop_map(|ms| Duration::from_millis(ms.into())));
    (length(), length(), length()).prop_map(|(idle_timeout, max_age, keep_alive)| Connections {
        idle_timeout,
        max_age,
        keep_alive,
    })
}

fn injection() -> impl Strategy<Value = Injection> {
    let abort = option::of((100_u16..1000).prop_map(|code| StatusCode::from_u16(code).unwrap()));
    (share(), vec(header_match(), 0..2), milliseconds(), abort).prop_map(|(share, headers, delay, abort)| Injection {
        share,
        headers,
        delay,
        abort,
    })
}

fn concurrency() -> impl Strategy<Value = AdaptiveConcurrency> {
    let level = prop::sample::select(vec![Priority::Low, Priority::Normal, Priority::High]);
    let priority = (identity(), any::<bool>(), level).prop_map(|(who, whole, priority)| CallerPriority {
        namespace: who.namespace,
        service_account: (!whole).then_some(who.service_account),
        priority,
    });
    let bounds = (1_u32..1_000_000, 0_u32..1_000_000, any::<u32>());
    (text(), bounds, vec(priority, 0..3)).prop_map(|(policy, (min, more, tolerance_percent), priorities)| AdaptiveConcurrency {
        policy,
        min,
        max: min + more,
        tolerance_percent,
        priorities,
    })
}

fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let key = prop_oneof![Just(RateKey::Caller), Just(RateKey::All)];
    (text(), 1_u32.., 1_u32.., 1_u32.., key).prop_map(|(policy, requests, per, burst, key)| RateLimit {
        policy,
        requests,
        per: Duration::from_millis(per.into()),
        burst,
        key,
    })
}

fn trust() -> impl Strategy<Value = TrustBundle> {
    let root = vec(any::<u8>(), 1..64).prop_map(Arc::from);
    (domain(), vec(root, 1..4), any::<u64>()).prop_map(|(trust_domain, roots, generation)| TrustBundle {
        trust_domain,
        roots,
        generation,
    })
}

fn rule() -> impl Strategy<Value = HttpRule> {
    let about = (route_ref(), any::<u32>(), text(), any::<i64>(), option::of(reason()));
    let does = (
        vec(http_match(), 0..3),
        vec(filter(), 0..3),
        vec(mirror(), 0..3),
        vec(backend(), 0..3),
        timeouts(),
        option::of(retry()),
        option::of(session()),
    );
    (about, does).prop_map(
        |((route, index, name, created_seconds, invalid), (matches, filters, mirrors, backends, timeouts, retry, session))| {
            HttpRule {
                route,
                index,
                name,
                created_seconds,
                matches,
                filters,
                mirrors,
                backends,
                timeouts,
                retry,
                session,
                invalid,
            }
        },
    )
}

fn shared_session() -> impl Strategy<Value = Option<Arc<Session>>> {
    option::of(session().prop_map(Arc::new))
}

fn session() -> impl Strategy<Value = Session> {
    let cookie =
        ("[a-zA-Z_-]{1,12}", any::<bool>()).prop_map(|(name, permanent)| Carrier::Cookie { name: name.into(), permanent });
    let carrier = prop_oneof![cookie, header_name().prop_map(Carrier::Header)];
    (carrier, option::of(milliseconds()), option::of(milliseconds())).prop_map(|(carrier, absolute, idle)| Session {
        carrier,
        absolute,
        idle,
    })
}

fn stream_rule() -> impl Strategy<Value = StreamRule> {
    let host = "(\\*\\.)?[a-z]{1,8}(\\.[a-z]{1,8}){1,2}".prop_map(|text| text.parse().unwrap());
    (route_ref(), any::<u32>(), text(), vec(host, 0..3), vec(backend(), 0..3))
        .prop_map(|(route, index, name, hostnames, backends)| StreamRule { route, index, name, hostnames, backends })
}

fn route_ref() -> impl Strategy<Value = RouteRef> {
    let kind = prop_oneof![Just(RouteKind::Http), Just(RouteKind::Grpc), Just(RouteKind::Tls), Just(RouteKind::Tcp)];
    (kind, label(), object_name()).prop_map(|(kind, namespace, name)| RouteRef { kind, namespace, name })
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let path =
        prop_oneof![path().prop_map(PathMatch::Exact), path().prop_map(PathMatch::Prefix), pattern().prop_map(PathMatch::Regex),];
    let parameter = ("[a-zA-Z_]{1,8}", value_match()).prop_map(|(name, value)| QueryMatch { name: name.into(), value });
    let method = prop_oneof![Just(Method::GET), Just(Method::PATCH), Just(Method::from_bytes(b"BREW").unwrap())];
    (path, vec(header_match(), 0..3), vec(parameter, 0..3), option::of(method))
        .prop_map(|(path, headers, query, method)| HttpMatch { path, headers, query, method })
}

fn header_match() -> impl Strategy<Value = HeaderMatch> {
    (header_name(), value_match()).prop_map(|(name, value)| HeaderMatch { name, value })
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![text().prop_map(ValueMatch::Exact), pattern().prop_map(ValueMatch::Regex)]
}

fn filter() -> impl Strategy<Value = Filter> {
    prop_oneof![
        header_changes().prop_map(Filter::RequestHeaders),
        header_changes().prop_map(Filter::ResponseHeaders),
        redirect().prop_map(Filter::Redirect),
        (option::of(hostname()), option::of(path_change()))
            .prop_map(|(hostname, path)| Filter::Rewrite(Rewrite { hostname, path })),
        cors().prop_map(Filter::Cors),
    ]
}

fn cors() -> impl Strategy<Value = Cors> {
    let origin = "(\\*|https?://(\\*\\.)?[a-z]{1,8}\\.example(:8443)?)".prop_map(|text| text.parse().unwrap());
    let names = || prop_oneof![Just(Names::Any), "([a-z]{1,8}(, [a-z]{1,8}){0,2})?".prop_map(|text| Names::Listed(text.into()))];
    (vec(origin, 0..3), any::<bool>(), names(), names(), names(), any::<u32>()).prop_map(
        |(origins, credentials, methods, headers, expose, max_age)| Cors {
            origins,
            credentials,
            methods,
            headers,
            expose,
            max_age,
        },
    )
}

fn header_changes() -> impl Strategy<Value = HeaderChanges> {
    let header = || (header_name(), "[ -~]{0,12}").prop_map(|(name, value)| (name, HeaderValue::from_str(&value).unwrap()));
    (vec(header(), 0..3), vec(header(), 0..3), vec(header_name(), 0..3)).prop_map(|(set, add, remove)| HeaderChanges {
        set,
        add,
        remove,
    })
}

fn redirect() -> impl Strategy<Value = Redirect> {
    let scheme = prop_oneof![Just(None), Just(Some(Arc::from("http"))), Just(Some(Arc::from("https")))];
    let status = prop_oneof![Just(301), Just(302), Just(303), Just(307), Just(308)];
    (scheme, option::of(hostname()), option::of(path_change()), option::of(1_u16..), status).prop_map(
        |(scheme, hostname, path, port, status)| {
            let status = StatusCode::from_u16(status).unwrap();
            Redirect { scheme, hostname, path, port, status }
        },
    )
}

fn path_change() -> impl Strategy<Value = PathChange> {
    prop_oneof![path().prop_map(PathChange::Full), path().prop_map(PathChange::Prefix)]
}

fn backend() -> impl Strategy<Value = WeightedBackend> {
    (backend_ref(), any::<u32>(), vec(filter(), 0..2), vec(mirror(), 0..2), shared_session(), option::of(reason())).prop_map(
        |(backend, weight, filters, mirrors, session, invalid)| WeightedBackend {
            backend,
            weight,
            filters,
            mirrors,
            session,
            invalid,
        },
    )
}

fn mirror() -> impl Strategy<Value = Mirror> {
    (backend_ref(), share()).prop_map(|(backend, share)| Mirror { backend, share })
}

fn share() -> impl Strategy<Value = Share> {
    (any::<u32>(), 1_u32..).prop_map(|(part, denominator)| Share::new(part.min(denominator), denominator).unwrap())
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    (option::of(duration()), option::of(duration())).prop_map(|(request, backend_request)| Timeouts { request, backend_request })
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    let code = (400_u16..600).prop_map(|code| StatusCode::from_u16(code).unwrap());
    (vec(code, 0..4), any::<u32>(), duration()).prop_map(|(codes, attempts, backoff)| RetryPolicy { codes, attempts, backoff })
}

/// Whole milliseconds, as the Gateway API has them.
fn duration() -> impl Strategy<Value = Duration> {
    (0_u64..1 << 40).prop_map(Duration::from_millis)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::Detect),
        Just(Protocol::Http),
        Just(Protocol::Http1),
        Just(Protocol::Http2),
        Just(Protocol::Tls),
        Just(Protocol::Opaque),
    ]
}

fn service_ref() -> impl Strategy<Value = ServiceRef> {
    (label(), label()).prop_map(|(namespace, name)| ServiceRef { namespace, name })
}

fn backend_ref() -> impl Strategy<Value = BackendRef> {
    (service_ref(), 1_u16..).prop_map(|(service, port)| BackendRef { service, port })
}

fn identity() -> impl Strategy<Value = Identity> {
    (domain(), label(), object_name()).prop_map(|(trust_domain, namespace, service_account)| Identity {
        trust_domain,
        namespace,
        service_account,
    })
}

fn label() -> impl Strategy<Value = Label> {
    "[a-z]([a-z0-9-]{0,8}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

fn object_name() -> impl Strategy<Value = ObjectName> {
    "[a-z]([a-z0-9-]{0,6}[a-z0-9])?(\\.[a-z]{1,4}){0,2}".prop_map(|text| text.parse().unwrap())
}

fn domain() -> impl Strategy<Value = TrustDomain> {
    "[a-z]{1,8}(\\.[a-z]{1,8}){0,2}".prop_map(|text| text.parse().unwrap())
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "\\PC{0,12}".prop_map(Arc::from)
}

/// Why something is invalid: a sentence, never empty.
fn reason() -> impl Strategy<Value = Arc<str>> {
    "\\PC{1,20}".prop_map(Arc::from)
}

fn path() -> impl Strategy<Value = Arc<str>> {
    "(/[a-zA-Z0-9._~%-]{0,6}){1,4}".prop_map(Arc::from)
}

fn hostname() -> impl Strategy<Value = Arc<str>> {
    "[a-z]{1,8}(\\.[a-z0-9-]{1,8}){0,3}".prop_map(Arc::from)
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    "[a-z]([a-z0-9-]{0,10}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![Just("/v[0-9]+"), Just(".*"), Just("(a|b)c?"), Just("[^/]+/x")].prop_map(|source| Pattern::new(source).unwrap())
}

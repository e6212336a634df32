//! The types of `weir-core` as the messages of `weir.v1`. No other file of the control plane knows both.
//!
//! Encoding the same value twice gives the same bytes: lists keep their order, and maps are ordered by key. Versions rely on it.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use weir_core::authz::MtlsMode;
use weir_core::backend_tls::{BackendTls, SubjectName, TlsRoots};
use weir_core::balance::{Algorithm, EjectionConfig, Judgement};
use weir_core::budget::BudgetConfig;
use weir_core::names::{BackendRef, ServiceRef};
use weir_core::policy::concurrency::{CallerPriority, Priority};
use weir_core::policy::{AdaptiveConcurrency, BackendPolicy, Connections, HashOn, Injection, Limits, RateKey, RateLimit};
use weir_core::route::filter::cors::{Cors, Names};
use weir_core::route::{
    Filter, HeaderChanges, HttpMatch, HttpRule, Mirror, PathChange, PathMatch, Redirect, RetryPolicy, Rewrite, RouteKind,
    RouteRef, RouteTable, StreamTable, ValueMatch, WeightedBackend,
};
use weir_core::session::{Carrier, Session};
use weir_core::snapshot::{
    AddressTarget, Endpoint, Endpoints, Inbound, Protocol, Resource, ResourceName, Service, ServicePort, TrustBundle, Update,
};
use weir_proto::v1;

/// A whole update as one response.
#[must_use]
pub fn update(update: &Update, sequence: u64) -> v1::DiscoveryResponse {
    v1::DiscoveryResponse {
        sequence,
        updated: update.set.iter().map(|(it, version)| resource(it, version)).collect(),
        removed: update.removed.iter().map(name).collect(),
        forgotten: update.forgotten.iter().map(name).collect(),
    }
}

/// A resource with its version.
#[must_use]
pub fn resource(resource: &Resource, version: &str) -> v1::Resource {
    v1::Resource { name: Some(name(&resource.name())), version: version.to_owned(), body: Some(body(resource)) }
}

/// A resource without name and version.
#[must_use]
pub fn body(resource: &Resource) -> v1::resource::Body {
    use v1::resource::Body;
    match resource {
        Resource::Service(it) => Body::Service(service(it)),
        Resource::Endpoints(it) => Body::Endpoints(endpoints(it)),
        Resource::Address(ip, target) => Body::Address(address(*ip, target)),
        Resource::Inbound(it) => Body::Inbound(inbound(it)),
        Resource::Trust(it) => Body::Trust(trust(it)),
    }
}

/// The name of a resource.
#[must_use]
pub fn name(name: &ResourceName) -> v1::ResourceName {
    let (kind, name) = match name {
        ResourceName::Service(it) => (v1::ResourceKind::Service, it.to_string()),
        ResourceName::Endpoints(it) => (v1::ResourceKind::Endpoints, it.to_string()),
        ResourceName::Address(it) => (v1::ResourceKind::Address, it.to_string()),
        ResourceName::Inbound => (v1::ResourceKind::Inbound, String::new()),
        ResourceName::Trust => (v1::ResourceKind::Trust, String::new()),
    };
    v1::ResourceName { kind: kind.into(), name }
}

/// A name as people read it: `Service shop/reviews`.
#[must_use]
pub fn describe(name: &ResourceName) -> String {
    match name {
        ResourceName::Service(it) => format!("Service {it}"),
        ResourceName::Endpoints(it) => format!("Endpoints {it}"),
        ResourceName::Address(it) => format!("Address {it}"),
        ResourceName::Inbound => "Inbound".to_owned(),
        ResourceName::Trust => "Trust".to_owned(),
    }
}

/// Reads a name that a proxy sent.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub fn parse_name(name: &v1::ResourceName) -> Result<ResourceName, String> {
    let bad = |error: &dyn std::fmt::Display| format!("a resource name cannot be read: {error}");
    match v1::ResourceKind::try_from(name.kind) {
        Ok(v1::ResourceKind::Service) => name.name.parse().map(ResourceName::Service).map_err(|e| bad(&e)),
        Ok(v1::ResourceKind::Endpoints) => name.name.parse().map(ResourceName::Endpoints).map_err(|e| bad(&e)),
        Ok(v1::ResourceKind::Address) => {
            name.name.parse().map(ResourceName::Address).map_err(|e: std::net::AddrParseError| bad(&e))
        }
        Ok(v1::ResourceKind::Inbound) => Ok(ResourceName::Inbound),
        Ok(v1::ResourceKind::Trust) => Ok(ResourceName::Trust),
        Ok(v1::ResourceKind::Unspecified) => Err("a resource name without a kind".to_owned()),
        Err(_) => Err(format!("a resource name of the unknown kind {}", name.kind)),
    }
}

fn service(service: &Service) -> v1::Service {
    v1::Service {
        name: Some(service_name(&service.name)),
        addresses: service.addresses.iter().map(ToString::to_string).collect(),
        ports: service.ports.iter().map(|(port, it)| service_port(*port, it)).collect(),
    }
}

fn service_port(port: u16, it: &ServicePort) -> v1::ServicePort {
    v1::ServicePort {
        port: port.into(),
        name: it.name.to_string(),
        protocol: protocol(it.protocol).into(),
        http_routes: it.routes.as_deref().map(routes),
        stream_routes: it.streams.as_deref().map(streams),
        injections: it.injections.iter().map(injection).collect(),
        session: it.session.as_deref().map(session),
    }
}

fn routes(table: &RouteTable) -> v1::HttpRoutes {
    v1::HttpRoutes { rules: table.rules().iter().map(rule).collect() }
}

fn rule(rule: &HttpRule) -> v1::HttpRule {
    v1::HttpRule {
        route: Some(route_name(&rule.route)),
        index: rule.index,
        name: rule.name.to_string(),
        created_seconds: rule.created_seconds,
        matches: rule.matches.iter().map(http_match).collect(),
        filters: rule.filters.iter().map(filter).collect(),
        backends: rule.backends.iter().map(weighted_backend).collect(),
        request_timeout_ms: rule.timeouts.request.map(milliseconds),
        backend_request_timeout_ms: rule.timeouts.backend_request.map(milliseconds),
        retry: rule.retry.as_ref().map(retry),
        invalid: text_or_empty(rule.invalid.as_deref()),
        mirrors: rule.mirrors.iter().map(mirror).collect(),
        session: rule.session.as_ref().map(session),
    }
}

fn session(it: &Session) -> v1::Session {
    let (name, header, permanent) = match &it.carrier {
        Carrier::Cookie { name, permanent } => (name.to_string(), false, *permanent),
        Carrier::Header(name) => (name.to_string(), true, false),
    };
    v1::Session { name, header, permanent, absolute_ms: it.absolute.map(milliseconds), idle_ms: it.idle.map(milliseconds) }
}

fn streams(table: &StreamTable) -> v1::StreamRoutes {
    let kind = if table.by_name() { v1::RouteKind::Tls } else { v1::RouteKind::Tcp };
    let rules = table.rules().iter().map(|rule| v1::StreamRule {
        route: Some(route_name(&rule.route)),
        index: rule.index,
        name: rule.name.to_string(),
        hostnames: rule.hostnames.iter().map(ToString::to_string).collect(),
        backends: rule.backends.iter().map(weighted_backend).collect(),
    });
    v1::StreamRoutes { kind: kind.into(), rules: rules.collect() }
}

fn route_name(route: &RouteRef) -> v1::RouteName {
    let kind = match route.kind {
        RouteKind::Http => v1::RouteKind::Http,
        RouteKind::Grpc => v1::RouteKind::Grpc,
        RouteKind::Tls => v1::RouteKind::Tls,
        RouteKind::Tcp => v1::RouteKind::Tcp,
    };
    v1::RouteName { kind: kind.into(), namespace: route.namespace.to_string(), name: route.name.to_string() }
}

fn http_match(it: &HttpMatch) -> v1::HttpMatch {
    use v1::http_match::Path;
    let path = match &it.path {
        PathMatch::Exact(path) => Path::PathExact(path.to_string()),
        PathMatch::Prefix(path) => Path::PathPrefix(path.to_string()),
        PathMatch::Regex(pattern) => Path::PathRegex(pattern.source().to_owned()),
    };
    v1::HttpMatch {
        path: Some(path),
        headers: it.headers.iter().map(|header| key_match(header.name.as_str(), &header.value)).collect(),
        query: it.query.iter().map(|parameter| key_match(&parameter.name, &parameter.value)).collect(),
        method: it.method.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn key_match(name: &str, value: &ValueMatch) -> v1::KeyMatch {
    use v1::key_match::Value;
    let value = match value {
        ValueMatch::Exact(text) => Value::Exact(text.to_string()),
        ValueMatch::Regex(pattern) => Value::Regex(pattern.source().to_owned()),
    };
    v1::KeyMatch { name: name.to_owned(), value: Some(value) }
}

fn filter(filter: &Filter) -> v1::HttpFilter {
    use v1::http_filter::Kind;
    let kind = match filter {
        Filter::RequestHeaders(changes) => Kind::RequestHeaders(header_changes(changes)),
        Filter::ResponseHeaders(changes) => Kind::ResponseHeaders(header_changes(changes)),
        Filter::Redirect(it) => Kind::Redirect(redirect(it)),
        Filter::Rewrite(it) => Kind::Rewrite(rewrite(it)),
        Filter::Cors(it) => Kind::Cors(cors(it)),
    };
    v1::HttpFilter { kind: Some(kind) }
}

fn header_changes(changes: &HeaderChanges) -> v1::HeaderModifier {
    let pairs = |list: &[(HeaderName, HeaderValue)]| {
        list.iter()
            .map(|(name, value)| v1::Header {
                name: name.as_str().to_owned(),
                value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
            })
            .collect()
    };
    v1::HeaderModifier {
        set: pairs(&changes.set),
        add: pairs(&changes.add),
        remove: changes.remove.iter().map(|name| name.as_str().to_owned()).collect(),
    }
}

fn redirect(it: &Redirect) -> v1::Redirect {
    v1::Redirect {
        scheme: text_or_empty(it.scheme.as_deref()),
        hostname: text_or_empty(it.hostname.as_deref()),
        path: it.path.as_ref().map(path_change),
        port: it.port.map(u32::from).unwrap_or_default(),
        status: it.status.as_u16().into(),
    }
}

fn rewrite(it: &Rewrite) -> v1::UrlRewrite {
    v1::UrlRewrite { hostname: text_or_empty(it.hostname.as_deref()), path: it.path.as_ref().map(path_change) }
}

fn cors(it: &Cors) -> v1::Cors {
    let names = |names: &Names| match names {
        Names::Any => "*".to_owned(),
        Names::Listed(list) => list.to_string(),
    };
    v1::Cors {
        origins: it.origins.iter().map(ToString::to_string).collect(),
        credentials: it.credentials,
        methods: names(&it.methods),
        headers: names(&it.headers),
        expose: names(&it.expose),
        max_age_seconds: it.max_age,
    }
}

fn path_change(change: &PathChange) -> v1::PathRewrite {
    use v1::path_rewrite::Kind;
    let kind = match change {
        PathChange::Full(path) => Kind::Full(path.to_string()),
        PathChange::Prefix(path) => Kind::Prefix(path.to_string()),
    };
    v1::PathRewrite { kind: Some(kind) }
}

fn weighted_backend(it: &WeightedBackend) -> v1::WeightedBackend {
    v1::WeightedBackend {
        backend: Some(backend_name(&it.backend)),
        weight: it.weight,
        filters: it.filters.iter().map(filter).collect(),
        invalid: text_or_empty(it.invalid.as_deref()),
        mirrors: it.mirrors.iter().map(mirror).collect(),
        session: it.session.as_deref().map(session),
    }
}

fn mirror(it: &Mirror) -> v1::Mirror {
    v1::Mirror { backend: Some(backend_name(&it.backend)), numerator: it.share.numerator(), denominator: it.share.denominator() }
}

fn retry(policy: &RetryPolicy) -> v1::Retry {
    v1::Retry {
        codes: policy.codes.iter().map(|code| code.as_u16().into()).collect(),
        attempts: policy.attempts,
        backoff_ms: milliseconds(policy.backoff),
    }
}

fn endpoints(it: &Endpoints) -> v1::Endpoints {
    v1::Endpoints {
        name: Some(backend_name(&it.name)),
        endpoints: it.endpoints.iter().filter(|it| it.tls.is_none()).map(endpoint).collect(),
        policy: (*it.policy != BackendPolicy::default()).then(|| backend_policy(&it.policy)),
        // They all have the same: one policy holds for a port.
        tls: it.endpoints.iter().find_map(|it| it.tls.as_deref()).map(backend_tls),
        tls_endpoints: it.endpoints.iter().filter(|it| it.tls.is_some()).map(endpoint).collect(),
    }
}

fn backend_tls(it: &BackendTls) -> v1::BackendTls {
    use v1::backend_tls::Roots;
    use v1::subject_name::Kind;
    let policy = it.policy.to_string();
    let terms = match &it.terms {
        Ok(terms) => terms,
        Err(why) => return v1::BackendTls { policy, invalid: why.to_string(), ..v1::BackendTls::default() },
    };
    let name = |name: &SubjectName| match name {
        SubjectName::Dns(name) => v1::SubjectName { kind: Some(Kind::Dns(name.to_string())) },
        SubjectName::Uri(uri) => v1::SubjectName { kind: Some(Kind::Uri(uri.to_string())) },
    };
    let roots = match &terms.roots {
        TlsRoots::System => Roots::System(true),
        TlsRoots::Certificates(ders) => {
            Roots::Certificates(v1::CaCertificates { ders: ders.iter().map(|der| Bytes::copy_from_slice(der)).collect() })
        }
    };
    v1::BackendTls {
        policy,
        invalid: String::new(),
        server_name: terms.server_name.to_string(),
        names: terms.names.iter().map(name).collect(),
        roots: Some(roots),
    }
}

fn backend_policy(it: &BackendPolicy) -> v1::BackendPolicy {
    use v1::hash_on::Kind;
    let balancer = match it.balance.algorithm {
        Algorithm::PeakEwma => v1::Balancer::PeakEwma,
        Algorithm::LeastRequest => v1::Balancer::LeastRequest,
        Algorithm::RoundRobin => v1::Balancer::RoundRobin,
        Algorithm::RingHash => v1::Balancer::RingHash,
    };
    let hash_on = match &it.hash_on {
        HashOn::Source => None,
        HashOn::Header(name) => Some(Kind::Header(name.as_str().to_owned())),
        HashOn::Cookie(name) => Some(Kind::Cookie(name.to_string())),
    };
    let EjectionConfig { consecutive_failures, base, max, max_ejected_percent, judgement } = it.balance.ejection;
    let BudgetConfig { percent, min_per_second, min_per_window, window, answers_unavailable } = it.budget;
    v1::BackendPolicy {
        balancer: balancer.into(),
        hash_on: Some(v1::HashOn { kind: hash_on }),
        slow_start_ms: milliseconds(it.balance.slow_start),
        ejection: Some(v1::Ejection {
            consecutive_failures,
            base_ms: milliseconds(base),
            max_ms: milliseconds(max),
            max_ejected_percent,
            judgement: (judgement != Judgement::default()).then(|| v1::Judgement {
                interval_ms: milliseconds(judgement.interval),
                min_requests: judgement.min_requests,
                min_success_percent: judgement.min_success_percent,
                max_latency_factor: judgement.max_latency_factor,
            }),
        }),
        retry_budget: Some(v1::RetryBudget {
            percent,
            min_per_second,
            window_ms: milliseconds(window),
            min_per_window,
            answers_unavailable,
        }),
        locality: it
            .balance
            .locality
            .map(|it| v1::Locality { min_serving_percent: it.min_serving_percent, max_outstanding: it.max_outstanding }),
        limits: Some(limits(&it.limits)),
        connections: Some(connections(&it.connections)),
        hedge_after_ms: it.hedging.map(|it| milliseconds(it.after)).unwrap_or_default(),
    }
}

fn limits(it: &Limits) -> v1::Limits {
    let Limits { requests, pending, connections, streams } = *it;
    let or_any = Option::unwrap_or_default;
    v1::Limits { requests: or_any(requests), pending, connections: or_any(connections), streams: or_any(streams) }
}

fn connections(it: &Connections) -> v1::Connections {
    let or_usual = |length: Option<Duration>| length.map(milliseconds).unwrap_or_default();
    v1::Connections {
        idle_timeout_ms: or_usual(it.idle_timeout),
        max_age_ms: or_usual(it.max_age),
        keep_alive_ms: or_usual(it.keep_alive),
    }
}

fn injection(it: &Injection) -> v1::Injection {
    v1::Injection {
        numerator: it.share.numerator(),
        denominator: it.share.denominator(),
        headers: it.headers.iter().map(|header| key_match(header.name.as_str(), &header.value)).collect(),
        delay_ms: milliseconds(it.delay),
        abort_status: it.abort.map(|status| status.as_u16().into()).unwrap_or_default(),
    }
}

fn concurrency(it: &AdaptiveConcurrency) -> v1::AdaptiveConcurrency {
    let priority = |it: &CallerPriority| {
        let priority = match it.priority {
            Priority::Normal => v1::Priority::Normal,
            Priority::Low => v1::Priority::Low,
            Priority::High => v1::Priority::High,
        };
        let service_account = it.service_account.as_ref().map(ToString::to_string).unwrap_or_default();
        v1::CallerPriority { namespace: it.namespace.to_string(), service_account, priority: priority.into() }
    };
    v1::AdaptiveConcurrency {
        policy: it.policy.to_string(),
        min: it.min,
        max: it.max,
        tolerance_percent: it.tolerance_percent,
        priorities: it.priorities.iter().map(priority).collect(),
    }
}

fn rate_limit(it: &RateLimit) -> v1::RateLimit {
    let key = match it.key {
        RateKey::Caller => v1::RateKey::Caller,
        RateKey::All => v1::RateKey::All,
    };
    v1::RateLimit {
        policy: it.policy.to_string(),
        requests: it.requests,
        per_ms: milliseconds(it.per),
        burst: it.burst,
        key: key.into(),
    }
}

fn endpoint(it: &Endpoint) -> v1::Endpoint {
    v1::Endpoint {
        address: it.address.to_string(),
        identity: it.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        zone: it.zone.to_string(),
        protocol: protocol(it.protocol).into(),
        pod: it.pod.to_string(),
    }
}

fn address(ip: IpAddr, target: &AddressTarget) -> v1::Address {
    use v1::address::Target;
    let target = match target {
        AddressTarget::Service(name) => Target::Service(service_name(name)),
        AddressTarget::Workload(it) => Target::Workload(endpoint(it)),
    };
    v1::Address { address: ip.to_string(), target: Some(target) }
}

fn inbound(it: &Inbound) -> v1::Inbound {
    let mtls = match it.mtls {
        MtlsMode::Permissive => v1::MtlsMode::Permissive,
        MtlsMode::Strict => v1::MtlsMode::Strict,
    };
    let ports = it.ports.iter().map(|(port, it)| v1::InboundPort {
        port: (*port).into(),
        protocol: protocol(it.protocol).into(),
        service: it.service.as_ref().map(backend_name),
        rate_limits: it.rate_limits.iter().map(rate_limit).collect(),
        concurrency: it.concurrency.as_deref().map(concurrency),
    });
    v1::Inbound { mtls: mtls.into(), ports: ports.collect(), zone: it.zone.to_string() }
}

fn trust(it: &TrustBundle) -> v1::TrustBundle {
    v1::TrustBundle {
        trust_domain: it.trust_domain.to_string(),
        roots: it.roots.iter().map(|root| Bytes::copy_from_slice(root)).collect(),
        generation: it.generation,
    }
}

fn service_name(it: &ServiceRef) -> v1::ServiceName {
    v1::ServiceName { namespace: it.namespace.to_string(), name: it.name.to_string() }
}

fn backend_name(it: &BackendRef) -> v1::BackendName {
    v1::BackendName { service: Some(service_name(&it.service)), port: it.port.into() }
}

const fn protocol(protocol: Protocol) -> v1::Protocol {
    match protocol {
        Protocol::Detect => v1::Protocol::Detect,
        Protocol::Http => v1::Protocol::Http,
        Protocol::Http1 => v1::Protocol::Http1,
        Protocol::Http2 => v1::Protocol::Http2,
        Protocol::Tls => v1::Protocol::Tls,
        Protocol::Opaque => v1::Protocol::Opaque,
    }
}

fn text_or_empty(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

/// Whole milliseconds, which is the resolution of durations in the Gateway API (GEP-2257).
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

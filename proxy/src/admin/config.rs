//! The configuration in force, as JSON that reads like the objects it came from.

use std::time::Duration;

use serde_json::{Map, Value, json};
use weir_core::authz::MtlsMode;
use weir_core::backend_tls::{BackendTls, TlsRoots};
use weir_core::balance::Algorithm;
use weir_core::policy::{BackendPolicy, HashOn};
use weir_core::route::filter::cors::Names;
use weir_core::route::{
    Filter, HeaderChanges, HttpMatch, HttpRule, Mirror, PathChange, PathMatch, StreamRule, ValueMatch, WeightedBackend,
};
use weir_core::snapshot::{AddressTarget, Endpoint, Inbound, Known, Protocol, ResourceName, Service, Snapshot};

use crate::shared::Shared;

pub(super) fn page(shared: &Shared) -> Value {
    let snapshot = shared.snapshot.load_full();
    let age = shared.control.age(shared.now()).map(|age| age.as_secs_f64());
    let mut page = resources(&snapshot);
    page.insert("generation".into(), json!(snapshot.generation()));
    page.insert("connected".into(), json!(shared.control.connected()));
    page.insert("ageSeconds".into(), json!(age));
    page.insert("inbound".into(), inbound(snapshot.inbound()));
    page.insert("trustDomain".into(), json!(snapshot.trust().map(|trust| trust.trust_domain.as_str())));
    page.insert("roots".into(), json!(snapshot.trust().map_or(0, |trust| trust.roots.len())));
    Value::Object(page)
}

/// Everything that has a name, sorted by it.
fn resources(snapshot: &Snapshot) -> Map<String, Value> {
    let (mut services, mut endpoints, mut addresses) = (Map::new(), Map::new(), Map::new());
    let mut policies = Map::new();
    for name in snapshot.versions().keys() {
        match name {
            ResourceName::Service(name) => {
                let known = snapshot.service(name).and_then(Known::present);
                services.insert(name.to_string(), json!(known.map(|it| service(it))));
            }
            ResourceName::Endpoints(name) => {
                let known = snapshot.endpoints(name);
                let list = known.map(|it| it.endpoints.iter().map(endpoint).collect::<Vec<_>>());
                endpoints.insert(name.to_string(), json!(list));
                if let Some(it) = known.filter(|it| *it.policy != BackendPolicy::default()) {
                    policies.insert(name.to_string(), policy(&it.policy));
                }
            }
            ResourceName::Address(ip) => {
                let known = snapshot.address(*ip).and_then(Known::present);
                addresses.insert(ip.to_string(), json!(known.map(address)));
            }
            ResourceName::Inbound | ResourceName::Trust => {}
        }
    }
    let all = [("services", services), ("endpoints", endpoints), ("addresses", addresses), ("policies", policies)];
    all.into_iter().map(|(name, map)| (name.to_owned(), Value::Object(map))).collect()
}

fn service(service: &Service) -> Value {
    let ports = service.ports.iter().map(|(number, port)| {
        let rules = port.routes.as_ref().map(|table| table.rules().iter().map(rule).collect::<Vec<_>>());
        let streams = port.streams.as_ref().map(|table| table.rules().iter().map(stream_rule).collect::<Vec<_>>());
        let rules = rules.or(streams);
        json!({ "port": number, "name": &*port.name, "protocol": protocol(port.protocol), "rules": rules })
    });
    json!({ "addresses": service.addresses, "ports": ports.collect::<Vec<_>>() })
}

fn rule(rule: &HttpRule) -> Value {
    let kind = rule.route.kind.as_str();
    let retry = rule.retry.as_ref().map(|retry| {
        let codes: Vec<u16> = retry.codes.iter().map(|code| code.as_u16()).collect();
        json!({ "codes": codes, "attempts": retry.attempts, "backoffSeconds": retry.backoff.as_secs_f64() })
    });
    let mut shown = Map::new();
    let mut show = |name: &str, value: Value| {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.as_str().is_some_and(str::is_empty);
        if !empty {
            shown.insert(name.to_owned(), value);
        }
    };
    show("route", json!(format!("{kind} {} rule {}", rule.route, rule.index)));
    show("name", json!(&*rule.name));
    show("matches", rule.matches.iter().map(http_match).collect());
    show("filters", rule.filters.iter().map(filter).collect());
    show("mirrors", rule.mirrors.iter().map(mirror).collect());
    show("backends", rule.backends.iter().map(backend).collect());
    show("requestTimeoutSeconds", json!(rule.timeouts.request.map(|it| it.as_secs_f64())));
    show("backendRequestTimeoutSeconds", json!(rule.timeouts.backend_request.map(|it| it.as_secs_f64())));
    show("retry", json!(retry));
    show("invalid", json!(rule.invalid.as_deref()));
    Value::Object(shown)
}

fn stream_rule(rule: &StreamRule) -> Value {
    let hostnames: Vec<String> = rule.hostnames.iter().map(ToString::to_string).collect();
    json!({
        "route": format!("{} {} rule {}", rule.route.kind.as_str(), rule.route, rule.index),
        "name": &*rule.name,
        "hostnames": hostnames,
        "backends": rule.backends.iter().map(backend).collect::<Vec<_>>(),
    })
}

fn mirror(one: &Mirror) -> Value {
    json!({ "backend": one.backend.to_string(), "share": one.share.to_string() })
}

fn http_match(one: &HttpMatch) -> Value {
    let path = match &one.path {
        PathMatch::Exact(path) => format!("= {path}"),
        PathMatch::Prefix(path) => format!("prefix {path}"),
        PathMatch::Regex(pattern) => format!("~ {}", pattern.source()),
    };
    let headers: Vec<String> = one.headers.iter().map(|it| format!("{} {}", it.name, value_match(&it.value))).collect();
    let query: Vec<String> = one.query.iter().map(|it| format!("{} {}", it.name, value_match(&it.value))).collect();
    json!({ "path": path, "headers": headers, "query": query, "method": one.method.as_ref().map(http::Method::as_str) })
}

fn value_match(value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(text) => format!("= {text}"),
        ValueMatch::Regex(pattern) => format!("~ {}", pattern.source()),
    }
}

fn filter(filter: &Filter) -> Value {
    match filter {
        Filter::RequestHeaders(changes) => json!({ "requestHeaders": header_changes(changes) }),
        Filter::ResponseHeaders(changes) => json!({ "responseHeaders": header_changes(changes) }),
        Filter::Redirect(it) => json!({ "redirect": {
            "scheme": it.scheme.as_deref(),
            "hostname": it.hostname.as_deref(),
            "path": it.path.as_ref().map(path_change),
            "port": it.port,
            "status": it.status.as_u16(),
        } }),
        Filter::Cors(it) => {
            let names = |names: &Names| match names {
                Names::Any => "*".to_owned(),
                Names::Listed(list) => list.to_string(),
            };
            json!({ "cors": {
                "origins": it.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "credentials": it.credentials,
                "methods": names(&it.methods),
                "headers": names(&it.headers),
                "expose": names(&it.expose),
                "maxAgeSeconds": it.max_age,
            } })
        }
        Filter::Rewrite(it) => {
            json!({ "rewrite": { "hostname": it.hostname.as_deref(), "path": it.path.as_ref().map(path_change) } })
        }
    }
}

fn header_changes(changes: &HeaderChanges) -> Value {
    let pairs = |list: &[(http::HeaderName, http::HeaderValue)]| -> Vec<String> {
        list.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))).collect()
    };
    let removed: Vec<&str> = changes.remove.iter().map(http::HeaderName::as_str).collect();
    json!({ "set": pairs(&changes.set), "add": pairs(&changes.add), "remove": removed })
}

fn path_change(change: &PathChange) -> String {
    match change {
        PathChange::Full(path) => format!("all of it: {path}"),
        PathChange::Prefix(path) => format!("matched prefix: {path}"),
    }
}

fn backend(one: &WeightedBackend) -> Value {
    let filters: Vec<Value> = one.filters.iter().map(filter).collect();
    let mirrors: Vec<Value> = one.mirrors.iter().map(mirror).collect();
    json!({
        "backend": one.backend.to_string(),
        "weight": one.weight,
        "filters": filters,
        "mirrors": mirrors,
        "invalid": one.invalid.as_deref(),
    })
}

fn backend_tls(tls: &BackendTls) -> Value {
    match &tls.terms {
        Err(why) => json!({ "policy": &*tls.policy, "refuses": &**why }),
        Ok(terms) => json!({
            "policy": &*tls.policy,
            "serverName": &*terms.server_name,
            "names": terms.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "certificates": match &terms.roots {
                TlsRoots::System => json!("System"),
                TlsRoots::Certificates(ders) => json!(ders.len()),
            },
        }),
    }
}

fn endpoint(endpoint: &Endpoint) -> Value {
    json!({
        "address": endpoint.address,
        "identity": endpoint.identity.as_ref().map(ToString::to_string),
        "backendTls": endpoint.tls.as_deref().map(backend_tls),
        "zone": &*endpoint.zone,
        "protocol": protocol(endpoint.protocol),
        "pod": &*endpoint.pod,
    })
}

/// What a TrafficPolicy says, all of it, with its names.
fn policy(it: &BackendPolicy) -> Value {
    let BackendPolicy { balance, hash_on, budget, limits, connections, hedging } = it;
    let (ejection, seconds) = (balance.ejection, |length: Option<Duration>| length.map(|it| it.as_secs_f64()));
    let hash_on = match hash_on {
        HashOn::Source => json!({ "type": "Source" }),
        HashOn::Header(name) => json!({ "type": "Header", "name": name.as_str() }),
        HashOn::Cookie(name) => json!({ "type": "Cookie", "name": &**name }),
    };
    json!({
        "loadBalancing": {
            "type": match balance.algorithm {
                Algorithm::PeakEwma => "PeakEwma",
                Algorithm::LeastRequest => "LeastRequest",
                Algorithm::RoundRobin => "RoundRobin",
                Algorithm::RingHash => "RingHash",
            },
            "hashOn": (balance.algorithm == Algorithm::RingHash).then_some(hash_on),
            "slowStartSeconds": balance.slow_start.as_secs_f64(),
        },
        "ejection": {
            "consecutiveFailures": ejection.consecutive_failures,
            "baseSeconds": ejection.base.as_secs_f64(),
            "maxSeconds": ejection.max.as_secs_f64(),
            "maxEjectedPercent": ejection.max_ejected_percent,
            "intervalSeconds": ejection.judgement.interval.as_secs_f64(),
            "minRequests": ejection.judgement.min_requests,
            "minSuccessPercent": ejection.judgement.min_success_percent,
            "maxLatencyFactor": ejection.judgement.max_latency_factor,
        },
        "locality": balance.locality.map(|it| json!({
            "prefer": "SameZone",
            "minServingPercent": it.min_serving_percent,
            "maxOutstanding": it.max_outstanding,
        })),
        "limits": {
            "requests": limits.requests,
            "pending": limits.pending,
            "connections": limits.connections,
            "streams": limits.streams,
        },
        "connections": {
            "idleTimeoutSeconds": seconds(connections.idle_timeout),
            "maxAgeSeconds": seconds(connections.max_age),
            "keepAliveSeconds": seconds(connections.keep_alive),
        },
        "hedging": hedging.map(|it| json!({ "afterSeconds": it.after.as_secs_f64() })),
        "retryBudget": {
            "percent": budget.percent,
            "minPerSecond": budget.min_per_second,
            "minPerInterval": budget.min_per_window,
            "intervalSeconds": budget.window.as_secs_f64(),
            "answersUnavailable": budget.answers_unavailable,
        },
    })
}

fn address(target: &AddressTarget) -> Value {
    match target {
        AddressTarget::Service(name) => json!({ "service": name.to_string() }),
        AddressTarget::Workload(workload) => json!({ "workload": endpoint(workload) }),
    }
}

fn inbound(inbound: &Inbound) -> Value {
    let mtls = match inbound.mtls {
        MtlsMode::Permissive => "permissive",
        MtlsMode::Strict => "strict",
    };
    let ports = inbound.ports.iter().map(|(number, port)| {
        json!({ "port": number, "protocol": protocol(port.protocol), "service": port.service.as_ref().map(ToString::to_string) })
    });
    json!({ "mtls": mtls, "zone": &*inbound.zone, "ports": ports.collect::<Vec<_>>() })
}

const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "detect",
        Protocol::Http => "http",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::Tls => "tls",
        Protocol::Opaque => "opaque",
    }
}

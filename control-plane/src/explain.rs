//! What would become of one request, and why: for people who ask before they send it, or after it went wrong.
//!
//! Pure, and made of the same code as what happens: the index and [`translate`](crate::translate) say what the caller's proxy is
//! told, and the core's `decide` says what that proxy does with it.

mod answer;
mod policy;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::SystemTime;

use fastrand::Rng;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Uri};
use weir_core::authz::MtlsMode;
use weir_core::names::{BackendRef, Resolver, Target, TrustDomain};
use weir_core::reason::Reason;
use weir_core::route::decide::{Decision, Refusal, decide};
use weir_core::route::explain::{Considered, Verdict, consider, describe_considered};
use weir_core::route::stream::StreamRefusal;
use weir_core::route::{HttpRule, RouteRef, RouteTable, StreamTable, WeightedBackend};
use weir_core::session::Carrier;
use weir_core::snapshot::{AddressTarget, Endpoint, Protocol, ServicePort};

pub use answer::{BackendLine, EndpointLine, Explanation, Failure, Outcome, RouteLine, RuleLine};

use crate::index::Index;
use crate::objects::{NamespacedName, ServiceForm};
use crate::translate::{self, Workload};

/// A request that somebody wonders about.
#[derive(Clone, Debug)]
pub struct Question {
    /// The Pod that sends it.
    pub from: NamespacedName,
    /// Its method.
    pub method: Method,
    /// Where to, absolute.
    pub to: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// What the names of the cluster's DNS end in.
    pub cluster_domain: String,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
}

/// Said where connections are routed.
const AS_A_WHOLE: &str = "connections are routed as a whole: this holds for each connection, not for each request; one that fails is \
                          closed, and an answer is given only to a client of the forward proxy";

/// Explains one request.
#[must_use]
pub fn explain(index: &Index, question: &Question) -> Explanation {
    let mut explanation = about(index, question);
    let caller = index.pod(&question.from);
    let from = format!("{}/{}", question.from.namespace, question.from.name);
    match caller {
        None => explanation.notes.push(format!(
            "Pod {from} is not known: what is said holds for a Pod of namespace {} that has a sidecar",
            question.from.namespace
        )),
        Some(pod) if !pod.meshed => explanation.notes.push(format!(
            "Pod {from} has no sidecar, so none of this happens: the request goes where kube-proxy sends it, in plaintext, and a \
             workload that is strict about mutual TLS refuses it"
        )),
        Some(_) => {}
    }
    explanation
}

fn about(index: &Index, question: &Question) -> Explanation {
    let authority = question.to.authority().map_or("", |authority| authority.as_str());
    let default_port = if question.to.scheme_str() == Some("https") { 443 } else { 80 };
    let resolver = Resolver::new(question.from.namespace.clone(), &question.cluster_domain);
    match resolver.resolve(authority, default_port) {
        Err(error) => fails(authority.to_owned(), Reason::BadRequest, error.to_string()),
        Ok(Target::External { host, port }) => {
            let destination = format!("{host}:{port}, which is no name of the cluster");
            let summary = format!("goes to {host}:{port} outside the mesh as it is, if DNS knows an address that no Service has");
            Explanation { summary, outcome: Outcome::Outside, ..empty(destination) }
        }
        Ok(Target::Address(address)) => by_address(index, question, address),
        Ok(Target::Service(backend)) => to_service(index, question, &backend),
    }
}

fn by_address(index: &Index, question: &Question, address: SocketAddr) -> Explanation {
    match translate::address(index, address.ip(), &question.trust_domain) {
        Some(AddressTarget::Service(name)) => to_service(index, question, &BackendRef { service: name, port: address.port() }),
        Some(AddressTarget::Workload(endpoint)) => {
            let endpoint = Endpoint { address, ..endpoint };
            let destination = format!("Pod {} by its own address", endpoint.pod);
            let how = if endpoint.identity.is_some() { "over mutual TLS" } else { "in plaintext: it has no sidecar" };
            let summary = format!("goes to Pod {} at {address} {how}; requests to a Pod's address are not routed", endpoint.pod);
            let backend = BackendLine {
                backend: address.to_string(),
                weight: 1,
                percent: "100".into(),
                sent: None,
                headers: Vec::new(),
                fails: None,
                endpoints: vec![endpoint_line(&endpoint)],
            };
            Explanation { summary, outcome: Outcome::Forwarded, backends: vec![backend], ..empty(destination) }
        }
        None => {
            let destination = format!("{address}, which no Service and no Pod has");
            let summary = format!("goes to {address} outside the mesh as it is");
            Explanation { summary, outcome: Outcome::Outside, ..empty(destination) }
        }
    }
}

fn to_service(index: &Index, question: &Question, dialled: &BackendRef) -> Explanation {
    let name = &dialled.service;
    if index.service(name).is_some_and(|service| service.form == ServiceForm::ExternalName) {
        let destination = format!("Service {name}, another name for a host outside");
        let summary = format!("goes to the host that Service {name} names, outside the mesh, as it is");
        return Explanation { summary, outcome: Outcome::Outside, ..empty(destination) };
    }
    let Some(view) = translate::service(index, name, &question.from.namespace) else {
        let mut explanation = fails(format!("Service {name}"), Reason::UnknownDestination, format!("there is no Service {name}"));
        explanation.notes.push("names of two parts are read as SERVICE.NAMESPACE".into());
        return explanation;
    };
    let Some(port) = view.service.ports.get(&dialled.port) else {
        let ports: Vec<String> = view.service.ports.keys().map(ToString::to_string).collect();
        let detail = format!("Service {name} has no port {}; it has {}", dialled.port, ports.join(", "));
        return fails(format!("Service {name}"), Reason::UnknownPort, detail);
    };
    let destination = format!("Service {name}, port {} ({})", dialled.port, spoken(port.protocol));
    let asked = Asked { index, question, dialled, port };
    let mut explanation = match (&port.routes, &port.streams) {
        (Some(table), _) => asked.by_rules(table),
        (None, Some(table)) => asked.by_connection(table),
        (None, None) => asked.without_routes(),
    };
    explanation.destination = destination;
    explanation.without_effect = asked.without_effect();
    policy::add(&mut explanation, index, dialled, &question.headers);
    explanation.notes.extend(asked.strict_callees(&explanation));
    explanation
}

/// A question about a port that exists.
struct Asked<'a> {
    index: &'a Index,
    question: &'a Question,
    dialled: &'a BackendRef,
    port: &'a ServicePort,
}

impl Asked<'_> {
    fn without_routes(&self) -> Explanation {
        let backend = self.backend(self.dialled, 1, 1);
        let summary = match &backend.fails {
            None => format!("goes to one of {} of {}; no route is attached to the port", count(&backend), self.dialled),
            Some(failure) => format!("is answered with {}: {}", failure.status, failure.detail),
        };
        Explanation { summary, outcome: outcome(std::slice::from_ref(&backend)), backends: vec![backend], ..empty(String::new()) }
    }

    fn by_connection(&self, table: &StreamTable) -> Explanation {
        let sni = if table.by_name() { self.question.to.host() } else { None };
        let considered = table.rules().iter().map(|rule| {
            let names: Vec<String> = rule.hostnames.iter().map(ToString::to_string).collect();
            let matches = if names.is_empty() { "every connection".to_owned() } else { names.join(", ") };
            let taken = table.find(sni).is_some_and(|found| std::ptr::eq(found, rule));
            let verdict = if taken { "taken" } else { "another rule is more specific, or the name is another" };
            RuleLine { rule: rule_text(&rule.route, rule.index), matches, verdict: verdict.to_owned() }
        });
        let considered = considered.collect();
        let Some(rule) = table.find(sni) else {
            let why = StreamRefusal::NoRoute(sni.map(ToOwned::to_owned));
            let notes = vec![AS_A_WHOLE.into()];
            return Explanation { considered, notes, ..fails(String::new(), why.reason(), why.to_string()) };
        };
        let backends: Vec<BackendLine> = rule.backends.iter().map(|it| self.share(it, &rule.backends)).collect();
        let mut explanation = self.shared_out(&rule.route, rule.index, backends);
        explanation.considered = considered;
        explanation.notes.push(AS_A_WHOLE.into());
        explanation
    }

    fn by_rules(&self, table: &RouteTable) -> Explanation {
        let Question { method, to, headers, .. } = self.question;
        let all = consider(table, method, to.path(), to.query(), headers);
        let lines = all.iter().filter_map(|it| line(table, it)).collect();
        let taken = all.iter().find(|it| it.verdict == Verdict::Taken).and_then(|it| table.rules().get(it.rule));
        let Some(rule) = taken else {
            let why = Refusal::NoRoute;
            return Explanation { considered: lines, ..fails(String::new(), why.reason(), why.to_string()) };
        };
        Explanation { considered: lines, ..self.under(rule) }
    }

    fn under(&self, rule: &HttpRule) -> Explanation {
        let text = rule_text(&rule.route, rule.index);
        let mut backends = Vec::new();
        for backend in &rule.backends {
            let mut line = self.share(backend, &rule.backends);
            match self.decided(rule, Some(backend)) {
                Decided::Sent(parts) => {
                    line.headers = header_changes(&self.question.headers, &parts.headers);
                    line.sent = Some(sent(&parts));
                }
                Decided::Fails(failure) => line.fails = Some(failure),
                Decided::Answered { status, summary } => {
                    return Explanation { rule: Some(text), ..answered(status, summary) };
                }
            }
            backends.push(line);
        }
        if !rule.backends.iter().any(|it| it.weight > 0) {
            return match self.decided(rule, None) {
                Decided::Answered { status, summary } => Explanation { rule: Some(text), ..answered(status, summary) },
                Decided::Fails(it) => {
                    let outcome = Outcome::Fails { status: it.status, reason: it.reason };
                    let summary = format!("is answered with {}: {}", it.status, it.detail);
                    Explanation { rule: Some(text), summary, outcome, ..empty(String::new()) }
                }
                // Nobody is there to send it to.
                Decided::Sent(_) => {
                    let why = Refusal::NoBackend;
                    Explanation { rule: Some(text), ..fails(String::new(), why.reason(), why.to_string()) }
                }
            };
        }
        Explanation { policies: policies(rule), ..self.shared_out(&rule.route, rule.index, backends) }
    }

    /// What the core decides where the dice fall on this backend.
    fn decided(&self, rule: &HttpRule, backend: Option<&WeightedBackend>) -> Decided {
        let certain = backend.map(|it| WeightedBackend { weight: 1, ..it.clone() });
        let table = RouteTable::new(vec![HttpRule { backends: certain.into_iter().collect(), ..rule.clone() }]);
        let mut request = Request::new(());
        *request.method_mut() = self.question.method.clone();
        *request.uri_mut() = self.question.to.clone();
        *request.headers_mut() = self.question.headers.clone();
        let (mut parts, ()) = request.into_parts();
        match decide(&table, &mut parts, self.dialled.port, &mut Rng::with_seed(0), unix_seconds) {
            Decision::Forward { .. } => Decided::Sent(Box::new(parts)),
            Decision::Preflight { .. } => Decided::Answered {
                status: 204,
                summary: "is a browser's preflight, which the caller's sidecar answers with 204 as the rule's CORS filter says"
                    .into(),
            },
            Decision::Redirect { status, location, .. } => Decided::Answered {
                status: status.as_u16(),
                summary: format!(
                    "is answered with {} and location {}",
                    status.as_u16(),
                    String::from_utf8_lossy(location.as_bytes())
                ),
            },
            Decision::Refused { why, .. } => Decided::Fails(Failure::new(why.reason(), why.to_string())),
        }
    }

    fn shared_out(&self, route: &RouteRef, index: u32, backends: Vec<BackendLine>) -> Explanation {
        let rule = rule_text(route, index);
        let takes = |it: &&BackendLine| it.weight > 0;
        let serving: Vec<BackendLine> = backends.iter().filter(takes).cloned().collect();
        let outcome = outcome(&serving);
        let summary = match (&outcome, serving.as_slice()) {
            (Outcome::Fails { status, .. }, [first, ..]) => {
                let detail = first.fails.as_ref().map_or("", |failure| failure.detail.as_str());
                format!("is answered with {status} under {rule}: {detail}")
            }
            (_, [only]) => format!("goes to {} under {rule}", only.backend),
            (_, several) => {
                let shares = several.iter().map(|it| {
                    let but =
                        it.fails.as_ref().map_or_else(String::new, |failure| format!(", which fails with {}", failure.status));
                    format!("{} % to {}{but}", it.percent, it.backend)
                });
                format!("goes, under {rule}, {}", shares.collect::<Vec<_>>().join(" and "))
            }
        };
        Explanation { summary, outcome, rule: Some(rule), backends, ..empty(String::new()) }
    }

    fn share(&self, backend: &WeightedBackend, all: &[WeightedBackend]) -> BackendLine {
        let total: u64 = all.iter().map(|it| u64::from(it.weight)).sum();
        let mut line = self.backend(&backend.backend, backend.weight, total);
        if let Some(why) = &backend.invalid {
            line.endpoints.clear();
            line.fails = Some(Failure::new(Reason::InvalidBackend, why.to_string()));
        }
        line
    }

    fn backend(&self, name: &BackendRef, weight: u32, total: u64) -> BackendLine {
        let found = translate::endpoints(self.index, name, &self.question.trust_domain);
        let endpoints: Vec<EndpointLine> = found.iter().flat_map(|it| &it.endpoints).map(endpoint_line).collect();
        let none = || Failure::new(Reason::NoEndpoint, format!("{name} has no ready endpoint"));
        let all = found.iter().flat_map(|it| &it.endpoints);
        let refused: Option<Vec<String>> = all.map(refusal).collect();
        let fails = refused.map(|all| {
            let first = all.into_iter().next();
            first.map_or_else(none, |why| Failure::new(Reason::BackendTlsFailed, why))
        });
        BackendLine {
            backend: name.to_string(),
            weight,
            percent: percent(weight.into(), total),
            sent: None,
            headers: Vec::new(),
            fails,
            endpoints,
        }
    }

    /// Routes that name the Service and are neither in force on this port nor for this caller.
    fn without_effect(&self) -> Vec<RouteLine> {
        let rules = self.port.routes.iter().flat_map(|table| table.rules().iter().map(|rule| &rule.route));
        let streams = self.port.streams.iter().flat_map(|table| table.rules().iter().map(|rule| &rule.route));
        let in_force: BTreeSet<&RouteRef> = rules.chain(streams).collect();
        let others = self.index.routes_to(&self.dialled.service).filter(|route| !in_force.contains(&route.key));
        others
            .map(|route| {
                let route_text = format!("{} {}", route.key.kind.as_str(), route.key);
                RouteLine { route: route_text, why: self.why_without_effect(&route.key, &in_force) }
            })
            .collect()
    }

    fn why_without_effect(&self, key: &RouteRef, in_force: &BTreeSet<&RouteRef>) -> String {
        let own = &self.dialled.service.namespace;
        let caller = &self.question.from.namespace;
        if key.namespace != *own && key.namespace != *caller {
            return format!("it is a consumer's route, for clients in namespace {} only", key.namespace);
        }
        let status = translate::status(self.index, key);
        let parents = status.iter().flat_map(|status| &status.parents);
        let refused = parents.flat_map(|parent| &parent.conditions).find(|it| it.kind == "Accepted" && it.status == "False");
        if let Some(condition) = refused {
            return format!("{}: {}", condition.reason, condition.message);
        }
        if key.namespace == *own && in_force.iter().any(|it| it.namespace == *caller) && caller != own {
            return format!("routes of namespace {caller} itself replace the producer's for its clients");
        }
        "it is attached to another port".to_owned()
    }

    /// Callees that want mutual TLS, which a caller with a sidecar brings.
    fn strict_callees(&self, explanation: &Explanation) -> Option<String> {
        let addresses = explanation.backends.iter().flat_map(|backend| &backend.endpoints).map(|it| it.address.ip());
        let strict: BTreeSet<String> = addresses
            .filter_map(|ip| self.index.pod_at(ip))
            .filter(|pod| {
                let workload = Workload {
                    namespace: pod.key.namespace.clone(),
                    pod: Some(pod.key.name.clone()),
                    service_account: pod.service_account.clone(),
                    ips: pod.ips.clone(),
                };
                translate::inbound(self.index, &workload).mtls == MtlsMode::Strict
            })
            .map(|pod| pod.key.name.to_string())
            .collect();
        let names: Vec<String> = strict.into_iter().collect();
        (!names.is_empty()).then(|| format!("strict about mutual TLS: {}", names.join(", ")))
    }
}

enum Decided {
    Sent(Box<Parts>),
    Answered { status: u16, summary: String },
    Fails(Failure),
}

fn line(table: &RouteTable, considered: &Considered) -> Option<RuleLine> {
    let rule = table.rules().get(considered.rule)?;
    let verdict = match &considered.verdict {
        Verdict::Taken => "taken".to_owned(),
        Verdict::LessSpecific => "matches too, and is less specific".to_owned(),
        Verdict::Missed(why) => why.to_string(),
    };
    Some(RuleLine { rule: rule_text(&rule.route, rule.index), matches: describe_considered(rule, considered), verdict })
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn policies(rule: &HttpRule) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(rule.timeouts.request.map(|it| format!("the whole request may take {it:?}")));
    lines.extend(rule.timeouts.backend_request.map(|it| format!("one attempt may take {it:?}")));
    lines.extend(rule.retry.as_ref().map(|it| {
        let codes: Vec<&str> = it.codes.iter().map(http::StatusCode::as_str).collect();
        let on = if codes.is_empty() { String::new() } else { format!(", also for {}", codes.join(", ")) };
        format!("up to {} retries after at least {:?}{on}, within the retry budget", it.attempts, it.backoff)
    }));
    lines.extend(rule.session.as_ref().map(|it| match &it.carrier {
        Carrier::Cookie { name, .. } => format!("requests with one value of the cookie {name} stay with one endpoint"),
        Carrier::Header(name) => format!("requests with one value of the header {name} stay with one endpoint"),
    }));
    lines.extend(rule.mirrors.iter().map(|it| format!("{} of the requests are mirrored to {}", it.share, it.backend)));
    lines
}

fn sent(parts: &Parts) -> String {
    let host = parts.uri.authority().map_or("", |it| it.as_str());
    let path = parts.uri.path_and_query().map_or("/", |it| it.as_str());
    format!("{} {path} (host {host})", parts.method)
}

/// What is different, a line each.
fn header_changes(before: &HeaderMap, after: &HeaderMap) -> Vec<String> {
    let text = |headers: &HeaderMap, name| {
        let values: Vec<_> = headers.get_all(name).iter().map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned()).collect();
        values.join(", ")
    };
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).map(http::HeaderName::as_str).collect();
    let changed = names.into_iter().filter(|name| before.get_all(*name).iter().ne(after.get_all(*name).iter()));
    changed
        .map(|name| match after.contains_key(name) {
            true => format!("{name}: {}", text(after, name)),
            false => format!("{name} is removed"),
        })
        .collect()
}

/// `percent` without a fraction where it has none, else with one digit.
fn percent(weight: u64, total: u64) -> String {
    if total == 0 {
        return "0".into();
    }
    let tenths = (weight * 1000 + total / 2) / total;
    if tenths == 0 && weight > 0 {
        return "<0.1".into();
    }
    if tenths.is_multiple_of(10) { (tenths / 10).to_string() } else { format!("{}.{}", tenths / 10, tenths % 10) }
}

fn outcome(serving: &[BackendLine]) -> Outcome {
    let failures: Vec<&Failure> = serving.iter().filter_map(|it| it.fails.as_ref()).collect();
    match failures.first() {
        None if serving.is_empty() => failing(Reason::InvalidBackend),
        None => Outcome::Forwarded,
        Some(first) if failures.len() == serving.len() => Outcome::Fails { status: first.status, reason: first.reason },
        Some(_) => Outcome::ForwardedInPart,
    }
}

fn count(backend: &BackendLine) -> String {
    match backend.endpoints.len() {
        1 => "1 endpoint".into(),
        many => format!("{many} endpoints"),
    }
}

/// Why an endpoint is not called, if a BackendTLSPolicy for it cannot be kept to.
fn refusal(endpoint: &Endpoint) -> Option<String> {
    let tls = endpoint.tls.as_deref()?;
    let why = tls.terms.as_ref().err()?;
    Some(format!("{why} (BackendTLSPolicy {})", tls.policy))
}

fn endpoint_line(endpoint: &Endpoint) -> EndpointLine {
    EndpointLine {
        address: endpoint.address,
        pod: endpoint.pod.to_string(),
        identity: endpoint.identity.as_ref().map(ToString::to_string),
        tls: endpoint.tls.as_deref().map(|tls| match &tls.terms {
            Ok(terms) => format!("TLS as {}", terms.server_name),
            Err(_) => "not called".to_owned(),
        }),
        zone: endpoint.zone.to_string(),
    }
}

fn rule_text(route: &RouteRef, index: u32) -> String {
    format!("{} {route} rule {index}", route.kind.as_str())
}

const fn spoken(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "the first bytes tell what is spoken",
        Protocol::Http => "HTTP",
        Protocol::Http1 => "HTTP/1.1",
        Protocol::Http2 => "HTTP/2",
        Protocol::Tls => "TLS of the application's own",
        Protocol::Opaque => "opaque TCP",
    }
}

fn empty(destination: String) -> Explanation {
    Explanation {
        summary: String::new(),
        outcome: Outcome::Forwarded,
        destination,
        rule: None,
        policies: Vec::new(),
        backends: Vec::new(),
        considered: Vec::new(),
        without_effect: Vec::new(),
        notes: Vec::new(),
    }
}

fn answered(status: u16, summary: String) -> Explanation {
    Explanation { summary, outcome: Outcome::Answered { status }, ..empty(String::new()) }
}

fn fails(destination: String, reason: Reason, detail: String) -> Explanation {
    let summary = format!("is answered with {}: {detail}", reason.status().as_u16());
    Explanation { summary, outcome: failing(reason), ..empty(destination) }
}

fn failing(reason: Reason) -> Outcome {
    Outcome::Fails { status: reason.status().as_u16(), reason: reason.as_str() }
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn a_share_is_never_said_to_be_none_when_it_is_some() {
        for (weight, total, expected) in
            [(1, 1, "100"), (1, 3, "33.3"), (2, 3, "66.7"), (0, 5, "0"), (0, 0, "0"), (1, 1_000_000, "<0.1"), (1, 1000, "0.1")]
        {
            assert_eq!(percent(weight, total), expected, "{weight} of {total}");
        }
    }
}

//! What policies do to a request.

use http::HeaderMap;
use weir_core::backend_tls::BackendTls;
use weir_core::balance::Algorithm;
use weir_core::names::BackendRef;
use weir_core::policy::{HashOn, Injection, RateKey, RateLimit};
use weir_core::reason::Reason;

use super::answer::{Explanation, Outcome};
use crate::index::Index;
use crate::objects::policy::TrafficPolicy;
use crate::translate;

/// Adds what the policies of the dialled port and of the backends say.
pub(super) fn add(explanation: &mut Explanation, index: &Index, dialled: &BackendRef, headers: &HeaderMap) {
    // Only what would reach a backend is disturbed.
    let forwarded = matches!(explanation.outcome, Outcome::Forwarded | Outcome::ForwardedInPart);
    if let Some(policy) = of(index, dialled).filter(|_| forwarded) {
        let matching: Vec<&Injection> = policy.injections.iter().filter(|it| it.matches(headers)).collect();
        explanation.policies.extend(matching.iter().map(|it| format!("TrafficPolicy {}: {}", policy.key, fault(it))));
        // Whatever the dice say, the first that takes all takes this one.
        let reached = matching.iter().position(|it| it.takes_all()).map_or(&[][..], |last| &matching[..=last]);
        let aborts = reached.iter().all(|it| it.abort.is_some());
        if let Some(status) = reached.last().and_then(|it| it.abort).filter(|_| aborts) {
            explanation.summary = format!("is answered with {} by a fault of TrafficPolicy {}", status.as_u16(), policy.key);
            explanation.outcome = Outcome::Fails { status: status.as_u16(), reason: Reason::FaultInjected.as_str() };
        }
    }
    for name in explanation.backends.iter().map(|it| it.backend.clone()).collect::<Vec<_>>() {
        let Ok(backend) = name.parse::<BackendRef>() else { continue };
        explanation.policies.extend(tls(index, &backend));
        explanation.policies.extend(traffic(index, &backend));
        let Some(policy) = of(index, &backend) else { continue };
        explanation.policies.push(format!("{name} is balanced by {} (TrafficPolicy {})", balancer(policy), policy.key));
        explanation.policies.extend(bounds(policy).map(|it| format!("{name} {it} (TrafficPolicy {})", policy.key)));
        explanation.policies.extend(
            policy.rate_limits.iter().map(|it| format!("each Pod of {name} {} (TrafficPolicy {})", limit(it), policy.key)),
        );
    }
}

fn of<'a>(index: &'a Index, backend: &BackendRef) -> Option<&'a TrafficPolicy> {
    let port = index.service(&backend.service)?.port(backend.port)?;
    translate::in_force(index, &backend.service, port)
}

/// What a BackendTLSPolicy says of the endpoints that have no sidecar.
fn tls(index: &Index, backend: &BackendRef) -> Option<String> {
    let port = index.service(&backend.service)?.port(backend.port)?;
    let BackendTls { policy, terms } = translate::backend_tls(index, translate::tls_in_force(index, &backend.service, port)?);
    let said = match terms {
        Ok(terms) => {
            let names: Vec<String> = terms.names.iter().map(ToString::to_string).collect();
            format!("reached by TLS as {}, and must have a certificate for {}", terms.server_name, names.join(" or "))
        }
        Err(why) => format!("not called, and requests to them fail with {}: {why}", Reason::BackendTlsFailed.as_str()),
    };
    Some(format!("endpoints of {backend} without a sidecar are {said} (BackendTLSPolicy {policy})"))
}

/// What an XBackendTrafficPolicy says of retries and sessions.
fn traffic(index: &Index, backend: &BackendRef) -> Vec<String> {
    let of_port = || {
        let port = index.service(&backend.service)?.port(backend.port)?;
        Some((port, translate::traffic_in_force(index, &backend.service, port)?))
    };
    let Some((port, policy)) = of_port() else { return Vec::new() };
    let overridden = translate::in_force(index, &backend.service, port).is_some_and(|it| it.says_budget);
    let budget = policy.budget.filter(|_| !overridden).map(|it| {
        let (percent, reserve, window) = (it.percent, it.reserve(), it.window);
        format!(
            "retries to {backend} are {percent} for each hundred requests and {reserve} more in {window:?}, and over that 503"
        )
    });
    let session = policy.persistence.as_ref().map(|it| {
        let name = it.name().map(|name| format!(" {name}")).unwrap_or_default();
        let carrier = it.carrier();
        format!(
            "requests with one value of the {carrier}{name} stay with one endpoint of {backend}, if their rule keeps no sessions"
        )
    });
    let lines = [budget, session].into_iter().flatten();
    lines.map(|line| format!("{line} (XBackendTrafficPolicy {})", policy.key)).collect()
}

fn fault(it: &Injection) -> String {
    let delay = if it.delay.is_zero() { String::new() } else { format!("delayed by {:?}", it.delay) };
    let abort = it.abort.map(|status| format!("answered with {}", status.as_u16())).unwrap_or_default();
    let both = if delay.is_empty() || abort.is_empty() { "" } else { " and then " };
    format!("{} of the requests are {delay}{both}{abort}", it.share)
}

fn balancer(policy: &TrafficPolicy) -> String {
    match (policy.backend.balance.algorithm, &policy.backend.hash_on) {
        (Algorithm::PeakEwma, _) => "PeakEwma".to_owned(),
        (Algorithm::LeastRequest, _) => "LeastRequest".to_owned(),
        (Algorithm::RoundRobin, _) => "RoundRobin".to_owned(),
        (Algorithm::RingHash, HashOn::Source) => "RingHash on the Pod that calls".to_owned(),
        (Algorithm::RingHash, HashOn::Header(name)) => format!("RingHash on the header {name}"),
        (Algorithm::RingHash, HashOn::Cookie(name)) => format!("RingHash on the cookie {name}"),
    }
}

/// How much a caller may have under way, and where it looks first.
fn bounds(policy: &TrafficPolicy) -> impl Iterator<Item = String> {
    let (limits, locality) = (policy.backend.limits, policy.backend.balance.locality);
    let requests = limits.requests.map(|most| {
        let pending = if limits.pending == 0 { String::new() } else { format!(", and {} may wait", limits.pending) };
        format!("has at most {most} requests of a sidecar under way{pending}")
    });
    let connections =
        limits.connections.map(|most| format!("has at most {most} connections of a sidecar that are carried as bytes"));
    let locality = locality.map(|_| "is served by endpoints of the caller's zone, as far as these can".to_owned());
    [requests, connections, locality].into_iter().flatten()
}

fn limit(it: &RateLimit) -> String {
    let whose = match it.key {
        RateKey::All => "all callers together",
        RateKey::Caller => "each caller",
    };
    format!("takes {} requests in {:?} of {whose}", it.requests, it.per)
}

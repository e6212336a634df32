//! TrafficPolicies, as far as a proxy is concerned.

use std::time::Duration;

use weir_core::balance::{Algorithm, BalanceConfig, EjectionConfig, Judgement, Locality};
use weir_core::budget::BudgetConfig;
use weir_core::policy::concurrency::{CallerPriority, Priority};
use weir_core::policy::{
    AdaptiveConcurrency, BackendPolicy, Connections, HashOn, Hedging, Injection, Limits, RateKey, RateLimit,
};
use weir_core::route::HeaderMatch;
use weir_proto::v1;

use super::rules::{header_name, share, status, value_match};
use super::{Invalid, each, unknown};

/// How endpoints are chosen. What is not said is as without a policy.
pub(super) fn backend(wire: &v1::BackendPolicy) -> Result<BackendPolicy, Invalid> {
    let algorithm = match v1::Balancer::try_from(wire.balancer) {
        Ok(v1::Balancer::PeakEwma) => Algorithm::PeakEwma,
        Ok(v1::Balancer::LeastRequest) => Algorithm::LeastRequest,
        Ok(v1::Balancer::RoundRobin) => Algorithm::RoundRobin,
        Ok(v1::Balancer::RingHash) => Algorithm::RingHash,
        Err(_) => return Err(unknown("balancer", "a balancer", wire.balancer)),
    };
    let hash_on = match wire.hash_on.as_ref().and_then(|it| it.kind.as_ref()) {
        None => HashOn::Source,
        Some(v1::hash_on::Kind::Header(name)) => HashOn::Header(header_name("hash_on.header", name)?),
        Some(v1::hash_on::Kind::Cookie(name)) => HashOn::Cookie(name.as_str().into()),
    };
    let ejection = wire.ejection.as_ref().map(|it| EjectionConfig {
        consecutive_failures: it.consecutive_failures,
        base: Duration::from_millis(it.base_ms),
        max: Duration::from_millis(it.max_ms),
        max_ejected_percent: it.max_ejected_percent,
        judgement: it.judgement.as_ref().map(judgement).unwrap_or_default(),
    });
    let budget = wire.retry_budget.as_ref().map(|it| BudgetConfig {
        percent: it.percent,
        min_per_second: it.min_per_second,
        min_per_window: it.min_per_window,
        window: Duration::from_millis(it.window_ms),
        answers_unavailable: it.answers_unavailable,
    });
    let slow_start = Duration::from_millis(wire.slow_start_ms);
    let locality = wire
        .locality
        .as_ref()
        .map(|it| Locality { min_serving_percent: it.min_serving_percent, max_outstanding: it.max_outstanding });
    let ejection = ejection.unwrap_or_default();
    let balance = BalanceConfig { algorithm, slow_start, ejection, locality, ..BalanceConfig::default() };
    let limits = wire.limits.as_ref().map(limits).unwrap_or_default();
    let connections = wire.connections.as_ref().map(connections).unwrap_or_default();
    let after = Duration::from_millis(wire.hedge_after_ms);
    let hedging = (!after.is_zero()).then_some(Hedging { after });
    Ok(BackendPolicy { balance, hash_on, budget: budget.unwrap_or_default(), limits, connections, hedging })
}

fn judgement(wire: &v1::Judgement) -> Judgement {
    Judgement {
        interval: Duration::from_millis(wire.interval_ms),
        min_requests: wire.min_requests,
        min_success_percent: wire.min_success_percent,
        max_latency_factor: wire.max_latency_factor,
    }
}

fn limits(wire: &v1::Limits) -> Limits {
    let or_any = |number: u32| Some(number).filter(|number| *number > 0);
    Limits {
        requests: or_any(wire.requests),
        pending: wire.pending,
        connections: or_any(wire.connections),
        streams: or_any(wire.streams),
    }
}

fn connections(wire: &v1::Connections) -> Connections {
    let or_usual = |ms: u64| Some(Duration::from_millis(ms)).filter(|length| !length.is_zero());
    Connections {
        idle_timeout: or_usual(wire.idle_timeout_ms),
        max_age: or_usual(wire.max_age_ms),
        keep_alive: or_usual(wire.keep_alive_ms),
    }
}

/// A fault that somebody wants.
pub(super) fn injection(wire: &v1::Injection) -> Result<Injection, Invalid> {
    let headers = each("headers", &wire.headers, |it| {
        Ok(HeaderMatch { name: header_name("name", &it.name)?, value: value_match(it.value.as_ref())? })
    })?;
    let abort = match wire.abort_status {
        0 => None,
        code => Some(status("abort_status", code)?),
    };
    let share = share(wire.numerator, wire.denominator)?;
    Ok(Injection { share, headers, delay: Duration::from_millis(wire.delay_ms), abort })
}

/// How the bound of a port is found.
pub(super) fn concurrency(wire: &v1::AdaptiveConcurrency) -> Result<AdaptiveConcurrency, Invalid> {
    let priorities = each("priorities", &wire.priorities, |it| {
        let priority = match v1::Priority::try_from(it.priority) {
            Ok(v1::Priority::Normal) => Priority::Normal,
            Ok(v1::Priority::Low) => Priority::Low,
            Ok(v1::Priority::High) => Priority::High,
            Err(_) => return Err(unknown("priority", "a priority", it.priority)),
        };
        let namespace = it.namespace.parse().map_err(|error| Invalid::new("namespace", format!("{error}")))?;
        let service_account = match it.service_account.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|error| Invalid::new("service_account", format!("{error}")))?),
        };
        Ok(CallerPriority { namespace, service_account, priority })
    })?;
    if wire.min == 0 || wire.max < wire.min {
        let message = format!("{} to {} would let nothing through, or is no range", wire.min, wire.max);
        return Err(Invalid::new("min", message));
    }
    let (policy, tolerance_percent) = (wire.policy.as_str().into(), wire.tolerance_percent);
    Ok(AdaptiveConcurrency { policy, min: wire.min, max: wire.max, tolerance_percent, priorities })
}

/// How many requests a port takes.
pub(super) fn rate_limit(wire: &v1::RateLimit) -> Result<RateLimit, Invalid> {
    let key = match v1::RateKey::try_from(wire.key) {
        Ok(v1::RateKey::Caller) => RateKey::Caller,
        Ok(v1::RateKey::All) => RateKey::All,
        Err(_) => return Err(unknown("key", "a key of a rate limit", wire.key)),
    };
    for (field, number) in [("requests", u64::from(wire.requests)), ("per_ms", wire.per_ms), ("burst", u64::from(wire.burst))] {
        if number == 0 {
            return Err(Invalid::new(field, "is 0, which would let nothing through"));
        }
    }
    Ok(RateLimit {
        policy: wire.policy.as_str().into(),
        requests: wire.requests,
        per: Duration::from_millis(wire.per_ms),
        burst: wire.burst,
        key,
    })
}

//! From what is written to a [`TrafficPolicy`].

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use serde_json::Value;
use weir_core::balance::{Algorithm, BalanceConfig, EjectionConfig, Judgement, Locality};
use weir_core::budget::BudgetConfig;
use weir_core::names::{Label, ObjectName, ServiceRef};
use weir_core::policy::concurrency::{CallerPriority, Priority};
use weir_core::policy::{
    AdaptiveConcurrency, BackendPolicy, Connections, HashOn, Hedging, Injection, Limits, RateKey, RateLimit,
};
use weir_core::route::Share;

use super::spec::{self, Spec, TrafficPolicyObject};
use super::{PolicyTarget, TrafficPolicy};
use crate::field::{FieldPath, excerpt};
use crate::gateway::created;
use crate::reader::{Reader, structure};
use crate::routes::{duration, header_matches};
use crate::{Object, Read};

/// As the Gateway API bounds the lists of a policy.
const MAX_TARGETS: usize = 16;
const MAX_LIMITS: usize = 8;
const MAX_FAULTS: usize = 16;
const MAX_PRIORITIES: usize = 64;
/// Nothing here is meant to take longer.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn policy(value: &Value) -> Read {
    let raw: TrafficPolicyObject = structure(value)?;
    let mut reader = Reader::default();
    let created_seconds = created(&raw.metadata, &mut reader);
    let Some(key) = reader.key(&raw.metadata) else { return reader.finish(None) };
    let field = FieldPath::of(&["spec"]);
    let Spec { load_balancing, ejection, locality, limits, connections, retry_budget, rate_limits, faults, .. } = &raw.spec;
    let targets = targets(&raw.spec.target_refs, &key.namespace, &field.key("targetRefs"), &mut reader);
    let (algorithm, hash_on, slow_start) = balancing(load_balancing, &field.key("loadBalancing"), &mut reader);
    let ejection = self::ejection(ejection, &field.key("ejection"), &mut reader);
    let says_locality = locality.is_some();
    let locality = locality.as_ref().and_then(|raw| self::locality(raw, &field.key("locality"), &mut reader));
    let balance = BalanceConfig { algorithm, slow_start, ejection, locality, ..BalanceConfig::default() };
    let limits = self::limits(limits, &field.key("limits"), &mut reader);
    let connections = self::connections(connections, &field.key("connections"), &mut reader);
    let says_budget = retry_budget.is_some();
    let budget = retry_budget.as_ref().map(|raw| budget(raw, &field.key("retryBudget"), &mut reader)).unwrap_or_default();
    let name: Arc<str> = key.to_string().into();
    let rate_limits = self::rate_limits(rate_limits, &name, &field.key("rateLimits"), &mut reader);
    let concurrency = raw.spec.adaptive_concurrency.as_ref();
    let concurrency = concurrency.map(|raw| concurrency_of(raw, &name, &field.key("adaptiveConcurrency"), &mut reader));
    let injections = injections(faults, &field.key("faults"), &mut reader);
    let hedging = raw.spec.hedging.as_ref().map(|raw| self::hedging(raw, &field.key("hedging"), &mut reader));
    let backend = BackendPolicy { balance, hash_on, budget, limits, connections, hedging };
    let generation = raw.metadata.generation.unwrap_or(0);
    let policy = TrafficPolicy {
        key,
        created_seconds,
        generation,
        targets,
        backend,
        says_budget,
        says_locality,
        rate_limits,
        concurrency: concurrency.map(Arc::new),
        injections,
    };
    reader.finish(Some(Object::TrafficPolicy(Arc::new(policy))))
}

fn targets(raw: &[spec::TargetRef], namespace: &Label, field: &FieldPath, reader: &mut Reader) -> Vec<PolicyTarget> {
    if raw.is_empty() {
        reader.refuse(
            field.clone(),
            "is missing: expected the Services that the policy is for, as {group: \"\", kind: Service, name: …}",
        );
    }
    bounded(raw.len(), MAX_TARGETS, field, reader);
    let mut targets: Vec<PolicyTarget> = Vec::with_capacity(raw.len());
    for (index, it) in raw.iter().enumerate() {
        let field = field.index(index);
        if !matches!(it.group.as_str(), "" | "core") || it.kind != "Service" {
            let found = if it.kind.is_empty() {
                "no kind".to_owned()
            } else {
                format!("{} of `{}`", excerpt(&it.kind), excerpt(&it.group))
            };
            reader.refuse(field, format!("expected kind Service of the group \"\", found {found}"));
            continue;
        }
        let Some(name) = reader.parse(field.key("name"), &it.name) else { continue };
        let service = ServiceRef { namespace: namespace.clone(), name };
        let section = it.section_name.as_deref().map(Arc::from);
        if targets.iter().any(|other| other.service == service && other.section == section) {
            reader.refuse(field, "is there twice");
            continue;
        }
        targets.push(PolicyTarget { index, service, section });
    }
    targets
}

fn balancing(raw: &spec::LoadBalancing, field: &FieldPath, reader: &mut Reader) -> (Algorithm, HashOn, Duration) {
    let algorithm = match raw.kind.as_deref() {
        None | Some("PeakEwma") => Algorithm::PeakEwma,
        Some("LeastRequest") => Algorithm::LeastRequest,
        Some("RoundRobin") => Algorithm::RoundRobin,
        Some("RingHash") => Algorithm::RingHash,
        Some(other) => {
            let message = format!("expected PeakEwma, LeastRequest, RoundRobin or RingHash, found `{}`", excerpt(other));
            reader.refuse(field.key("type"), message);
            Algorithm::PeakEwma
        }
    };
    let hash_on = raw.hash_on.as_ref().and_then(|raw| hash_on(raw, &field.key("hashOn"), reader));
    if raw.hash_on.is_some() && algorithm != Algorithm::RingHash {
        reader.refuse(field.key("hashOn"), "has a meaning with type RingHash only");
    }
    let slow_start = time(raw.slow_start.as_deref(), Duration::ZERO, field.key("slowStart"), reader);
    if algorithm == Algorithm::RingHash && !slow_start.is_zero() {
        reader.refuse(field.key("slowStart"), "has no meaning with type RingHash: a key's endpoint is its endpoint at once");
    }
    (algorithm, hash_on.unwrap_or_default(), slow_start)
}

fn hash_on(raw: &spec::HashOn, field: &FieldPath, reader: &mut Reader) -> Option<HashOn> {
    let name = raw.name.as_deref().unwrap_or_default();
    match raw.kind.as_str() {
        "Source" if name.is_empty() => Some(HashOn::Source),
        "Source" => {
            reader.refuse(field.key("name"), "has no meaning with type Source");
            None
        }
        "Header" => reader.parse::<HeaderName>(field.key("name"), name).map(HashOn::Header),
        "Cookie" => {
            if name.is_empty() || !name.bytes().all(is_token) {
                reader.refuse(field.key("name"), format!("expected a cookie's name, found `{}`", excerpt(name)));
                return None;
            }
            Some(HashOn::Cookie(name.into()))
        }
        other => {
            reader.refuse(field.key("type"), format!("expected Header, Cookie or Source, found `{}`", excerpt(other)));
            None
        }
    }
}

/// RFC 9110, section 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

fn ejection(raw: &spec::Ejection, field: &FieldPath, reader: &mut Reader) -> EjectionConfig {
    let usual = EjectionConfig::default();
    let base = time(raw.base_time.as_deref(), usual.base, field.key("baseTime"), reader);
    let max = time(raw.max_time.as_deref(), usual.max.max(base), field.key("maxTime"), reader);
    if base.is_zero() {
        reader.refuse(field.key("baseTime"), "must not be 0s; consecutiveFailures: 0 switches ejection off");
    }
    if max < base {
        reader.refuse(field.key("maxTime"), "is shorter than baseTime");
    }
    EjectionConfig {
        consecutive_failures: number(
            raw.consecutive_failures,
            usual.consecutive_failures,
            0..=1000,
            field.key("consecutiveFailures"),
            reader,
        ),
        base,
        max,
        max_ejected_percent: number(
            raw.max_ejected_percent,
            usual.max_ejected_percent,
            0..=100,
            field.key("maxEjectedPercent"),
            reader,
        ),
        judgement: judgement(raw, field, reader),
    }
}

fn judgement(raw: &spec::Ejection, field: &FieldPath, reader: &mut Reader) -> Judgement {
    let usual = Judgement::default();
    let success = number(raw.min_success_percent, 0, 0..=100, field.key("minSuccessPercent"), reader);
    let latency = number(raw.max_latency_factor, 0, 0..=1000, field.key("maxLatencyFactor"), reader);
    if latency == 1 {
        reader.refuse(field.key("maxLatencyFactor"), "expected 0 (never) or at least 2: half of all take longer than the median");
    }
    let interval = time(raw.interval.as_deref(), usual.interval, field.key("interval"), reader);
    if interval < Duration::from_millis(100) {
        reader.refuse(field.key("interval"), "expected at least 100ms");
    }
    if success == 0 && latency == 0 && (raw.interval.is_some() || raw.min_requests.is_some()) {
        let message = "judges nothing: interval and minRequests have a meaning with minSuccessPercent or maxLatencyFactor only";
        reader.refuse(field.clone(), message);
    }
    Judgement {
        interval,
        min_requests: number(raw.min_requests, usual.min_requests, 1..=1_000_000, field.key("minRequests"), reader),
        min_success_percent: success,
        max_latency_factor: latency,
    }
}

/// `None`: endpoints of all zones are alike.
fn locality(raw: &spec::Locality, field: &FieldPath, reader: &mut Reader) -> Option<Locality> {
    let usual = Locality::default();
    let same_zone = match raw.prefer.as_deref() {
        None | Some("SameZone") => true,
        Some("Any") => false,
        Some(other) => {
            reader.refuse(field.key("prefer"), format!("expected SameZone or Any, found `{}`", excerpt(other)));
            false
        }
    };
    if !same_zone && (raw.min_serving_percent.is_some() || raw.max_outstanding.is_some()) {
        reader.refuse(field.clone(), "minServingPercent and maxOutstanding have a meaning with prefer SameZone only");
    }
    let serving = raw.min_serving_percent;
    let locality = Locality {
        min_serving_percent: number(serving, usual.min_serving_percent, 0..=100, field.key("minServingPercent"), reader),
        max_outstanding: number(raw.max_outstanding, usual.max_outstanding, 1..=100_000, field.key("maxOutstanding"), reader),
    };
    same_zone.then_some(locality)
}

fn limits(raw: &spec::Limits, field: &FieldPath, reader: &mut Reader) -> Limits {
    if raw.pending.is_some() && raw.requests.is_none() {
        reader.refuse(field.key("pending"), "has a meaning with `requests` only: without that nothing has to wait");
    }
    let mut limit =
        |written: Option<i64>, name: &str| written.map(|_| number(written, 1, 1..=1_000_000, field.key(name), reader));
    let (requests, connections) = (limit(raw.requests, "requests"), limit(raw.connections, "connections"));
    let streams = limit(raw.streams, "streams");
    let pending = number(raw.pending, 0, 0..=1_000_000, field.key("pending"), reader);
    Limits { requests, pending, connections, streams }
}

fn hedging(raw: &spec::Hedging, field: &FieldPath, reader: &mut Reader) -> Hedging {
    let field = field.key("after");
    let least = Duration::from_millis(1);
    if raw.after.is_none() {
        reader.refuse(
            field.clone(),
            "is missing: expected how long a first attempt may take until a second joins it, such as 50ms",
        );
    }
    let after = time(raw.after.as_deref(), least, field.clone(), reader);
    if after < least {
        reader.refuse(field, "expected at least 1ms");
    }
    Hedging { after }
}

fn connections(raw: &spec::Connections, field: &FieldPath, reader: &mut Reader) -> Connections {
    let mut at_least = |written: Option<&str>, name: &str, least: Duration| {
        let length = time(written, least, field.key(name), reader);
        if length < least {
            reader.refuse(field.key(name), format!("expected at least {least:?}"));
        }
        written.map(|_| length)
    };
    let second = Duration::from_secs(1);
    Connections {
        idle_timeout: at_least(raw.idle_timeout.as_deref(), "idleTimeout", second),
        max_age: at_least(raw.max_age.as_deref(), "maxAge", second),
        keep_alive: at_least(raw.keep_alive.as_deref(), "keepAlive", second),
    }
}

fn budget(raw: &spec::RetryBudget, field: &FieldPath, reader: &mut Reader) -> BudgetConfig {
    let usual = BudgetConfig::default();
    let window = time(raw.interval.as_deref(), usual.window, field.key("interval"), reader);
    if window < Duration::from_secs(1) || window > Duration::from_secs(3600) {
        reader.refuse(field.key("interval"), "expected a duration from 1s to 1h");
    }
    let percent = number(raw.percent, usual.percent, 0..=100, field.key("percent"), reader);
    let budget = BudgetConfig { percent, window, ..usual };
    let Some(rate) = &raw.min_retry_rate else { return budget };
    let field = field.key("minRetryRate");
    let count = number(rate.count, 0, 0..=1_000_000, field.key("count"), reader);
    let interval = time(rate.interval.as_deref(), Duration::from_secs(1), field.key("interval"), reader);
    if interval < Duration::from_secs(1) {
        reader.refuse(field.key("interval"), "expected at least 1s");
    }
    budget.with_minimum(count, interval)
}

fn rate_limits(raw: &[spec::RateLimit], policy: &Arc<str>, field: &FieldPath, reader: &mut Reader) -> Vec<RateLimit> {
    bounded(raw.len(), MAX_LIMITS, field, reader);
    let limits = raw.iter().enumerate().map(|(index, it)| {
        let field = field.index(index);
        if it.requests.is_none() {
            reader.refuse(field.key("requests"), "is missing: expected how many requests may come");
        }
        let requests = number(it.requests, 1, 1..=10_000_000, field.key("requests"), reader);
        let per = time(it.per.as_deref(), Duration::from_secs(1), field.key("per"), reader);
        if per < Duration::from_millis(1) {
            reader.refuse(field.key("per"), "expected at least 1ms");
        }
        let burst = number(it.burst, requests, 1..=10_000_000, field.key("burst"), reader);
        let key = match it.by.as_deref() {
            None | Some("Caller") => RateKey::Caller,
            Some("All") => RateKey::All,
            Some(other) => {
                reader.refuse(field.key("by"), format!("expected Caller or All, found `{}`", excerpt(other)));
                RateKey::Caller
            }
        };
        RateLimit { policy: Arc::clone(policy), requests, per, burst, key }
    });
    limits.collect()
}

fn concurrency_of(
    raw: &spec::AdaptiveConcurrency,
    policy: &Arc<str>,
    field: &FieldPath,
    reader: &mut Reader,
) -> AdaptiveConcurrency {
    let min = number(raw.min, 10, 1..=1_000_000, field.key("min"), reader);
    let max = number(raw.max, 1000.max(min), 1..=1_000_000, field.key("max"), reader);
    if max < min {
        reader.refuse(field.key("max"), format!("is less than min, which is {min}"));
    }
    let field_of_priorities = field.key("priorities");
    bounded(raw.priorities.len(), MAX_PRIORITIES, &field_of_priorities, reader);
    let mut priorities = Vec::with_capacity(raw.priorities.len());
    for (index, it) in raw.priorities.iter().enumerate() {
        let field = field_of_priorities.index(index);
        let priority = match it.level.as_deref() {
            Some("High") => Priority::High,
            Some("Normal") => Priority::Normal,
            Some("Low") => Priority::Low,
            other => {
                let found = excerpt(other.unwrap_or_default()).to_string();
                reader.refuse(field.key("level"), format!("expected High, Normal or Low, found `{found}`"));
                Priority::Normal
            }
        };
        let namespace = reader.parse::<Label>(field.key("namespace"), &it.namespace);
        let account = it.service_account.as_deref();
        let account = account.map(|name| reader.parse::<ObjectName>(field.key("serviceAccount"), name));
        if let (Some(namespace), None | Some(Some(_))) = (namespace, &account) {
            priorities.push(CallerPriority { namespace, service_account: account.flatten(), priority });
        }
    }
    let tolerance_percent = number(raw.tolerance_percent, 200, 110..=1000, field.key("tolerancePercent"), reader);
    AdaptiveConcurrency { policy: Arc::clone(policy), min, max, tolerance_percent, priorities }
}

fn injections(raw: &[spec::Fault], field: &FieldPath, reader: &mut Reader) -> Vec<Injection> {
    bounded(raw.len(), MAX_FAULTS, field, reader);
    let injections = raw.iter().enumerate().map(|(index, it)| {
        let field = field.index(index);
        let percent = number(it.percent, 100, 0..=100, field.key("percent"), reader);
        let delay = time(it.delay.as_deref(), Duration::ZERO, field.key("delay"), reader);
        let abort = it.abort.as_ref().map(|abort| {
            let field = field.key("abort").key("status");
            if abort.status.is_none() {
                reader.refuse(field.clone(), "is missing: expected the status of the answer");
            }
            let code = number(abort.status, 503, 200..=599, field, reader);
            u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
        });
        if delay.is_zero() && abort.is_none() {
            reader.refuse(field.clone(), "does nothing: expected `delay`, `abort` or both");
        }
        let headers = header_matches(&it.headers, &field.key("headers"), reader);
        Injection { share: Share::new(percent, 100).unwrap_or(Share::ALL), headers, delay, abort }
    });
    injections.collect()
}

fn bounded(length: usize, most: usize, field: &FieldPath, reader: &mut Reader) {
    if length > most {
        reader.refuse(field.clone(), format!("has {length} items, and {most} are the most"));
    }
}

/// A time of a day at most.
pub(crate) fn time(text: Option<&str>, usual: Duration, field: FieldPath, reader: &mut Reader) -> Duration {
    match text.map(duration::parse) {
        None => usual,
        Some(Ok(time)) if time <= MAX_TIME => time,
        Some(Ok(_)) => {
            reader.refuse(field, "is longer than a day");
            usual
        }
        Some(Err(error)) => {
            reader.refuse(field, format!("{error}, found `{}`", excerpt(text.unwrap_or_default())));
            usual
        }
    }
}

/// A number in this range.
pub(crate) fn number(
    written: Option<i64>,
    usual: u32,
    allowed: RangeInclusive<u32>,
    field: FieldPath,
    reader: &mut Reader,
) -> u32 {
    let Some(written) = written else { return usual };
    match u32::try_from(written) {
        Ok(number) if allowed.contains(&number) => number,
        _ => {
            reader.refuse(field, format!("expected a number from {} to {}, found {written}", allowed.start(), allowed.end()));
            usual
        }
    }
}

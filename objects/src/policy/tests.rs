use std::time::Duration;

use serde_json::{Value, json};
use weir_core::balance::{Algorithm, Judgement, Locality};
use weir_core::policy::concurrency::Priority;
use weir_core::policy::{Connections, HashOn, Hedging, Limits, RateKey};

use super::TrafficPolicy;
use crate::{Decoded, Object, decode};

fn written(spec: &Value) -> Decoded {
    let mut spec = spec.clone();
    if spec.get("targetRefs").is_none() {
        spec["targetRefs"] = json!([{"group": "", "kind": "Service", "name": "reviews"}]);
    }
    decode(&json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "p", "namespace": "shop", "generation": 3}, "spec": spec,
    }))
}

fn policy(spec: &Value) -> TrafficPolicy {
    match written(spec) {
        Decoded::Object(Object::TrafficPolicy(policy), problems) if problems.is_empty() => (*policy).clone(),
        other => panic!("{spec}: {other:?}"),
    }
}

fn refused(spec: &Value) -> Vec<String> {
    match written(spec) {
        Decoded::Refused(Some(_), problems) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("{spec}: {other:?}"),
    }
}

#[test]
fn what_is_not_written_is_as_without_a_policy() {
    let policy = policy(&json!({}));
    assert_eq!(policy.backend, weir_core::policy::BackendPolicy::default());
    assert!(policy.rate_limits.is_empty() && policy.injections.is_empty());
    assert_eq!((policy.generation, policy.targets.len()), (3, 1));
    assert_eq!(policy.targets[0].service.to_string(), "shop/reviews");
}

#[test]
fn everything_that_is_written_counts() {
    let policy = policy(&json!({
        "targetRefs": [
            {"group": "", "kind": "Service", "name": "reviews", "sectionName": "http"},
            {"group": "core", "kind": "Service", "name": "ratings"},
        ],
        "loadBalancing": {"type": "RingHash", "hashOn": {"type": "Cookie", "name": "sid"}},
        "ejection": {"consecutiveFailures": 3, "baseTime": "1s", "maxTime": "1m", "maxEjectedPercent": 100,
            "interval": "5s", "minRequests": 50, "minSuccessPercent": 90, "maxLatencyFactor": 4},
        "locality": {"minServingPercent": 50, "maxOutstanding": 4},
        "limits": {"requests": 100, "pending": 50, "connections": 7, "streams": 20},
        "connections": {"idleTimeout": "30s", "maxAge": "1h", "keepAlive": "5s"},
        "hedging": {"after": "30ms"},
        "retryBudget": {"percent": 50, "interval": "30s", "minRetryRate": {"count": 30, "interval": "10s"}},
        "rateLimits": [{"requests": 100, "per": "1m"}, {"requests": 5, "burst": 20, "by": "All"}],
        "adaptiveConcurrency": {"min": 5, "max": 50, "tolerancePercent": 150, "priorities": [
            {"level": "High", "namespace": "shop", "serviceAccount": "checkout"}, {"level": "Low", "namespace": "batch"},
        ]},
        "faults": [{"percent": 10, "delay": "2s", "abort": {"status": 418}, "headers": [{"name": "x-test", "value": "1"}]}],
    }));
    assert_eq!(policy.targets[0].section.as_deref(), Some("http"));
    assert_eq!(policy.targets[1].section, None);
    let backend = &policy.backend;
    assert_eq!((backend.balance.algorithm, &backend.hash_on), (Algorithm::RingHash, &HashOn::Cookie("sid".into())));
    let ejection = backend.balance.ejection;
    assert_eq!((ejection.consecutive_failures, ejection.max_ejected_percent), (3, 100));
    assert_eq!((ejection.base, ejection.max), (Duration::from_secs(1), Duration::from_secs(60)));
    let judgement =
        Judgement { interval: Duration::from_secs(5), min_requests: 50, min_success_percent: 90, max_latency_factor: 4 };
    assert_eq!(ejection.judgement, judgement);
    assert_eq!(backend.balance.locality, Some(Locality { min_serving_percent: 50, max_outstanding: 4 }));
    let limits = Limits { requests: Some(100), pending: 50, connections: Some(7), streams: Some(20) };
    assert_eq!(backend.limits, limits);
    let seconds = |count| Some(Duration::from_secs(count));
    let connections = Connections { idle_timeout: seconds(30), max_age: seconds(3600), keep_alive: seconds(5) };
    assert_eq!(backend.connections, connections);
    assert_eq!(backend.hedging, Some(Hedging { after: Duration::from_millis(30) }));
    let budget = backend.budget;
    assert_eq!((budget.percent, budget.min_per_second, budget.window), (50, 3, Duration::from_secs(30)));
    let [by_caller, of_all] = policy.rate_limits.as_slice() else { panic!("{:?}", policy.rate_limits) };
    assert_eq!((by_caller.requests, by_caller.burst, by_caller.key), (100, 100, RateKey::Caller));
    assert_eq!(by_caller.per, Duration::from_secs(60));
    assert_eq!((of_all.requests, of_all.burst, of_all.key), (5, 20, RateKey::All));
    let found = policy.concurrency.as_ref().unwrap();
    assert_eq!((found.min, found.max, found.tolerance_percent, &*found.policy), (5, 50, 150, "shop/p"));
    let priorities: Vec<_> = found.priorities.iter().map(|it| (it.namespace.as_str(), it.priority)).collect();
    assert_eq!(priorities, [("shop", Priority::High), ("batch", Priority::Low)]);
    assert_eq!(found.priorities[0].service_account.as_ref().map(|it| it.as_str()), Some("checkout"));
    let [fault] = policy.injections.as_slice() else { panic!("{:?}", policy.injections) };
    assert_eq!(
        (fault.share.numerator(), fault.delay, fault.abort.map(|it| it.as_u16())),
        (10, Duration::from_secs(2), Some(418))
    );
    assert_eq!(fault.headers.len(), 1);
}

#[test]
fn mistakes_are_named_with_what_is_expected() {
    for (spec, expected) in [
        (json!({"targetRefs": []}), "spec.targetRefs: is missing"),
        (
            json!({"targetRefs": [{"kind": "Gateway", "name": "x", "group": "gateway.networking.k8s.io"}]}),
            "expected kind Service",
        ),
        (
            json!({"targetRefs": [{"kind": "Service", "name": "a"}, {"kind": "Service", "name": "a"}]}),
            "spec.targetRefs[1]: is there twice",
        ),
        (json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "b"}]}), "unknown field `namespace`"),
        (json!({"loadBalancer": {}}), "unknown field `loadBalancer`"),
        (json!({"loadBalancing": {"type": "Random"}}), "spec.loadBalancing.type: expected PeakEwma, LeastRequest"),
        (json!({"loadBalancing": {"hashOn": {"type": "Source"}}}), "RingHash only"),
        (
            json!({"loadBalancing": {"type": "RingHash", "hashOn": {"type": "Header"}}}),
            "spec.loadBalancing.hashOn.name: is missing",
        ),
        (json!({"loadBalancing": {"type": "RingHash", "hashOn": {"type": "Cookie", "name": "a b"}}}), "expected a cookie's name"),
        (json!({"loadBalancing": {"type": "RingHash", "slowStart": "1s"}}), "spec.loadBalancing.slowStart: has no meaning"),
        (json!({"loadBalancing": {"slowStart": "1"}}), "expected a duration like 10s"),
        (json!({"ejection": {"consecutiveFailures": -1}}), "expected a number from 0 to 1000, found -1"),
        (json!({"ejection": {"baseTime": "1m", "maxTime": "1s"}}), "spec.ejection.maxTime: is shorter than baseTime"),
        (json!({"ejection": {"baseTime": "0s"}}), "switches ejection off"),
        (json!({"ejection": {"interval": "5s"}}), "spec.ejection: judges nothing"),
        (json!({"ejection": {"maxLatencyFactor": 1}}), "expected 0 (never) or at least 2"),
        (json!({"ejection": {"minSuccessPercent": 50, "interval": "1ms"}}), "spec.ejection.interval: expected at least 100ms"),
        (json!({"locality": {"prefer": "Node"}}), "expected SameZone or Any"),
        (json!({"locality": {"prefer": "Any", "maxOutstanding": 3}}), "with prefer SameZone only"),
        (json!({"limits": {"pending": 3}}), "spec.limits.pending: has a meaning with `requests` only"),
        (json!({"limits": {"requests": 0}}), "spec.limits.requests: expected a number from 1"),
        (json!({"connections": {"maxAge": "10ms"}}), "spec.connections.maxAge: expected at least 1s"),
        (json!({"retryBudget": {"percent": 101}}), "expected a number from 0 to 100"),
        (json!({"retryBudget": {"interval": "10ms"}}), "from 1s to 1h"),
        (json!({"rateLimits": [{"per": "1s"}]}), "spec.rateLimits[0].requests: is missing"),
        (json!({"rateLimits": [{"requests": 1, "by": "Ip"}]}), "expected Caller or All"),
        (json!({"hedging": {}}), "spec.hedging.after: is missing"),
        (json!({"hedging": {"after": "0s"}}), "spec.hedging.after: expected at least 1ms"),
        (json!({"adaptiveConcurrency": {"min": 10, "max": 5}}), "spec.adaptiveConcurrency.max: is less than min"),
        (json!({"adaptiveConcurrency": {"tolerancePercent": 100}}), "from 110 to 1000"),
        (
            json!({"adaptiveConcurrency": {"priorities": [{"namespace": "a"}]}}),
            "priorities[0].level: expected High, Normal or Low",
        ),
        (json!({"adaptiveConcurrency": {"priorities": [{"level": "Low"}]}}), "spec.adaptiveConcurrency.priorities[0].namespace"),
        (json!({"faults": [{"percent": 5}]}), "spec.faults[0]: does nothing"),
        (json!({"faults": [{"abort": {"status": 99}}]}), "expected a number from 200 to 599"),
        (json!({"faults": [{"delay": "1s", "headers": [{"name": "a b", "value": ""}]}]}), "spec.faults[0].headers[0].name"),
        (
            json!({"faults": [{"delay": "1s", "headers": [{"name": "a", "value": "(", "type": "RegularExpression"}]}]}),
            "is not a regular expression",
        ),
    ] {
        let found = refused(&spec);
        assert!(found.iter().any(|it| it.contains(expected)), "{spec}: {found:?}");
    }
    let all = refused(&json!({"ejection": {"baseTime": "x"}, "retryBudget": {"percent": -1}, "rateLimits": [{}]}));
    assert_eq!(all.len(), 3, "all at once: {all:?}");
}

use std::time::Duration;

use serde_json::{Value, json};
use weir_core::session::{Carrier, Session};

use super::BackendTrafficPolicy;
use crate::{Decoded, Object, Problem, decode};

fn written(spec: &Value) -> Decoded {
    decode(&json!({
        "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": "p", "namespace": "shop", "generation": 3}, "spec": spec,
    }))
}

fn service(name: &str) -> Value {
    json!({"group": "", "kind": "Service", "name": name})
}

fn with(field: &str, value: &Value) -> Decoded {
    written(&json!({"targetRefs": [service("reviews")], field: value}))
}

fn taken(decoded: Decoded) -> (BackendTrafficPolicy, Vec<Problem>) {
    match decoded {
        Decoded::Object(Object::BackendTrafficPolicy(policy), problems) => ((*policy).clone(), problems),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_retry_constraint_is_a_budget_with_the_defaults_of_the_gateway_api() {
    let second = Duration::from_secs(1);
    for (constraint, expected) in [
        (json!({}), (20, 100, 10 * second)),
        (json!({"budget": {}, "minRetryRate": {}}), (20, 100, 10 * second)),
        (json!({"budget": {"percent": 0}}), (0, 100, 10 * second)),
        (json!({"budget": {"percent": 100, "interval": "1h"}}), (100, 36_000, 3600 * second)),
        (json!({"budget": {"interval": "1s"}, "minRetryRate": {"count": 3}}), (20, 3, second)),
        (json!({"minRetryRate": {"count": 30, "interval": "1m"}}), (20, 5, 10 * second)),
        (json!({"minRetryRate": {"interval": "500ms"}}), (20, 200, 10 * second)),
        (json!({"minRetryRate": {"count": 1_000_000, "interval": "1ms"}}), (20, 10_000_000_000, 10 * second)),
    ] {
        let (policy, problems) = taken(with("retryConstraint", &constraint));
        let budget = policy.budget.unwrap();
        assert_eq!((budget.percent, budget.reserve(), budget.window), expected, "{constraint}");
        assert!(budget.answers_unavailable && problems.is_empty() && policy.persistence.is_none(), "{constraint}");
        assert_eq!((policy.generation, policy.targets[0].service.to_string()), (3, "shop/reviews".to_owned()));
    }
    let (policy, _) = taken(with("retryConstraint", &Value::Null));
    assert_eq!(policy.budget, None);
}

#[test]
fn sessions_are_kept_as_a_rule_keeps_them() {
    let at = |spec: Value, place: &str| taken(with("sessionPersistence", &spec)).0.persistence.unwrap().at(&place);
    let minutes = |count: u64| Some(Duration::from_secs(60 * count));
    let cookie = |name: &str, permanent, absolute, idle| Session {
        carrier: Carrier::Cookie { name: name.into(), permanent },
        absolute,
        idle,
    };
    let named = json!({"sessionName": "sid", "absoluteTimeout": "1h", "cookieConfig": {"lifetimeType": "Permanent"}});
    assert_eq!(at(named.clone(), "a"), cookie("sid", true, minutes(60), None));
    assert_eq!(at(named.clone(), "a"), at(named, "b"), "a name that is given holds wherever the Service is reached");
    // `0s`: no limit, as for a rule.
    let header = at(json!({"type": "Header", "sessionName": "X-Session", "idleTimeout": "5m", "absoluteTimeout": "0s"}), "a");
    assert_eq!(header, Session { carrier: Carrier::Header("x-session".parse().unwrap()), absolute: None, idle: minutes(5) });
    for unnamed in [json!({}), json!({"type": "Header"})] {
        let (a, b) = (at(unnamed.clone(), "a"), at(unnamed.clone(), "b"));
        assert_ne!(a, b, "{unnamed}: places without a name share nothing");
        assert_eq!(a, at(unnamed, "a"), "and it is the same for every caller");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_field() {
    let refused = |decoded: Decoded| match decoded {
        Decoded::Refused(Some(_), problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let long = "x".repeat(129);
    for (field, value, expected) in [
        ("retryConstraint", json!(7), "spec.retryConstraint: expected a mapping"),
        ("retryConstraint", json!({"budget": {"percent": 101}}), "spec.retryConstraint.budget.percent: expected a number"),
        ("retryConstraint", json!({"budget": {"percent": -1}}), "spec.retryConstraint.budget.percent: expected a number"),
        ("retryConstraint", json!({"budget": {"percent": "20%"}}), "spec.retryConstraint.budget.percent: invalid type"),
        ("retryConstraint", json!({"budget": {"interval": "0s"}}), "spec.retryConstraint.budget.interval: expected a duration"),
        ("retryConstraint", json!({"budget": {"interval": "2h"}}), "spec.retryConstraint.budget.interval: expected a duration"),
        ("retryConstraint", json!({"budget": {"interval": "99999h"}}), "is longer than a day"),
        ("retryConstraint", json!({"budget": {"interval": "soon"}}), "spec.retryConstraint.budget.interval: expected a duration"),
        ("retryConstraint", json!({"budget": {"window": "1s"}}), "spec.retryConstraint.budget.window: unknown field"),
        ("retryConstraint", json!({"minRetryRate": {"count": 0}}), "spec.retryConstraint.minRetryRate.count: expected a number"),
        ("retryConstraint", json!({"minRetryRate": {"count": i64::MAX}}), "minRetryRate.count: expected a number"),
        ("retryConstraint", json!({"minRetryRate": {"interval": "0s"}}), "minRetryRate.interval: expected a duration from 1ms"),
        ("retryConstraint", json!({"minRetryRate": {"count": 1, "interval": "1m"}}), "is less than one retry"),
        ("sessionPersistence", json!([]), "spec.sessionPersistence: expected a mapping"),
        ("sessionPersistence", json!({"type": "Query"}), "spec.sessionPersistence.type: expected Cookie or Header"),
        ("sessionPersistence", json!({"sessionName": "a b"}), "spec.sessionPersistence.sessionName: expected letters"),
        ("sessionPersistence", json!({"sessionName": ""}), "spec.sessionPersistence.sessionName: expected letters"),
        ("sessionPersistence", json!({"sessionName": long}), "spec.sessionPersistence.sessionName: expected letters"),
        ("sessionPersistence", json!({"idleTimeout": "1d"}), "spec.sessionPersistence.idleTimeout: expected a duration"),
        ("sessionPersistence", json!({"cookieConfig": {"lifetimeType": "Permanent"}}), "absoluteTimeout: is missing"),
        ("sessionPersistence", json!({"cookieConfig": {"sameSite": "None"}}), "cookieConfig.sameSite: is no field"),
        ("sessionPersistence", json!({"type": "Header", "cookieConfig": {}}), "cookieConfig: has a meaning with type Cookie"),
        ("sessionPersistence", json!({"strict": true}), "spec.sessionPersistence.strict: is no field"),
        ("loadBalancing", json!({}), "spec.loadBalancing: is no field that Weir knows"),
        ("targetRefs", json!([]), "spec.targetRefs: is missing"),
        ("targetRefs", json!([service("a"), service("a")]), "spec.targetRefs[1]: is there twice"),
        (
            "targetRefs",
            json!([{"group": "", "kind": "Service", "name": "a", "sectionName": "http"}]),
            "sectionName: unknown field",
        ),
        ("targetRefs", json!([{"group": "", "kind": "Service"}]), "spec.targetRefs[0].name: is missing"),
        ("targetRefs", json!([{"group": "", "kind": "Service", "name": "a", "namespace": "b"}]), "namespace: unknown field"),
        ("targetRefs", json!((0..17).map(|it| service(&format!("s{it}"))).collect::<Vec<_>>()), "has 17 items, and 16"),
    ] {
        let problems = refused(with(field, &value));
        assert!(problems.iter().any(|it| it.contains(expected)), "{value}: {problems:?}");
    }
}

#[test]
fn what_is_for_others_is_left_to_them() {
    let backend = json!({"group": "gateway.networking.x-k8s.io", "kind": "XBackend", "name": "far"});
    let spec = json!({"targetRefs": [backend.clone()], "loadBalancing": {}, "sessionPersistence": {"type": "Query"}});
    let (policy, problems) = taken(written(&spec));
    assert_eq!((policy.targets.len(), policy.persistence, problems.len()), (0, None, 1));
    let (policy, problems) = taken(written(&json!({"targetRefs": [backend, service("reviews")], "sessionPersistence": {}})));
    assert_eq!((policy.targets.len(), policy.targets[0].index, problems.len()), (1, 1, 1));
    let unknown = decode(&json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha2", "kind": "XBackendTrafficPolicy"}));
    assert!(matches!(unknown, Decoded::Unknown { .. }));
}

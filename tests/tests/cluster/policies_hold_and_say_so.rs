//! `kubectl apply` of TrafficPolicies: what they say happens, their status says so, and a wrong one is not admitted.

use serde_json::{Value, json};
use weir_tests::cluster::objects::service;
use weir_tests::cluster::{App, Scenario, until};
use weir_tests::wait::ensure;

fn policy(name: &str, service: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["targetRefs"] = json!([{"kind": "Service", "name": service}]);
    json!({"apiVersion": "weir.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": name}, "spec": spec})
}

/// `REASON MESSAGE (of generation)` at the policy's only target.
async fn accepted(scenario: &Scenario, name: &str) -> Result<String, String> {
    let object = scenario.json(&["get", "trafficpolicy", name]).await?;
    let entry = &object["status"]["ancestors"][0];
    let condition = &entry["conditions"][0];
    ensure(entry["controllerName"] == "weir.dev/mesh", || object.to_string())?;
    ensure(condition["observedGeneration"] == object["metadata"]["generation"], || object.to_string())?;
    Ok(format!("{}={} {}", condition["status"], condition["reason"], condition["message"]).replace('"', ""))
}

/// Every value that is no list and no object, with the pointer to it.
fn leaves(value: &Value, path: String) -> Vec<(String, &Value)> {
    match value {
        Value::Object(fields) => fields.iter().flat_map(|(name, it)| leaves(it, format!("{path}/{name}"))).collect(),
        Value::Array(items) => items.iter().enumerate().flat_map(|(index, it)| leaves(it, format!("{path}/{index}"))).collect(),
        leaf => vec![(path, leaf)],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_policy_takes_effect_and_its_status_says_so() {
    let scenario = Scenario::begin("policy").await;
    scenario.apply(&["good", "caller"].map(service)).await;
    scenario.deploy(&[App::serving("good"), App::serving("caller")]).await;
    let call = async || scenario.call("caller", &["http://good/"]).await;
    until("the service answers", async || call().await.map(|_| ())).await;

    scenario.apply(&[policy("good", "good", &json!({"faults": [{"abort": {"status": 418}}]}))]).await;
    until("the status says that the policy is in force", async || {
        let status = accepted(&scenario, "good").await?;
        ensure(status.starts_with("True=Accepted") && status.contains("in force for Service"), || status)
    })
    .await;
    until("the fault happens", async || match call().await {
        Ok(answer) => Err(answer),
        Err(error) => ensure(error.contains("418") && error.contains("fault-injected"), || error),
    })
    .await;

    scenario.apply(&[policy("good", "good", &json!({"rateLimits": [{"requests": 1, "per": "1h"}]}))]).await;
    until("the callee's sidecar limits", async || match call().await {
        Ok(answer) => Err(answer),
        Err(error) => ensure(error.contains("429") && error.contains("rate-limited"), || error),
    })
    .await;
    scenario.kubectl(&["delete", "trafficpolicy", "good"]).await;
    until("without the policy the service answers again", async || call().await.map(|_| ())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_wrong_policy_is_refused_at_admission_and_a_useless_one_is_told_so() {
    let scenario = Scenario::begin("policy-mistakes").await;
    let limits = json!({"rateLimits": [{"requests": 0}]});
    let refusal = scenario.try_apply(&[policy("wrong", "good", &limits)]).await.expect_err("it was admitted");
    assert!(refusal.contains("spec.rateLimits[0].requests"), "{refusal}");
    // What no schema says, the webhook does.
    let times = json!({"ejection": {"baseTime": "10s", "maxTime": "1s"}});
    let refusal = scenario.try_apply(&[policy("wrong", "good", &times)]).await.expect_err("it was admitted");
    assert!(refusal.contains("spec.ejection.maxTime: is shorter than baseTime"), "{refusal}");

    scenario.apply(&[policy("useless", "nowhere", &json!({}))]).await;
    until("the status says that there is no such Service", async || {
        let status = accepted(&scenario, "useless").await?;
        ensure(status.starts_with("False=TargetNotFound") && status.contains("nowhere does not exist"), || status)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn everything_that_a_policy_may_say_is_kept_by_the_cluster() {
    let scenario = Scenario::begin("policy-whole").await;
    scenario.apply(&[service("whole")]).await;
    let all = json!({
        "loadBalancing": {"type": "RingHash", "hashOn": {"type": "Header", "name": "x-user"}},
        "ejection": {
            "consecutiveFailures": 3, "baseTime": "1s", "maxTime": "1m", "maxEjectedPercent": 30,
            "interval": "5s", "minRequests": 50, "minSuccessPercent": 90, "maxLatencyFactor": 4,
        },
        "locality": {"prefer": "SameZone", "minServingPercent": 50, "maxOutstanding": 4},
        "limits": {"requests": 100, "pending": 50, "connections": 7, "streams": 20},
        "connections": {"idleTimeout": "30s", "maxAge": "1h", "keepAlive": "5s"},
        "hedging": {"after": "30ms"},
        "retryBudget": {"percent": 50, "interval": "30s", "minRetryRate": {"count": 30, "interval": "10s"}},
        "rateLimits": [{"requests": 100, "per": "1m", "burst": 7, "by": "All"}],
        "adaptiveConcurrency": {
            "min": 5, "max": 50, "tolerancePercent": 150,
            "priorities": [{"level": "High", "namespace": "shop", "serviceAccount": "checkout"}],
        },
        "faults": [{"percent": 1, "delay": "2s", "abort": {"status": 418}, "headers": [{"name": "x-test", "value": "1"}]}],
    });
    let whole = policy("whole", "whole", &all);
    scenario.apply(std::slice::from_ref(&whole)).await;
    // What the definition does not know the API server would have dropped without a word.
    let kept = scenario.json(&["get", "trafficpolicy", "whole"]).await.unwrap_or_else(|error| panic!("{error}"));
    for (path, value) in leaves(&all, String::new()) {
        assert_eq!(kept["spec"].pointer(&path), Some(value), "{path} of {}", kept["spec"]);
    }
    until("the status says that the policy is in force", async || {
        let status = accepted(&scenario, "whole").await?;
        ensure(status.starts_with("True=Accepted"), || status)
    })
    .await;
}

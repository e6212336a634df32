//! XBackendTrafficPolicies in a cluster that has the Gateway API's experimental definitions.

use serde_json::{Value, json};
use weir_tests::cluster::objects::{App, service};
use weir_tests::cluster::{Scenario, until};
use weir_tests::wait::ensure;

fn policy(name: &str, service: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["targetRefs"] = json!([{"group": "", "kind": "Service", "name": service}]);
    json!({
        "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// `STATUS REASON MESSAGE` of each of our entries, of the latest generation.
async fn accepted(scenario: &Scenario, name: &str) -> Result<Vec<String>, String> {
    let object = scenario.json(&["get", "xbackendtrafficpolicy", name]).await?;
    let entries = object["status"]["ancestors"].as_array().cloned().unwrap_or_default();
    let ours = entries.iter().filter(|entry| entry["controllerName"] == "weir.dev/mesh");
    let mut texts = Vec::new();
    for condition in ours.map(|entry| &entry["conditions"][0]) {
        ensure(condition["observedGeneration"] == object["metadata"]["generation"], || object.to_string())?;
        texts.push(format!("{} {} {}", condition["status"], condition["reason"], condition["message"]).replace('"', ""));
    }
    Ok(texts)
}

async fn is_told(scenario: &Scenario, name: &str, beginning: &str) {
    until(&format!("the status of {name} says {beginning}"), async || {
        let found = accepted(scenario, name).await?;
        ensure(found.len() == 1 && found[0].starts_with(beginning), || format!("{found:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_policy_of_the_experimental_channel_is_in_force_and_its_status_says_so() {
    let scenario = Scenario::begin("backend-traffic").await;
    scenario.apply(&["good", "caller"].map(service)).await;
    scenario.deploy(&[App::serving("good"), App::serving("caller")]).await;
    let call = async || scenario.call("caller", &["http://good/"]).await;
    until("the service answers", async || call().await.map(|_| ())).await;

    let all = json!({
        "retryConstraint": {"budget": {"percent": 10, "interval": "30s"}, "minRetryRate": {"count": 30, "interval": "1m"}},
        "sessionPersistence": {
            "sessionName": "sid", "type": "Cookie", "absoluteTimeout": "1h", "cookieConfig": {"lifetimeType": "Permanent"},
        },
    });
    scenario.apply(&[policy("good", "good", &all), policy("useless", "nowhere", &json!({"sessionPersistence": {}}))]).await;
    is_told(&scenario, "good", "True Accepted in force for Service").await;
    is_told(&scenario, "useless", "False TargetNotFound Service").await;
    // The second by name and age has no part in it, until the first is gone.
    scenario.apply(&[policy("second", "good", &json!({"retryConstraint": {}}))]).await;
    is_told(&scenario, "second", "False Conflicted XBackendTrafficPolicy").await;

    // What another controller writes stays.
    let of_another = json!({
        "ancestorRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}, "controllerName": "example.com/other",
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    let object = scenario.json(&["get", "xbackendtrafficpolicy", "good"]).await.unwrap_or_else(|error| panic!("{error}"));
    let mut entries = object["status"]["ancestors"].as_array().cloned().unwrap_or_default();
    entries.insert(0, of_another.clone());
    let patch = json!({"status": {"ancestors": entries}}).to_string();
    let patching = ["patch", "xbackendtrafficpolicy", "good", "--subresource=status", "--type=merge", "-p", &patch];
    scenario.kubectl(&patching).await;
    // Less than one retry in an interval: no schema says so.
    let wrong = json!({"retryConstraint": {"minRetryRate": {"count": 1, "interval": "1h"}}});
    scenario.apply(&[policy("good", "good", &wrong)]).await;
    is_told(&scenario, "good", "False Invalid spec.retryConstraint.minRetryRate").await;
    let object = scenario.json(&["get", "xbackendtrafficpolicy", "good"]).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(object["status"]["ancestors"][0], of_another, "{object}");

    scenario.kubectl(&["delete", "xbackendtrafficpolicy", "good"]).await;
    is_told(&scenario, "second", "True Accepted in force for Service").await;
    until("the service answers", async || call().await.map(|_| ())).await;
}

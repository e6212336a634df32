//! BackendTLSPolicies in a cluster: their status follows the ConfigMaps that they name.

use serde_json::{Value, json};
use weir_tests::cluster::objects::service;
use weir_tests::cluster::{Scenario, until};
use weir_tests::wait::ensure;

fn authorities(certificates: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ledger-ca"}, "data": {"ca.crt": certificates}})
}

/// `TYPE=STATUS REASON` of each condition at the policy's only target, of its latest generation.
async fn conditions(scenario: &Scenario) -> Result<Vec<String>, String> {
    let object = scenario.json(&["get", "backendtlspolicy", "ledger"]).await?;
    let entry = &object["status"]["ancestors"][0];
    ensure(entry["controllerName"] == "weir.dev/mesh", || object.to_string())?;
    let conditions = entry["conditions"].as_array().cloned().unwrap_or_default();
    let generation = &object["metadata"]["generation"];
    ensure(conditions.iter().all(|it| it["observedGeneration"] == *generation), || object.to_string())?;
    let text = |it: &Value| format!("{}={} {}", it["type"], it["status"], it["reason"]).replace('"', "");
    let mut texts: Vec<String> = conditions.iter().map(text).collect();
    texts.sort();
    Ok(texts)
}

async fn is_told(scenario: &Scenario, expected: [&str; 2]) {
    until(&format!("the status says {expected:?}"), async || {
        let found = conditions(scenario).await?;
        ensure(found == expected, || format!("{found:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn the_status_of_a_policy_follows_the_authorities_that_it_names() {
    let scenario = Scenario::begin("backend-tls").await;
    let policy = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "BackendTLSPolicy",
        "metadata": {"name": "ledger"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "ledger"}],
            "validation": {
                "hostname": "ledger.example.com",
                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ledger-ca"}],
            },
        },
    });
    scenario.apply(&[service("ledger"), policy]).await;
    let without = ["Accepted=False NoValidCACertificate", "ResolvedRefs=False InvalidCACertificateRef"];
    is_told(&scenario, without).await;

    let made = rcgen::generate_simple_self_signed(["ledger.example.com".to_owned()]);
    let certificate = made.map(|it| it.cert.pem()).unwrap_or_else(|error| panic!("{error}"));
    scenario.apply(&[authorities(&certificate)]).await;
    is_told(&scenario, ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]).await;

    scenario.apply(&[authorities("no certificate")]).await;
    is_told(&scenario, without).await;
    scenario.kubectl(&["delete", "backendtlspolicy", "ledger"]).await;
}

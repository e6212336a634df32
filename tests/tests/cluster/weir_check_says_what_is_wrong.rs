//! `weir check` is green on a healthy installation, and names what was broken on purpose.

use serde_json::json;
use weir_tests::cluster::installation::{self, has_replicas, weir};
use weir_tests::cluster::kubectl::{kubectl, run, run_now};
use weir_tests::cluster::objects::service;
use weir_tests::cluster::{App, SYSTEM, Scenario, until};
use weir_tests::wait::ensure;

/// What `weir check` says, and whether it is content.
async fn check() -> (bool, String) {
    let output = weir_tests::tools::run(weir(&["check"])).await;
    let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    (output.status.success(), text)
}

async fn is_green() {
    until("weir check is green", async || {
        let (good, text) = check().await;
        ensure(good, || text)
    })
    .await;
}

/// Waits until it is not content and a line that says so has all these words.
async fn names(words: &[&str]) {
    until(&format!("weir check names {words:?}"), async || {
        let (good, text) = check().await;
        let mut failures = text.lines().filter(|line| line.trim_start().starts_with('✗'));
        ensure(!good && failures.any(|line| words.iter().all(|word| line.contains(word))), || text.clone())
    })
    .await;
}

async fn system(arguments: &[&str]) -> String {
    run(kubectl(&[&["-n", SYSTEM], arguments].concat()), None).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn mended() {
    installation::install(&[]).await.unwrap();
    installation::is_ready().await.unwrap();
    is_green().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn five_things_that_are_broken_on_purpose_are_named_and_a_mended_mesh_is_green() {
    let scenario = Scenario::alone("check").await;
    scenario.apply(&[service("catalog")]).await;
    scenario.deploy(&[App::serving("catalog")]).await;
    is_green().await;
    let (good, text) = check_before_installing().await;
    assert!(good, "{text}");

    // 1. Nobody injects.
    system(&["scale", "deployment/weir-injector", "--replicas=0"]).await;
    has_replicas("weir-injector", 0).await;
    names(&["weir-injector", "scaled to 0"]).await;
    // 2. The API server does not believe the webhook. While the injector is away nobody puts it right.
    let bundle = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K";
    let damaged = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]).to_string();
    run(kubectl(&["patch", "mutatingwebhookconfiguration", "weir-injector", "--type=json", "-p", &damaged]), None).await.unwrap();
    names(&["caBundle"]).await;
    mended().await;

    // 3. Nobody gives certificates.
    system(&["scale", "deployment/weir-control-plane", "--replicas=0"]).await;
    has_replicas("weir-control-plane", 0).await;
    names(&["weir-control-plane", "scaled to 0"]).await;
    // 4. Sidecars of a namespace are told to trust somebody else. Nobody puts that right either.
    let foreign = json!({"data": {"ca.crt": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"}}).to_string();
    scenario.kubectl(&["patch", "configmap", "weir-trust-bundle", "--type=merge", "-p", &foreign]).await;
    names(&["bundle", scenario.namespace()]).await;
    mended().await;

    // 5. The control plane may not read what it has to.
    run(kubectl(&["delete", "clusterrolebinding", "weir-control-plane"]), None).await.unwrap();
    names(&["weir-control-plane", "may not", "endpointslices.discovery.k8s.io"]).await;
    mended().await;

    // 6. The routes' definitions are missing.
    let crd = "grpcroutes.gateway.networking.k8s.io";
    let definition = run_now(kubectl(&["get", "crd", crd, "-o", "yaml"]), None).unwrap();
    run(kubectl(&["delete", "crd", crd]), None).await.unwrap();
    names(&["grpcroutes"]).await;
    run(kubectl(&["create", "-f", "-"]), Some(definition)).await.unwrap();
    is_green().await;
}

async fn check_before_installing() -> (bool, String) {
    let output = weir_tests::tools::run(weir(&["check", "--pre"])).await;
    let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    (output.status.success(), text)
}

//! What pods do at their beginning and at their end works as it did before there was a mesh.

use serde_json::{Value, json};
use weir_tests::cluster::objects::{IMAGE, service};
use weir_tests::cluster::{App, Load, Scenario, until};
use weir_tests::test_app::load::Summary;
use weir_tests::wait::ensure;

/// A server, and the Service in front of it.
async fn with_server(name: &str) -> Scenario {
    let scenario = Scenario::begin(name).await;
    scenario.apply(&[service("server")]).await;
    scenario.deploy(&[App::serving("server").replicas(2)]).await;
    scenario
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn jobs_that_call_out_at_once_are_answered_and_complete_without_a_wrapper() {
    let scenario = with_server("jobs").await;
    scenario.apply(&App::running("report", &["call", "http://server/"]).replicas(5).job()).await;
    scenario.condition("job/report", "condition=Complete").await;
    for pod in scenario.pods("app=report").await {
        assert!(pod.is_injected(), "{pod:?}");
        let seen: Value = serde_json::from_str(&scenario.log(pod.name(), "app").await.unwrap()).unwrap();
        assert_eq!(seen["headers"]["weir-client-id"], json!([scenario.identity("report")]), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn an_init_container_makes_a_call_through_the_mesh() {
    let scenario = with_server("init").await;
    let app = App::idle("migrated").pod(|spec| {
        let call = json!(["call", "http://server/"]);
        spec["initContainers"] = json!([{"name": "migrate", "image": IMAGE, "imagePullPolicy": "Never", "args": call}]);
    });
    scenario.deploy(&[app]).await;
    let pod = scenario.pod_of("migrated").await;
    assert_eq!(pod.container_status("migrate")["restartCount"], 0, "its first call was answered");
    let seen: Value = serde_json::from_str(&scenario.log(pod.name(), "migrate").await.unwrap()).unwrap();
    assert_eq!(seen["headers"]["weir-client-id"], json!([scenario.identity("migrated")]), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn an_application_calls_out_for_as_long_as_it_lives_after_sigterm() {
    let scenario = with_server("farewell").await;
    let app = App::running("tidy", &["call-after-sigterm", "25", "http://server/", "--rate", "10"]);
    scenario.apply(&app.pod(|spec| spec["terminationGracePeriodSeconds"] = 90.into()).single()).await;
    scenario.pod_is_ready("tidy").await;
    // The log is gone with the pod, so it is followed from before.
    let log = scenario.try_kubectl(&["logs", "--follow", "tidy", "-c", "app"]);
    let ((), log) = tokio::join!(
        async {
            scenario.kubectl(&["delete", "pod", "tidy", "--wait=false"]).await;
        },
        log
    );
    let log = log.unwrap();
    let summary: Summary =
        serde_json::from_str(log.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {log}"));
    assert_eq!((summary.failed, summary.failures), (0, Vec::new()));
    assert!(summary.succeeded > 0, "it called");
    scenario.condition("pod/tidy", "delete").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_rolling_restart_under_load_fails_no_request_though_no_pod_has_a_pre_stop_hook() {
    let scenario = with_server("rollout").await;
    let options = ["--rate", "60", "--clients", "4"];
    let reads = Load::start(&scenario, "reads", "http://server/", &options).await;
    let posts = [&options[..], &["--method", "POST", "--body", "an order"]].concat();
    let writes = Load::start(&scenario, "writes", "http://server/", &posts).await;
    let fresh = Load::start(&scenario, "fresh", "http://server/", &["--rate", "20", "--fresh"]).await;
    let before: Vec<String> = scenario.pods("app=server").await.iter().map(|pod| pod.name().to_owned()).collect();
    scenario.kubectl(&["rollout", "restart", "deployment/server"]).await;
    scenario.rolled_out("deployment/server").await;
    until("the old pods are gone", async || {
        let list = scenario.json(&["get", "pods", "--selector", "app=server"]).await?;
        let names: Vec<Value> =
            list["items"].as_array().into_iter().flatten().map(|pod| pod["metadata"]["name"].clone()).collect();
        ensure(names.iter().all(|name| before.iter().all(|old| name != old)), || format!("{names:?} are there"))
    })
    .await;
    for load in [reads, writes, fresh] {
        load.passes(50).await;
        load.lost_none().await;
    }
}

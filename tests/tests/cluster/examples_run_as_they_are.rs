//! `kubectl apply -f examples/...` on a cluster with Weir, with the one image that the test cluster has.

use std::path::Path;

use weir_tests::binaries::workspace;
use weir_tests::cluster::objects::IMAGE;
use weir_tests::cluster::{Scenario, until};
use weir_tests::wait::ensure;

/// What the examples' manifests name.
const PUBLISHED_IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.53";

/// Applies an example in the scenario's namespace instead of its own, and waits for its Deployments and its route.
async fn apply(scenario: &Scenario, example: &str, own_namespace: &str, workloads: &[&str]) {
    let directory = workspace().join("examples").join(example);
    for file in ["services.yaml", "route.yaml", "kubernetes/workloads.yaml"] {
        let text = read(&directory.join(file));
        let text = text.replace(&format!("namespace: {own_namespace}\n"), &format!("namespace: {}\n", scenario.namespace()));
        let text = text.replace(PUBLISHED_IMAGE, IMAGE);
        scenario.try_apply_text(&text).await.unwrap_or_else(|error| panic!("{example}/{file}: {error}"));
    }
    for workload in workloads {
        scenario.rolled_out(&format!("deployment/{workload}")).await;
    }
    let pods = scenario.pods("app").await;
    assert!(!pods.is_empty() && pods.iter().all(|pod| pod.is_injected() && pod.is_ready()), "{example}: {pods:?}");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn route_is_accepted(scenario: &Scenario, kind: &str, name: &str) {
    until("the example's route is accepted", async || {
        let conditions = scenario.route_conditions(kind, name).await?;
        ensure(conditions.iter().all(|line| line.contains("=True")), || format!("{conditions:?}"))
    })
    .await;
}

/// Waits until a pod of `workload` answers the caller.
async fn answers(scenario: &Scenario, caller: &str, arguments: &[&str], workload: &str) {
    until(&format!("{workload} answers {arguments:?}"), async || {
        let hostname = scenario.call(caller, arguments).await?;
        ensure(hostname.starts_with(workload), || format!("{hostname} answered"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn the_canary_example_runs_on_a_cluster() {
    let scenario = Scenario::begin("shop").await;
    apply(&scenario, "canary", "shop", &["frontend", "catalog-v1", "catalog-v2", "prices"]).await;
    route_is_accepted(&scenario, "httproute", "catalog").await;
    answers(&scenario, "frontend", &["http://catalog/hostname"], "catalog-v1").await;
    answers(&scenario, "catalog-v1", &["http://prices/hostname"], "prices").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn the_examples_of_routing_run_on_a_cluster() {
    let scenario = Scenario::begin("web").await;
    apply(&scenario, "header-routing", "web", &["frontend", "search-v1", "search-v2"]).await;
    apply(&scenario, "grpc", "chat", &["client", "rooms-v1", "rooms-v2"]).await;
    route_is_accepted(&scenario, "httproute", "search").await;
    route_is_accepted(&scenario, "grpcroute", "rooms").await;
    answers(&scenario, "frontend", &["http://search/hostname"], "search-v1").await;
    answers(&scenario, "frontend", &["http://search/hostname", "--header", "x-beta: true"], "search-v2").await;
    answers(&scenario, "frontend", &["http://search/hostname?version=2"], "search-v2").await;
    answers(&scenario, "client", &["health://rooms", "--header", "x-beta: true"], "rooms-v2").await;
    answers(&scenario, "client", &["health://rooms"], "rooms-v1").await;
}

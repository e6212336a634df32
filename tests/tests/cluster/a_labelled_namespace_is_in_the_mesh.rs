//! A label on a namespace puts its pods into the mesh: injected, secured, routed.

use serde_json::{Value, json};
use weir_tests::cluster::objects::{route, service, split, version_service};
use weir_tests::cluster::{App, Scenario, until, wire};
use weir_tests::test_app::load::Summary;
use weir_tests::wait::ensure;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_call_from_pod_to_pod_is_mutual_tls_and_the_application_learns_who_calls() {
    let scenario = Scenario::begin("secured").await;
    let outside = App::serving("outside").label("weir.dev/inject", "disabled");
    scenario.deploy(&[App::idle("caller"), App::serving("catalog"), outside]).await;
    scenario.apply(&[service("catalog"), service("outside")]).await;
    let (caller, catalog) = (scenario.pod_of("caller").await, scenario.pod_of("catalog").await);
    assert!(caller.is_injected() && catalog.is_injected(), "{:?}", catalog.container_names());
    assert!(!scenario.pod_of("outside").await.is_injected(), "a pod that declines has no sidecar");

    scenario.seen("caller", &["http://catalog/"]).await;
    let wires = [wire::capture(&caller.network().await.unwrap()), wire::capture(&catalog.network().await.unwrap())];
    let marked = ["http://catalog/marker-of-the-path", "--method", "POST", "--body", "marker-of-the-body"];
    let seen = scenario.seen("caller", &marked).await;
    assert_eq!(seen["headers"]["weir-client-id"], json!([scenario.identity("caller")]), "{seen}");
    assert_eq!((&seen["path"], &seen["body"]), (&"/marker-of-the-path".into(), &"marker-of-the-body".into()));

    // A call to somebody without a sidecar crosses the same wire readable: what is looked for would be found.
    scenario.seen("caller", &["http://outside/marker-of-the-control"]).await;
    until("the readable call is captured", async || {
        ensure(wires[0].has("marker-of-the-control"), || format!("{} bytes crossed", wires[0].len()))
    })
    .await;
    for wire in wires {
        assert!(!wire.is_empty(), "something crossed");
        assert!(!wire.has("marker-of-the-path") && !wire.has("marker-of-the-body"), "the call crossed the wire readable");
    }
    let peer = scenario.identity("caller");
    let counted = [("direction", "inbound"), ("tls", "mutual"), ("peer", peer.as_str())];
    assert!(catalog.metrics().await.unwrap().sum("weir_http_requests_total", &counted) >= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_canary_takes_the_share_that_the_applied_route_gives_it() {
    let scenario = Scenario::begin("canary").await;
    let versions = [version_service("catalog", "v1"), version_service("catalog", "v2"), service("catalog")];
    scenario.apply(&versions).await;
    scenario.apply(&[split("catalog", "catalog", &[("catalog-v1", 100), ("catalog-v2", 0)])]).await;
    scenario.deploy(&[App::idle("caller"), App::serving("catalog"), App::serving("catalog").version("v2")]).await;
    is_accepted(&scenario, "catalog").await;
    shares(&scenario, 0.0..=0.0).await;

    scenario.apply(&[split("catalog", "catalog", &[("catalog-v1", 50), ("catalog-v2", 50)])]).await;
    is_accepted(&scenario, "catalog").await;
    shares(&scenario, 0.35..=0.65).await;

    scenario.apply(&[split("catalog", "catalog", &[("catalog-v1", 0), ("catalog-v2", 100)])]).await;
    is_accepted(&scenario, "catalog").await;
    shares(&scenario, 1.0..=1.0).await;
}

/// Waits until all of 200 requests succeed and version 2 has this share of them.
async fn shares(scenario: &Scenario, wanted: std::ops::RangeInclusive<f64>) {
    let burst = ["weir-test-app", "load", "http://catalog/", "--count", "200", "--rate", "500", "--control", "0"];
    until(&format!("version 2 has a share of {wanted:?}"), async || {
        let text = scenario.exec("deployment/caller", &burst).await.unwrap_or_else(|error| panic!("{error}"));
        let summary: Summary = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let count = |app: &str| f64::from(u32::try_from(summary.by_app.get(app).copied().unwrap_or_default()).unwrap());
        let share = count("catalog v2") / (count("catalog v1") + count("catalog v2"));
        ensure(wanted.contains(&share), || format!("it is {share}: {:?}", summary.by_app))
    })
    .await;
}

async fn is_accepted(scenario: &Scenario, name: &str) {
    until(&format!("the route {name} is accepted"), async || {
        let conditions = scenario.route_conditions("httproute", name).await?;
        let good = ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"];
        ensure(good.iter().all(|wanted| conditions.iter().any(|line| line == wanted)), || format!("{conditions:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_routes_status_is_written_beside_what_other_controllers_wrote() {
    let scenario = Scenario::begin("status").await;
    scenario
        .apply(&[service("catalog"), route("catalog", "catalog", &json!([{"backendRefs": [{"name": "catalog", "port": 80}]}]))])
        .await;
    is_accepted(&scenario, "catalog").await;

    let condition = json!({
        "type": "Accepted", "status": "False", "reason": "NotMine", "message": "of another controller",
        "lastTransitionTime": "2020-01-01T00:00:00Z", "observedGeneration": 1,
    });
    let parent = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"});
    let entry = json!({"parentRef": parent, "controllerName": "example.org/other", "conditions": [condition]});
    let patch = json!([{"op": "add", "path": "/status/parents/-", "value": entry}]).to_string();
    scenario.kubectl(&["patch", "httproute", "catalog", "--subresource=status", "--type=json", "-p", &patch]).await;

    let changed = json!([{"backendRefs": [{"name": "nowhere", "port": 80}]}]);
    scenario.apply(&[route("catalog", "catalog", &changed)]).await;
    until("the new generation is judged", async || {
        let conditions = scenario.route_conditions("httproute", "catalog").await?;
        ensure(conditions.iter().any(|line| line == "ResolvedRefs=False BackendNotFound"), || format!("{conditions:?}"))
    })
    .await;
    let status = scenario.json(&["get", "httproute", "catalog"]).await.unwrap()["status"].clone();
    let parents: Vec<Value> = status["parents"].as_array().cloned().unwrap_or_default();
    assert_eq!(parents.iter().find(|parent| parent["controllerName"] == "example.org/other"), Some(&entry), "{status}");
    assert_eq!(parents.len(), 2, "{status}");
}

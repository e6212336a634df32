//! What users get wrong is refused when it is applied, or named where they look for it; everything else goes on.

use serde_json::{Value, json};
use weir_tests::cluster::kubectl::{kubectl, run};
use weir_tests::cluster::objects::{route, service};
use weir_tests::cluster::{App, Load, Scenario, until};
use weir_tests::wait::ensure;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn broken_routes_say_why_and_everything_else_is_served() {
    let scenario = Scenario::begin("broken").await;
    let names = ["good", "backend", "kind", "filter"];
    scenario.apply(&names.map(service)).await;
    scenario.deploy(&[App::serving("good")]).await;
    let load = Load::start(&scenario, "steady", "http://good/", &["--rate", "30"]).await;

    let backend = |name: &str| json!({"name": name, "port": 80});
    let mut of_kind = backend("good");
    of_kind["kind"] = "Bucket".into();
    of_kind["group"] = "storage.example.org".into();
    let unknown = json!({"type": "ExtensionRef", "extensionRef": {"group": "example.org", "kind": "Magic", "name": "wand"}});
    let broken = [
        route("backend", "backend", &json!([{"backendRefs": [backend("nowhere")]}])),
        route("kind", "kind", &json!([{"backendRefs": [of_kind]}])),
        route("filter", "filter", &json!([{"filters": [unknown], "backendRefs": [backend("good")]}])),
        route("parent", "nobody", &json!([{"backendRefs": [backend("good")]}])),
    ];
    scenario.apply(&broken).await;
    for (name, words) in [
        ("backend", "ResolvedRefs=False BackendNotFound"),
        ("kind", "ResolvedRefs=False InvalidKind"),
        ("filter", "=False"),
        ("parent", "Accepted=False NoMatchingParent"),
    ] {
        until(&format!("the status of {name} says {words}"), async || {
            let conditions = scenario.route_conditions("httproute", name).await?;
            ensure(conditions.iter().any(|line| line.contains(words)), || format!("{conditions:?}"))
        })
        .await;
    }
    for name in ["backend", "kind", "filter"] {
        let url = format!("http://{name}/");
        until(&format!("{name} answers with an error of the mesh"), async || match scenario.call("good", &[&url]).await {
            Ok(answer) => Err(answer),
            Err(error) => ensure(error.contains("500") && error.contains("weir-error"), || error),
        })
        .await;
    }
    load.passes(50).await;
    load.lost_none().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_bad_annotation_is_refused_at_admission_with_its_name_and_what_is_allowed() {
    let scenario = Scenario::begin("annotated").await;
    let pod = App::idle("app").annotation("weir.dev/skip-inbound-ports", "http").annotation("weir.dev/mtls", "maybe");
    let refusal = scenario.try_apply(&pod.single()).await.expect_err("it was admitted");
    for words in ["weir.dev/skip-inbound-ports", "`http`", "ports from 1 to 65535", "weir.dev/mtls", "`maybe`", "strict"] {
        assert!(refusal.contains(words), "{words} is missing: {refusal}");
    }
    assert!(scenario.pods("app=app").await.is_empty());
}

/// The pod as it would be created, with its sidecar.
async fn injected(scenario: &Scenario, app: &App) -> Value {
    let objects = app.single();
    scenario.apply(&objects[..1]).await;
    let create = kubectl(&["-n", scenario.namespace(), "create", "--dry-run=server", "-o", "json", "-f", "-"]);
    let text = run(create, Some(objects[1].to_string())).await.unwrap_or_else(|error| panic!("{error}"));
    let mut pod: Value = serde_json::from_str(&text).unwrap();
    let metadata = json!({
        "name": pod["metadata"]["name"], "labels": pod["metadata"]["labels"], "annotations": pod["metadata"]["annotations"],
    });
    pod["metadata"] = metadata;
    pod.as_object_mut().unwrap().remove("status");
    // The server adds a token volume of its own to whatever has none.
    pod
}

fn init_container<'a>(pod: &'a mut Value, name: &str) -> &'a mut Value {
    let containers = pod["spec"]["initContainers"].as_array_mut().unwrap();
    containers.iter_mut().find(|container| container["name"] == name).unwrap_or_else(|| panic!("there is no {name}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_pod_whose_redirection_is_not_in_place_never_becomes_ready() {
    let scenario = Scenario::begin("bypass").await;
    // Somebody took the capability away.
    let mut powerless = injected(&scenario, &App::idle("powerless")).await;
    init_container(&mut powerless, "weir-init")["securityContext"]["capabilities"] = json!({"drop": ["ALL"]});
    // Somebody replaced what the container does.
    let mut idle = injected(&scenario, &App::idle("idle")).await;
    init_container(&mut idle, "weir-init")["args"] = json!(["--version"]);
    scenario.apply(&[powerless, idle]).await;

    until("the container without a capability fails and says what is missing", async || {
        let status = scenario.pod("powerless").await.container_status("weir-init");
        let text = status.to_string();
        ensure(text.contains("NET_ADMIN") && text.contains("terminated"), || text)
    })
    .await;
    let page = until("the sidecar without redirection says that it is missing", async || {
        let pod = scenario.pod("idle").await;
        ensure(pod.container_status("weir-proxy")["state"].get("running").is_some(), || {
            pod.container_status("weir-proxy").to_string()
        })?;
        let page = pod.sidecar_page("/ready").await?;
        ensure(page.contains("redirect"), || page.clone()).map(|()| page)
    })
    .await;
    for name in ["powerless", "idle"] {
        let pod = scenario.pod(name).await;
        assert!(!pod.is_ready(), "{name} is ready: {page}");
        assert!(pod.container_status("app")["state"].get("running").is_none(), "the application of {name} runs");
    }
}

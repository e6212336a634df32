//! An edit of a manifest takes effect on open connections; a mistake in one harms nothing else, and is named.

use weir_tests::client::request;
use weir_tests::prelude::*;

fn to(backend: &str) -> String {
    format!("- backendRefs: [{{name: {backend}, port: 80}}]")
}

async fn two_versions() -> (Mesh, Workload, [Workload; 2]) {
    let mesh = Mesh::start().await;
    let (caller, one, two) = tokio::join!(mesh.caller(), mesh.backend("reviews-v1"), mesh.backend("reviews-v2"));
    mesh.service("reviews").apply();
    mesh.route("reviews", &to("reviews-v1"));
    mesh.sees(&caller, "http://reviews/", |answer| ensure(answer.app() == "reviews-v1", || "not by v1".into())).await;
    (mesh, caller, [one, two])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_takes_effect_on_connections_that_are_open() {
    let (mesh, caller, _backends) = two_versions().await;
    let mut connection = caller.client().connect().await.unwrap();
    let first = connection.send(request(Method::GET, "http://reviews/")).await.unwrap();
    assert_eq!(first.app(), "reviews-v1");
    mesh.route("reviews", &to("reviews-v2"));
    until("the open connection reaches the other version", async || {
        let answer = connection.send(request(Method::GET, "http://reviews/")).await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        ensure(answer.app() == "reviews-v2", || format!("{} answered", answer.app()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_under_load_lose_no_request() {
    let (mesh, caller, _backends) = two_versions().await;
    let load = Load::get(caller.client(), 8, "http://reviews/");
    for version in ["reviews-v2", "reviews-v1"].into_iter().cycle().take(40) {
        mesh.route("reviews", &to(version));
        mesh.sees(&caller, "http://reviews/", |answer| ensure(answer.app() == version, || format!("not by {version}"))).await;
    }
    load.stop().await.lost_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_route_a_service_is_served_by_its_own_endpoints() {
    let (mesh, caller, [one, _two]) = two_versions().await;
    mesh.service("reviews").backed_by([&one]).apply();
    mesh.route("reviews", &to("reviews-v2"));
    mesh.sees(&caller, "http://reviews/", |answer| ensure(answer.app() == "reviews-v2", || "the route is not in force".into()))
        .await;
    mesh.manifests().remove("route-reviews");
    mesh.sees(&caller, "http://reviews/", |answer| ensure(answer.app() == "reviews-v1", || "the route is still in force".into()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_does_not_parse_is_named_with_its_line_and_changes_nothing_else() {
    let (mesh, caller, _backends) = two_versions().await;
    let load = Load::get(caller.client(), 2, "http://reviews/");
    mesh.manifests().write("broken", "apiVersion: v1\nkind: Service\nmetadata:\n  name: [never closed\n");
    let entry = mesh.control_plane().diagnoses(&["broken.yaml"]).await;
    let line = entry["line"].as_u64().unwrap_or_default();
    assert!((4..=5).contains(&line), "the mistake is at the end of line 4: {entry}");
    mesh.control_plane().logs(&[&format!("broken.yaml:{line}")]).await;

    mesh.route("reviews", &to("reviews-v2"));
    mesh.sees(&caller, "http://reviews/", |answer| ensure(answer.app() == "reviews-v2", || "edits no longer take effect".into()))
        .await;
    load.stop().await.lost_none();

    mesh.manifests().remove("broken");
    until("the mistake is forgotten with its file", async || {
        let all = mesh.control_plane().diagnostics().await.to_string();
        ensure(!all.contains("broken.yaml"), || all)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_whose_file_breaks_serves_on_as_it_was() {
    let (mesh, caller, _backends) = two_versions().await;
    mesh.manifests().write("route-reviews", "kind: HTTPRoute\n  spec: {\n");
    mesh.control_plane().diagnoses(&["route-reviews.yaml"]).await;
    for _ in 0..20 {
        assert_eq!(caller.client().get("http://reviews/").await.app(), "reviews-v1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_object_is_named_with_file_line_and_field_and_its_neighbours_live() {
    let (mesh, caller, [one, _two]) = two_versions().await;
    let bad = "apiVersion: v1
kind: Service
metadata:
  name: bad
  namespace: shop
spec:
  ports:
  - name: http
    port: eighty
";
    let neighbour = weir_tests::manifest::ServiceObjects {
        name: "neighbour",
        namespace: "shop",
        cluster_ip: None,
        port_name: "http",
        port: 80,
        target_port: 8080,
        app_protocol: None,
        endpoints: &[(one.name().to_owned(), one.address(), true)],
    };
    mesh.manifests().write("mixed", &format!("{bad}---\n{}", neighbour.yaml()));
    let entry = mesh.control_plane().diagnoses(&["mixed.yaml", "port"]).await;
    let line = entry["line"].as_u64().unwrap_or_default();
    assert_eq!(line, 9, "the port is on line 9: {entry}");
    assert_eq!(entry["field"], "spec.ports[0].port", "{entry}");
    mesh.control_plane().logs(&["mixed.yaml:9", "spec.ports[0].port"]).await;
    mesh.reaches(&caller, "http://neighbour/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_kind_is_warned_of_once() {
    let (mesh, caller, _backends) = two_versions().await;
    let widget = |size: u32| format!("apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: w\nspec:\n  size: {size}\n");
    mesh.manifests().write("widget", &widget(1));
    mesh.control_plane().logs(&["Widget"]).await;
    mesh.manifests().write("widget", &widget(2));
    mesh.manifests().write("another-widget", &widget(3));
    // An edit that is made later is also read later: once it is in force, the widgets have been read.
    mesh.route("reviews", &to("reviews-v2"));
    mesh.sees(&caller, "http://reviews/", |answer| ensure(answer.app() == "reviews-v2", || "not yet".into())).await;
    let log = mesh.control_plane().log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("Widget")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_no_proxy_sees_sends_nothing() {
    let (mesh, caller, _backends) = two_versions().await;
    let settled = until("the configuration has settled", async || {
        let before = caller.metrics().await.sum("weir_config_version", &[]);
        caller.client().get("http://reviews/").await;
        let after = caller.metrics().await.sum("weir_config_version", &[]);
        ensure(before == after && before > 0.0, || format!("{before} became {after}")).map(|()| after)
    })
    .await;
    // A label of the route, then something that the caller does see: one update, not two.
    let route = weir_tests::manifest::route("HTTPRoute", "reviews", "shop", "reviews", &to("reviews-v1"));
    mesh.manifests().write("route-reviews", &route.replace("metadata:\n", "metadata:\n  labels: {team: blue}\n"));
    mesh.manifests().write("unrelated", &weir_tests::manifest::namespace("elsewhere"));
    mesh.control_plane().diagnostics().await;
    mesh.route("reviews", &to("reviews-v2"));
    mesh.sees(&caller, "http://reviews/", |answer| ensure(answer.app() == "reviews-v2", || "not yet".into())).await;
    let version = caller.metrics().await.sum("weir_config_version", &[]);
    assert!(version - settled <= 2.0, "from {settled} to {version}: only the route's new backend and its endpoints are news");
}

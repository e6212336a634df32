//! An answer that the mesh made says so: a status, and `weir-error` with a reason and the hop.

use std::net::SocketAddr;

use weir_tests::address;
use weir_tests::prelude::*;
use weir_tests::raw::Raw;
use weir_tests::workload::POD_PORT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_nobody_knows_is_503() {
    let mesh = Mesh::start().await;
    let caller = mesh.caller().await;
    let answer = caller.client().get("http://nobody.shop/").await;
    let error = answer.made_by_mesh(503, "outbound");
    assert_eq!(error.reason, "unknown-destination");
    assert!(error.detail.contains("nobody"), "the detail names it: {error:?}");
    caller.proxy().counts("weir_mesh_errors_total", &[("reason", "unknown-destination")], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_appears_later_is_found() {
    let mesh = Mesh::start().await;
    let caller = mesh.caller().await;
    mesh.gets(&caller, "http://late/", 503).await;
    let _late = mesh.backend("late").await;
    assert_eq!(mesh.reaches(&caller, "http://late/").await.app(), "late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_ready_endpoints_is_503() {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    mesh.service("reviews").unready(&reviews).apply();
    let answer = mesh.gets(&caller, "http://reviews/", 503).await;
    assert_eq!(answer.made_by_mesh(503, "outbound").reason, "no-endpoint");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_the_service_does_not_have_is_503() {
    let mesh = Mesh::start().await;
    let (caller, _reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    let answer = caller.client().get("http://reviews:81/").await;
    assert_eq!(answer.made_by_mesh(503, "outbound").reason, "unknown-port");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_no_rule_matches_is_404_although_the_service_has_endpoints() {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.route(
        "reviews",
        "
        - matches: [{path: {type: PathPrefix, value: /known}}]
          backendRefs: [{name: reviews, port: 80}]",
    );
    let answer = mesh.gets(&caller, "http://reviews/unknown", 404).await;
    assert_eq!(answer.made_by_mesh(404, "outbound").reason, "no-route");
    assert_eq!(caller.client().get("http://reviews/known/x").await.app(), "reviews");
    drop(reviews);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_does_not_exist_is_500_for_its_share() {
    let mesh = Mesh::start().await;
    let (caller, _reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.route(
        "reviews",
        "
        - backendRefs: [{name: reviews, port: 80}, {name: not-there, port: 80}]",
    );
    let answer = mesh.gets(&caller, "http://reviews/", 500).await;
    let error = answer.made_by_mesh(500, "outbound");
    assert_eq!(error.reason, "invalid-backend");
    assert!(error.detail.contains("not-there"), "the detail names it: {error:?}");
    mesh.gets(&caller, "http://reviews/", 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_the_mesh_does_not_know_is_500_and_never_skipped() {
    let mesh = Mesh::start().await;
    let (caller, _reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.route(
        "reviews",
        "
        - filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Guard, name: g}}]
          backendRefs: [{name: reviews, port: 80}]",
    );
    let answer = mesh.gets(&caller, "http://reviews/", 500).await;
    assert_eq!(answer.made_by_mesh(500, "outbound").reason, "invalid-route");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_down_is_the_inbound_hops_word() {
    let mesh = Mesh::start().await;
    let (caller, mut reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    reviews.kill_app().await;
    let answer = mesh.gets(&caller, "http://reviews/", 502).await;
    assert_eq!(answer.made_by_mesh(502, "inbound").reason, "connect-failed");
    reviews.proxy().counts("weir_mesh_errors_total", &[("direction", "inbound"), ("reason", "connect-failed")], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_answers_with_garbage_is_502() {
    let mesh = Mesh::start().await;
    let start = mesh.workload("rude").app(App::Rude(b"\x00\x01\x02 garbage\r\n\r\n".to_vec())).start();
    let (caller, rude) = tokio::join!(mesh.caller(), start);
    mesh.service("rude").backed_by([&rude]).apply();
    let answer = mesh.gets(&caller, "http://rude/", 502).await;
    assert_eq!(answer.made_by_mesh(502, "inbound").reason, "bad-response");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmeshed_endpoint_that_is_down_is_the_outbound_hops_word() {
    let mesh = Mesh::start().await;
    let caller = mesh.caller().await;
    mesh.service("gone").backed_by_address("gone", address::loopback()).apply();
    let answer = mesh.gets(&caller, "http://gone/", 502).await;
    assert_eq!(answer.made_by_mesh(502, "outbound").reason, "connect-failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_gets_the_matching_status() {
    let mesh = Mesh::start().await;
    let caller = mesh.caller().await;
    let request = caller.client().h2().request(Method::POST, "http://nobody.shop/weir.test.Echo/Say");
    let answer = request.header("content-type", "application/grpc").header("te", "trailers").body("").send().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("grpc-status"), Some("14"), "UNAVAILABLE: {answer:?}");
    assert_eq!(answer.mesh_error().unwrap().reason, "unknown-destination");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_http_on_an_http_port_is_closed_and_counted() {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    for (proxy, address, direction) in
        [(reviews.proxy(), reviews.inbound(), "inbound"), (caller.proxy(), caller.client().address(), "outbound")]
    {
        let mut raw = Raw::connect(address).await;
        raw.write(b"\x00\x01\x02\x03 this is no request\r\n\r\n").await;
        raw.rest().await;
        proxy.counts("weir_mesh_errors_total", &[("direction", direction), ("reason", "not-http")], 1.0).await;
        proxy.process().logs(&["not-http"]).await;
    }
    assert_eq!(mesh.reaches(&caller, "http://reviews/").await.app(), "reviews");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_to_the_proxys_own_port_is_refused_as_a_loop() {
    let mesh = Mesh::start().await;
    let caller = mesh.caller().await;
    let outbound: SocketAddr = caller.client().address();
    let answer = caller.client().get(&format!("http://{outbound}/")).await;
    assert_eq!(answer.made_by_mesh(503, "outbound").reason, "loop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_outside_the_mesh_is_called_directly() {
    let mesh = Mesh::start().await;
    let caller = mesh.caller().await;
    let outside = App::http("outside").start(SocketAddr::new(address::loopback().into(), POD_PORT));
    let answer = caller.client().get(&format!("http://{}/", outside.address())).await;
    assert_eq!((answer.status.as_u16(), answer.app()), (200, "outside"), "{answer:?}");
    assert!(answer.seen_header("weir-client-id").is_empty());
}

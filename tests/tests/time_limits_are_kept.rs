//! Time limits are kept. Nothing here measures time: the application never answers, so only a limit can end a request.

use weir_tests::prelude::*;

async fn limited(timeouts: &str) -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.route(
        "reviews",
        &format!(
            "
            - matches: [{{path: {{type: PathPrefix, value: /}}}}]
              timeouts: {timeouts}
              filters:
              - type: ResponseHeaderModifier
                responseHeaderModifier: {{set: [{{name: x-route, value: limited}}]}}
              backendRefs: [{{name: reviews, port: 80}}]"
        ),
    );
    mesh.sees(&caller, "http://reviews/", |answer| ensure(answer.header("x-route").is_some(), || "no route yet".into())).await;
    (mesh, caller, reviews)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_its_time_is_answered_with_504() {
    let (_mesh, caller, reviews) = limited("{request: 300ms}").await;
    let answer = caller.client().get("http://reviews/hold").await;
    assert_eq!(answer.made_by_mesh(504, "outbound").reason, "request-timeout");
    assert_eq!(reviews.app().requests("/hold"), 1, "a request over its time is not tried again");
    caller.proxy().counts("weir_mesh_errors_total", &[("reason", "request-timeout"), ("direction", "outbound")], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_over_its_time_is_answered_with_504() {
    let (_mesh, caller, reviews) = limited("{request: 60s, backendRequest: 300ms}").await;
    let answer = caller.client().get("http://reviews/hold").await;
    assert_eq!(answer.made_by_mesh(504, "outbound").reason, "backend-request-timeout");
    assert_eq!(reviews.app().requests("/hold"), 1, "no retry was asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_limit_of_zero_is_none() {
    let (_mesh, caller, reviews) = limited("{request: 0s}").await;
    let client = caller.client();
    let held = tokio::spawn(async move { client.get("http://reviews/hold").await });
    reviews.app().holds(1).await;
    reviews.app().release();
    assert_eq!(held.await.unwrap().text(), "released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_is_told_in_its_own_way() {
    let (_mesh, caller, _reviews) = limited("{request: 300ms}").await;
    let request = caller.client().h2().request(Method::POST, "http://reviews/hold");
    let answer = request.header("content-type", "application/grpc").header("te", "trailers").body("").send().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("grpc-status"), Some("4"), "DEADLINE_EXCEEDED: {answer:?}");
    assert_eq!(answer.mesh_error().unwrap().reason, "request-timeout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_over_its_time_is_retried_where_the_route_says_so() {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.route(
        "reviews",
        "
        - timeouts: {backendRequest: 300ms}
          retry: {attempts: 2, codes: [503], backoff: 1ms}
          backendRefs: [{name: reviews, port: 80}]
        - matches: [{path: {type: Exact, value: /gone}}]
          backendRefs: []",
    );
    mesh.gets(&caller, "http://reviews/gone", 500).await;
    let answer = caller.client().get("http://reviews/hold").await;
    assert_eq!(answer.made_by_mesh(504, "outbound").reason, "backend-request-timeout");
    assert_eq!(reviews.app().requests("/hold"), 3, "one attempt and two retries");
}

//! Retries hide what is safe to hide, as far as the route and the budget allow, and never repeat what may have had its effect.

use weir_tests::app::Fault;
use weir_tests::body;
use weir_tests::client::request;
use weir_tests::prelude::*;

/// One backend, a caller with one worker (budgets are kept per worker), and this retry policy.
async fn retried(policy: &str) -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let start = mesh.workload("caller").one_worker().start();
    let (caller, reviews) = tokio::join!(start, mesh.backend("reviews"));
    let retry = if policy.is_empty() { String::new() } else { format!("retry: {policy}") };
    mesh.route(
        "reviews",
        &format!(
            "
            - filters:
              - type: ResponseHeaderModifier
                responseHeaderModifier: {{set: [{{name: x-route, value: retried}}]}}
              backendRefs: [{{name: reviews, port: 80}}]
              {retry}"
        ),
    );
    mesh.sees(&caller, "http://reviews/", |answer| ensure(answer.header("x-route").is_some(), || "no route yet".into())).await;
    (mesh, caller, reviews)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_stop_at_the_attempts_of_the_route() {
    let (_mesh, caller, reviews) = retried("{attempts: 2, codes: [503], backoff: 1ms}").await;
    reviews.app().fail_next(10, Fault::Status(503));
    let answer = caller.client().get("http://reviews/attempts").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.app(), "reviews", "the last answer of the application is passed on");
    assert_eq!(reviews.app().requests("/attempts"), 3, "one attempt and two retries");
    caller.proxy().counts("weir_http_retries_total", &[("service", "reviews"), ("namespace", "shop")], 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_succeeds_hides_the_failure() {
    let (_mesh, caller, reviews) = retried("{attempts: 3, codes: [500, 503], backoff: 1ms}").await;
    reviews.app().fail_next(1, Fault::Status(503));
    reviews.app().fail_next(1, Fault::Status(500));
    let answer = caller.client().request(Method::POST, "http://reviews/sink").body("paid once").send().await;
    assert_eq!(answer.status, 200);
    assert!(answer.text().starts_with("9 "), "the body was sent again whole: {}", answer.text());
    assert_eq!(reviews.app().requests("/sink"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_the_route_does_not_name_is_not_retried() {
    let (_mesh, caller, reviews) = retried("{attempts: 3, codes: [503], backoff: 1ms}").await;
    let answer = caller.client().get("http://reviews/status/500").await;
    assert_eq!(answer.status, 500);
    assert_eq!(reviews.app().requests("/status/500"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_stop_at_the_budget() {
    const REQUESTS: u64 = 500;
    let (_mesh, caller, reviews) = retried("{attempts: 5, codes: [503], backoff: 1ms}").await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let client = caller.client();
        clients.spawn(async move {
            let mut connection = client.connect().await.unwrap();
            for _ in 0..REQUESTS / 10 {
                let answer = connection.send(request(Method::GET, "http://reviews/status/503")).await.unwrap();
                assert_eq!(answer.status, 503);
            }
        });
    }
    clients.join_all().await;
    let retries = reviews.app().requests("/status/503") - REQUESTS;
    // The budget: a fifth of the requests, and ten a second. Without it there would be 2,500.
    assert!(retries > 0, "some retries are allowed");
    assert!(retries < 2 * REQUESTS, "{retries} retries of {REQUESTS} requests: the budget does not hold");
    caller.proxy().counts("weir_http_retries_over_budget_total", &[], 1.0).await;
    let counted = caller.metrics().await.sum("weir_http_retries_total", &[("service", "reviews")]);
    assert!((counted - retries as f64).abs() < 0.5, "{counted} retries are counted and {retries} were made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_whose_bytes_were_sent_is_not_sent_again() {
    let (_mesh, caller, reviews) = retried("").await;
    let answer = caller.client().request(Method::POST, "http://reviews/reset-after-body").body("pay 100").send().await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(answer.mesh_error().unwrap().reason, "upstream-reset");
    assert_eq!(reviews.app().requests("/reset-after-body"), 1, "paid twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_is_sent_again_where_the_route_asks_for_it() {
    let (_mesh, caller, reviews) = retried("{attempts: 1, codes: [503], backoff: 1ms}").await;
    reviews.app().fail_next(1, Fault::ResetAfterBody);
    let answer = caller.client().request(Method::POST, "http://reviews/sink").body("pay 100").send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.text().starts_with("7 "), "{}", answer.text());
    assert_eq!(reviews.app().requests("/sink"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_that_met_a_reset_is_sent_again_unasked() {
    let (_mesh, caller, reviews) = retried("").await;
    reviews.app().fail_next(1, Fault::Reset);
    let answer = caller.client().get("http://reviews/unasked").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(reviews.app().requests("/unasked"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_retried_even_for_a_post() {
    let mesh = Mesh::start().await;
    let (caller, alive) = tokio::join!(mesh.caller(), mesh.backend("alive"));
    let mut dead = mesh.workload("dead").app(App::http("dead")).start().await;
    dead.kill().await;
    mesh.service("reviews").backed_by([&alive, &dead]).apply();
    mesh.reaches(&caller, "http://reviews/").await;
    let length = 300_000;
    let whole = body::digest_of_stream(length).to_string();
    for _ in 0..40 {
        let sending = caller.client().request(Method::POST, "http://reviews/sink").stream(body::stream_of(length));
        let answer = sending.send().await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, whole.clone()), "{:?}", answer.headers);
    }
    assert_eq!(alive.app().requests("/sink"), 40, "each was processed once");
}

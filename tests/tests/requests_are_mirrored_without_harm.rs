//! Requests are mirrored: copies go to another backend, and nothing that happens to a copy is felt by the request.

use bytes::Bytes;
use http::Method;
use weir_tests::app::Fault;
use weir_tests::prelude::*;

/// A caller, a service that answers, and one that gets copies of its requests by these filters.
async fn mirrored(filters: &str) -> (Mesh, Workload, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, reviews, shadow) = tokio::join!(mesh.caller(), mesh.backend("reviews"), mesh.backend("shadow"));
    mesh.route("reviews", &format!("- {{backendRefs: [{{name: reviews, port: 80}}], filters: {filters}}}"));
    // From the answer of the first copied request on, the route is in force.
    until("a request is copied", async || {
        caller.client().get("http://reviews/first").await;
        ensure(shadow.app().requests("/first") > 0, || "no copy has come".to_owned())
    })
    .await;
    (mesh, caller, reviews, shadow)
}

const ALL: &str = "[{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]";
const RESULT: &str = "weir_http_mirrored_requests_total";

async fn arrive(app: &Workload, path: &str, count: u64) {
    until("the copies arrive", async || {
        let seen = app.app().requests(path);
        ensure(seen == count, || format!("{seen} of {count} copies of {path}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_answered_by_its_backend_and_copied_to_the_mirror() {
    let (_mesh, caller, reviews, shadow) = mirrored(ALL).await;
    for _ in 0..50 {
        let answer = caller.client().get("http://reviews/copied").await;
        assert_eq!((answer.status.as_u16(), answer.app()), (200, "reviews"), "{answer:?}");
    }
    let mut connection = caller.client().h2().connect().await.unwrap();
    for _ in 0..50 {
        let answer = connection.send(weir_tests::client::request(Method::GET, "http://reviews/copied")).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.app()), (200, "reviews"), "{answer:?}");
    }
    assert_eq!(reviews.app().requests("/copied"), 100);
    arrive(&shadow, "/copied", 100).await;
    let labels = [("backend", "shop/shadow:80"), ("result", "answered")];
    until("the copies are counted", async || {
        let counted = caller.metrics().await.sum(RESULT, &labels);
        ensure(counted >= 100.0, || format!("{counted} are counted"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_copied_to_its_last_byte() {
    let (_mesh, caller, _reviews, shadow) = mirrored(ALL).await;
    // Above what is kept for a retry, below what a mirror may fall behind.
    let body = Bytes::from((0..200_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let answer = caller.client().request(Method::POST, "http://reviews/sink").body(body).send().await;
    assert_eq!((answer.status.as_u16(), answer.app()), (200, "reviews"), "{answer:?}");
    until("the copy has arrived", async || ensure(!shadow.app().sunk().is_empty(), || "not yet".to_owned())).await;
    assert_eq!(shadow.app().sunk(), [answer.text()], "both saw the same bytes");
    let metrics = caller.metrics().await;
    let lost = metrics.sum(RESULT, &[("result", "failed")]) + metrics.sum(RESULT, &[("result", "dropped")]);
    assert!(lost < 1.0, "{lost} copies were lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_the_requests_is_copied() {
    let half = "[{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, percent: 25}}]";
    let (_mesh, caller, reviews, shadow) = mirrored(half).await;
    let mut connection = caller.client().h2().connect().await.unwrap();
    for _ in 0..800 {
        connection.send(weir_tests::client::request(Method::GET, "http://reviews/some")).await.unwrap();
    }
    assert_eq!(reviews.app().requests("/some"), 800);
    let under_way = async || {
        let metrics = caller.metrics().await;
        metrics.sum(RESULT, &[]) - shadow.app().requests("/some") as f64 - shadow.app().requests("/first") as f64
    };
    until("no copy is under way", async || ensure(under_way().await == 0.0, || "some are".to_owned())).await;
    let copies = shadow.app().requests("/some");
    // A quarter of 800 is 200; more than six standard deviations to either side.
    assert!((120..=280).contains(&copies), "{copies} copies");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_hangs_fails_or_is_gone_is_not_felt() {
    let (_mesh, caller, reviews, mut shadow) = mirrored(ALL).await;
    shadow.app().fail_next(20, Fault::Status(503));
    for _ in 0..20 {
        assert_eq!(caller.client().get("http://reviews/while-it-fails").await.status, 200);
    }
    arrive(&shadow, "/while-it-fails", 20).await;

    shadow.app().fail_next(20, Fault::Silence);
    for _ in 0..20 {
        assert_eq!(caller.client().get("http://reviews/while-it-hangs").await.status, 200);
    }
    shadow.kill().await;
    for _ in 0..20 {
        assert_eq!(caller.client().get("http://reviews/while-it-is-dead").await.status, 200);
    }
    caller.proxy().counts(RESULT, &[("result", "failed")], 20.0).await;
    for path in ["/while-it-fails", "/while-it-hangs", "/while-it-is-dead"] {
        assert_eq!(reviews.app().requests(path), 20, "{path}");
    }
}

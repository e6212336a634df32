//! Hostile clients gain nothing: what two parsers could read in two ways is refused, and a flood costs only its sender.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use weir_tests::client::request;
use weir_tests::prelude::*;
use weir_tests::raw::Raw;

const MIB: u64 = 1 << 20;

async fn pair() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    (mesh, caller, reviews)
}

/// Sends `bytes` to both sides where a client can write HTTP/1.1: the caller's own proxy, and the callee's as a plaintext peer.
/// Answers with everything that came back until the proxy closed.
async fn at_both_ends(caller: &Workload, reviews: &Workload, bytes: &str) -> [String; 2] {
    let mut answers = [const { String::new() }; 2];
    for (answer, address) in answers.iter_mut().zip([caller.client().address(), reviews.inbound()]) {
        let mut raw = Raw::connect(address).await;
        raw.write(bytes).await;
        *answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_two_parsers_could_read_in_two_ways_is_refused() {
    let (_mesh, caller, reviews) = pair().await;
    for (what, head) in [
        ("two lengths", "content-length: 5\r\ncontent-length: 6\r\n"),
        ("a list of lengths", "content-length: 5, 6\r\n"),
        ("a length with a sign", "content-length: +5\r\n"),
        ("an unknown coding after chunked", "transfer-encoding: chunked, identity\r\n"),
        ("a space before the colon", "content-length : 5\r\n"),
        ("a folded header", "x-folded: one\r\n two\r\ncontent-length: 5\r\n"),
        ("a bare carriage return in a value", "x-cr: a\rb\r\ncontent-length: 5\r\n"),
        ("a null in a value", "x-null: a\0b\r\ncontent-length: 5\r\n"),
    ] {
        let smuggled = "GET /smuggled HTTP/1.1\r\nhost: reviews\r\n\r\n";
        let bytes = format!("POST /visible HTTP/1.1\r\nhost: reviews\r\n{head}\r\n0\r\n\r\n{smuggled}");
        for answer in at_both_ends(&caller, &reviews, &bytes).await {
            assert!(answer.starts_with("HTTP/1.1 400"), "{what}: {answer:?}");
            let answers = answer.split("\r\n").filter(|line| line.starts_with("HTTP/1.1 ")).count();
            assert_eq!(answers, 1, "{what}: the connection ends with the refusal: {answer:?}");
        }
    }
    assert_eq!((reviews.app().requests("/visible"), reviews.app().requests("/smuggled")), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_beside_chunks_never_reaches_the_application() {
    let (_mesh, caller, reviews) = pair().await;
    let bytes = "POST /visible HTTP/1.1\r\nhost: reviews\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                 0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: reviews\r\n\r\n";
    for answer in at_both_ends(&caller, &reviews, bytes).await {
        // RFC 9112, section 6.3: refuse it, or take the chunks and drop the length and whatever follows.
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        assert!(!answer.contains("content-length\":[\"4"), "the length was handed on: {answer:?}");
    }
    assert_eq!(reviews.app().requests("/smuggled"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_one_hop_stay_on_it_and_others_cannot_be_declared_to_be() {
    let (_mesh, caller, _reviews) = pair().await;
    let mut raw = Raw::connect(caller.client().address()).await;
    raw.write(
        "GET http://reviews/ HTTP/1.1\r\nhost: reviews\r\nconnection: close, x-hop, authorization, host\r\nx-hop: 1\r\n\
         authorization: secret\r\nproxy-authorization: secret\r\nproxy-connection: keep-alive\r\nkeep-alive: timeout=5\r\n\
         te: gzip\r\n\r\n",
    )
    .await;
    let answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
    let body = answer.split_once('{').map(|(_, rest)| format!("{{{rest}")).unwrap();
    let body = &body[..=body.rfind('}').unwrap()];
    let seen: serde_json::Value = serde_json::from_str(body).unwrap();
    let names: BTreeSet<&str> = seen["headers"].as_object().unwrap().keys().map(String::as_str).collect();
    for gone in ["x-hop", "proxy-connection", "keep-alive", "proxy-authorization"] {
        assert!(!names.contains(gone), "{gone} went on: {names:?}");
    }
    for kept in ["host", "weir-client-id"] {
        assert!(names.contains(kept), "{kept} was removed: {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_path_that_is_routed_is_the_path_that_is_sent() {
    let (mesh, caller, reviews) = pair().await;
    let other = mesh.backend("other").await;
    mesh.route(
        "reviews",
        "
        - matches: [{path: {type: PathPrefix, value: /admin}}]
          backendRefs: [{name: other, port: 80}]
        - matches: [{path: {type: PathPrefix, value: /}}]
          backendRefs: [{name: reviews, port: 80}]",
    );
    mesh.sees(&caller, "http://reviews/admin", |answer| ensure(answer.app() == "other", || "no route yet".into())).await;
    for path in
        ["//admin", "/./admin", "/x/../admin", "/%61dmin", "/admin%2f", "/x%2f..%2fadmin", "/admin;x", "/ADMIN", "/admin/"]
    {
        let mut raw = Raw::connect(caller.client().address()).await;
        raw.write(format!("GET {path} HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n")).await;
        let answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
        if answer.starts_with("HTTP/1.1 400") {
            continue;
        }
        // What the application was asked for falls under the rule by which it was chosen.
        let sent =
            answer.split_once("\"path\":\"").map(|(_, rest)| rest.split('"').next().unwrap_or_default()).unwrap_or_default();
        let under_admin = sent == "/admin" || sent.starts_with("/admin/");
        assert_eq!(answer.contains("x-app: other"), under_admin, "{path} was sent as {sent}: {answer}");
    }
    drop((reviews, other));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_bombs_are_refused_with_flat_memory() {
    let (_mesh, caller, reviews) = pair().await;
    let before = [&caller, &reviews].map(|it| it.proxy().process().peak_memory());
    let mut many = String::new();
    for number in 0..5000 {
        let _ = write!(many, "x-{number}: y\r\n");
    }
    let long = format!("x-long: {}\r\n", "y".repeat(1 << 20));
    for headers in [many, long] {
        for _ in 0..20 {
            for address in [caller.client().address(), reviews.inbound()] {
                let mut raw = Raw::connect(address).await;
                let bytes = format!("GET / HTTP/1.1\r\nhost: reviews\r\n{headers}\r\n");
                // The proxy may have closed before all was written.
                let answer = raw.exchange(bytes).await;
                assert!(
                    answer.is_empty() || answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 400"),
                    "{answer}"
                );
            }
        }
    }
    for (workload, before) in [&caller, &reviews].into_iter().zip(before) {
        let grown = workload.proxy().process().peak_memory().saturating_sub(before);
        assert!(grown < 24 * MIB, "{} grew by {grown} bytes", workload.name());
    }
    assert_eq!(caller.client().get("http://reviews/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_requests_that_are_taken_back_leaves_the_proxies_as_they_were() {
    let (_mesh, caller, reviews) = pair().await;
    let before = [&caller, &reviews].map(|it| it.proxy().process().peak_memory());
    for _ in 0..20 {
        let mut taken_back = Vec::new();
        let Ok(mut connection) = caller.client().h2().connect().await else { continue };
        for _ in 0..100 {
            let request = request(Method::GET, "http://reviews/hold");
            // Dropped before an answer: a reset of the stream.
            let sending = connection.open_request(request);
            taken_back.push(tokio::time::timeout(std::time::Duration::from_micros(200), sending).await.is_err());
        }
        assert!(taken_back.iter().any(|it| *it), "nothing was taken back");
    }
    assert_eq!(caller.client().get("http://reviews/after").await.status, 200);
    until("the application is rid of the requests", async || {
        let open = reviews.app().connections();
        ensure(open <= 8, || format!("{open} connections are open"))
    })
    .await;
    for (workload, before) in [&caller, &reviews].into_iter().zip(before) {
        let grown = workload.proxy().process().peak_memory().saturating_sub(before);
        assert!(grown < 32 * MIB, "{} grew by {grown} bytes", workload.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_takes_its_request_along() {
    let (_mesh, caller, reviews) = pair().await;
    let idle = reviews.app().connections();
    for client in [caller.client(), caller.client().h2()] {
        let held = tokio::spawn(async move { client.get("http://reviews/hold").await });
        until("the request is held", async || {
            ensure(reviews.app().connections() >= 1 && reviews.app().requests("/hold") >= 1, || "not yet".to_owned())
        })
        .await;
        held.abort();
        let _ = held.await;
        until("the application is rid of the request", async || {
            let open = reviews.app().connections();
            ensure(open <= idle, || format!("{open} connections are open, {idle} were"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_unknown_names_leave_the_proxy_small_and_serving() {
    let (_mesh, caller, _reviews) = pair().await;
    let before = caller.proxy().process().peak_memory();
    let mut names = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let client = caller.client();
        names.spawn(async move {
            let mut connection = client.connect().await.unwrap();
            for number in 0..250 {
                let url = format!("http://w{worker}-n{number}.nowhere/");
                let answer = connection.send(request(Method::GET, &url)).await.unwrap();
                assert_eq!(answer.status, 503, "{answer:?}");
            }
        });
    }
    names.join_all().await;
    let grown = caller.proxy().process().peak_memory() - before;
    assert!(grown < 24 * MIB, "it grew by {grown} bytes");
    assert_eq!(caller.client().get("http://reviews/").await.status, 200);
}

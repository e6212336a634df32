//! The admin page shows what a proxy holds, and lets only its own pod change anything.

use serde_json::Value;
use weir_tests::prelude::*;

async fn pair() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    (mesh, caller, reviews)
}

fn drain(workload: &Workload) -> weir_tests::client::Sending {
    let admin = workload.proxy().admin();
    Client::to(admin).request(Method::POST, &format!("http://{admin}/drain"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_answers() {
    let (_mesh, caller, _reviews) = pair().await;
    for path in ["/ready", "/live", "/metrics", "/config", "/clusters", "/certs"] {
        let answer = caller.proxy().ask(path).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
        if matches!(path, "/config" | "/clusters" | "/certs") {
            let value: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{path} is JSON: {error}"));
            let wanted = if path == "/certs" { "spiffe://cluster.local/ns/shop/sa/caller" } else { "reviews" };
            assert!(value.to_string().contains(wanted), "{path} names {wanted}: {value}");
            assert!(!value.to_string().contains("PRIVATE KEY"), "{path} never shows a key");
        }
    }
    assert_eq!(caller.proxy().ask("/nothing").await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_taken_from_loopback_and_the_proxy_ends() {
    let (_mesh, caller, _reviews) = pair().await;
    assert!(drain(&caller).send().await.status.is_success());
    assert!(caller.proxy().end().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_not_taken_from_web_pages_nor_by_get() {
    let (_mesh, caller, _reviews) = pair().await;
    assert_eq!(drain(&caller).header("origin", "http://evil.example").send().await.status, 403);
    assert_eq!(drain(&caller).header("host", "evil.example").send().await.status, 403, "a name that was rebound to this address");
    assert_eq!(caller.proxy().ask("/drain").await.unwrap().status, 405);
    assert_eq!(caller.proxy().ask("/ready").await.unwrap().status, 200, "it serves on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_turns_503_while_a_drain_waits_for_what_runs() {
    let (_mesh, caller, reviews) = pair().await;
    let client = caller.client();
    let held = tokio::spawn(async move { client.get("http://reviews/hold").await });
    reviews.app().holds(1).await;
    assert!(drain(&reviews).send().await.status.is_success());
    until("/ready turns 503", async || {
        let answer = reviews.proxy().ask("/ready").await?;
        ensure(answer.status == 503 && answer.text().contains("drain"), || format!("it is {}: {}", answer.status, answer.text()))
    })
    .await;
    assert_eq!(reviews.proxy().ask("/live").await.unwrap().status, 200, "it is not dead");
    reviews.app().release();
    assert_eq!(held.await.unwrap().status, 200);
    assert!(reviews.proxy().end().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_answers_its_pages() {
    let (mesh, _caller, _reviews) = pair().await;
    let control_plane = mesh.control_plane();
    for path in ["/ready", "/live", "/metrics", "/api/v1/diagnostics"] {
        let answer = Client::to(control_plane.http()).get(&control_plane.url(path)).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    let text = control_plane.diagnostics().await.to_string();
    assert!(!text.contains(".yaml"), "there is nothing to say about good manifests: {text}");
}

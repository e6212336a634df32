//! Parts go away, killed or in order, under load: no request is lost.

use weir_tests::client::{Client, request};
use weir_tests::prelude::*;
use weir_tests::raw::Raw;

/// Two replicas behind one Service, and a caller that reaches them.
async fn replicas() -> (Mesh, Workload, [Workload; 2]) {
    let mesh = Mesh::start().await;
    let start = |name| mesh.workload(name).service_account("reviews").app(App::http(name)).start();
    let (caller, a, b) = tokio::join!(mesh.caller(), start("replica-a"), start("replica-b"));
    mesh.service("reviews").backed_by([&a, &b]).apply();
    both_answer(&mesh, &caller).await;
    (mesh, caller, [a, b])
}

async fn both_answer(mesh: &Mesh, caller: &Workload) {
    for replica in ["replica-a", "replica-b"] {
        let by_it = |answer: &Answer| ensure(answer.app() == replica, || format!("not by {replica}"));
        mesh.sees(caller, "http://reviews/", by_it).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_dies_under_load_loses_no_get() {
    let (mesh, caller, [a, mut b]) = replicas().await;
    let load = Load::get(caller.client(), 8, "http://reviews/");
    load.passes(400).await;
    b.kill().await;
    load.passes(800).await;
    mesh.service("reviews").backed_by([&a]).apply();
    load.passes(400).await;
    load.stop().await.lost_none();
    caller.proxy().counts("weir_http_retries_total", &[("service", "reviews")], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_dies_behind_its_sidecar_loses_no_get() {
    let (mesh, caller, [a, mut b]) = replicas().await;
    let load = Load::get(caller.client(), 8, "http://reviews/");
    load.passes(400).await;
    b.kill_app().await;
    load.passes(800).await;
    mesh.service("reviews").backed_by([&a]).apply();
    load.passes(400).await;
    load.stop().await.lost_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_is_ejected_and_used_again_when_it_is_back() {
    let (_mesh, caller, [_a, mut b]) = replicas().await;
    b.kill_proxy();
    let load = Load::get(caller.client(), 4, "http://reviews/");
    caller.proxy().counts("weir_endpoint_ejections_total", &[("service", "reviews")], 1.0).await;
    b.restart_proxy().await;
    until("the endpoint that came back is used", async || {
        let before = b.app().requests("/");
        load.passes(50).await;
        ensure(b.app().requests("/") > before, || "it gets no request".to_owned())
    })
    .await;
    load.stop().await.lost_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_may_be_killed_and_come_back_under_load() {
    let (mesh, caller, [a, b]) = replicas().await;
    let load = Load::get(caller.client(), 4, "http://reviews/");
    load.passes(200).await;
    mesh.control_plane().kill();
    load.passes(400).await;
    assert_eq!(caller.proxy().ask("/ready").await.unwrap().status, 200, "the proxy is ready without the control plane");
    mesh.control_plane().start().await;
    // The stream is back when an edit gets through again.
    mesh.service("reviews").backed_by([&b]).apply();
    until("an edit gets through to the proxy", async || {
        let before = a.app().requests("/");
        load.passes(50).await;
        ensure(a.app().requests("/") == before, || "the endpoint that was removed is still used".to_owned())
    })
    .await;
    load.stop().await.lost_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_may_be_stopped_in_order_under_load() {
    let (mesh, caller, _replicas) = replicas().await;
    let load = Load::get(caller.client(), 4, "http://reviews/");
    load.passes(100).await;
    mesh.control_plane().with(weir_tests::process::Process::terminate);
    until("the control plane has ended", async || {
        let ended = mesh.control_plane().with(weir_tests::process::Process::ended);
        ended.ok_or_else(|| "it still runs".to_owned()).map(|status| assert!(status.success(), "{status}"))
    })
    .await;
    load.passes(200).await;
    load.stop().await.lost_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_restarts_while_the_control_plane_is_gone_serves_from_its_state() {
    let (mesh, mut caller, [mut a, b]) = replicas().await;
    for workload in [&caller, &a, &b] {
        saves_its_state(workload, &mesh).await;
    }
    mesh.control_plane().kill();
    caller.restart_proxy().await;
    a.restart_proxy().await;
    let load = Load::get(caller.client(), 4, "http://reviews/");
    load.passes(400).await;
    let tally = load.stop().await;
    tally.lost_none();
    let answer = caller.client().get("http://reviews/").await;
    assert_eq!(answer.seen_header("weir-client-id"), ["spiffe://cluster.local/ns/shop/sa/caller"], "mutual TLS as before");
    let age = caller.metrics().await.sum("weir_config_age_seconds", &[]);
    assert!(age != 0.0, "the age says that nobody vouches for the configuration: {age}");
}

/// The state is written behind the traffic: it is there once its files stay as they are.
async fn saves_its_state(workload: &Workload, mesh: &Mesh) {
    let directory = mesh.path(&format!("state-{}/shop.{}", workload.name(), workload.name()));
    let mut last = Vec::new();
    until("the state is saved", async || {
        let mut files: Vec<_> = std::fs::read_dir(&directory).map_err(|error| error.to_string())?.flatten().collect();
        files.sort_by_key(std::fs::DirEntry::path);
        let now: Vec<_> =
            files.iter().map(|file| (file.path(), file.metadata().ok().and_then(|data| data.modified().ok()))).collect();
        // Looks again after a while in which a write that is on its way would have happened.
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        let steady = std::mem::replace(&mut last, now.clone()) == now;
        ensure(steady && now.len() >= 3, || format!("the directory has {now:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_leaves_in_order_loses_nothing() {
    let (mesh, caller, [a, b]) = replicas().await;
    let load = Load::get(caller.client(), 8, "http://reviews/");
    load.passes(300).await;
    mesh.service("reviews").backed_by([&a]).apply();
    b.proxy().terminate();
    load.passes(300).await;
    assert!(b.proxy().end().await.success(), "a drained proxy ends with 0");
    load.passes(300).await;
    load.stop().await.lost_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_drains_before_anybody_is_told_loses_nothing() {
    let (_mesh, caller, [_a, b]) = replicas().await;
    let posts = || {
        let mut post = request(Method::POST, "http://reviews/sink");
        *post.body_mut() = weir_tests::body::full("exactly once");
        post
    };
    let load = Load::start(caller.client(), 8, posts);
    load.passes(300).await;
    b.proxy().terminate();
    load.passes(600).await;
    load.stop().await.lost_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_is_finished_by_a_draining_proxy() {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    let client = caller.client();
    let held = tokio::spawn(async move { client.get("http://reviews/hold").await });
    reviews.app().holds(1).await;
    reviews.proxy().terminate();
    until("the draining proxy is no longer ready", async || {
        let answer = reviews.proxy().ask("/ready").await?;
        ensure(answer.status == 503, || format!("/ready says {}", answer.status))
    })
    .await;
    assert!(reviews.proxy().process().ended().is_none(), "it waits for the request");
    reviews.app().release();
    assert_eq!(held.await.unwrap().text(), "released");
    assert!(reviews.proxy().end().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_that_shuts_down_can_still_call_others() {
    let mesh = Mesh::start().await;
    let start = mesh.workload("caller").app(App::http("caller")).start();
    let (caller, _reviews) = tokio::join!(start, mesh.backend("reviews"));
    mesh.service("caller").backed_by([&caller]).apply();
    mesh.reaches(&caller, "http://caller/").await;
    mesh.reaches(&caller, "http://reviews/").await;
    // A request under way keeps the proxy from being done.
    let mut held = Raw::connect(caller.inbound()).await;
    held.write("GET /hold HTTP/1.1\r\nhost: caller\r\n\r\n").await;
    caller.app().holds(1).await;
    caller.proxy().terminate();
    caller.proxy().process().logs(&["drain"]).await;
    for _ in 0..20 {
        assert_eq!(caller.client().get("http://reviews/").await.app(), "reviews", "new connections out are still taken");
    }
    caller.app().release();
    assert!(held.head().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_the_proxy_at_once() {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    let client: Client = caller.client();
    let held = tokio::spawn(async move { client.try_get("http://reviews/hold").await });
    reviews.app().holds(1).await;
    reviews.proxy().terminate();
    reviews.proxy().process().logs(&["drain"]).await;
    reviews.proxy().terminate();
    assert!(!reviews.proxy().end().await.success(), "a request was cut off, and the exit status says so");
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_does_not_read_its_stream_delays_nobody() {
    let (mesh, caller, [a, b]) = replicas().await;
    let sleeper = mesh.workload("sleeper").start().await;
    mesh.reaches(&sleeper, "http://reviews/").await;
    sleeper.proxy().process().pause();
    for round in 0..10 {
        let only = if round % 2 == 0 { &a } else { &b };
        mesh.service("reviews").backed_by([only]).apply();
        let by_it = |answer: &Answer| ensure(answer.app() == only.name(), || format!("not by {}", only.name()));
        mesh.sees(&caller, "http://reviews/", by_it).await;
    }
    sleeper.proxy().process().resume();
    let by_b = |answer: &Answer| ensure(answer.app() == "replica-b", || "not the newest state".to_owned());
    mesh.sees(&sleeper, "http://reviews/", by_b).await;
}

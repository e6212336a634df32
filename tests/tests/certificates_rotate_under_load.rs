//! Certificates are renewed under traffic, and no connection is dropped for it.

use weir_tests::prelude::*;
use weir_tests::raw::Raw;

/// So short that the scenario sees several renewals.
const LIFETIME: &[&str] = &["--leaf-lifetime", "6s"];

async fn expiry(workload: &Workload) -> f64 {
    workload.metrics().await.sum("weir_certificate_expiry_timestamp_seconds", &[])
}

/// Waits until the certificate of `workload` has been renewed `times` times from now.
async fn renewed(workload: &Workload, times: usize) {
    let mut last = expiry(workload).await;
    for round in 1..=times {
        last = until(&format!("renewal {round} of {}", workload.name()), async || {
            let now = expiry(workload).await;
            ensure(now > last, || format!("its certificate ends at {now} as before")).map(|()| now)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_under_load_lose_no_request() {
    let mesh = Mesh::start_with(LIFETIME).await;
    let start = mesh.workload("reviews").strict().app(App::http("reviews")).start();
    let (caller, reviews) = tokio::join!(mesh.caller(), start);
    mesh.service("reviews").backed_by([&reviews]).apply();
    mesh.reaches(&caller, "http://reviews/").await;
    let load = Load::get(caller.client(), 4, "http://reviews/");
    tokio::join!(renewed(&caller, 3), renewed(&reviews, 3));
    load.stop().await.lost_none();
    caller.proxy().counts("weir_certificate_renewals_total", &[("result", "success")], 3.0).await;
    assert_eq!(caller.metrics().await.sum("weir_certificate_renewals_total", &[("result", "failure")]), 0.0);
}

/// Waits until the rotation of the root is in this phase.
async fn phase(mesh: &Mesh, phase: &str) {
    until(&format!("the rotation is {phase}"), async || {
        let metrics = mesh.control_plane().metrics().await;
        let value = metrics.sum("weir_ca_rotation_phase", &[("phase", phase)]);
        ensure(value == 1.0, || format!("{value}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_replaced_twice_under_load_and_no_request_is_lost() {
    let mesh = Mesh::start_with(&["--leaf-lifetime", "20s"]).await;
    let start = mesh.workload("reviews").strict().app(App::http("reviews")).start();
    let (caller, reviews) = tokio::join!(mesh.caller(), start);
    mesh.service("reviews").backed_by([&reviews]).apply();
    mesh.reaches(&caller, "http://reviews/").await;
    let bundle = || std::fs::read_to_string(mesh.control_plane().trust_bundle()).expect("the trust bundle");
    let load = Load::get(caller.client(), 4, "http://reviews/");
    let mut before = bundle();
    for round in 1..=2 {
        std::fs::write(mesh.control_plane().ca_dir().join("rotate"), round.to_string()).expect("asked for another root");
        until("the new root is published beside the old one", async || {
            let now = bundle();
            ensure(now.contains(&before) && now.len() > before.len(), || "the old bundle".to_owned())
        })
        .await;
        phase(&mesh, "signing").await;
        phase(&mesh, "stable").await;
        let after = bundle();
        assert!(!after.contains(before.trim()), "the old root is retired");
        before = after;
    }
    load.stop().await.lost_none();
    mesh.reaches(&caller, "http://reviews/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_outlives_the_certificate_that_it_was_opened_with() {
    let mesh = Mesh::start_with(LIFETIME).await;
    let start = mesh.workload("echo").app(App::TcpEcho).start();
    let (caller, echo) = tokio::join!(mesh.caller(), start);
    mesh.service("echo").port(9000, "tcp").backed_by([&echo]).apply();
    let mut tunnel = open_tunnel(&caller, "echo:9000").await;
    tunnel.write("before").await;
    tunnel.until("before").await;
    tokio::join!(renewed(&caller, 2), renewed(&echo, 2));
    tunnel.write("after").await;
    tunnel.until("after").await;
}

/// The Service may not be known yet when it has just been written.
async fn open_tunnel(caller: &Workload, target: &str) -> Raw {
    let address = caller.client().address();
    until(&format!("a tunnel to {target} opens"), async || {
        let mut raw = Raw::connect(address).await;
        raw.write(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n")).await;
        let head = raw.head().await;
        if head.starts_with("HTTP/1.1 200") { Ok(raw) } else { Err(head) }
    })
    .await
}

//! What a sidecar holds in memory: bounded while clients are many, silent or slow, or a Service is large, and given back afterwards.
//!
//! Bounds are several times what was seen (docs/PERFORMANCE.md has that), and far below what an unbounded buffer would take.

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::{StreamExt, stream};
use weir_tests::manifest::ServiceObjects;
use weir_tests::prelude::*;
use weir_tests::process::{Process, allow_many_files};
use weir_tests::raw::Raw;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What one client connection that says nothing may hold: two of hyper's buffers would be 16 KiB alone.
const IDLE_CONNECTION: u64 = 8 * KIB;

/// What a client that does not read its answer may hold in each sidecar, in all buffers on its way.
const SLOW_READER: u64 = 768 * KIB;

/// What an endpoint may take.
const ENDPOINT: u64 = 3 * KIB;

/// What an idle sidecar may have more than before it was loaded.
const LEFT_OVER: u64 = 24 * MIB;

async fn falls_below(process: &Process, bound: u64) {
    until("its memory has been given back", async || {
        let memory = process.resident_memory();
        ensure(memory <= bound, || format!("{} KiB are resident, and {} are allowed", memory / KIB, bound / KIB))
    })
    .await;
}

async fn asked_once(proxy: SocketAddr) -> Raw {
    let mut client = Raw::connect(proxy).await;
    client.write("GET /status/200 HTTP/1.1\r\nhost: web\r\n\r\n").await;
    client.until("as asked").await;
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_silent_clients_hold_little_and_are_served_again() {
    let clients = allow_many_files().saturating_sub(2000).min(10_000);
    let mesh = Mesh::start().await;
    let (caller, _web) = tokio::join!(mesh.caller(), mesh.backend("web"));
    mesh.reaches(&caller, "http://web/").await;
    let process = caller.proxy().process();
    let before = process.resident_memory();
    let proxy = caller.settings().outbound;

    let open: Vec<Raw> = stream::iter(0..clients).map(|_| asked_once(proxy)).buffer_unordered(64).collect().await;
    assert_eq!(open.len(), clients);
    falls_below(process, before + clients as u64 * IDLE_CONNECTION).await;

    // Each of them is still there, whatever was put aside.
    let again = stream::iter(open).map(|mut client| async move {
        client.write("GET /status/200 HTTP/1.1\r\nhost: web\r\n\r\n").await;
        client.until("as asked").await;
        client
    });
    let open: Vec<Raw> = again.buffer_unordered(64).collect().await;
    drop(open);
    falls_below(process, before + LEFT_OVER).await;
}

/// A client that asks for far more than fits into all buffers on the way, and reads its beginning.
async fn reads_no_further(proxy: SocketAddr) -> Raw {
    let mut client = Raw::connect(proxy).await;
    client.write(format!("GET /bytes/{} HTTP/1.1\r\nhost: web\r\n\r\n", 256 * MIB)).await;
    client.until("\r\n\r\n").await;
    client.exactly(1).await;
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_clients_that_do_not_read_hold_bounded_buffers_and_harm_nobody() {
    const CLIENTS: usize = 200;
    allow_many_files();
    let mesh = Mesh::start().await;
    let (caller, web) = tokio::join!(mesh.caller(), mesh.backend("web"));
    mesh.reaches(&caller, "http://web/").await;
    let (near, far) = (caller.proxy().process(), web.proxy().process());
    let before = (near.resident_memory(), far.resident_memory());
    let proxy = caller.settings().outbound;

    let open: Vec<Raw> = stream::iter(0..CLIENTS).map(|_| reads_no_further(proxy)).buffer_unordered(32).collect().await;
    // Whoever reads is served meanwhile.
    for _ in 0..20 {
        mesh.reaches(&caller, "http://web/").await;
    }
    for (process, before) in [(near, before.0), (far, before.1)] {
        let held = process.resident_memory().saturating_sub(before);
        assert!(held < CLIENTS as u64 * SLOW_READER, "{} KiB for each client", held / KIB / CLIENTS as u64);
    }
    drop(open);
    falls_below(near, before.0 + LEFT_OVER).await;
    falls_below(far, before.1 + LEFT_OVER).await;
    mesh.reaches(&caller, "http://web/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_ten_thousand_endpoints_takes_what_its_endpoints_take() {
    const ENDPOINTS: u32 = 10_000;
    let mesh = Mesh::start().await;
    let caller = mesh.caller().await;
    let write = |endpoints: u32| {
        // Nobody listens there.
        let address = |number: u32| Ipv4Addr::from_bits(Ipv4Addr::new(127, 200, 0, 1).to_bits() + number);
        let endpoints: Vec<_> = (0..endpoints).map(|number| (format!("pod-{number}"), address(number), true)).collect();
        let objects = ServiceObjects {
            name: "large",
            namespace: "shop",
            cluster_ip: Some(mesh.cluster_ip("large")),
            port_name: "http",
            port: 80,
            target_port: 1,
            app_protocol: None,
            endpoints: &endpoints,
        };
        mesh.manifests().write("large", &objects.yaml());
    };
    let known = async |endpoints: u32| {
        until("the sidecar knows the endpoints", async || {
            let config = caller.proxy().ask("/config").await?.text();
            let seen = config.matches("\"pod\"").count();
            ensure(seen == endpoints as usize, || format!("it knows {seen}"))
        })
        .await;
    };
    write(1);
    mesh.gets(&caller, "http://large/", 502).await;
    known(1).await;
    let process = caller.proxy().process();
    let before = process.resident_memory();
    write(ENDPOINTS);
    known(ENDPOINTS).await;
    mesh.gets(&caller, "http://large/", 502).await;
    let held = process.resident_memory().saturating_sub(before);
    assert!(held < u64::from(ENDPOINTS) * ENDPOINT + LEFT_OVER, "{} bytes for each endpoint", held / u64::from(ENDPOINTS));
    write(1);
    known(1).await;
    falls_below(process, before + LEFT_OVER).await;
}

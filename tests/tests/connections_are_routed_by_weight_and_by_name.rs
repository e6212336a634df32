//! TCPRoutes and TLSRoutes: each connection goes to one backend, by weight, and for TLS by the name that its client asks for.

use std::collections::BTreeMap;

use weir_tests::prelude::*;
use weir_tests::raw::{Raw, client_hello};

/// A mesh with two TCP servers that say who they are, a Service `front` in front of them, and its route.
async fn routed(kind: &str, spec: &str) -> (Mesh, Workload, [Workload; 2]) {
    let mesh = Mesh::start().await;
    let server = |name: &'static str| mesh.workload(name).app(App::TcpServerFirst(format!("{name}\n"))).start();
    let (caller, one, two) = tokio::join!(mesh.caller(), server("one"), server("two"));
    mesh.service("one").port(9000, "tcp").backed_by([&one]).apply();
    mesh.service("two").port(9000, "tcp").backed_by([&two]).apply();
    mesh.service("front").port(9000, if kind == "TLSRoute" { "tls" } else { "tcp" }).apply();
    write_route(&mesh, kind, "front", spec);
    (mesh, caller, [one, two])
}

fn write_route(mesh: &Mesh, kind: &str, name: &str, spec: &str) {
    let parent = "parentRefs: [{group: '', kind: Service, name: front, port: 9000}]";
    mesh.manifests().write(
        &format!("{kind}-{name}"),
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  {parent}\n  {spec}\n"
        ),
    );
}

/// Opens a tunnel to the Service and says `first`. The first line that comes back says who serves; empty: the mesh closed it.
async fn who(caller: &Workload, first: &[u8]) -> String {
    let mut raw = Raw::connect(caller.client().address()).await;
    raw.write("CONNECT front:9000 HTTP/1.1\r\nhost: front:9000\r\n\r\n").await;
    let head = raw.head().await;
    if !head.starts_with("HTTP/1.1 200") {
        return head;
    }
    raw.write(first).await;
    raw.line().await.unwrap_or_default()
}

/// Waits until connections that say `first` are served by `wanted`.
async fn served_by(caller: &Workload, first: &[u8], wanted: &str) {
    until("the route is in force", async || {
        let seen = who(caller, first).await;
        ensure(seen == wanted, || format!("served by {seen:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tcp_route_splits_connections_by_weight() {
    let weights = |one: u32, two: u32| {
        format!("rules: [{{backendRefs: [{{name: one, port: 9000, weight: {one}}}, {{name: two, port: 9000, weight: {two}}}]}}]")
    };
    let (mesh, caller, _servers) = routed("TCPRoute", &weights(1, 0)).await;
    served_by(&caller, b"", "one").await;
    write_route(&mesh, "TCPRoute", "front", &weights(3, 1));
    served_by(&caller, b"", "two").await;
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..400 {
        *seen.entry(who(&caller, b"").await).or_default() += 1;
    }
    // A quarter of 400 is 100; six standard deviations to either side.
    let two = seen.get("two").copied().unwrap_or_default();
    assert!(seen.len() == 2 && (48..=152).contains(&two), "{seen:?}");
    let carried = [("service", "front"), ("backend", "shop/two:9000"), ("tls", "mutual")];
    caller.proxy().counts("weir_tcp_connections_total", &carried, f64::from(two)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_share_of_a_backend_that_does_not_exist_is_refused_with_its_reason() {
    let (mesh, caller, _servers) = routed("TCPRoute", "rules: [{backendRefs: [{name: one, port: 9000}]}]").await;
    served_by(&caller, b"", "one").await;
    write_route(&mesh, "TCPRoute", "front", "rules: [{backendRefs: [{name: nobody, port: 9000}]}]");
    until("the new backend is refused", async || {
        let head = who(&caller, b"").await;
        ensure(head.starts_with("HTTP/1.1 500") && head.contains("invalid-backend") && head.contains("shop/nobody"), || head)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_route_goes_by_the_name_that_the_client_asks_for_and_leaves_the_bytes_alone() {
    let wide = "hostnames: ['*.example.com']\n  rules: [{backendRefs: [{name: one, port: 9000}]}]";
    let (mesh, caller, _servers) = routed("TLSRoute", wide).await;
    served_by(&caller, &client_hello("any.example.com"), "one").await;
    write_route(&mesh, "TLSRoute", "exact", "hostnames: [db.example.com]\n  rules: [{backendRefs: [{name: two, port: 9000}]}]");
    served_by(&caller, &client_hello("db.example.com"), "two").await;
    assert_eq!(who(&caller, &client_hello("other.example.com")).await, "one");

    // What the client said arrives as it was said: the server echoes it after its greeting.
    let hello = client_hello("db.example.com");
    let mut raw = Raw::tunnel(caller.client().address(), "front:9000").await;
    // In two pieces, of which the first does not say the name yet.
    raw.write(&hello[..20]).await;
    raw.write(&hello[20..]).await;
    raw.until("two\n").await;
    assert_eq!(raw.exactly(hello.len()).await, hello);

    // A name that no route is for, no name, and no TLS at all.
    let refused = async |first: &[u8]| {
        let before = caller.metrics().await.sum("weir_mesh_errors_total", &[("reason", "no-route")]);
        assert_eq!(who(&caller, first).await, "");
        caller.proxy().counts("weir_mesh_errors_total", &[("reason", "no-route")], before + 1.0).await;
    };
    refused(&client_hello("example.org")).await;
    refused(&client_hello("10.0.0.1")).await;
    refused(b"this is no TLS\r\n\r\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_more_specific_kind_of_route_takes_the_port_and_the_other_is_told() {
    let (mesh, caller, _servers) = routed("TCPRoute", "rules: [{backendRefs: [{name: one, port: 9000}]}]").await;
    served_by(&caller, b"", "one").await;
    write_route(&mesh, "TCPRoute", "later", "rules: [{backendRefs: [{name: two, port: 9000}]}]");
    mesh.control_plane().logs(&["TCPRoute", "shop/later", "Conflicted"]).await;
    assert_eq!(who(&caller, b"").await, "one");
}

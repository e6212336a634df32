//! A proxy's memory and its control stream depend on what its workload calls, not on the size of the mesh.

use weir_tests::address;
use weir_tests::manifest::ServiceObjects;
use weir_tests::prelude::*;

/// Services that are added beside the three that are called.
const OTHERS: u16 = 4000;
/// Services a file.
const PER_FILE: u16 = 500;
/// What a proxy may grow by meanwhile, in bytes: noise of an allocator, far below what it would take to know them all.
const GROWTH: u64 = 5 << 20;

fn write_others(mesh: &Mesh) {
    let home = address::loopback();
    for file in 0..OTHERS / PER_FILE {
        let numbers = file * PER_FILE..(file + 1) * PER_FILE;
        let services = numbers.map(|number| {
            let [high, low] = number.to_be_bytes();
            let objects = ServiceObjects {
                name: &format!("other-{number}"),
                namespace: "shop",
                cluster_ip: Some([10, 97, high, low].into()),
                port_name: "http",
                port: 80,
                target_port: 8080,
                app_protocol: None,
                endpoints: &[(format!("pod-{number}"), home, true)],
            };
            objects.yaml()
        });
        mesh.manifests().write(&format!("others-{file}"), &services.collect::<Vec<_>>().join("---\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_services_that_nobody_calls_cost_a_proxy_nothing() {
    let mesh = Mesh::start().await;
    let (caller, _a, _b, _c) = tokio::join!(mesh.caller(), mesh.backend("a"), mesh.backend("b"), mesh.backend("c"));
    let call_all = async || {
        for _ in 0..50 {
            for name in ["a", "b", "c"] {
                mesh.reaches(&caller, &format!("http://{name}/")).await;
            }
        }
    };
    call_all().await;
    let memory = caller.proxy().process().peak_memory();
    let pushes = mesh.control_plane().metrics().await.sum("weir_control_plane_pushes_total", &[]);
    let version = caller.metrics().await.sum("weir_config_version", &[]);

    write_others(&mesh);
    until("the control plane knows all services", async || {
        let objects = mesh.control_plane().metrics().await.sum("weir_control_plane_objects", &[]);
        ensure(objects >= f64::from(OTHERS) * 2.0, || format!("it knows {objects} objects"))
    })
    .await;
    call_all().await;

    let grown = caller.proxy().process().peak_memory() - memory;
    assert!(grown < GROWTH, "the proxy grew by {grown} bytes");
    assert_eq!(caller.metrics().await.sum("weir_config_version", &[]), version, "it was told of services that it does not call");
    let sent = mesh.control_plane().metrics().await.sum("weir_control_plane_pushes_total", &[]) - pushes;
    assert!(sent.abs() < 0.5, "{sent} messages were sent of services that nobody calls");
    // And the day it is called, any of them is known.
    let answer = caller.client().get("http://other-3999/").await;
    assert_eq!(answer.made_by_mesh(502, "outbound").reason, "connect-failed");
}

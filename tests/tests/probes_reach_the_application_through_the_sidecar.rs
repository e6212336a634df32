//! The kubelet's probes say how the application is, whatever policy and redirection do with everybody else's connections.

use std::net::{IpAddr, Ipv4Addr};

use weir_tests::metrics::Metrics;
use weir_tests::prelude::*;
use weir_tests::sandbox::{POD, Sandbox};

const STRICT: &[(&str, &str)] = &[("weir.dev/mtls", "strict")];
const PROBES: &str = r#"{
    "app/startup": {"tcpSocket": {"port": 8080}, "portName": "web"},
    "app/readiness": {"httpGet": {"port": 8080, "path": "/status/204"}},
    "app/liveness": {"httpGet": {"port": 8080, "path": "/status/500"}},
    "app/post-start": {"httpGet": {"port": 8080, "path": "/hook", "httpHeaders": [{"name": "X-Hook", "value": "start"}]}},
    "other/startup": {"tcpSocket": {"port": 8081}}
}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_pass_under_strict_policy_and_end_with_the_application() {
    let sandbox = Sandbox::meshed(STRICT, &[("WEIR_PROBES", PROBES)]).await;
    let mut app = App::http("app").serve(sandbox.pod.listen((Ipv4Addr::UNSPECIFIED, 8080).into()));
    let probe = async |name: &str| {
        let answer = sandbox.admin(POD[0], &format!("/probe/{name}")).await.unwrap();
        (answer.status.as_u16(), answer.text())
    };
    assert_eq!(probe("app/startup").await.0, 200);
    assert_eq!(probe("app/readiness").await.0, 200);
    assert_eq!(probe("app/liveness").await, (500, "the application answered 500: as asked\n".into()));
    assert_eq!(probe("app/post-start").await.0, 200);
    assert_eq!(app.requests("/hook"), 1);
    assert_eq!(probe("app/pre-stop").await.0, 404, "only what was set is asked");

    // A plaintext request of anybody else, the kubelet included, does not get in.
    let answer = sandbox.host.get((POD[0], 8080).into(), "/").await.unwrap();
    assert_eq!(answer.made_by_mesh(403, "inbound").reason, "plaintext-refused");
    // The probes have not passed the inbound side, where they would have been counted.
    let metrics = Metrics::parse(&sandbox.admin(POD[0], "/metrics").await.unwrap().text()).unwrap();
    assert!(metrics.sum("weir_http_requests_total", &[("direction", "inbound"), ("status", "200")]) < 0.5);

    app.kill().await;
    let refused = "connection refused on 10.1.0.2:8080 (port web): the application is not listening there\n";
    until("the probe finds the application gone", async || {
        let said = probe("app/startup").await;
        ensure(said == (503, refused.into()), || format!("{said:?}"))
    })
    .await;
    assert_eq!(probe("other/startup").await.0, 503, "nobody has ever listened there");
    // Which a TCP probe of the kubelet's own would not have found: the sidecar accepts what is redirected.
    assert!(sandbox.host.connect((POD[0], 8081).into()).is_ok());
    sandbox.sidecar().logs(&["app/startup", "the application's probe fails", "connection refused"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sidecar_holds_is_shown_in_its_own_pod_only() {
    let sandbox = Sandbox::meshed(&[], &[("WEIR_PROBES", PROBES)]).await;
    for page in ["/config", "/clusters", "/certs"] {
        for (asker, pod, status) in [
            (&sandbox.host, POD[0], 403),
            (&sandbox.host, POD[1], 403),
            (&sandbox.pod, POD[0], 200),
            (&sandbox.pod, POD[1], 200),
            (&sandbox.pod, IpAddr::from([127, 0, 0, 1]), 200),
        ] {
            let answer = asker.get((pod, 15420).into(), page).await.unwrap();
            assert_eq!(answer.status, status, "{page} at {pod}: {}", answer.text());
        }
    }
    for page in ["/ready", "/live", "/metrics"] {
        for pod in POD {
            assert_eq!(sandbox.admin(pod, page).await.unwrap().status, 200, "{page} at {pod}");
        }
    }
}

//! An application that listens on one address only is reached there and nowhere else, as without a mesh.

use std::net::IpAddr;

use weir_tests::prelude::*;
use weir_tests::raw::Raw;
use weir_tests::sandbox::{POD, Sandbox};

const PROBES: &str = r#"{"app/readiness": {"httpGet": {"port": 8080}}, "app/liveness": {"tcpSocket": {"port": 8080}}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_listens_on_localhost_is_not_exposed_by_the_mesh() {
    let sandbox = Sandbox::meshed(&[], &[("WEIR_PROBES", PROBES)]).await;
    let app = App::http("app").serve(sandbox.pod.listen("127.0.0.1:8080".parse().unwrap()));
    // Neither by HTTP, where the answer says why, nor by bytes.
    let answer = sandbox.host.get((POD[0], 8080).into(), "/").await.unwrap();
    let error = answer.made_by_mesh(502, "inbound");
    assert_eq!(error.reason, "connect-failed", "{error:?}");
    assert!(error.detail.contains("10.1.0.2:8080"), "{error:?}");
    let mut raw = Raw::over(sandbox.host.connect((POD[0], 8080).into()).unwrap());
    assert_eq!(raw.exchange("no http\r\n\r\n").await, "");
    // The kubelet would not have reached it either.
    for probe in ["readiness", "liveness"] {
        assert_eq!(sandbox.admin(POD[0], &format!("/probe/app/{probe}")).await.unwrap().status, 503, "{probe}");
    }
    assert_eq!(app.accepted(), 0);
    // The pod itself reaches it.
    let answer = sandbox.pod.get((IpAddr::from([127, 0, 0, 1]), 8080).into(), "/").await.unwrap();
    assert_eq!(answer.app(), "app");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_listens_on_the_pods_address_only_is_reached_there() {
    let sandbox = Sandbox::meshed(&[], &[("WEIR_PROBES", PROBES)]).await;
    let _app = App::http("app").serve(sandbox.pod.listen((POD[0], 8080).into()));
    assert_eq!(sandbox.host.get((POD[0], 8080).into(), "/").await.unwrap().app(), "app");
    assert_eq!(sandbox.pod.get((POD[0], 8080).into(), "/").await.unwrap().app(), "app");
    for probe in ["readiness", "liveness"] {
        assert_eq!(sandbox.admin(POD[0], &format!("/probe/app/{probe}")).await.unwrap().status, 200, "{probe}");
    }
    let refused = sandbox.pod.connect((IpAddr::from([127, 0, 0, 1]), 8080).into());
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

//! Headless Services, StatefulSets, pod addresses, IPv6, and applications that listen on one address only.

use std::net::IpAddr;

use serde_json::json;
use weir_tests::cluster::objects::service;
use weir_tests::cluster::{App, Scenario, until};
use weir_tests::wait::ensure;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn the_pods_of_a_stateful_set_are_reached_by_name_and_by_address() {
    let scenario = Scenario::begin("stateful").await;
    let mut headless = service("db");
    headless["spec"]["clusterIP"] = "None".into();
    headless["spec"]["ports"][0]["port"] = 8080.into();
    scenario.apply(&[headless]).await;
    scenario.apply(&App::serving("db").replicas(2).annotation("weir.dev/mtls", "strict").stateful_set()).await;
    let outside = App::idle("outside").label("weir.dev/inject", "disabled");
    scenario.deploy(&[App::idle("caller"), outside]).await;
    scenario.rolled_out("statefulset/db").await;
    let namespace = scenario.namespace().to_owned();
    for pod in scenario.pods("app=db").await {
        let urls = [
            format!("http://{}.db.{namespace}.svc.cluster.local:8080/", pod.name()),
            format!("http://{}.db:8080/", pod.name()),
            format!("http://{}:8080/", pod.address()),
        ];
        for url in urls {
            let seen = scenario.seen("caller", &[&url]).await;
            assert_eq!(seen["hostname"], pod.name(), "{url}");
            assert_eq!(seen["headers"]["weir-client-id"], json!([scenario.identity("caller")]), "{url}: {seen}");
        }
        let refused = scenario.call("outside", &[&format!("http://{}:8080/", pod.address())]).await;
        assert!(refused.is_err_and(|error| error.contains("plaintext-refused")), "who is not of the mesh stays outside");
    }
    let seen = scenario.seen("caller", &["http://db:8080/"]).await;
    assert_eq!(seen["headers"]["weir-client-id"], json!([scenario.identity("caller")]), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn an_application_on_one_address_only_is_reached_exactly_as_without_a_mesh() {
    let scenario = Scenario::begin("listeners").await;
    let app = |name: &str, bind: &str| App::idle(name).arg("--bind").arg(bind);
    let outside = |app: App| app.label("weir.dev/inject", "disabled");
    let all = [
        app("local", "127.0.0.1"),
        app("address", "pod"),
        outside(app("plain-local", "127.0.0.1")),
        outside(app("plain-address", "pod")),
        App::idle("caller"),
        outside(App::idle("stranger")),
    ];
    scenario.deploy(&all).await;
    for caller in ["caller", "stranger"] {
        for (name, reachable) in [("local", false), ("plain-local", false), ("address", true), ("plain-address", true)] {
            let url = format!("http://{}:8080/hostname", scenario.pod_of(name).await.address());
            if reachable {
                until(&format!("{caller} reaches {name}"), async || scenario.call(caller, &[&url]).await).await;
            } else {
                let answer = scenario.call(caller, &[&url]).await;
                assert!(answer.is_err(), "{caller} reached {name}, which listens on localhost only: {answer:?}");
            }
        }
    }
    // The application and its pod's own localhost see no difference either.
    assert!(scenario.call("local", &["http://127.0.0.1:8080/hostname"]).await.is_ok());
    assert!(scenario.call("address", &["http://127.0.0.1:8080/hostname"]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn raw_tcp_and_servers_that_speak_first_pass_from_pod_to_pod() {
    let scenario = Scenario::begin("tcp").await;
    let app = App::running("broker", &["serve", "--name", "broker", "--http", "8080", "--tcp", "9000", "--banner", "9001"]);
    let ports = json!([{"name": "tcp", "port": 9000}, {"name": "unsaid", "port": 9001}, {"name": "grpc", "port": 8080}]);
    let service = weir_tests::cluster::objects::service_for("broker", &json!({"app": "broker"}), &ports);
    scenario.apply(&[service]).await;
    scenario.deploy(&[app.annotation("weir.dev/mtls", "strict"), App::idle("caller")]).await;
    for url in ["tcp://broker:9000/words", "banner://broker:9001/", "grpc://broker:8080/words"] {
        until(&format!("{url} is answered"), async || scenario.call("caller", &[url]).await).await;
    }
    let metrics = scenario.pod_of("broker").await.metrics().await.unwrap();
    assert!(metrics.sum("weir_tcp_connections_total", &[("direction", "inbound"), ("tls", "mutual")]) >= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_service_of_ipv6_is_reached_over_mutual_tls() {
    let scenario = Scenario::begin("ipv6").await;
    let mut six = service("catalog");
    six["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    six["spec"]["ipFamilies"] = json!(["IPv6"]);
    scenario.apply(&[six]).await;
    scenario.deploy(&[App::serving("catalog").annotation("weir.dev/mtls", "strict"), App::idle("caller")]).await;
    let addresses = scenario.pod_of("catalog").await.addresses();
    let address = addresses.iter().find(|address| address.is_ipv6());
    let address = address.unwrap_or_else(|| panic!("the cluster has two families, and the pod has {addresses:?}"));
    let cluster_ip = scenario.kubectl(&["get", "service", "catalog", "-o", "jsonpath={.spec.clusterIP}"]).await;
    assert!(cluster_ip.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()), "{cluster_ip}");
    for url in ["http://catalog/".to_owned(), format!("http://[{cluster_ip}]/"), format!("http://[{address}]:8080/")] {
        let seen = scenario.seen("caller", &[&url]).await;
        assert_eq!(seen["headers"]["weir-client-id"], json!([scenario.identity("caller")]), "{url}: {seen}");
    }
    until("the route to IPv6 was secured", async || {
        let metrics = scenario.pod_of("catalog").await.metrics().await?;
        let secured = metrics.sum("weir_http_requests_total", &[("direction", "inbound"), ("tls", "mutual")]);
        ensure(secured >= 3.0, || format!("{secured} requests were"))
    })
    .await;
}

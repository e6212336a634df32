use std::sync::PoisonError;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use weir_core::snapshot::Snapshot;
use weir_proto::v1;

use super::*;
use crate::control::decode;
use crate::metrics::Metrics;
use crate::shared::{ClusterView, WorkerQuestion};

fn shared() -> Arc<Shared> {
    let flags = [
        "weir-proxy",
        "--pod-name=web-1",
        "--pod-namespace=shop",
        "--service-account=web",
        "--pod-ip=127.0.0.9",
        "--control-plane=127.0.0.1:1",
        "--trust-bundle=/none",
        "--token=/none",
        "--admin-listen=127.0.0.1:0",
        "--workers=1",
    ];
    Arc::new(Shared::new(Settings::read(flags).unwrap(), Metrics::new().unwrap()))
}

fn started(shared: &Arc<Shared>) -> SocketAddr {
    let listener = bind(&shared.settings).unwrap();
    let address = listener[0].local_addr().unwrap();
    drop(tokio::spawn(serve(Arc::clone(shared), listener)));
    address
}

async fn send(address: SocketAddr, bytes: &[u8]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    send(address, format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes()).await
}

fn resource(kind: v1::ResourceKind, name: &str, body: v1::resource::Body) -> v1::Resource {
    v1::Resource { name: Some(v1::ResourceName { kind: kind.into(), name: name.into() }), version: "1".into(), body: Some(body) }
}

fn snapshot() -> Snapshot {
    let name = v1::ServiceName { namespace: "shop".into(), name: "reviews".into() };
    let backend = v1::BackendName { service: Some(name.clone()), port: 80 };
    let rule = v1::HttpRule {
        route: Some(v1::RouteName { kind: 0, namespace: "shop".into(), name: "canary".into() }),
        backends: vec![v1::WeightedBackend { backend: Some(backend.clone()), weight: 90, ..v1::WeightedBackend::default() }],
        request_timeout_ms: Some(1500),
        ..v1::HttpRule::default()
    };
    let routes = Some(v1::HttpRoutes { rules: vec![rule] });
    let port = v1::ServicePort { port: 80, http_routes: routes, ..v1::ServicePort::default() };
    let service = v1::Service { name: Some(name), addresses: vec!["10.96.0.1".into()], ports: vec![port] };
    let endpoint = v1::Endpoint {
        address: "10.0.0.1:8080".into(),
        identity: "spiffe://cluster.local/ns/shop/sa/reviews".into(),
        pod: "reviews-1".into(),
        ..v1::Endpoint::default()
    };
    let endpoints = v1::Endpoints { name: Some(backend), endpoints: vec![endpoint], ..v1::Endpoints::default() };
    let trust = v1::TrustBundle { trust_domain: "cluster.local".into(), roots: vec![vec![1].into()], generation: 0 };
    let updated = vec![
        resource(v1::ResourceKind::Service, "shop/reviews", v1::resource::Body::Service(service)),
        resource(v1::ResourceKind::Endpoints, "shop/reviews:80", v1::resource::Body::Endpoints(endpoints)),
        resource(v1::ResourceKind::Inbound, "", v1::resource::Body::Inbound(v1::Inbound::default())),
        resource(v1::ResourceKind::Trust, "", v1::resource::Body::Trust(trust)),
    ];
    let response = v1::DiscoveryResponse { updated, ..v1::DiscoveryResponse::default() };
    Snapshot::default().apply(decode::update(&response).unwrap()).unwrap()
}

#[tokio::test]
async fn readiness_names_every_reason_against_it() {
    let shared = shared();
    let address = started(&shared);
    let (status, _, body) = ask(address, "GET", "/ready").await;
    assert_eq!(status, 503);
    for reason in ["worker", "certificate", "trust bundle", "inbound policy"] {
        assert!(body.contains(reason), "{reason}: {body}");
    }
    shared.snapshot.store(Arc::new(snapshot()));
    shared.lifecycle.worker_listens();
    let (status, _, body) = ask(address, "GET", "/ready").await;
    assert_eq!((status, body.matches("\n- ").count()), (503, 1), "{body}");
    shared.lifecycle.drain();
    assert!(ask(address, "GET", "/ready").await.2.contains("draining"));
    assert_eq!(ask(address, "GET", "/live").await.0, 200);
}

#[tokio::test]
async fn the_configuration_is_shown_whole() {
    let shared = shared();
    shared.snapshot.store(Arc::new(snapshot()));
    let (status, head, body) = ask(started(&shared), "GET", "/config").await;
    assert!(status == 200 && head.contains("content-type: application/json"), "{head}");
    let page: Value = serde_json::from_str(&body).unwrap();
    let rule = &page["services"]["shop/reviews"]["ports"][0]["rules"][0];
    assert_eq!(rule["route"], "HTTPRoute shop/canary rule 0");
    assert_eq!((&rule["backends"][0]["weight"], &rule["requestTimeoutSeconds"]), (&90.into(), &1.5.into()));
    assert_eq!(page["endpoints"]["shop/reviews:80"][0]["address"], "10.0.0.1:8080");
    assert_eq!((&page["inbound"]["mtls"], &page["connected"]), (&"permissive".into(), &false.into()));
}

#[tokio::test]
async fn workers_are_asked_and_a_silent_one_is_counted() {
    let shared = shared();
    let (good, mut questions) = mpsc::channel(1);
    let (dead, _) = mpsc::channel(1);
    shared.workers.lock().unwrap_or_else(PoisonError::into_inner).extend([good, dead]);
    tokio::spawn(async move {
        while let Some(WorkerQuestion::Clusters(reply)) = questions.recv().await {
            let view = ClusterView { backend: "shop/reviews:80".into(), worker: 0, endpoints: Vec::new() };
            let _ = reply.send(vec![view]);
        }
    });
    let (_, _, body) = ask(started(&shared), "GET", "/clusters").await;
    let page: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(page["clusters"][0]["backend"], "shop/reviews:80");
    assert_eq!(page["workersThatDidNotAnswer"], 1);
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let (status, head, body) = ask(started(&shared()), "GET", "/metrics").await;
    assert!(status == 200 && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("# TYPE weir_config_version gauge\n"), "{body}");
}

#[tokio::test]
async fn what_is_not_there_is_said_with_what_is() {
    let address = started(&shared());
    let (status, _, body) = ask(address, "GET", "/nothing").await;
    assert!(status == 404 && body.contains("/metrics"), "{body}");
    let (status, head, _) = ask(address, "POST", "/ready").await;
    assert!(status == 405 && head.contains("allow: get, head"), "{head}");
    let (status, head, _) = ask(address, "GET", "/drain").await;
    assert!(status == 405 && head.contains("allow: post"), "{head}");
    assert_eq!(ask(address, "HEAD", "/live").await.2, "");
}

#[tokio::test]
async fn a_drain_is_taken_from_this_machine_and_from_no_web_page() {
    let shared = shared();
    let address = started(&shared);
    let page = b"POST /drain HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(send(address, page).await.0, 403);
    let rebound = b"POST /drain HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(send(address, rebound).await.0, 403);
    assert!(!*shared.lifecycle.draining().borrow());
    assert_eq!(ask(address, "POST", "/drain").await.0, 202);
    assert!(*shared.lifecycle.draining().borrow());
}

#[tokio::test]
async fn a_head_that_is_too_large_and_bytes_that_are_not_http_are_refused() {
    let address = started(&shared());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(4 * MAX_HEAD)).as_bytes()).await;
    let mut answer = Vec::new();
    // The connection may be reset before the answer has been read: what was sent is not read to its end.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    let (status, _, _) = send(address, b"\x16\x03\x01 not http\r\n\r\n").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_with_its_setting() {
    let taken = StdListener::bind("127.0.0.1:0").unwrap();
    let mut settings = shared().settings.clone();
    settings.admin_listen = taken.local_addr().unwrap();
    let said = bind(&settings).unwrap_err().to_string();
    assert!(said.contains("WEIR_ADMIN_LISTEN") && said.contains(&settings.admin_listen.to_string()), "{said}");
}

fn with_probes(probes: &str) -> Arc<Shared> {
    let mut settings = shared().settings.clone();
    settings.probes = probes.parse().unwrap();
    settings.workload.pod_ips = vec![IpAddr::from([127, 0, 0, 1])];
    Arc::new(Shared::new(settings, Metrics::new().unwrap()))
}

#[tokio::test]
async fn probes_of_the_application_are_asked_and_no_others() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = app.local_addr().unwrap().port();
    let get = format!(r#"{{"httpGet": {{"port": {port}}}}}"#);
    let shared = with_probes(&format!(r#"{{"app/readiness": {get}, "app/startup": {{"tcpSocket": {{"port": {port}}}}}}}"#));
    let address = started(&shared);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = app.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 1024];
                if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    stream.write_all(b"HTTP/1.1 418 I\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
                }
            });
        }
    });
    assert_eq!(ask(address, "GET", "/probe/app/startup").await.0, 200);
    let (status, _, body) = ask(address, "GET", "/probe/app/readiness").await;
    assert_eq!((status, body.as_str()), (418, "the application answered 418: no\n"));
    for path in ["/probe/app/liveness", "/probe/other/readiness", "/probe/", "/probe", "/probe/app/readiness/"] {
        assert_eq!(ask(address, "GET", path).await.0, 404, "{path}");
    }
    assert_eq!(ask(address, "POST", "/probe/app/startup").await.0, 405);
}

#[tokio::test]
async fn a_hook_that_reaches_nobody_is_not_answered_since_any_answer_is_success() {
    let nobody = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let shared = with_probes(&format!(r#"{{"app/pre-stop": {{"httpGet": {{"port": {nobody}}}}}}}"#));
    let mut stream = TcpStream::connect(started(&shared)).await.unwrap();
    stream.write_all(b"GET /probe/app/pre-stop HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(shared.lifecycle.open(), 0);
}

#[tokio::test]
async fn what_the_proxy_holds_is_shown_to_its_own_pod_only() {
    let shared = shared();
    for (peer, own) in [("127.0.0.1", true), ("::1", true), ("::ffff:127.0.0.1", true), ("127.0.0.9", true), ("10.0.0.1", false)]
    {
        assert_eq!(is_own(&shared, peer.parse().unwrap()), own, "{peer}");
    }
}

#[tokio::test]
async fn redirection_that_is_expected_keeps_the_proxy_from_being_ready() {
    let mut settings = shared().settings.clone();
    settings.expect_redirection = true;
    let shared = Arc::new(Shared::new(settings, Metrics::new().unwrap()));
    let address = started(&shared);
    assert!(ask(address, "GET", "/ready").await.2.contains("not redirected"));
    shared.redirected.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(!ask(address, "GET", "/ready").await.2.contains("not redirected"));
}

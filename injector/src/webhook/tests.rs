use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::certificate::stored::Stored;
use crate::certificate::{Shown, make};
use crate::review::MAX_REVIEW_BYTES;
use crate::run::tls;
use crate::testing::{Server, namespace};

/// An injector on a port of the loopback interface, and its API server.
struct Injector {
    address: SocketAddr,
    connector: TlsConnector,
    api: Server,
    readiness: Arc<Readiness>,
    finish: CancellationToken,
    served: JoinHandle<()>,
}

fn path(name: &str) -> String {
    format!("/api/v1/namespaces/{name}")
}

async fn injector() -> Injector {
    let api = Server::default();
    api.put(&path("shop"), namespace("shop", &json!({"weir.dev/inject": "enabled", "other": "x"})));
    api.put(&path("plain"), namespace("plain", &json!({})));
    let (namespaces, follow) = Namespaces::watched(&api.client());
    tokio::spawn(follow);
    namespaces.complete().await;
    api.calls();

    let data = make::authority(&[], &["injector.test".to_owned()], std::time::SystemTime::now()).unwrap();
    let served = Stored::read(&data, true).served().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(served.anchors[0].clone()).unwrap();
    let shown = Arc::new(Shown::default());
    shown.show(served);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

    let readiness = Arc::new(Readiness::default());
    let webhook = Webhook {
        installation: Arc::new(ArcSwap::from_pointee(Installation::default())),
        namespaces,
        readiness: Arc::clone(&readiness),
        metrics: Metrics::new().unwrap(),
        budget: Budget::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let finish = CancellationToken::new();
    let served = tokio::spawn(serve(listener, Arc::new(tls(&shown).unwrap()), webhook, finish.clone()));
    Injector { address, connector: TlsConnector::from(Arc::new(client)), api, readiness, finish, served }
}

struct Answered {
    status: StatusCode,
    closes: bool,
    text: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn response(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()["response"].clone()
    }
}

impl Injector {
    async fn connect(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        self.connector.connect(ServerName::try_from("injector.test").unwrap(), tcp).await.unwrap()
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answered {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let closes = response.headers().get("connection").is_some_and(|it| it == "close");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answered { status, closes, text: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn get(&self, path: &str) -> Answered {
        self.send(Request::get(path).header("host", "injector").body(Full::default()).unwrap()).await
    }

    async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answered {
        let request = Request::post(path).header("host", "injector").header("content-type", "application/json");
        self.send(request.body(Full::new(body.into())).unwrap()).await
    }

    async fn create(&self, path: &str, namespace: &str, pod: Value) -> Answered {
        self.post(path, review(namespace, "CREATE", pod).to_string()).await
    }

    async fn metric(&self, line: &str) -> bool {
        let text = self.get("/metrics").await.text;
        text.lines().any(|it| it == line)
    }
}

fn review(namespace: &str, operation: &str, object: Value) -> Value {
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": kind, "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": kind, "operation": operation, "namespace": namespace, "dryRun": false, "options": {"kind": "CreateOptions"},
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"}, "object": object, "oldObject": null,
        },
    })
}

fn pod(annotations: Value) -> Value {
    json!({"metadata": {"generateName": "web-", "annotations": annotations}, "spec": {"containers": [{"name": "app"}]}})
}

#[tokio::test]
async fn a_pod_is_injected_by_its_namespaces_label() {
    let injector = injector().await;
    let response = injector.create("/mutate", "shop", pod(Value::Null)).await.response();
    assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    assert_eq!(injector.api.calls(), [""; 0], "the watch knows the namespace");
    assert!(injector.metric("weir_injector_requests_total{result=\"injected\",webhook=\"mutate\"} 1").await);
}

#[tokio::test]
async fn a_refused_pod_is_told_why() {
    let injector = injector().await;
    let response = injector.create("/mutate", "shop", pod(json!({"weir.dev/mtls": "yes"}))).await.response();
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(422)));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("weir.dev/mtls") && message.contains("permissive or strict"), "{message}");
}

#[tokio::test]
async fn only_the_creation_of_pods_is_looked_at() {
    let injector = injector().await;
    for operation in ["UPDATE", "DELETE", "CONNECT"] {
        let response = injector.post("/mutate", review("shop", operation, pod(Value::Null)).to_string()).await.response();
        assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null), "{operation}");
    }
    let mut ephemeral = review("shop", "CREATE", pod(Value::Null));
    ephemeral["request"]["subResource"] = json!("ephemeralcontainers");
    let response = injector.post("/mutate", ephemeral.to_string()).await.response();
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
}

#[tokio::test]
async fn a_namespace_that_the_watch_has_not_seen_is_asked_for() {
    let injector = injector().await;
    injector.api.put(&path("fresh"), namespace("fresh", &json!({"weir.dev/inject": "enabled"})));
    let response = injector.create("/mutate", "fresh", pod(Value::Null)).await.response();
    assert_eq!(response["patchType"], "JSONPatch");
    assert_eq!(injector.api.calls(), [format!("GET {}", path("fresh"))]);

    // One that there is not: the webhook's failurePolicy decides.
    let unknown = injector.create("/mutate", "gone", pod(Value::Null)).await;
    assert_eq!(unknown.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(unknown.json()["kind"], "Status");
    assert!(unknown.json()["message"].as_str().unwrap().contains("namespace `gone`"), "{}", unknown.text);
}

#[tokio::test]
async fn where_labels_and_the_watch_disagree_the_api_server_is_asked() {
    let injector = injector().await;
    // The label is so new that only the API server knows it.
    injector.api.put(&path("plain"), namespace("plain", &json!({"weir.dev/inject": "enabled"})));
    let response = injector.create("/mutate", "plain", pod(Value::Null)).await.response();
    assert_eq!(response["patchType"], "JSONPatch");
    assert_eq!(injector.api.calls().len(), 1);
    // And here it was taken away a moment ago.
    injector.api.put(&path("shop"), namespace("shop", &json!({})));
    let response = injector.create("/mutate/annotation", "shop", pod(Value::Null)).await.response();
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
    assert_eq!(injector.api.calls().len(), 1);
    // Without a disagreement nobody is asked.
    injector.create("/mutate/annotation", "plain", pod(Value::Null)).await.response();
    assert_eq!(injector.api.calls().len(), 0);
}

#[tokio::test]
async fn an_api_server_that_is_away_changes_nothing_for_known_namespaces() {
    let injector = injector().await;
    for name in ["shop", "plain"] {
        injector.api.fail(&path(name), 503);
    }
    assert_eq!(injector.create("/mutate", "shop", pod(Value::Null)).await.response()["patchType"], "JSONPatch");
    let unsure = injector.create("/mutate", "plain", pod(Value::Null)).await;
    assert_eq!(unsure.status, StatusCode::INTERNAL_SERVER_ERROR, "a pod without its sidecar is worse");
}

#[tokio::test]
async fn what_is_no_review_is_refused_with_a_reason() {
    let injector = injector().await;
    for (body, reason) in [
        (String::new(), "not an AdmissionReview"),
        ("{".to_owned(), "not an AdmissionReview"),
        ("[]".to_owned(), "admissionReviewVersions: [v1]"),
        (
            json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}).to_string(),
            "admissionReviewVersions: [v1]",
        ),
        (json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).to_string(), "no request"),
        (format!("{}1{}", "[".repeat(5000), "]".repeat(5000)), "not an AdmissionReview"),
    ] {
        for path in ["/mutate", "/mutate/annotation", "/validate"] {
            let answered = injector.post(path, body.clone()).await;
            assert_eq!(answered.status, StatusCode::BAD_REQUEST, "{body:.60}");
            assert!(answered.json()["message"].as_str().unwrap().contains(reason), "{}", answered.text);
        }
    }
    assert!(injector.metric("weir_injector_requests_total{result=\"malformed\",webhook=\"validate\"} 6").await);
}

#[tokio::test]
async fn bodies_and_types_have_bounds() {
    let injector = injector().await;
    let long = injector.post("/mutate", vec![b' '; MAX_REVIEW_BYTES + 1]).await;
    assert_eq!(long.status, StatusCode::PAYLOAD_TOO_LARGE);
    let yaml = Request::post("/mutate").header("host", "injector").header("content-type", "application/yaml");
    assert_eq!(injector.send(yaml.body(Full::default()).unwrap()).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(injector.get("/mutate").await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(injector.post("/ready", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(injector.get("/").await.status, StatusCode::NOT_FOUND);
    // A large pod is not a too large one.
    let large = pod(json!({"note": "x".repeat(2 * 1024 * 1024)}));
    assert_eq!(injector.create("/mutate", "shop", large).await.response()["patchType"], "JSONPatch");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let injector = injector().await;
    let mut connection = injector.connect().await;
    let head = format!("GET /live HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD_BYTES));
    // The server may stop reading before all of it is written.
    let _ = connection.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer).await;
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn ready_says_what_is_missing() {
    let injector = injector().await;
    assert_eq!(injector.get("/live").await.status, StatusCode::OK);
    let missing = injector.get("/ready").await;
    assert_eq!(missing.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(missing.text.contains("webhook configurations") && missing.text.contains("namespaces"), "{}", missing.text);
    injector.readiness.callable(None);
    injector.readiness.namespaces_are_read();
    injector.readiness.version_is_known();
    assert_eq!(injector.get("/ready").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_route_is_warned_of_and_never_refused() {
    let injector = injector().await;
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [{"filters": [{"type": "ExternalAuth"}]}]},
    });
    let mut review = review("shop", "CREATE", object);
    review["request"]["kind"] = json!({"group": "gateway.networking.k8s.io", "version": "v1", "kind": "HTTPRoute"});
    let response = injector.post("/validate", review.to_string()).await.response();
    assert_eq!(response["allowed"], true);
    let warnings = response["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("ExternalAuth"), "{warnings:?}");
}

#[tokio::test]
async fn the_last_requests_are_answered_before_the_end() {
    let injector = injector().await;
    assert!(!injector.get("/live").await.closes);
    // A connection that has sent half a request, and one that has sent nothing yet.
    let mut half = injector.connect().await;
    let body = review("shop", "CREATE", pod(Value::Null)).to_string();
    let head = format!("POST /mutate HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    let (first, rest) = body.split_at(20);
    half.write_all(format!("{head}{first}").as_bytes()).await.unwrap();
    half.flush().await.unwrap();
    let mut silent = injector.connect().await;
    injector.readiness.stop();
    assert!(injector.get("/live").await.closes, "the next request is to go elsewhere");
    injector.finish.cancel();
    half.write_all(rest.as_bytes()).await.unwrap();
    silent.write_all(b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    for connection in [&mut half, &mut silent] {
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer).await;
        assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    injector.served.await.unwrap();
    assert!(TcpStream::connect(injector.address).await.is_err());
}

#[tokio::test]
async fn api_servers_speak_http_1_to_it() {
    let injector = injector().await;
    let connection = injector.connect().await;
    assert_eq!(connection.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

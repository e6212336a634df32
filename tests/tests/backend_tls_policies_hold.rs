//! A BackendTLSPolicy from a directory: callers' sidecars begin TLS with servers outside the mesh, and believe whom it names.
#![expect(clippy::unwrap_used, reason = "a scenario ends by panicking; that is how it fails")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use weir_tests::prelude::*;
use weir_tests::raw::{Raw, client_hello};
use weir_tests::workload::POD_PORT;

/// An authority that only its own policy knows.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, names: &[SanType], expired: bool) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let hour = Duration::from_secs(3600);
        let mut params = CertificateParams::default();
        params.not_before = (SystemTime::now() - 2 * hour).into();
        params.not_after = (if expired { SystemTime::now() - hour } else { SystemTime::now() + hour }).into();
        params.subject_alt_names = names.to_vec();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// What a server has met.
#[derive(Debug, Default)]
struct Met {
    /// Connections that did not begin with TLS.
    plaintext: usize,
    /// Connections that were accepted.
    connections: usize,
    /// The names that were asked for, of handshakes that were completed.
    names: Vec<Option<String>>,
}

/// A server outside the mesh. On connections without ALPN it sends back whatever comes.
#[derive(Clone)]
struct Server {
    config: Arc<Mutex<Arc<ServerConfig>>>,
    met: Arc<Mutex<Met>>,
}

impl Server {
    async fn start(address: SocketAddr, config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let server = Self { config: Arc::new(Mutex::new(config)), met: Arc::default() };
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.met.lock().unwrap().connections += 1;
                let server = accepting.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        server
    }

    fn shows(&self, config: Arc<ServerConfig>) {
        *self.config.lock().unwrap() = config;
    }

    fn met<T>(&self, question: impl FnOnce(&Met) -> T) -> T {
        question(&self.met.lock().unwrap())
    }

    async fn serve(self, stream: TcpStream) -> Option<()> {
        let mut first = [0];
        // The first byte of a handshake record (RFC 8446, section 5.1).
        if stream.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        if first != [0x16] {
            self.met.lock().unwrap().plaintext += 1;
            return None;
        }
        let config = Arc::clone(&self.config.lock().unwrap());
        let mut stream = TlsAcceptor::from(config).accept(stream).await.ok()?;
        let (name, alpn) = {
            let tls = stream.get_ref().1;
            (tls.server_name().map(str::to_owned), tls.alpn_protocol().map(<[u8]>::to_vec))
        };
        self.met.lock().unwrap().names.push(name.clone());
        if alpn.is_none() {
            let mut buffer = [0; 1024];
            loop {
                let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
                stream.write_all(&buffer[..read]).await.ok()?;
                stream.flush().await.ok()?;
            }
        }
        let service = service_fn(move |request: Request<Incoming>| {
            let seen = json!({
                "name": name, "version": format!("{:?}", request.version()), "scheme": request.uri().scheme_str(),
                "host": request.headers().get("host").and_then(|it| it.to_str().ok()),
            });
            async move {
                let answer = Response::builder().header("x-app", "outside").body(Full::new(Bytes::from(seen.to_string())));
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await.ok()
    }
}

/// A caller in the mesh, and a server outside of it behind the Service `outside`.
async fn world(port_name: &str, config: Arc<ServerConfig>) -> (Mesh, Workload, Workload, Server) {
    let mesh = Mesh::start().await;
    let (caller, outside) =
        tokio::join!(mesh.workload("caller").one_worker().start(), mesh.workload("outside").outside_the_mesh().start());
    let server = Server::start(SocketAddr::new(outside.address().into(), POD_PORT), config).await;
    mesh.service("outside").port(443, port_name).backed_by([&outside]).apply();
    (mesh, caller, outside, server)
}

fn trust(mesh: &Mesh, name: &str, pem: &str) {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop"}, "data": {"ca.crt": pem},
    });
    mesh.manifests().write(&format!("config-map-{name}"), &object.to_string());
}

/// A policy for the Service `outside` that believes ConfigMap `ca`; `more` stands beside the host name.
fn policy(mesh: &Mesh, name: &str, hostname: &str, more: &Value) {
    let mut validation = json!({"hostname": hostname, "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]});
    validation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "outside"}], "validation": validation},
    });
    mesh.manifests().write(&format!("policy-{name}"), &object.to_string());
}

/// Waits until requests are refused with all these words.
async fn is_refused(mesh: &Mesh, caller: &Workload, words: &[&str]) {
    let refused = |answer: &Answer| {
        let error = answer.mesh_error().ok_or("the mesh did not refuse it")?;
        let holds = error.reason == "backend-tls-failed" && words.iter().all(|it| error.detail.contains(it));
        ensure(holds, || format!("{error:?}"))
    };
    assert_eq!(mesh.sees(caller, "http://outside:443/", refused).await.status, 502);
}

/// Waits for a policy's condition at its first target.
async fn is_told(mesh: &Mesh, name: &str, kind: &str, reason: &str, words: &[&str]) {
    until(&format!("policy {name} has the condition {kind}, {reason}"), async || {
        let answer = Client::to(mesh.control_plane().http()).try_get(&mesh.control_plane().url("/api/v1/policies")).await?;
        let all: Value = serde_json::from_str(&answer.text()).map_err(|error| error.to_string())?;
        let found = all.as_array().into_iter().flatten().find(|policy| policy["name"] == name);
        let conditions = found.and_then(|policy| policy["parents"][0]["conditions"].as_array().cloned()).unwrap_or_default();
        let holds = conditions.iter().any(|it| {
            let message = it["message"].as_str().unwrap_or_default();
            it["type"] == kind && it["reason"] == reason && words.iter().all(|word| message.contains(word))
        });
        ensure(holds, || format!("{conditions:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_sidecar_begins_tls_as_the_policy_says() {
    let authority = Authority::new();
    let config = authority.issue(&[dns("*.outside.example")], false);
    let (mesh, caller, _outside, server) = world("https", config).await;
    trust(&mesh, "ca", &authority.pem);
    policy(&mesh, "outside", "a.outside.example", &json!({}));
    let seen = mesh.reaches(&caller, "http://outside:443/").await.seen();
    assert_eq!(seen, json!({"name": "a.outside.example", "version": "HTTP/1.1", "scheme": null, "host": "outside:443"}));
    let seen = caller.client().h2().get("http://outside:443/").await.seen();
    assert_eq!((&seen["version"], &seen["scheme"]), (&json!("HTTP/2.0"), &json!("https")), "{seen}");
    is_told(&mesh, "outside", "Accepted", "Accepted", &["Service shop/outside on port 443", "mutual TLS instead"]).await;
    is_told(&mesh, "outside", "ResolvedRefs", "ResolvedRefs", &[]).await;
    // A client that speaks TLS itself is carried as it is.
    let mut raw = Raw::tunnel(caller.client().address(), "outside:443").await;
    raw.write(client_hello("own.example")).await;
    assert_eq!(raw.exactly(1).await, [0x16], "the server's own handshake");

    // A server that has never heard of HTTP/2 is spoken to in HTTP/1.1, whatever the client speaks.
    let mut http1 = (*authority.issue(&[dns("a.outside.example")], false)).clone();
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    server.shows(Arc::new(http1));
    // Under other terms no connection is shared.
    let name = |name: &str| json!({"type": "Hostname", "hostname": name});
    let names = json!({"subjectAltNames": [name("b.outside.example"), name("a.outside.example")]});
    policy(&mesh, "outside", "a.outside.example", &names);
    until("the server speaks HTTP/1.1 with a client of HTTP/2", async || {
        let seen = caller.client().h2().get("http://outside:443/").await.seen();
        ensure(seen["version"] == "HTTP/1.1", || seen.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_the_right_one_gets_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (mesh, caller, _outside, server) = world("http", authority.issue(&[dns("a.example")], false)).await;
    trust(&mesh, "ca", &authority.pem);
    // Nobody knows yet that the Service is there: it has no policy before it is first called.
    policy(&mesh, "outside", "b.example", &json!({}));
    is_refused(&mesh, &caller, &["its certificate is for a.example, expected b.example", "BackendTLSPolicy shop/outside"]).await;
    policy(&mesh, "outside", "a.example", &json!({}));
    mesh.reaches(&caller, "http://outside:443/").await;
    server.shows(other.issue(&[dns("a.example")], false));
    // A name that is asked for is not believed where others are to be believed.
    policy(&mesh, "outside", "a.example", &json!({"subjectAltNames": [{"type": "URI", "uri": "spiffe://outside/a"}]}));
    is_refused(&mesh, &caller, &["leads to none of the policy's CA certificates"]).await;
    server.shows(authority.issue(&[dns("a.example")], false));
    is_refused(&mesh, &caller, &["is for a.example, expected spiffe://outside/a"]).await;
    server.shows(authority.issue(&[SanType::URI("spiffe://outside/a".try_into().unwrap())], false));
    let seen = mesh.reaches(&caller, "http://outside:443/").await.seen();
    assert_eq!(seen["name"], "a.example");
    server.shows(authority.issue(&[dns("a.example")], true));
    policy(&mesh, "outside", "a.example", &json!({}));
    is_refused(&mesh, &caller, &["the certificate expired at"]).await;
    assert_eq!(server.met(|met| met.plaintext), 0, "nothing was said in plaintext");
    caller.proxy().counts("weir_mesh_errors_total", &[("reason", "backend-tls-failed")], 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_cannot_be_kept_to_lets_nothing_through() {
    let authority = Authority::new();
    let (mesh, caller, _outside, server) = world("http", authority.issue(&[dns("a.example")], false)).await;
    policy(&mesh, "outside", "a.example", &json!({}));
    is_refused(&mesh, &caller, &["there is no valid CA certificate", "there is no ConfigMap shop/ca with a key `ca.crt`"]).await;
    is_told(&mesh, "outside", "Accepted", "NoValidCACertificate", &["not called"]).await;
    is_told(&mesh, "outside", "ResolvedRefs", "InvalidCACertificateRef", &["caCertificateRefs[0]", "shop/ca"]).await;
    mesh.control_plane().diagnoses(&["policy-outside.yaml", "spec.validation.caCertificateRefs[0]", "no ConfigMap"]).await;
    trust(&mesh, "ca", "no certificate");
    is_refused(&mesh, &caller, &["`ca.crt` of ConfigMap shop/ca: there is no root certificate"]).await;
    policy(&mesh, "outside", "a.example", &json!({"caCertificateRefs": [{"group": "", "kind": "Secret", "name": "ca"}]}));
    is_told(&mesh, "outside", "ResolvedRefs", "InvalidKind", &["Secret ca is not read"]).await;
    policy(&mesh, "outside", "a.example", &json!({"minVersion": "1.3"}));
    is_told(&mesh, "outside", "Accepted", "Invalid", &["unknown field `minVersion`"]).await;
    is_refused(&mesh, &caller, &["unknown field `minVersion`"]).await;
    policy(&mesh, "outside", "a.example", &json!({"caCertificateRefs": [], "wellKnownCACertificates": "System"}));
    is_told(&mesh, "outside", "Accepted", "Accepted", &[]).await;
    is_refused(&mesh, &caller, &["leads to none of the public web's authorities"]).await;
    assert_eq!(server.met(|met| met.plaintext), 0, "nothing was said in plaintext");
    // One certificate that is good is enough to go on, and the author is told of the other.
    trust(&mesh, "ca", &authority.pem);
    let two = json!([{"group": "", "kind": "ConfigMap", "name": "gone"}, {"group": "", "kind": "ConfigMap", "name": "ca"}]);
    policy(&mesh, "outside", "a.example", &json!({"caCertificateRefs": two}));
    mesh.reaches(&caller, "http://outside:443/").await;
    is_told(&mesh, "outside", "Accepted", "Accepted", &[]).await;
    is_told(&mesh, "outside", "ResolvedRefs", "InvalidCACertificateRef", &["shop/gone"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_policies_one_holds_and_without_any_nothing_is_changed() {
    let authority = Authority::new();
    let (mesh, caller, _outside, server) = world("http", authority.issue(&[dns("a.example")], false)).await;
    trust(&mesh, "ca", &authority.pem);
    policy(&mesh, "first", "a.example", &json!({}));
    policy(&mesh, "second", "b.example", &json!({}));
    mesh.reaches(&caller, "http://outside:443/").await;
    is_told(&mesh, "second", "Accepted", "Conflicted", &["BackendTLSPolicy shop/first has port 443"]).await;
    mesh.manifests().remove("policy-first");
    is_refused(&mesh, &caller, &["expected b.example"]).await;
    assert_eq!(server.met(|met| met.plaintext), 0);
    mesh.manifests().remove("policy-second");
    until("without a policy the application's plaintext is what is sent", async || {
        let answer = caller.client().try_get("http://outside:443/").await?;
        ensure(server.met(|met| met.plaintext) > 0, || format!("{answer:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_is_replaced_without_a_failure() {
    let (old, new) = (Authority::new(), Authority::new());
    let (mesh, caller, _outside, server) = world("http", old.issue(&[dns("a.example")], false)).await;
    trust(&mesh, "ca", &old.pem);
    policy(&mesh, "outside", "a.example", &json!({}));
    mesh.reaches(&caller, "http://outside:443/").await;
    let known = |count: u64| {
        let caller = &caller;
        async move {
            until("the sidecar knows the certificates", async || {
                let page: Value =
                    serde_json::from_str(&caller.proxy().ask("/config").await?.text()).map_err(|it| it.to_string())?;
                let tls = &page["endpoints"]["shop/outside:443"][0]["backendTls"];
                ensure(tls["certificates"] == count, || page.to_string())
            })
            .await;
        }
    };
    let load = Load::get(caller.client(), 4, "http://outside:443/");
    load.passes(200).await;
    trust(&mesh, "ca", &format!("{}{}", old.pem, new.pem));
    known(2).await;
    load.passes(200).await;
    server.shows(new.issue(&[dns("a.example")], false));
    trust(&mesh, "ca", &new.pem);
    known(1).await;
    load.passes(200).await;
    load.stop().await.lost_none();
    // The old one is believed no more, not even on connections that it opened.
    server.shows(old.issue(&[dns("a.example")], false));
    trust(&mesh, "ca", &format!("{}{}", new.pem, old.pem));
    known(2).await;
    mesh.reaches(&caller, "http://outside:443/").await;
    trust(&mesh, "ca", &new.pem);
    is_refused(&mesh, &caller, &["leads to none of the policy's CA certificates"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_any_protocol_are_put_into_tls() {
    let authority = Authority::new();
    let (mesh, caller, _outside, server) = world("tcp", authority.issue(&[dns("a.example")], false)).await;
    trust(&mesh, "ca", &authority.pem);
    policy(&mesh, "outside", "a.example", &json!({}));
    is_told(&mesh, "outside", "Accepted", "Accepted", &[]).await;
    let mut raw = Raw::tunnel(caller.client().address(), "outside:443").await;
    raw.write("marco\n").await;
    assert_eq!(raw.line().await.as_deref(), Some("marco"));
    assert_eq!(server.met(|met| (met.plaintext, met.names.clone())), (0, vec![Some("a.example".to_owned())]));

    // Through a TCPRoute of another Service as well.
    mesh.service("front").port(9000, "tcp").apply();
    mesh.manifests().write(
        "route",
        "apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: front, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: front, port: 9000}]
  rules: [{backendRefs: [{name: outside, port: 443}]}]",
    );
    until("the route leads to the server", async || {
        let mut raw = Raw::connect(caller.client().address()).await;
        raw.write("CONNECT front:9000 HTTP/1.1\r\nhost: front:9000\r\n\r\n").await;
        let head = raw.head().await;
        ensure(head.starts_with("HTTP/1.1 200"), || head)?;
        raw.write("polo\n").await;
        let line = raw.line().await;
        ensure(line.as_deref() == Some("polo"), || format!("{line:?}"))
    })
    .await;
    assert_eq!(server.met(|met| met.plaintext), 0);
}

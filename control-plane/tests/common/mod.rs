//! A control plane as a process, and a client that speaks to it as a proxy does.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something is not as it should be")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use weir_core::names::TrustDomain;
use weir_proto::v1::discovery_client::DiscoveryClient;
use weir_proto::v1::discovery_request::Kind;
use weir_proto::v1::identity_client::IdentityClient;
use weir_proto::v1::{
    Ack, CertifyRequest, CertifyResponse, DiscoveryRequest, DiscoveryResponse, Hello, Nack, ResourceKind, ResourceName, Subscribe,
};
use weir_tls::{Accept, Credentials, KeyRequest, Roots, client_config, control_plane_identity, server_name};

/// Nothing here takes long; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const TOKEN: &str = "token-of-reviews";
pub const OTHER_TOKEN: &str = "token-of-ratings";

/// A port that was free a moment ago.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The program, to be given arguments.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-control-plane"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A control plane that runs until it is dropped.
pub struct ControlPlane {
    pub dir: tempfile::TempDir,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl ControlPlane {
    /// Starts one on these manifests and waits until it is ready.
    pub fn start(manifests: &[(&str, &str)], more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        for (name, text) in manifests {
            std::fs::write(dir.path().join("manifests").join(name), text).unwrap();
        }
        let tokens = format!("{TOKEN} shop reviews\n{OTHER_TOKEN} shop ratings\n");
        std::fs::write(dir.path().join("tokens"), tokens).unwrap();
        Self::start_in(dir, more)
    }

    fn start_in(dir: tempfile::TempDir, more: &[&str]) -> Self {
        let (grpc, http) = (free_address(), free_address());
        let path = |name: &str| dir.path().join(name).display().to_string();
        let mut child = program()
            .args(["--source", &format!("dir:{}", path("manifests")), "--ca-dir", &path("ca"), "--token-file", &path("tokens")])
            .args(["--grpc-listen", &grpc.to_string(), "--http-listen", &http.to_string(), "--log-level", "debug"])
            .args(more)
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, sink) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let started = Self { dir, grpc, http, child, log };
        started.wait_until("it is ready", || started.get("/ready").is_some_and(|(status, _)| status == 200));
        started
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("manifests").join(name), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits until something holds; shows the log if it never does.
    pub fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !holds() {
            assert!(std::time::Instant::now() < deadline, "waited in vain until {what}; the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Status and body of a page.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.http, path, &self.http.to_string())
    }

    pub fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.get(path).unwrap().1).unwrap()
    }

    pub fn signal_terminate(&self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(std::time::Instant::now() < deadline, "it does not end; the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn roots(&self) -> Roots {
        Roots::from_pem(trust_domain(), &std::fs::read_to_string(self.path("ca/ca.crt")).unwrap()).unwrap()
    }

    /// A connection, with a certificate or without.
    pub async fn connect(&self, credentials: Option<&Credentials>) -> Result<Channel, tonic::transport::Error> {
        let accept = Accept::Identity(control_plane_identity(&trust_domain()));
        let config = client_config(credentials, &self.roots(), accept, &[b"h2"]).unwrap();
        let (connector, address) = (TlsConnector::from(config), self.grpc);
        let connect = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let tcp = tokio::net::TcpStream::connect(address).await?;
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(server_name(address.ip()), tcp).await?))
            }
        });
        Endpoint::from_static("http://control-plane").connect_with_connector(connect).await
    }

    pub async fn certify(&self, request: CertifyRequest) -> Result<CertifyResponse, Status> {
        let channel = self.connect(None).await.unwrap();
        Ok(IdentityClient::new(channel).certify(request).await?.into_inner())
    }

    /// A certificate for `shop/NAME`.
    pub async fn credentials(&self, token: &str, service_account: &str) -> Credentials {
        let KeyRequest { key, csr_der } = KeyRequest::generate().unwrap();
        let response = self.certify(request(token, "shop", service_account, csr_der)).await.unwrap();
        let chain = response.chain.iter().map(|der| der.to_vec().into()).collect();
        Credentials::new(chain, key).unwrap()
    }

    /// A stream of the proxy of `shop/reviews`, greeted.
    pub async fn stream(&self) -> Proxy {
        let credentials = self.credentials(TOKEN, "reviews").await;
        let channel = self.connect(Some(&credentials)).await.unwrap();
        Proxy::open(channel, hello("shop", "reviews")).await.unwrap()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn get(address: SocketAddr, path: &str, host: &str) -> Option<(u16, String)> {
    let mut tcp = TcpStream::connect(address).ok()?;
    write!(tcp, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    tcp.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

pub fn request(token: &str, namespace: &str, service_account: &str, csr: Vec<u8>) -> CertifyRequest {
    CertifyRequest {
        token: token.into(),
        csr: csr.into(),
        namespace: namespace.into(),
        service_account: service_account.into(),
        pod: "reviews-1".into(),
    }
}

pub fn hello(namespace: &str, service_account: &str) -> Hello {
    Hello {
        namespace: namespace.into(),
        service_account: service_account.into(),
        pod: "reviews-1".into(),
        pod_ips: vec!["127.10.0.1".into()],
        proxy_version: "test".into(),
        ..Hello::default()
    }
}

pub fn service(name: &str) -> ResourceName {
    ResourceName { kind: ResourceKind::Service.into(), name: name.into() }
}

/// The proxy's end of a stream.
pub struct Proxy {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Proxy {
    pub async fn open(channel: Channel, hello: Hello) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(16);
        requests.send(DiscoveryRequest { kind: Some(Kind::Hello(hello)) }).await.unwrap();
        let responses = DiscoveryClient::new(channel).stream(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    pub async fn send(&self, kind: Kind) {
        self.requests.send(DiscoveryRequest { kind: Some(kind) }).await.unwrap();
    }

    pub async fn subscribe(&self, names: &[&str]) {
        self.send(Kind::Subscribe(Subscribe { names: names.iter().map(|name| service(name)).collect() })).await;
    }

    pub async fn ack(&self, response: &DiscoveryResponse) {
        self.send(Kind::Ack(Ack { sequence: response.sequence })).await;
    }

    pub async fn nack(&self, response: &DiscoveryResponse, reason: &str) {
        self.send(Kind::Nack(Nack { sequence: response.sequence, reason: reason.into(), name: None })).await;
    }

    pub async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        match tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("a response in time")? {
            Some(response) => Ok(response),
            None => Err(Status::ok("ended")),
        }
    }

    /// The next response, which is acknowledged.
    pub async fn take(&mut self) -> DiscoveryResponse {
        let response = self.next().await.unwrap();
        self.ack(&response).await;
        response
    }

    /// Responses until one has this name; all of them are acknowledged.
    pub async fn take_until(&mut self, name: &str) -> DiscoveryResponse {
        loop {
            let response = self.take().await;
            if names(&response).iter().any(|it| it == name) {
                return response;
            }
        }
    }
}

/// The names in a response, `-` before those that are removed or forgotten.
pub fn names(response: &DiscoveryResponse) -> Vec<String> {
    let updated = response.updated.iter().map(|it| it.name.clone().unwrap().name);
    let gone = response.removed.iter().chain(&response.forgotten).map(|it| format!("-{}", it.name));
    updated.chain(gone).collect()
}

/// The contents of a file below `dir`.
pub fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap()
}

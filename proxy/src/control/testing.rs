//! A control plane that does what a test tells it, on a real socket with real TLS.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};
use weir_proto::v1;
use weir_proto::v1::discovery_request::Kind;
use weir_proto::v1::discovery_server::{Discovery, DiscoveryServer};
use weir_proto::v1::identity_server::{Identity, IdentityServer};
use weir_tls::{ClientAuth, Credentials, Roots, alpn, control_plane_identity, server_config};

use super::{Control, Never, Saved};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::shared::Shared;

pub(super) const WORKLOAD: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A certificate authority.
pub(super) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    pub(super) fn roots(&self) -> Roots {
        Roots::from_der("cluster.local".parse().unwrap(), [self.0.der()]).unwrap()
    }

    fn sign(&self, key: &impl PublicKeyData, identity: &str, starts_in: Duration, ends_in: Duration) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        params.not_before = OffsetDateTime::now_utc() + starts_in;
        params.not_after = OffsetDateTime::now_utc() + ends_in;
        params.signed_by(key, &self.0).unwrap().der().to_vec()
    }

    pub(super) fn credentials(&self, identity: &str, starts_in: Duration, ends_in: Duration) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let chain = vec![self.sign(&key, identity, starts_in, ends_in).into()];
        Credentials::new(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))).unwrap()
    }
}

/// What the control plane says to a request for a certificate.
#[derive(Clone, Debug)]
pub(super) enum Certify {
    Sign { identity: String, life: Duration },
    Refuse(Status),
}

impl Certify {
    pub(super) fn day() -> Self {
        Self::Sign { identity: WORKLOAD.into(), life: Duration::hours(24) }
    }
}

/// One stream as the control plane sees it.
pub(super) struct Stream {
    pub(super) requests: Streaming<v1::DiscoveryRequest>,
    responses: mpsc::Sender<Result<v1::DiscoveryResponse, Status>>,
}

impl Stream {
    pub(super) async fn next(&mut self) -> Kind {
        self.requests.message().await.unwrap().unwrap().kind.unwrap()
    }

    pub(super) async fn send(&self, response: v1::DiscoveryResponse) {
        self.responses.send(Ok(response)).await.unwrap();
    }
}

/// The control plane.
pub(super) struct Fake {
    pub(super) ca: Arc<Ca>,
    pub(super) address: SocketAddr,
    pub(super) certify: Arc<Mutex<Certify>>,
    pub(super) asked: mpsc::UnboundedReceiver<v1::CertifyRequest>,
    pub(super) streams: mpsc::UnboundedReceiver<Stream>,
}

struct Service {
    ca: Arc<Ca>,
    certify: Arc<Mutex<Certify>>,
    asked: mpsc::UnboundedSender<v1::CertifyRequest>,
    streams: mpsc::UnboundedSender<Stream>,
}

impl Fake {
    pub(super) async fn start() -> Self {
        let ca = Arc::new(Ca::new("mesh"));
        let name = control_plane_identity(&"cluster.local".parse().unwrap()).to_string();
        Self::start_as(ca, &name).await
    }

    pub(super) async fn start_as(ca: Arc<Ca>, name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let own = ca.credentials(name, Duration::minutes(-5), Duration::hours(24));
        let config = server_config(&own, &ca.roots(), ClientAuth::Optional, &[alpn::GRPC]).unwrap();
        let (asked_in, asked) = mpsc::unbounded_channel();
        let (streams_in, streams) = mpsc::unbounded_channel();
        let certify = Arc::new(Mutex::new(Certify::day()));
        let service =
            Arc::new(Service { ca: Arc::clone(&ca), certify: Arc::clone(&certify), asked: asked_in, streams: streams_in });
        tokio::spawn(serve(listener, TlsAcceptor::from(config), service));
        Self { ca, address, certify, asked, streams }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, service: Arc<Service>) {
    let (incoming, accepted) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await
                && incoming.send(Ok::<_, io::Error>(Tls(stream))).await.is_err()
            {
                return;
            }
        }
    });
    let router = Server::builder()
        .add_service(IdentityServer::from_arc(Arc::clone(&service)))
        .add_service(DiscoveryServer::from_arc(service));
    router.serve_with_incoming(ReceiverStream::new(accepted)).await.unwrap();
}

#[tonic::async_trait]
impl Identity for Service {
    async fn certify(&self, request: Request<v1::CertifyRequest>) -> Result<Response<v1::CertifyResponse>, Status> {
        let request = request.into_inner();
        let csr = rcgen::CertificateSigningRequestParams::from_der(&request.csr.to_vec().into()).unwrap();
        let _ = self.asked.send(request);
        let certify = self.certify.lock().unwrap().clone();
        match certify {
            Certify::Refuse(status) => Err(status),
            Certify::Sign { identity, life } => {
                let leaf = self.ca.sign(&csr.public_key, &identity, Duration::minutes(-5), life);
                let roots =
                    v1::TrustRoots { trust_domain: "cluster.local".into(), roots: vec![self.ca.der().into()], generation: 0 };
                Ok(Response::new(v1::CertifyResponse {
                    chain: vec![leaf.into()],
                    roots: Some(roots),
                    ..v1::CertifyResponse::default()
                }))
            }
        }
    }
}

#[tonic::async_trait]
impl Discovery for Service {
    type StreamStream = ReceiverStream<Result<v1::DiscoveryResponse, Status>>;

    async fn stream(&self, request: Request<Streaming<v1::DiscoveryRequest>>) -> Result<Response<Self::StreamStream>, Status> {
        let (responses, outgoing) = mpsc::channel(8);
        let _ = self.streams.send(Stream { requests: request.into_inner(), responses });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// A TLS stream that tonic serves.
struct Tls(TlsStream<TcpStream>);

impl Connected for Tls {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Tls {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Where a proxy's files are.
pub(super) struct Place {
    directory: TempDir,
}

impl Place {
    /// With a bundle of `ca` and a token.
    pub(super) fn new(ca: &Ca) -> Self {
        let place = Self { directory: TempDir::new().unwrap() };
        fs::write(place.path("bundle.pem"), ca.roots().pem()).unwrap();
        fs::write(place.path("token"), "let-me-in\n").unwrap();
        place
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of the saved state of [`settings`](Self::settings).
    pub(super) fn saved(&self, name: &str) -> PathBuf {
        self.path("state").join("shop.web-1").join(name)
    }

    pub(super) fn settings(&self, control_plane: SocketAddr, pod: &str) -> Settings {
        let path = |name: &str| self.path(name).display().to_string();
        let flags = [
            ("--pod-name", pod.to_owned()),
            ("--pod-namespace", "shop".into()),
            ("--service-account", "web".into()),
            ("--pod-ip", "10.0.0.9".into()),
            ("--control-plane", control_plane.to_string()),
            ("--trust-bundle", path("bundle.pem")),
            ("--token", path("token")),
            ("--state-dir", path("state")),
            ("--workers", "1".into()),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        Settings::read(std::iter::once("weir-proxy".to_owned()).chain(flags)).unwrap()
    }

    /// A control thread's state, with whatever was saved here.
    pub(super) fn control(&self, control_plane: SocketAddr) -> Control {
        let settings = self.settings(control_plane, "web-1");
        let saved = Saved::load(&settings);
        let shared = Arc::new(Shared::new(settings, Metrics::new().unwrap()));
        let store = super::restore(&shared, saved);
        Control {
            shared,
            store,
            tls_changed: tokio::sync::watch::Sender::new(0),
            renew_now: tokio::sync::Notify::new(),
            roots_generation: std::cell::Cell::new(0),
        }
    }
}

/// Runs the control thread's parts for as long as `test` takes.
pub(super) fn beside<'a, T: 'a>(
    control: &'a Control,
    test: impl Future<Output = T> + 'a,
) -> Pin<Box<dyn Future<Output = T> + 'a>> {
    Box::pin(async move {
        let workload = &control.shared.settings.workload;
        let parts =
            async { tokio::join!(super::identity::run(control), super::discovery::run(control), control.store.run(workload)).0 };
        let never: Never;
        tokio::select! {
            ended = parts => never = ended,
            done = tokio::time::timeout(std::time::Duration::from_secs(30), test) => return done.expect("within half a minute"),
        }
        match never {}
    })
}

/// Waits until something holds that nobody announces.
pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain: {what}");
}

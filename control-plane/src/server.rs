//! Where proxies connect: TLS 1.3, then gRPC.
//!
//! A proxy that has no certificate yet connects without one, and gets it from `weir.v1.Identity`; everything else needs one.
//! Every connection carries a [`Peer`] that says who is on the other side and until when that may be believed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use weir_core::names::Identity;
use weir_proto::v1::identity_server::IdentityServer;
use weir_tls::{explain, peer_identity, refusal};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::identity::Certifier;
use crate::metrics::Metrics;
use crate::publish::Hub;
use crate::publish::proxies::MAX_STREAMS;
use crate::publish::stream::Discovery;
use crate::publish::wire::DiscoveryService;

/// How long a client may take for its handshake. A slow one over a bad line needs two or three seconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once: one for each stream, and some for proxies that ask for certificates.
const MAX_CONNECTIONS: usize = MAX_STREAMS + 2_000;
/// Finished handshakes that wait to be served.
const WAITING: usize = 64;
/// A proxy has one stream and now and then one call on a connection.
const MAX_CONCURRENT_STREAMS: u32 = 16;
/// Largest request to `Identity`, in bytes: a request for a certificate and a token.
const MAX_IDENTITY_REQUEST: usize = 64 * 1024;
/// Header lists of gRPC are short.
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;
/// How often a silent connection is asked whether it lives, so that proxies that vanished do not stay on the list.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long it may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The other side of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it calls from.
    pub address: SocketAddr,
    /// Who it has shown to be, and until when its certificate says so. `None`: it showed no certificate.
    pub certified: Option<(Identity, SystemTime)>,
    /// Its certificate and what came with it, leaf first.
    pub chain: Arc<[CertificateDer<'static>]>,
}

/// Serves proxies until `stop` is cancelled and every stream has ended.
///
/// # Errors
///
/// When HTTP/2 cannot be served at all.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    certifier: Certifier,
    hub: Hub,
) -> Result<(), tonic::transport::Error> {
    let (sender, connections) = mpsc::channel(WAITING);
    let stop = hub.stop().clone();
    tokio::spawn(accept(listener, tls, sender, hub.metrics().clone(), stop.clone()));
    let identity = IdentityServer::new(certifier).max_decoding_message_size(MAX_IDENTITY_REQUEST);
    Server::builder()
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        .add_service(DiscoveryService::new(Discovery::new(hub)))
        .add_service(identity)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop.cancelled_owned())
        .await
}

async fn accept(
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    sender: mpsc::Sender<io::Result<Connection>>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Nobody is accepted who could not be served; the kernel's queue holds them meanwhile.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = stop.cancelled() => return,
        };
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((tcp, address)) => {
                let (acceptor, sender, metrics) = (TlsAcceptor::from(tls.load_full()), sender.clone(), metrics.clone());
                tokio::spawn(async move {
                    match handshake(acceptor, tcp, address, place).await {
                        Ok(connection) => drop(sender.send(Ok(connection)).await),
                        Err(failure) => {
                            tracing::warn!(peer = %address, reason = failure.label, "a connection failed: {}", failure.message);
                            metrics.handshakes_failed.with_label_values(&[failure.label]).inc();
                        }
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, for example: accepting at once again would only spin.
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

struct Failure {
    label: &'static str,
    message: String,
}

async fn handshake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    address: SocketAddr,
    place: OwnedSemaphorePermit,
) -> Result<Connection, Failure> {
    let nodelay = tcp.set_nodelay(true);
    nodelay.map_err(|error| Failure { label: "broken", message: error.to_string() })?;
    let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return Err(Failure { label: refusal(&error).as_str(), message: explain(&error) }),
        Err(_) => {
            let message = format!("the handshake was not finished after {HANDSHAKE_TIMEOUT:?}");
            return Err(Failure { label: "timeout", message });
        }
    };
    let certificates = tls.get_ref().1.peer_certificates();
    let identity = peer_identity(certificates);
    let identity = identity.map_err(|error| Failure { label: "bad-certificate", message: error.to_string() })?;
    let certified = identity.zip(certificates.and_then(|all| not_after(all.first()?)));
    let chain = certificates.unwrap_or_default().iter().map(|it| it.clone().into_owned()).collect();
    Ok(Connection { tls, peer: Peer { address, certified, chain }, _place: place })
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.to_datetime().into())
}

/// A connection whose handshake is done.
struct Connection {
    tls: TlsStream<TcpStream>,
    peer: Peer,
    /// Free again when the connection ends.
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

//! Reaching the control plane: name, TCP, TLS, and a gRPC channel over exactly that connection.
//!
//! The connection is made here and then handed to tonic, so that a failure keeps its own words instead of "transport error".

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use weir_tls::{Accept, Credentials, Refusal, Roots, TlsError, alpn, client_config, control_plane_identity, server_name};

use crate::shared::Shared;

/// Time for each step of reaching the control plane. Two lost SYNs are retried within it; a host that does not answer is left for
/// the next address soon.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that has carried nothing for this long is asked whether it still lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// And given up when it does not answer within this.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Flow-control window of the stream: a first configuration of a busy proxy in one round trip.
const WINDOW: u32 = 1 << 20;

/// Why the control plane cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum CannotConnect {
    #[error("{0}")]
    Roots(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] TlsError),
    #[error("{address} does not resolve: {reason}; check WEIR_CONTROL_PLANE and the DNS of this pod")]
    Name { address: String, reason: String },
    #[error("no connection to {address} ({peer}): {reason}; is the control plane running there?")]
    Connect { address: String, peer: SocketAddr, reason: String },
    #[error("TLS with {address} ({peer}) failed: {refusal}")]
    Handshake { address: String, peer: SocketAddr, refusal: Refusal },
    #[error("gRPC with {address} failed: {reason}")]
    Channel { address: String, reason: String },
}

impl CannotConnect {
    /// The failure without what differs each time, to tell whether it is news.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Handshake { address, peer, refusal, .. } => format!("{address} {peer} {}", refusal.as_str()),
            other => other.to_string(),
        }
    }
}

/// Opens a channel. With `credentials` as a workload, without as somebody who has no certificate yet.
pub(super) async fn channel(shared: &Shared, credentials: Option<&Credentials>) -> Result<Channel, CannotConnect> {
    let roots = roots(shared).map_err(CannotConnect::Roots)?;
    let accept = Accept::Identity(control_plane_identity(roots.trust_domain()));
    let connector = TlsConnector::from(client_config(credentials, &roots, accept, &[alpn::GRPC])?);
    let address = &shared.settings.control_plane;
    let (stream, peer) = dial(address).await?;
    let handshake = timeout(STEP_TIMEOUT, connector.connect(server_name(peer.ip()), stream)).await;
    let stream = handshake.unwrap_or_else(|_| Err(timed_out())).map_err(|error| CannotConnect::Handshake {
        address: address.clone(),
        peer,
        refusal: weir_tls::refusal(&error),
    })?;
    over(address, stream).await
}

/// The roots that the control plane's certificate may lead to: those of the bundle file, which are read each time, and those that
/// the mesh has announced since. A file that is out of date does not cut the proxy off, nor does a saved state that is.
fn roots(shared: &Shared) -> Result<Roots, String> {
    let domain = &shared.settings.trust_domain;
    let path = shared.settings.trust_bundle.display();
    let file = std::fs::read_to_string(&shared.settings.trust_bundle)
        .map_err(|error| format!("the trust bundle {path} cannot be read: {error}; check WEIR_TRUST_BUNDLE"))
        .and_then(|pem| {
            Roots::from_pem(domain.clone(), &pem).map_err(|error| format!("the trust bundle {path} cannot be used: {error}"))
        });
    let tls = shared.tls.load();
    let announced = tls.as_ref().map(|tls| &tls.roots);
    match (file, announced) {
        (Ok(file), Some(announced)) => {
            let more = announced.ders().iter().filter(|der| !file.ders().contains(der));
            let all: Vec<_> = file.ders().iter().chain(more).collect();
            Roots::from_der(domain.clone(), all).map_err(|error| error.to_string())
        }
        (Ok(file), None) => Ok(file),
        (Err(_), Some(announced)) => Ok(announced.clone()),
        (Err(error), None) => Err(error),
    }
}

/// A TCP connection to whichever of the name's addresses answers, in random order: proxies spread over the replicas.
async fn dial(address: &str) -> Result<(TcpStream, SocketAddr), CannotConnect> {
    let name = |reason: String| CannotConnect::Name { address: address.into(), reason };
    let found = timeout(STEP_TIMEOUT, lookup_host(address)).await.unwrap_or_else(|_| Err(timed_out()));
    let mut peers: Vec<SocketAddr> = found.map_err(|error| name(error.to_string()))?.collect();
    fastrand::shuffle(&mut peers);
    let mut last = name("the name has no address".into());
    for peer in peers {
        let connected = timeout(STEP_TIMEOUT, TcpStream::connect(peer)).await.unwrap_or_else(|_| Err(timed_out()));
        match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok((stream, peer)),
            Err(error) => last = CannotConnect::Connect { address: address.into(), peer, reason: error.to_string() },
        }
    }
    Err(last)
}

/// A channel over this connection and no other: when it ends, so does the channel.
async fn over(address: &str, stream: TlsStream<TcpStream>) -> Result<Channel, CannotConnect> {
    let failed = |reason: String| CannotConnect::Channel { address: address.into(), reason };
    let once = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_| {
        let stream = once.lock().ok().and_then(|mut slot| slot.take());
        std::future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted)))
    });
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| failed(error.to_string()))?
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect_with_connector(connector)
        .await
        .map_err(|error| failed(error.to_string()))
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {STEP_TIMEOUT:?}"))
}

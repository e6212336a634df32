//! Opens connections: plain TCP, and mutual TLS to a meshed endpoint.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weir_tls::Accept;

use super::Upstream;
use super::outside::Speak;
use crate::fault::{Fault, Reason};

/// How long an endpoint may take to accept a connection, and again to finish its handshake. A pod that is up answers within
/// milliseconds; one whose node is gone never does, and others are tried meanwhile.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection. Nothing of any request has been sent.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The system refused, or the endpoint did.
    Tcp(io::Error),
    /// No answer in time.
    Timeout(&'static str),
    /// The handshake failed.
    Tls(io::Error),
    /// TLS that a policy wants cannot be had; why.
    Outside(String),
    /// The same endpoint takes HTTP/1.1 only.
    Http1Only,
    /// The other side does not speak what was asked for.
    NoAlpn,
    /// There is no certificate to show.
    NoCertificate,
    /// Settings that TLS does not take.
    Config(weir_tls::TlsError),
    /// The worker ends.
    Cancelled,
}

impl ConnectError {
    /// What the client is told.
    pub(crate) fn fault(&self, upstream: &Upstream) -> Fault {
        let whom = upstream.describe();
        match self {
            Self::Tcp(error) => Fault::new(Reason::ConnectFailed, format!("{whom}: {error}")),
            Self::Timeout(what) => Fault::new(Reason::ConnectTimeout, format!("{whom}: no {what} in time")),
            Self::Tls(error) => Fault::new(Reason::MtlsFailed, format!("{whom}: {}", weir_tls::explain(error))),
            Self::Outside(why) => Fault::new(Reason::BackendTlsFailed, format!("{whom}: {why}")),
            Self::Http1Only => Fault::new(Reason::BackendTlsFailed, format!("{whom}: it takes HTTP/1.1 only")),
            Self::NoAlpn => {
                let hint = "the endpoint speaks TLS but not the mesh's protocol; is its sidecar running?";
                Fault::new(Reason::MtlsFailed, format!("{whom}: {hint}"))
            }
            Self::NoCertificate => {
                let hint = "this proxy has no certificate yet; see /ready and the log for why";
                Fault::new(Reason::NoCertificate, hint)
            }
            Self::Config(error) => Fault::new(Reason::MtlsFailed, format!("{whom}: {error}")),
            Self::Cancelled => Fault::new(Reason::ConnectFailed, format!("{whom}: this proxy is ending")),
        }
    }

    /// As [`ConnectError::fault`].
    pub(crate) fn into_fault(self, upstream: &Upstream) -> Fault {
        self.fault(upstream)
    }
}

/// TLS settings for one endpoint, made anew when the certificate changes.
#[derive(Default)]
pub(super) struct ClientTls {
    generation: u64,
    http2: Option<Arc<ClientConfig>>,
    tcp: Option<Arc<ClientConfig>>,
}

/// A plain connection.
pub(super) async fn tcp(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| ConnectError::Timeout("answer to the connection attempt"))?
        .map_err(ConnectError::Tcp)?;
    stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
    Ok(stream)
}

/// A connection to the endpoint's sidecar, whose identity has been verified, and the generation of the certificate shown.
pub(super) async fn mesh(upstream: &Upstream, alpn: &'static [u8]) -> Result<(TlsStream<TcpStream>, u64), ConnectError> {
    let (config, generation) = client_config(upstream, alpn)?;
    let stream = tcp(upstream.address).await?;
    // Peers are verified by SPIFFE id. rustls wants a name all the same, and an address is sent to nobody.
    let name = ServerName::IpAddress(upstream.address.ip().into());
    let stream = timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(config).connect(name, stream))
        .await
        .map_err(|_| ConnectError::Timeout("TLS handshake"))?
        .map_err(ConnectError::Tls)?;
    if stream.get_ref().1.alpn_protocol() != Some(alpn) {
        return Err(ConnectError::NoAlpn);
    }
    Ok((stream, generation))
}

fn client_config(upstream: &Upstream, alpn: &'static [u8]) -> Result<(Arc<ClientConfig>, u64), ConnectError> {
    let mesh = upstream.shared.tls.load_full().ok_or(ConnectError::NoCertificate)?;
    let identity = upstream.identity.as_deref().ok_or(ConnectError::NoCertificate)?;
    let mut cached = upstream.tls.borrow_mut();
    if cached.generation != mesh.generation {
        *cached = ClientTls { generation: mesh.generation, ..ClientTls::default() };
    }
    let slot = if alpn == weir_tls::alpn::HTTP2 { &mut cached.http2 } else { &mut cached.tcp };
    if let Some(config) = slot {
        return Ok((Arc::clone(config), mesh.generation));
    }
    let accept = Accept::Identity(identity.clone());
    let config = weir_tls::client_config(Some(&mesh.credentials), &mesh.roots, accept, &[alpn]).map_err(ConnectError::Config)?;
    *slot = Some(Arc::clone(&config));
    Ok((config, mesh.generation))
}

/// An opaque connection to an endpoint.
pub(crate) trait TcpUpstream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> TcpUpstream for T {}

impl Upstream {
    /// Opens an opaque connection: over mutual TLS where the endpoint is meshed, and in the TLS that a policy wants where it is not,
    /// unless the bytes are TLS already (`own_tls`): then the client itself has said whom it believes.
    ///
    /// # Errors
    ///
    /// Nothing has been sent; another endpoint may be tried.
    pub(crate) async fn open_tcp(self: &Rc<Self>, own_tls: bool) -> Result<Box<dyn TcpUpstream>, Fault> {
        if self.identity.is_some() {
            let (stream, _) = mesh(self, weir_tls::alpn::TCP).await.map_err(|error| error.into_fault(self))?;
            return Ok(Box::new(stream));
        }
        if let Some(outside) = self.outside.as_ref().filter(|_| !own_tls) {
            return Ok(Box::new(outside.open(self.address, Speak::Bytes).await.map_err(|error| error.into_fault(self))?));
        }
        Ok(Box::new(tcp(self.address).await.map_err(|error| error.into_fault(self))?))
    }
}

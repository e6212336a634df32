//! TLS to an endpoint outside the mesh, where a BackendTLSPolicy wants it.
//!
//! The configurations belong to one endpoint under the terms of one policy, and so do all connections: under other terms the
//! endpoint is another one, with a pool of its own.

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weir_core::backend_tls::BackendTls;

use super::connect::{self, ConnectError, HANDSHAKE_TIMEOUT};

/// What a connection is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speak {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 where the server takes it, else HTTP/1.1.
    Http2,
    /// Whatever the application says.
    Bytes,
}

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

impl Speak {
    /// What the server is offered.
    const fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[HTTP1],
            Self::Http2 => &[HTTP2, HTTP1],
            Self::Bytes => &[],
        }
    }
}

/// TLS to one endpoint.
pub(super) struct Outside {
    tls: Arc<BackendTls>,
    configs: [OnceCell<Arc<ClientConfig>>; 3],
    /// The server was offered HTTP/2 and did not take it.
    http1_only: Cell<bool>,
}

impl Outside {
    pub(super) fn new(tls: &Arc<BackendTls>) -> Self {
        Self { tls: Arc::clone(tls), configs: Default::default(), http1_only: Cell::new(false) }
    }

    /// Whether the server is known to take HTTP/1.1 only.
    pub(super) fn is_http1_only(&self) -> bool {
        self.http1_only.get()
    }

    /// A connection to the endpoint, whose certificate has been verified.
    pub(super) async fn open(&self, address: SocketAddr, speak: Speak) -> Result<TlsStream<TcpStream>, ConnectError> {
        // Nobody is called whom nobody could verify.
        self.config(speak)?;
        self.secure(connect::tcp(address).await?, speak).await
    }

    /// TLS over a connection to the endpoint.
    pub(super) async fn secure<T>(&self, stream: T, speak: Speak) -> Result<TlsStream<T>, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config(speak)?;
        let terms = self.tls.terms.as_ref().map_err(|why| self.failed(why))?;
        let name = weir_tls::backend_server_name(terms).map_err(|error| self.failed(&error.to_string()))?;
        let stream = timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(config).connect(name, stream))
            .await
            .map_err(|_| ConnectError::Timeout("TLS handshake"))?
            .map_err(|error| self.failed(&weir_tls::explain_backend(&error, terms)))?;
        if speak == Speak::Http2 && stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            self.http1_only.set(true);
            return Err(ConnectError::Http1Only);
        }
        Ok(stream)
    }

    /// # Errors
    ///
    /// The policy cannot be kept to.
    pub(super) fn config(&self, speak: Speak) -> Result<Arc<ClientConfig>, ConnectError> {
        let terms = self.tls.terms.as_ref().map_err(|why| self.failed(why))?;
        let [http1, http2, bytes] = &self.configs;
        let slot = match speak {
            Speak::Http1 => http1,
            Speak::Http2 => http2,
            Speak::Bytes => bytes,
        };
        if let Some(config) = slot.get() {
            return Ok(Arc::clone(config));
        }
        let config = weir_tls::backend_config(terms, speak.alpn()).map_err(|error| self.failed(&error.to_string()))?;
        Ok(Arc::clone(slot.get_or_init(|| config)))
    }

    fn failed(&self, why: &str) -> ConnectError {
        ConnectError::Outside(format!("{why} (BackendTLSPolicy {})", self.tls.policy))
    }
}

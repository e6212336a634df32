//! Byte-exact clients: what is written is what is on the wire.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wait::DEADLINE;

/// What a TLS client that wants this server says first.
///
/// # Panics
///
/// When it is neither a name nor an address.
#[must_use]
pub fn client_hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A TCP connection on which bytes are written and awaited.
pub struct Raw {
    stream: TcpStream,
    /// Read and not yet asked for.
    pending: Vec<u8>,
}

impl Raw {
    /// Connects.
    ///
    /// # Panics
    ///
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("no connection to {address}: {error}"));
        Self::over(stream)
    }

    /// Over a connection that is there already.
    #[must_use]
    pub fn over(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self { stream, pending: Vec::new() }
    }

    /// The connection itself.
    ///
    /// # Panics
    ///
    /// When something was read of it and not asked for.
    #[must_use]
    pub fn into_inner(self) -> TcpStream {
        assert!(self.pending.is_empty(), "{:?} was read and not asked for", String::from_utf8_lossy(&self.pending));
        self.stream
    }

    /// Opens a tunnel with CONNECT.
    ///
    /// # Panics
    ///
    /// When the proxy does not answer with 200.
    pub async fn tunnel(proxy: SocketAddr, target: &str) -> Self {
        let mut raw = Self::connect(proxy).await;
        raw.write(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n")).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 200"), "the tunnel to {target} was refused: {head}");
        raw
    }

    /// Writes all of it.
    ///
    /// # Panics
    ///
    /// When the connection is closed.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the connection takes what is written");
    }

    /// Says that nothing more will be written.
    ///
    /// # Panics
    ///
    /// When the connection is closed.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.expect("the connection can be half-closed");
    }

    /// Reads up to and with `end`.
    ///
    /// # Panics
    ///
    /// When the connection closes before, or the deadline passes.
    pub async fn until(&mut self, end: &str) -> String {
        let needle = end.as_bytes();
        loop {
            if let Some(at) = self.pending.windows(needle.len()).position(|window| window == needle) {
                let rest = self.pending.split_off(at + needle.len());
                return String::from_utf8_lossy(&std::mem::replace(&mut self.pending, rest)).into_owned();
            }
            let open = self.fill().await;
            let so_far = String::from_utf8_lossy(&self.pending);
            assert!(open.is_ok_and(|open| open), "the connection ended before {end:?} came; what came is {so_far:?}");
        }
    }

    /// Reads a line, without its end. `None`: the other side has closed before, in order or not.
    ///
    /// # Panics
    ///
    /// When the deadline passes.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.pending.iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(at + 1);
                let line = std::mem::replace(&mut self.pending, rest);
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.fill().await.unwrap_or(false) {
                return None;
            }
        }
    }

    /// Reads the head of an answer.
    ///
    /// # Panics
    ///
    /// As [`Self::until`].
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads the head of the next message. `None`: the other side has closed, in order or not.
    ///
    /// It waits for as long as the connection is open: a kept one may stay silent for as long as its scenario lasts.
    pub async fn next_head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.pending.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.pending.split_off(at + 4);
                return Some(String::from_utf8_lossy(&std::mem::replace(&mut self.pending, rest)).into_owned());
            }
            match self.stream.read_buf(&mut self.pending).await {
                Ok(count) if count > 0 => {}
                _ => return None,
            }
        }
    }

    /// Reads this many bytes.
    ///
    /// # Panics
    ///
    /// When the connection closes before, or the deadline passes.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.pending.len() < count {
            let open = self.fill().await;
            assert!(open.is_ok_and(|open| open), "the connection ended after {} bytes of {count}", self.pending.len());
        }
        let rest = self.pending.split_off(count);
        std::mem::replace(&mut self.pending, rest)
    }

    /// Closes with a reset, whatever is still under way.
    pub fn reset(self) {
        // With nothing to linger for, the close that follows is a reset.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
    }

    /// Reads until the other side closes, whether in order or by a reset.
    ///
    /// # Panics
    ///
    /// When it does not close in time.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await.unwrap_or(false) {}
        std::mem::take(&mut self.pending)
    }

    /// Writes as much of `bytes` as the other side takes, and reads until it closes.
    ///
    /// # Panics
    ///
    /// When it does not close in time.
    pub async fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> String {
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.shutdown().await;
        String::from_utf8_lossy(&self.rest().await).into_owned()
    }

    async fn fill(&mut self) -> std::io::Result<bool> {
        let read = timeout(DEADLINE, self.stream.read_buf(&mut self.pending)).await;
        let count = read.unwrap_or_else(|_| panic!("nothing came and nothing closed within {DEADLINE:?}"))?;
        Ok(count > 0)
    }
}

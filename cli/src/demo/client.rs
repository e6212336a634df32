//! A small HTTP/1.1 client with kept connections, for the load, for the apps, and for reading admin pages.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Nothing in the demo answers with more.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Idle connections kept; more than the demo has requests under way at a time.
const MAX_IDLE: usize = 256;

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no connection to {address}: {source}")]
    Connect { address: SocketAddrV4, source: std::io::Error },
    #[error("the connection to {address} broke: {source}")]
    Broke { address: SocketAddrV4, source: hyper::Error },
    #[error("the answer of {address} broke off: {message}")]
    Body { address: SocketAddrV4, message: String },
    #[error("no answer from {address} within {after:?}")]
    Late { address: SocketAddrV4, after: Duration },
}

/// Sends requests to one address.
pub(crate) struct Client {
    address: SocketAddrV4,
    patience: Duration,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

impl Client {
    /// A client of `address` that waits for `patience` at most, from the connection to the last byte.
    pub(crate) fn new(address: SocketAddrV4, patience: Duration) -> Self {
        Self { address, patience, idle: Mutex::default() }
    }

    /// Sends a request as it is: an absolute URI asks a forward proxy.
    ///
    /// # Errors
    /// There is no whole answer in time.
    pub(crate) async fn send(&self, request: Request<Empty<Bytes>>) -> Result<Response<Bytes>, CallError> {
        tokio::time::timeout(self.patience, self.exchange(request))
            .await
            .unwrap_or(Err(CallError::Late { address: self.address, after: self.patience }))
    }

    async fn exchange(&self, mut request: Request<Empty<Bytes>>) -> Result<Response<Bytes>, CallError> {
        let address = self.address;
        let (mut connection, response) = loop {
            let kept = self.kept();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(kept) => kept,
                None => self.connect().await?,
            };
            match connection.try_send_request(request).await {
                Ok(response) => break (connection, response),
                // Handed back unsent: a kept connection had been closed meanwhile. Another one will do.
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(CallError::Broke { address, source: failed.into_error() }),
                },
            }
        };
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| CallError::Body { address, message: error.to_string() })?.to_bytes();
        if connection.ready().await.is_ok() {
            self.keep(connection);
        }
        Ok(Response::from_parts(head, body))
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, CallError> {
        let address = self.address;
        let refused = |source| CallError::Connect { address, source };
        let stream = TcpStream::connect(SocketAddr::V4(address)).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|source| CallError::Broke { address, source })?;
        // Ends with the sender; what breaks it is reported to the request that was under way.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn kept(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, connection: SendRequest<Empty<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }
}

/// `GET` of an origin-form path.
///
/// # Errors
/// `path` is not one.
pub(crate) fn origin(address: SocketAddrV4, path: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    Request::get(path).header(http::header::HOST, address.to_string()).body(Empty::new())
}

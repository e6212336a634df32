//! One client connection.

use std::net::SocketAddr;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::Answer;
use crate::body::Outgoing;
use crate::wait::DEADLINE;

/// A connection that requests are sent on. It closes when this is dropped and its answers are read.
pub struct Connection {
    sender: Sender,
}

enum Sender {
    Http1(http1::SendRequest<Outgoing>),
    Http2(http2::SendRequest<Outgoing>),
}

impl Connection {
    pub(super) async fn open(address: SocketAddr, http2: bool) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("no connection to {address}: {error}"))?;
        let _ = stream.set_nodelay(true);
        Self::over(stream, http2).await
    }

    /// A connection over a stream that is there already.
    ///
    /// # Errors
    ///
    /// When the handshake fails.
    pub async fn over<S>(stream: S, http2: bool) -> Result<Self, String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let failed = |error| format!("the HTTP handshake failed: {error}");
        let io = TokioIo::new(stream);
        // An error of a connection reaches its requests; the task's own copy of it tells nobody anything.
        let sender = if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(failed)?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(failed)?;
            tokio::spawn(connection.with_upgrades());
            Sender::Http1(sender)
        };
        Ok(Self { sender })
    }

    /// Whether another request can be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Sends a request and answers with the head.
    ///
    /// # Errors
    ///
    /// When no answer begins.
    pub async fn open_request(&mut self, mut request: Request<Outgoing>) -> Result<Response<Incoming>, String> {
        let answer = async {
            match &mut self.sender {
                Sender::Http1(sender) => {
                    let authority = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
                    if let (Some(Ok(host)), false) = (authority, request.headers().contains_key(header::HOST)) {
                        request.headers_mut().insert(header::HOST, host);
                    }
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Sender::Http2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        };
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(answer) => answer.map_err(|error| format!("no answer began: {}", chain(&error))),
            Err(_) => Err(format!("no answer began within {DEADLINE:?}")),
        }
    }

    pub(super) async fn open_once(mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, String> {
        self.open_request(request).await
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    ///
    /// When no whole answer comes.
    pub async fn send(&mut self, request: Request<Outgoing>) -> Result<Answer, String> {
        let response = self.open_request(request).await?;
        match tokio::time::timeout(DEADLINE, Answer::read(response)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("the answer did not end within {DEADLINE:?}")),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

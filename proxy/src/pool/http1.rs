//! Pooled HTTP/1.1 connections to an endpoint outside the mesh, or to the application beside this proxy.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{COOKIE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Uri, Version};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::outside::Speak;
use super::{Answer, Keeping, Lease, SendError, Upstream, connect};
use crate::body::RequestBody;
use crate::fault::{Fault, Reason};
use crate::io::kept::{Kept, Reuse, Stale};

/// Idle connections kept per endpoint and worker. A sidecar serves one application; above this many at once new connections to
/// loopback cost less than the memory of idle ones.
const MAX_IDLE: usize = 128;

/// Idle connections are closed after this. Below the 60 s after which common servers close theirs, so that the race between a
/// request and the server's close is rare.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// A response's head may have this many bytes.
const MAX_HEAD: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

struct Connection {
    sender: SendRequest<RequestBody>,
    reuse: Reuse,
    opened: Instant,
}

impl Idle {
    fn may_be_used(&self, keeping: Keeping, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.since);
        idle < keeping.connections.idle_timeout.unwrap_or(IDLE_TIMEOUT) && !keeping.is_old(self.connection.opened, now)
    }
}

impl Pool {
    /// The connection used last, which is the likeliest to be open and warm.
    fn take(&self, keeping: Keeping) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        // Without a policy the sweep is exact enough, and no clock is read for it.
        let now = (keeping != Keeping::default()).then(Instant::now);
        while let Some(it) = idle.pop() {
            let may_be_used = now.is_none_or(|now| it.may_be_used(keeping, now));
            let connection = it.connection;
            if may_be_used && connection.sender.is_ready() {
                connection.reuse.begins();
                return Some(connection);
            }
        }
        None
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        if !connection.sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    pub(super) fn sweep(&self, keeping: Keeping, now: Instant) {
        self.idle.borrow_mut().retain(|it| !it.connection.sender.is_closed() && it.may_be_used(keeping, now));
    }
}

/// A connection that carries one request.
pub(crate) struct Http1Lease {
    connection: Connection,
    upstream: Rc<Upstream>,
}

impl Http1Lease {
    pub(super) fn release(self) {
        self.upstream.http1.put(self.connection);
    }
}

pub(super) async fn send(upstream: &Rc<Upstream>, request: Request<RequestBody>) -> Result<Answer, SendError> {
    let mut request = origin_form(request).map_err(SendError::NotProcessed)?;
    loop {
        let pooled = upstream.http1.take(upstream.keeping.get());
        let reused = pooled.is_some();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => open(upstream).await.map_err(|error| SendError::NotProcessed(error.into_fault(upstream)))?,
        };
        match connection.sender.try_send_request(request).await {
            Ok(response) => {
                let lease = Lease::Http1(Http1Lease { connection, upstream: Rc::clone(upstream) });
                return Ok(Answer { response, lease });
            }
            Err(mut error) => match error.take_message() {
                // The server closed the idle connection in the same moment; nothing of the request has been written.
                Some(unsent) if reused => request = unsent,
                Some(_) => {
                    let detail = format!("{}: {}", upstream.describe(), super::root_cause(error.error()));
                    return Err(SendError::NotProcessed(Fault::new(Reason::ConnectFailed, detail)));
                }
                None if Stale::caused(error.error()) => {
                    let fault = Fault::new(Reason::ConnectFailed, format!("{}: {Stale}", upstream.describe()));
                    return Err(SendError::Stale(fault));
                }
                None => return Err(upstream.broke(error.error())),
            },
        }
    }
}

async fn open(upstream: &Rc<Upstream>) -> Result<Connection, connect::ConnectError> {
    let Some(outside) = &upstream.outside else {
        let (stream, reuse) = Kept::new(connect::tcp(upstream.address).await?);
        return Ok(Connection { sender: begin(stream).await?, reuse, opened: Instant::now() });
    };
    // Nobody is called whom nobody could verify.
    outside.config(Speak::Http1)?;
    let (stream, reuse) = Kept::new(connect::tcp(upstream.address).await?);
    let sender = begin(outside.secure(stream, Speak::Http1).await?).await?;
    Ok(Connection { sender, reuse, opened: Instant::now() })
}

async fn begin<T>(stream: T) -> Result<SendRequest<RequestBody>, connect::ConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| connect::ConnectError::Tcp(std::io::Error::other(error)))?;
    tokio::task::spawn_local(async move {
        // How the connection ended is told to whoever has a request on it.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

/// HTTP/1.1 names the host in a header and only the path in the request line (RFC 9112, section 3.2.1).
fn origin_form(mut request: Request<RequestBody>) -> Result<Request<RequestBody>, Fault> {
    *request.version_mut() = Version::HTTP_11;
    let invalid =
        |error: http::Error| Fault::new(Reason::BadRequest, format!("the request cannot be written as HTTP/1.1: {error}"));
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(authority) = parts.authority.take() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|error| invalid(error.into()))?;
        request.headers_mut().insert(HOST, host);
    }
    parts.scheme = None;
    join_cookies(request.headers_mut());
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| invalid(error.into()))?;
    Ok(request)
}

/// HTTP/2 may send a cookie in pieces; HTTP/1.1 has one line for it (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(COOKIE).iter();
    let (Some(_), Some(_)) = (pieces.next(), pieces.next()) else { return };
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::{Arc, mpsc};

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::metrics::Metrics;
    use crate::pool::Wire;
    use crate::settings::Settings;
    use crate::shared::Shared;

    fn upstream(address: std::net::SocketAddr) -> Rc<Upstream> {
        let flags = ["--pod-name=a", "--pod-namespace=a", "--service-account=a", "--pod-ip=127.0.0.9", "--control-plane=a:1"];
        let files = ["--trust-bundle=/none", "--token=/none", "--workers=1"];
        let settings = Settings::read(["weir-proxy"].into_iter().chain(flags).chain(files)).unwrap();
        Upstream::new(&Arc::new(Shared::new(settings, Metrics::new().unwrap())), address, None, None)
    }

    fn post() -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::from_static("http://app/");
        request
    }

    /// Answers one request on each connection, and then closes it when told; says when it has.
    fn server(close: mpsc::Receiver<()>, closed: mpsc::Sender<()>) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.extend(byte);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                if close.recv().is_err() {
                    return;
                }
                drop(stream);
                closed.send(()).unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_request_is_not_written_to_a_connection_that_was_closed_in_the_same_moment() {
        let ((close, closing), (closed, is_closed)) = (mpsc::channel(), mpsc::channel());
        let upstream = upstream(server(closing, closed));
        let scenario = async {
            let sends = async || match upstream.send(post(), Wire::Http1).await {
                Ok(Answer { response, lease }) => {
                    response.into_body().collect().await.unwrap();
                    lease.release();
                    // The connection says that it is free.
                    for _ in 0..10 {
                        tokio::task::yield_now().await;
                    }
                    "answered"
                }
                Err(SendError::Stale(_)) => "stale",
                Err(SendError::NotProcessed(_) | SendError::Broke(_)) => "failed",
            };
            assert_eq!(sends().await, "answered");
            close.send(()).unwrap();
            // This thread stands still meanwhile: the connection's task cannot have noticed.
            is_closed.recv().unwrap();
            assert_eq!(sends().await, "stale");
            assert_eq!(sends().await, "answered");
        };
        tokio::task::LocalSet::new().run_until(scenario).await;
    }

    #[test]
    fn a_cookie_in_pieces_becomes_one() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        join_cookies(&mut headers);
        assert_eq!(headers[COOKIE], "a=1");
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}

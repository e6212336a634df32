//! Shared HTTP/2 connections: over mutual TLS between sidecars, with prior knowledge elsewhere.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared as SharedFuture};
use http::header::HOST;
use http::uri::Scheme;
use http::{Request, Uri, Version};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::time::interval;

use super::connect::{self, ConnectError};
use super::outside::{Outside, Speak};
use super::{Answer, Keeping, Lease, SendError, Upstream, http1};
use crate::body::RequestBody;
use crate::fault::{Fault, Reason};
use crate::io::coalesce::Coalesced;
use crate::io::local::LocalExecutor;

/// Streams under way on one connection before another is opened, where the other side admits as many. More would share one
/// TCP connection's losses and one core's cryptography without saving anything.
const CROWDED: usize = 200;

/// Streams on a connection to an endpoint outside the mesh that does not say in time how many it admits.
const UNKNOWN_LIMIT: usize = 32;

/// How long that may take. Servers say it as soon as a connection begins (RFC 9113, section 3.4).
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a new connection is looked at for it.
const SETTINGS_LOOK: Duration = Duration::from_millis(1);

/// The limit of a connection whose other side has not said one yet; no SETTINGS frame can carry it.
const UNSAID: usize = usize::MAX - 1;

/// Connections to one endpoint. With servers that admit only ten streams each these still carry 640 requests at once.
const MAX_CONNECTIONS: usize = 64;

/// Connections that may hand a request back before the endpoint counts as one that takes none.
const HANDED_BACK: usize = 8;

/// A connection without requests is closed after this.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes in flight per stream: what a slow client may pile up in memory.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes in flight on a connection with so many streams: as many as all of them may have. With less, clients that do not read
/// would take all of it, and with it the connection from those that do.
fn connection_window(streams: usize) -> u32 {
    /// RFC 9113, section 6.9.1.
    const MOST: u32 = (1 << 31) - 1;
    u32::try_from(streams).unwrap_or(MOST).saturating_mul(STREAM_WINDOW).clamp(STREAM_WINDOW, MOST)
}

/// A response's headers may take this many bytes.
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// A connection with requests on it is probed when it has been silent for this long, and given up after [`PING_TIMEOUT`].
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Pool {
    connections: RefCell<Vec<Rc<Connection>>>,
    opening: RefCell<Option<Opening>>,
}

type Opening = SharedFuture<LocalBoxFuture<'static, Result<Rc<Connection>, Rc<ConnectError>>>>;

struct Connection {
    sender: SendRequest<RequestBody>,
    streams: Cell<usize>,
    last_used: Cell<Instant>,
    /// Streams that the other side admits, as far as it has said.
    peer_limit: Rc<Cell<usize>>,
    /// Of the certificate that it was authenticated with; 0 without TLS.
    generation: u64,
    opened: Instant,
}

impl Connection {
    /// Streams that may be under way: never more than the other side admits, behind which a request would wait without an end.
    fn limit(&self, keeping: Keeping) -> usize {
        self.peer_limit.get().clamp(1, crowded(keeping))
    }
}

/// Streams under way on one connection before another is opened.
fn crowded(keeping: Keeping) -> usize {
    keeping.streams.map_or(CROWDED, |streams| usize::try_from(streams).unwrap_or(usize::MAX).max(1))
}

impl Pool {
    /// The least crowded connection, if one has room.
    fn pick(&self, generation: u64, keeping: Keeping) -> Option<Rc<Connection>> {
        let mut connections = self.connections.borrow_mut();
        let now = keeping.connections.max_age.map(|_| Instant::now());
        let is_old = |it: &Connection| now.is_some_and(|now| keeping.is_old(it.opened, now));
        // Those authenticated with an earlier certificate finish what they carry and take nothing new; so do old ones.
        connections.retain(|it| !it.sender.is_closed() && it.generation == generation && !is_old(it));
        let roomy = connections.iter().filter(|it| it.streams.get() < it.limit(keeping));
        roomy.min_by_key(|it| it.streams.get()).cloned()
    }

    fn is_full(&self) -> bool {
        self.connections.borrow().len() >= MAX_CONNECTIONS
    }

    pub(super) fn sweep(&self, keeping: Keeping, now: Instant) {
        let idle_timeout = keeping.connections.idle_timeout.unwrap_or(IDLE_TIMEOUT);
        self.connections.borrow_mut().retain(|it| {
            let busy = it.streams.get() > 0 || now.saturating_duration_since(it.last_used.get()) < idle_timeout;
            busy && !it.sender.is_closed() && !keeping.is_old(it.opened, now)
        });
    }
}

/// A stream on a shared connection.
pub(crate) struct Http2Lease(Rc<Connection>);

impl Http2Lease {
    fn new(connection: Rc<Connection>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self(connection)
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.last_used.set(Instant::now());
    }
}

pub(super) async fn send(upstream: &Rc<Upstream>, mut request: Request<RequestBody>) -> Result<Answer, SendError> {
    *request.version_mut() = Version::HTTP_2;
    // `:authority` says it; a Host beside it could say something else (RFC 9113, section 8.3.1).
    request.headers_mut().remove(HOST);
    if let Some(outside) = &upstream.outside {
        if outside.is_http1_only() {
            return http1::send(upstream, request).await;
        }
        say_https(&mut request);
    }
    // A connection may have begun to close since it was picked; its queue hands the request back untouched.
    for _ in 0..HANDED_BACK {
        let connection = match connection(upstream).await {
            // Behind TLS the server says what it speaks. Nothing of the request has been written.
            Err(_) if upstream.outside.as_ref().is_some_and(Outside::is_http1_only) => {
                return http1::send(upstream, request).await;
            }
            connection => connection?,
        };
        let lease = Http2Lease::new(Rc::clone(&connection));
        let mut sender = connection.sender.clone();
        match sender.try_send_request(request).await {
            Ok(response) => return Ok(Answer { response, lease: Lease::Http2(lease) }),
            Err(mut error) => match error.take_message() {
                Some(unsent) => {
                    upstream.http2.connections.borrow_mut().retain(|it| !Rc::ptr_eq(it, &connection));
                    request = unsent;
                }
                None if super::is_unprocessed(error.error()) => {
                    let detail = format!("{} is closing: {}", upstream.describe(), super::root_cause(error.error()));
                    return Err(SendError::NotProcessed(Fault::new(Reason::UpstreamReset, detail)));
                }
                None => return Err(upstream.broke(error.error())),
            },
        }
    }
    let detail = format!("{} closes every connection before it takes a request", upstream.describe());
    Err(SendError::NotProcessed(Fault::new(Reason::ConnectFailed, detail)))
}

/// A connection with room. Requests that arrive while one is being opened wait for that one; it is opened to its end even if
/// all of them are cancelled.
async fn connection(upstream: &Rc<Upstream>) -> Result<Rc<Connection>, SendError> {
    let generation = match &upstream.identity {
        Some(_) => upstream.shared.tls.load().as_ref().map_or(0, |tls| tls.generation),
        None => 0,
    };
    let keeping = upstream.keeping.get();
    loop {
        if let Some(connection) = upstream.http2.pick(generation, keeping) {
            return Ok(connection);
        }
        let running = upstream.http2.opening.borrow().clone();
        if running.is_none() && upstream.http2.is_full() {
            let detail = format!("{MAX_CONNECTIONS} connections to {} are full", upstream.describe());
            return Err(SendError::NotProcessed(Fault::new(Reason::Overloaded, detail)));
        }
        let opening = running.unwrap_or_else(|| begin_opening(upstream));
        let opened = opening.await.map_err(|error| SendError::NotProcessed(error.fault(upstream)))?;
        // Those who waited with this request may have filled it.
        if opened.streams.get() < opened.limit(keeping) {
            return Ok(opened);
        }
    }
}

fn begin_opening(upstream: &Rc<Upstream>) -> Opening {
    let task = tokio::task::spawn_local({
        let upstream = Rc::clone(upstream);
        async move {
            let opened = open(&upstream).await;
            upstream.http2.opening.borrow_mut().take();
            let connection = Rc::new(opened?);
            upstream.http2.connections.borrow_mut().push(Rc::clone(&connection));
            Ok(connection)
        }
    });
    let opening = async move { task.await.unwrap_or(Err(ConnectError::Cancelled)).map_err(Rc::new) }.boxed_local().shared();
    *upstream.http2.opening.borrow_mut() = Some(opening.clone());
    opening
}

/// `:scheme` is what the connection is (RFC 9113, section 8.3.1).
fn say_https(request: &mut Request<RequestBody>) {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    // It was a URI with a scheme before.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

async fn open(upstream: &Rc<Upstream>) -> Result<Connection, ConnectError> {
    if upstream.identity.is_some() {
        let (stream, generation) = connect::mesh(upstream, weir_tls::alpn::HTTP2).await?;
        let (connection, _) = handshake(Coalesced::new(stream), generation, CROWDED, upstream.keeping.get()).await?;
        return Ok(connection);
    }
    let keeping = upstream.keeping.get();
    let (connection, settled) = match &upstream.outside {
        Some(outside) => {
            let stream = outside.open(upstream.address, Speak::Http2).await?;
            handshake(Coalesced::new(stream), 0, UNKNOWN_LIMIT, keeping).await?
        }
        None => handshake(Coalesced::new(connect::tcp(upstream.address).await?), 0, UNKNOWN_LIMIT, keeping).await?,
    };
    // All that wait for this connection would be put on it at once, and those beyond its limit would wait there without an end.
    let _ = settled.await;
    Ok(connection)
}

/// A connection with `limit` until its other side says one. That, or that it does not in time, ends the receiver.
async fn handshake<T>(
    stream: T,
    generation: u64,
    limit: usize,
    keeping: Keeping,
) -> Result<(Connection, oneshot::Receiver<()>), ConnectError>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window(crowded(keeping)))
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_max_send_streams(UNSAID)
        .keep_alive_interval(keeping.connections.keep_alive.unwrap_or(PING_INTERVAL))
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ConnectError::Tcp(std::io::Error::other(error)))?;
    let peer_limit = Rc::new(Cell::new(limit));
    let (unsettled, settled) = oneshot::channel();
    let (mut connection, known) = (Box::pin(connection), Rc::clone(&peer_limit));
    let (begun, mut unsettled) = (Instant::now(), Some((unsettled, interval(SETTINGS_LOOK))));
    tokio::task::spawn_local(poll_fn(move |cx| {
        // How the connection ended is told to whoever has a stream on it.
        let ended = connection.as_mut().poll(cx).map(|_| ());
        // The SETTINGS are read by a task of hyper's own, which does not wake this one: it looks for them.
        while let Some((_, look)) = &mut unsettled {
            if connection.current_max_send_streams() != UNSAID || begun.elapsed() > SETTINGS_TIMEOUT {
                unsettled = None;
            } else if look.poll_tick(cx).is_pending() {
                break;
            }
        }
        let said = connection.current_max_send_streams();
        if said != UNSAID {
            known.set(said);
        }
        ended
    }));
    let (streams, last_used) = (Cell::new(0), Cell::new(Instant::now()));
    let connection = Connection { sender, streams, last_used, peer_limit, generation, opened: begun };
    Ok((connection, settled))
}

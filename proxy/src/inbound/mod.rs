//! What comes in for the application beside this proxy.
//!
//! A connection of another sidecar begins with a TLS ClientHello that offers the mesh's protocols. Anything else is an ordinary
//! client, plaintext or with TLS of its own, and policy says whether it may pass.

pub(crate) mod gate;
pub(crate) mod limits;
mod request;
mod upgrade;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::HeaderValue;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use weir_core::authz::{Permit, authorize};
use weir_core::names::{BackendRef, Identity};
use weir_core::snapshot::Protocol;
use weir_core::sniff::{MAX_SNIFF, Sniffed, sniff};

use crate::exchange::SeriesCache;
use crate::fault::{Fault, Hop, Reason};
use crate::http;
use crate::io::coalesce::Coalesced;
use crate::io::copy::copy_both;
use crate::io::farewell;
use crate::io::prefixed::Prefixed;
use crate::listen;
use crate::metrics::Labels;
use crate::outbound::note_end;
use crate::pool::{TcpUpstream, Upstream};
use crate::worker::{MAX_IN_FLIGHT, Worker};
use limits::Limits;

/// How long a client may take over its first bytes, and over its TLS handshake.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(90);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the client's first bytes are waited for before the application is asked for its own.
const CLIENT_FIRST: Duration = Duration::from_millis(20);

/// A port that nobody has called for this long is forgotten.
const PORT_IDLE: Duration = Duration::from_secs(600);

/// One worker's inbound side.
pub(crate) struct Inbound {
    worker: Rc<Worker>,
    ports: RefCell<HashMap<(u16, SocketAddr), Rc<Port>>>,
}

/// A port of the application.
pub(crate) struct Port {
    /// The number that clients dial.
    pub(crate) number: u16,
    /// Connections to the application.
    pub(crate) app: Rc<Upstream>,
    /// Where its requests are counted.
    pub(crate) series: SeriesCache,
    last_used: Cell<Instant>,
}

/// A connection that may enter: whose it is, and to which port.
#[derive(Clone)]
pub(crate) struct Caller {
    /// The worker.
    pub(crate) worker: Rc<Worker>,
    /// The port.
    pub(crate) port: Rc<Port>,
    /// Proved by mutual TLS; `None` for everybody else.
    pub(crate) peer: Option<Arc<Identity>>,
    /// The same as the application is told, written once for all requests of the connection.
    pub(crate) client_id: Option<HeaderValue>,
    /// How many requests it may send.
    pub(crate) limits: Rc<Limits>,
}

impl Caller {
    /// Whether the caller may enter, by the policy of this moment.
    ///
    /// # Errors
    ///
    /// The policy that refuses it.
    pub(crate) fn authorize(&self) -> Result<Permit, Fault> {
        let snapshot = self.worker.shared.snapshot.load();
        // The proxy's own certificate says which trust domain it is in, also before any configuration has come.
        let tls = self.worker.shared.tls.load();
        let trust_domain = tls.as_ref().map(|tls| tls.roots.trust_domain());
        authorize(snapshot.inbound(), trust_domain, self.peer.as_deref(), self.port.number).map_err(Fault::from)
    }

    /// What the application speaks on the port.
    pub(crate) fn protocol(&self) -> Protocol {
        self.worker.shared.snapshot.load().inbound().ports.get(&self.port.number).map_or(Protocol::Detect, |port| port.protocol)
    }

    /// The service that callers reach the port by.
    pub(crate) fn service(&self) -> Option<BackendRef> {
        self.worker.shared.snapshot.load().inbound().ports.get(&self.port.number).and_then(|port| port.service.clone())
    }

    /// Counts and logs a connection that was closed.
    fn close(&self, fault: &Fault) {
        self.worker.shared.metrics.fault(Hop::Inbound, fault.reason);
        tracing::warn!(
            hop = "inbound", port = self.port.number, reason = fault.reason.as_str(), detail = %fault.detail, "connection closed"
        );
    }
}

impl Inbound {
    /// The inbound side of a worker.
    pub(crate) fn new(worker: &Rc<Worker>) -> Rc<Self> {
        Rc::new(Self { worker: Rc::clone(worker), ports: RefCell::default() })
    }

    /// Serves a connection that was made to `listen`, for the application at `app`.
    pub(crate) fn accept(self: &Rc<Self>, stream: TcpStream, listen: SocketAddr, app: SocketAddr) {
        if self.worker.in_flight.count() >= MAX_IN_FLIGHT {
            self.worker.shared.metrics.fault(Hop::Inbound, Reason::Overloaded);
            return;
        }
        let caller = Caller {
            worker: Rc::clone(&self.worker),
            port: self.port(listen.port(), app),
            peer: None,
            client_id: None,
            limits: Rc::default(),
        };
        tokio::task::spawn_local(async move {
            serve(caller, stream).await;
        });
    }

    /// Serves a redirected connection, for the application at the address that the client dialled.
    pub(crate) fn accept_redirected(self: &Rc<Self>, stream: TcpStream) {
        let Some(dialled) = listen::original_destination(&stream) else {
            self.worker.shared.metrics.fault(Hop::Inbound, Reason::Loop);
            tracing::warn!(
                reason = Reason::Loop.as_str(),
                "connection closed: it was made to the proxy's own inbound port, which is for redirected connections only"
            );
            return;
        };
        self.accept(stream, dialled, dialled);
    }

    fn port(&self, number: u16, app: SocketAddr) -> Rc<Port> {
        let mut ports = self.ports.borrow_mut();
        let port = ports.entry((number, app)).or_insert_with(|| {
            Rc::new(Port {
                number,
                app: Upstream::new(&self.worker.shared, app, None, None),
                series: SeriesCache::default(),
                last_used: Cell::new(Instant::now()),
            })
        });
        port.last_used.set(Instant::now());
        Rc::clone(port)
    }

    /// Closes connections to the application that nothing has used for a while.
    pub(crate) fn sweep(&self, now: Instant) {
        self.ports.borrow_mut().retain(|_, port| {
            port.app.sweep(now);
            Rc::strong_count(port) > 1 || now.saturating_duration_since(port.last_used.get()) < PORT_IDLE
        });
    }
}

/// What a connection turns out to be.
enum Spoken {
    /// Another sidecar.
    Mesh,
    Http1,
    Http2,
    /// TLS that is not the mesh's, or anything else.
    Other,
}

async fn serve(mut caller: Caller, mut stream: TcpStream) {
    let mut first = BytesMut::new();
    if matches!(timeout(CLIENT_FIRST, stream.read_buf(&mut first)).await, Ok(Ok(0) | Err(_))) {
        return;
    }
    if first.is_empty() {
        // Silent: a client of a server that speaks first, or one that opens connections ahead of time.
        match wait_for_either(&caller, &mut stream, &mut first).await {
            Waited::Client => {}
            Waited::Over => return,
        }
    }
    let Some((spoken, first)) = read_first(&mut stream, first).await else { return };
    if let Spoken::Mesh = spoken {
        match handshake(&caller, Prefixed::new(first, stream)).await {
            Ok((tls, peer)) => {
                // A SPIFFE id is visible ASCII, which every header may hold.
                caller.client_id = peer.as_ref().and_then(|it| HeaderValue::from_str(&it.to_string()).ok());
                caller.peer = peer;
                serve_mesh(caller, tls).await;
            }
            Err(fault) => caller.close(&fault),
        }
        return;
    }
    serve_plain(caller, stream, spoken, first).await;
}

/// The same for plaintext from outside the mesh and for a mesh tunnel: HTTP where HTTP is spoken, so that nobody gets around what
/// HTTP brings with it, else bytes.
async fn serve_plain<S>(caller: Caller, stream: S, spoken: Spoken, first: Bytes)
where
    S: TcpUpstream + Send + 'static,
{
    let protocol = caller.protocol();
    let http = matches!(spoken, Spoken::Http1 | Spoken::Http2) && !matches!(protocol, Protocol::Opaque | Protocol::Tls);
    if http {
        // A drain waits for HTTP connections to be told and to end; for others while something is carried, which is counted there.
        let shared = Arc::clone(&caller.worker.shared);
        let _open = shared.lifecycle.connection();
        let drain = Some(shared.lifecycle.draining());
        let stream = Prefixed::new(first, stream);
        let handler = handler(&caller);
        let ended = match spoken {
            Spoken::Http1 => http::serve_http1(stream, Hop::Inbound, drain, handler).await,
            Spoken::Http2 | Spoken::Mesh | Spoken::Other => http::serve_http2(Coalesced::new(stream), drain, handler).await,
        };
        if let Err(error) = ended {
            note_end(&caller.worker, Hop::Inbound, &error);
        }
        return;
    }
    if let Err(fault) = caller.authorize() {
        return caller.close(&fault);
    }
    if protocol.is_http() && !first.starts_with(&[TLS_HANDSHAKE]) {
        let detail = "the first bytes are no HTTP request, and the port is said to speak HTTP";
        let fault = Fault::new(Reason::NotHttp, detail);
        caller.close(&fault);
        return farewell::refuse(stream, Hop::Inbound, &fault).await;
    }
    tunnel(&caller, &mut Prefixed::new(first, stream)).await;
}

/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

fn handler(caller: &Caller) -> Rc<impl Fn(::http::Request<hyper::body::Incoming>) -> request::Serving + use<>> {
    let caller = caller.clone();
    Rc::new(move |request| request::serve(caller.clone(), request))
}

async fn serve_mesh(caller: Caller, tls: TlsStream<Prefixed<TcpStream>>) {
    if tls.get_ref().1.alpn_protocol() == Some(weir_tls::alpn::HTTP2) {
        let shared = Arc::clone(&caller.worker.shared);
        let _open = shared.lifecycle.connection();
        let drain = Some(shared.lifecycle.draining());
        let handler = handler(&caller);
        if let Err(error) = http::serve_http2(Coalesced::new(tls), drain, handler).await {
            note_end(&caller.worker, Hop::Inbound, &error);
        }
        return;
    }
    serve_tunnel(caller, tls).await;
}

/// A mesh connection that carries bytes. What looks like HTTP on a port that is not declared opaque is served as HTTP: a peer
/// must not be able to hand the application identity headers of its own making.
async fn serve_tunnel(caller: Caller, mut tls: TlsStream<Prefixed<TcpStream>>) {
    if matches!(caller.protocol(), Protocol::Opaque | Protocol::Tls) {
        return match caller.authorize() {
            Ok(_) => tunnel(&caller, &mut tls).await,
            Err(fault) => caller.close(&fault),
        };
    }
    let mut first = BytesMut::new();
    if matches!(timeout(CLIENT_FIRST, tls.read_buf(&mut first)).await, Ok(Ok(0) | Err(_))) {
        return;
    }
    if first.is_empty() && matches!(wait_for_either(&caller, &mut tls, &mut first).await, Waited::Over) {
        return;
    }
    if let Some((spoken, first)) = read_first(&mut tls, first).await {
        serve_plain(caller, tls, spoken, first).await;
    }
}

/// The peer proves who it is.
async fn handshake(
    caller: &Caller,
    stream: Prefixed<TcpStream>,
) -> Result<(TlsStream<Prefixed<TcpStream>>, Option<Arc<Identity>>), Fault> {
    let mesh = caller.worker.shared.tls.load_full().ok_or_else(|| {
        Fault::new(Reason::NoCertificate, "a peer asks for mutual TLS and this proxy has no certificate yet; see /ready for why")
    })?;
    let from = stream.inner().peer_addr().map_or_else(|_| String::from("a peer"), |address| address.to_string());
    let failed = |detail: String| Fault::new(Reason::HandshakeFailed, format!("{from}: {detail}"));
    let accepting = TlsAcceptor::from(Arc::clone(&mesh.inbound)).accept(stream);
    let tls = timeout(HANDSHAKE_TIMEOUT, accepting)
        .await
        .map_err(|_| failed(String::from("the TLS handshake did not end in time")))?
        .map_err(|error| failed(weir_tls::explain(&error)))?;
    let peer = weir_tls::peer_identity(tls.get_ref().1.peer_certificates()).map_err(|error| failed(error.to_string()))?;
    Ok((tls, peer.map(Arc::new)))
}

enum Waited {
    /// The client spoke; what it said is in the buffer.
    Client,
    /// The connection has been served, or has ended.
    Over,
}

/// Waits for the client, and where the application may be the one that speaks first, for the application.
async fn wait_for_either<S: TcpUpstream>(caller: &Caller, stream: &mut S, first: &mut BytesMut) -> Waited {
    let may_speak_first = matches!(caller.protocol(), Protocol::Detect | Protocol::Opaque) && caller.authorize().is_ok();
    if !may_speak_first {
        return match timeout(FIRST_BYTES_TIMEOUT, stream.read_buf(first)).await {
            Ok(Ok(read)) if read > 0 => Waited::Client,
            Ok(_) => Waited::Over,
            Err(_) => {
                caller.close(&Fault::new(Reason::DetectTimeout, "the client has said nothing"));
                Waited::Over
            }
        };
    }
    let mut app = tokio::select! {
        biased;
        read = stream.read_buf(first) => return client_spoke(&read),
        opened = caller.port.app.open_tcp(false) => match opened {
            Ok(app) => app,
            Err(fault) => {
                caller.close(&fault);
                return Waited::Over;
            }
        },
    };
    let mut greeting = BytesMut::new();
    tokio::select! {
        biased;
        read = stream.read_buf(first) => client_spoke(&read),
        read = app.read_buf(&mut greeting) => {
            if matches!(read, Ok(n) if n > 0) && stream.write_all(&greeting).await.is_ok() {
                carry(caller, stream, &mut app, greeting.len()).await;
            }
            Waited::Over
        }
    }
}

const fn client_spoke(read: &std::io::Result<usize>) -> Waited {
    match read {
        Ok(0) | Err(_) => Waited::Over,
        Ok(_) => Waited::Client,
    }
}

async fn tunnel<S: TcpUpstream>(caller: &Caller, stream: &mut S) {
    match caller.port.app.open_tcp(false).await {
        Ok(mut app) => carry(caller, stream, &mut app, 0).await,
        Err(fault) => caller.close(&fault),
    }
}

async fn carry<S: TcpUpstream>(caller: &Caller, stream: &mut S, app: &mut Box<dyn TcpUpstream>, greeted: usize) {
    let _busy = caller.worker.in_flight.enter();
    let backend = caller.service();
    let series = caller.worker.connections.find(&Labels {
        hop: Hop::Inbound,
        service: backend.as_ref().map(|it| it.service.clone()),
        route: None,
        backend,
        peer: caller.peer.clone(),
    });
    let _open = series.open();
    series.received.inc_by(greeted as u64);
    if let Err(error) = copy_both(stream, app, &series.sent, &series.received).await {
        tracing::debug!(%error, "opaque connection broke off");
    }
}

/// Reads until it is clear what is spoken. `None`: the client went away, or took too long.
async fn read_first<S: TcpUpstream>(stream: &mut S, mut first: BytesMut) -> Option<(Spoken, Bytes)> {
    let read = async {
        loop {
            let spoken = match sniff(&first) {
                Sniffed::NeedMore if first.len() < MAX_SNIFF => None,
                Sniffed::Tls(hello) if hello.alpn.contains(weir_tls::alpn::HTTP2) || hello.alpn.contains(weir_tls::alpn::TCP) => {
                    Some(Spoken::Mesh)
                }
                Sniffed::Http1 => Some(Spoken::Http1),
                Sniffed::Http2 => Some(Spoken::Http2),
                Sniffed::NeedMore | Sniffed::Tls(_) | Sniffed::Opaque => Some(Spoken::Other),
            };
            if spoken.is_some() {
                return spoken;
            }
            if stream.read_buf(&mut first).await.ok()? == 0 {
                return None;
            }
        }
    };
    let spoken = timeout(FIRST_BYTES_TIMEOUT, read).await.ok()??;
    Some((spoken, first.freeze()))
}

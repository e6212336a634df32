//! Opaque connections: CONNECT, and redirected connections that are no HTTP.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_core::balance::{FailureCause, Outcome};
use weir_core::names::{BackendRef, Identity};
use weir_core::route::StreamTable;
use weir_core::route::stream::StreamRefusal;
use weir_core::sniff::{MAX_SNIFF, Sniffed, sniff};

use super::destination::{self, Destination};
use super::request::{bare, connect_target};
use super::{FIRST_BYTES_TIMEOUT, Mode};
use crate::body::Body;
use crate::cluster::Cluster;
use crate::exchange::Exchange;
use crate::fault::{Fault, Hop, Reason};
use crate::io::copy::copy_both;
use crate::io::prefixed::Prefixed;
use crate::io::upgraded::ClientHalf;
use crate::metrics::{ConnectionSeries, Labels};
use crate::pool::TcpUpstream;
use crate::slots::Slot;
use crate::worker::Worker;

/// Endpoints that are tried for one connection.
const ATTEMPTS: usize = 3;

/// How long a CONNECT's client may take to begin TLS of its own, where a policy would else begin it for the client.
const HELLO_TIMEOUT: Duration = Duration::from_millis(200);

/// The far end of an opaque connection.
pub(super) struct Upstream {
    stream: Box<dyn TcpUpstream>,
    series: ConnectionSeries,
    /// One of as many as may be open, where that is limited.
    _slot: Option<Slot>,
}

/// Answers a CONNECT. The endpoint is connected before the client is told so: a failure is an answer, not a closed connection.
///
/// # Errors
///
/// The target is unknown or nobody there accepts.
pub(super) async fn connect(
    worker: &Rc<Worker>,
    mode: &Mode,
    request: Request<Incoming>,
    exchange: &mut Option<Exchange>,
) -> Result<Response<Body>, Fault> {
    let (mut parts, _) = request.into_parts();
    if !matches!(mode, Mode::Proxy) {
        let detail = "a connection that was redirected is no proxy connection; CONNECT is not served on it";
        return Err(Fault::new(Reason::BadRequest, detail));
    }
    let target = connect_target(worker, &parts)?;
    let destination = destination::find(worker, target).await?;
    // Where the client's own words say who gets the connection, or whether it is TLS already, they come after the answer.
    let waits = is_routed_by_name(worker, &destination) || may_get_tls(worker, &destination);
    let opened = if waits { None } else { Some(open(worker, &destination, &Heard::default()).await?) };
    let Some(client) = ClientHalf::take(&mut parts.extensions) else {
        return Err(Fault::new(Reason::BadRequest, "CONNECT is not possible on this connection"));
    };
    let worker = Rc::clone(worker);
    // Counted as a connection from here on, not as a request: its length says nothing of how the mesh served it.
    let busy = worker.in_flight.enter();
    drop(exchange.take());
    tokio::task::spawn_local(async move {
        let _busy = busy;
        match (client.switched().await, opened) {
            (Ok(mut client), Some(mut upstream)) => copy(&mut client, &mut upstream).await,
            (Ok(client), None) => carry_as_said(&worker, client, &destination, Bytes::new()).await,
            (Err(error), _) => tracing::debug!(%error, "the client left before its tunnel stood"),
        }
    });
    Ok(bare(StatusCode::OK))
}

/// Carries a connection to its destination. `first` is what has been read of it already.
pub(super) async fn carry(worker: &Rc<Worker>, stream: TcpStream, destination: &Destination, first: Bytes) {
    let _busy = worker.in_flight.enter();
    if is_routed_by_name(worker, destination) {
        return carry_as_said(worker, stream, destination, first).await;
    }
    let heard = Heard { name: None, tls: matches!(sniff(&first), Sniffed::Tls(_)) };
    match open(worker, destination, &heard).await {
        Ok(mut upstream) => copy(&mut Prefixed::new(first, stream), &mut upstream).await,
        Err(fault) => close(worker, &fault),
    }
}

fn is_routed_by_name(worker: &Worker, destination: &Destination) -> bool {
    destination.streams(&worker.shared.snapshot.load()).is_some_and(StreamTable::by_name)
}

/// Whether the connection may lead to an endpoint outside the mesh that a policy wants reached by TLS.
fn may_get_tls(worker: &Worker, destination: &Destination) -> bool {
    let Destination::Service(dialled) = destination else { return false };
    let snapshot = worker.shared.snapshot.load();
    let wants = |backend: &BackendRef| {
        snapshot.endpoints(backend).is_some_and(|known| known.endpoints.iter().any(|endpoint| endpoint.tls.is_some()))
    };
    match destination.streams(&snapshot) {
        Some(table) => table.rules().iter().flat_map(|rule| &rule.backends).any(|it| wants(&it.backend)),
        None => wants(dialled),
    }
}

/// What a client's first bytes say, as far as they were waited for.
#[derive(Debug, Default)]
struct Heard {
    /// The server that it asks for.
    name: Option<String>,
    /// It speaks TLS itself.
    tls: bool,
}

/// Carries a connection whose client says in its ClientHello which server it wants, or at least whether it speaks TLS. Nothing of
/// it is changed.
async fn carry_as_said<S>(worker: &Rc<Worker>, mut stream: S, destination: &Destination, first: Bytes)
where
    S: AsyncRead + AsyncWrite + Unpin,
    Prefixed<S>: TcpUpstream,
{
    let mut read = BytesMut::from(&first[..]);
    let by_name = is_routed_by_name(worker, destination);
    let wait = if by_name { FIRST_BYTES_TIMEOUT } else { HELLO_TIMEOUT };
    let heard = match tokio::time::timeout(wait, hello(&mut stream, &mut read)).await {
        Ok(Some(heard)) => heard,
        // It waits for the server's greeting.
        Err(_) if !by_name => Heard::default(),
        Ok(None) | Err(_) => return,
    };
    match open(worker, destination, &heard).await {
        Ok(mut upstream) => copy(&mut Prefixed::new(read.freeze(), stream), &mut upstream).await,
        Err(fault) => close(worker, &fault),
    }
}

/// Reads until it is clear which server the client asks for, if any. `None`: the client went away.
async fn hello<S: AsyncRead + Unpin>(stream: &mut S, read: &mut BytesMut) -> Option<Heard> {
    loop {
        match sniff(read) {
            Sniffed::NeedMore if read.len() < MAX_SNIFF => {}
            Sniffed::Tls(hello) => return Some(Heard { name: hello.sni.map(Cow::into_owned), tls: true }),
            Sniffed::NeedMore | Sniffed::Http1 | Sniffed::Http2 | Sniffed::Opaque => return Some(Heard::default()),
        }
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
}

/// Carries a connection whose far end is open already and has said `greeting`.
pub(super) async fn carry_over(worker: &Rc<Worker>, mut stream: TcpStream, mut upstream: Upstream, greeting: Bytes) {
    let _busy = worker.in_flight.enter();
    if stream.write_all(&greeting).await.is_ok() {
        upstream.series.received.inc_by(greeting.len() as u64);
        copy(&mut stream, &mut upstream).await;
    }
}

/// Who spoke first.
pub(super) enum Race {
    /// The client; what it said is in the buffer that was given.
    ClientSpoke,
    /// The server.
    ServerSpoke(Upstream, Bytes),
    /// One of them has closed.
    Over,
}

/// Opens the connection to the destination and listens to both sides.
pub(super) async fn race(worker: &Rc<Worker>, stream: &mut TcpStream, destination: &Destination, first: &mut BytesMut) -> Race {
    let heard = Heard::default();
    let mut upstream = tokio::select! {
        biased;
        read = stream.read_buf(first) => return client_spoke(read),
        opened = open(worker, destination, &heard) => match opened {
            Ok(upstream) => upstream,
            Err(fault) => {
                close(worker, &fault);
                return Race::Over;
            }
        },
    };
    let mut greeting = BytesMut::new();
    tokio::select! {
        biased;
        read = stream.read_buf(first) => client_spoke(read),
        read = upstream.stream.read_buf(&mut greeting) => match read {
            Ok(0) | Err(_) => Race::Over,
            Ok(_) => Race::ServerSpoke(upstream, greeting.freeze()),
        },
    }
}

fn client_spoke(read: std::io::Result<usize>) -> Race {
    match read {
        Ok(0) | Err(_) => Race::Over,
        Ok(_) => Race::ClientSpoke,
    }
}

async fn copy<S: TcpUpstream>(stream: &mut S, upstream: &mut Upstream) {
    let _open = upstream.series.open();
    let copied = copy_both(stream, &mut upstream.stream, &upstream.series.sent, &upstream.series.received).await;
    if let Err(error) = copied {
        tracing::debug!(%error, "opaque connection broke off");
    }
}

fn close(worker: &Worker, fault: &Fault) {
    worker.shared.metrics.fault(Hop::Outbound, fault.reason);
    tracing::warn!(hop = "outbound", reason = fault.reason.as_str(), detail = %fault.detail, "connection closed");
}

async fn open(worker: &Rc<Worker>, destination: &Destination, heard: &Heard) -> Result<Upstream, Fault> {
    match destination {
        Destination::Service(service) => {
            let cluster = {
                let snapshot = worker.shared.snapshot.load();
                let chosen =
                    destination.streams(&snapshot).map(|table| table.choose(heard.name.as_deref(), &mut worker.rng.borrow_mut()));
                let chosen = chosen.transpose().map_err(|why| refused(service, &why))?;
                worker.cluster(chosen.map_or(service, |it| &it.backend), &snapshot)
            };
            open_service(worker, service, &cluster, heard.tls).await
        }
        Destination::Workload(endpoint) => open_direct(worker, endpoint.address, endpoint.identity.as_ref()).await,
        Destination::Outside(address) => open_direct(worker, *address, None).await,
    }
}

/// Nothing is lost by trying another endpoint: no byte of the client's has been sent.
async fn open_service(
    worker: &Rc<Worker>,
    dialled: &BackendRef,
    cluster: &Rc<Cluster>,
    own_tls: bool,
) -> Result<Upstream, Fault> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let slot = cluster.slots().map(|slots| slots.connection()).transpose()?.flatten();
    loop {
        // Of a connection nothing is known but where it comes from.
        let mut pick = cluster.pick(&tried, cluster.preference(&HeaderMap::new()))?;
        let endpoint = Rc::clone(&pick.upstream);
        match endpoint.open_tcp(own_tls).await {
            Ok(stream) => {
                pick.answered();
                pick.finish(Outcome::Success);
                let series = series(worker, Some((dialled, &cluster.backend)), endpoint.identity.as_ref());
                return Ok(Upstream { stream, series, _slot: slot });
            }
            Err(fault) => {
                pick.finish(Outcome::Failure(FailureCause::Connect));
                tried.push(endpoint.address);
                if tried.len() >= ATTEMPTS {
                    return Err(fault);
                }
                // Time has passed: endpoints may have come and gone.
                cluster.reconcile(worker.shared.snapshot.load().endpoints(&cluster.backend));
            }
        }
    }
}

async fn open_direct(
    worker: &Rc<Worker>,
    address: SocketAddr,
    identity: Option<&std::sync::Arc<Identity>>,
) -> Result<Upstream, Fault> {
    let endpoint = worker.direct(address, identity);
    let stream = endpoint.open_tcp(false).await?;
    Ok(Upstream { stream, series: series(worker, None, endpoint.identity.as_ref()), _slot: None })
}

/// Why routes for connections let nobody have this one.
pub(super) fn refused(service: &BackendRef, why: &StreamRefusal) -> Fault {
    Fault::new(why.reason(), format!("{service}: {why}"))
}

fn series(
    worker: &Worker,
    service: Option<(&BackendRef, &BackendRef)>,
    peer: Option<&std::sync::Arc<Identity>>,
) -> ConnectionSeries {
    worker.connections.find(&Labels {
        hop: Hop::Outbound,
        service: service.map(|(dialled, _)| dialled.service.clone()),
        route: None,
        backend: service.map(|(_, backend)| backend.clone()),
        peer: peer.cloned(),
    })
}

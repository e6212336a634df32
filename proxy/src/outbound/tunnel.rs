//! Opaque connections: CONNECT, and redirected connections that are no HTTP.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_core::balance::{FailureCause, Outcome};
use weir_core::names::{BackendRef, Identity};

use super::Mode;
use super::destination::{self, Destination};
use super::request::{bare, connect_target};
use crate::body::Body;
use crate::exchange::Exchange;
use crate::fault::{Fault, Hop, Reason};
use crate::io::copy::copy_both;
use crate::io::prefixed::Prefixed;
use crate::metrics::{ConnectionSeries, Labels};
use crate::pool::TcpUpstream;
use crate::worker::Worker;

/// Endpoints that are tried for one connection.
const ATTEMPTS: usize = 3;

/// The far end of an opaque connection.
pub(super) struct Upstream {
    stream: Box<dyn TcpUpstream>,
    series: ConnectionSeries,
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
    let mut upstream = open(worker, &destination).await?;
    let Some(on_upgrade) = parts.extensions.remove::<hyper::upgrade::OnUpgrade>() else {
        return Err(Fault::new(Reason::BadRequest, "CONNECT is not possible on this connection"));
    };
    // Counted as a connection from here on, not as a request: its length says nothing of how the mesh served it.
    let busy = worker.in_flight.enter();
    drop(exchange.take());
    tokio::task::spawn_local(async move {
        let _busy = busy;
        match on_upgrade.await {
            Ok(upgraded) => copy(&mut TokioIo::new(upgraded), &mut upstream).await,
            Err(error) => tracing::debug!(%error, "the client left before its tunnel stood"),
        }
    });
    Ok(bare(StatusCode::OK))
}

/// Carries a connection to its destination. `first` is what has been read of it already.
pub(super) async fn carry(worker: &Rc<Worker>, stream: TcpStream, destination: &Destination, first: Bytes) {
    let _busy = worker.in_flight.enter();
    match open(worker, destination).await {
        Ok(mut upstream) => copy(&mut Prefixed::new(first, stream), &mut upstream).await,
        Err(fault) => close(worker, &fault),
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
    let mut upstream = tokio::select! {
        biased;
        read = stream.read_buf(first) => return client_spoke(read),
        opened = open(worker, destination) => match opened {
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

async fn open(worker: &Rc<Worker>, destination: &Destination) -> Result<Upstream, Fault> {
    match destination {
        Destination::Service(service) => open_service(worker, &service.backend).await,
        Destination::Workload(endpoint) => open_direct(worker, endpoint.address, endpoint.identity.as_ref()).await,
        Destination::Outside(address) => open_direct(worker, *address, None).await,
    }
}

/// Nothing is lost by trying another endpoint: no byte of the client's has been sent.
async fn open_service(worker: &Rc<Worker>, backend: &BackendRef) -> Result<Upstream, Fault> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    loop {
        let cluster = worker.cluster(backend, &worker.shared.snapshot.load());
        let mut pick = cluster.pick(&tried)?;
        let endpoint = Rc::clone(&pick.upstream);
        match endpoint.open_tcp().await {
            Ok(stream) => {
                pick.answered();
                pick.finish(Outcome::Success);
                let series = series(worker, Some(backend), endpoint.identity.as_ref());
                return Ok(Upstream { stream, series });
            }
            Err(fault) => {
                pick.finish(Outcome::Failure(FailureCause::Connect));
                tried.push(endpoint.address);
                if tried.len() >= ATTEMPTS {
                    return Err(fault);
                }
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
    let stream = endpoint.open_tcp().await?;
    Ok(Upstream { stream, series: series(worker, None, endpoint.identity.as_ref()) })
}

fn series(worker: &Worker, backend: Option<&BackendRef>, peer: Option<&std::sync::Arc<Identity>>) -> ConnectionSeries {
    worker.connections.find(&Labels {
        hop: Hop::Outbound,
        service: backend.map(|it| it.service.clone()),
        route: None,
        backend: backend.cloned(),
        peer: peer.cloned(),
    })
}

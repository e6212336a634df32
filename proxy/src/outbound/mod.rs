//! What the application beside this proxy calls.
//!
//! A connection comes in either redirected, and then the address that the application dialled says what it wants, or made to the
//! proxy itself as an HTTP forward proxy. [`request`] serves HTTP; [`tunnel`] everything else.

mod attempt;
mod destination;
mod mirror;
mod request;
mod tunnel;
mod upgrade;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use weir_core::snapshot::Protocol;
use weir_core::sniff::{MAX_SNIFF, Sniffed, sniff};

use crate::fault::{Fault, Hop, Reason};
use crate::http;
use crate::io::coalesce::Coalesced;
use crate::io::farewell;
use crate::io::prefixed::Prefixed;
use crate::listen;
use crate::worker::{MAX_IN_FLIGHT, Worker};
use destination::{Destination, Dialled};

/// How long a client of an HTTP port may take over its first bytes.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(90);

/// How long the client's first bytes are waited for before the server is asked for its own. Clients that speak first do so in the
/// same breath as they connect; a server that speaks first is heard this much later.
const CLIENT_FIRST: Duration = Duration::from_millis(20);

/// How requests on a connection say where they go.
pub(crate) enum Mode {
    /// Each by itself: the client uses this proxy as an HTTP proxy.
    Proxy,
    /// All of them to what the client dialled.
    Dialled(Dialled),
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    Other,
}

/// Serves a connection of the application on a task of its own.
pub(crate) fn accept(worker: &Rc<Worker>, stream: TcpStream) {
    let worker = Rc::clone(worker);
    if worker.in_flight.count() >= MAX_IN_FLIGHT {
        worker.shared.metrics.fault(Hop::Outbound, Reason::Overloaded);
        return;
    }
    tokio::task::spawn_local(async move {
        match listen::original_destination(&stream) {
            Some(dialled) => redirected(worker, stream, dialled).await,
            None => proxied(worker, stream).await,
        }
    });
}

async fn proxied(worker: Rc<Worker>, mut stream: TcpStream) {
    let (spoken, first) = match timeout(FIRST_BYTES_TIMEOUT, read_first(&mut stream, BytesMut::new())).await {
        Ok(Some(read)) => read,
        Ok(None) | Err(_) => return,
    };
    serve(worker, Prefixed::new(first, stream), spoken, Mode::Proxy).await;
}

async fn redirected(worker: Rc<Worker>, mut stream: TcpStream, address: SocketAddr) {
    let found = async {
        let dialled = Dialled::find(&worker, address).await?;
        dialled.destination(&worker).await.map(|destination| (dialled, destination))
    };
    let (dialled, destination) = match found.await {
        Ok(found) => found,
        Err(fault) => {
            worker.shared.metrics.fault(Hop::Outbound, fault.reason);
            tracing::warn!(dialled = %address, %fault, "connection closed");
            return;
        }
    };
    let protocol = destination.protocol(&worker.shared.snapshot.load());
    match protocol {
        Protocol::Tls | Protocol::Opaque => tunnel::carry(&worker, stream, &destination, Bytes::new()).await,
        Protocol::Http | Protocol::Http1 | Protocol::Http2 => {
            if let Ok(Some((spoken, first))) = timeout(FIRST_BYTES_TIMEOUT, read_first(&mut stream, BytesMut::new())).await {
                serve(worker, Prefixed::new(first, stream), spoken, Mode::Dialled(dialled)).await;
            }
        }
        Protocol::Detect => detect(worker, stream, destination, Mode::Dialled(dialled)).await,
    }
}

/// Nobody said what is spoken: whoever speaks first does.
async fn detect(worker: Rc<Worker>, mut stream: TcpStream, destination: Destination, mode: Mode) {
    let mut first = BytesMut::new();
    let spoke = timeout(CLIENT_FIRST, stream.read_buf(&mut first)).await;
    match spoke {
        Ok(Ok(0) | Err(_)) => return,
        Ok(Ok(_)) => {}
        Err(_) => {
            // A silent client waits for the server's greeting.
            match tunnel::race(&worker, &mut stream, &destination, &mut first).await {
                tunnel::Race::ClientSpoke => {}
                tunnel::Race::ServerSpoke(upstream, greeting) => {
                    return tunnel::carry_over(&worker, stream, upstream, greeting).await;
                }
                tunnel::Race::Over => return,
            }
        }
    }
    match read_first(&mut stream, first).await {
        Some((Spoken::Other, first)) => tunnel::carry(&worker, stream, &destination, first).await,
        Some((spoken, first)) => serve(worker, Prefixed::new(first, stream), spoken, mode).await,
        None => {}
    }
}

/// Reads until it is clear what is spoken. `None`: the client went away.
async fn read_first(stream: &mut TcpStream, mut first: BytesMut) -> Option<(Spoken, Bytes)> {
    loop {
        let spoken = match sniff(&first) {
            Sniffed::NeedMore if first.len() < MAX_SNIFF => None,
            Sniffed::Http1 => Some(Spoken::Http1),
            Sniffed::Http2 => Some(Spoken::Http2),
            Sniffed::NeedMore | Sniffed::Tls(_) | Sniffed::Opaque => Some(Spoken::Other),
        };
        if let Some(spoken) = spoken {
            return Some((spoken, first.freeze()));
        }
        if stream.read_buf(&mut first).await.ok()? == 0 {
            return None;
        }
    }
}

async fn serve(worker: Rc<Worker>, stream: Prefixed<TcpStream>, spoken: Spoken, mode: Mode) {
    let handler = {
        let (worker, mode) = (Rc::clone(&worker), Rc::new(mode));
        Rc::new(move |request| request::serve(Rc::clone(&worker), Rc::clone(&mode), request))
    };
    let ended = match spoken {
        Spoken::Http1 => {
            // On a task of its own, which has room for this and no more: such connections live long, and most are silent.
            tokio::task::spawn_local(async move {
                if let Err(error) = http::serve_http1(stream, Hop::Outbound, None, handler).await {
                    note_end(&worker, Hop::Outbound, &error);
                }
            });
            return;
        }
        Spoken::Http2 => http::serve_http2(Coalesced::new(stream), None, handler).await,
        Spoken::Other => {
            worker.shared.metrics.fault(Hop::Outbound, Reason::NotHttp);
            tracing::warn!(
                reason = Reason::NotHttp.as_str(),
                "connection closed: its first bytes are no HTTP request. For other protocols use CONNECT, or mark the service's port \
                 (appProtocol: tcp)"
            );
            let fault = Fault::new(Reason::NotHttp, "the first bytes are no HTTP request, and nothing else is spoken here");
            return farewell::refuse(stream, Hop::Outbound, &fault).await;
        }
    };
    if let Err(error) = ended {
        note_end(&worker, Hop::Outbound, &error);
    }
}

/// Connections break all day; only what a client did wrong is worth a count.
pub(crate) fn note_end(worker: &Worker, hop: Hop, error: &hyper::Error) {
    if error.is_parse_too_large() {
        worker.shared.metrics.fault(hop, Reason::HeadersTooLarge);
    } else if error.is_parse() {
        worker.shared.metrics.fault(hop, Reason::BadRequest);
    }
    tracing::debug!(hop = hop.as_str(), %error, "connection ended");
}

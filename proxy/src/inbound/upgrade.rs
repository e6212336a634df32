//! Upgrades on their way in: an extended CONNECT from another sidecar (RFC 8441) becomes an HTTP/1.1 upgrade again.

use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::ext::Protocol;
use weir_core::authz::Permit;
use weir_core::hop::strip_hop_by_hop;

use super::Caller;
use super::request::{connection_labels, pass_on};
use crate::body::{Body, RequestBody};
use crate::exchange::Exchange;
use crate::fault::{Fault, Reason};
use crate::http::offer_websocket_key;
use crate::io::upgraded::{self, ClientHalf};
use crate::pool::{SendError, WEIR_STATUS, Wire};

/// An upgrade that a client asks for.
pub(super) struct Asked {
    token: HeaderValue,
    client: ClientHalf,
    /// The client's side is an HTTP/2 stream: accepted with 200, without the headers of HTTP/1.1.
    stream: bool,
}

/// Takes the upgrade out of a request, if it asks for one.
pub(super) fn asked(parts: &mut Parts, token_of: impl Fn(&HeaderMap) -> Option<String>) -> Option<Result<Asked, Fault>> {
    let (token, stream) = if parts.method == Method::CONNECT {
        (parts.extensions.remove::<Protocol>()?.as_str().to_owned(), true)
    } else if parts.method == Method::GET {
        (token_of(&parts.headers)?, false)
    } else {
        return None;
    };
    let client = ClientHalf::take(&mut parts.extensions);
    Some(match (HeaderValue::from_str(&token), client) {
        (Ok(token), Some(client)) => Ok(Asked { token, client, stream }),
        (Err(_), _) => Err(Fault::new(Reason::BadRequest, "the protocol to upgrade to is no header value")),
        (_, None) => Err(Fault::new(Reason::UpgradeFailed, "this connection cannot be upgraded")),
    })
}

/// Offers the upgrade to the application and carries the connection after it.
///
/// # Errors
///
/// The application does not answer.
pub(super) async fn run(
    caller: &Caller,
    _: Permit,
    mut parts: Parts,
    asked: Asked,
    exchange: &mut Option<Exchange>,
) -> Result<Response<Body>, Fault> {
    let Asked { token, client, stream } = asked;
    parts.method = Method::GET;
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, token.clone());
    let made_key = stream && offer_websocket_key(token.to_str().unwrap_or_default(), &mut parts.headers);
    let mut answered = loop {
        let request = Request::from_parts(parts.clone(), RequestBody::Empty);
        match caller.port.app.send(request, Wire::Http1).await {
            Err(SendError::Stale(_)) => {}
            sent => break sent.map_err(SendError::into_fault)?,
        }
    };
    if answered.response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let mut response = pass_on(answered, exchange);
        // On a CONNECT stream a success means that the tunnel stands; one that does not mean it goes beside the status.
        if stream && response.status().is_success() {
            let status = HeaderValue::from(response.status().as_u16());
            response.headers_mut().insert(WEIR_STATUS, status);
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        return Ok(response);
    }
    let server = hyper::upgrade::on(&mut answered.response);
    let (mut parts, _) = answered.response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(CONTENT_LENGTH);
    if stream {
        parts.status = StatusCode::OK;
        if made_key {
            // The answer to a key that the client did not send.
            parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
        }
    } else {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, token);
    }
    if let Some(mut exchange) = exchange.take() {
        exchange.answered(StatusCode::SWITCHING_PROTOCOLS, &parts.headers);
    }
    let series = caller.worker.connections.find(&connection_labels(caller));
    let busy = (caller.worker.in_flight.enter(), Rc::clone(&caller.port));
    let lease = answered.lease;
    tokio::task::spawn_local(async move {
        let (_busy, _lease) = (busy, lease);
        upgraded::join(client, server, &series).await;
    });
    Ok(Response::from_parts(parts, Body::Empty))
}

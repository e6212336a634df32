//! Requests that turn their connection into something else, such as WebSocket.
//!
//! They are attempts like any other, with the route's timeouts, retries and filters; only how they are written differs. Between
//! sidecars an upgrade travels as an extended CONNECT (RFC 8441) on the shared HTTP/2 connection; to an endpoint outside the mesh
//! as HTTP/1.1 has it. A client may ask in either form.

use std::cell::RefCell;
use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::request::Parts as RequestParts;
use http::response::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use crate::body::RequestBody;
use crate::exchange::Exchange;
use crate::fault::{Fault, Hop, Reason, WEIR_ERROR};
use crate::http::offer_websocket_key;
use crate::io::upgraded::{self, ClientHalf};
use crate::metrics::Labels;
use crate::pool::{Lease, WEIR_STATUS, Wire};
use crate::worker::Worker;

/// What a client wants its connection to become.
pub(super) struct Upgrade {
    token: String,
    /// The client's side is an HTTP/2 stream: accepted with 200, without the headers of HTTP/1.1.
    stream: bool,
    /// The client's half of the connection, once it has been answered with 101.
    client: RefCell<Option<ClientHalf>>,
}

impl Upgrade {
    /// Takes the client's half out of its request. `None`: the connection cannot be upgraded, and the request is an ordinary one,
    /// which is what a server that does not want to upgrade makes of it too (RFC 9110, section 7.8).
    pub(super) fn take(token: String, stream: bool, parts: &mut RequestParts) -> Option<Self> {
        let client = ClientHalf::take(&mut parts.extensions)?;
        if stream {
            offer_websocket_key(&token, &mut parts.headers);
        }
        Some(Self { token, stream, client: RefCell::new(Some(client)) })
    }

    /// The request as this endpoint understands it.
    pub(super) fn offer(&self, mut request: Request<RequestBody>, meshed: bool) -> (Request<RequestBody>, Wire) {
        request.headers_mut().remove(CONTENT_LENGTH);
        if meshed {
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(Protocol::from(self.token.as_str()));
            return (request, Wire::Http2);
        }
        self.mark(request.headers_mut());
        (request, Wire::Http1)
    }

    /// Joins the two halves of an upgrade that the endpoint accepted, on a task of their own, and completes the client's answer.
    pub(super) fn switch(&self, worker: &Rc<Worker>, parts: &mut Parts, server: OnUpgrade, mut exchange: Exchange, lease: Lease) {
        parts.headers.remove(CONTENT_LENGTH);
        if self.stream {
            parts.status = StatusCode::OK;
            parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
        } else {
            self.mark(&mut parts.headers);
        }
        exchange.answered(parts.status, &parts.headers);
        let labels = exchange.series().map_or_else(|| Labels::unknown(Hop::Outbound), |series| series.connection_labels());
        let series = worker.connections.find(&labels);
        let busy = worker.in_flight.enter();
        let Some(client) = self.client.borrow_mut().take() else { return };
        tokio::task::spawn_local(async move {
            let (_busy, _lease) = (busy, lease);
            upgraded::join(client, server, &series).await;
        });
    }

    /// Brings the answer of an application that did not switch into the client's form: on a stream that asked with CONNECT a
    /// success would say that it did.
    pub(super) fn declined(&self, parts: &mut Parts) {
        if self.stream && parts.status.is_success() {
            let detail = format!("the application answered {} and did not switch to {}", parts.status, self.token);
            parts.headers.insert(WEIR_ERROR, Fault::new(Reason::UpgradeFailed, detail).header(Hop::Outbound));
            parts.status = Reason::UpgradeFailed.status();
        }
    }

    fn mark(&self, headers: &mut http::HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Ok(token) = HeaderValue::from_str(&self.token) {
            headers.insert(UPGRADE, token);
        }
    }
}

/// What an extended CONNECT (RFC 8441) wants its stream to become. The request becomes the GET that it would be in HTTP/1.1.
pub(super) fn of_stream(parts: &mut RequestParts) -> Option<String> {
    if parts.method != Method::CONNECT {
        return None;
    }
    let protocol = parts.extensions.remove::<Protocol>()?;
    parts.method = Method::GET;
    Some(protocol.as_str().to_owned())
}

/// Brings the answer to an upgrade into the form that HTTP/1.1 gives it: 101 where it was accepted, else what the application
/// really answered.
pub(super) fn read_answer(response: &mut Response<Incoming>, meshed: bool) {
    if !meshed {
        return;
    }
    let carried = response.headers_mut().remove(&WEIR_STATUS);
    if let Some(status) = carried.and_then(|value| StatusCode::from_bytes(value.as_bytes()).ok()) {
        *response.status_mut() = status;
    } else if response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
}

/// The endpoint's half of the connection, if it has accepted an upgrade.
pub(super) fn server_half(response: &mut Response<Incoming>) -> Option<OnUpgrade> {
    (response.status() == StatusCode::SWITCHING_PROTOCOLS).then(|| hyper::upgrade::on(response))
}

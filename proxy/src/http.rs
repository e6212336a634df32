//! What both directions share of HTTP: serving a connection, and the headers that belong to one hop only.

mod http1;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::body::Body;
use crate::fault::{Fault, Reason};
use crate::guarded::{Guard, Guarded};
use crate::io::local::LocalExecutor;

pub(crate) use http1::serve as serve_http1;

/// What an HTTP/2 request's head may have: as many bytes as in HTTP/1, and 32 more for each line, which HTTP/2 counts (RFC 9113,
/// section 6.5.2), so that what came in HTTP/1.1 always fits.
const MAX_HEADER_LIST: u32 = 128 * 1024;

/// Streams that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 1000;

/// Bytes in flight per stream and per connection, as on the client side (`pool/http2.rs`): enough for as many streams as a peer
/// puts on one connection by itself, so that an application which does not read some requests stalls no others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 200 * STREAM_WINDOW;

/// Peers that vanish without a word are noticed after both times together.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of a stream's answer that may wait to be sent.
const MAX_SEND_BUFFER: usize = 128 * 1024;

/// How long a drain waits for a connection that carries no request: for a first one of which the head has begun to come, or for a
/// client on HTTP/2 to take notice. One that is gone would hold the drain to its end otherwise.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Serves an HTTP/2 connection until it ends. When `drain` turns true the client is told with a GOAWAY, and the streams under way
/// are finished.
///
/// # Errors
///
/// How the connection broke.
pub(crate) async fn serve_http2<I, F, Fut>(io: I, drain: Option<watch::Receiver<bool>>, handler: Rc<F>) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Fn(Request<Incoming>) -> Fut + 'static,
    Fut: Future<Output = Response<Body>> + 'static,
{
    let requests = Requests::default();
    let counted = requests.clone();
    let service = service_fn(move |request| {
        if request.method() == Method::CONNECT {
            counted.tunnels();
        }
        let under_way = counted.begin();
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await.map(|body| Guarded::new(body, Guard::Http2 { _under_way: under_way }))) }
    });
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .auto_date_header(false)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let Some(mut drain) = drain else { return connection.await };
    tokio::select! {
        ended = connection.as_mut() => return ended,
        _ = drain.wait_for(|draining| *draining) => {}
    }
    let begun = requests.begun();
    let was_idle = requests.under_way() == 0 && !requests.0.tunnels.get();
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = sleep(DRAIN_GRACE), if was_idle => {}
    }
    // Whoever has used it since is alive and hears of the end.
    if was_idle && requests.begun() == begun { Ok(()) } else { connection.await }
}

/// The requests of one connection.
#[derive(Clone, Default)]
struct Requests(Rc<RequestCounts>);

#[derive(Default)]
struct RequestCounts {
    begun: Cell<u64>,
    under_way: Cell<u64>,
    /// Whether a stream has become a tunnel, of which no answer's body says when it ends.
    tunnels: Cell<bool>,
}

impl Requests {
    fn begun(&self) -> u64 {
        self.0.begun.get()
    }

    fn under_way(&self) -> u64 {
        self.0.under_way.get()
    }

    fn tunnels(&self) {
        self.0.tunnels.set(true);
    }

    /// One more, under way for as long as what is returned lives.
    fn begin(&self) -> UnderWay {
        self.0.begun.set(self.begun() + 1);
        self.0.under_way.set(self.under_way() + 1);
        UnderWay(Rc::clone(&self.0))
    }
}

pub(crate) struct UnderWay(Rc<RequestCounts>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get().saturating_sub(1));
    }
}

/// Who calls, as mutual TLS has proved it. One that a client sends is always removed.
pub(crate) const WEIR_CLIENT_ID: HeaderName = HeaderName::from_static("weir-client-id");

/// What a request names as its host: the request line's absolute form wins over the Host header (RFC 9112, section 3.2.2).
/// `None`: it names none.
///
/// # Errors
///
/// It names more than one, or something that is no host. A user's name before it is refused too: RFC 9110, section 4.2.4, has
/// none in requests, and whoever reads it may take it for the host.
pub(crate) fn named_host(parts: &Parts) -> Result<Option<Authority>, Fault> {
    let refused = |detail| Fault::new(Reason::BadRequest, detail);
    let authority = match parts.uri.authority() {
        Some(authority) => authority.clone(),
        None => {
            let mut hosts = parts.headers.get_all(HOST).iter();
            match (hosts.next(), hosts.next()) {
                (None, _) => return Ok(None),
                (Some(_), Some(_)) => return Err(refused("there is more than one Host header")),
                (Some(host), None) => {
                    Authority::try_from(host.as_bytes()).map_err(|_| refused("the Host header is not HOST or HOST:PORT"))?
                }
            }
        }
    };
    let port = authority.as_str().strip_prefix(authority.host());
    let is_port = |text: &str| text.is_empty() || text == ":" || authority.port_u16().is_some();
    if port.is_some_and(is_port) { Ok(Some(authority)) } else { Err(refused("the request's host is not HOST or HOST:PORT")) }
}

/// What an HTTP/1.1 request wants to become, if it asks for an upgrade that can be carried: one protocol name, and not `h2c`,
/// which RFC 9113 has withdrawn and which has been used to smuggle requests past proxies.
pub(crate) fn upgrade_token(headers: &HeaderMap) -> Option<String> {
    let asked = headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| value.as_bytes().split(|b| *b == b',').any(|it| it.trim_ascii().eq_ignore_ascii_case(b"upgrade")));
    let token = headers.get(UPGRADE)?.to_str().ok()?.trim();
    let plain = !token.is_empty() && token.len() <= 64 && !token.contains([',', ' ']) && !token.eq_ignore_ascii_case("h2c");
    (asked && plain).then(|| token.to_owned())
}

/// Gives a WebSocket handshake the key that HTTP/1.1 wants (RFC 6455, section 4.1) and HTTP/2 does without (RFC 8441, section 5):
/// sixteen random bytes, which no intermediary has any use for. Says whether it was missing.
pub(crate) fn offer_websocket_key(token: &str, headers: &mut HeaderMap) -> bool {
    if !token.eq_ignore_ascii_case("websocket") || headers.contains_key(SEC_WEBSOCKET_KEY) {
        return false;
    }
    // 21 digits of base64 hold 126 bits; one of four holds the last two.
    let key: String = std::iter::repeat_with(fastrand::alphanumeric)
        .take(21)
        .chain(fastrand::choice(['A', 'Q', 'g', 'w']))
        .chain(['=', '='])
        .collect();
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn an_upgrade_is_one_protocol_that_the_connection_header_confirms() {
        let token = |pairs| upgrade_token(&headers(pairs));
        assert_eq!(token(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]).as_deref(), Some("websocket"));
        assert_eq!(token(&[("upgrade", "websocket")]), None);
        assert_eq!(token(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")]), None);
        assert_eq!(token(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")]), None);
    }
}

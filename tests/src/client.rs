//! HTTP clients as applications use them: through a sidecar as a forward proxy, or straight to an address.

mod answer;
mod connection;

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use hyper::body::Incoming;

use crate::body::{self, Outgoing};
pub use answer::{Answer, MeshError};
pub use connection::Connection;

/// Where requests are sent and in which version. Cheap to clone; connections are made as they are needed.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    address: SocketAddr,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

impl Client {
    /// An HTTP/1.1 client that connects to `address`: a sidecar's outbound side, or a server itself.
    #[must_use]
    pub fn to(address: SocketAddr) -> Self {
        Self { address, version: Version::Http1 }
    }

    /// The same with HTTP/2, known beforehand.
    #[must_use]
    pub fn h2(self) -> Self {
        Self { version: Version::Http2, ..self }
    }

    /// Where it connects to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// GET on a connection of its own.
    ///
    /// # Panics
    ///
    /// When no whole answer comes.
    pub async fn get(&self, url: &str) -> Answer {
        self.request(Method::GET, url).send().await
    }

    /// GET on a connection of its own.
    ///
    /// # Errors
    ///
    /// When no whole answer comes.
    pub async fn try_get(&self, url: &str) -> Result<Answer, String> {
        self.request(Method::GET, url).try_send().await
    }

    /// Begins a request.
    #[must_use]
    pub fn request(&self, method: Method, url: &str) -> Sending {
        Sending { client: *self, request: request(method, url) }
    }

    /// A connection to send several requests on.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub async fn connect(&self) -> Result<Connection, String> {
        Connection::open(self.address, self.version == Version::Http2).await
    }
}

/// A request in the form that both a forward proxy and HTTP/2 want: a whole URL, and a Host that agrees.
///
/// # Panics
///
/// When `url` is not one.
#[must_use]
pub fn request(method: Method, url: &str) -> Request<Outgoing> {
    Request::builder().method(method).uri(url).body(body::empty()).unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// A request that is being put together.
pub struct Sending {
    client: Client,
    request: Request<Outgoing>,
}

impl Sending {
    /// Adds a header.
    ///
    /// # Panics
    ///
    /// When it is not one.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header value");
        self.request.headers_mut().append(HeaderName::from_static(name), value);
        self
    }

    /// Gives it a body of known length.
    #[must_use]
    pub fn body(self, bytes: impl Into<Bytes>) -> Self {
        self.stream(body::full(bytes))
    }

    /// Gives it any body.
    #[must_use]
    pub fn stream(mut self, body: Outgoing) -> Self {
        *self.request.body_mut() = body;
        self
    }

    /// Sends it on a connection of its own and reads the whole answer.
    ///
    /// # Panics
    ///
    /// When no whole answer comes.
    pub async fn send(self) -> Answer {
        let what = format!("{} {}", self.request.method(), self.request.uri());
        self.try_send().await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Sends it on a connection of its own and reads the whole answer.
    ///
    /// # Errors
    ///
    /// When no whole answer comes.
    pub async fn try_send(self) -> Result<Answer, String> {
        self.client.connect().await?.send(self.request).await
    }

    /// Sends it and answers with the head; the body is still to be read.
    ///
    /// # Errors
    ///
    /// When no answer begins.
    pub async fn open(self) -> Result<Response<Incoming>, String> {
        self.client.connect().await?.open_once(self.request).await
    }
}

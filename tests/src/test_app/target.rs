//! What is called, and one call of it.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};

use super::tls;
use crate::app::Words;
use crate::body::{self, Outgoing};
use crate::client::{Answer, Connection};
use crate::wait::{DEADLINE, ensure, until_within};

/// How a target is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    H2c,
    Https,
    Grpc,
    Health,
    Tcp,
    Banner,
}

/// A URL with one of the schemes `http`, `h2c` (HTTP/2 with prior knowledge), `https` (whoever the server is), `grpc` (the
/// echo service), `health` (the health service of gRPC; what counts is the server's name), `tcp` (the rest of the URL is said and has to come back) and `banner` (the server speaks first).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    scheme: Scheme,
    host: String,
    port: u16,
    path: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("`{text}` is no URL to call: {why}; write http://HOST[:PORT]/PATH, or h2c, https, grpc, health, tcp, banner")
        };
        let uri: Uri = text.parse().map_err(|error| wrong(&format!("{error}")))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("h2c") => Scheme::H2c,
            Some("https") => Scheme::Https,
            Some("grpc") => Scheme::Grpc,
            Some("health") => Scheme::Health,
            Some("tcp") => Scheme::Tcp,
            Some("banner") => Scheme::Banner,
            _ => return Err(wrong("the scheme is unknown")),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?.to_owned();
        let says_a_port = uri.authority().is_some_and(|authority| authority.as_str().len() > host.len());
        let port = match uri.port_u16() {
            Some(port) => port,
            None if says_a_port => return Err(wrong("its port is no number")),
            None if scheme == Scheme::Https => 443,
            None => 80,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { scheme, host, port, path })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.host, self.port, self.path)
    }
}

/// What is said to a target.
#[derive(Clone, Debug)]
pub struct Call {
    /// To whom.
    pub target: Target,
    /// Method of an HTTP request.
    pub method: Method,
    /// Headers of an HTTP request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Body of an HTTP request.
    pub body: Bytes,
}

impl Call {
    /// A connection that several requests can be sent on.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub async fn connect(&self) -> Result<Connection, String> {
        let stream = self.target.dial().await?;
        match self.target.scheme {
            Scheme::Http => Connection::over(stream, false).await,
            Scheme::H2c | Scheme::Grpc | Scheme::Health => Connection::over(stream, true).await,
            Scheme::Https => {
                let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
                let stream = tls::connector()?.connect(name, stream).await;
                let stream = stream.map_err(|error| format!("no TLS with {}: {error}", self.target))?;
                Connection::over(stream, false).await
            }
            Scheme::Tcp | Scheme::Banner => Err(format!("{} does not speak HTTP", self.target)),
        }
    }

    /// Whether it is spoken over HTTP, so that a connection can be kept.
    #[must_use]
    pub fn is_http(&self) -> bool {
        !matches!(self.target.scheme, Scheme::Tcp | Scheme::Banner)
    }

    /// Sends it on a connection that is there.
    ///
    /// # Errors
    ///
    /// When no whole answer comes, or one that says no.
    pub async fn send(&self, connection: &mut Connection) -> Result<Answer, String> {
        let answer = connection.send(self.request()?).await?;
        if !answer.status.is_success() {
            let error = answer.header("weir-error").unwrap_or_default();
            return Err(format!("{} weir-error: {error}; body: {}", answer.status, answer.text()));
        }
        let grpc = answer.trailer("grpc-status").or_else(|| answer.header("grpc-status"));
        match (self.target.scheme, grpc) {
            (Scheme::Grpc | Scheme::Health, Some("0")) => Ok(answer),
            (Scheme::Grpc | Scheme::Health, status) => Err(format!("grpc-status {status:?}, {:?}", answer.headers)),
            _ => Ok(answer),
        }
    }

    /// Makes the call on a connection of its own and answers with what came back.
    ///
    /// # Errors
    ///
    /// When it fails in any way.
    pub async fn once(&self) -> Result<String, String> {
        if self.is_http() {
            let answer = self.send(&mut self.connect().await?).await?;
            if self.target.scheme == Scheme::Grpc {
                let words = Words::read_all(&answer.body);
                return Ok(words.into_iter().map(|words| words.text).collect::<Vec<_>>().join("\n"));
            }
            if self.target.scheme == Scheme::Health {
                return Ok(answer.header("x-hostname").unwrap_or_default().to_owned());
            }
            return Ok(answer.text());
        }
        tokio::time::timeout(DEADLINE, self.raw()).await.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")))
    }

    async fn raw(&self) -> Result<String, String> {
        let broken = |error: std::io::Error| format!("the connection to {} broke: {error}", self.target);
        let mut stream = self.target.dial().await?;
        let mut answer = vec![0; 4096];
        if self.target.scheme == Scheme::Banner {
            let count = stream.read(&mut answer).await.map_err(broken)?;
            answer.truncate(count);
        } else {
            stream.write_all(self.target.path.as_bytes()).await.map_err(broken)?;
            stream.shutdown().await.map_err(broken)?;
            answer.clear();
            stream.read_to_end(&mut answer).await.map_err(broken)?;
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        let whole = match self.target.scheme {
            Scheme::Tcp => text == format!("{}bye {}", self.target.path, self.target.path.len()),
            _ => !text.is_empty(),
        };
        if whole { Ok(text) } else { Err(format!("{} answered with {text:?} only", self.target)) }
    }

    /// In the form in which an application that knows of no proxy writes it.
    fn request(&self) -> Result<Request<Outgoing>, String> {
        let Target { scheme, host, port, path } = &self.target;
        let authority = if *port == 80 { host.clone() } else { format!("{host}:{port}") };
        let request = Request::builder();
        let built = match scheme {
            Scheme::Grpc => {
                let words = Words { text: path.clone(), count: 1 };
                request
                    .method(Method::POST)
                    .uri(format!("http://{authority}/weir.test.Echo/Say"))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(body::full(words.frame()))
            }
            Scheme::Health => request
                .method(Method::POST)
                .uri(format!("http://{authority}/grpc.health.v1.Health/Check"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(body::full(Words::default().frame())),
            Scheme::H2c => {
                request.method(self.method.clone()).uri(format!("http://{authority}{path}")).body(body::full(self.body.clone()))
            }
            // The connection leaves the form of the URL to its caller: this one is what servers expect over HTTP/1.1.
            _ => {
                let request = request.method(self.method.clone()).uri(path.as_str()).header("host", authority);
                request.body(body::full(self.body.clone()))
            }
        };
        let mut built = built.map_err(|error| format!("{}: {error}", self.target))?;
        built.headers_mut().extend(self.headers.iter().cloned());
        Ok(built)
    }
}

impl Target {
    /// Waits until its name has an address.
    ///
    /// # Panics
    ///
    /// When it has none in time.
    pub(super) async fn known(&self) {
        let host = self.host.trim_matches(['[', ']']);
        until_within(4 * DEADLINE, &format!("{host} has an address"), async || {
            let found = lookup_host((host, self.port)).await.map_err(|error| error.to_string())?;
            ensure(found.count() > 0, || "none was answered".to_owned())
        })
        .await;
    }

    async fn dial(&self) -> Result<TcpStream, String> {
        let host = self.host.trim_matches(['[', ']']);
        let failed = |error| format!("no connection to {}:{}: {error}", self.host, self.port);
        let stream = tokio::time::timeout(DEADLINE, TcpStream::connect((host, self.port)));
        let stream = stream.await.map_err(|_| format!("no connection to {}:{} within {DEADLINE:?}", self.host, self.port))?;
        let stream = stream.map_err(failed)?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_every_scheme_are_read() {
        let target: Target = "http://catalog.shop/path?x=1".parse().unwrap();
        assert_eq!((target.host.as_str(), target.port, target.path.as_str()), ("catalog.shop", 80, "/path?x=1"));
        assert_eq!("https://a".parse::<Target>().unwrap().port, 443);
        assert_eq!("grpc://[::1]:9090/words".parse::<Target>().unwrap().host, "[::1]");
        assert_eq!("banner://db:3306".parse::<Target>().unwrap().scheme, Scheme::Banner);
        for bad in ["catalog", "ftp://a/", "http://", "http://a:b/"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}

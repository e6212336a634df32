//! One connection to the target, opened again after it broke.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer that takes longer is an error, so that a run always ends.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where requests go and what they say.
pub(crate) struct Target {
    address: String,
    path: Uri,
    headers: HeaderMap,
}

impl Target {
    pub(crate) fn new(url: &Uri, given: Vec<(HeaderName, HeaderValue)>) -> io::Result<Self> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let (Some("http"), Some(authority)) = (url.scheme_str(), url.authority()) else {
            return Err(wrong(format!("{url} is no URL of the form http://HOST[:PORT]/PATH")));
        };
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let path = path.parse().map_err(|error| wrong(format!("{path}: {error}")))?;
        let mut headers: HeaderMap = given.into_iter().collect();
        if !headers.contains_key(header::HOST) {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|error| wrong(format!("{authority}: {error}")))?;
            headers.insert(header::HOST, host);
        }
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        Ok(Self { address, path, headers })
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// A connection of its own.
pub(crate) struct Client {
    target: std::rc::Rc<Target>,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

impl Client {
    pub(crate) async fn connect(target: &std::rc::Rc<Target>) -> io::Result<Self> {
        let sender = open(target).await?;
        Ok(Self { target: target.clone(), sender: Some(sender) })
    }

    /// Sends one request and reads its answer; gives the bytes of the body. Anything but a 2xx is an error.
    pub(crate) async fn request(&mut self) -> io::Result<u64> {
        let target = self.target.clone();
        let mut sender = match self.sender.take() {
            Some(sender) if sender.is_ready() => sender,
            _ => open(&target).await?,
        };
        let bytes = timeout(PATIENCE, exchange(&mut sender, target.request())).await.map_err(io::Error::from)??;
        self.sender = Some(sender);
        Ok(bytes)
    }
}

async fn open(target: &Target) -> io::Result<SendRequest<Empty<Bytes>>> {
    let stream = timeout(PATIENCE, TcpStream::connect(&target.address)).await.map_err(io::Error::from)??;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // How it ends is seen by the request that is on it.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(sender)
}

async fn exchange(sender: &mut SendRequest<Empty<Bytes>>, request: Request<Empty<Bytes>>) -> io::Result<u64> {
    sender.ready().await.map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = answer.status();
    let mut body = answer.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(io::Error::other)?;
        bytes += frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
    }
    if status.is_success() { Ok(bytes) } else { Err(io::Error::other(format!("status {status}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_says_where_and_what() {
        let target = Target::new(&"http://127.0.0.1:80/a?b=c".parse().unwrap(), Vec::new()).unwrap();
        assert_eq!((target.address.as_str(), target.path.to_string().as_str()), ("127.0.0.1:80", "/a?b=c"));
        assert_eq!(target.headers[header::HOST], "127.0.0.1:80");
        let host = (header::HOST, HeaderValue::from_static("web.bench"));
        let target = Target::new(&"http://127.0.0.1/".parse().unwrap(), vec![host]).unwrap();
        assert_eq!(
            (target.address.as_str(), &target.headers[header::HOST]),
            ("127.0.0.1:80", &HeaderValue::from_static("web.bench"))
        );
        assert!(Target::new(&"https://127.0.0.1/".parse().unwrap(), Vec::new()).is_err());
        assert!(Target::new(&"/path".parse().unwrap(), Vec::new()).is_err());
    }
}

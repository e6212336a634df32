//! GET as the kubelet does it: one connection a request, redirects followed on the same host only, ten of them at most.

use std::net::SocketAddr;

use ::http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::settings::HttpGet;
use super::{Broken, Outcome, connect, tls};
use crate::pool::root_cause;

/// Requests that one probe may come to, the first included.
const MAX_REQUESTS: usize = 10;
/// As much of an answer as the kubelet reads. What comes after it is not waited for.
const MAX_BODY: usize = 10 * 1024;
/// As much of it as is repeated.
const SHOWN_BODY: usize = 200;
/// Head of an answer.
const MAX_HEAD: usize = 64 * 1024;

pub(super) async fn ask(address: SocketAddr, get: &HttpGet, asker: Option<&HeaderValue>) -> Result<Outcome, Broken> {
    let mut step = Step { address, tls: get.tls, path: get.path.clone(), host: get.headers.get(HOST).cloned() };
    for _ in 0..MAX_REQUESTS {
        let (answer, body) = step.send(&get.headers, asker).await?;
        let status = answer.status();
        match redirect(&answer) {
            Some(location) => match step.follow(location) {
                Next::Ask(next) => step = next,
                Next::Elsewhere => {
                    return Ok(Outcome::Passed(format!("the application answered {status}, with a redirect to another host")));
                }
                Next::Nowhere => return Err(Broken::Answer(format!("it answered {status} with a Location that is none"))),
            },
            None if status.is_success() || status.is_redirection() => {
                return Ok(Outcome::Passed(format!("the application answered {}", status.as_u16())));
            }
            None => return Ok(Outcome::Failed(status, format!("the application answered {}{}", status.as_u16(), shown(&body)))),
        }
    }
    Ok(Outcome::Failed(StatusCode::BAD_GATEWAY, format!("the application redirected {MAX_REQUESTS} times")))
}

/// One request of a probe.
#[derive(Clone, Debug)]
struct Step {
    address: SocketAddr,
    tls: bool,
    path: PathAndQuery,
    /// The host that is asked for, where it is not the address.
    host: Option<HeaderValue>,
}

/// Where a redirect leads.
enum Next {
    /// To the same host.
    Ask(Step),
    /// Away from it.
    Elsewhere,
    /// It cannot be read.
    Nowhere,
}

impl Step {
    async fn send(&self, headers: &HeaderMap, asker: Option<&HeaderValue>) -> Result<(Response<()>, Bytes), Broken> {
        let stream = connect(self.address).await?;
        if !self.tls {
            return self.over_http1(stream, headers, asker).await;
        }
        let stream = tls::connect(stream).await.map_err(Broken::Tls)?;
        if stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2) {
            self.over_http2(stream, headers, asker).await
        } else {
            self.over_http1(stream, headers, asker).await
        }
    }

    async fn over_http1<S>(
        &self,
        stream: S,
        headers: &HeaderMap,
        asker: Option<&HeaderValue>,
    ) -> Result<(Response<()>, Bytes), Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(broken)?;
        // Ends with the probe, also when that is cancelled.
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = Uri::from(self.path.clone());
        let host = self.host.clone().unwrap_or_else(|| self.authority());
        *request.headers_mut() = self.headers(headers, asker);
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        read(sender.send_request(request).await.map_err(broken)?).await
    }

    async fn over_http2<S>(
        &self,
        stream: S,
        headers: &HeaderMap,
        asker: Option<&HeaderValue>,
    ) -> Result<(Response<()>, Bytes), Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(broken)?;
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let host = self.host.clone().unwrap_or_else(|| self.authority());
        let uri = Uri::builder().scheme("https").authority(host.as_bytes()).path_and_query(self.path.clone()).build();
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = uri.map_err(|error| Broken::Answer(format!("it cannot be asked for this host: {error}")))?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers(headers, asker);
        read(sender.send_request(request).await.map_err(broken)?).await
    }

    /// The probe's own headers, and what the kubelet adds.
    fn headers(&self, own: &HeaderMap, asker: Option<&HeaderValue>) -> HeaderMap {
        let mut headers = own.clone();
        headers.remove(HOST);
        let agent = asker.cloned().unwrap_or(HeaderValue::from_static("kube-probe/weir"));
        for (name, default) in [(USER_AGENT, agent), (ACCEPT, HeaderValue::from_static("*/*"))] {
            match headers.get(&name) {
                None => drop(headers.insert(name, default)),
                // Written to be left out.
                Some(value) if value.is_empty() => drop(headers.remove(&name)),
                Some(_) => {}
            }
        }
        headers
    }

    fn authority(&self) -> HeaderValue {
        HeaderValue::from_str(&self.address.to_string()).unwrap_or(HeaderValue::from_static("localhost"))
    }

    /// Where a `Location` leads (RFC 3986, section 5, without dot segments, which servers take as they are).
    fn follow(&self, location: &str) -> Next {
        let location = location.split('#').next().unwrap_or_default();
        let scheme = if self.tls { "https" } else { "http" };
        let absolute = location.strip_prefix("//").map(|rest| format!("{scheme}://{rest}"));
        let is_scheme = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let has_scheme = location.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme));
        if let Some(absolute) = absolute.as_deref().or_else(|| has_scheme.then_some(location)) {
            return self.follow_absolute(absolute);
        }
        let path = self.path.path();
        let target = if location.is_empty() {
            self.path.to_string()
        } else if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            format!("{}/{location}", path.rsplit_once('/').map_or("", |(directory, _)| directory))
        };
        target.parse().map_or(Next::Nowhere, |path| Next::Ask(Self { path, ..self.clone() }))
    }

    fn follow_absolute(&self, location: &str) -> Next {
        let Ok(uri) = location.parse::<Uri>() else { return Next::Nowhere };
        let (Some(host), tls) = (uri.host(), uri.scheme_str() == Some("https")) else { return Next::Nowhere };
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse();
        if ip != Ok(self.address.ip()) {
            return Next::Elsewhere;
        }
        let address = SocketAddr::new(self.address.ip(), uri.port_u16().unwrap_or(if tls { 443 } else { 80 }));
        let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        Next::Ask(Self { address, tls, path, host: None })
    }
}

/// The `Location` of an answer that is a redirect.
fn redirect<B>(answer: &Response<B>) -> Option<&str> {
    let redirects = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    answer.headers().get(LOCATION).filter(|_| redirects).map(|it| it.to_str().unwrap_or("\0"))
}

async fn read(answer: Response<Incoming>) -> Result<(Response<()>, Bytes), Broken> {
    let (head, mut body) = answer.into_parts();
    let mut start = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            let room = MAX_BODY.saturating_sub(start.len()).min(data.len());
            start.extend_from_slice(data.get(..room).unwrap_or_default());
        }
        if start.len() >= MAX_BODY {
            break;
        }
    }
    Ok((Response::from_parts(head, ()), start.into()))
}

#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
fn broken(error: hyper::Error) -> Broken {
    Broken::Answer(root_cause(&error))
}

/// The first words of an answer that is text.
fn shown(body: &[u8]) -> String {
    let start = body.get(..body.len().min(SHOWN_BODY)).unwrap_or_default();
    let text = String::from_utf8_lossy(start);
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(path: &'static str) -> Step {
        let host = Some(HeaderValue::from_static("a.example"));
        Step { address: "10.0.0.5:8080".parse().unwrap(), tls: false, path: PathAndQuery::from_static(path), host }
    }

    #[test]
    fn redirects_on_the_same_host_are_followed() {
        for (location, expected) in [
            ("/b", "http 10.0.0.5:8080 /b a.example"),
            ("b?c#d", "http 10.0.0.5:8080 /dir/b?c a.example"),
            ("?c", "http 10.0.0.5:8080 /dir/a?c a.example"),
            ("", "http 10.0.0.5:8080 /dir/a?q a.example"),
            ("b?to=http://x/", "http 10.0.0.5:8080 /dir/b?to=http://x/ a.example"),
            ("/b?to=http://x/", "http 10.0.0.5:8080 /b?to=http://x/ a.example"),
            ("http://10.0.0.5/b", "http 10.0.0.5:80 /b -"),
            ("https://10.0.0.5:8443", "https 10.0.0.5:8443 / -"),
            ("//10.0.0.5:81/b", "http 10.0.0.5:81 /b -"),
            ("http://localhost:8080/", "elsewhere"),
            ("//other/", "elsewhere"),
            ("http://10.0.0.6:8080/", "elsewhere"),
            ("\0", "nowhere"),
            ("http://a b/", "nowhere"),
        ] {
            let said = match step("/dir/a?q").follow(location) {
                Next::Ask(next) => {
                    let host = next.host.as_ref().map_or("-", |host| host.to_str().unwrap());
                    format!("{} {} {} {host}", if next.tls { "https" } else { "http" }, next.address, next.path)
                }
                Next::Elsewhere => "elsewhere".into(),
                Next::Nowhere => "nowhere".into(),
            };
            assert_eq!(said, expected, "{location:?}");
        }
    }

    #[test]
    fn headers_are_those_of_the_kubelet_unless_the_probe_says_otherwise() {
        let asker = HeaderValue::from_static("kube-probe/1.34");
        let mut own = HeaderMap::new();
        let sent = step("/").headers(&own, Some(&asker));
        assert_eq!((&sent[USER_AGENT], &sent[ACCEPT]), (&asker, &HeaderValue::from_static("*/*")));
        own.insert(USER_AGENT, HeaderValue::from_static("mine"));
        own.insert(ACCEPT, HeaderValue::from_static(""));
        own.insert(HOST, HeaderValue::from_static("a.example"));
        let sent = step("/").headers(&own, Some(&asker));
        assert_eq!((sent.len(), &sent[USER_AGENT]), (1, &HeaderValue::from_static("mine")));
    }
}

//! The HTTP application. What it answers is in the path, so that a scenario reads as what happens in it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{Fault, State, grpc};
use crate::body::{self, Digest, Outgoing};

/// Serves one connection until it closes or a request asks for a reset.
pub(super) async fn serve(stream: TcpStream, name: &str, state: Arc<State>) {
    let Ok((stream, socket)) = with_handle(stream) else { return };
    let (reset, mut resets) = mpsc::channel(1);
    let name: Arc<str> = name.into();
    let service = service_fn(move |request| {
        let exchange = Exchange { name: Arc::clone(&name), state: Arc::clone(&state), reset: reset.clone() };
        async move { Ok::<_, Infallible>(exchange.answer(request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    tokio::select! {
        _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service) => {}
        Some(()) = resets.recv() => {
            // With nothing to linger for, the close that follows is a reset.
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        }
    }
}

/// The stream, and a second handle of its socket.
fn with_handle(stream: TcpStream) -> io::Result<(TcpStream, std::net::TcpStream)> {
    let stream = stream.into_std()?;
    let handle = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, handle))
}

/// One request's surroundings.
struct Exchange {
    name: Arc<str>,
    state: Arc<State>,
    reset: mpsc::Sender<()>,
}

impl Exchange {
    async fn answer(self, request: Request<Incoming>) -> Response<Outgoing> {
        let path = request.uri().path().to_owned();
        *self.state.requests.lock().unwrap().entry(path.clone()).or_default() += 1;
        let fault = self.state.faults.lock().unwrap().pop_front();
        match fault {
            Some(Fault::Status(status)) => return self.status(status),
            Some(Fault::Reset) => return self.break_off().await,
            Some(Fault::ResetAfterBody) => {
                let _ = Digest::of_body(request.into_body()).await;
                return self.break_off().await;
            }
            Some(Fault::Silence) => std::future::pending().await,
            None => {}
        }
        let headers = request.headers();
        if headers.contains_key(header::UPGRADE) {
            return self.upgrade(request);
        }
        if path.starts_with(grpc::PREFIX) {
            return grpc::answer(&self.name, request).await;
        }
        self.by_path(&path, request).await
    }

    async fn by_path(&self, path: &str, request: Request<Incoming>) -> Response<Outgoing> {
        let words: Vec<&str> = path.trim_matches('/').split('/').collect();
        match words.as_slice() {
            ["status", code] => self.status(code.parse().unwrap_or(500)),
            ["delay", milliseconds] => {
                tokio::time::sleep(Duration::from_millis(milliseconds.parse().unwrap_or_default())).await;
                self.text("late")
            }
            ["bytes", count] => self.respond(body::stream_of(count.parse().unwrap_or_default())),
            ["sink"] => match Digest::of_body(request.into_body()).await {
                Ok(digest) => {
                    self.state.sunk.lock().unwrap().push(digest.to_string());
                    self.text(digest.to_string())
                }
                Err(_) => self.status(400),
            },
            ["echo"] => {
                // HTTP/1.1 sends only trailers that were announced.
                let announced = request.headers().get(header::TRAILER).cloned();
                let mut response = self.respond(echo(request.into_body()));
                response.headers_mut().extend(announced.map(|names| (header::TRAILER, names)));
                response
            }
            ["trailers"] => {
                let mut response = self.respond(with_trailers(request.into_body()).await);
                // HTTP/1.1 sends only trailers that were announced.
                let names = HeaderValue::from_static("x-answer-trailer, x-seen-trailer");
                response.headers_mut().insert(header::TRAILER, names);
                response
            }
            ["hold"] => {
                self.state.held.send_modify(|held| *held += 1);
                let _ = self.state.released.subscribe().wait_for(|released| *released).await;
                self.text("released")
            }
            ["reset"] => self.break_off().await,
            ["reset-after-body"] => {
                let _ = Digest::of_body(request.into_body()).await;
                self.break_off().await
            }
            ["break"] => self.half_an_answer(),
            _ => self.describe(request).await,
        }
    }

    fn respond(&self, body: Outgoing) -> Response<Outgoing> {
        let mut response = Response::new(body);
        response.headers_mut().insert("x-app", HeaderValue::from_str(&self.name).expect("an application's name is plain"));
        response
    }

    fn text(&self, text: impl Into<Bytes>) -> Response<Outgoing> {
        self.respond(body::full(text))
    }

    fn status(&self, status: u16) -> Response<Outgoing> {
        let mut response = self.text("as asked");
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
    }

    /// Resets the connection; the answer never comes.
    async fn break_off(&self) -> Response<Outgoing> {
        let _ = self.reset.try_send(());
        std::future::pending().await
    }

    /// A head that promises more than comes.
    fn half_an_answer(&self) -> Response<Outgoing> {
        let reset = self.reset.clone();
        let frames = stream::unfold(0, move |sent| {
            let reset = reset.clone();
            async move {
                if sent == 0 {
                    return Some((Ok(Frame::data(Bytes::from_static(b"half"))), 1));
                }
                // The first half has to leave before the reset, which would otherwise overtake it.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = reset.try_send(());
                std::future::pending().await
            }
        });
        let mut response = self.respond(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("8"));
        response
    }

    async fn describe(&self, request: Request<Incoming>) -> Response<Outgoing> {
        self.text(describe(&self.name, request).await.to_string())
    }

    /// Agrees to the upgrade, then sends back what comes.
    fn upgrade(&self, mut request: Request<Incoming>) -> Response<Outgoing> {
        let protocol = request.headers().get(header::UPGRADE).cloned();
        let upgrading = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrading.await {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
            }
        });
        let mut response = self.respond(body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().extend(protocol.map(|protocol| (header::UPGRADE, protocol)));
        response
    }
}

/// What the request looked like from here.
pub(crate) async fn describe(app: &str, request: Request<Incoming>) -> serde_json::Value {
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in request.headers() {
        headers.entry(name.to_string()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let mut seen = serde_json::json!({
        "app": app,
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "query": request.uri().query(),
        "authority": request.uri().authority().map(|authority| authority.as_str()),
        "version": version(request.version()),
        "headers": headers,
    });
    match request.into_body().collect().await {
        Ok(body) => seen["body"] = String::from_utf8_lossy(&body.to_bytes()).into(),
        Err(error) => seen["broken"] = error.to_string().into(),
    }
    seen
}

/// The body and its trailers, as they come.
fn echo(body: Incoming) -> Outgoing {
    let frames = stream::unfold(body, |mut body| async move {
        let frame = body.frame().await?.ok()?;
        Some((Ok(frame), body))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// An answer whose trailers say what was answered and which trailers the request had.
async fn with_trailers(body: Incoming) -> Outgoing {
    let received = match body.collect().await {
        Ok(collected) => collected.trailers().and_then(|trailers| trailers.get("x-request-trailer")).cloned(),
        Err(_) => Some(HeaderValue::from_static("broken")),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("x-answer-trailer", HeaderValue::from_static("kept"));
    trailers.extend(received.map(|value| (HeaderName::from_static("x-seen-trailer"), value)));
    let frames = [Ok(Frame::data(Bytes::from_static(b"before the trailers"))), Ok(Frame::trailers(trailers))];
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "another",
    }
}

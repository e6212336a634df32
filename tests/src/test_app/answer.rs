//! What the server answers.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::health::Health;
use super::target::Call;
use crate::app::{grpc, http::describe};
use crate::body::{self, Outgoing};

/// The method that gRPC probes call.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

/// An application, as far as its answers go.
pub(super) struct App {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) hostname: String,
    pub(super) health: Health,
    /// What it calls before it answers.
    pub(super) calls: Vec<(String, Call)>,
}

impl App {
    /// Answers a request: `/health/ready|live|startup`, `/hostname`, `/status/CODE`, `/delay/MILLISECONDS`, the echo service and
    /// the health service of gRPC. Any other path: what the request looked like, and what the calls of its own gave, as JSON.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Outgoing> {
        let path = request.uri().path().to_owned();
        if path.starts_with(grpc::PREFIX) {
            return grpc::answer(&self.name, request).await;
        }
        if path == GRPC_HEALTH {
            return self.grpc_health();
        }
        let words: Vec<&str> = path.trim_matches('/').split('/').collect();
        match words.as_slice() {
            ["health", what] if self.health.is_good(what) => self.respond(200, "good\n"),
            ["health", _] => self.respond(503, "told to fail\n"),
            ["hostname"] => self.respond(200, self.hostname.clone()),
            ["status", code] => self.respond(code.parse().unwrap_or(500), "as asked\n"),
            ["delay", milliseconds] => {
                tokio::time::sleep(std::time::Duration::from_millis(milliseconds.parse().unwrap_or_default())).await;
                self.respond(200, "late\n")
            }
            _ => self.describe(request).await,
        }
    }

    async fn describe(&self, request: Request<Incoming>) -> Response<Outgoing> {
        let mut seen = describe(&self.name, request).await;
        seen["release"] = self.version.as_str().into();
        seen["hostname"] = self.hostname.as_str().into();
        let mut calls = Vec::new();
        for (url, call) in &self.calls {
            calls.push(match call.once().await {
                // An answer of a program like this one is shown as what it is.
                Ok(text) => json!({"url": url, "answer": serde_json::from_str(&text).unwrap_or(Value::String(text))}),
                Err(error) => json!({"url": url, "error": error}),
            });
        }
        let failed = calls.iter().any(|call| call.get("error").is_some());
        seen["calls"] = calls.into();
        self.respond(if failed { 502 } else { 200 }, format!("{seen}\n"))
    }

    fn respond(&self, status: u16, text: impl Into<Bytes>) -> Response<Outgoing> {
        let mut response = self.signed(body::full(text));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
    }

    /// An answer that says whose it is.
    fn signed(&self, body: Outgoing) -> Response<Outgoing> {
        let mut response = Response::new(body);
        for (name, value) in [("x-app", &self.name), ("x-version", &self.version), ("x-hostname", &self.hostname)] {
            response.headers_mut().extend(HeaderValue::from_str(value).map(|value| (http::HeaderName::from_static(name), value)));
        }
        response
    }

    /// `HealthCheckResponse` with SERVING or NOT_SERVING.
    fn grpc_health(&self) -> Response<Outgoing> {
        let status = if self.health.is_good("live") { 1 } else { 2 };
        let message = [0x08, status];
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(2);
        frame.extend_from_slice(&message);
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let frames = [Ok(Frame::data(frame.freeze())), Ok(Frame::trailers(trailers))];
        let mut response = self.signed(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response
    }
}

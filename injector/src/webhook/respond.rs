//! One request, answered.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::mutate::{Selected, mutate};
use super::validate::validate;
use super::{Webhook, body};
use crate::review;

/// What a review was answered with, and under which name it is counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// 200 for an answer; anything else leaves the decision to the webhook's `failurePolicy`.
    pub status: StatusCode,
    /// The review, or a Kubernetes Status.
    pub body: Value,
    /// For the metric, from a closed list.
    pub result: &'static str,
}

impl Reply {
    /// An answer.
    #[must_use]
    pub const fn review(review: Value, result: &'static str) -> Self {
        Self { status: StatusCode::OK, body: review, result }
    }

    /// No answer. API servers show the message of a Status.
    #[must_use]
    pub fn failure(status: StatusCode, message: &str, result: &'static str) -> Self {
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": format!("weir-injector: {message}"), "code": status.as_u16(),
        });
        Self { status, body, result }
    }
}

/// Answers a request, whatever it is.
pub async fn respond(webhook: &Webhook, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = route(webhook, request).await;
    if webhook.readiness.is_stopping() {
        // The next review is to go to another replica.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[derive(Clone, Copy)]
enum Hook {
    Mutate(Selected),
    Validate,
}

async fn route(webhook: &Webhook, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let post = request.method() == Method::POST;
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/mutate" if post => review_of(webhook, Hook::Mutate(Selected::ByLabel), request).await,
        "/mutate/annotation" if post => review_of(webhook, Hook::Mutate(Selected::ByNoLabel), request).await,
        "/validate" if post => review_of(webhook, Hook::Validate, request).await,
        "/ready" if get => ready(webhook),
        "/live" if get => text(StatusCode::OK, "live\n".to_owned()),
        "/metrics" if get => metrics(webhook),
        "/mutate" | "/mutate/annotation" | "/validate" => not_allowed("POST"),
        "/ready" | "/live" | "/metrics" => not_allowed("GET, HEAD"),
        _ => text(StatusCode::NOT_FOUND, "there are /mutate, /validate, /ready, /live and /metrics\n".to_owned()),
    }
}

async fn review_of(webhook: &Webhook, hook: Hook, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let started = Instant::now();
    let (parts, incoming) = request.into_parts();
    let reply = match body::read(&parts.headers, incoming, &webhook.budget).await {
        Ok(held) => match review::Request::parse(&held.bytes) {
            Ok(request) => match hook {
                Hook::Mutate(selected) => mutate(webhook, &request, selected).await,
                Hook::Validate => validate(&request),
            },
            Err(error) => Reply::failure(StatusCode::BAD_REQUEST, &error.to_string(), "malformed"),
        },
        Err((status, message)) => Reply::failure(status, &message, "malformed"),
    };
    let name = match hook {
        Hook::Mutate(_) => "mutate",
        Hook::Validate => "validate",
    };
    if reply.status != StatusCode::OK {
        let message = reply.body.get("message").and_then(Value::as_str).unwrap_or_default();
        tracing::warn!(webhook = name, status = reply.status.as_u16(), message, "a review was not answered");
    }
    webhook.metrics.answered(name, reply.result, started.elapsed());
    let mut response = Response::new(Full::new(Bytes::from(reply.body.to_string())));
    *response.status_mut() = reply.status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn ready(webhook: &Webhook) -> Response<Full<Bytes>> {
    let missing = webhook.readiness.missing();
    if missing.is_empty() {
        text(StatusCode::OK, "ready\n".to_owned())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join("; ")))
    }
}

fn metrics(webhook: &Webhook) -> Response<Full<Bytes>> {
    match webhook.metrics.render() {
        Ok(metrics) => text(StatusCode::OK, metrics),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}\n")),
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {methods}\n"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

//! An API server that says what it is told to.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

type Sent = UnsyncBoxBody<Bytes, io::Error>;

/// An answer.
pub(crate) enum Answer {
    /// Nobody is there.
    Refused,
    /// A Status.
    Status(u16),
    /// JSON.
    Json(Value),
    /// Events of a watch, then its end.
    Ends(Vec<Value>),
    /// Events of a watch that then stands in silence.
    Stands(Vec<Value>),
    /// Events of a watch that then breaks.
    Breaks(Vec<Value>),
}

/// Answers in this order, whatever is asked; then it hangs. What was asked is told.
pub(crate) struct Script {
    pub(crate) client: Client,
    pub(crate) asked: mpsc::UnboundedReceiver<Asked>,
}

/// A request.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) body: Value,
}

pub(crate) fn script(answers: Vec<Answer>) -> Script {
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let (tell, asked) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (answers, tell) = (Arc::clone(&answers), tell.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|it| it.to_bytes()).unwrap_or_default();
            let _ = tell.send(Asked {
                method: head.method.to_string(),
                path: head.uri.to_string(),
                body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            });
            let next = answers.lock().unwrap().pop_front();
            match next {
                Some(answer) => respond(answer),
                None => std::future::pending().await,
            }
        }
    });
    Script { client: Client::new(service, "default"), asked }
}

fn respond(answer: Answer) -> Result<Response<Sent>, io::Error> {
    let lines = |events: Vec<Value>| -> Vec<Result<Frame<Bytes>, io::Error>> {
        events.into_iter().map(|event| Ok(Frame::data(Bytes::from(format!("{event}\n"))))).collect()
    };
    let iter = |frames: Vec<Result<Frame<Bytes>, io::Error>>| futures_util::stream::iter(frames);
    let body = match answer {
        Answer::Refused => return Err(io::ErrorKind::ConnectionRefused.into()),
        Answer::Status(code) => {
            let status = json!({
                "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": format!("status {code}"),
                "reason": "Scripted", "metadata": {},
            });
            return Ok(Response::builder().status(code).body(full(&status)).unwrap());
        }
        Answer::Json(value) => full(&value),
        Answer::Ends(events) => StreamBody::new(iter(lines(events))).boxed_unsync(),
        Answer::Stands(events) => StreamBody::new(iter(lines(events)).chain(futures_util::stream::pending())).boxed_unsync(),
        Answer::Breaks(events) => {
            let mut frames = lines(events);
            frames.push(Err(io::ErrorKind::ConnectionReset.into()));
            StreamBody::new(iter(frames)).boxed_unsync()
        }
    };
    Ok(Response::new(body))
}

fn full(value: &Value) -> Sent {
    Full::new(Bytes::from(value.to_string())).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// An event of a watch.
pub(crate) fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

/// A Service of this name and version.
pub(crate) fn service(name: &str, version: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version.to_string(), "managedFields": [{"a": 1}]},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
    })
}

/// The mark of a version; `ends`: of the end of a list.
pub(crate) fn bookmark(version: u64, ends: bool) -> Value {
    let annotations = if ends { json!({"k8s.io/initial-events-end": "true"}) } else { json!({}) };
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    event("BOOKMARK", json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata}))
}

//! An API server for tests, as far as the injector speaks to one: objects in memory, with versions and conflicts, without watches.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// The server. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Objects by path.
    objects: BTreeMap<String, Value>,
    version: u64,
    calls: Vec<String>,
    /// Paths that are answered with this status.
    failing: BTreeMap<String, u16>,
}

impl Server {
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.state(|state| state.store(path, object));
    }

    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.state(|state| state.objects.get(path).cloned())
    }

    pub(crate) fn remove(&self, path: &str) {
        self.state(|state| state.objects.remove(path));
    }

    pub(crate) fn fail(&self, path: &str, status: u16) {
        self.state(|state| state.failing.insert(path.to_owned(), status));
    }

    /// `METHOD PATH` of all calls since the last time.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state(|state| std::mem::take(&mut state.calls))
    }

    async fn answer(&self, request: Request<Body>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let path = parts.uri.path().to_owned();
        if parts.uri.query().is_some_and(|query| query.contains("watch=")) {
            // Nothing changes by itself here.
            std::future::pending::<()>().await;
        }
        let (status, answer) = self.state(|state| {
            state.calls.push(format!("{} {path}", parts.method));
            state.answer(&parts.method, &path, body)
        });
        let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
        response
    }
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object);
    }

    fn answer(&mut self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        if let Some(status) = self.failing.get(path) {
            return refusal(*status);
        }
        match *method {
            Method::GET => match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None => self.list(path),
            },
            Method::POST => {
                let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                let path = format!("{path}/{name}");
                if self.objects.contains_key(&path) { refusal(409) } else { self.written(201, &path, body) }
            }
            Method::PUT => match self.objects.get(path) {
                None => refusal(404),
                Some(current) if current.pointer("/metadata/resourceVersion") != body.pointer("/metadata/resourceVersion") => {
                    refusal(409)
                }
                Some(_) => self.written(200, path, body),
            },
            Method::PATCH => match self.objects.get(path).cloned() {
                None => refusal(404),
                Some(mut current) => {
                    merge_webhooks(&mut current, &body);
                    self.written(200, path, current)
                }
            },
            _ => refusal(405),
        }
    }

    fn written(&mut self, status: u16, path: &str, object: Value) -> (u16, Value) {
        self.store(path, object);
        (status, self.objects.get(path).cloned().unwrap_or_default())
    }

    /// A collection, if the path may be one.
    fn list(&self, path: &str) -> (u16, Value) {
        let collection = ["namespaces", "secrets", "mutatingwebhookconfigurations", "validatingwebhookconfigurations"];
        if !collection.iter().any(|name| path.ends_with(&format!("/{name}"))) {
            return refusal(404);
        }
        let prefix = format!("{path}/");
        let inside = self.objects.iter().filter(|(name, _)| name.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/')));
        let items: Vec<&Value> = inside.map(|(_, object)| object).collect();
        (
            200,
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}, "items": items}),
        )
    }
}

/// What a strategic merge does to the list `webhooks`: entries are merged by name.
fn merge_webhooks(object: &mut Value, patch: &Value) {
    let entries = patch.get("webhooks").and_then(Value::as_array).cloned().unwrap_or_default();
    for entry in entries {
        let hooks = object.get_mut("webhooks").and_then(Value::as_array_mut);
        let named = hooks.into_iter().flatten().find(|hook| hook.get("name") == entry.get("name"));
        if let (Some(hook), Some(bundle)) = (named, entry.pointer("/clientConfig/caBundle")) {
            hook["clientConfig"]["caBundle"] = bundle.clone();
        }
    }
}

fn refusal(code: u16) -> (u16, Value) {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "as the test wants it", "reason": reason, "code": code}),
    )
}

/// A namespace as the API server writes it.
pub(crate) fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": name, "labels": labels}})
}

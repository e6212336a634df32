//! Probes and hooks that reach the application through the sidecar.
//!
//! The kubelet has no certificate, so under `weir.dev/mtls: strict` it would be refused; and a connection that is redirected
//! opens at the sidecar even while the application is dead, so a TCP probe would always succeed. Each probe by HTTP, TCP or
//! gRPC, and each hook by HTTP, is therefore sent to the sidecar's admin port, which asks the application in the kubelet's
//! place. What it has to ask stands in the sidecar's `WEIR_PROBES` ([`Probes`]).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::patch::Add;
use crate::ports::PortSet;
use crate::sidecar::{ADMIN_PORT, CONTAINERS};

/// The sidecar's setting that has the application's probes.
pub const VARIABLE: &str = "WEIR_PROBES";

/// Linux takes variables of up to 128 KiB. What would be beyond this is left with the kubelet: a pod that does not start at all
/// would be worse.
const MAX_BYTES: usize = 96 * 1024;

/// Probes by the name of their field, and by their name in the sidecar's paths.
const PROBES: [(&str, &str); 3] = [("startupProbe", "startup"), ("readinessProbe", "readiness"), ("livenessProbe", "liveness")];
/// Hooks likewise.
const HOOKS: [(&str, &str); 2] = [("postStart", "post-start"), ("preStop", "pre-stop")];
/// What a probe can do. Exactly one of them is valid.
const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

/// The application's own probes, by `CONTAINER/KIND`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes(BTreeMap<String, Value>);

impl Probes {
    /// Reads what [`to_text`](Self::to_text) wrote. Text that is something else counts as none: whoever changed it by hand finds
    /// the sidecar refusing it.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap_or_default())
    }

    /// As the value of [`VARIABLE`]: JSON without a `$`, which Kubernetes would read as a reference to another variable.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Outside of its strings JSON has none.
        json!(self.0).to_string().replace('$', "\\u0024")
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes one more, if there is room.
    fn insert(&mut self, name: String, probe: Value) -> bool {
        let mut with = self.clone();
        with.0.insert(name, probe);
        let fits = with.to_text().len() <= MAX_BYTES;
        if fits {
            *self = with;
        }
        fits
    }
}

/// Sends the probes and hooks of a pod's containers to the sidecar: what changes in the pod, and what the sidecar has to know,
/// which includes what it knows already.
///
/// `direct` are the ports that do not pass the sidecar; their probes stay as they are. `proxy_at` is the index of the sidecar
/// among the init containers: one that stands before it is waited for by Kubernetes before the sidecar starts, so what decides
/// about its start is not made to depend on the sidecar.
#[must_use]
pub fn through_sidecar(object: &Value, direct: &PortSet, proxy_at: usize, known: Probes) -> (Vec<Add>, Probes) {
    let mut redirection = Redirection { direct, patch: Vec::new(), probes: known };
    for (index, container) in containers(object, "initContainers") {
        // Only init containers that keep running have probes.
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            redirection.container(container, &format!("/spec/initContainers/{index}"), index >= proxy_at);
        }
    }
    for (index, container) in containers(object, "containers") {
        redirection.container(container, &format!("/spec/containers/{index}"), true);
    }
    (redirection.patch, redirection.probes)
}

/// A list of containers with their places in it.
pub(crate) fn containers<'a>(object: &'a Value, list: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    let list = object.get("spec").and_then(|spec| spec.get(list)).and_then(Value::as_array);
    list.into_iter().flatten().enumerate()
}

/// A container's name.
pub(crate) fn name(container: &Value) -> &str {
    container.get("name").and_then(Value::as_str).unwrap_or_default()
}

struct Redirection<'a> {
    direct: &'a PortSet,
    patch: Vec<Add>,
    probes: Probes,
}

impl Redirection<'_> {
    fn container(&mut self, container: &Value, path: &str, proxy_is_up: bool) {
        if CONTAINERS.contains(&name(container)) {
            return;
        }
        for (field, kind) in PROBES {
            if let Some(probe) = container.get(field).filter(|_| proxy_is_up || kind != "startup") {
                self.probe(container, probe, kind, format!("{path}/{field}"));
            }
        }
        let lifecycle = container.get("lifecycle");
        for (field, kind) in HOOKS {
            let hook = lifecycle.and_then(|it| it.get(field)).filter(|_| proxy_is_up || kind != "post-start");
            if let Some(handler) = hook.and_then(|hook| hook.get("httpGet")) {
                self.hook(container, handler, kind, format!("{path}/lifecycle/{field}/httpGet"));
            }
        }
    }

    fn probe(&mut self, container: &Value, probe: &Value, kind: &str, path: String) {
        let Some((handler, asked)) = only_handler(probe) else { return };
        let Some(mut original) = self.original(container, handler, asked) else { return };
        if let Some(timeout) = probe.get("timeoutSeconds").filter(|it| it.is_u64()) {
            original.insert("timeoutSeconds".into(), timeout.clone());
        }
        let mut sent = probe.as_object().cloned().unwrap_or_default();
        sent.remove(handler);
        sent.insert("httpGet".into(), to_sidecar(container, kind));
        if self.probes.insert(key(container, kind), original.into()) {
            self.patch.push(Add::new(path, sent));
        }
    }

    fn hook(&mut self, container: &Value, handler: &Value, kind: &str, path: String) {
        let Some(original) = self.original(container, "httpGet", handler) else { return };
        if self.probes.insert(key(container, kind), original.into()) {
            self.patch.push(Add::new(path, to_sidecar(container, kind)));
        }
    }

    /// What the sidecar has to ask, with the number of the port. `None`: the kubelet asks itself.
    fn original(&self, container: &Value, handler: &str, asked: &Value) -> Option<Map<String, Value>> {
        let mut asked = asked.as_object()?.clone();
        let elsewhere = asked.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty());
        let named = asked.get("port")?.clone();
        let port = port(container, &named)?;
        if handler == "exec" || elsewhere || port == ADMIN_PORT || self.direct.contains(port) {
            return None;
        }
        asked.insert("port".into(), port.into());
        let mut original = Map::new();
        original.insert(handler.into(), asked.into());
        if named.is_string() {
            original.insert("portName".into(), named);
        }
        Some(original)
    }
}

/// What a probe does. `None` where it is nothing or more than one thing, which the API server refuses.
fn only_handler(probe: &Value) -> Option<(&'static str, &Value)> {
    let mut handlers = HANDLERS.iter().filter_map(|name| Some((*name, probe.get(name).filter(|it| !it.is_null())?)));
    handlers.next().filter(|_| handlers.next().is_none())
}

/// The number of a port: as it is, by its name among the container's ports, or written as text. In this order the kubelet looks.
fn port(container: &Value, port: &Value) -> Option<u16> {
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0);
    let Some(text) = port.as_str() else { return number(port) };
    let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
    let named = ports.filter(|it| it.get("name").and_then(Value::as_str) == Some(text)).find_map(|it| it.get("containerPort"));
    named.map_or_else(|| text.parse().ok().filter(|port| *port != 0), number)
}

fn key(container: &Value, kind: &str) -> String {
    format!("{}/{kind}", name(container))
}

fn to_sidecar(container: &Value, kind: &str) -> Value {
    json!({"path": format!("/probe/{}", key(container, kind)), "port": ADMIN_PORT, "scheme": "HTTP"})
}

#[cfg(test)]
#[path = "probes_tests.rs"]
mod tests;

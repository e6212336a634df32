//! Objects that speak to the mesh, judged as they are written.
//!
//! What stands in the group `weir.dev` is Weir's to refuse. Everything else is warned of and let through: a route is for others
//! as well, and a Namespace or a Service is much more than what it says to the mesh. `kubectl` prints the warnings.

mod objects;
mod route;

use serde_json::{Value, json};
use weir_objects::{Decoded, Problem, decode};

use crate::review::{Answer, Request};

/// The group whose objects are Weir's own.
const OWN_GROUP: &str = "weir.dev";
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Judges an object that is created or changed.
#[must_use]
pub fn judge(request: &Request) -> Answer {
    let written = matches!(request.operation.as_str(), "CREATE" | "UPDATE") && request.sub_resource.is_empty();
    // What is on its way out only loses finalizers.
    let ends = request.object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    if !written || ends {
        return Answer::allow();
    }
    match (request.kind.group.as_str(), request.kind.kind.as_str()) {
        (GATEWAY_GROUP, "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute") => {
            Answer::allow().with_warnings(route::warnings(request))
        }
        (GATEWAY_GROUP, kind) if kind.ends_with("Route") => Answer::allow().with_warnings(route::not_served(request)),
        (OWN_GROUP, _) => own(&decode(&named(request))),
        ("", "Namespace") => Answer::allow().with_warnings(objects::namespace(request)),
        ("", "Service") => Answer::allow().with_warnings(objects::service(request)),
        _ => Answer::allow(),
    }
}

/// An object of Weir's own group: refused when it is wrong, since nobody else reads it.
fn own(decoded: &Decoded) -> Answer {
    match decoded {
        Decoded::Object(_, problems) => Answer::allow().with_warnings(problems.iter().map(|it| format!("weir: {it}")).collect()),
        Decoded::Unknown { api_version, kind } => {
            let warning = format!("weir: this version does not know {kind} of {api_version}, and it has no effect");
            Answer::allow().with_warnings(vec![warning])
        }
        Decoded::Refused(_, problems) => Answer::refuse(refusal(problems)),
    }
}

fn refusal(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    match lines.as_slice() {
        [only] => format!("weir cannot use this object: {only}"),
        _ => format!("weir cannot use this object, for {} reasons:\n- {}", lines.len(), lines.join("\n- ")),
    }
}

/// The object with a name and its namespace, which it may not have yet: the API server makes one from `generateName` later.
fn named(request: &Request) -> Value {
    let mut object = request.object.clone();
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return object };
    let empty = |value: Option<&Value>| value.is_none_or(|it| it.is_null() || it.as_str() == Some(""));
    if empty(metadata.get("name")) {
        // Its beginning may end in `-`, which no name does.
        let name = match request.object_name() {
            "" => "unnamed".to_owned(),
            beginning => format!("{beginning}x"),
        };
        metadata.insert("name".to_owned(), json!(name));
    }
    if empty(metadata.get("namespace")) && !request.namespace.is_empty() && request.kind.kind != "Namespace" {
        metadata.insert("namespace".to_owned(), json!(request.namespace));
    }
    object
}

#[cfg(test)]
mod tests;

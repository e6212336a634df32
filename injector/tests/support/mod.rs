//! A patch applier of the tests' own, so that the patch is judged by its effect: `add` of RFC 6902 and nothing else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use weir_injector::answer;
use weir_injector::installation::Installation;
use weir_injector::pod::Namespace;
use weir_injector::review::Request;

/// Applies a patch. `None` when it does not fit the object.
pub(crate) fn apply(mut object: Value, patch: &Value) -> Option<Value> {
    for operation in patch.as_array()? {
        assert_eq!(operation.get("op"), Some(&json!("add")), "{operation}");
        let path = operation.get("path")?.as_str()?;
        let (parent, key) = path.rsplit_once('/')?;
        let key = key.replace("~1", "/").replace("~0", "~");
        let value = operation.get("value")?.clone();
        match object.pointer_mut(parent)? {
            Value::Object(members) => {
                members.insert(key, value);
            }
            Value::Array(items) if key == "-" => items.push(value),
            Value::Array(items) => {
                let at = key.parse::<usize>().ok().filter(|at| *at <= items.len())?;
                items.insert(at, value);
            }
            _ => return None,
        }
    }
    Some(object)
}

/// The bytes of a review of a pod's creation.
pub(crate) fn review(pod: &Value) -> Vec<u8> {
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    let request = json!({"uid": "u-1", "kind": kind, "operation": "CREATE", "namespace": "shop", "object": pod});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string().into_bytes()
}

/// A namespace called `shop` with these annotations, where injection is enabled.
pub(crate) fn shop(annotations: &Value) -> Namespace {
    let labels = json!({"weir.dev/inject": "enabled"});
    let object = json!({"metadata": {"name": "shop", "labels": labels, "annotations": annotations}});
    Namespace::read(&object).unwrap_or_default()
}

/// What the webhook answers, and the patch in it.
pub(crate) fn answered(pod: &Value, namespace: &Namespace, installation: &Installation) -> Option<(Value, Option<Value>)> {
    let request = Request::parse(&review(pod)).ok()?;
    let review = answer(&request, namespace, installation).to_review(&request.uid);
    let Some(encoded) = review.pointer("/response/patch") else { return Some((review, None)) };
    let patch = serde_json::from_slice(&STANDARD.decode(encoded.as_str()?).ok()?).ok()?;
    Some((review, Some(patch)))
}

//! What a route's `status.parents` should be.
//!
//! The list is atomic in the Gateway API's definitions: whoever writes it writes all of it. So the entries of other controllers
//! are taken over as they were read, and the API server refuses the write if the route is another one by then.

use serde_json::{Value, json};
use weir_core::route::RouteRef;

use crate::objects::ObjectKey;
use crate::routes::route_key;
use crate::translate::{CONTROLLER, Condition, RouteStatus};

/// Kubernetes takes 32,768.
const MAX_MESSAGE: usize = 32_000;

/// A route as the API server has it, as far as its status goes.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteObject {
    /// Its name.
    pub key: RouteRef,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `spec.parentRefs`, as it is written.
    parent_refs: Vec<Value>,
    /// `status.parents`, of all controllers.
    parents: Vec<Value>,
    /// Why this version of it is not taken, if it is not.
    refused: Option<String>,
}

/// What the mesh knows of a route.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    /// The `metadata.generation` that it knows.
    pub(super) generation: i64,
    /// What became of it; nothing where no parent is a Service.
    pub(super) status: Option<RouteStatus>,
}

/// What to do about a route's status.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is as it should be.
    AsItShouldBe,
    /// The mesh has not judged this version yet.
    NotJudged,
    /// `status.parents` should be this.
    Write(Vec<Value>),
}

impl RouteObject {
    /// Reads a route. `refused`: why it is not taken.
    #[must_use]
    pub fn read(key: RouteRef, value: &Value, refused: Option<String>) -> Self {
        let list = |pointer| value.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        Self {
            key,
            generation: value.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0),
            version: value.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned(),
            parent_refs: list("/spec/parentRefs"),
            parents: list("/status/parents"),
            refused,
        }
    }

    /// Reads a route that is not taken; nothing where the object is no route.
    #[must_use]
    pub fn refused(key: &ObjectKey, value: &Value, why: String) -> Option<Self> {
        Some(Self::read(route_key(key)?, value, Some(why)))
    }

    /// The same route, read again.
    #[must_use]
    pub fn again(&self, value: &Value) -> Self {
        let again = Self::read(self.key.clone(), value, None);
        // Another version may be taken.
        let refused = self.refused.clone().filter(|_| again.generation == self.generation);
        Self { refused, ..again }
    }
}

/// What `status.parents` of a route should be at `now`, the time as Kubernetes writes it.
#[must_use]
pub(super) fn judge(route: &RouteObject, known: Option<&Known>, now: &str) -> Verdict {
    let wanted: Vec<(&Value, Vec<Condition>)> = match (&route.refused, known) {
        (Some(why), known) => refusal(route, why, known),
        (None, Some(known)) if known.generation == route.generation => {
            let parents = known.status.iter().flat_map(|status| &status.parents);
            parents.filter_map(|it| Some((route.parent_refs.get(it.parent_index)?, it.conditions.clone()))).collect()
        }
        (None, _) => return Verdict::NotJudged,
    };
    let merged = merged(&route.parents, &wanted, now);
    if merged == route.parents { Verdict::AsItShouldBe } else { Verdict::Write(merged) }
}

/// Others' entries stay as and where they are, ours as well where they are still meant.
fn merged(current: &[Value], wanted: &[(&Value, Vec<Condition>)], now: &str) -> Vec<Value> {
    let mut left: Vec<&(&Value, Vec<Condition>)> = Vec::with_capacity(wanted.len());
    for one in wanted {
        if !left.iter().any(|(parent, _)| *parent == one.0) {
            left.push(one);
        }
    }
    let mut merged = Vec::with_capacity(current.len() + left.len());
    for entry in current {
        if !is_ours(entry) {
            merged.push(entry.clone());
        } else if let Some(at) = left.iter().position(|(parent, _)| entry.get("parentRef") == Some(parent)) {
            let (parent, conditions) = left.remove(at);
            merged.push(written(parent, conditions, entry.get("conditions"), now));
        }
    }
    merged.extend(left.into_iter().map(|(parent, conditions)| written(parent, conditions, None, now)));
    merged
}

fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER)
}

fn written(parent: &Value, conditions: &[Condition], before: Option<&Value>, now: &str) -> Value {
    let conditions: Vec<Value> = conditions.iter().map(|it| condition(it, before, now)).collect();
    json!({"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions})
}

/// `lastTransitionTime` is when the status changed, not the reason or the message.
fn condition(condition: &Condition, before: Option<&Value>, now: &str) -> Value {
    let same = before.and_then(Value::as_array).into_iter().flatten().find(|it| {
        it.get("type").and_then(Value::as_str) == Some(condition.kind)
            && it.get("status").and_then(Value::as_str) == Some(condition.status)
    });
    let since = same.and_then(|it| it.get("lastTransitionTime")).and_then(Value::as_str).unwrap_or(now);
    let message: String = condition.message.chars().take(MAX_MESSAGE).collect();
    json!({
        "type": condition.kind,
        "status": condition.status,
        "reason": condition.reason,
        "message": message,
        "observedGeneration": condition.observed_generation,
        "lastTransitionTime": since,
    })
}

/// A version that cannot be taken is not accepted, whatever its parents are.
fn refusal<'a>(route: &'a RouteObject, why: &str, known: Option<&Known>) -> Vec<(&'a Value, Vec<Condition>)> {
    let served = known.map_or_else(
        || "nothing of it is served".to_owned(),
        |known| format!("the version before it (generation {}) is served on", known.generation),
    );
    let condition = Condition {
        kind: "Accepted",
        status: "False",
        reason: "UnsupportedValue",
        message: format!("{why}; {served}"),
        observed_generation: route.generation,
    };
    let ours = route.parent_refs.iter().filter(|parent| {
        let text = |field| parent.get(field).and_then(Value::as_str);
        matches!((text("group"), text("kind")), (Some("" | "core"), Some("Service")))
    });
    ours.map(|parent| (parent, vec![condition.clone()])).collect()
}

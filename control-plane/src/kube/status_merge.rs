//! What `status.parents` of a route should be, and `status.ancestors` of a policy (GEP-713), which has the same form.
//!
//! The list is atomic in the Gateway API's definitions: whoever writes it writes all of it. So the entries of other controllers
//! are taken over as they were read, and the API server refuses the write if the route is another one by then.

use serde_json::{Value, json};

use crate::objects::{Kind, ObjectKey};
use crate::translate::{CONTROLLER, Condition, Status};

/// A route's status takes so many parents.
const MAX_PARENTS: usize = 32;
/// A policy's status takes so many ancestors, of all controllers together (GEP-713).
const MAX_ANCESTORS: usize = 16;
/// Kubernetes takes 32,768.
const MAX_MESSAGE: usize = 32_000;

/// Where an object of a kind has what its status is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// The list in its `spec` of what it is attached to.
    references: &'static str,
    /// The list in its `status`.
    pub(super) entries: &'static str,
    /// The field of an entry that says which reference it is about.
    reference: &'static str,
    /// The most entries.
    most: usize,
}

/// `None`: nobody is told of the status of such objects.
pub(super) const fn form(kind: Kind) -> Option<Form> {
    match kind {
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
            Some(Form { references: "parentRefs", entries: "parents", reference: "parentRef", most: MAX_PARENTS })
        }
        Kind::TrafficPolicy | Kind::BackendTlsPolicy | Kind::BackendTrafficPolicy => {
            Some(Form { references: "targetRefs", entries: "ancestors", reference: "ancestorRef", most: MAX_ANCESTORS })
        }
        Kind::Namespace | Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::ConfigMap => None,
    }
}

/// A route or a policy as the API server has it, as far as its status goes.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusObject {
    /// Its name.
    pub key: ObjectKey,
    /// Where things are in it.
    pub(super) form: Form,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// What it is attached to, as it is written.
    references: Vec<Value>,
    /// The entries in its status, of all controllers.
    entries: Vec<Value>,
    /// Why this version of it is not taken, if it is not.
    refused: Option<String>,
}

/// What the mesh knows of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    /// The `metadata.generation` that it knows.
    pub(super) generation: i64,
    /// What became of it; nothing where no parent is a Service.
    pub(super) status: Option<Status>,
}

/// What to do about a status.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is as it should be.
    AsItShouldBe,
    /// The mesh has not judged this version yet.
    NotJudged,
    /// The list should be this.
    Write(Vec<Value>),
}

impl StatusObject {
    /// Reads a route or a policy; nothing where the object is neither. `refused`: why it is not taken.
    #[must_use]
    pub fn read(key: &ObjectKey, value: &Value, refused: Option<String>) -> Option<Self> {
        Some(Self::of(key.clone(), form(key.kind)?, value, refused))
    }

    fn of(key: ObjectKey, form: Form, value: &Value, refused: Option<String>) -> Self {
        let list = |part: &str, list: &str| {
            value.get(part).and_then(|it| it.get(list)).and_then(Value::as_array).cloned().unwrap_or_default()
        };
        Self {
            key,
            form,
            generation: value.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0),
            version: value.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned(),
            references: list("spec", form.references),
            entries: list("status", form.entries),
            refused,
        }
    }

    /// The same object, read again.
    #[must_use]
    pub fn again(&self, value: &Value) -> Self {
        let again = Self::of(self.key.clone(), self.form, value, None);
        // Another version may be taken.
        let refused = self.refused.clone().filter(|_| again.generation == self.generation);
        Self { refused, ..again }
    }
}

/// What the entries of an object's status should be at `now`, the time as Kubernetes writes it.
#[must_use]
pub(super) fn judge(object: &StatusObject, known: Option<&Known>, now: &str) -> Verdict {
    let wanted: Vec<(&Value, Vec<Condition>)> = match (&object.refused, known) {
        (Some(why), known) => refusal(object, why, known),
        (None, Some(known)) if known.generation == object.generation => {
            let parents = known.status.iter().flat_map(|status| &status.parents);
            parents.filter_map(|it| Some((object.references.get(it.parent_index)?, it.conditions.clone()))).collect()
        }
        (None, _) => return Verdict::NotJudged,
    };
    let merged = merged(object, &wanted, now);
    if merged == object.entries { Verdict::AsItShouldBe } else { Verdict::Write(merged) }
}

/// Others' entries stay as and where they are, ours as well where they are still meant.
fn merged(object: &StatusObject, wanted: &[(&Value, Vec<Condition>)], now: &str) -> Vec<Value> {
    let mut left: Vec<&(&Value, Vec<Condition>)> = Vec::with_capacity(wanted.len());
    for one in wanted {
        if !left.iter().any(|(parent, _)| *parent == one.0) {
            left.push(one);
        }
    }
    let reference = object.form.reference;
    let mut merged = Vec::with_capacity(object.entries.len() + left.len());
    for entry in &object.entries {
        if !is_ours(entry) {
            merged.push(entry.clone());
        } else if let Some(at) = left.iter().position(|(parent, _)| entry.get(reference) == Some(parent)) {
            let (parent, conditions) = left.remove(at);
            merged.push(written(object, parent, conditions, entry.get("conditions"), now));
        }
    }
    // What others wrote is not pushed out: a target without an entry is told of in the control plane's log and on its page.
    let room = object.form.most.saturating_sub(merged.len());
    merged.extend(left.into_iter().take(room).map(|(parent, conditions)| written(object, parent, conditions, None, now)));
    merged
}

fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER)
}

fn written(object: &StatusObject, parent: &Value, conditions: &[Condition], before: Option<&Value>, now: &str) -> Value {
    let conditions: Vec<Value> = conditions.iter().map(|it| condition(it, before, now)).collect();
    json!({object.form.reference: parent, "controllerName": CONTROLLER, "conditions": conditions})
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
fn refusal<'a>(object: &'a StatusObject, why: &str, known: Option<&Known>) -> Vec<(&'a Value, Vec<Condition>)> {
    let served = known.map_or_else(
        || "nothing of it is served".to_owned(),
        |known| format!("the version before it (generation {}) is served on", known.generation),
    );
    let condition = Condition {
        kind: "Accepted",
        status: "False",
        reason: if object.key.kind.route().is_some() { "UnsupportedValue" } else { "Invalid" },
        message: format!("{why}; {served}"),
        observed_generation: object.generation,
    };
    let ours = object.references.iter().filter(|parent| {
        let text = |field| parent.get(field).and_then(Value::as_str);
        matches!((text("group"), text("kind")), (Some("" | "core"), Some("Service")))
    });
    ours.map(|parent| (parent, vec![condition.clone()])).collect()
}

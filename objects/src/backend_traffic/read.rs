//! From what is written to a [`BackendTrafficPolicy`].

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use weir_core::budget::BudgetConfig;
use weir_core::names::{Label, ServiceRef};

use super::{BackendTrafficPolicy, Persistence};
use crate::field::{FieldPath, excerpt};
use crate::gateway::{SessionPersistenceSpec, created};
use crate::policy::{PolicyTarget, number, time};
use crate::reader::{Reader, structure};
use crate::routes::shared_session;
use crate::{Object, Read, raw};

/// As the Gateway API bounds it.
const MAX_TARGETS: usize = 16;
const HOUR: Duration = Duration::from_secs(3600);

/// A field that nobody knows asks for something that would not be done.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (an XBackendTrafficPolicy)")]
struct PolicyObject {
    metadata: raw::Metadata,
    spec: Spec,
}

/// What is not needed to know which Service it is about is read later: a policy for others only is none of Weir's business.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (an XBackendTrafficPolicy's spec)")]
struct Spec {
    target_refs: Vec<TargetRef>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping (a targetRef: group, kind and name)")]
struct TargetRef {
    group: String,
    kind: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (retryConstraint)")]
struct RetryConstraint {
    budget: Option<Budget>,
    min_retry_rate: Option<Rate>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping (budget)")]
struct Budget {
    percent: Option<i64>,
    interval: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping with `count` and `interval`")]
struct Rate {
    count: Option<i64>,
    interval: Option<String>,
}

pub(crate) fn policy(value: &Value) -> Read {
    let raw: PolicyObject = structure(value)?;
    let mut reader = Reader::default();
    let created_seconds = created(&raw.metadata, &mut reader);
    let Some(key) = reader.key(&raw.metadata) else { return reader.finish(None) };
    let spec = FieldPath::of(&["spec"]);
    let targets = targets(&raw.spec.target_refs, &key.namespace, &spec.key("targetRefs"), &mut reader);
    let is_for_others = targets.is_empty() && !raw.spec.target_refs.is_empty();
    let (mut budget, mut persistence) = (None, None);
    for (name, written) in raw.spec.rest.iter().filter(|(_, written)| !written.is_null() && !is_for_others) {
        let field = spec.key(name);
        match name.as_str() {
            "retryConstraint" => budget = inside(written, &field, &mut reader).map(|raw| self::budget(&raw, &field, &mut reader)),
            "sessionPersistence" => persistence = self::persistence(written, &field, &mut reader),
            _ => reader.refuse(field, "is no field that Weir knows: what it asks for would not be done"),
        }
    }
    let generation = raw.metadata.generation.unwrap_or(0);
    let policy = BackendTrafficPolicy { key, created_seconds, generation, targets, budget, persistence };
    reader.finish(Some(Object::BackendTrafficPolicy(Arc::new(policy))))
}

/// A part of the spec, whose mistakes refuse the policy.
fn inside<T: serde::de::DeserializeOwned>(value: &Value, field: &FieldPath, reader: &mut Reader) -> Option<T> {
    if !value.is_object() {
        reader.refuse(field.clone(), "expected a mapping");
        return None;
    }
    let problems = match structure(value) {
        Ok(read) => return Some(read),
        Err(problems) => problems,
    };
    for problem in problems {
        let place = problem.field.segments().iter().fold(field.clone(), |field, segment| field.with(segment.clone()));
        reader.refuse(place, problem.message);
    }
    None
}

fn targets(raw: &[TargetRef], namespace: &Label, field: &FieldPath, reader: &mut Reader) -> Vec<PolicyTarget> {
    if raw.is_empty() {
        let message = "is missing: expected the Services that the policy is for, as {group: \"\", kind: Service, name: …}";
        reader.refuse(field.clone(), message);
    }
    if raw.len() > MAX_TARGETS {
        reader.refuse(field.clone(), format!("has {} items, and {MAX_TARGETS} are the most", raw.len()));
    }
    let mut targets: Vec<PolicyTarget> = Vec::with_capacity(raw.len().min(MAX_TARGETS));
    for (index, it) in raw.iter().enumerate() {
        let field = field.index(index);
        if !matches!(it.group.as_str(), "" | "core") || it.kind != "Service" {
            let found = format!("{} of `{}`", excerpt(&it.kind), excerpt(&it.group));
            reader.note(field, format!("means nothing to the mesh: expected kind Service of the group \"\", found {found}"));
            continue;
        }
        let Some(name) = reader.parse(field.key("name"), &it.name) else { continue };
        let service = ServiceRef { namespace: namespace.clone(), name };
        if targets.iter().any(|other| other.service == service) {
            reader.refuse(field, "is there twice");
            continue;
        }
        targets.push(PolicyTarget { index, service, section: None });
    }
    targets
}

fn budget(raw: &RetryConstraint, field: &FieldPath, reader: &mut Reader) -> BudgetConfig {
    let usual = BudgetConfig { answers_unavailable: true, ..BudgetConfig::default() };
    let place = field.key("budget");
    let (percent, interval) = raw.budget.as_ref().map_or((None, None), |it| (it.percent, it.interval.as_deref()));
    let percent = number(percent, usual.percent, 0..=100, place.key("percent"), reader);
    let window = time(interval, usual.window, place.key("interval"), reader);
    if window < Duration::from_secs(1) || window > HOUR {
        reader.refuse(place.key("interval"), "expected a duration from 1s to 1h");
    }
    let place = field.key("minRetryRate");
    let (count, every) = raw.min_retry_rate.as_ref().map_or((None, None), |it| (it.count, it.interval.as_deref()));
    let count = number(count, 10, 1..=1_000_000, place.key("count"), reader);
    let interval = time(every, Duration::from_secs(1), place.key("interval"), reader);
    if interval.is_zero() || interval > HOUR {
        reader.refuse(place.key("interval"), "expected a duration from 1ms to 1h");
        return usual;
    }
    let budget = BudgetConfig { percent, window, ..usual }.with_minimum(count, interval);
    if budget.reserve() == 0 {
        let message = format!("{count} in {interval:?} is less than one retry in the budget's interval, which is {window:?}");
        reader.refuse(place, format!("{message}: expected more, or a longer budget.interval"));
    }
    budget
}

fn persistence(written: &Value, field: &FieldPath, reader: &mut Reader) -> Option<Persistence> {
    // The type that rules share with it takes fields of tomorrow, as rules do.
    let unknown = |written: &Value, known: &[&str]| -> Option<String> {
        written.as_object()?.keys().find(|name| !known.contains(&name.as_str())).cloned()
    };
    let cookie = written.get("cookieConfig").unwrap_or(&Value::Null);
    let known = ["sessionName", "absoluteTimeout", "idleTimeout", "type", "cookieConfig"];
    let unknown = [
        unknown(written, &known).map(|name| field.key(&name)),
        unknown(cookie, &["lifetimeType"]).map(|name| field.key("cookieConfig").key(&name)),
    ];
    for field in unknown.into_iter().flatten() {
        reader.refuse(field, "is no field that Weir knows: what it asks for would not be done");
    }
    let spec: SessionPersistenceSpec = inside(written, field, reader)?;
    let session = shared_session(&spec, field, reader)?;
    Some(Persistence { session, is_named: spec.session_name.is_some() })
}

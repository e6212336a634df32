//! backendRefs.

use std::sync::Arc;

use weir_core::names::{BackendRef, Label, ServiceRef};

use super::filter::{Filters, Place, filters};
use super::{Problems, RouteBackend};
use crate::{BackendRefSpec, FieldPath, excerpt};

/// The largest weight of the Gateway API.
const MAX_WEIGHT: u32 = 1_000_000;

pub(super) fn backends(
    specs: &[BackendRefSpec],
    own_namespace: &Label,
    place: Place,
    field: &FieldPath,
    problems: &mut Problems,
) -> Vec<RouteBackend> {
    let each = specs.iter().enumerate();
    each.map(|(i, spec)| backend(spec, own_namespace, place, &field.index(i), problems)).collect()
}

fn backend(
    spec: &BackendRefSpec,
    own_namespace: &Label,
    place: Place,
    field: &FieldPath,
    problems: &mut Problems,
) -> RouteBackend {
    let mark = problems.mark();
    let Filters { filters, mirrors } = filters(&spec.filters, own_namespace, place, &field.key("filters"), problems);
    let weight = match u32::try_from(spec.weight.unwrap_or(1)) {
        Ok(weight) if weight <= MAX_WEIGHT => weight,
        _ => {
            problems.malformed(field.key("weight"), format!("expected a weight from 0 to {MAX_WEIGHT}"));
            0
        }
    };
    let (backend, wrong_kind) = target(spec, own_namespace, field, problems);
    RouteBackend { field: field.clone(), backend, weight, filters, mirrors, wrong_kind, invalid: problems.since(mark) }
}

/// A backend that only gets copies of requests.
pub(super) fn mirror(spec: &BackendRefSpec, own_namespace: &Label, field: &FieldPath, problems: &mut Problems) -> RouteBackend {
    let (backend, wrong_kind) = target(spec, own_namespace, field, problems);
    let (filters, mirrors) = (Vec::new(), Vec::new());
    RouteBackend { field: field.clone(), backend, weight: 1, filters, mirrors, wrong_kind, invalid: None }
}

/// What is referred to, or a stand-in and why it is of the wrong kind.
fn target(
    spec: &BackendRefSpec,
    own_namespace: &Label,
    field: &FieldPath,
    problems: &mut Problems,
) -> (BackendRef, Option<Arc<str>>) {
    let wrong_kind = match (spec.group.as_deref().unwrap_or_default(), spec.kind.as_deref().unwrap_or("Service")) {
        ("" | "core", "Service") => None,
        (group, kind) => {
            let group = if group.is_empty() { String::new() } else { format!(" of group `{}`", excerpt(group)) };
            Some(format!("`{}`{group} is not a kind of backend: only Services are", excerpt(kind)))
        }
    };
    let backend = if wrong_kind.is_none() { reference(spec, own_namespace, field, problems) } else { None };
    (backend.unwrap_or_else(|| stand_in(own_namespace)), wrong_kind.map(Into::into))
}

fn reference(spec: &BackendRefSpec, own_namespace: &Label, field: &FieldPath, problems: &mut Problems) -> Option<BackendRef> {
    let mut label = |name: &str, text: &str| match text.parse::<Label>() {
        Ok(label) => Some(label),
        Err(error) => {
            problems.malformed(field.key(name), error.to_string());
            None
        }
    };
    let namespace = match spec.namespace.as_deref() {
        Some(text) => label("namespace", text),
        None => Some(own_namespace.clone()),
    };
    let name = label("name", &spec.name);
    let port = match spec.port.map(u16::try_from) {
        Some(Ok(port)) if port != 0 => Some(port),
        Some(_) => {
            problems.malformed(field.key("port"), "expected a port from 1 to 65535");
            None
        }
        None => {
            problems.malformed(field.key("port"), "is missing: a Service is named with its port");
            None
        }
    };
    Some(BackendRef { service: ServiceRef { namespace: namespace?, name: name? }, port: port? })
}

/// A name for a backend that has none. Nothing is ever sent there: the backend that it stands for is invalid.
fn stand_in(own_namespace: &Label) -> BackendRef {
    #[expect(clippy::expect_used, reason = "a constant that is a DNS label")]
    let name = "invalid".parse().expect("a DNS label");
    BackendRef { service: ServiceRef { namespace: own_namespace.clone(), name }, port: 1 }
}

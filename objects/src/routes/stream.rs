//! TLSRoutes and TCPRoutes: connections that are routed as a whole.

use weir_core::names::Label;
use weir_core::route::{HostPattern, RouteKind, Timeouts};

use super::filter::Place;
use super::{Problems, Route, Rule, assemble, backend};
use crate::{FieldPath, Problem, RouteMetadata, StreamRouteSpec, StreamRuleSpec};

/// Judges a TCPRoute.
///
/// # Errors
///
/// Everything in it that no API server would take.
pub fn tcp(metadata: RouteMetadata, spec: &StreamRouteSpec) -> Result<Route, Vec<Problem>> {
    stream(RouteKind::Tcp, metadata, spec)
}

/// Judges a TLSRoute.
///
/// # Errors
///
/// As [`tcp`].
pub fn tls(metadata: RouteMetadata, spec: &StreamRouteSpec) -> Result<Route, Vec<Problem>> {
    let mut hostnames = Vec::with_capacity(spec.hostnames.len());
    let mut malformed = Vec::new();
    for (i, text) in spec.hostnames.iter().enumerate() {
        match text.parse::<HostPattern>() {
            Ok(name) => hostnames.push(name),
            Err(error) => malformed.push(Problem::new(FieldPath::of(&["spec", "hostnames"]).index(i), error.to_string())),
        }
    }
    match (stream(RouteKind::Tls, metadata, spec), malformed.is_empty()) {
        (Ok(route), true) => Ok(Route { hostnames, ..route }),
        (Ok(_), false) => Err(malformed),
        (Err(others), _) => Err(malformed.into_iter().chain(others).collect()),
    }
}

fn stream(kind: RouteKind, metadata: RouteMetadata, spec: &StreamRouteSpec) -> Result<Route, Vec<Problem>> {
    assemble(kind, metadata, &spec.parent_refs, spec.rules.len(), |key, problems| {
        if spec.rules.is_empty() {
            let message = "is empty: a rule says who gets the connections";
            problems.malformed(FieldPath::of(&["spec", "rules"]), message);
        }
        // The first takes every connection that the route gets; of a TLSRoute the API server takes one only.
        for index in 1..spec.rules.len() {
            let message = "has no effect: the first rule takes every connection; use one rule with several backendRefs";
            problems.unsupported(FieldPath::of(&["spec", "rules"]).index(index), message);
        }
        spec.rules.iter().take(1).map(|spec| rule(spec, &key.namespace, problems)).collect()
    })
}

fn rule(spec: &StreamRuleSpec, own_namespace: &Label, problems: &mut Problems) -> Rule {
    let field = FieldPath::of(&["spec", "rules"]).index(0).key("backendRefs");
    let backends = backend::backends(&spec.backend_refs, own_namespace, Place::Stream, &field, problems);
    Rule {
        index: 0,
        name: spec.name.as_deref().unwrap_or_default().into(),
        matches: Vec::new(),
        filters: Vec::new(),
        mirrors: Vec::new(),
        backends,
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        invalid: None,
    }
}

//! GRPCRoutes: HTTP routes whose paths are `/SERVICE/METHOD`.

use weir_core::route::{RouteKind, RouteRef, Timeouts};

use super::filter::{Filters, Place, filters};
use super::session::session;
use super::{Problems, Route, Rule, assemble, backend, matching};
use crate::{FieldPath, GrpcRouteSpec, GrpcRuleSpec, Problem, RouteMetadata};

/// Judges a GRPCRoute.
///
/// # Errors
///
/// Everything in it that no API server would take.
pub fn grpc(metadata: RouteMetadata, spec: &GrpcRouteSpec) -> Result<Route, Vec<Problem>> {
    // A route without rules has one that matches everything, as with an HTTPRoute.
    let all = [GrpcRuleSpec::default()];
    let written = if spec.rules.is_empty() { &all[..] } else { &spec.rules };
    assemble(RouteKind::Grpc, metadata, &spec.parent_refs, written.len(), |key, problems| {
        let each = written.iter().enumerate();
        each.filter_map(|(index, spec)| rule(index, spec, key, problems)).collect()
    })
}

/// `None` for a rule none of whose matches can be honoured: it matches nothing.
fn rule(index: usize, spec: &GrpcRuleSpec, key: &RouteRef, problems: &mut Problems) -> Option<Rule> {
    let field = FieldPath::of(&["spec", "rules"]).index(index);
    let own_namespace = &key.namespace;
    let mark = problems.mark();
    let each = spec.matches.iter().enumerate();
    let matches: Vec<_> = each.filter_map(|(i, it)| matching::grpc(it, &field.key("matches").index(i), problems)).collect();
    if matches.is_empty() && !spec.matches.is_empty() {
        return None;
    }
    let Filters { filters, mirrors } = filters(&spec.filters, own_namespace, Place::Grpc, &field.key("filters"), problems);
    let session = session(spec.session_persistence.as_ref(), key, index, &field.key("sessionPersistence"), problems);
    let invalid = problems.since(mark);
    let backends = backend::backends(&spec.backend_refs, own_namespace, Place::Grpc, &field.key("backendRefs"), problems);
    let name = spec.name.as_deref().unwrap_or_default().into();
    Some(Rule { index, name, matches, filters, mirrors, backends, timeouts: Timeouts::default(), retry: None, session, invalid })
}

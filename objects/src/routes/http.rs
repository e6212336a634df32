//! HTTPRoutes.

use std::time::Duration;

use http::StatusCode;
use weir_core::route::{Filter, PathMatch, RetryPolicy, RouteKind, RouteRef, Timeouts};

use super::filter::{Filters, Place, filters};
use super::session::session;
use super::{Problems, Route, Rule, assemble, backend, duration, matching};
use crate::{FieldPath, HttpRouteSpec, HttpRuleSpec, Problem, RetrySpec, RouteMetadata, TimeoutsSpec};

/// Retries of a rule that asks for them without a number.
const DEFAULT_ATTEMPTS: u32 = 1;
/// More would keep a request alive long past anybody's patience, and hammer a backend that is down.
const MAX_ATTEMPTS: u32 = 100;
/// Least wait before a retry where the rule says nothing: long enough for a connection to be made elsewhere.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

/// Judges an HTTPRoute.
///
/// # Errors
///
/// Everything in it that no API server would take.
pub fn http(metadata: RouteMetadata, spec: &HttpRouteSpec) -> Result<Route, Vec<Problem>> {
    // A route without rules has one that matches everything, as the API server would fill in.
    let all = [HttpRuleSpec::default()];
    let written = if spec.rules.is_empty() { &all[..] } else { &spec.rules };
    assemble(RouteKind::Http, metadata, &spec.parent_refs, written.len(), |key, problems| {
        let each = written.iter().enumerate();
        each.filter_map(|(index, spec)| rule(index, spec, key, problems)).collect()
    })
}

/// `None` for a rule none of whose matches can be honoured: it matches nothing.
fn rule(index: usize, spec: &HttpRuleSpec, key: &RouteRef, problems: &mut Problems) -> Option<Rule> {
    let field = FieldPath::of(&["spec", "rules"]).index(index);
    let own_namespace = &key.namespace;
    let mark = problems.mark();
    let each = spec.matches.iter().enumerate();
    let matches: Vec<_> = each.filter_map(|(i, it)| matching::http(it, &field.key("matches").index(i), problems)).collect();
    if matches.is_empty() && !spec.matches.is_empty() {
        return None;
    }
    let prefixes_only = matches.iter().all(|it| matches!(it.path, PathMatch::Prefix(_)));
    let Filters { filters, mirrors } =
        filters(&spec.filters, own_namespace, Place::HttpRule { prefixes_only }, &field.key("filters"), problems);
    if filters.iter().any(|it| matches!(it, Filter::Redirect(_))) && !spec.backend_refs.is_empty() {
        let message = "a rule with RequestRedirect answers by itself and cannot have backendRefs";
        problems.incompatible(field.key("backendRefs"), message);
    }
    let timeouts = timeouts(spec.timeouts.as_ref(), &field.key("timeouts"), problems);
    let retry = spec.retry.as_ref().and_then(|spec| retry(spec, &field.key("retry"), problems));
    let session = session(spec.session_persistence.as_ref(), key, index, &field.key("sessionPersistence"), problems);
    let invalid = problems.since(mark);
    let place = Place::HttpBackend { prefixes_only };
    let backends = backend::backends(&spec.backend_refs, own_namespace, place, &field.key("backendRefs"), problems);
    let name = spec.name.as_deref().unwrap_or_default().into();
    Some(Rule { index, name, matches, filters, mirrors, backends, timeouts, retry, session, invalid })
}

/// `0s` means no limit (GEP-1742).
fn timeouts(spec: Option<&TimeoutsSpec>, field: &FieldPath, problems: &mut Problems) -> Timeouts {
    let Some(spec) = spec else { return Timeouts::default() };
    let mut read = |name: &str, text: Option<&str>| match text.map(duration::parse) {
        None => None,
        Some(Ok(limit)) => Some(limit).filter(|limit| !limit.is_zero()),
        Some(Err(message)) => {
            problems.malformed(field.key(name), message);
            None
        }
    };
    let request = read("request", spec.request.as_deref());
    let backend_request = read("backendRequest", spec.backend_request.as_deref());
    if let (Some(whole), Some(one)) = (request, backend_request)
        && one > whole
    {
        problems.malformed(field.key("backendRequest"), "must not be longer than `request`");
    }
    Timeouts { request, backend_request }
}

fn retry(spec: &RetrySpec, field: &FieldPath, problems: &mut Problems) -> Option<RetryPolicy> {
    let mark = problems.mark();
    let mut codes = Vec::with_capacity(spec.codes.len());
    for (i, code) in spec.codes.iter().enumerate() {
        match u16::try_from(*code).ok().filter(|code| (400..=599).contains(code)).map(StatusCode::from_u16) {
            Some(Ok(code)) => codes.push(code),
            _ => problems.malformed(field.key("codes").index(i), format!("expected a status from 400 to 599, found {code}")),
        }
    }
    let attempts = match u32::try_from(spec.attempts.unwrap_or(DEFAULT_ATTEMPTS.into())) {
        Ok(attempts) if attempts <= MAX_ATTEMPTS => attempts,
        _ => {
            problems.unsupported(field.key("attempts"), format!("expected a number from 0 to {MAX_ATTEMPTS}"));
            0
        }
    };
    let backoff = match spec.backoff.as_deref().map(duration::parse) {
        None => DEFAULT_BACKOFF,
        Some(Ok(backoff)) => backoff,
        Some(Err(message)) => {
            problems.malformed(field.key("backoff"), message);
            DEFAULT_BACKOFF
        }
    };
    (problems.mark() == mark).then_some(RetryPolicy { codes, attempts, backoff })
}

//! HTTPRoutes and GRPCRoutes: what in them will not do what it seems to.

use serde_json::Value;
use weir_core::route::Filter;
use weir_objects::routes::{Route, Rule};
use weir_objects::{Decoded, FieldPath, Object, Problem, decode};

use super::named;
use crate::review::Request;

/// What is to be said of a route. Nothing, if it is for Gateways alone.
pub(super) fn warnings(request: &Request) -> Vec<String> {
    if !names_a_service(&request.object) {
        return Vec::new();
    }
    let mut warnings = match decode(&named(request)) {
        Decoded::Object(Object::Route(route), problems) => of_route(&route, &problems),
        // A version of the Gateway API to come; what it says is not known.
        Decoded::Object(..) | Decoded::Unknown { .. } => return Vec::new(),
        Decoded::Refused(_, problems) => {
            let consequence = match request.operation.as_str() {
                "UPDATE" => "so the route as it was before serves on",
                _ => "so the route is not served",
            };
            problems.iter().map(|problem| format!("weir cannot use this, {consequence}: {problem}")).collect()
        }
    };
    if request.object.pointer("/spec/hostnames").and_then(Value::as_array).is_some_and(|names| !names.is_empty()) {
        warnings.push("weir: spec.hostnames: ignored, since a Service's route counts under all names of the Service".to_owned());
    }
    warnings
}

/// What is to be said of a route of a kind that Weir does not serve. Nothing, if it is for Gateways alone.
pub(super) fn not_served(request: &Request) -> Vec<String> {
    if !names_a_service(&request.object) {
        return Vec::new();
    }
    let kind = &request.kind.kind;
    vec![format!("weir: {kind} is not a kind of route that Weir serves: with a Service as its parent it has no effect")]
}

/// Whether a parent may be a Service. What group it is written with is judged with the rest.
fn names_a_service(object: &Value) -> bool {
    let parents = object.pointer("/spec/parentRefs").and_then(Value::as_array);
    parents.into_iter().flatten().any(|parent| parent.get("kind").and_then(Value::as_str) == Some("Service"))
}

fn of_route(route: &Route, problems: &[Problem]) -> Vec<String> {
    if route.parents.is_empty() {
        // A Service of another group only: nothing else of it is Weir's.
        let parents = FieldPath::of(&["spec", "parentRefs"]);
        return problems.iter().filter(|it| it.field.is_inside(&parents)).map(|it| format!("weir: {it}")).collect();
    }
    let of_problems = problems.iter().map(|problem| format!("weir: {problem}{}", consequence(route, problem)));
    of_problems.chain(route.rules.iter().flat_map(of_rule)).collect()
}

/// What a problem in a rule does to its requests.
fn consequence(route: &Route, problem: &Problem) -> &'static str {
    let Some(index) = (0..route.rules_written).find(|index| problem.field.is_inside(&rule_field(*index))) else { return "" };
    if problem.message.contains("500") {
        return "";
    }
    match route.rules.iter().find(|rule| rule.index == index) {
        None => " (the rule matches nothing)",
        Some(rule) if rule.invalid.is_some() => " (requests of the rule get 500)",
        Some(rule) if rule.backends.iter().any(|it| it.invalid.is_some() && problem.field.is_inside(&it.field)) => {
            " (the backend's share gets 500)"
        }
        Some(_) => "",
    }
}

fn of_rule(rule: &Rule) -> Vec<String> {
    let field = rule_field(rule.index);
    let of_another_kind = rule.backends.iter().filter_map(|backend| {
        let why = backend.wrong_kind.as_ref()?;
        Some(format!("weir: {}: {why} (its share gets 500)", backend.field))
    });
    let mirrors = rule.mirrors.iter().chain(rule.backends.iter().flat_map(|backend| &backend.mirrors));
    let mirrors_of_another_kind = mirrors.filter_map(|mirror| {
        let why = mirror.to.wrong_kind.as_ref()?;
        Some(format!("weir: {}: {why} (nothing is mirrored)", mirror.to.field))
    });
    let of_another_kind = of_another_kind.chain(mirrors_of_another_kind);
    let mut warnings: Vec<String> = of_another_kind.collect();
    let redirects = rule.filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)));
    if redirects || rule.invalid.is_some() {
        return warnings;
    }
    if rule.backends.is_empty() {
        warnings.push(format!("weir: {field}: has no backendRefs, so its requests get 500"));
    } else if rule.backends.iter().all(|backend| backend.weight == 0) {
        warnings.push(format!("weir: {field}.backendRefs: all weights are 0, so its requests get 500"));
    }
    warnings
}

fn rule_field(index: usize) -> FieldPath {
    FieldPath::of(&["spec", "rules"]).index(index)
}

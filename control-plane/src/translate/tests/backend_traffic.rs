//! XBackendTrafficPolicies: manifests in, what callers and authors are told out.

use weir_core::session::{Carrier, Session};

use super::*;
use crate::objects::NamespacedName;
use crate::translate::backend_traffic_status;

const BASE: &str = "
{apiVersion: v1, kind: Service, metadata: {name: one, namespace: shop}, spec: {clusterIP: 10.1.0.1, ports: [{name: http, port: 80}, {name: grpc, port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: two, namespace: shop}, spec: {clusterIP: 10.1.0.2, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: front, namespace: web}, spec: {clusterIP: 10.1.0.3, ports: [{name: http, port: 80}]}}
";

fn policy(name: &str, created: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {{name: {name}, namespace: shop, generation: 4, creationTimestamp: {created}}}
spec: {{targetRefs: [{{group: '', kind: Service, name: one}}], {spec}}}
"
    )
}

fn traffic_policy(spec: &str) -> String {
    format!(
        "
---
apiVersion: weir.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: t, namespace: shop}}
spec: {{targetRefs: [{{kind: Service, name: one, sectionName: http}}], {spec}}}
"
    )
}

/// A route of `web/front` in that namespace.
fn route(rules: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: front, namespace: web}}
spec:
  parentRefs: [{{group: '', kind: Service, name: front}}]
  rules: {rules}
"
    )
}

fn show_session(it: &Session) -> String {
    let carrier = match &it.carrier {
        Carrier::Cookie { name, permanent } => format!("cookie {name}{}", if *permanent { ", kept" } else { "" }),
        Carrier::Header(name) => format!("header {name}"),
    };
    format!("session by {carrier}, absolute {:?}, idle {:?}", it.absolute, it.idle)
}

fn show(index: &Index, policies: &[&str]) -> String {
    let mut text = String::new();
    for backend in ["shop/one:80", "shop/one:81", "shop/two:80"] {
        let budget = crate::translate::endpoints(index, &backend.parse().unwrap(), &trust_domain()).unwrap().policy.budget;
        let unavailable = if budget.answers_unavailable { ", over it 503" } else { "" };
        let (percent, reserve, window) = (budget.percent, budget.reserve(), budget.window);
        writeln!(text, "{backend} budget {percent} % and {reserve} in {window:?}{unavailable}").unwrap();
    }
    for service in ["shop/one", "shop/two", "web/front"] {
        let view = crate::translate::service(index, &service.parse().unwrap(), &"web".parse().unwrap()).unwrap();
        for (number, port) in &view.service.ports {
            let own = port.session.as_deref().map(show_session);
            own.iter().for_each(|it| writeln!(text, "{service}:{number} {it}").unwrap());
            for rule in port.routes.iter().flat_map(|table| table.rules()) {
                let kept = rule.session.as_ref().map(|it| format!(" {}", show_session(it))).unwrap_or_default();
                writeln!(text, "{service}:{number} rule {}{kept}", rule.index).unwrap();
                for it in &rule.backends {
                    let kept = it.session.as_deref().map_or_else(|| "no session of its own".to_owned(), show_session);
                    writeln!(text, "  to {} {kept}", it.backend).unwrap();
                }
            }
        }
    }
    for name in policies {
        let key = NamespacedName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() };
        for parent in backend_traffic_status(index, &key).unwrap().parents {
            for it in parent.conditions {
                let Condition { kind, status, reason, message, observed_generation } = it;
                writeln!(text, "{name} {} {kind}={status} {reason} ({observed_generation}): {message}", parent.parent).unwrap();
            }
        }
    }
    text
}

const SPEC: &str = "retryConstraint: {budget: {percent: 5, interval: 20s}, minRetryRate: {count: 30, interval: 1m}}, \
                    sessionPersistence: {sessionName: sid, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}";

#[test]
fn a_budget_and_sessions_come_with_the_service() {
    let rules = "[{backendRefs: [{name: one, namespace: shop, port: 80}, {name: two, namespace: shop, port: 80}, \
                 {name: one, namespace: shop, port: 9}]}, {matches: [{path: {value: /own}}], sessionPersistence: {sessionName: own}, \
                 backendRefs: [{name: one, namespace: shop, port: 80}]}]";
    let index = index(&format!("{BASE}{}{}", policy("p", "2026-01-01T00:00:00Z", SPEC), route(rules)));
    assert_snapshot!(show(&index, &["p"]), @r"
    shop/one:80 budget 5 % and 10 in 20s, over it 503
    shop/one:81 budget 5 % and 10 in 20s, over it 503
    shop/two:80 budget 20 % and 100 in 10s
    shop/one:80 session by cookie sid, kept, absolute Some(3600s), idle None
    shop/one:81 session by cookie sid, kept, absolute Some(3600s), idle None
    web/front:80 rule 0
      to shop/one:80 session by cookie sid, kept, absolute Some(3600s), idle None
      to shop/two:80 no session of its own
      to shop/one:9 no session of its own
    web/front:80 rule 1 session by cookie own, absolute None, idle None
      to shop/one:80 no session of its own
    p shop/one Accepted=True Accepted (4): in force for Service shop/one on port 80, 81
    ");
}

#[test]
fn names_that_nobody_gave_are_of_one_rule() {
    let rules = "[{backendRefs: [{name: one, namespace: shop, port: 80}]}, {matches: [{path: {value: /b}}], \
                 backendRefs: [{name: one, namespace: shop, port: 80}]}]";
    let spec = "sessionPersistence: {type: Header, idleTimeout: 5m}";
    let index = index(&format!("{BASE}{}{}", policy("p", "2026-01-01T00:00:00Z", spec), route(rules)));
    assert_snapshot!(show(&index, &["p"]), @r"
    shop/one:80 budget 20 % and 100 in 10s
    shop/one:81 budget 20 % and 100 in 10s
    shop/two:80 budget 20 % and 100 in 10s
    shop/one:80 session by header weir-session-476af2ea1ed54d62, absolute None, idle Some(300s)
    shop/one:81 session by header weir-session-6f3febd6dee785a8, absolute None, idle Some(300s)
    web/front:80 rule 0
      to shop/one:80 session by header weir-session-671cb2f518755bcd, absolute None, idle Some(300s)
    web/front:80 rule 1
      to shop/one:80 session by header weir-session-452fe997a6baf07a, absolute None, idle Some(300s)
    p shop/one Accepted=True Accepted (4): in force for Service shop/one on port 80, 81
    ");
}

#[test]
fn the_older_policy_holds_and_a_traffic_policy_goes_before_its_budget() {
    let budget = |percent: u8| format!("retryConstraint: {{budget: {{percent: {percent}}}}}");
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    let later = format!(
        "{BASE}{}{}{}",
        policy("a", new, &budget(1)),
        policy("b", old, &budget(2)),
        traffic_policy("retryBudget: {percent: 3}")
    );
    assert_snapshot!(show(&index(&later), &["a", "b"]), @r"
    shop/one:80 budget 3 % and 100 in 10s
    shop/one:81 budget 2 % and 100 in 10s, over it 503
    shop/two:80 budget 20 % and 100 in 10s
    a shop/one Accepted=False Conflicted (4): XBackendTrafficPolicy shop/b has port 80; XBackendTrafficPolicy shop/b has port 81 of Service shop/one; one policy holds for a port
    b shop/one Accepted=True Accepted (4): in force for Service shop/one on port 80, 81; the retryBudget of TrafficPolicy shop/t counts instead of retryConstraint on port 80
    ");
    // Alike in age, the first by name; and a TrafficPolicy that says nothing of retries leaves them alone.
    let alike = format!(
        "{BASE}{}{}{}",
        policy("b", old, &budget(2)),
        policy("a", old, &budget(1)),
        traffic_policy("limits: {requests: 9}")
    );
    assert_snapshot!(show(&index(&alike), &["a", "b"]), @r"
    shop/one:80 budget 1 % and 100 in 10s, over it 503
    shop/one:81 budget 1 % and 100 in 10s, over it 503
    shop/two:80 budget 20 % and 100 in 10s
    a shop/one Accepted=True Accepted (4): in force for Service shop/one on port 80, 81
    b shop/one Accepted=False Conflicted (4): XBackendTrafficPolicy shop/a has port 80; XBackendTrafficPolicy shop/a has port 81 of Service shop/one; one policy holds for a port
    ");
}

#[test]
fn a_target_that_is_not_there_is_named() {
    let text = policy("p", "2026-01-01T00:00:00Z", SPEC)
        .replace("name: one", "name: none")
        .replace("}]", "}, {group: '', kind: Service, name: two}]");
    let index = index(&format!("{BASE}{text}"));
    assert_snapshot!(show(&index, &["p"]), @r"
    shop/one:80 budget 20 % and 100 in 10s
    shop/one:81 budget 20 % and 100 in 10s
    shop/two:80 budget 5 % and 10 in 20s, over it 503
    shop/two:80 session by cookie sid, kept, absolute Some(3600s), idle None
    p shop/none Accepted=False TargetNotFound (4): Service shop/none does not exist
    p shop/two Accepted=True Accepted (4): in force for Service shop/two on port 80
    ");
}

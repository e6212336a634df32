//! YAML in, what proxies and authors are told out. The text form below is only for these tests.

mod backend_tls;
mod backend_traffic;
mod mirrors_and_connections;
mod zones;

use std::fmt::Write;

use insta::assert_snapshot;
use weir_core::names::BackendRef;
use weir_core::route::{HttpRule, PathMatch, ValueMatch, WeightedBackend};
use weir_core::snapshot::{AddressTarget, Endpoint};

use super::{Condition, Status, Workload};
use crate::index::Index;
use crate::testing::{index, trust_domain};

fn show_service(index: &Index, name: &str, client: &str) -> String {
    let Some(view) = super::service(index, &name.parse().unwrap(), &client.parse().unwrap()) else { return "absent\n".into() };
    let mut text = format!("{} at {:?}\n", view.service.name, view.service.addresses);
    for (number, port) in &view.service.ports {
        writeln!(text, "  port {number} `{}` {:?}", port.name, port.protocol).unwrap();
        for rule in port.streams.iter().flat_map(|table| table.rules()) {
            let names: String = rule.hostnames.iter().map(|name| format!(" {name}")).collect();
            writeln!(text, "    {:?} {} rule {} `{}`{names}", rule.route.kind, rule.route, rule.index, rule.name).unwrap();
            rule.backends.iter().for_each(|it| text.push_str(&show_backend(it)));
        }
        match &port.routes {
            None => {}
            Some(table) if table.rules().is_empty() => text.push_str("    nothing matches\n"),
            Some(table) => table.rules().iter().for_each(|rule| text.push_str(&show_rule(rule))),
        }
    }
    writeln!(text, "  refers {}", view.refers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")).unwrap();
    text
}

fn show_rule(rule: &HttpRule) -> String {
    let mut text = format!("    {:?} {} rule {} `{}`\n", rule.route.kind, rule.route, rule.index, rule.name);
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(it) => format!("={it}"),
        ValueMatch::Regex(it) => format!("~{}", it.source()),
    };
    for it in &rule.matches {
        let path = match &it.path {
            PathMatch::Exact(path) => format!("= {path}"),
            PathMatch::Prefix(path) => format!("^ {path}"),
            PathMatch::Regex(pattern) => format!("~ {}", pattern.source()),
        };
        let headers: String = it.headers.iter().map(|it| format!(" [{}{}]", it.name, value(&it.value))).collect();
        let query: String = it.query.iter().map(|it| format!(" [?{}{}]", it.name, value(&it.value))).collect();
        let method = it.method.as_ref().map(|it| format!(" {it}")).unwrap_or_default();
        writeln!(text, "      match {path}{method}{headers}{query}").unwrap();
    }
    for filter in &rule.filters {
        writeln!(text, "      {filter:?}").unwrap();
    }
    for it in &rule.mirrors {
        writeln!(text, "      mirror {} of requests to {}", it.share, it.backend).unwrap();
    }
    if rule.timeouts != weir_core::route::Timeouts::default() {
        writeln!(text, "      {:?}", rule.timeouts).unwrap();
    }
    if let Some(retry) = &rule.retry {
        writeln!(text, "      {retry:?}").unwrap();
    }
    rule.backends.iter().for_each(|it| text.push_str(&show_backend(it)));
    if let Some(why) = &rule.invalid {
        writeln!(text, "      INVALID {why}").unwrap();
    }
    text
}

fn show_backend(it: &WeightedBackend) -> String {
    let invalid = it.invalid.as_ref().map(|why| format!(" INVALID {why}")).unwrap_or_default();
    let filters: String = it.filters.iter().map(|filter| format!(" {filter:?}")).collect();
    let mirrors: String = it.mirrors.iter().map(|it| format!(" mirror {} to {}", it.share, it.backend)).collect();
    format!("      to {} weight {}{filters}{mirrors}{invalid}\n", it.backend, it.weight)
}

fn show_endpoint(it: &Endpoint) -> String {
    let identity = it.identity.as_ref().map_or_else(|| "plaintext".to_owned(), ToString::to_string);
    format!("{} {:?} zone `{}` pod `{}` {identity}\n", it.address, it.protocol, it.zone, it.pod)
}

fn show_endpoints(index: &Index, name: &str) -> String {
    let name: BackendRef = name.parse().unwrap();
    match super::endpoints(index, &name, &trust_domain()) {
        None => "absent\n".into(),
        Some(found) => found.endpoints.iter().map(show_endpoint).collect(),
    }
}

fn show_address(index: &Index, ip: &str) -> String {
    match super::address(index, ip.parse().unwrap(), &trust_domain()) {
        None => "nothing\n".into(),
        Some(AddressTarget::Service(name)) => format!("Service {name}\n"),
        Some(AddressTarget::Workload(it)) => format!("workload {}", show_endpoint(&it)),
    }
}

fn show_inbound(index: &Index, namespace: &str, pod: &str, ips: &[&str]) -> String {
    let workload = Workload {
        namespace: namespace.parse().unwrap(),
        pod: Some(pod.parse().unwrap()),
        service_account: "db".parse().unwrap(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
    };
    let inbound = super::inbound(index, &workload);
    let mut text = format!("{:?}\n", inbound.mtls);
    for (number, port) in &inbound.ports {
        let service = port.service.as_ref().map(|it| format!(" of {it}")).unwrap_or_default();
        writeln!(text, "  {number} {:?}{service}", port.protocol).unwrap();
    }
    text
}

fn show_status(index: &Index) -> String {
    let all: Vec<Status> = index.routes().filter_map(|route| super::status(index, &route.key)).collect();
    let mut text = String::new();
    for status in all {
        for parent in status.parents {
            writeln!(text, "{} {}/{} to {}", status.kind, status.namespace, status.name, parent.parent).unwrap();
            for it in parent.conditions {
                writeln!(text, "  {}={} {} @{}: {}", it.kind, it.status, it.reason, it.observed_generation, it.message).unwrap();
            }
        }
    }
    text
}

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: tcp-admin, port: 9000}
---
apiVersion: v1
kind: Service
metadata: {name: canary, namespace: shop}
spec: {clusterIP: 10.96.0.11, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: data}
spec: {clusterIP: 10.96.0.12, ports: [{port: 3306}]}
---
apiVersion: v1
kind: Service
metadata: {name: pods, namespace: shop}
spec: {clusterIP: None, ports: [{name: grpc-x, port: 50051}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}
---
";

fn route(kind: &str, name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: {namespace}, generation: 3}}\nspec: {spec}\n---\n"
    )
}

#[test]
fn services_without_routes() {
    let index = index(SERVICES);
    assert_snapshot!(show_service(&index, "shop/reviews", "shop"), @r#"
    shop/reviews at [10.96.0.10]
      port 80 `http` Http
      port 9000 `tcp-admin` Opaque
      refers shop/reviews:80 shop/reviews:9000
    "#);
    assert_snapshot!(show_service(&index, "data/db", "shop"), @r#"
    data/db at [10.96.0.12]
      port 3306 `` Opaque
      refers data/db:3306
    "#);
    assert_snapshot!(show_service(&index, "shop/pods", "shop"), @r#"
    shop/pods at []
      port 50051 `grpc-x` Http2
      refers shop/pods:50051
    "#);
    assert_snapshot!(show_service(&index, "shop/outside", "shop"), @"absent");
    assert_snapshot!(show_address(&index, "10.96.0.10"), @"Service shop/reviews");
}

#[test]
fn an_http_route_with_everything_that_is_served() {
    let spec = "
  parentRefs: [{group: '', kind: Service, name: reviews, port: 80}]
  rules:
  - name: first
    matches:
    - path: {type: PathPrefix, value: /v2/}
      method: GET
      headers: [{name: X-Canary, value: 'yes'}, {name: x-canary, value: 'no'}, {name: a, type: RegularExpression, value: 'b+'}]
      queryParams: [{name: q, value: '1'}]
    - path: {type: Exact, value: /exact}
    - path: {type: RegularExpression, value: '/r[0-9]+'}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}
    - type: URLRewrite
      urlRewrite: {hostname: x.example, path: {type: ReplaceFullPath, replaceFullPath: /new}}
    backendRefs:
    - {name: reviews, port: 80, weight: 90}
    - name: canary
      port: 80
      weight: 10
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: v, value: '2'}]}}]
    timeouts: {request: 10s, backendRequest: 2s500ms}
    retry: {codes: [502, 503], attempts: 3, backoff: 100ms}
  - matches: [{path: {value: /old}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, port: 8443, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
  - backendRefs: [{name: reviews, port: 80}]
    timeouts: {request: 0s}
";
    let index = index(&format!("{SERVICES}{}", route("HTTPRoute", "shop/split", spec)));
    assert_snapshot!(show_service(&index, "shop/reviews", "elsewhere"), @r#"
    shop/reviews at [10.96.0.10]
      port 80 `http` Http
        Http shop/split rule 0 `first`
          match ^ /v2 GET [x-canary=yes] [a~b+] [?q=1]
          match = /exact
          match ~ /r[0-9]+
          RequestHeaders(HeaderChanges { set: [("a", "b")], add: [("c", "d")], remove: ["e"] })
          Rewrite(Rewrite { hostname: Some("x.example"), path: Some(Full("/new")) })
          Timeouts { request: Some(10s), backend_request: Some(2.5s) }
          RetryPolicy { codes: [502, 503], attempts: 3, backoff: 100ms }
          to shop/reviews:80 weight 90
          to shop/canary:80 weight 10 ResponseHeaders(HeaderChanges { set: [("v", "2")], add: [], remove: [] })
        Http shop/split rule 1 ``
          match ^ /old
          Redirect(Redirect { scheme: Some("https"), hostname: None, path: Some(Prefix("/new")), port: Some(8443), status: 301 })
        Http shop/split rule 2 ``
          to shop/reviews:80 weight 1
      port 9000 `tcp-admin` Opaque
      refers shop/canary:80 shop/reviews:80 shop/reviews:9000
    "#);
    assert_snapshot!(show_status(&index), @r#"
    HTTPRoute shop/split to shop/reviews:80
      Accepted=True Accepted @3: served to every client of Service shop/reviews on port 80
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    "#);
}

#[test]
fn backends_that_lead_nowhere() {
    let spec = "
  parentRefs: [{group: '', kind: Service, name: reviews}]
  rules:
  - backendRefs:
    - {name: nothing, port: 80}
    - {name: reviews, port: 81}
    - {name: reviews, port: 9000}
    - {name: outside, port: 80}
    - {name: x, kind: ServiceImport, group: multicluster.x-k8s.io}
    - {name: not-yet, port: 80, weight: 0}
    - {name: pods, port: 50051}
    - {name: db, namespace: data, port: 3306}
";
    let index = index(&format!("{SERVICES}{}", route("HTTPRoute", "shop/lost", spec)));
    assert_snapshot!(show_service(&index, "shop/reviews", "shop"), @r#"
    shop/reviews at [10.96.0.10]
      port 80 `http` Http
        Http shop/lost rule 0 ``
          to shop/nothing:80 weight 1 INVALID BackendNotFound: Service shop/nothing does not exist
          to shop/reviews:81 weight 1 INVALID BackendNotFound: Service shop/reviews has no port 81: it has 80, 9000 only
          to shop/reviews:9000 weight 1 INVALID UnsupportedProtocol: port 9000 of Service shop/reviews is said to be opaque, not HTTP
          to shop/outside:80 weight 1 INVALID BackendNotFound: Service shop/outside is of type ExternalName, whose endpoints the mesh does not know
          to shop/invalid:1 weight 1 INVALID InvalidKind: `ServiceImport` of group `multicluster.x-k8s.io` is not a kind of backend: only Services are
          to shop/not-yet:80 weight 0 INVALID BackendNotFound: Service shop/not-yet does not exist
          to shop/pods:50051 weight 1
          to data/db:3306 weight 1
      port 9000 `tcp-admin` Opaque
      refers data/db:3306 shop/pods:50051 shop/reviews:80 shop/reviews:9000
    "#);
    assert_snapshot!(show_status(&index), @r#"
    HTTPRoute shop/lost to shop/reviews
      Accepted=True Accepted @3: served to every client of Service shop/reviews on port 80
      ResolvedRefs=False BackendNotFound @3: spec.rules[0].backendRefs[0]: Service shop/nothing does not exist; spec.rules[0].backendRefs[1]: Service shop/reviews has no port 81: it has 80, 9000 only; spec.rules[0].backendRefs[2]: port 9000 of Service shop/reviews is said to be opaque, not HTTP; spec.rules[0].backendRefs[3]: Service shop/outside is of type ExternalName, whose endpoints the mesh does not know; spec.rules[0].backendRefs[4]: `ServiceImport` of group `multicluster.x-k8s.io` is not a kind of backend: only Services are
    "#);
}

#[test]
fn what_is_not_served_spoils_its_rule_and_no_other() {
    let spec = "
  parentRefs: [{group: '', kind: Service, name: reviews, sectionName: http}]
  rules:
  - matches: [{path: {value: /grpc-auth}}]
    filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC}}]
    backendRefs: [{name: reviews, port: 80}]
  - matches: [{path: {value: /auth}}]
    filters: [{type: ExternalAuth, externalAuth: {}}]
    backendRefs: [{name: reviews, port: 80}]
  - matches: [{path: {value: /ext}}]
    filters: [{type: ExtensionRef}]
  - matches: [{path: {value: /new}}]
    filters: [{type: FromTheFuture}]
  - matches: [{path: {type: Glob, value: '/*'}}]
    backendRefs: [{name: reviews, port: 80}]
  - matches: [{path: {type: RegularExpression, value: '(['}}, {path: {value: /good}}]
    backendRefs: [{name: reviews, port: 80}]
  - matches: [{path: {value: /both}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {hostname: a.example}}
    - {type: URLRewrite, urlRewrite: {hostname: b.example}}
  - matches: [{path: {value: /part}}]
    backendRefs:
    - {name: reviews, port: 80}
    - {name: canary, port: 80, filters: [{type: ExternalAuth}]}
  - matches: [{path: {value: /sticky}}]
    sessionPersistence: {sessionName: x, type: Query}
    backendRefs: [{name: reviews, port: 80}]
  - backendRefs: [{name: reviews, port: 80}]
";
    let index = index(&format!("{SERVICES}{}", route("HTTPRoute", "shop/mixed", spec)));
    assert_snapshot!(show_service(&index, "shop/reviews", "shop"), @r#"
    shop/reviews at [10.96.0.10]
      port 80 `http` Http
        Http shop/mixed rule 0 ``
          match ^ /grpc-auth
          to shop/reviews:80 weight 1
          INVALID spec.rules[0].filters[0].type: ExternalAuth is not served by this version of Weir, and is never skipped: its requests get 500
        Http shop/mixed rule 1 ``
          match ^ /auth
          to shop/reviews:80 weight 1
          INVALID spec.rules[1].filters[0].type: ExternalAuth is not served by this version of Weir, and is never skipped: its requests get 500
        Http shop/mixed rule 2 ``
          match ^ /ext
          INVALID spec.rules[2].filters[0].type: ExtensionRef is not served by this version of Weir, and is never skipped: its requests get 500
        Http shop/mixed rule 3 ``
          match ^ /new
          INVALID spec.rules[3].filters[0].type: `FromTheFuture` is not a type of filter
        Http shop/mixed rule 5 ``
          match ^ /good
          to shop/reviews:80 weight 1
          INVALID spec.rules[5].matches[0].path.value: `([` is not a regular expression (RE2): unclosed character class
        Http shop/mixed rule 6 ``
          match ^ /both
          Redirect(Redirect { scheme: None, hostname: Some("a.example"), path: None, port: None, status: 302 })
          Rewrite(Rewrite { hostname: Some("b.example"), path: None })
          INVALID spec.rules[6].filters: RequestRedirect and URLRewrite cannot be used together
        Http shop/mixed rule 7 ``
          match ^ /part
          to shop/reviews:80 weight 1
          to shop/canary:80 weight 1 INVALID spec.rules[7].backendRefs[1].filters[0].type: ExternalAuth is not served by this version of Weir, and is never skipped: its requests get 500
        Http shop/mixed rule 8 ``
          match ^ /sticky
          to shop/reviews:80 weight 1
          INVALID spec.rules[8].sessionPersistence.type: expected Cookie or Header, found `Query`
        Http shop/mixed rule 9 ``
          to shop/reviews:80 weight 1
      port 9000 `tcp-admin` Opaque
      refers shop/reviews:80 shop/reviews:9000
    "#);
    assert_snapshot!(show_status(&index), @r#"
    HTTPRoute shop/mixed to shop/reviews#http
      Accepted=True Accepted @3: served to every client of Service shop/reviews on port 80
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
      PartiallyInvalid=True UnsupportedValue @3: Dropped Rule: 9 of 10 rules cannot be honoured, or not in all parts: spec.rules[0].filters[0].type: ExternalAuth is not served by this version of Weir, and is never skipped: its requests get 500; spec.rules[1].filters[0].type: ExternalAuth is not served by this version of Weir, and is never skipped: its requests get 500; spec.rules[2].filters[0].type: ExtensionRef is not served by this version of Weir, and is never skipped: its requests get 500; spec.rules[3].filters[0].type: `FromTheFuture` is not a type of filter; spec.rules[4].matches[0].path.type: expected Exact, PathPrefix or RegularExpression, found `Glob`; spec.rules[5].matches[0].path.value: `([` is not a regular expression (RE2): unclosed character class; spec.rules[6].filters: RequestRedirect and URLRewrite cannot be used together; spec.rules[7].backendRefs[1].filters[0].type: ExternalAuth is not served by this version of Weir, and is never skipped: its requests get 500; and 1 more
    "#);
}

#[test]
fn a_route_of_which_nothing_can_be_served_is_not_accepted() {
    let unknown = "{parentRefs: [{group: '', kind: Service, name: reviews, port: 80}], rules: [{filters: [{type: Nonsense}]}]}";
    let clash = "{parentRefs: [{group: '', kind: Service, name: canary, port: 80}], rules: [{filters: [
      {type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: canary, port: 80}]}]}";
    let unmatched =
        "{parentRefs: [{group: '', kind: Service, name: db, namespace: data, port: 3306}], rules: [{matches: [{method: get}]}]}";
    let text = [
        SERVICES,
        &route("HTTPRoute", "shop/unknown", unknown),
        &route("HTTPRoute", "shop/clash", clash),
        &route("HTTPRoute", "shop/unmatched", unmatched),
    ];
    let index = index(&text.concat());
    assert_snapshot!(show_service(&index, "shop/reviews", "shop"), @r#"
    shop/reviews at [10.96.0.10]
      port 80 `http` Http
        Http shop/unknown rule 0 ``
          INVALID spec.rules[0].filters[0].type: `Nonsense` is not a type of filter
      port 9000 `tcp-admin` Opaque
      refers shop/reviews:80 shop/reviews:9000
    "#);
    assert_snapshot!(show_status(&index), @r#"
    HTTPRoute shop/clash to shop/canary:80
      Accepted=False IncompatibleFilters @3: spec.rules[0].backendRefs: a rule with RequestRedirect answers by itself and cannot have backendRefs
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    HTTPRoute shop/unknown to shop/reviews:80
      Accepted=False UnsupportedValue @3: spec.rules[0].filters[0].type: `Nonsense` is not a type of filter
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    HTTPRoute shop/unmatched to data/db:3306
      Accepted=False UnsupportedValue @3: spec.rules[0].matches[0].method: expected an HTTP method in capitals, found `get`
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    "#);
}

#[test]
fn parents_that_do_not_match() {
    let parent = |name: &str, more: &str| {
        let spec = format!(
            "{{parentRefs: [{{group: '', kind: Service, {more}}}], rules: [{{backendRefs: [{{name: reviews, port: 80}}]}}]}}"
        );
        route("HTTPRoute", &format!("shop/{name}"), &spec)
    };
    let text = [
        SERVICES.to_owned(),
        parent("gone", "name: nothing"),
        parent("headless", "name: pods"),
        parent("external", "name: outside"),
        parent("port", "name: reviews, port: 81"),
        parent("section", "name: reviews, port: 80, sectionName: tcp-admin"),
        parent("opaque", "name: reviews, port: 9000"),
        parent("all", "name: reviews"),
        parent("database", "name: db, namespace: data, port: 3306"),
    ];
    let index = index(&text.concat());
    assert_snapshot!(show_status(&index), @r#"
    HTTPRoute shop/all to shop/reviews
      Accepted=True Accepted @3: served to every client of Service shop/reviews on port 80
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    HTTPRoute shop/database to data/db:3306
      Accepted=True Accepted @3: served to clients in namespace shop of Service data/db on port 3306
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    HTTPRoute shop/external to shop/outside
      Accepted=False NoMatchingParent @3: Service shop/outside is of type ExternalName
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    HTTPRoute shop/gone to shop/nothing
      Accepted=False NoMatchingParent @3: Service shop/nothing does not exist
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    HTTPRoute shop/headless to shop/pods
      Accepted=False NoMatchingParent @3: Service shop/pods is headless: its clients choose a Pod themselves
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    HTTPRoute shop/opaque to shop/reviews:9000
      Accepted=False NoMatchingParent @3: shop/reviews:9000 means no port of Service shop/reviews that carries HTTP
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    HTTPRoute shop/port to shop/reviews:81
      Accepted=False NoMatchingParent @3: shop/reviews:81 names no port of Service shop/reviews, which has the ports 80 `http`, 9000 `tcp-admin`
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    HTTPRoute shop/section to shop/reviews:80#tcp-admin
      Accepted=False NoMatchingParent @3: shop/reviews:80#tcp-admin names no port of Service shop/reviews, which has the ports 80 `http`, 9000 `tcp-admin`
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    "#);
}

#[test]
fn routes_of_other_controllers_and_groups_are_left_alone() {
    let gateway = "{parentRefs: [{name: my-gateway}], rules: [{}]}";
    let forgot = "{parentRefs: [{kind: Service, name: reviews}], rules: [{}]}";
    let text = [SERVICES, &route("HTTPRoute", "shop/north-south", gateway), &route("HTTPRoute", "shop/forgot", forgot)].concat();
    let index = index(&text);
    assert_eq!(show_status(&index), "");
    let forgot = index.routes().find(|route| route.key.name.as_str() == "forgot").unwrap();
    assert_snapshot!(format!("{}: {}", forgot.problems[0].field, forgot.problems[0].message), @r#"
    spec.parentRefs[0]: kind Service is in the core group: write `group: ""` beside it, or nobody serves the route
    "#);
}

#[test]
fn a_consumer_route_replaces_the_producers_for_its_own_namespace_and_port() {
    let producer =
        "{parentRefs: [{group: '', kind: Service, name: reviews}], rules: [{backendRefs: [{name: reviews, port: 80}]}]}";
    let consumer = "{parentRefs: [{group: '', kind: Service, name: reviews, namespace: shop, port: 80}],
      rules: [{backendRefs: [{name: canary, namespace: shop, port: 80}]}]}";
    let text =
        [SERVICES, &route("HTTPRoute", "shop/producer", producer), &route("HTTPRoute", "desk/consumer", consumer)].concat();
    let index = index(&text);
    assert_snapshot!(show_service(&index, "shop/reviews", "shop"), @r#"
    shop/reviews at [10.96.0.10]
      port 80 `http` Http
        Http shop/producer rule 0 ``
          to shop/reviews:80 weight 1
      port 9000 `tcp-admin` Opaque
      refers shop/reviews:80 shop/reviews:9000
    "#);
    assert_snapshot!(show_service(&index, "shop/reviews", "desk"), @r#"
    shop/reviews at [10.96.0.10]
      port 80 `http` Http
        Http desk/consumer rule 0 ``
          to shop/canary:80 weight 1
      port 9000 `tcp-admin` Opaque
      refers shop/canary:80 shop/reviews:80 shop/reviews:9000
    "#);
    assert_snapshot!(show_status(&index), @r#"
    HTTPRoute desk/consumer to shop/reviews:80
      Accepted=True Accepted @3: served to clients in namespace desk of Service shop/reviews on port 80
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    HTTPRoute shop/producer to shop/reviews
      Accepted=True Accepted @3: served to every client of Service shop/reviews on port 80
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    "#);
}

#[test]
fn a_grpc_route_takes_the_port_from_http_routes() {
    let http = "{parentRefs: [{group: '', kind: Service, name: canary}], rules: [{backendRefs: [{name: canary, port: 80}]}]}";
    let grpc = "
  parentRefs: [{group: '', kind: Service, name: canary}]
  rules:
  - matches:
    - method: {service: shop.Reviews, method: Get}
    - method: {service: shop.Reviews}
      headers: [{name: version, value: '2'}]
    - method: {method: Get}
    - method: {type: RegularExpression, service: 'shop\\..*'}
    - method: {type: RegularExpression, service: a, method: b}
    backendRefs: [{name: canary, port: 80}]
  - backendRefs: [{name: reviews, port: 80}]
";
    let text = [SERVICES, &route("HTTPRoute", "shop/http", http), &route("GRPCRoute", "shop/grpc", grpc)].concat();
    let index = index(&text);
    assert_snapshot!(show_service(&index, "shop/canary", "shop"), @r#"
    shop/canary at [10.96.0.11]
      port 80 `http` Http
        Grpc shop/grpc rule 0 ``
          match = /shop.Reviews/Get
          match ^ /shop.Reviews [version=2]
          match ~ /[^/]+/Get
          match ~ /(?:shop\..*)/[^/]+
          match ~ /(?:a)/(?:b)
          to shop/canary:80 weight 1
        Grpc shop/grpc rule 1 ``
          to shop/reviews:80 weight 1
      refers shop/canary:80 shop/reviews:80
    "#);
    assert_snapshot!(show_status(&index), @r#"
    HTTPRoute shop/http to shop/canary
      Accepted=False Conflicted @3: GRPCRoute shop/grpc has port 80 of Service shop/canary
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    GRPCRoute shop/grpc to shop/canary
      Accepted=True Accepted @3: served to every client of Service shop/canary on port 80
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    "#);
}

#[test]
fn the_older_route_comes_first_and_then_the_name() {
    let spec = "{parentRefs: [{group: '', kind: Service, name: canary}], rules: [{backendRefs: [{name: canary, port: 80}]}]}";
    let dated =
        |name: &str, date: &str| route("HTTPRoute", name, spec).replace("generation: 3", &format!("creationTimestamp: '{date}'"));
    let text = [
        SERVICES.to_owned(),
        dated("shop/young", "2026-02-01T00:00:00Z"),
        dated("shop/old", "2026-01-01T00:00:00Z"),
        route("HTTPRoute", "shop/b-file", spec),
        route("HTTPRoute", "shop/a-file", spec),
    ];
    let index = index(&text.concat());
    assert_snapshot!(show_service(&index, "shop/canary", "shop"), @r#"
    shop/canary at [10.96.0.11]
      port 80 `http` Http
        Http shop/a-file rule 0 ``
          to shop/canary:80 weight 1
        Http shop/b-file rule 0 ``
          to shop/canary:80 weight 1
        Http shop/old rule 0 ``
          to shop/canary:80 weight 1
        Http shop/young rule 0 ``
          to shop/canary:80 weight 1
      refers shop/canary:80
    "#);
}

const DATABASE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: data, annotations: {weir.dev/mtls: strict, weir.dev/opaque-ports: '7000'}}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: data, annotations: {weir.dev/status: '{}'}}
spec: {serviceAccountName: db}
status: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}], phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, namespace: data}
spec: {serviceAccountName: db}
status: {podIP: 10.1.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: db-old, namespace: data, annotations: {weir.dev/status: '{}'}}
status: {podIP: 10.1.0.2, phase: Succeeded}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: data}
spec: {clusterIP: 10.96.1.1, ports: [{name: mysql, port: 3306}, {name: http-metrics, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db-read, namespace: data}
spec: {clusterIP: 10.96.1.2, ports: [{name: '', port: 13306}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-a, namespace: data, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: mysql, port: 3306}, {name: http-metrics, port: 9104}, {name: unknown, port: 1}]
endpoints:
- {addresses: [10.1.0.1], zone: north, conditions: {ready: true}, targetRef: {kind: Pod, name: db-0}}
- {addresses: [10.1.0.2], zone: south}
- {addresses: [10.1.0.3], conditions: {ready: false}}
- {addresses: [10.1.0.4], conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-b, namespace: data, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: mysql, port: 3306}]
endpoints: [{addresses: [10.1.0.1], zone: moved}, {addresses: [10.1.0.9], targetRef: {kind: Pod, name: db-9}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: read, namespace: data, labels: {kubernetes.io/service-name: db-read}}
addressType: IPv4
ports: [{port: 3306}]
endpoints: [{addresses: [10.1.0.1], conditions: {ready: false, serving: true, terminating: true}}]
";

#[test]
fn endpoints_come_from_slices_and_know_their_pods() {
    let index = index(DATABASE);
    assert_snapshot!(show_endpoints(&index, "data/db:3306"), @r#"
    10.1.0.1:3306 Opaque zone `north` pod `db-0` spiffe://cluster.local/ns/data/sa/db
    10.1.0.2:3306 Opaque zone `south` pod `db-1` plaintext
    10.1.0.9:3306 Opaque zone `` pod `db-9` plaintext
    "#);
    assert_snapshot!(show_endpoints(&index, "data/db:80"), @r#"
    10.1.0.1:9104 Http zone `north` pod `db-0` spiffe://cluster.local/ns/data/sa/db
    10.1.0.2:9104 Http zone `south` pod `db-1` plaintext
    "#);
    assert_snapshot!(show_endpoints(&index, "data/db-read:13306"), @"10.1.0.1:3306 Detect zone `` pod `db-0` spiffe://cluster.local/ns/data/sa/db");
    assert_snapshot!(show_endpoints(&index, "data/db:81"), @"absent");
    assert_snapshot!(show_address(&index, "10.1.0.1"), @"workload 10.1.0.1:0 Detect zone `` pod `db-0` spiffe://cluster.local/ns/data/sa/db");
    assert_snapshot!(show_address(&index, "10.1.0.2"), @"workload 10.1.0.2:0 Detect zone `` pod `db-1` plaintext");
    assert_snapshot!(show_address(&index, "fd00::1"), @"workload [fd00::1]:0 Detect zone `` pod `db-0` spiffe://cluster.local/ns/data/sa/db");
    assert_snapshot!(show_address(&index, "10.1.0.9"), @"nothing");
}

#[test]
fn inbound_policy_comes_from_pod_namespace_and_slices() {
    let index = index(DATABASE);
    assert_snapshot!(show_inbound(&index, "data", "db-0", &[]), @r#"
    Strict
      3306 Opaque of data/db:3306
      7000 Opaque
      9104 Http of data/db:80
    "#);
    assert_snapshot!(show_inbound(&index, "data", "unknown", &["10.1.0.2"]), @r#"
    Strict
      3306 Opaque of data/db:3306
      7000 Opaque
      9104 Http of data/db:80
    "#);
    assert_snapshot!(show_inbound(&index, "elsewhere", "unknown", &["10.5.5.5"]), @"Permissive");
}

#[test]
fn annotations_make_ports_opaque() {
    let text = "
apiVersion: v1
kind: Namespace
metadata: {name: n, annotations: {weir.dev/opaque-ports: '80,8080'}}
---
apiVersion: v1
kind: Service
metadata: {name: inherits, namespace: n}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}, {name: http2, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: own-word, namespace: n, annotations: {weir.dev/opaque-ports: ''}}
spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: n}
spec: {serviceAccountName: db}
status: {podIP: 10.1.0.1}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: e, namespace: n, labels: {kubernetes.io/service-name: own-word}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.1]}]
";
    let index = index(text);
    assert_snapshot!(show_service(&index, "n/inherits", "n"), @r#"
    n/inherits at [10.0.0.1]
      port 80 `http` Opaque
      port 81 `http2` Http2
      refers n/inherits:80 n/inherits:81
    "#);
    assert_snapshot!(show_service(&index, "n/own-word", "n"), @r#"
    n/own-word at [10.0.0.2]
      port 80 `http` Http
      refers n/own-word:80
    "#);
    assert_snapshot!(show_endpoints(&index, "n/own-word:80"), @"10.1.0.1:8080 Opaque zone `` pod `p` plaintext");
    assert_snapshot!(show_inbound(&index, "n", "p", &[]), @r#"
    Permissive
      80 Opaque
      8080 Opaque of n/own-word:80
    "#);
}

#[test]
fn slices_that_do_not_fit_their_service_are_named() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: e, namespace: shop, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.1]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: lost, namespace: shop, labels: {kubernetes.io/service-name: ratings}}
addressType: IPv4
";
    let index = index(text);
    let show = |name: &str| {
        let found = super::mismatched(&index, &name.parse().unwrap());
        found.iter().map(|(key, problem)| format!("{key}: {problem}")).collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(show("shop/reviews"), @"EndpointSlice shop/e: ports[0].name: Service shop/reviews has no TCP port named ``: its ports are named `http`");
    assert_snapshot!(show("shop/ratings"), @"EndpointSlice shop/lost: metadata.labels[kubernetes.io/service-name]: Service shop/ratings does not exist");
}

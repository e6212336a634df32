//! Mirrors, and routes for connections.

use insta::assert_snapshot;

use super::{SERVICES, index, route, show_service, show_status};

#[test]
fn a_mirror_that_leads_nowhere_gets_nothing_and_spoils_nothing() {
    let spec = "
  parentRefs: [{group: '', kind: Service, name: reviews, sectionName: http}]
  rules:
  - filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: pods, port: 50051}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: nothing, port: 80}, percent: 10}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: x, kind: ServiceImport, group: multicluster.x-k8s.io}}}
    backendRefs:
    - name: reviews
      port: 80
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: pods, port: 50051}, fraction: {numerator: 1, denominator: 1000}}}]
";
    let index = index(&format!("{SERVICES}{}", route("HTTPRoute", "shop/copied", spec)));
    assert_snapshot!(show_service(&index, "shop/reviews", "shop"), @r#"
    shop/reviews at [10.96.0.10]
      port 80 `http` Http
        Http shop/copied rule 0 ``
          mirror 1/1 of requests to shop/pods:50051
          to shop/reviews:80 weight 1 mirror 1/1000 to shop/pods:50051
      port 9000 `tcp-admin` Opaque
      refers shop/pods:50051 shop/reviews:80 shop/reviews:9000
    "#);
    assert_snapshot!(show_status(&index), @r#"
    HTTPRoute shop/copied to shop/reviews#http
      Accepted=True Accepted @3: served to every client of Service shop/reviews on port 80
      ResolvedRefs=False BackendNotFound @3: spec.rules[0].filters[1].requestMirror.backendRef: Service shop/nothing does not exist; spec.rules[0].filters[2].requestMirror.backendRef: `ServiceImport` of group `multicluster.x-k8s.io` is not a kind of backend: only Services are
    "#);
}

/// A TCPRoute's spec that sends to a database and to nobody.
fn tcp_route(weight: u32) -> String {
    format!(
        "
  parentRefs: [{{group: '', kind: Service, name: db, namespace: data}}]
  rules:
  - backendRefs:
    - {{name: db, namespace: data, port: 3306, weight: {weight}}}
    - {{name: nothing, port: 3306}}
"
    )
}

#[test]
fn connections_are_routed_where_no_more_specific_kind_of_route_has_the_port() {
    let tls = "
  parentRefs: [{group: '', kind: Service, name: canary}]
  hostnames: [one.example, '*.two.example']
  rules:
  - name: all
    backendRefs: [{name: reviews, port: 9000}]
";
    let http = "{parentRefs: [{group: '', kind: Service, name: reviews}], rules: [{backendRefs: [{name: canary, port: 80}]}]}";
    let on_http = "{parentRefs: [{group: '', kind: Service, name: reviews}], rules: [{backendRefs: [{name: canary, port: 80}]}]}";
    let text = [
        SERVICES,
        &route("TCPRoute", "data/first", &tcp_route(9)),
        &route("TCPRoute", "data/second", &tcp_route(1)),
        &route("TCPRoute", "shop/own", &tcp_route(5)),
        &route("TLSRoute", "shop/names", tls),
        &route("HTTPRoute", "shop/http", http),
        &route("TCPRoute", "shop/tcp", on_http),
    ];
    let index = index(&text.concat().replace("{name: http, port: 80}]}", "{name: tls-x, port: 80, appProtocol: tls}]}"));
    assert_snapshot!(show_service(&index, "data/db", "data"), @r#"
    data/db at [10.96.0.12]
      port 3306 `` Opaque
        Tcp data/first rule 0 ``
          to data/db:3306 weight 9
          to data/nothing:3306 weight 1 INVALID BackendNotFound: Service data/nothing does not exist
      refers data/db:3306
    "#);
    assert_snapshot!(show_service(&index, "data/db", "shop"), @r#"
    data/db at [10.96.0.12]
      port 3306 `` Opaque
        Tcp shop/own rule 0 ``
          to data/db:3306 weight 5
          to shop/nothing:3306 weight 1 INVALID BackendNotFound: Service shop/nothing does not exist
      refers data/db:3306
    "#);
    assert_snapshot!(show_service(&index, "shop/canary", "shop"), @r#"
    shop/canary at [10.96.0.11]
      port 80 `tls-x` Tls
        Tls shop/names rule 0 `all` one.example *.two.example
          to shop/reviews:9000 weight 1
      refers shop/canary:80 shop/reviews:9000
    "#);
    assert_snapshot!(show_service(&index, "shop/reviews", "shop"), @r#"
    shop/reviews at [10.96.0.10]
      port 80 `http` Http
        Http shop/http rule 0 ``
          to shop/canary:80 weight 1 INVALID UnsupportedProtocol: port 80 of Service shop/canary is said to be TLS of the application's own
      port 9000 `tcp-admin` Opaque
        Tcp shop/tcp rule 0 ``
          to shop/canary:80 weight 1
      refers shop/canary:80 shop/reviews:80 shop/reviews:9000
    "#);
    assert_snapshot!(show_status(&index), @r#"
    HTTPRoute shop/http to shop/reviews
      Accepted=True Accepted @3: served to every client of Service shop/reviews on port 80
      ResolvedRefs=False UnsupportedProtocol @3: spec.rules[0].backendRefs[0]: port 80 of Service shop/canary is said to be TLS of the application's own
    TLSRoute shop/names to shop/canary
      Accepted=True Accepted @3: served to every client of Service shop/canary on port 80
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    TCPRoute data/first to data/db
      Accepted=True Accepted @3: served to every client of Service data/db on port 3306
      ResolvedRefs=False BackendNotFound @3: spec.rules[0].backendRefs[1]: Service data/nothing does not exist
    TCPRoute data/second to data/db
      Accepted=False Conflicted @3: TCPRoute data/first has port 3306 of Service data/db
      ResolvedRefs=False BackendNotFound @3: spec.rules[0].backendRefs[1]: Service data/nothing does not exist
    TCPRoute shop/own to data/db
      Accepted=True Accepted @3: served to clients in namespace shop of Service data/db on port 3306
      ResolvedRefs=False BackendNotFound @3: spec.rules[0].backendRefs[1]: Service shop/nothing does not exist
    TCPRoute shop/tcp to shop/reviews
      Accepted=True Accepted @3: served to every client of Service shop/reviews on port 9000; HTTPRoute shop/http has port 80
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
    "#);
}

#[test]
fn of_several_rules_for_connections_the_first_has_them_all_and_the_others_are_named() {
    let spec = "
  parentRefs: [{group: '', kind: Service, name: db, namespace: data}]
  rules:
  - backendRefs: [{name: db, namespace: data, port: 3306}]
  - backendRefs: [{name: canary, namespace: shop, port: 80}]
";
    let index = index(&format!("{SERVICES}{}", route("TCPRoute", "data/twice", spec)));
    assert_snapshot!(show_service(&index, "data/db", "data"), @r#"
    data/db at [10.96.0.12]
      port 3306 `` Opaque
        Tcp data/twice rule 0 ``
          to data/db:3306 weight 1
      refers data/db:3306
    "#);
    assert_snapshot!(show_status(&index), @r#"
    TCPRoute data/twice to data/db
      Accepted=True Accepted @3: served to every client of Service data/db on port 3306
      ResolvedRefs=True ResolvedRefs @3: every backend is a Service that exists
      PartiallyInvalid=True UnsupportedValue @3: Dropped Rule: 1 of 2 rules cannot be honoured, or not in all parts: spec.rules[1]: has no effect: the first rule takes every connection; use one rule with several backendRefs
    "#);
}

/// What a backendRef of a route of this kind to a port with this `appProtocol` comes to.
fn of_protocol(kind: &str, value: &str) -> Option<String> {
    let text = format!(
        "
{{apiVersion: v1, kind: Service, metadata: {{name: x, namespace: shop}}, spec: {{clusterIP: 10.1.0.1, ports: [{{name: http, port: 80, appProtocol: {value}}}]}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: front, namespace: shop}}, spec: {{clusterIP: 10.1.0.2, ports: [{{name: http, port: 80}}]}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: r, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: front}}]
  rules: [{{backendRefs: [{{name: x, port: 80}}]}}]
"
    );
    let index = super::index(&text);
    let view = super::super::service(&index, &"shop/front".parse().unwrap(), &"shop".parse().unwrap()).unwrap();
    let table = view.service.ports[&80].routes.clone().unwrap();
    table.rules()[0].backends[0].invalid.as_deref().map(str::to_owned)
}

#[test]
fn a_protocol_of_somebodys_own_is_no_backend_of_requests() {
    let known = ["http", "http2", "grpc", "kubernetes.io/h2c", "ldap", "HTTP"];
    for (kind, value) in ["HTTPRoute", "GRPCRoute"].into_iter().flat_map(|kind| known.map(|value| (kind, value))) {
        assert_eq!(of_protocol(kind, value), None, "{kind} {value}");
    }
    assert_eq!(of_protocol("HTTPRoute", "kubernetes.io/ws"), None);
    for (kind, value, words) in [
        ("HTTPRoute", "example.com/custom", "has the appProtocol `example.com/custom`"),
        ("GRPCRoute", "kubernetes.io/h3", "has the appProtocol `kubernetes.io/h3`"),
        ("GRPCRoute", "kubernetes.io/ws", "is said to be HTTP/1.1"),
        ("HTTPRoute", "kubernetes.io/wss", "is said to be TLS"),
        ("HTTPRoute", "mysql", "is said to be opaque"),
    ] {
        let said = of_protocol(kind, value).unwrap_or_default();
        let beginning = format!("UnsupportedProtocol: port 80 of Service shop/x {words}");
        assert!(said.starts_with(&beginning), "{kind} {value}: {said}");
    }
}

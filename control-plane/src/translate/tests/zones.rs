//! Which zone endpoints and callers are in, and who wants that it matters.

use weir_core::balance::Locality;

use super::*;

/// A Service with two endpoints; `service` and `policy` are added to what is written, `a` and `b` to the endpoints.
fn objects(service: &str, [a, b]: [&str; 2], policy: &str) -> Index {
    index(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: reviews, namespace: shop}}
spec: {{clusterIP: 10.96.0.1, ports: [{{name: http, port: 80}}]{service}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: reviews-1, namespace: shop, labels: {{kubernetes.io/service-name: reviews}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints:
- {{addresses: [10.0.0.1], zone: one, {a}}}
- {{addresses: [10.0.0.2], zone: two, {b}}}
{policy}"
    ))
}

fn policy(spec: &str) -> String {
    format!(
        "---
apiVersion: weir.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: reviews, namespace: shop}}
spec: {{targetRefs: [{{kind: Service, name: reviews}}], {spec}}}
"
    )
}

fn locality(index: &Index) -> Option<Locality> {
    super::super::endpoints(index, &"shop/reviews:80".parse().unwrap(), &trust_domain()).unwrap().policy.balance.locality
}

const BARE: [&str; 2] = ["conditions: {ready: true}"; 2];
const HINTED: [&str; 2] = ["hints: {forZones: [{name: two}]}", "hints: {forZones: [{name: one}]}"];

#[test]
fn zones_matter_where_kubernetes_or_a_policy_says_so() {
    let usual = Some(Locality::default());
    let own = Some(Locality { max_outstanding: 3, ..Locality::default() });
    for (service, endpoints, written, expected) in [
        ("", BARE, "", None),
        (", trafficDistribution: PreferClose", BARE, "", usual),
        (", trafficDistribution: PreferSameZone", BARE, "", usual),
        (", trafficDistribution: PreferSameNode", BARE, "", usual),
        (", trafficDistribution: Whatever", BARE, "", None),
        ("", HINTED, "", usual),
        ("", [HINTED[0], BARE[1]], "", None),
        ("", [HINTED[0], "conditions: {ready: false}"], "", usual),
        ("", BARE, "loadBalancing: {type: RoundRobin}", None),
        ("", BARE, "locality: {maxOutstanding: 3}", own),
        (", trafficDistribution: PreferClose", BARE, "loadBalancing: {type: RoundRobin}", usual),
        (", trafficDistribution: PreferClose", HINTED, "locality: {prefer: Any}", None),
        (", trafficDistribution: PreferClose", BARE, "locality: {maxOutstanding: 3}", own),
    ] {
        let written = if written.is_empty() { String::new() } else { policy(written) };
        assert_eq!(locality(&objects(service, endpoints, &written)), expected, "{service} {endpoints:?} {written}");
    }
}

#[test]
fn an_endpoint_is_where_its_hint_says() {
    let zones = |endpoints| show_endpoints(&objects("", endpoints, ""), "shop/reviews:80");
    assert!(zones(BARE).lines().next().unwrap_or_default().contains("zone `one`"), "{}", zones(BARE));
    let hinted = zones(HINTED);
    let lines: Vec<&str> = hinted.lines().collect();
    assert!(lines[0].contains("10.0.0.1") && lines[0].contains("zone `two`"), "{hinted}");
    assert!(lines[1].contains("10.0.0.2") && lines[1].contains("zone `one`"), "{hinted}");
}

#[test]
fn a_caller_is_where_its_pod_or_its_slice_says() {
    let pod = |labels: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: db-0, namespace: shop, labels: {{{labels}}}}}
spec: {{serviceAccountName: db}}
status: {{podIPs: [{{ip: 10.0.0.2}}]}}
"
        )
    };
    let zone = |index: &Index| {
        let workload = Workload {
            namespace: "shop".parse().unwrap(),
            pod: Some("db-0".parse().unwrap()),
            service_account: "db".parse().unwrap(),
            ips: vec!["10.0.0.2".parse().unwrap()],
        };
        super::super::inbound(index, &workload).zone.to_string()
    };
    assert_eq!(zone(&objects("", BARE, &pod(""))), "two", "as the slice says");
    assert_eq!(zone(&objects("", HINTED, &pod(""))), "two", "a hint is for callers, not a place");
    assert_eq!(zone(&objects("", BARE, &pod("topology.kubernetes.io/zone: three"))), "three");
    assert_eq!(zone(&index(&pod(""))), "");
}

//! What tests of this crate share: objects from YAML, and a small world in which things happen at random.

use std::sync::LazyLock;

use fastrand::Rng;
use serde_json::{Value, json};
use weir_core::names::{BackendRef, Label, ServiceRef, TrustDomain};
use weir_core::route::RouteRef;
use weir_core::snapshot::ResourceName;

use crate::index::{Event, Index};
use crate::objects::{Decoded, NamespacedName, decode};
use crate::source::dir::yaml;
use crate::translate::Workload;

pub(crate) fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

/// Every document as an event. A document that is refused is a mistake of the test.
pub(crate) fn events(text: &str) -> Vec<Event> {
    yaml::parse(text).unwrap().iter().map(|node| event(&node.to_json())).collect()
}

pub(crate) fn index(text: &str) -> Index {
    let mut index = Index::default();
    for event in events(text) {
        index.apply(event);
    }
    index
}

fn event(value: &Value) -> Event {
    match decode(value) {
        Decoded::Object(object, _) => Event::Apply(object),
        other => panic!("{value} gives {other:?}"),
    }
}

const NAMESPACES: [&str; 2] = ["a", "b"];
/// Clients are also in a namespace that has nothing else.
pub(crate) const CLIENTS: [&str; 3] = ["a", "b", "c"];
const SERVICES: [&str; 3] = ["s0", "s1", "s2"];
const PODS: [&str; 3] = ["p0", "p1", "p2"];
const PORTS: [u16; 2] = [80, 3306];
const IPS: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];

fn one<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(..of.len())]
}

/// Something that happens to one of a few objects, all of which refer to each other.
pub(crate) fn random_event(rng: &mut Rng) -> Event {
    let namespace = one(rng, &NAMESPACES);
    let value = match rng.u8(..14) {
        0 => random_namespace(rng, namespace),
        1 | 2 => random_pod(rng, namespace),
        3 | 4 => random_service(rng, namespace),
        5 | 6 => random_slice(rng, namespace),
        7 | 8 => random_policy(rng, namespace),
        9 => random_tls_policy(rng, namespace),
        10 => random_config_map(rng, namespace),
        11 => random_traffic_policy(rng, namespace),
        _ => random_route(rng, namespace),
    };
    match event(&value) {
        Event::Apply(object) if rng.u8(..4) == 0 => Event::Delete(object.key()),
        event => event,
    }
}

fn annotations(rng: &mut Rng) -> Value {
    let mut all = json!({});
    if rng.bool() {
        all["weir.dev/status"] = json!("{}");
    }
    if rng.u8(..4) == 0 {
        all["weir.dev/opaque-ports"] = json!(one(rng, &["80", "8080", "", "1-90"]));
    }
    if rng.u8(..4) == 0 {
        all["weir.dev/mtls"] = json!(one(rng, &["strict", "permissive"]));
    }
    all
}

fn random_namespace(rng: &mut Rng, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations(rng)}})
}

fn random_pod(rng: &mut Rng, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": one(rng, &PODS), "namespace": namespace, "annotations": annotations(rng)},
        "spec": {"serviceAccountName": one(rng, &["x", "y"]), "hostNetwork": rng.u8(..8) == 0},
        "status": {"podIP": one(rng, &IPS), "phase": one(rng, &["Running", "Running", "Running", "Failed"])},
    })
}

fn random_service(rng: &mut Rng, namespace: &str) -> Value {
    let names = [("http", 80), ("mysql", 3306), ("", 80), ("x", 3306), ("grpc", 80), ("https", 80)];
    let (first, port) = names[rng.usize(..names.len())];
    let mut ports = vec![json!({"name": first, "port": port})];
    if rng.bool() {
        ports.push(json!({"name": "second", "port": if port == 80 { 3306 } else { 80 }}));
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": one(rng, &SERVICES), "namespace": namespace, "annotations": annotations(rng)},
        "spec": {
            "type": one(rng, &["ClusterIP", "ClusterIP", "ClusterIP", "ExternalName"]),
            "clusterIP": one(rng, &["10.0.0.4", "10.0.0.5", "None"]),
            "ports": ports,
        },
    })
}

fn random_slice(rng: &mut Rng, namespace: &str) -> Value {
    let endpoint = |rng: &mut Rng| {
        json!({
            "addresses": [one(rng, &IPS)],
            "conditions": {"ready": rng.u8(..4) > 0, "serving": rng.bool(), "terminating": rng.bool()},
            "targetRef": {"kind": "Pod", "name": one(rng, &PODS)},
        })
    };
    let endpoints: Vec<Value> = (0..rng.u8(..4)).map(|_| endpoint(rng)).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": one(rng, &["e0", "e1", "e2"]), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": one(rng, &SERVICES)},
        },
        "ports": [{"name": one(rng, &["http", "", "grpc", "mysql"]), "port": 8080}, {"name": "second", "port": 3306}],
        "endpoints": endpoints,
    })
}

fn random_route(rng: &mut Rng, namespace: &str) -> Value {
    let parent = |rng: &mut Rng| {
        let mut parent = json!({"group": "", "kind": "Service", "name": one(rng, &SERVICES), "namespace": one(rng, &NAMESPACES)});
        if rng.bool() {
            parent["port"] = json!(PORTS[rng.usize(..PORTS.len())]);
        }
        parent
    };
    let backend = |rng: &mut Rng| {
        json!({
            "name": one(rng, &["s0", "s1", "s2", "s3"]), "namespace": one(rng, &NAMESPACES),
            "port": PORTS[rng.usize(..PORTS.len())], "weight": rng.u8(..3), "kind": one(rng, &["Service", "Service", "Service", "Else"]),
        })
    };
    let parents: Vec<Value> = (0..rng.u8(..3)).map(|_| parent(rng)).collect();
    let backends: Vec<Value> = (0..rng.u8(..3)).map(|_| backend(rng)).collect();
    let kind = one(rng, &["HTTPRoute", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"]);
    let copies = if matches!(kind, "HTTPRoute" | "GRPCRoute") { rng.u8(..2) } else { 0 };
    let mirrors: Vec<Value> = (0..copies)
        .map(|_| {
            let mut to = backend(rng);
            if let Some(to) = to.as_object_mut() {
                to.remove("weight");
            }
            json!({"type": "RequestMirror", "requestMirror": {"backendRef": to}})
        })
        .collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": {"name": one(rng, &["r0", "r1", "r2"]), "namespace": namespace},
        "spec": {"parentRefs": parents, "rules": [{"filters": mirrors, "backendRefs": backends}]},
    })
}

fn random_policy(rng: &mut Rng, namespace: &str) -> Value {
    let target = |service: &str, section: &str| {
        let mut target = json!({"group": "", "kind": "Service", "name": service});
        if !section.is_empty() {
            target["sectionName"] = json!(section);
        }
        target
    };
    let section = one(rng, &["", "", "http", "second", "x"]);
    let mut targets = vec![target(one(rng, &SERVICES), section)];
    if rng.u8(..4) == 0 {
        targets.push(target("s3", ""));
    }
    let mut spec = json!({
        "targetRefs": targets,
        "loadBalancing": {"type": one(rng, &["RoundRobin", "RingHash"])},
        "rateLimits": [{"requests": rng.u8(1..3)}],
        "faults": [{"delay": "1s", "percent": rng.u8(..3)}],
    });
    if rng.bool() {
        spec["retryBudget"] = json!({"percent": rng.u8(..3)});
    }
    json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": one(rng, &["t0", "t1"]), "namespace": namespace, "generation": rng.u8(..3)}, "spec": spec,
    })
}

fn random_tls_policy(rng: &mut Rng, namespace: &str) -> Value {
    let mut target = json!({"group": "", "kind": "Service", "name": one(rng, &SERVICES)});
    let section = one(rng, &["", "", "http", "second", "x"]);
    if !section.is_empty() {
        target["sectionName"] = json!(section);
    }
    let reference = |rng: &mut Rng| json!({"group": "", "kind": one(rng, &["ConfigMap", "ConfigMap", "Secret"]), "name": one(rng, &["c0", "c1"])});
    let references: Vec<Value> = (0..rng.u8(..3)).map(|_| reference(rng)).collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": one(rng, &["t0", "t1"]), "namespace": namespace, "generation": rng.u8(..3)},
        "spec": {
            "targetRefs": [target],
            "validation": {"hostname": one(rng, &["a.example", "b.example"]), "caCertificateRefs": references},
        },
    })
}

fn random_traffic_policy(rng: &mut Rng, namespace: &str) -> Value {
    let mut spec = json!({"targetRefs": [{"group": "", "kind": "Service", "name": one(rng, &SERVICES)}]});
    if rng.bool() {
        spec["retryConstraint"] = json!({"budget": {"percent": rng.u8(..3)}});
    }
    if rng.bool() {
        spec["sessionPersistence"] = json!({"type": one(rng, &["Cookie", "Header"])});
    }
    json!({
        "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": one(rng, &["t0", "t1"]), "namespace": namespace, "generation": rng.u8(..3)}, "spec": spec,
    })
}

/// Real certificates, made for nothing else.
fn random_config_map(rng: &mut Rng, namespace: &str) -> Value {
    static AUTHORITIES: LazyLock<[String; 2]> = LazyLock::new(|| [authority_pem(), authority_pem()]);
    let bundle = match rng.u8(..4) {
        0 => "no certificate",
        1 => &AUTHORITIES[0],
        _ => &AUTHORITIES[1],
    };
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": one(rng, &["c0", "c1"]), "namespace": namespace},
        "data": {one(rng, &["ca.crt", "ca.crt", "other"]): bundle},
    })
}

/// A CA certificate.
pub(crate) fn authority_pem() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem()
}

/// Everything that can be asked for in that world.
pub(crate) fn all_names() -> Vec<ResourceName> {
    let mut names: Vec<ResourceName> = IPS.iter().map(|ip| ResourceName::Address(ip.parse().unwrap())).collect();
    for service in all_services() {
        names.extend(PORTS.map(|port| ResourceName::Endpoints(BackendRef { service: service.clone(), port })));
        names.push(ResourceName::Service(service));
    }
    names.extend([ResourceName::Inbound, ResourceName::Trust]);
    names
}

pub(crate) fn all_services() -> Vec<ServiceRef> {
    let both = NAMESPACES.iter().flat_map(|namespace| SERVICES.iter().map(move |name| format!("{namespace}/{name}")));
    both.map(|text| text.parse().unwrap()).collect()
}

/// A workload for each Pod that there may be, one without a Pod, and one in an empty namespace.
pub(crate) fn all_workloads() -> Vec<Workload> {
    let workload = |namespace: &str, pod: Option<&str>, ips: &[&str]| Workload {
        namespace: namespace.parse::<Label>().unwrap(),
        pod: pod.map(|pod| pod.parse().unwrap()),
        service_account: "x".parse().unwrap(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
    };
    let with_pods = NAMESPACES.iter().flat_map(|namespace| PODS.iter().map(move |pod| workload(namespace, Some(pod), &[])));
    with_pods.chain([workload("a", None, &["10.0.0.1"]), workload("c", Some("other"), &["10.0.0.2"])]).collect()
}

pub(crate) fn all_policies() -> Vec<NamespacedName> {
    let both = NAMESPACES.iter().flat_map(|namespace| ["t0", "t1"].map(|name| (namespace, name)));
    both.map(|(namespace, name)| NamespacedName { namespace: namespace.parse().unwrap(), name: name.parse().unwrap() }).collect()
}

pub(crate) fn all_routes() -> Vec<RouteRef> {
    use weir_core::route::RouteKind;
    let mut routes = Vec::new();
    for kind in RouteKind::BY_PRECEDENCE {
        for namespace in NAMESPACES {
            for name in ["r0", "r1", "r2"] {
                routes.push(RouteRef { kind, namespace: namespace.parse().unwrap(), name: name.parse().unwrap() });
            }
        }
    }
    routes
}

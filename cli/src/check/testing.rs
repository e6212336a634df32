//! A mesh that is as it should be, for tests to break.

use base64::Engine;
use serde::de::DeserializeOwned;

use super::facts::{After, Ground, Probe, Replica, Server};
use super::finding::Finding;
use super::objects::{ConfigMap, Deployment, Object, Pod, Proxy, Secret, Webhooks};
use crate::cluster::Failure;

/// 2023-11-14T22:13:20Z
pub(super) const NOW: i64 = 1_700_000_000;
const YEAR: i64 = 365 * 86_400;

/// An object out of JSON.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(super) fn pod(text: &str) -> Pod {
    read(text)
}

/// Findings as lines.
pub(super) fn whats(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|finding| format!("{:?} {}", finding.level, finding.what)).collect()
}

pub(super) fn not_found() -> Failure {
    Failure { code: Some(404), text: "not found".into() }
}

/// A root certificate as PEM. The same name and end give the same certificate, since its key is remembered.
pub(super) fn authority(name: &str, ends: i64) -> String {
    use std::collections::BTreeMap;
    use std::sync::{LazyLock, Mutex};
    static MADE: LazyLock<Mutex<BTreeMap<(String, i64), String>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap();
    let make = || {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.not_before = time::OffsetDateTime::from_unix_timestamp(ends - YEAR).unwrap();
        parameters.not_after = time::OffsetDateTime::from_unix_timestamp(ends).unwrap();
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    };
    made.entry((name.to_owned(), ends)).or_insert_with(make).clone()
}

pub(super) fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

pub(super) fn secret(data: &[(&str, &str)]) -> Secret {
    Secret { data: data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(), ..Secret::default() }
}

pub(super) fn bundle(namespace: &str, pem: &str) -> ConfigMap {
    let mut bundle = ConfigMap::default();
    bundle.metadata.namespace = namespace.into();
    bundle.data.insert("ca.crt".into(), pem.into());
    bundle
}

pub(super) fn namespace(name: &str, labels: &[(&str, &str)]) -> Object {
    let mut namespace = Object::default();
    namespace.metadata.name = name.into();
    namespace.metadata.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    namespace
}

pub(super) fn deployment(name: &str, replicas: u32, ready: u32) -> Deployment {
    let mut deployment = Deployment::default();
    deployment.metadata.name = name.into();
    deployment.metadata.labels.insert("app.kubernetes.io/version".into(), "0.1.0".into());
    (deployment.spec.replicas, deployment.status.ready_replicas, deployment.status.updated_replicas) =
        (replicas, ready, replicas);
    deployment
}

pub(super) fn webhooks(namespace: &str, ca_bundle: &str) -> Webhooks {
    read(&format!(
        r#"{{"webhooks":[{{"name":"namespace.inject.weir.dev","clientConfig":{{"caBundle":"{}",
            "service":{{"namespace":"{namespace}","name":"weir-injector"}}}}}}]}}"#,
        base64(ca_bundle)
    ))
}

pub(super) fn probe(namespace: &str, answer: Result<Pod, &str>) -> Probe {
    let answer = answer.map_err(|text| Failure { code: Some(500), text: text.into() });
    Probe { namespace: namespace.into(), answer }
}

pub(super) fn ground() -> Ground {
    let server = Server { address: "https://api".into(), version: "v1.34.4".into(), date: Some(NOW) };
    let crds = ["httproutes", "grpcroutes"].map(|resource| {
        read(&format!(
            r#"{{"metadata":{{"name":"{resource}.gateway.networking.k8s.io","annotations":{{
                "gateway.networking.k8s.io/bundle-version":"v1.6.3","gateway.networking.k8s.io/channel":"standard"}}}},
                "spec":{{"versions":[{{"name":"v1","served":true}}]}}}}"#
        ))
    });
    let leases = vec![read(r#"{"metadata":{"name":"node-1"},"spec":{"renewTime":"2023-11-14T22:13:15.000000Z"}}"#)];
    Ground { namespace: "weir-system".into(), now: NOW, server: Ok(server), crds: Ok(crds.into()), node_leases: Ok(leases) }
}

/// One workload `shop/web-1` in the mesh, connected to the replica `cp-1`.
pub(super) fn after() -> After {
    let (root, injectors) = (authority("root", NOW + YEAR), authority("injector", NOW + YEAR));
    let web = r#"{"metadata":{"name":"web-1","namespace":"shop","annotations":{"weir.dev/status":"{\"version\":\"0.1.0\"}"}},
        "status":{"phase":"Running","containerStatuses":[{"name":"weir-proxy","ready":true}]}}"#;
    let proxy = Proxy {
        namespace: "shop".into(),
        pod: "web-1".into(),
        version: "0.1.0".into(),
        connected_since: "2023-11-14T22:00:00Z".into(),
        certificate_ends: "2023-11-15T22:00:00Z".into(),
        ..Proxy::default()
    };
    let replica =
        Replica { pod: "cp-1".into(), ready: Ok((200, "ready\n".into())), proxies: Ok(vec![proxy]), diagnostics: Ok(Vec::new()) };
    After {
        version: "0.1.0".into(),
        control_plane: Ok(deployment("weir-control-plane", 2, 2)),
        injector: Ok(deployment("weir-injector", 2, 2)),
        mesh_pods: Ok(Vec::new()),
        events: Ok(Vec::new()),
        access: Ok(Vec::new()),
        mutating: Ok(webhooks("weir-system", &injectors)),
        validating: Ok(webhooks("weir-system", &injectors)),
        injector_secret: Ok(secret(&[("ca.crt", &base64(&injectors))])),
        probes: vec![probe("shop", Ok(pod(r#"{"spec":{"initContainers":[{"name":"weir-proxy"}]}}"#)))],
        authority: Ok(secret(&[("ca.crt", &base64(&root))])),
        bundles: Ok(vec![bundle("weir-system", &root), bundle("shop", &root)]),
        namespaces: Ok(vec![namespace("shop", &[("weir.dev/inject", "enabled")])]),
        pods: Ok(vec![pod(web)]),
        replicas: vec![replica],
        routes: Ok(Vec::new()),
    }
}

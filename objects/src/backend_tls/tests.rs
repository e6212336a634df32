use serde_json::{Value, json};
use weir_core::backend_tls::SubjectName;

use super::{Authorities, BackendTlsPolicy, CaBundle, MAX_CA};
use crate::{Decoded, Object, decode};

fn written(spec: &Value) -> Decoded {
    decode(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": "p", "namespace": "shop", "generation": 3}, "spec": spec,
    }))
}

fn with(validation: &Value) -> BackendTlsPolicy {
    read(&json!({"targetRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "validation": validation}))
}

/// What is wrong is also told to whoever looks at the object.
fn read(spec: &Value) -> BackendTlsPolicy {
    match written(spec) {
        Decoded::Object(Object::BackendTlsPolicy(policy), problems) => {
            assert!(policy.invalid.iter().all(|it| problems.contains(it)), "{spec}: {problems:?}");
            (*policy).clone()
        }
        other => panic!("{spec}: {other:?}"),
    }
}

#[test]
fn a_policy_says_whom_to_ask_for_and_whom_to_believe() {
    let refs = json!([{"group": "", "kind": "ConfigMap", "name": "ca"}, {"group": "", "kind": "Secret", "name": "ca"}]);
    let policy = with(&json!({"hostname": "reviews.example", "caCertificateRefs": refs}));
    assert!(policy.invalid.is_empty(), "{:?}", policy.invalid);
    assert_eq!((policy.generation, policy.targets[0].service.to_string()), (3, "shop/reviews".to_owned()));
    assert_eq!((&*policy.hostname, &*policy.names), ("reviews.example", &[SubjectName::Dns("reviews.example".into())][..]));
    assert_eq!(policy.config_maps().map(|it| it.to_string()).collect::<Vec<_>>(), ["shop/ca"]);
    let Authorities::Refs(refs) = &policy.authorities else { panic!("{policy:?}") };
    assert!(refs[1].config_map.is_none() && &*refs[1].text == "Secret ca", "{refs:?}");

    let names = json!([{"type": "Hostname", "hostname": "*.reviews.example"}, {"type": "URI", "uri": "spiffe://a/b"}]);
    let policy = with(&json!({"hostname": "reviews.example", "wellKnownCACertificates": "System", "subjectAltNames": names}));
    assert!(policy.invalid.is_empty(), "{:?}", policy.invalid);
    assert_eq!(policy.names, [SubjectName::Dns("*.reviews.example".into()), SubjectName::Uri("spiffe://a/b".into())]);
    assert_eq!(policy.authorities, Authorities::System);
}

#[test]
fn a_policy_that_is_wrong_stays_one_and_says_what_is_wrong() {
    let ca = json!([{"group": "", "kind": "ConfigMap", "name": "ca"}]);
    let name = |name: Value| json!({"hostname": "a.example", "caCertificateRefs": ca, "subjectAltNames": [name]});
    for (validation, expected) in [
        (json!(null), "expected a mapping (validation)"),
        (json!({}), "spec.validation.hostname: is missing"),
        (json!({"hostname": 7}), "spec.validation.hostname: invalid type"),
        (json!({"hostname": "a.example"}), "spec.validation.caCertificateRefs: is missing"),
        (json!({"hostname": "*.example", "caCertificateRefs": ca}), "without a wildcard"),
        (json!({"hostname": "10.0.0.1", "caCertificateRefs": ca}), "no address"),
        (json!({"hostname": "a.example", "wellKnownCACertificates": "Mine"}), "expected System, found `Mine`"),
        (
            json!({"hostname": "a.example", "wellKnownCACertificates": "System", "caCertificateRefs": ca}),
            "only one of them may be there",
        ),
        (json!({"hostname": "a.example", "caCertificateRefs": ca, "minVersion": "1.3"}), "unknown field `minVersion`"),
        (
            json!({"hostname": "a.example", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "A b"}]}),
            "cannot be a ConfigMap's name",
        ),
        (name(json!({"type": "IP"})), "expected Hostname or URI, found `IP`"),
        (name(json!({"type": "Hostname"})), "expected a DNS name"),
        (name(json!({"type": "Hostname", "hostname": "a.example", "uri": "a:b"})), "no meaning with type Hostname"),
        (name(json!({"type": "URI", "uri": "//a/b"})), "expected a URI with its scheme"),
        (name(json!({"type": "URI", "uri": "spiffe://"})), "expected a URI with its scheme"),
    ] {
        let policy = with(&validation);
        let found: Vec<String> = policy.invalid.iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|it| it.contains(expected)), "{validation}: {found:?}");
        assert_eq!(policy.targets.len(), 1, "{validation}");
    }
}

#[test]
fn an_option_is_never_passed_over() {
    let policy = read(&json!({
        "targetRefs": [{"group": "", "kind": "Service", "name": "reviews"}],
        "validation": {"hostname": "a.example", "wellKnownCACertificates": "System"},
        "options": {"example.com/min-version": "1.3"},
    }));
    assert_eq!(policy.invalid.len(), 1);
    assert!(policy.invalid[0].to_string().starts_with("spec.options[example.com/min-version]: is no option"));
}

#[test]
fn only_services_are_targets() {
    let policy = read(&json!({
        "targetRefs": [
            {"group": "multicluster.x-k8s.io", "kind": "ServiceImport", "name": "reviews"},
            {"group": "", "kind": "Service", "name": "reviews", "sectionName": "https"},
            {"group": "", "kind": "Service", "name": "reviews", "sectionName": "https"},
        ],
        "validation": {"hostname": "a.example", "wellKnownCACertificates": "System"},
    }));
    let targets: Vec<_> = policy.targets.iter().map(|it| (it.index, it.section.as_deref())).collect();
    assert_eq!((targets, policy.invalid.len()), (vec![(1, Some("https"))], 0));
    assert!(matches!(written(&json!({"targetRefs": []})), Decoded::Refused(Some(_), _)));
}

#[test]
fn of_a_config_map_only_the_certificates_are_kept() {
    let read = |data: Value| match decode(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca", "namespace": "shop"}, "data": data,
    })) {
        Decoded::Object(Object::ConfigMap(it), _) => it.ca.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(read(json!({"ca.crt": "x", "other": "y"})), CaBundle::Text("x".into()));
    assert_eq!(read(json!({"other": "y"})), CaBundle::None);
    assert_eq!(read(json!({"ca.crt": "x".repeat(MAX_CA + 1)})), CaBundle::TooLarge(MAX_CA + 1));
}

//! BackendTLSPolicies: manifests in, what callers and authors are told out.

use super::*;
use crate::objects::NamespacedName;
use crate::testing::authority_pem;
use crate::translate::backend_tls_status;

const BASE: &str = "
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: 10.1.0.1, ports: [{name: https, port: 443}, {name: tcp, port: 9000}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: in, namespace: shop, annotations: {weir.dev/status: '{}'}}, spec: {serviceAccountName: db}, status: {podIP: 10.0.0.1}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}, ports: [{name: https, port: 8443}, {name: tcp, port: 9000}], endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]}
";

fn policy(name: &str, created: &str, target: &str, validation: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {name}, namespace: shop, generation: 4, creationTimestamp: {created}}}
spec:
  targetRefs: [{{group: '', kind: Service, name: db{target}}}]
  validation: {validation}
"
    )
}

fn config_map(name: &str, key: &str, text: &str) -> String {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop"}, "data": {key: text},
    });
    format!("\n---\n{object}\n")
}

fn show(index: &Index, policies: &[&str]) -> String {
    let mut text = String::new();
    for port in [443, 9000] {
        let backend = format!("shop/db:{port}").parse().unwrap();
        for it in crate::translate::endpoints(index, &backend, &trust_domain()).unwrap().endpoints {
            let how = match it.tls.as_deref() {
                None if it.identity.is_some() => "mutual TLS".to_owned(),
                None => "plaintext".to_owned(),
                Some(tls) => match &tls.terms {
                    Ok(terms) => {
                        let names: Vec<String> = terms.names.iter().map(ToString::to_string).collect();
                        let roots = match &terms.roots {
                            weir_core::backend_tls::TlsRoots::System => "the system's roots".to_owned(),
                            weir_core::backend_tls::TlsRoots::Certificates(ders) => format!("{} certificates", ders.len()),
                        };
                        format!("TLS as {} for {} by {roots} ({})", terms.server_name, names.join(", "), tls.policy)
                    }
                    Err(why) => format!("REFUSED {why} ({})", tls.policy),
                },
            };
            writeln!(text, "{} {how}", it.address).unwrap();
        }
    }
    for name in policies {
        let key = NamespacedName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() };
        for parent in backend_tls_status(index, &key).unwrap().parents {
            for it in parent.conditions {
                let Condition { kind, status, reason, message, observed_generation } = it;
                writeln!(text, "{name} {} {kind}={status} {reason} ({observed_generation}): {message}", parent.parent).unwrap();
            }
        }
    }
    text
}

#[test]
fn endpoints_outside_the_mesh_are_reached_by_tls() {
    let ca = config_map("ca", "ca.crt", &format!("{}{}", authority_pem(), authority_pem()));
    let refs = "{hostname: db.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}";
    let index = index(&format!("{BASE}{ca}{}", policy("db", "2026-01-01T00:00:00Z", "", refs)));
    assert_snapshot!(show(&index, &["db"]), @r#"
    10.0.0.1:8443 mutual TLS
    10.0.0.2:8443 TLS as db.example for db.example by 2 certificates (shop/db)
    10.0.0.1:9000 mutual TLS
    10.0.0.2:9000 TLS as db.example for db.example by 2 certificates (shop/db)
    db shop/db Accepted=True Accepted (4): in force for Service shop/db on port 443, 9000; endpoints with a sidecar are reached by the mesh's mutual TLS instead
    db shop/db ResolvedRefs=True ResolvedRefs (4): every CA certificate can be used
    "#);
    // What the server speaks is TLS, and what clients say inside of it is told by their first bytes.
    assert_snapshot!(show_service(&index, "shop/db", "shop"), @r"
    shop/db at [10.1.0.1]
      port 443 `https` Detect
      port 9000 `tcp` Opaque
      refers shop/db:443 shop/db:9000
    ");
}

#[test]
fn a_policy_for_the_port_goes_before_an_older_one_for_the_service() {
    let system = "{hostname: db.example, wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: 'spiffe://db'}]}";
    let all = [
        policy("whole", "2026-01-01T00:00:00Z", "", system),
        policy("port", "2026-01-03T00:00:00Z", ", sectionName: https", &system.replace("db.example", "port.example")),
        policy("younger", "2026-01-02T00:00:00Z", "", system),
        policy("nowhere", "2026-01-02T00:00:00Z", ", sectionName: http", system),
    ];
    let index = index(&format!("{BASE}{}", all.concat()));
    assert_snapshot!(show(&index, &["whole", "port", "younger", "nowhere"]), @r#"
    10.0.0.1:8443 mutual TLS
    10.0.0.2:8443 TLS as port.example for spiffe://db by the system's roots (shop/port)
    10.0.0.1:9000 mutual TLS
    10.0.0.2:9000 TLS as db.example for spiffe://db by the system's roots (shop/whole)
    whole shop/db Accepted=True Accepted (4): in force for Service shop/db on port 9000; BackendTLSPolicy shop/port has port 443; endpoints with a sidecar are reached by the mesh's mutual TLS instead
    whole shop/db ResolvedRefs=True ResolvedRefs (4): every CA certificate can be used
    port shop/db#https Accepted=True Accepted (4): in force for Service shop/db on port 443; endpoints with a sidecar are reached by the mesh's mutual TLS instead
    port shop/db#https ResolvedRefs=True ResolvedRefs (4): every CA certificate can be used
    younger shop/db Accepted=False Conflicted (4): BackendTLSPolicy shop/port has port 443; BackendTLSPolicy shop/whole has port 9000 of Service shop/db; one policy holds for a port
    younger shop/db ResolvedRefs=True ResolvedRefs (4): every CA certificate can be used
    nowhere shop/db#http Accepted=False TargetNotFound (4): shop/db#http names no port of Service shop/db, which has ports named `https`, `tcp`
    nowhere shop/db#http ResolvedRefs=True ResolvedRefs (4): every CA certificate can be used
    "#);
}

#[test]
fn without_a_valid_certificate_nobody_is_called() {
    let refs = |refs: &str| format!("{{hostname: db.example, caCertificateRefs: [{refs}]}}");
    let none = refs("{group: '', kind: ConfigMap, name: gone}, {group: '', kind: Secret, name: ca}");
    let damaged = refs("{group: '', kind: ConfigMap, name: damaged}, {group: '', kind: ConfigMap, name: other}");
    let cut: String = authority_pem().chars().take(100).collect();
    let all = [
        config_map("damaged", "ca.crt", &cut),
        config_map("other", "tls.crt", "x"),
        policy("none", "2026-01-01T00:00:00Z", ", sectionName: https", &none),
        policy("damaged", "2026-01-01T00:00:00Z", ", sectionName: tcp", &damaged),
    ];
    let index = index(&format!("{BASE}{}", all.concat()));
    assert_snapshot!(show(&index, &["none", "damaged"]), @r#"
    10.0.0.1:8443 mutual TLS
    10.0.0.2:8443 REFUSED there is no valid CA certificate: spec.validation.caCertificateRefs[0]: there is no ConfigMap shop/gone with a key `ca.crt`; spec.validation.caCertificateRefs[1]: Secret ca is not read; expected kind ConfigMap of the group "" (shop/none)
    10.0.0.1:9000 mutual TLS
    10.0.0.2:9000 REFUSED there is no valid CA certificate: spec.validation.caCertificateRefs[0]: `ca.crt` of ConfigMap shop/damaged: the CA bundle is not PEM text: the text ends in the middle of a CERTIFICATE block; spec.validation.caCertificateRefs[1]: there is no ConfigMap shop/other with a key `ca.crt` (shop/damaged)
    none shop/db#https Accepted=False NoValidCACertificate (4): there is no valid CA certificate: spec.validation.caCertificateRefs[0]: there is no ConfigMap shop/gone with a key `ca.crt`; spec.validation.caCertificateRefs[1]: Secret ca is not read; expected kind ConfigMap of the group ""; endpoints without a sidecar are not called
    none shop/db#https ResolvedRefs=False InvalidCACertificateRef (4): spec.validation.caCertificateRefs[0]: there is no ConfigMap shop/gone with a key `ca.crt`; spec.validation.caCertificateRefs[1]: Secret ca is not read; expected kind ConfigMap of the group ""
    damaged shop/db#tcp Accepted=False NoValidCACertificate (4): there is no valid CA certificate: spec.validation.caCertificateRefs[0]: `ca.crt` of ConfigMap shop/damaged: the CA bundle is not PEM text: the text ends in the middle of a CERTIFICATE block; spec.validation.caCertificateRefs[1]: there is no ConfigMap shop/other with a key `ca.crt`; endpoints without a sidecar are not called
    damaged shop/db#tcp ResolvedRefs=False InvalidCACertificateRef (4): spec.validation.caCertificateRefs[0]: `ca.crt` of ConfigMap shop/damaged: the CA bundle is not PEM text: the text ends in the middle of a CERTIFICATE block; spec.validation.caCertificateRefs[1]: there is no ConfigMap shop/other with a key `ca.crt`
    "#);
}

#[test]
fn some_certificates_are_enough_and_a_wrong_policy_is_not() {
    let some = "{hostname: db.example, caCertificateRefs: [{group: '', kind: Secret, name: ca}, {group: '', kind: ConfigMap, name: ca}]}";
    let all = [
        config_map("ca", "ca.crt", &authority_pem()),
        policy("some", "2026-01-01T00:00:00Z", ", sectionName: https", some),
        policy("wrong", "2026-01-01T00:00:00Z", ", sectionName: tcp", "{hostname: 10.0.0.1, wellKnownCACertificates: Mine}"),
    ];
    let index = index(&format!("{BASE}{}", all.concat()));
    assert_snapshot!(show(&index, &["some", "wrong"]), @r#"
    10.0.0.1:8443 mutual TLS
    10.0.0.2:8443 TLS as db.example for db.example by 1 certificates (shop/some)
    10.0.0.1:9000 mutual TLS
    10.0.0.2:9000 REFUSED spec.validation.hostname: expected a DNS name without a wildcard, and no address, found `10.0.0.1`; spec.validation.wellKnownCACertificates: expected System, found `Mine` (shop/wrong)
    some shop/db#https Accepted=True Accepted (4): in force for Service shop/db on port 443; endpoints with a sidecar are reached by the mesh's mutual TLS instead
    some shop/db#https ResolvedRefs=False InvalidKind (4): spec.validation.caCertificateRefs[0]: Secret ca is not read; expected kind ConfigMap of the group ""
    wrong shop/db#tcp Accepted=False Invalid (4): spec.validation.hostname: expected a DNS name without a wildcard, and no address, found `10.0.0.1`; spec.validation.wellKnownCACertificates: expected System, found `Mine`; endpoints without a sidecar are not called
    wrong shop/db#tcp ResolvedRefs=True ResolvedRefs (4): every CA certificate can be used
    "#);
}

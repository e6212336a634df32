//! Verdicts on the mesh's authority: its roots, and the bundle in every namespace.

use std::collections::{BTreeMap, BTreeSet};

use super::certificates::{Certificate, anywhere};
use super::facts::{After, Ground};
use super::finding::{Finding, count, names};
use super::moment;
use super::webhook::{now, of_pem};
use super::workloads::meshed_namespaces;

const TRUST: &str = "trust";
/// A root that ends sooner has not been renewed as it should.
const EARLY: i64 = 30 * 86_400;
/// Clocks may differ by this.
const SKEW: i64 = 60;

/// All of them.
pub(super) fn findings(ground: &Ground, after: &After) -> Vec<Finding> {
    let namespace = &ground.namespace;
    let logs = format!("kubectl logs deployment/weir-control-plane --namespace {namespace}");
    let bundles = match &after.bundles {
        Ok(bundles) => bundles,
        Err(failure) => {
            let what = "the trust bundles cannot be read";
            return vec![Finding::warning(
                TRUST,
                what,
                failure.to_string(),
                "kubectl auth can-i list configmaps --all-namespaces",
            )];
        }
    };
    let of: BTreeMap<&str, Vec<Certificate>> = bundles
        .iter()
        .map(|bundle| (bundle.metadata.namespace.as_str(), bundle.data.get("ca.crt").map(|pem| of_pem(pem)).unwrap_or_default()))
        .collect();
    let Some(reference) = of.get(namespace.as_str()).filter(|roots| !roots.is_empty()) else {
        let what = format!("the ConfigMap weir-trust-bundle in {namespace} is missing or has no certificate");
        let cause = "the control plane's leader writes it: it does not run, has no authority, or may not";
        return vec![Finding::failure(TRUST, what, cause, logs)];
    };
    let mut findings = roots(ground, reference);
    findings.extend(authority(ground, after, reference));
    findings.extend(everywhere(after, &of, reference, namespace));
    findings
}

fn roots(ground: &Ground, roots: &[Certificate]) -> Vec<Finding> {
    let (now, namespace) = (now(ground), &ground.namespace);
    let last = roots.iter().map(|root| root.ends).max().unwrap_or_default();
    let first = roots.iter().map(|root| root.begins).min().unwrap_or_default();
    let fix = format!(
        "a root of your own: renew the Secret weir-root in {namespace}. Weir's own: kubectl delete secret weir-ca --namespace {namespace} && \
         kubectl rollout restart deployment/weir-control-plane --namespace {namespace}, then restart all workloads of the mesh"
    );
    if last <= now {
        let what = format!("the root certificate ended at {}", moment::text(last));
        let cause = "no handshake of the mesh succeeds any more; the control plane renews its own root long before, if it runs";
        return vec![Finding::failure(TRUST, what, cause, fix)];
    }
    if first > now + SKEW {
        let what = format!("the root certificate is valid only from {} on", moment::text(first));
        return vec![Finding::failure(
            TRUST,
            what,
            "it was made on a machine whose clock is ahead",
            "set the nodes' clocks with NTP",
        )];
    }
    if last - now < EARLY {
        let fix = format!(
            "a root of your own: put its successor into the Secret weir-root in {namespace}. Weir's own: kubectl annotate secret weir-ca \
             --namespace {namespace} --overwrite weir.dev/rotate-root=\"$(date +%s)\""
        );
        let what = format!("the root certificate ends at {}", moment::text(last));
        let cause = "the control plane renews its own root before; one of your own it only reads";
        return vec![Finding::warning(TRUST, what, cause, fix)];
    }
    vec![Finding::good(TRUST, format!("{} valid until {}", count(roots.len(), "root certificate"), moment::text(last)))]
}

fn authority(ground: &Ground, after: &After, bundle: &[Certificate]) -> Vec<Finding> {
    let namespace = &ground.namespace;
    let secret = match &after.authority {
        Ok(secret) => secret,
        Err(failure) if failure.is_not_found() => {
            let cause = "the control plane makes it when it first starts: it never came so far, or somebody deleted it";
            let fix = format!("kubectl rollout restart deployment/weir-control-plane --namespace {namespace}");
            return vec![Finding::failure(TRUST, "the Secret weir-ca is missing", cause, fix)];
        }
        Err(failure) => {
            let what = "whether the bundle fits the authority cannot be seen";
            return vec![Finding::warning(TRUST, what, failure.to_string(), "kubectl auth can-i get secrets")];
        }
    };
    let roots: Vec<Certificate> = anywhere(secret.data.values()).into_iter().filter(|certificate| certificate.is_root).collect();
    if roots.is_empty() || roots.iter().any(|root| bundle.contains(root)) {
        return vec![Finding::good(TRUST, "the bundle is the authority's")];
    }
    let subjects: BTreeSet<&str> = roots.iter().map(|root| root.subject.as_str()).collect();
    let subjects = Vec::from_iter(subjects);
    let what = "the trust bundle has none of the authority's roots";
    let cause = format!(
        "sidecars refuse certificates by {}; the control plane's leader does not run, or may not write",
        names(&subjects)
    );
    let fix = format!("kubectl rollout restart deployment/weir-control-plane --namespace {namespace}");
    vec![Finding::failure(TRUST, what, cause, fix)]
}

fn everywhere(after: &After, of: &BTreeMap<&str, Vec<Certificate>>, reference: &[Certificate], mesh: &str) -> Vec<Finding> {
    let needed = meshed_namespaces(after);
    let (mut missing, mut different) = (Vec::new(), Vec::new());
    for namespace in &needed {
        match of.get(namespace.as_str()) {
            None => missing.push(namespace.clone()),
            Some(roots) if !(roots.iter().all(|root| reference.contains(root)) && roots.len() == reference.len()) => {
                different.push(namespace.clone());
            }
            Some(_) => {}
        }
    }
    let fix = format!("kubectl rollout restart deployment/weir-control-plane --namespace {mesh}");
    let mut findings = Vec::new();
    if !missing.is_empty() {
        let what = format!("the ConfigMap weir-trust-bundle is missing in {}", names(&missing));
        let cause = "new pods there wait in ContainerCreating; the control plane's leader writes it: it does not run, or may not";
        findings.push(Finding::failure(TRUST, what, cause, fix.clone()));
    }
    if !different.is_empty() {
        let what = format!("the ConfigMap weir-trust-bundle differs from the mesh's in {}", names(&different));
        let cause = "sidecars there trust somebody else; the control plane's leader repairs it: it does not run, or may not";
        findings.push(Finding::failure(TRUST, what, cause, fix));
    }
    if findings.is_empty() {
        findings
            .push(Finding::good(TRUST, format!("the bundle is in all of {} with sidecars", count(needed.len(), "namespace"))));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOW, after, authority as made, base64, bundle, ground, not_found, secret, whats};
    use super::*;

    const YEAR: i64 = 365 * 86_400;

    fn bad(after: &After) -> Vec<String> {
        whats(&findings(&ground(), after)).into_iter().filter(|line| !line.starts_with("Good")).collect()
    }

    #[test]
    fn good_trust_is_good() {
        assert_eq!(bad(&after()), Vec::<String>::new());
    }

    #[test]
    fn bundles_that_are_missing_or_differ() {
        let root = made("root", NOW + YEAR);
        let mut nowhere = after();
        nowhere.bundles = Ok(Vec::new());
        assert_eq!(bad(&nowhere), ["Failure the ConfigMap weir-trust-bundle in weir-system is missing or has no certificate"]);
        let mut missing = after();
        missing.bundles = Ok(vec![bundle("weir-system", &root)]);
        missing.authority = Ok(secret(&[("ca.crt", &base64(&root))]));
        assert_eq!(bad(&missing), ["Failure the ConfigMap weir-trust-bundle is missing in shop"]);
        let mut different = missing.clone();
        different.bundles = Ok(vec![bundle("weir-system", &root), bundle("shop", &made("other", NOW + YEAR))]);
        assert_eq!(bad(&different), ["Failure the ConfigMap weir-trust-bundle differs from the mesh's in shop"]);
    }

    #[test]
    fn roots_that_end_or_have_not_begun() {
        for (ends, expected) in [
            (NOW - 10, "Failure the root certificate ended at 2023-11-14T22:13:10Z"),
            (NOW + 86_400, "Warning the root certificate ends at 2023-11-15T22:13:20Z"),
        ] {
            let root = made("root", ends);
            let mut after = after();
            after.bundles = Ok(vec![bundle("weir-system", &root), bundle("shop", &root)]);
            after.authority = Ok(secret(&[("any", &base64(&root))]));
            assert_eq!(bad(&after), [expected]);
        }
    }

    #[test]
    fn an_authority_that_is_another_or_missing() {
        let mut other = after();
        other.authority = Ok(secret(&[("state", &base64(&format!("{{\"root\":{:?}}}", made("other", NOW + YEAR))))]));
        assert_eq!(bad(&other), ["Failure the trust bundle has none of the authority's roots"]);
        let mut missing = after();
        missing.authority = Err(not_found());
        assert_eq!(bad(&missing), ["Failure the Secret weir-ca is missing"]);
    }
}

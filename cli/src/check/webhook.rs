//! Verdicts on the injection: webhook configurations, their certificates, and whether a pod would get its sidecar.

use super::certificates::{Certificate, read, read_base64};
use super::facts::{After, Answer, Ground, Probe};
use super::finding::{Finding, count, names};
use super::moment;
use super::objects::{Secret, Webhooks};

const INJECTION: &str = "injection";

/// All of them.
pub(super) fn findings(ground: &Ground, after: &After) -> Vec<Finding> {
    let secret = certificates(&after.injector_secret);
    let mut findings = Vec::from_iter(own_secret(ground, &after.injector_secret));
    findings.extend(configuration(ground, "MutatingWebhookConfiguration", &after.mutating, &secret));
    // Validation can be turned off by a value; then there is none.
    if !after.validating.as_ref().is_err_and(crate::cluster::Failure::is_not_found) {
        findings.extend(configuration(ground, "ValidatingWebhookConfiguration", &after.validating, &secret));
    }
    let unready = after.injector.as_ref().is_ok_and(|injector| injector.status.ready_replicas == 0);
    findings.extend(after.probes.iter().map(|one| probe(ground, one, unready)));
    findings
}

/// The authority of the Secret; none where it could not be read.
fn certificates(secret: &Answer<Secret>) -> Answer<Vec<Certificate>> {
    secret
        .as_ref()
        .map_err(Clone::clone)
        .map(|secret| secret.data.get("ca.crt").map(|text| read_base64(text)).unwrap_or_default())
}

fn configuration(ground: &Ground, kind: &str, answer: &Answer<Webhooks>, secret: &Answer<Vec<Certificate>>) -> Vec<Finding> {
    let namespace = &ground.namespace;
    let apply = format!("weir install --namespace {namespace} | kubectl apply -f -");
    let webhooks = match answer {
        Ok(webhooks) => webhooks,
        Err(failure) if failure.is_not_found() => {
            let cause = "without it no pod gets a sidecar";
            return vec![Finding::failure(INJECTION, format!("the {kind} weir-injector is missing"), cause, apply)];
        }
        Err(failure) => {
            return vec![Finding::warning(
                INJECTION,
                format!("the {kind} weir-injector cannot be read"),
                failure.to_string(),
                "",
            )];
        }
    };
    let repair = format!("kubectl rollout restart deployment/weir-injector --namespace {namespace}");
    let now = now(ground);
    let (mut other, mut empty, mut ended, mut wrong) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for webhook in &webhooks.webhooks {
        let name = webhook.name.as_str();
        let service = &webhook.client_config.service;
        let bundle = read_base64(&webhook.client_config.ca_bundle);
        if service.namespace != *namespace || service.name != "weir-injector" {
            other.push(name);
        } else if bundle.is_empty() {
            empty.push(name);
        } else if bundle.iter().all(|one| one.ends <= now) {
            ended.push(name);
        } else if secret.as_ref().is_ok_and(|secret| !secret.is_empty() && !secret.iter().any(|one| bundle.contains(one))) {
            wrong.push(name);
        }
    }
    let mut findings = Vec::new();
    let mut add = |webhooks: &[&str], what: &str, cause: &str, fix: &str| {
        if !webhooks.is_empty() {
            let what = format!("the {kind} has {what}: {}", names(webhooks));
            findings.push(Finding::failure(INJECTION, what, cause, fix));
        }
    };
    add(&other, "webhooks of another installation", "they do not call weir-injector in this namespace", &apply);
    add(&empty, "no caBundle", "the injector has not written it: it does not run, or may not", &repair);
    add(&ended, "a caBundle that has expired", "the injector renews it long before: it does not run, or may not", &repair);
    let cause = "API servers take the injector for somebody else; something wrote the configuration after the injector";
    add(&wrong, "a caBundle that is not that of the Secret weir-injector-tls", cause, &repair);
    if findings.is_empty() {
        findings.push(Finding::good(
            INJECTION,
            format!("the {kind} is there, and the caBundle of {} right", count(webhooks.webhooks.len(), "webhook")),
        ));
    }
    findings
}

fn own_secret(ground: &Ground, secret: &Answer<Secret>) -> Option<Finding> {
    let repair = format!("kubectl rollout restart deployment/weir-injector --namespace {}", ground.namespace);
    match secret {
        Ok(_) => serving(ground, secret),
        Err(failure) if failure.is_not_found() => {
            let cause = "the injector makes it when it starts: it does not run, or may not";
            Some(Finding::failure(INJECTION, "the Secret weir-injector-tls is missing", cause, repair))
        }
        Err(failure) => {
            let what = "whether the webhooks have the right caBundle cannot be seen";
            Some(Finding::warning(INJECTION, what, failure.to_string(), "kubectl auth can-i get secrets"))
        }
    }
}

/// The API server's clock, which counts for what it verifies.
pub(super) fn now(ground: &Ground) -> i64 {
    ground.server.as_ref().ok().and_then(|server| server.date).unwrap_or(ground.now)
}

fn probe(ground: &Ground, probe: &Probe, injector_is_down: bool) -> Finding {
    let (namespace, mesh) = (&probe.namespace, &ground.namespace);
    let failure = match &probe.answer {
        Ok(pod) if pod.spec.containers.iter().chain(&pod.spec.init_containers).any(|it| it.name == "weir-proxy") => {
            return Finding::good(INJECTION, format!("a pod in namespace {namespace} would get a sidecar"));
        }
        Ok(_) => {
            let cause = "the API server did not ask the injector, or ignored that it did not answer";
            let fix = format!("kubectl logs deployment/weir-injector --namespace {mesh}");
            return Finding::failure(INJECTION, format!("a pod in namespace {namespace} would get no sidecar"), cause, fix);
        }
        Err(failure) => failure,
    };
    let what = format!("no pod with a sidecar can be created in namespace {namespace}");
    let said = &failure.text;
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["violates PodSecurity"]) {
        let fix = format!("kubectl label namespace {namespace} --overwrite pod-security.kubernetes.io/enforce=privileged");
        return Finding::failure(INJECTION, what, format!("weir-init needs NET_ADMIN, which the namespace forbids: {said}"), fix);
    }
    if !has(&["webhook"]) {
        return Finding::warning(
            INJECTION,
            format!("whether pods get a sidecar cannot be tried in namespace {namespace}"),
            said,
            "",
        );
    }
    let logs = format!("kubectl logs deployment/weir-injector --namespace {mesh}");
    let (cause, fix) = if has(&["x509", "certificate"]) {
        (
            "the caBundle does not fit the injector's certificate",
            format!("kubectl rollout restart deployment/weir-injector --namespace {mesh}"),
        )
    } else if injector_is_down || has(&["no endpoints available", "connection refused", "network is unreachable"]) {
        ("the injector does not run", format!("kubectl get pods --namespace {mesh}; {logs}"))
    } else if has(&["not found"]) {
        ("the injector's Service is missing", format!("weir install --namespace {mesh} | kubectl apply -f -"))
    } else if has(&["deadline", "timeout", "no route", "i/o"]) {
        (
            "the API server does not reach the injector: a firewall between control plane and nodes (port 15443), or a NetworkPolicy",
            logs,
        )
    } else {
        ("the injector refuses it", logs)
    };
    Finding::failure(INJECTION, what, format!("{cause}: {said}"), fix)
}

/// The injector's own certificate, if it has ended.
fn serving(ground: &Ground, secret: &Answer<Secret>) -> Option<Finding> {
    let text = secret.as_ref().ok()?.data.get("tls.crt")?;
    let leaf = read_base64(text).into_iter().next()?;
    (leaf.ends <= now(ground)).then(|| {
        let what = format!("the injector's certificate ended at {}", moment::text(leaf.ends));
        let fix = format!("kubectl delete secret weir-injector-tls --namespace {}", ground.namespace);
        Finding::failure(INJECTION, what, "the injector renews it long before: it does not run, or may not", fix)
    })
}

/// The certificates of a PEM text.
pub(super) fn of_pem(text: &str) -> Vec<Certificate> {
    read(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOW, after, authority, base64, ground, not_found, pod, probe as tried, secret, webhooks, whats};
    use super::*;

    fn bad(after: &After) -> Vec<String> {
        whats(&findings(&ground(), after)).into_iter().filter(|line| !line.starts_with("Good")).collect()
    }

    #[test]
    fn a_good_injection_is_good() {
        assert_eq!(bad(&after()), Vec::<String>::new());
    }

    #[test]
    fn configurations() {
        let mut missing = after();
        missing.mutating = Err(not_found());
        assert_eq!(bad(&missing), ["Failure the MutatingWebhookConfiguration weir-injector is missing"]);
        let mut empty = after();
        empty.mutating = Ok(webhooks("weir-system", ""));
        assert_eq!(bad(&empty), ["Failure the MutatingWebhookConfiguration has no caBundle: namespace.inject.weir.dev"]);
        let mut wrong = after();
        wrong.mutating = Ok(webhooks("weir-system", &authority("other", NOW + 1000)));
        let what = "a caBundle that is not that of the Secret weir-injector-tls: namespace.inject.weir.dev";
        assert_eq!(bad(&wrong), [format!("Failure the MutatingWebhookConfiguration has {what}")]);
        let mut expired = after();
        expired.mutating = Ok(webhooks("weir-system", &authority("old", NOW - 1000)));
        let what = "a caBundle that has expired: namespace.inject.weir.dev";
        assert_eq!(bad(&expired), [format!("Failure the MutatingWebhookConfiguration has {what}")]);
        let mut other = after();
        other.mutating = Ok(webhooks("mesh", &authority("root", NOW + 1000)));
        assert_eq!(
            bad(&other),
            ["Failure the MutatingWebhookConfiguration has webhooks of another installation: namespace.inject.weir.dev"]
        );
        let mut no_secret = after();
        no_secret.injector_secret = Err(not_found());
        assert!(bad(&no_secret).contains(&"Failure the Secret weir-injector-tls is missing".to_owned()));
        let mut off = after();
        off.validating = Err(not_found());
        assert_eq!(bad(&off), Vec::<String>::new());
    }

    #[test]
    fn an_ended_serving_certificate() {
        let mut after = after();
        after.injector_secret = Ok(secret(&[("tls.crt", &base64(&authority("leaf", NOW - 1)))]));
        assert!(serving(&ground(), &after.injector_secret).unwrap().what.starts_with("the injector's certificate ended"));
    }

    #[test]
    fn what_the_api_server_says_of_a_pod_that_it_does_not_create() {
        for (said, cause) in [
            ("failed calling webhook \"x\": x509: certificate signed by unknown authority", "the caBundle does not fit"),
            ("failed calling webhook \"x\": no endpoints available for service \"weir-injector\"", "the injector does not run"),
            ("failed calling webhook \"x\": context deadline exceeded", "the API server does not reach the injector"),
            ("failed calling webhook \"x\": service \"weir-injector\" not found", "the injector's Service is missing"),
            ("admission webhook \"x\" denied the request: no", "the injector refuses it"),
            ("pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\"", "weir-init needs NET_ADMIN"),
        ] {
            let finding = probe(&ground(), &tried("shop", Err(said)), false);
            assert_eq!(whats(std::slice::from_ref(&finding)), ["Failure no pod with a sidecar can be created in namespace shop"]);
            assert!(finding.cause.as_deref().unwrap().starts_with(cause), "{finding:?}");
            assert!(finding.fix.is_some());
        }
        let unknown = probe(&ground(), &tried("shop", Err("exceeded quota")), false);
        assert_eq!(whats(&[unknown]), ["Warning whether pods get a sidecar cannot be tried in namespace shop"]);
        let plain = probe(&ground(), &tried("shop", Ok(pod("{}"))), false);
        assert_eq!(whats(&[plain]), ["Failure a pod in namespace shop would get no sidecar"]);
    }
}

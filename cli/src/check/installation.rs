//! Verdicts on what was installed: Deployments, their pods, and what they may do.

use std::collections::BTreeMap;

use super::facts::{Access, After, Answer, Ground};
use super::finding::{Finding, count, names};
use super::objects::{ContainerStatus, Deployment, Event, Pod};
use crate::cluster::one_line;

const INSTALLATION: &str = "installation";
const RIGHTS: &str = "rights of the mesh";

/// All of them. The second part says whether anything is installed.
pub(super) fn findings(ground: &Ground, after: &After) -> (Vec<Finding>, bool) {
    let namespace = &ground.namespace;
    let is_absent = |answer: &Answer<Deployment>| answer.as_ref().is_err_and(crate::cluster::Failure::is_not_found);
    if is_absent(&after.control_plane) && is_absent(&after.injector) {
        let what = format!("Weir is not installed in namespace {namespace}");
        let fix = format!("weir install --namespace {namespace} | kubectl apply -f -, or --namespace with the one that it is in");
        return (
            vec![Finding::failure(INSTALLATION, what, "there are no Deployments weir-control-plane and weir-injector", fix)],
            false,
        );
    }
    let mut findings = Vec::new();
    for (name, answer) in [("weir-control-plane", &after.control_plane), ("weir-injector", &after.injector)] {
        findings.extend(deployment(namespace, name, answer, after));
    }
    findings.extend(versions(after));
    findings.extend(rights(namespace, &after.access));
    (findings, true)
}

fn deployment(namespace: &str, name: &str, answer: &Answer<Deployment>, after: &After) -> Vec<Finding> {
    let deployment = match answer {
        Ok(deployment) => deployment,
        Err(failure) => {
            let fix = format!("weir install --namespace {namespace} | kubectl apply -f -");
            return vec![Finding::failure(
                INSTALLATION,
                format!("the Deployment {name} cannot be read"),
                failure.to_string(),
                fix,
            )];
        }
    };
    let (wanted, ready) = (deployment.spec.replicas, deployment.status.ready_replicas);
    let of_it = |pod: &&Pod| pod.metadata.labels.get("app.kubernetes.io/name").is_some_and(|it| it == name);
    let pods = after.mesh_pods.iter().flatten().filter(of_it).filter(|pod| pod.is_alive() && !pod.is_ready());
    // Pods of one Deployment mostly have the same trouble.
    let troubles: BTreeMap<String, &str> = pods.map(|pod| (trouble(pod, &after.events), pod.metadata.name.as_str())).collect();
    let troubles: Vec<String> = troubles.into_iter().map(|(trouble, pod)| format!("{pod}: {trouble}")).collect();
    let is_rolled_out =
        deployment.status.updated_replicas >= wanted && deployment.status.observed_generation >= deployment.metadata.generation;
    if wanted == 0 {
        let fix = format!("kubectl scale deployment/{name} --namespace {namespace} --replicas=2");
        return vec![Finding::failure(INSTALLATION, format!("{name} is scaled to 0"), "", fix)];
    }
    let cause = if troubles.is_empty() { condition(deployment) } else { names(&troubles) };
    let fix = format!("kubectl logs deployment/{name} --namespace {namespace}; kubectl describe pods --namespace {namespace}");
    let what = format!("{name}: {ready} of {} ready", count(usize::try_from(wanted).unwrap_or(usize::MAX), "pod"));
    if ready == 0 {
        return vec![Finding::failure(INSTALLATION, what, cause, fix)];
    }
    if ready < wanted || !is_rolled_out {
        let what = if is_rolled_out { what } else { format!("{what}, and a rollout is not done") };
        return vec![Finding::warning(INSTALLATION, what, cause, fix)];
    }
    vec![Finding::good(INSTALLATION, what)]
}

fn condition(deployment: &Deployment) -> String {
    let bad = deployment.status.conditions.iter().find(|condition| match condition.r#type.as_str() {
        "ReplicaFailure" => condition.status == "True",
        "Progressing" => condition.status == "False",
        _ => false,
    });
    bad.map(|condition| one_line(&condition.message)).unwrap_or_default()
}

/// Why a pod is not ready, by who knows best: its containers, events, the scheduler.
fn trouble(pod: &Pod, events: &Answer<Vec<Event>>) -> String {
    let mut containers = pod.status.init_container_statuses.iter().chain(&pod.status.container_statuses);
    let container = containers.find_map(ContainerStatus::trouble);
    let of_it = |event: &&Event| event.involved_object.kind == "Pod" && event.involved_object.name == pod.metadata.name;
    let last = events.iter().flatten().filter(of_it).max_by_key(|event| &event.last_timestamp);
    let event = last.map(|event| one_line(&format!("{} {}", event.reason, event.message)));
    let scheduled = pod.status.conditions.iter().find(|it| it.r#type == "PodScheduled" && it.status == "False");
    // That a container is being created says nothing about why that takes so long.
    let told = container.filter(|trouble| trouble != "ContainerCreating");
    told.or(event).or_else(|| scheduled.map(|it| one_line(&it.message))).unwrap_or_else(|| "it is not ready yet".to_owned())
}

fn versions(after: &After) -> Vec<Finding> {
    let (Ok(control_plane), Ok(injector)) = (&after.control_plane, &after.injector) else { return Vec::new() };
    let version = |deployment: &Deployment| {
        deployment.metadata.labels.get("app.kubernetes.io/version").cloned().unwrap_or_else(|| "unknown".to_owned())
    };
    let (theirs, injectors) = (version(control_plane), version(injector));
    if theirs != injectors {
        let what = format!("the control plane is version {theirs}, the injector {injectors}");
        return vec![Finding::failure(INSTALLATION, what, "an upgrade stopped half-way", "weir install | kubectl apply -f -")];
    }
    if theirs != after.version {
        let what = format!("version {theirs} is installed, and this command is {}", after.version);
        return vec![Finding::warning(
            INSTALLATION,
            what,
            "",
            "use the command of the same version, or upgrade: weir install | kubectl apply -f -",
        )];
    }
    vec![Finding::good(INSTALLATION, format!("version {theirs}, as this command"))]
}

fn rights(namespace: &str, access: &Answer<Vec<Access>>) -> Vec<Finding> {
    let access = match access {
        Ok(access) => access,
        Err(failure) => {
            let fix = "kubectl auth can-i create subjectaccessreviews.authorization.k8s.io";
            return vec![Finding::warning(RIGHTS, "what the mesh may do cannot be seen", failure.to_string(), fix)];
        }
    };
    let mut findings = Vec::new();
    for account in ["weir-control-plane", "weir-injector"] {
        let of_it = || access.iter().filter(|access| access.service_account == account);
        let mut denied: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for access in of_it().filter(|access| !access.is_allowed) {
            denied.entry(object(access)).or_default().push(&access.verb);
        }
        let denied: Vec<String> = denied.into_iter().map(|(object, verbs)| format!("{} {object}", verbs.join("/"))).collect();
        findings.push(if denied.is_empty() {
            Finding::good(RIGHTS, format!("{account} may do what it must ({} questions)", of_it().count()))
        } else {
            let cause = "its roles or their bindings were changed or are missing";
            let fix = format!("weir install --namespace {namespace} | kubectl apply -f -");
            Finding::failure(RIGHTS, format!("{account} may not {}", names(&denied)), cause, fix)
        });
    }
    findings
}

/// `endpointslices.discovery.k8s.io`, `secrets/weir-ca`
fn object(access: &Access) -> String {
    let dot = if access.group.is_empty() { "" } else { "." };
    let name = if access.name.is_empty() { String::new() } else { format!("/{}", access.name) };
    format!("{}{dot}{}{name}", access.resource, access.group)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{after, deployment, ground, not_found, pod, whats};
    use super::*;

    #[test]
    fn nothing_installed_is_one_finding() {
        let mut after = after();
        (after.control_plane, after.injector) = (Err(not_found()), Err(not_found()));
        let (found, installed) = findings(&ground(), &after);
        assert_eq!(whats(&found), ["Failure Weir is not installed in namespace weir-system"]);
        assert!(!installed);
    }

    #[test]
    fn deployments_and_their_pods() {
        let waiting = pod(r#"{"metadata":{"name":"weir-injector-1","labels":{"app.kubernetes.io/name":"weir-injector"}},
            "status":{"phase":"Pending","containerStatuses":[{"name":"weir-injector",
            "state":{"waiting":{"reason":"ImagePullBackOff","message":"no such image"}}}]}}"#);
        for (ready, wanted, expected, cause) in [
            (2, 2, "Good weir-injector: 2 of 2 pods ready", None),
            (1, 2, "Warning weir-injector: 1 of 2 pods ready", Some("weir-injector-1: ImagePullBackOff no such image")),
            (0, 2, "Failure weir-injector: 0 of 2 pods ready", Some("weir-injector-1: ImagePullBackOff no such image")),
            (0, 0, "Failure weir-injector is scaled to 0", None),
        ] {
            let mut after = after();
            after.injector = Ok(deployment("weir-injector", wanted, ready));
            after.mesh_pods = Ok(vec![waiting.clone()]);
            let (found, _) = findings(&ground(), &after);
            let injector = found.iter().find(|finding| finding.what.starts_with("weir-injector")).unwrap();
            assert_eq!(whats(std::slice::from_ref(injector)), [expected]);
            assert_eq!(injector.cause.as_deref(), cause);
        }
    }

    #[test]
    fn versions_that_differ() {
        let mut after = after();
        after.version = "0.2.0".into();
        assert_eq!(whats(&versions(&after)), ["Warning version 0.1.0 is installed, and this command is 0.2.0"]);
        let mut old = deployment("weir-injector", 2, 2);
        old.metadata.labels.insert("app.kubernetes.io/version".into(), "0.0.9".into());
        after.injector = Ok(old);
        assert_eq!(whats(&versions(&after)), ["Failure the control plane is version 0.1.0, the injector 0.0.9"]);
    }

    #[test]
    fn rights_that_are_missing_are_named() {
        let mut after = after();
        let denied = Access {
            service_account: "weir-control-plane".into(),
            verb: "list".into(),
            group: "discovery.k8s.io".into(),
            resource: "endpointslices".into(),
            name: String::new(),
            namespace: String::new(),
            is_allowed: false,
        };
        after.access = Ok(vec![denied.clone(), Access { verb: "watch".into(), ..denied }]);
        assert_eq!(
            whats(&rights("weir-system", &after.access)),
            [
                "Failure weir-control-plane may not list/watch endpointslices.discovery.k8s.io",
                "Good weir-injector may do what it must (0 questions)"
            ]
        );
    }
}

//! Verdicts on pods of the mesh, and on those that should be in it.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{After, Ground};
use super::finding::{Finding, count, names};
use super::objects::{Meta, Object, Pod};

const WORKLOADS: &str = "workloads";
/// The cluster's own, which never get sidecars.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// What `weir.dev/inject` is called, as a label and as an annotation.
const INJECT: &str = "weir.dev/inject";

/// All of them.
pub(super) fn findings(ground: &Ground, after: &After) -> Vec<Finding> {
    let (namespaces, pods) = match (&after.namespaces, &after.pods) {
        (Ok(namespaces), Ok(pods)) => (namespaces, pods),
        (Err(failure), _) | (_, Err(failure)) => {
            return vec![Finding::warning(
                WORKLOADS,
                "namespaces and pods cannot be listed",
                failure.to_string(),
                "kubectl auth can-i list pods --all-namespaces",
            )];
        }
    };
    let sidecars = pods.iter().filter(|pod| pod.is_alive() && pod.has_sidecar()).count();
    let mut findings = Vec::new();
    findings.extend(forbidden(after, namespaces, pods));
    findings.extend(without(&ground.namespace, namespaces, pods));
    findings.extend(pods.iter().filter(|pod| pod.is_alive() && pod.has_sidecar()).filter_map(broken));
    findings.extend(old(after, pods));
    if findings.is_empty() {
        findings.push(Finding::good(
            WORKLOADS,
            format!("{} with a sidecar, and none that should have one and has not", count(sidecars, "pod")),
        ));
    }
    findings
}

/// Namespaces that have pods with sidecars, or ask for them.
pub(super) fn meshed_namespaces(after: &After) -> BTreeSet<String> {
    let pods = after.pods.iter().flatten().filter(|pod| pod.is_alive() && pod.has_sidecar());
    let labelled = after.namespaces.iter().flatten().filter(|namespace| asks(&namespace.metadata));
    let labelled = labelled.map(|namespace| namespace.metadata.name.clone());
    pods.map(|pod| pod.metadata.namespace.clone()).chain(labelled).collect()
}

/// Whether a namespace asks for sidecars and can have them.
pub(super) fn asks(namespace: &Meta) -> bool {
    says(namespace) == Some("enabled") && namespace.deletion_timestamp.is_empty() && !SYSTEM.contains(&namespace.name.as_str())
}

/// What an object itself says about injection.
fn says(meta: &Meta) -> Option<&str> {
    meta.labels.get(INJECT).or_else(|| meta.annotations.get(INJECT)).map(String::as_str)
}

/// Namespaces whose Pod Security forbids what weir-init needs.
fn forbidden(after: &After, namespaces: &[Object], pods: &[Pod]) -> Vec<Finding> {
    let level = |meta: &Meta| meta.labels.get("pod-security.kubernetes.io/enforce").cloned().unwrap_or_default();
    // Where there are pods with sidecars, somebody made an exemption.
    let works = |name: &str| pods.iter().any(|pod| pod.metadata.namespace == name && pod.has_sidecar() && pod.is_alive());
    // Where the creation of a pod was tried, that says more.
    let tried = |name: &str| after.probes.iter().any(|probe| probe.namespace == name);
    let asking = namespaces.iter().map(|namespace| &namespace.metadata).filter(|meta| asks(meta));
    let strict = asking.filter(|meta| !works(&meta.name) && !tried(&meta.name));
    strict
        .filter(|meta| matches!(level(meta).as_str(), "baseline" | "restricted"))
        .map(|meta| {
            let what = format!("namespace {} asks for sidecars and forbids them (Pod Security {})", meta.name, level(meta));
            let cause = "weir-init needs NET_ADMIN, which only the level privileged allows";
            let fix = format!("kubectl label namespace {} --overwrite pod-security.kubernetes.io/enforce=privileged", meta.name);
            Finding::failure(WORKLOADS, what, cause, fix)
        })
        .collect()
}

/// Pods that should have a sidecar and have none, by workload.
fn without(mesh: &str, namespaces: &[Object], pods: &[Pod]) -> Vec<Finding> {
    let enabled: BTreeSet<&str> = namespaces
        .iter()
        .filter(|namespace| asks(&namespace.metadata))
        .map(|namespace| namespace.metadata.name.as_str())
        .collect();
    let mut workloads: BTreeMap<(String, String), usize> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.is_alive() && !pod.has_sidecar() && !pod.spec.host_network) {
        let namespace = pod.metadata.namespace.as_str();
        let wanted = match says(&pod.metadata) {
            Some(word) => word == "enabled",
            None => enabled.contains(namespace),
        };
        if wanted && namespace != mesh && !SYSTEM.contains(&namespace) {
            *workloads.entry((namespace.to_owned(), pod.workload())).or_default() += 1;
        }
    }
    let cause = "they were created before the label, or while the injector did not answer";
    workloads
        .into_iter()
        .map(|((namespace, workload), number)| {
            let fix = if workload.starts_with("pod/") || workload.starts_with("job/") {
                format!("delete {workload} in {namespace} and create it again")
            } else {
                format!("kubectl rollout restart {workload} --namespace {namespace}")
            };
            Finding::warning(
                WORKLOADS,
                format!("{} of {workload} in {namespace} without a sidecar", count(number, "pod")),
                cause,
                fix,
            )
        })
        .collect()
}

/// A pod whose redirection or sidecar does not come up.
fn broken(pod: &Pod) -> Option<Finding> {
    let (name, namespace) = (&pod.metadata.name, &pod.metadata.namespace);
    let logs = |container: &str| format!("kubectl logs {name} --namespace {namespace} --container {container}");
    if let Some(init) = pod.container("weir-init")
        && let Some(trouble) = init.trouble()
    {
        let what = format!("weir-init of {} does not succeed, so the pod does not start", pod.full_name());
        return Some(Finding::failure(WORKLOADS, what, trouble, logs("weir-init")));
    }
    let proxy = pod.container("weir-proxy").filter(|proxy| !proxy.ready)?;
    let trouble = proxy.trouble()?;
    let what = format!("the sidecar of {} is not ready", pod.full_name());
    Some(Finding::failure(WORKLOADS, what, trouble, logs("weir-proxy")))
}

/// Sidecars of another version than the injector's.
fn old(after: &After, pods: &[Pod]) -> Vec<Finding> {
    let Ok(injector) = &after.injector else { return Vec::new() };
    let Some(current) = injector.metadata.labels.get("app.kubernetes.io/version") else { return Vec::new() };
    let mut others: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.is_alive()) {
        let Some(status) = pod.metadata.annotations.get("weir.dev/status") else { continue };
        let version = serde_json::from_str::<serde_json::Value>(status).ok();
        let version = version.and_then(|status| status.get("version")?.as_str().map(str::to_owned));
        if let Some(version) = version.filter(|version| version != current) {
            others.entry(version).or_default().push(format!("{} in {}", pod.workload(), pod.metadata.namespace));
        }
    }
    others
        .into_iter()
        .map(|(version, workloads)| {
            let distinct: Vec<String> = workloads.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect();
            let what = format!(
                "{} of version {version}, while {current} is installed: {}",
                count(workloads.len(), "sidecar"),
                names(&distinct)
            );
            let cause = "sidecars are replaced when their pods are; versions next to each other work together";
            Finding::warning(WORKLOADS, what, cause, "kubectl rollout restart WORKLOAD --namespace NAMESPACE")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{after, ground, namespace, pod, whats};
    use super::*;

    fn bad(after: &After) -> Vec<String> {
        whats(&findings(&ground(), after)).into_iter().filter(|line| !line.starts_with("Good")).collect()
    }

    fn plain(metadata: &str) -> Pod {
        pod(&format!(r#"{{"metadata":{{"name":"web-1",{metadata}}},"status":{{"phase":"Running"}}}}"#))
    }

    #[test]
    fn good_workloads_are_good() {
        assert_eq!(bad(&after()), Vec::<String>::new());
    }

    #[test]
    fn pods_without_a_sidecar_are_named_by_workload() {
        let owned =
            r#""namespace":"shop","labels":{"pod-template-hash":"7f"},"ownerReferences":[{"kind":"ReplicaSet","name":"web-7f"}]"#;
        for (pod, expected) in [
            (plain(owned), Some("Warning 1 pod of deployment/web in shop without a sidecar")),
            (plain(r#""namespace":"shop""#), Some("Warning 1 pod of pod/web-1 in shop without a sidecar")),
            (plain(r#""namespace":"shop","labels":{"weir.dev/inject":"disabled"}"#), None),
            (plain(r#""namespace":"shop","deletionTimestamp":"2023-11-14T22:13:20Z""#), None),
            (plain(r#""namespace":"other""#), None),
            (
                plain(r#""namespace":"other","annotations":{"weir.dev/inject":"enabled"}"#),
                Some("Warning 1 pod of pod/web-1 in other without a sidecar"),
            ),
            (plain(r#""namespace":"kube-system","labels":{"weir.dev/inject":"enabled"}"#), None),
            (plain(r#""namespace":"weir-system","labels":{"weir.dev/inject":"enabled"}"#), None),
        ] {
            let mut after = after();
            after.pods = Ok(vec![pod]);
            assert_eq!(bad(&after), Vec::from_iter(expected.map(str::to_owned)));
        }
    }

    #[test]
    fn init_containers_and_sidecars_that_fail() {
        for (status, expected, cause) in [
            (
                r#"[{"name":"weir-init","state":{"terminated":{"exitCode":1,"message":"no NET_ADMIN\n"}}}]"#,
                "Failure weir-init of shop/web-1 does not succeed, so the pod does not start",
                "it ended with 1: no NET_ADMIN",
            ),
            (
                r#"[{"name":"weir-init","state":{"waiting":{"reason":"CrashLoopBackOff"}},"lastState":{"terminated":{"exitCode":2,"message":"x"}}}]"#,
                "Failure weir-init of shop/web-1 does not succeed, so the pod does not start",
                "it ended with 2: x",
            ),
            (
                r#"[{"name":"weir-proxy","ready":false,"state":{"waiting":{"reason":"ErrImagePull","message":"none"}}}]"#,
                "Failure the sidecar of shop/web-1 is not ready",
                "ErrImagePull none",
            ),
        ] {
            let text = r#"{"metadata":{"name":"web-1","namespace":"shop","annotations":{"weir.dev/status":"{}"}},"status":{"initContainerStatuses":STATUS}}"#;
            let mut after = after();
            after.pods = Ok(vec![pod(&text.replace("STATUS", status))]);
            let found = findings(&ground(), &after);
            assert_eq!(whats(&found), [expected]);
            assert_eq!(found[0].cause.as_deref(), Some(cause));
        }
    }

    #[test]
    fn sidecars_of_another_version() {
        let mut after = after();
        after.pods = Ok(vec![plain(r#""namespace":"shop","annotations":{"weir.dev/status":"{\"version\":\"0.0.9\"}"}"#)]);
        assert_eq!(bad(&after), ["Warning 1 sidecar of version 0.0.9, while 0.1.0 is installed: pod/web-1 in shop"]);
    }

    #[test]
    fn namespaces_that_forbid_what_they_ask_for() {
        let mut after = after();
        after.namespaces =
            Ok(vec![namespace("shop", &[("weir.dev/inject", "enabled"), ("pod-security.kubernetes.io/enforce", "baseline")])]);
        (after.pods, after.probes) = (Ok(Vec::new()), Vec::new());
        assert_eq!(bad(&after), ["Failure namespace shop asks for sidecars and forbids them (Pod Security baseline)"]);
    }
}

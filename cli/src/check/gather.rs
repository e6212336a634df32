//! Asks the cluster what the verdicts are about. Nothing is decided here but what to ask.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::facts::{Access, After, Answer, Before, Existing, Ground, Permission, Probe, Replica, Server};
use super::objects::{Object, Pod, Proxy, Route};
use super::workloads::asks;
use crate::cluster::kinds::Kind;
use crate::cluster::{Cluster, Failure};
use crate::install::chart::{self, Object as Installed};

/// Questions that are under way at once.
const AT_ONCE: usize = 16;
/// Namespaces in which the creation of a pod is tried.
const MAX_PROBES: usize = 10;
/// What a proxy may take to answer a response. One that takes longer is behind.
const PATIENCE: Duration = Duration::from_secs(3);
const CONTROL_PLANE_PORT: u16 = 15411;
/// What has `weir-` names without being in the chart: made while the mesh runs.
const MADE_WHILE_RUNNING: [(&str, &str); 3] =
    [("Secret", "weir-ca"), ("Secret", "weir-injector-tls"), ("Lease", "weir-control-plane")];

/// What counts before and after installing.
pub(super) async fn ground(cluster: &Cluster, namespace: &str) -> Ground {
    let server = cluster.get_with_date("/version").await.map(|(version, date)| Server {
        address: cluster.server.trim_end_matches('/').to_owned(),
        version: version.get("gitVersion").and_then(Value::as_str).unwrap_or("of an unknown version").to_owned(),
        date: date.map(seconds),
    });
    let now = seconds(SystemTime::now());
    let namespace = namespace.to_owned();
    if let Err(failure) = server {
        let crds = Err(failure.clone());
        return Ground { namespace, now, server: Err(failure.clone()), crds, node_leases: Err(failure) };
    }
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let (crds, node_leases) = tokio::join!(list(cluster, crds), list(cluster, leases));
    Ground { namespace, now, server, crds, node_leases }
}

/// What counts before installing.
///
/// # Errors
///
/// When the chart in this program is broken.
pub(super) async fn before(cluster: &Cluster, ground: &Ground) -> Result<Before, String> {
    let objects = chart::defaults(&ground.namespace)?;
    let (permissions, existing) = tokio::join!(permissions(cluster, &objects), existing(cluster, &ground.namespace, &objects));
    Ok(Before { permissions, existing })
}

/// What counts after installing.
///
/// # Errors
///
/// When the chart in this program is broken.
pub(super) async fn after(cluster: &Cluster, ground: &Ground) -> Result<After, String> {
    let namespace = &ground.namespace;
    let objects = chart::defaults(namespace)?;
    let ours = |kind: &str, name: &str| Kind::named(kind).map(|kind| kind.path(namespace, name)).unwrap_or_default();
    let paths = [
        ours("Deployment", "weir-control-plane"),
        ours("Deployment", "weir-injector"),
        ours("MutatingWebhookConfiguration", "weir-injector"),
        ours("ValidatingWebhookConfiguration", "weir-injector"),
        ours("Secret", "weir-injector-tls"),
        ours("Secret", "weir-ca"),
    ];
    let mesh_pods = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io%2Fpart-of%3Dweir");
    let bundles = "/api/v1/configmaps?fieldSelector=metadata.name%3Dweir-trust-bundle";
    let [control_plane, injector, mutating, validating, injector_secret, authority] = &paths;
    let (control_plane, injector, mutating, validating, injector_secret, authority, mesh_pods, bundles) = tokio::join!(
        get(cluster, control_plane),
        get(cluster, injector),
        get(cluster, mutating),
        get(cluster, validating),
        get(cluster, injector_secret),
        get(cluster, authority),
        list::<Pod>(cluster, &mesh_pods),
        list(cluster, bundles),
    );
    let events = format!("/api/v1/namespaces/{namespace}/events?fieldSelector=type%3DWarning");
    let (namespaces, pods, routes, access, events) = tokio::join!(
        list::<Object>(cluster, "/api/v1/namespaces"),
        pods(cluster),
        routes(cluster),
        access(cluster, namespace, &objects),
        list(cluster, &events),
    );
    let (probes, replicas) = tokio::join!(probes(cluster, &namespaces), replicas(cluster, namespace, &mesh_pods));
    Ok(After {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        control_plane,
        injector,
        mesh_pods,
        events,
        access,
        mutating,
        validating,
        injector_secret,
        probes,
        authority,
        bundles,
        namespaces,
        pods,
        replicas,
        routes,
    })
}

/// All pods of the cluster.
pub(super) async fn pods(cluster: &Cluster) -> Answer<Vec<Pod>> {
    list(cluster, "/api/v1/pods").await
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
}

fn read<T: DeserializeOwned>(value: Value) -> Answer<T> {
    serde_json::from_value(value)
        .map_err(|error| Failure { code: None, text: format!("what the API server says cannot be read: {error}") })
}

async fn get<T: DeserializeOwned>(cluster: &Cluster, path: &str) -> Answer<T> {
    cluster.get(path).await.and_then(read)
}

async fn list<T: DeserializeOwned>(cluster: &Cluster, path: &str) -> Answer<Vec<T>> {
    cluster.list(path).await?.into_iter().map(read).collect()
}

async fn routes(cluster: &Cluster) -> Answer<Vec<Route>> {
    let mut all = Vec::new();
    for (resource, kind) in
        [("httproutes", "HTTPRoute"), ("grpcroutes", "GRPCRoute"), ("tlsroutes", "TLSRoute"), ("tcproutes", "TCPRoute")]
    {
        let mut routes: Vec<Route> = match list(cluster, &format!("/apis/gateway.networking.k8s.io/v1/{resource}")).await {
            Err(failure) if failure.is_not_found() => Vec::new(),
            other => other?,
        };
        // Items of a list do not say their kind.
        routes.iter_mut().for_each(|route| kind.clone_into(&mut route.kind));
        all.extend(routes);
    }
    Ok(all)
}

async fn permissions(cluster: &Cluster, objects: &[Installed]) -> Answer<Vec<Permission>> {
    let mut wanted = BTreeSet::new();
    for object in objects {
        let Some(kind) = Kind::of(&object.value) else { continue };
        let namespace = object.at("/metadata/namespace").to_owned();
        let mut verbs = vec!["create", "get", "patch"];
        match object.at("/kind") {
            "ClusterRole" | "Role" => verbs.push("escalate"),
            "ClusterRoleBinding" | "RoleBinding" => verbs.push("bind"),
            _ => {}
        }
        for verb in verbs {
            // Binding is a right on the role.
            let resource = if verb == "bind" { kind.resource.replace("bindings", "s") } else { kind.resource.to_owned() };
            wanted.insert((verb, kind.group, resource, namespace.clone()));
        }
    }
    let answers = futures_util::stream::iter(wanted).map(|(verb, group, resource, namespace)| async move {
        let attributes = json!({"verb": verb, "group": group, "resource": resource, "namespace": namespace});
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let is_allowed = allowed(cluster, "selfsubjectaccessreviews", &review).await?;
        Ok(Permission { verb, group: group.to_owned(), resource, namespace, is_allowed })
    });
    let answers: Vec<Answer<Permission>> = answers.buffered(AT_ONCE).collect().await;
    answers.into_iter().collect()
}

async fn allowed(cluster: &Cluster, kind: &str, review: &Value) -> Answer<bool> {
    let answer = cluster.create(&format!("/apis/authorization.k8s.io/v1/{kind}"), review).await?;
    Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or_default())
}

async fn existing(cluster: &Cluster, namespace: &str, objects: &[Installed]) -> Answer<Vec<Existing>> {
    let installed = objects.iter().map(|object| (object.at("/kind"), object.at("/metadata/name")));
    let mut existing = Vec::new();
    for (kind, name) in installed.chain(MADE_WHILE_RUNNING) {
        let Some(path) = Kind::named(kind).map(|kind| kind.path(namespace, name)) else { continue };
        let object = match cluster.get(&path).await {
            Ok(object) => object,
            Err(failure) if failure.is_not_found() => continue,
            Err(failure) => return Err(failure),
        };
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        existing.push(Existing {
            kind: kind.to_owned(),
            name: name.to_owned(),
            mesh_namespace: text("/subjects/0/namespace").or_else(|| text("/webhooks/0/clientConfig/service/namespace")),
            version: text("/metadata/labels/app.kubernetes.io~1version").unwrap_or_default(),
        });
    }
    Ok(existing)
}

/// Asks for everything that the chart's roles grant.
async fn access(cluster: &Cluster, namespace: &str, objects: &[Installed]) -> Answer<Vec<Access>> {
    let wanted = objects.iter().filter(|object| matches!(object.at("/kind"), "ClusterRole" | "Role")).flat_map(granted);
    let answers = futures_util::stream::iter(wanted).map(|access| async move {
        let attributes = json!({
            "verb": access.verb, "group": access.group, "resource": access.resource.split('/').next(),
            "subresource": access.resource.split('/').nth(1), "name": access.name, "namespace": access.namespace,
        });
        let account = format!("system:serviceaccount:{namespace}:{}", access.service_account);
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ];
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": account, "groups": groups, "resourceAttributes": attributes},
        });
        let is_allowed = allowed(cluster, "subjectaccessreviews", &review).await?;
        Ok(Access { is_allowed, ..access })
    });
    let answers: Vec<Answer<Access>> = answers.buffered(AT_ONCE).collect().await;
    answers.into_iter().collect()
}

/// What a role of the chart grants, one by one. Role and service account have the same name.
fn granted(role: &Installed) -> Vec<Access> {
    let texts = |rule: &Value, member: &str| -> Vec<String> {
        let all = rule.get(member).and_then(Value::as_array).into_iter().flatten();
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut all = Vec::new();
    for rule in role.value.get("rules").and_then(Value::as_array).into_iter().flatten() {
        let mut names = texts(rule, "resourceNames");
        if names.is_empty() {
            names.push(String::new());
        }
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                for verb in texts(rule, "verbs") {
                    all.extend(names.iter().map(|name| Access {
                        service_account: role.at("/metadata/name").to_owned(),
                        verb: verb.clone(),
                        group: group.clone(),
                        resource: resource.clone(),
                        name: name.clone(),
                        namespace: role.at("/metadata/namespace").to_owned(),
                        is_allowed: false,
                    }));
                }
            }
        }
    }
    all
}

/// Nearly creates a pod in the namespaces that ask for sidecars, or in `default` if none does.
async fn probes(cluster: &Cluster, namespaces: &Answer<Vec<Object>>) -> Vec<Probe> {
    let asking = namespaces.iter().flatten().map(|namespace| &namespace.metadata).filter(|meta| asks(meta));
    let mut names: Vec<String> = asking.take(MAX_PROBES).map(|meta| meta.name.clone()).collect();
    if names.is_empty() {
        names.push("default".to_owned());
    }
    let tries = futures_util::stream::iter(names).map(|namespace| async move {
        let restricted = json!({
            "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 65532,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        });
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": "weir-check-", "labels": {"weir.dev/inject": "enabled"}},
            "spec": {"containers": [{"name": "check", "image": "weir-check", "securityContext": restricted}]},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
        let answer = cluster.create(&path, &pod).await.and_then(read);
        Probe { namespace, answer }
    });
    tries.buffered(AT_ONCE).collect().await
}

async fn replicas(cluster: &Cluster, namespace: &str, pods: &Answer<Vec<Pod>>) -> Vec<Replica> {
    let is_replica = |pod: &&Pod| {
        pod.metadata.labels.get("app.kubernetes.io/name").is_some_and(|name| name == "weir-control-plane")
            && pod.is_alive()
            && pod.status.phase == "Running"
    };
    let names: Vec<String> = pods.iter().flatten().filter(is_replica).map(|pod| pod.metadata.name.clone()).collect();
    let asked = futures_util::stream::iter(names).map(|pod| async move {
        let page = |path: &'static str| cluster.page(namespace, &pod, CONTROL_PLANE_PORT, path);
        let (ready, first, diagnostics) = tokio::join!(page("/ready"), page("/api/v1/proxies"), page("/api/v1/diagnostics"));
        let mut proxies: Answer<Vec<Proxy>> = first.and_then(json);
        if let Ok(first) = &mut proxies
            && first.iter().any(|proxy| proxy.awaiting.is_some())
        {
            tokio::time::sleep(PATIENCE).await;
            let second: Answer<Vec<Proxy>> = page("/api/v1/proxies").await.and_then(json);
            second.iter().for_each(|second| keep_only_late(first, second));
        }
        let diagnostics = diagnostics.and_then(json);
        Replica { pod: pod.clone(), ready, proxies, diagnostics }
    });
    asked.buffered(AT_ONCE).collect().await
}

fn json<T: DeserializeOwned>((status, text): (u16, String)) -> Answer<T> {
    let unreadable = |error| Failure { code: Some(status), text: format!("the page is no JSON: {error}") };
    if status == 200 {
        serde_json::from_str(&text).map_err(unreadable)
    } else {
        Err(Failure { code: Some(status), text: crate::cluster::one_line(&text) })
    }
}

/// A proxy that has answered in the meantime awaits nothing that counts.
fn keep_only_late(first: &mut [Proxy], second: &[Proxy]) {
    for proxy in first {
        let still = second.iter().any(|later| {
            (&later.namespace, &later.pod, &later.connected_since) == (&proxy.namespace, &proxy.pod, &proxy.connected_since)
                && later.awaiting == proxy.awaiting
        });
        proxy.awaiting = proxy.awaiting.filter(|_| still);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_late_only_with_the_same_response() {
        let proxy = |pod: &str, awaiting| Proxy { pod: pod.into(), awaiting, ..Proxy::default() };
        let mut first = [proxy("a", Some(1)), proxy("b", Some(2)), proxy("c", Some(3)), proxy("d", None)];
        keep_only_late(&mut first, &[proxy("a", Some(1)), proxy("b", Some(3)), proxy("d", Some(1))]);
        assert_eq!(first.map(|proxy| proxy.awaiting), [Some(1), None, None, None]);
    }

    #[test]
    fn everything_that_a_role_grants_is_asked_for() {
        let objects = chart::defaults("weir-system").unwrap();
        let roles = objects.iter().filter(|object| matches!(object.at("/kind"), "ClusterRole" | "Role"));
        let all: Vec<Access> = roles.flat_map(granted).collect();
        let has = |verb: &str, resource: &str, name: &str, namespace: &str| {
            all.iter().any(|it| it.verb == verb && it.resource == resource && it.name == name && it.namespace == namespace)
        };
        assert!(has("watch", "endpointslices", "", ""));
        assert!(has("patch", "httproutes/status", "", ""));
        assert!(has("update", "secrets", "weir-ca", "weir-system"));
        assert!(has("patch", "mutatingwebhookconfigurations", "weir-injector", ""));
    }
}

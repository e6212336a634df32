//! Verdicts on the running mesh: the control plane's replicas, the proxies that are connected to them, and routes.

use std::collections::BTreeMap;

use super::facts::{After, Ground, Replica};
use super::finding::{Finding, count, names};
use super::moment;
use super::objects::{Diagnostic, Proxy, Route};
use super::webhook::now;
use crate::cluster::one_line;

const CONTROL_PLANE: &str = "control plane";
const PROXIES: &str = "proxies";
const ROUTES: &str = "routes";
const CONTROLLER: &str = "weir.dev/mesh";

/// All of them.
pub(super) fn findings(ground: &Ground, after: &After) -> Vec<Finding> {
    [control_plane(ground, &after.replicas), proxies(ground, after), routes(after)].concat()
}

fn control_plane(ground: &Ground, replicas: &[Replica]) -> Vec<Finding> {
    let namespace = &ground.namespace;
    let mut findings = Vec::new();
    let mut ready = 0;
    for replica in replicas {
        let pod = &replica.pod;
        let logs = format!("kubectl logs {pod} --namespace {namespace}");
        match &replica.ready {
            Ok((200, _)) => ready += 1,
            Ok((_, said)) => {
                let what = format!("{pod} is not ready");
                findings.push(Finding::failure(CONTROL_PLANE, what, one_line(said), logs));
            }
            Err(failure) if failure.code == Some(403) => {
                let what = format!("what {pod} says cannot be seen");
                let fix = format!("kubectl auth can-i create pods/portforward --namespace {namespace}");
                findings.push(Finding::warning(CONTROL_PLANE, what, failure.to_string(), fix));
            }
            Err(failure) => {
                let what = format!("{pod} does not answer on port 15411");
                findings.push(Finding::failure(CONTROL_PLANE, what, failure.to_string(), logs));
            }
        }
    }
    for diagnostic in errors(replicas).filter(|diagnostic| diagnostic.object.is_none()) {
        let cause = "what was read of it before is served on";
        let fix =
            format!("weir install --namespace {namespace} | kubectl apply -f -, if it may not read them; else see the logs");
        findings.push(Finding::failure(CONTROL_PLANE, one_line(&diagnostic.text), cause, fix));
    }
    if replicas.is_empty() {
        let what = "no pod of the control plane runs";
        let cause = "sidecars go on with what they know; new ones get no certificate, and changes have no effect";
        findings.push(Finding::failure(CONTROL_PLANE, what, cause, format!("kubectl get pods --namespace {namespace}")));
    } else if findings.is_empty() {
        findings.push(Finding::good(CONTROL_PLANE, format!("read the cluster, and serving: {}", count(ready, "replica"))));
    }
    findings
}

fn proxies(ground: &Ground, after: &After) -> Vec<Finding> {
    let lists: Vec<&Vec<Proxy>> = after.replicas.iter().filter_map(|replica| replica.proxies.as_ref().ok()).collect();
    let Ok(pods) = &after.pods else { return Vec::new() };
    if lists.is_empty() {
        let cause = "no replica of the control plane tells which are connected";
        return vec![Finding::warning(PROXIES, "whether sidecars are connected cannot be seen", cause, "")];
    }
    // A replica that does not tell may have the proxies that the others have not.
    let is_complete = lists.len() == after.replicas.len();
    // A proxy that changed replicas may still stand in both: the later stream counts.
    let mut connected: BTreeMap<(&str, &str), &Proxy> = BTreeMap::new();
    for proxy in lists.into_iter().flatten() {
        let slot = connected.entry((&proxy.namespace, &proxy.pod)).or_insert(proxy);
        if proxy.connected_since > slot.connected_since {
            *slot = proxy;
        }
    }
    let (mut findings, mut absent, mut number) = (Vec::new(), Vec::new(), 0);
    for pod in pods.iter().filter(|pod| pod.is_alive() && pod.has_sidecar()) {
        let name = pod.full_name();
        match connected.get(&(pod.metadata.namespace.as_str(), pod.metadata.name.as_str())) {
            Some(proxy) => {
                number += 1;
                findings.extend(stale(ground, &name, proxy));
            }
            // One that is about to start says so among the workloads, if it fails.
            None if pod.container("weir-proxy").is_some_and(|proxy| proxy.ready) => absent.push(name),
            None => {}
        }
    }
    if !absent.is_empty() {
        let what = format!("{} not connected to the control plane: {}", count(absent.len(), "sidecar"), names(&absent));
        let (namespace, pod) = absent.first().and_then(|name| name.split_once('/')).unwrap_or_default();
        let fix = format!("kubectl logs {pod} --namespace {namespace} --container weir-proxy");
        if is_complete {
            let cause = "they work with the configuration that they last had; a NetworkPolicy may close port 15410, or tokens are refused";
            findings.push(Finding::failure(PROXIES, what, cause, fix));
        } else {
            let cause = "a replica of the control plane that does not answer may have them";
            findings.push(Finding::warning(PROXIES, what, cause, fix));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::good(PROXIES, format!("{} connected, with the newest configuration", count(number, "sidecar"))));
    }
    findings
}

/// A proxy that is connected and yet behind.
fn stale(ground: &Ground, name: &str, proxy: &Proxy) -> Option<Finding> {
    let (namespace, pod) = name.split_once('/').unwrap_or_default();
    let logs = format!("kubectl logs {pod} --namespace {namespace} --container weir-proxy");
    if let Some(refused) = &proxy.refused {
        let resource = refused.resource.as_deref().map(|resource| format!(" ({resource})")).unwrap_or_default();
        let what = format!("the sidecar of {name} refuses its configuration{resource}");
        let cause = format!("it goes on with the last one: {}", one_line(&refused.reason));
        return Some(Finding::failure(PROXIES, what, cause, logs));
    }
    if let Some(response) = proxy.awaiting {
        let what = format!("the sidecar of {name} is stale: it has not answered response {response}");
        return Some(Finding::failure(PROXIES, what, "it is out of processor time, or hangs", logs));
    }
    let ends = moment::parse(&proxy.certificate_ends)?;
    (ends <= now(ground)).then(|| {
        let what = format!("the certificate of {name} ended at {}", proxy.certificate_ends);
        Finding::failure(PROXIES, what, "it could not be renewed", logs)
    })
}

fn routes(after: &After) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &after.routes {
        Ok(routes) => findings.extend(routes.iter().filter_map(route)),
        Err(failure) if failure.is_not_found() => return findings,
        Err(failure) => findings.push(Finding::warning(ROUTES, "routes cannot be listed", failure.to_string(), "")),
    }
    // What stands in a route's status has been said.
    let said: Vec<String> = after.routes.iter().flatten().filter(|one| route(one).is_some()).map(full_name).collect();
    let is_new = |object: &str| !said.iter().any(|name| object == name);
    for diagnostic in errors(&after.replicas).filter(|diagnostic| diagnostic.object.as_deref().is_some_and(is_new)) {
        findings.push(Finding::warning(ROUTES, one_line(&diagnostic.text), "", "correct the object and apply it again"));
    }
    if findings.is_empty() {
        let number = after.routes.iter().flatten().filter(|route| of_ours(route).next().is_some()).count();
        findings.push(Finding::good(ROUTES, format!("{} accepted", count(number, "route"))));
    }
    findings
}

/// What is wrong in the cluster's objects. All replicas see the same ones.
fn errors(replicas: &[Replica]) -> impl Iterator<Item = &Diagnostic> {
    let one = replicas.iter().find_map(|replica| replica.diagnostics.as_ref().ok());
    one.into_iter().flatten().filter(|diagnostic| diagnostic.level == "error")
}

/// `HTTPRoute shop/web`
fn full_name(route: &Route) -> String {
    format!("{} {}/{}", route.kind, route.metadata.namespace, route.metadata.name)
}

fn of_ours(route: &Route) -> impl Iterator<Item = &super::objects::RouteParent> {
    route.status.parents.iter().filter(|parent| parent.controller_name == CONTROLLER)
}

fn route(route: &Route) -> Option<Finding> {
    let bad = of_ours(route)
        .flat_map(|parent| &parent.conditions)
        .find(|condition| condition.status == "False" && matches!(condition.r#type.as_str(), "Accepted" | "ResolvedRefs"))?;
    let (namespace, name) = (&route.metadata.namespace, &route.metadata.name);
    let what = format!("{}: {} is false ({})", full_name(route), bad.r#type, bad.reason);
    let fix = format!("kubectl get {} {name} --namespace {namespace} --output yaml", route.kind.to_lowercase());
    Some(Finding::warning(ROUTES, what, one_line(&bad.message), fix))
}

#[cfg(test)]
mod tests {
    use super::super::objects::Refused;
    use super::super::testing::{after, ground, not_found, read, whats};
    use super::*;
    use crate::cluster::Failure;

    fn bad(after: &After) -> Vec<String> {
        whats(&findings(&ground(), after)).into_iter().filter(|line| !line.starts_with("Good")).collect()
    }

    fn with_proxy(change: impl Fn(&mut Proxy)) -> After {
        let mut after = after();
        after.replicas.iter_mut().flat_map(|replica| replica.proxies.iter_mut().flatten()).for_each(change);
        after
    }

    #[test]
    fn good_proxies_are_good() {
        assert_eq!(bad(&after()), Vec::<String>::new());
    }

    #[test]
    fn replicas_that_are_down_or_not_ready() {
        let mut none = after();
        none.replicas.clear();
        assert_eq!(
            bad(&none),
            ["Failure no pod of the control plane runs", "Warning whether sidecars are connected cannot be seen"]
        );
        let mut blind = after();
        blind.replicas[0].ready = Ok((503, "not ready: may not list services\n".into()));
        assert_eq!(bad(&blind), ["Failure cp-1 is not ready"]);
        let mut hidden = after();
        hidden.replicas[0].ready = Err(Failure { code: Some(403), text: "forbidden".into() });
        assert_eq!(bad(&hidden), ["Warning what cp-1 says cannot be seen"]);
        let mut silent = after();
        silent.replicas[0].ready = Err(Failure { code: None, text: "refused".into() });
        silent.replicas[0].proxies = Err(Failure { code: None, text: "refused".into() });
        silent.replicas.push(Replica { pod: "cp-2".into(), proxies: Ok(Vec::new()), ..after().replicas.remove(0) });
        assert_eq!(
            bad(&silent),
            ["Failure cp-1 does not answer on port 15411", "Warning 1 sidecar not connected to the control plane: shop/web-1"]
        );
    }

    #[test]
    fn proxies_that_are_stale_or_not_connected() {
        let refused = Refused { resource: Some("service/shop/web".into()), reason: "no port".into() };
        let after = with_proxy(|proxy| proxy.refused = Some(refused.clone()));
        assert_eq!(bad(&after), ["Failure the sidecar of shop/web-1 refuses its configuration (service/shop/web)"]);
        let after = with_proxy(|proxy| proxy.awaiting = Some(7));
        assert_eq!(bad(&after), ["Failure the sidecar of shop/web-1 is stale: it has not answered response 7"]);
        let after = with_proxy(|proxy| proxy.certificate_ends = "2023-11-14T22:13:00Z".into());
        assert_eq!(bad(&after), ["Failure the certificate of shop/web-1 ended at 2023-11-14T22:13:00Z"]);
        let after = with_proxy(|proxy| proxy.pod = "other".into());
        assert_eq!(bad(&after), ["Failure 1 sidecar not connected to the control plane: shop/web-1"]);
    }

    #[test]
    fn routes_that_are_not_accepted() {
        let text = r#"{"kind":"HTTPRoute","metadata":{"name":"r","namespace":"shop"},"status":{"parents":[
            {"controllerName":"other","conditions":[{"type":"Accepted","status":"False"}]},
            {"controllerName":"weir.dev/mesh","conditions":[{"type":"ResolvedRefs","status":"False","reason":"BackendNotFound","message":"no Service x"}]}]}}"#;
        let mut after = after();
        after.routes = Ok(vec![read(text)]);
        assert_eq!(bad(&after), ["Warning HTTPRoute shop/r: ResolvedRefs is false (BackendNotFound)"]);
        let diagnostic = |object: Option<&str>, text: &str| Diagnostic {
            level: "error".into(),
            object: object.map(str::to_owned),
            text: text.into(),
        };
        after.replicas[0].diagnostics = Ok(vec![
            diagnostic(Some("HTTPRoute shop/r"), "said already"),
            diagnostic(Some("Service shop/web"), "Service shop/web: bad port"),
            diagnostic(None, "Pods are not followed"),
        ]);
        let expected = ["Failure Pods are not followed", "Warning HTTPRoute shop/r: ResolvedRefs is false (BackendNotFound)"];
        assert_eq!(bad(&after)[..2], expected);
        assert_eq!(bad(&after)[2..], ["Warning Service shop/web: bad port"]);
        after.replicas[0].diagnostics = Ok(Vec::new());
        after.routes = Err(not_found());
        assert_eq!(bad(&after), Vec::<String>::new());
    }
}

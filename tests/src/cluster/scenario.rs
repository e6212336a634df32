//! A scenario's place in the cluster.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::kubectl::{json as kubectl_json, kubectl, run, run_now};
use super::{DEADLINE, installation, report, until, wire};
use crate::metrics::Metrics;
use crate::netns::Namespace;
use crate::wait::ensure;

/// Scenarios that run at the same time. More would only wait for each other's pods on a machine with two cores.
const AT_ONCE: u32 = 3;

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE as usize);

/// A namespace of its own, and what can be done in it.
pub struct Scenario {
    namespace: String,
    alone: bool,
    _turn: SemaphorePermit<'static>,
}

impl Scenario {
    /// Brings up the cluster if nobody has yet, and makes a namespace that asks for sidecars.
    ///
    /// # Panics
    ///
    /// When there is no cluster.
    pub async fn begin(name: &str) -> Self {
        Self::take(name, 1).await
    }

    /// The same with no other scenario at its side, because it harms what they need.
    ///
    /// # Panics
    ///
    /// When there is no cluster.
    pub async fn alone(name: &str) -> Self {
        Self::take(name, AT_ONCE).await
    }

    async fn take(name: &str, turns: u32) -> Self {
        installation::is_there().await;
        let turn = TURNS.acquire_many(turns).await.expect("the turns are never closed");
        let namespace = format!("{name}-{}", std::process::id());
        let scenario = Self { namespace, alone: turns == AT_ONCE, _turn: turn };
        let labels = json!({"weir.dev/inject": "enabled", "weir-tests": "scenario"});
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": scenario.namespace, "labels": labels}});
        scenario.apply(&[object]).await;
        scenario
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The identity of one of its accounts.
    #[must_use]
    pub fn identity(&self, account: &str) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{account}", self.namespace)
    }

    /// Applies objects; those that name no namespace go into its own.
    ///
    /// # Panics
    ///
    /// When one is refused.
    pub async fn apply(&self, objects: &[Value]) {
        self.try_apply(objects).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Applies objects.
    ///
    /// # Errors
    ///
    /// Why one was refused. Others may have been applied.
    pub async fn try_apply(&self, objects: &[Value]) -> Result<String, String> {
        self.try_apply_text(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()).await
    }

    /// Applies manifests.
    ///
    /// # Errors
    ///
    /// Why one was refused. Others may have been applied.
    pub async fn try_apply_text(&self, manifests: &str) -> Result<String, String> {
        run(kubectl(&["-n", &self.namespace, "apply", "-f", "-"]), Some(manifests.to_owned())).await
    }

    /// kubectl in its namespace.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// kubectl in its namespace.
    ///
    /// # Errors
    ///
    /// What it says when it fails.
    pub async fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        run(kubectl(&[&["-n", self.namespace.as_str()], arguments].concat()), None).await
    }

    /// kubectl in its namespace, in JSON.
    ///
    /// # Errors
    ///
    /// What it says when it fails.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        kubectl_json(&[&["-n", self.namespace.as_str()], arguments].concat()).await
    }

    /// Applies applications as Deployments and waits until all their pods are ready.
    ///
    /// # Panics
    ///
    /// When they do not become ready.
    pub async fn deploy(&self, applications: &[super::App]) {
        let objects: Vec<Value> = applications.iter().flat_map(super::App::deployment).collect();
        self.apply(&objects).await;
        for application in applications {
            self.rolled_out(&format!("deployment/{}", application.deployment_name())).await;
        }
    }

    /// Waits until a Deployment or StatefulSet has all its pods, new and ready.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub async fn rolled_out(&self, workload: &str) {
        let timeout = format!("--timeout={}s", DEADLINE.as_secs());
        self.kubectl(&["rollout", "status", workload, &timeout]).await;
    }

    /// Waits until a pod is ready.
    ///
    /// # Panics
    ///
    /// When it does not become ready.
    pub async fn pod_is_ready(&self, pod: &str) {
        self.condition(&format!("pod/{pod}"), "condition=Ready").await;
    }

    /// Waits for a condition as `kubectl wait --for` writes it.
    ///
    /// # Panics
    ///
    /// When it does not come.
    pub async fn condition(&self, object: &str, condition: &str) {
        let timeout = format!("--timeout={}s", DEADLINE.as_secs());
        self.kubectl(&["wait", object, &format!("--for={condition}"), &timeout]).await;
    }

    /// The pods with these labels that are not on their way out, by name.
    ///
    /// # Errors
    ///
    /// When the API server does not tell.
    pub async fn try_pods(&self, selector: &str) -> Result<Vec<Pod>, String> {
        let list = self.json(&["get", "pods", "--selector", selector]).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let staying = items.into_iter().filter(|pod| pod["metadata"].get("deletionTimestamp").is_none());
        Ok(staying.map(|object| Pod { object }).collect())
    }

    /// The pods with these labels.
    ///
    /// # Panics
    ///
    /// When the API server does not tell.
    pub async fn pods(&self, selector: &str) -> Vec<Pod> {
        self.try_pods(selector).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The only pod of an application.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn pod_of(&self, application: &str) -> Pod {
        let mut pods = self.pods(&format!("app={application}")).await;
        pods.pop().unwrap_or_else(|| panic!("{application} has no pod"))
    }

    /// A pod by its name.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn pod(&self, name: &str) -> Pod {
        let object = self.json(&["get", "pod", name]).await.unwrap_or_else(|error| panic!("{error}"));
        Pod { object }
    }

    /// Runs a program in the application's container.
    ///
    /// # Errors
    ///
    /// When it fails: what it wrote.
    pub async fn exec(&self, target: &str, command: &[&str]) -> Result<String, String> {
        self.try_kubectl(&[&["exec", target, "-c", "app", "--"], command].concat()).await
    }

    /// One call by the test application in a Deployment's pod.
    ///
    /// # Errors
    ///
    /// When it fails: what its caller is told.
    pub async fn call(&self, deployment: &str, arguments: &[&str]) -> Result<String, String> {
        self.exec(&format!("deployment/{deployment}"), &[&["weir-test-app", "call"], arguments].concat()).await
    }

    /// What the called application says that the request looked like, once the call succeeds.
    ///
    /// # Panics
    ///
    /// When it never does.
    pub async fn seen(&self, deployment: &str, arguments: &[&str]) -> Value {
        until(&format!("{deployment} calls {arguments:?}"), async || {
            let text = self.call(deployment, arguments).await?;
            serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
        })
        .await
    }

    /// The log of a container.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn log(&self, target: &str, container: &str) -> Result<String, String> {
        self.try_kubectl(&["logs", target, "-c", container]).await
    }

    /// The conditions that Weir wrote on a route, as `TYPE=STATUS REASON`, when they are of the route's latest generation.
    ///
    /// # Errors
    ///
    /// When they are not there.
    pub async fn route_conditions(&self, kind: &str, name: &str) -> Result<Vec<String>, String> {
        let route = self.json(&["get", kind, name]).await?;
        let generation = &route["metadata"]["generation"];
        let parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
        let ours = parents.iter().find(|parent| parent["controllerName"] == "weir.dev/mesh");
        let ours = ours.ok_or_else(|| format!("weir has not written a status: {}", route["status"]))?;
        let conditions = ours["conditions"].as_array().cloned().unwrap_or_default();
        let current = !conditions.is_empty() && conditions.iter().all(|condition| condition["observedGeneration"] == *generation);
        ensure(current, || format!("generation {generation} is not yet observed: {ours}"))?;
        let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        let line = |c: &Value| format!("{}={} {}", text(c, "type"), text(c, "status"), text(c, "reason"));
        Ok(conditions.iter().map(line).collect())
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            report::print(&self.namespace);
            if self.alone {
                installation::repair();
            }
        }
        if !(failed && installation::is_kept()) {
            let _ = run_now(kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]), None);
        }
    }
}

/// A pod as it was when it was asked for.
#[derive(Clone, Debug)]
pub struct Pod {
    object: Value,
}

impl From<Value> for Pod {
    fn from(object: Value) -> Self {
        Self { object }
    }
}

impl Pod {
    /// All of it.
    #[must_use]
    pub fn object(&self) -> &Value {
        &self.object
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Its address.
    ///
    /// # Panics
    ///
    /// When it has none.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        let address = self.object["status"]["podIP"].as_str().unwrap_or_default();
        address.parse().unwrap_or_else(|_| panic!("{} has no address", self.name()))
    }

    /// All its addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self.object["status"]["podIPs"].as_array().cloned().unwrap_or_default();
        addresses.iter().filter_map(|entry| entry["ip"].as_str()?.parse().ok()).collect()
    }

    /// Whether the injector put a sidecar into it.
    #[must_use]
    pub fn is_injected(&self) -> bool {
        self.container_names().iter().any(|name| name == "weir-proxy")
    }

    /// Names of its containers, init containers first.
    #[must_use]
    pub fn container_names(&self) -> Vec<String> {
        let names = |list: &str| self.object["spec"][list].as_array().cloned().unwrap_or_default();
        let all = names("initContainers").into_iter().chain(names("containers"));
        all.filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
    }

    /// Whether its condition `Ready` is true.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let conditions = self.object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    }

    /// What the kubelet says of a container.
    #[must_use]
    pub fn container_status(&self, name: &str) -> Value {
        let statuses = |list: &str| self.object["status"][list].as_array().cloned().unwrap_or_default();
        let mut all = statuses("initContainerStatuses").into_iter().chain(statuses("containerStatuses"));
        all.find(|status| status["name"] == name).unwrap_or_default()
    }

    /// Its network.
    ///
    /// # Errors
    ///
    /// When the pod is gone.
    pub async fn network(&self) -> Result<Namespace, String> {
        wire::network_of(self.address()).await
    }

    /// A page of its sidecar, asked from the node.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn sidecar_page(&self, path: &str) -> Result<String, String> {
        let admin = SocketAddr::new(self.address(), 15420);
        Ok(wire::node().get(admin, path).await?.text())
    }

    /// What its sidecar has counted.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<Metrics, String> {
        Metrics::parse(&self.sidecar_page("/metrics").await?)
    }
}

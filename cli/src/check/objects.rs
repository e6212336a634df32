//! The fields of Kubernetes objects that checks look at.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::cluster::one_line;

/// A member that is missing or null is empty.
fn empty_if_null<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

macro_rules! objects {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub(super) struct $name {
            $(#[serde(deserialize_with = "empty_if_null")] pub(super) $field: $type,)*
        }
    )*};
}

objects! {
    Meta {
        name: String,
        namespace: String,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        deletion_timestamp: String,
        owner_references: Vec<Owner>,
        generation: i64,
    }
    Owner { kind: String, name: String }
    /// Anything of which only the metadata counts.
    Object { metadata: Meta }
    Condition { r#type: String, status: String, reason: String, message: String, observed_generation: i64 }
    Deployment { metadata: Meta, spec: DeploymentSpec, status: DeploymentStatus }
    DeploymentSpec { replicas: u32, template: Template }
    Template { spec: PodSpec }
    DeploymentStatus { observed_generation: i64, ready_replicas: u32, updated_replicas: u32, conditions: Vec<Condition> }
    Pod { metadata: Meta, spec: PodSpec, status: PodStatus }
    PodSpec { host_network: bool, service_account_name: String, containers: Vec<Container>, init_containers: Vec<Container> }
    Container { name: String, image: String }
    PodStatus {
        phase: String,
        message: String,
        conditions: Vec<Condition>,
        container_statuses: Vec<ContainerStatus>,
        init_container_statuses: Vec<ContainerStatus>,
    }
    ContainerStatus { name: String, ready: bool, restart_count: u32, state: ContainerState, last_state: ContainerState }
    ContainerState { waiting: Option<Waiting>, terminated: Option<Terminated> }
    Waiting { reason: String, message: String }
    Terminated { exit_code: i32, reason: String, message: String }
    ConfigMap { metadata: Meta, data: BTreeMap<String, String> }
    Secret { metadata: Meta, data: BTreeMap<String, String> }
    Webhooks { metadata: Meta, webhooks: Vec<Webhook> }
    Webhook { name: String, client_config: ClientConfig, failure_policy: String }
    ClientConfig { ca_bundle: String, service: ServiceReference }
    ServiceReference { namespace: String, name: String }
    Crd { metadata: Meta, spec: CrdSpec }
    CrdSpec { group: String, versions: Vec<CrdVersion> }
    CrdVersion { name: String, served: bool }
    Route { kind: String, metadata: Meta, status: RouteStatus }
    RouteStatus { parents: Vec<RouteParent> }
    RouteParent { controller_name: String, conditions: Vec<Condition> }
    Event { involved_object: Involved, reason: String, message: String, last_timestamp: String }
    Involved { kind: String, name: String }
    Lease { metadata: Meta, spec: LeaseSpec }
    LeaseSpec { renew_time: String, holder_identity: String }
    /// What the control plane says of a proxy that is connected.
    Proxy {
        namespace: String,
        pod: String,
        version: String,
        connected_since: String,
        certificate_ends: String,
        sent: u64,
        awaiting: Option<u64>,
        refused: Option<Refused>,
    }
    Refused { resource: Option<String>, reason: String }
    /// What the control plane says is wrong in the cluster's objects.
    Diagnostic { level: String, object: Option<String>, text: String }
}

impl Pod {
    /// Whether it is ready for traffic.
    pub(super) fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
    }

    /// Whether it is neither done nor going away.
    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.status.phase.as_str(), "Succeeded" | "Failed") && self.metadata.deletion_timestamp.is_empty()
    }

    /// Whether a sidecar was put into it.
    pub(super) fn has_sidecar(&self) -> bool {
        self.metadata.annotations.contains_key("weir.dev/status")
    }

    /// `NAMESPACE/NAME`.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }

    /// What starts it anew with what a new pod gets: the workload that it belongs to, as kubectl writes it.
    pub(super) fn workload(&self) -> String {
        let Some(owner) = self.metadata.owner_references.first() else { return format!("pod/{}", self.metadata.name) };
        let hash = self.metadata.labels.get("pod-template-hash").map(|hash| format!("-{hash}"));
        match (owner.kind.as_str(), hash.and_then(|hash| owner.name.strip_suffix(hash.as_str()))) {
            ("ReplicaSet", Some(deployment)) => format!("deployment/{deployment}"),
            (kind, _) => format!("{}/{}", kind.to_lowercase(), owner.name),
        }
    }

    /// The states of a container, wherever it stands in the pod.
    pub(super) fn container(&self, name: &str) -> Option<&ContainerStatus> {
        let mut all = self.status.init_container_statuses.iter().chain(&self.status.container_statuses);
        all.find(|status| status.name == name)
    }
}

impl ContainerStatus {
    /// Why it is not running, in a few words.
    pub(super) fn trouble(&self) -> Option<String> {
        let ended = |state: &ContainerState| {
            let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
            let said = if ended.message.is_empty() { &ended.reason } else { &ended.message };
            Some(format!("it ended with {}: {}", ended.exit_code, one_line(said)))
        };
        let waiting = self.state.waiting.as_ref().filter(|waiting| waiting.reason != "PodInitializing");
        let waiting = waiting.map(|waiting| one_line(&format!("{} {}", waiting.reason, waiting.message)));
        ended(&self.state).or_else(|| ended(&self.last_state).filter(|_| !self.ready)).or(waiting)
    }
}

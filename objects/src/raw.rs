//! The objects as Kubernetes writes them: only the fields that are used, all enumerations as text.
//!
//! Numbers are taken as they come and checked later, so that the message can say what is allowed.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `metadata`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (metadata)")]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) generation: Option<i64>,
    pub(super) creation_timestamp: Option<String>,
}

/// An object of any kind, as far as all have the same fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (an object)")]
pub(super) struct Bare {
    pub(super) metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (a Pod)")]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    pub(super) spec: PodSpec,
    pub(super) status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a Pod's spec)")]
pub(super) struct PodSpec {
    pub(super) service_account_name: Option<String>,
    pub(super) host_network: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a Pod's status)")]
pub(super) struct PodStatus {
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub(super) pod_ips: Vec<PodIp>,
    pub(super) phase: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping with `ip`")]
pub(super) struct PodIp {
    pub(super) ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (a Service)")]
pub(super) struct Service {
    pub(super) metadata: Metadata,
    pub(super) spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a Service's spec)")]
pub(super) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(super) cluster_ips: Vec<String>,
    #[serde(rename = "trafficDistribution")]
    pub(super) traffic_distribution: Option<String>,
    pub(super) ports: Vec<ServicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a port)")]
pub(super) struct ServicePort {
    pub(super) name: Option<String>,
    pub(super) port: Option<i64>,
    pub(super) protocol: Option<String>,
    pub(super) app_protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (an EndpointSlice)")]
pub(super) struct EndpointSlice {
    pub(super) metadata: Metadata,
    pub(super) address_type: Option<String>,
    pub(super) endpoints: Vec<SliceEndpoint>,
    pub(super) ports: Vec<SlicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (an endpoint)")]
pub(super) struct SliceEndpoint {
    pub(super) addresses: Vec<String>,
    pub(super) conditions: Conditions,
    pub(super) zone: Option<String>,
    pub(super) hints: Hints,
    pub(super) target_ref: Option<TargetRef>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (hints)")]
pub(super) struct Hints {
    pub(super) for_zones: Vec<ForZone>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping with `name`")]
pub(super) struct ForZone {
    pub(super) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (conditions)")]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (an object's reference)")]
pub(super) struct TargetRef {
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (a port)")]
pub(super) struct SlicePort {
    pub(super) name: Option<String>,
    pub(super) port: Option<i64>,
    pub(super) protocol: Option<String>,
}

//! What the demo reads out of manifests: which workloads there are, and how a route splits its traffic.
//!
//! The control plane reads the same files for what they mean to the mesh. Here they only say which processes to start, as a
//! Pod tells a kubelet.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use serde_json::Value;

/// An app listens this far above the port that its sidecar takes for it: on one address both cannot have the same.
const APP_PORT_OFFSET: u16 = 10_000;
/// The highest container port for which that works.
const MAX_CONTAINER_PORT: u16 = u16::MAX - APP_PORT_OFFSET;

/// A Pod: one app with a sidecar beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    /// The Pod's label `app`, or its name.
    pub(crate) service: String,
    /// The Pod's label `version`, or `v1`.
    pub(crate) version: String,
    pub(crate) ip: Ipv4Addr,
    /// Where callers reach it; the sidecar listens there.
    pub(crate) port: u16,
    /// The first container's environment.
    pub(crate) env: Vec<(String, String)>,
}

impl Workload {
    /// Where callers reach it.
    pub(crate) fn inbound(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, self.port)
    }

    /// Where its app really listens.
    pub(crate) fn app(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, self.port.saturating_add(APP_PORT_OFFSET))
    }

    /// Where its app sends its own calls: the sidecar as a forward proxy.
    pub(crate) fn outbound(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, 15401)
    }

    /// The sidecar's admin port.
    pub(crate) fn admin(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, 15420)
    }
}

/// Manifests that the demo cannot use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("{} could not be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not YAML: {message}", path.display())]
    NotYaml { path: PathBuf, message: String },
    #[error("{}: Pod `{pod}`: {problem}", path.display())]
    Pod { path: PathBuf, pod: String, problem: String },
    #[error("{} has no Pod: write one, with status.podIP, for every workload that is to run", .0.display())]
    NoPods(PathBuf),
}

/// The YAML files of a directory with their text, sorted by name.
///
/// # Errors
/// The directory or a file in it cannot be read.
pub(crate) fn read_files(directory: &Path) -> Result<Vec<(PathBuf, String)>, ManifestError> {
    let unreadable = |path: &Path| {
        let path = path.to_path_buf();
        move |source| ManifestError::Unreadable { path, source }
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable(directory))? {
        let path = entry.map_err(unreadable(directory))?.path();
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_yaml && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    paths.into_iter().map(|path| fs::read_to_string(&path).map_err(unreadable(&path)).map(|text| (path, text))).collect()
}

/// The workloads of a set of manifests, in the order of the files.
///
/// # Errors
/// A file is not YAML, a Pod lacks what is needed to run it, or there is none.
pub(crate) fn workloads(directory: &Path, files: &[(PathBuf, String)]) -> Result<Vec<Workload>, ManifestError> {
    let mut workloads = Vec::new();
    for (path, text) in files {
        for object in documents(path, text)? {
            if object.get("kind").and_then(Value::as_str) != Some("Pod") {
                continue;
            }
            let named = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)").to_owned();
            let refused = |problem: String| ManifestError::Pod { path: path.clone(), pod: named.clone(), problem };
            let pod: Pod = serde_json::from_value(object).map_err(|error| refused(error.to_string()))?;
            workloads.push(workload(pod).map_err(refused)?);
        }
    }
    if workloads.is_empty() {
        return Err(ManifestError::NoPods(directory.to_path_buf()));
    }
    Ok(workloads)
}

fn documents(path: &Path, text: &str) -> Result<Vec<Value>, ManifestError> {
    serde_saphyr::from_multiple(text)
        .map_err(|error| ManifestError::NotYaml { path: path.to_path_buf(), message: error.to_string() })
}

fn workload(pod: Pod) -> Result<Workload, String> {
    let Pod { metadata, spec, status } = pod;
    let ip = status.pod_ip.ok_or("status.podIP is missing: write an address of 127.0.0.0/8 of its own")?;
    let ip: Ipv4Addr = ip.parse().map_err(|_| format!("status.podIP `{ip}` is not an IPv4 address"))?;
    if !ip.is_loopback() {
        return Err(format!("status.podIP {ip} is not of this machine: write an address of 127.0.0.0/8"));
    }
    let container = spec.containers.into_iter().next().ok_or("spec.containers is empty: one container says what runs")?;
    let port = container.ports.first().map(|port| port.container_port).ok_or("its container has no containerPort")?;
    if port > MAX_CONTAINER_PORT {
        return Err(format!("containerPort {port} is too high: here it may be {MAX_CONTAINER_PORT} at most"));
    }
    Ok(Workload {
        service: metadata.labels.get("app").unwrap_or(&metadata.name).clone(),
        version: metadata.labels.get("version").cloned().unwrap_or_else(|| "v1".to_owned()),
        name: metadata.name,
        namespace: metadata.namespace,
        service_account: spec.service_account_name,
        ip,
        port,
        env: container.env.into_iter().map(|variable| (variable.name, variable.value)).collect(),
    })
}

/// The weights of a route's last rule with more than one backend, by backend name. Empty if the text is no such route.
pub(crate) fn split(text: &str) -> BTreeMap<String, u32> {
    let Ok(objects) = serde_saphyr::from_multiple::<Route>(text) else {
        return BTreeMap::new();
    };
    let split = objects.into_iter().flat_map(|route| route.spec.rules).rfind(|rule| rule.backend_refs.len() > 1);
    split.into_iter().flat_map(|rule| rule.backend_refs).map(|backend| (backend.name, backend.weight)).collect()
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default = "default_name")]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default = "default_name")]
    service_account_name: String,
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    ports: Vec<ContainerPort>,
    #[serde(default)]
    env: Vec<EnvVariable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    container_port: u16,
}

#[derive(Deserialize)]
struct EnvVariable {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
}

#[derive(Deserialize)]
struct Route {
    #[serde(default)]
    spec: RouteSpec,
}

#[derive(Default, Deserialize)]
struct RouteSpec {
    #[serde(default)]
    rules: Vec<RouteRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteRule {
    #[serde(default)]
    backend_refs: Vec<RouteBackend>,
}

#[derive(Deserialize)]
struct RouteBackend {
    name: String,
    /// The Gateway API's default.
    #[serde(default = "default_weight")]
    weight: u32,
}

fn default_name() -> String {
    "default".to_owned()
}

fn default_weight() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Vec<Workload>, ManifestError> {
        workloads(Path::new("shop"), &[(PathBuf::from("shop/pods.yaml"), text.to_owned())])
    }

    const POD: &str = "kind: Service\n---\nkind: Pod\nmetadata: {name: a, namespace: shop, labels: {app: catalog, version: v2}}\n\
                       spec: {serviceAccountName: catalog, containers: [{ports: [{containerPort: 9080}], env: [{name: A, value: b}]}]}\n\
                       status: {podIP: 127.10.1.2}\n";

    #[test]
    fn a_pod_becomes_a_workload() {
        let workloads = one(POD).unwrap();
        let [workload] = workloads.as_slice() else { panic!("{workloads:?}") };
        assert_eq!((workload.service.as_str(), workload.version.as_str()), ("catalog", "v2"));
        assert_eq!(workload.inbound().to_string(), "127.10.1.2:9080");
        assert_eq!(workload.app().to_string(), "127.10.1.2:19080");
        assert_eq!(workload.env, [("A".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn what_is_wrong_with_a_pod_is_said_with_file_and_name() {
        let without_address = POD.replace("status: {podIP: 127.10.1.2}", "");
        let foreign = POD.replace("127.10.1.2", "10.1.2.3");
        let high = POD.replace("9080", "60000");
        for (text, expected) in [
            (without_address.as_str(), "shop/pods.yaml: Pod `a`: status.podIP is missing"),
            (foreign.as_str(), "shop/pods.yaml: Pod `a`: status.podIP 10.1.2.3 is not of this machine"),
            (high.as_str(), "shop/pods.yaml: Pod `a`: containerPort 60000 is too high"),
            ("kind: Pod\nmetadata: {}\n", "shop/pods.yaml: Pod `(no name)`: missing field `name`"),
            ("kind: [", "shop/pods.yaml is not YAML"),
            ("kind: Service\n", "shop has no Pod"),
        ] {
            let error = one(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn the_split_of_a_route_is_read() {
        let route =
            "kind: HTTPRoute\nspec: {rules: [{backendRefs: [{name: x}]}, {backendRefs: [{name: a, weight: 9}, {name: b}]}]}\n";
        assert_eq!(split(route), BTreeMap::from([("a".to_owned(), 9), ("b".to_owned(), 1)]));
        assert_eq!(split("half: [written"), BTreeMap::new());
    }
}

//! The directory of manifests, and Kubernetes objects as text.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that a control plane watches. Files are replaced whole, by renaming, so that nobody reads half of one.
#[derive(Clone, Debug)]
pub struct Manifests {
    watched: PathBuf,
    staging: PathBuf,
}

impl Manifests {
    /// An empty one below `directory`.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn below(directory: &Path) -> Self {
        let manifests = Self { watched: directory.join("manifests"), staging: directory.join("staging") };
        for path in [&manifests.watched, &manifests.staging] {
            std::fs::create_dir_all(path).expect("a directory can be made");
        }
        manifests
    }

    /// The directory to watch.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.watched
    }

    /// Writes or replaces `NAME.yaml`.
    ///
    /// # Panics
    ///
    /// When the file system refuses.
    pub fn write(&self, name: &str, yaml: &str) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let staged = self.staging.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::write(&staged, yaml).expect("a manifest can be written");
        std::fs::rename(staged, self.watched.join(format!("{name}.yaml"))).expect("a manifest can be moved into place");
    }

    /// Removes `NAME.yaml`.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.watched.join(format!("{name}.yaml"))).expect("the manifest is there");
    }
}

/// A Namespace.
#[must_use]
pub fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n")
}

/// A Pod, as far as a mesh reads it.
#[derive(Clone, Debug)]
pub struct Pod<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its service account.
    pub service_account: &'a str,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it has a sidecar.
    pub meshed: bool,
    /// More annotations.
    pub annotations: &'a [(String, String)],
}

impl Pod<'_> {
    /// The object.
    #[must_use]
    pub fn yaml(&self) -> String {
        let Self { name, namespace, service_account, address, meshed, annotations } = self;
        let mut notes = String::new();
        if *meshed {
            notes.push_str("\n    weir.dev/status: \"{}\"");
        }
        for (key, value) in *annotations {
            let _ = write!(notes, "\n    {key}: \"{value}\"");
        }
        let notes = if notes.is_empty() { " {}".to_owned() } else { notes };
        format!(
            "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    app: {name}
  annotations:{notes}
spec:
  serviceAccountName: {service_account}
  containers:
  - name: app
    image: example/app
status:
  phase: Running
  podIP: {address}
  podIPs:
  - ip: {address}
"
        )
    }
}

/// A Service with one port, and the EndpointSlice that belongs to it.
#[derive(Clone, Debug)]
pub struct ServiceObjects<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its virtual address; `None`: headless.
    pub cluster_ip: Option<Ipv4Addr>,
    /// Name of the port.
    pub port_name: &'a str,
    /// The port.
    pub port: u16,
    /// The pods' port.
    pub target_port: u16,
    /// What is spoken, where the port's name does not say it.
    pub app_protocol: Option<&'a str>,
    /// Pod name, address and whether it is ready.
    pub endpoints: &'a [(String, Ipv4Addr, bool)],
}

impl ServiceObjects<'_> {
    /// Both objects.
    #[must_use]
    pub fn yaml(&self) -> String {
        let Self { name, namespace, port_name, port, target_port, .. } = self;
        let cluster_ip = self.cluster_ip.map_or_else(|| "None".to_owned(), |ip| ip.to_string());
        let protocol = self.app_protocol.map(|protocol| format!("\n    appProtocol: {protocol}")).unwrap_or_default();
        let slice_protocol = self.app_protocol.map(|protocol| format!("\n  appProtocol: {protocol}")).unwrap_or_default();
        let mut yaml = format!(
            "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {namespace}
spec:
  clusterIP: {cluster_ip}
  selector:
    app: {name}
  ports:
  - name: {port_name}
    port: {port}
    targetPort: {target_port}
    protocol: TCP{protocol}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: {namespace}
  labels:
    kubernetes.io/service-name: {name}
addressType: IPv4
ports:
- name: {port_name}
  port: {target_port}
  protocol: TCP{slice_protocol}
endpoints:"
        );
        if self.endpoints.is_empty() {
            yaml.push_str(" []");
        }
        for (pod, address, ready) in self.endpoints {
            let _ = write!(
                yaml,
                "
- addresses:
  - {address}
  conditions:
    ready: {ready}
    serving: {ready}
    terminating: false
  targetRef:
    kind: Pod
    name: {pod}
    namespace: {namespace}"
            );
        }
        yaml.push('\n');
        yaml
    }
}

/// An HTTPRoute (or GRPCRoute) of the Service `parent`. `rules` is the list as a user writes it, at any indentation.
#[must_use]
pub fn route(kind: &str, name: &str, namespace: &str, parent: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata:
  name: {name}
  namespace: {namespace}
spec:
  parentRefs:
  - group: \"\"
    kind: Service
    name: {parent}
    namespace: {namespace}
  rules:
{}",
        indent(rules, 2)
    )
}

/// `text` moved so that its least indented line stands at `column`.
fn indent(text: &str, column: usize) -> String {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let least = lines().map(|line| line.len() - line.trim_start().len()).min().unwrap_or_default();
    lines().fold(String::new(), |mut moved, line| {
        let _ = writeln!(moved, "{:column$}{}", "", &line[least..]);
        moved
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_keep_their_shape_when_they_are_moved() {
        assert_eq!(indent("\n      - a:\n          b: 1\n      - c\n    ", 2), "  - a:\n      b: 1\n  - c\n");
    }
}

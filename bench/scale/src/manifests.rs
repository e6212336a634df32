//! The directory that the control plane reads: one file for each Service, with its endpoints, or for a few where there are so many
//! Services that the directory would have more files than the control plane reads.
//!
//! An endpoint's Pod is called `ENDPOINT-vVERSION`, so that whoever receives it can tell which state of the directory it is from.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{fs, io};

/// The control plane reads 10,000 files of a directory.
const MAX_FILES: usize = 5_000;

/// The Services and the version of each of their endpoints.
pub(crate) struct Manifests {
    directory: PathBuf,
    versions: Vec<Vec<u64>>,
}

impl Manifests {
    /// Writes so many Services with so many endpoints each, all of version 0.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written.
    pub(crate) fn write(directory: PathBuf, services: usize, endpoints: usize) -> io::Result<Self> {
        let manifests = Self { directory, versions: vec![vec![0; endpoints]; services] };
        fs::write(manifests.directory.join("namespace.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: scale}\n")?;
        for first in (0..services).step_by(manifests.in_one_file()) {
            manifests.save(first)?;
        }
        Ok(manifests)
    }

    fn in_one_file(&self) -> usize {
        self.services().div_ceil(MAX_FILES).max(1)
    }

    /// How many Services there are.
    pub(crate) fn services(&self) -> usize {
        self.versions.len()
    }

    /// How many endpoints each has.
    pub(crate) fn endpoints(&self) -> usize {
        self.versions.first().map_or(0, Vec::len)
    }

    /// Replaces one endpoint of a Service by one of this version, which is higher than the one before; not yet in its file.
    pub(crate) fn set(&mut self, service: usize, endpoint: usize, version: u64) {
        if let Some(it) = self.versions.get_mut(service).and_then(|all| all.get_mut(endpoint)) {
            *it = version;
        }
    }

    /// What the versions of a Service's endpoints add up to: it grows with every change.
    pub(crate) fn sum(&self, service: usize) -> u64 {
        self.versions.get(service).into_iter().flatten().sum()
    }

    /// Writes the file that has a Service. A reader sees it as it was, or as it is: never a part of it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn save(&self, service: usize) -> io::Result<()> {
        let (size, file) = (self.in_one_file(), service / self.in_one_file());
        let all = (file * size..(file + 1) * size).take_while(|it| *it < self.services());
        let yaml: String = all.map(|it| self.yaml(it)).collect();
        let draft = self.directory.join(format!(".s{file}"));
        fs::write(&draft, yaml)?;
        fs::rename(draft, self.directory.join(format!("s{file}.yaml")))
    }

    fn yaml(&self, service: usize) -> String {
        let (high, low) = (service / 250, service % 250 + 1);
        let mut yaml = format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{service}, namespace: scale}}
spec: {{clusterIP: 10.96.{high}.{low}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s{service}-1, namespace: scale, labels: {{kubernetes.io/service-name: s{service}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
"
        );
        for (endpoint, version) in self.versions.get(service).into_iter().flatten().enumerate() {
            let number = service * self.endpoints() + endpoint;
            let address = format!("10.{}.{}.{}", 128 + number / 62_500 % 100, number / 250 % 250, number % 250 + 1);
            let pod = format!("e{endpoint}-v{version}");
            let _ = writeln!(
                yaml,
                "- {{addresses: [{address}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {pod}, namespace: scale}}}}"
            );
        }
        yaml
    }
}

//! How the mesh is installed: what the patch needs to know of the cluster, the same for every pod.

use std::fmt;
use std::str::FromStr;

use crate::settings::Defaults;

/// How the mesh is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Image of the sidecar, which is also that of the init container.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; empty leaves it to Kubernetes.
    pub image_pull_policy: String,
    /// Version that the status annotation names.
    pub version: String,
    /// Namespace of the mesh itself, which never gets sidecars.
    pub namespace: String,
    /// `host:port` of the control plane's gRPC.
    pub control_plane: String,
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// ConfigMap with the trust bundle (`ca.crt`) that stands in every namespace with sidecars.
    pub trust_bundle: String,
    /// Kubernetes of the cluster.
    pub kubernetes: KubernetesVersion,
    /// What counts for sidecars where annotations say nothing.
    pub sidecars: Defaults,
}

impl Default for Installation {
    fn default() -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self {
            image: format!("weir-proxy:{version}"),
            image_pull_policy: "IfNotPresent".into(),
            version: version.into(),
            namespace: "weir-system".into(),
            control_plane: "weir-control-plane.weir-system.svc.cluster.local:15410".into(),
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            trust_bundle: "weir-trust-bundle".into(),
            kubernetes: KubernetesVersion { major: 1, minor: 29 },
            sidecars: Defaults::default(),
        }
    }
}

/// Major and minor version of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KubernetesVersion {
    /// 1.
    pub major: u16,
    /// As in 1.29.
    pub minor: u16,
}

impl KubernetesVersion {
    /// The first version where native sidecars are on by default (KEP-753).
    const NATIVE_SIDECARS: Self = Self { major: 1, minor: 29 };

    /// How a sidecar stands in a pod of this version.
    #[must_use]
    pub fn placement(self) -> Placement {
        if self >= Self::NATIVE_SIDECARS { Placement::NativeSidecar } else { Placement::Container }
    }
}

impl FromStr for KubernetesVersion {
    type Err = InvalidVersion;

    /// Reads `1.29`, `v1.31.2` and what some providers make of them: `1.29+`, `v1.30.4-gke.100`.
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let wrong = || InvalidVersion(crate::ports::excerpt(text));
        let mut parts = text.strip_prefix('v').unwrap_or(text).splitn(3, '.');
        let mut number = || {
            let part = parts.next()?;
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part.get(..end)?.parse().ok()
        };
        Ok(Self { major: number().ok_or_else(wrong)?, minor: number().ok_or_else(wrong)? })
    }
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Text that is no version of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version of Kubernetes: write MAJOR.MINOR, such as 1.29")]
pub struct InvalidVersion(String);

/// How the sidecar stands in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// An init container that keeps running: it starts before the application's containers, init containers included, and
    /// stops after them.
    NativeSidecar,
    /// A container like the application's own, for clusters that know nothing better.
    Container,
}

impl Placement {
    /// As the status annotation writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NativeSidecar => "native-sidecar",
            Self::Container => "container",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_sidecars_begin_with_1_29() {
        for (text, placement) in [
            ("1.28", Placement::Container),
            ("v1.28.15-eks-4", Placement::Container),
            ("1.29", Placement::NativeSidecar),
            ("1.29+", Placement::NativeSidecar),
            ("v1.31.2", Placement::NativeSidecar),
            ("v1.30.4-gke.100", Placement::NativeSidecar),
            ("2.0", Placement::NativeSidecar),
        ] {
            assert_eq!(text.parse::<KubernetesVersion>().unwrap().placement(), placement, "{text}");
        }
        for bad in ["", "1", "v", "one.two", "1.", "1.x", "99999.1"] {
            assert!(bad.parse::<KubernetesVersion>().is_err(), "{bad}");
        }
    }
}

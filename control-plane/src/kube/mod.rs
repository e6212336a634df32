//! The API server, and what this replica is there.
//!
//! [`client`] connects, [`failure`] says why something did not work, [`lease`] elects the replica that writes, and [`status`]
//! writes what became of routes. [`review`] asks whose token it is; [`authority`] keeps the certificate authority in a Secret,
//! [`replicas`] tells what every replica's proxies are ready for, and [`bundle`] writes what they trust into every namespace. What is read of the cluster is in [`crate::source::kube`].

pub mod authority;
pub mod bundle;
pub mod client;
pub mod failure;
pub mod lease;
pub mod replicas;
pub mod review;
pub mod status;
mod status_merge;
#[cfg(test)]
mod status_tests;
#[cfg(test)]
pub(crate) mod testing;

use std::path::PathBuf;
use std::time::Duration;

pub use client::{ClientError, connect};
pub use failure::Failure;
pub use lease::Leadership;

/// Who writes, as the API server's `managedFields` name it.
pub const FIELD_MANAGER: &str = "weir-control-plane";

/// How the API server is reached, and who this replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// A kubeconfig that was named. Without it, the Pod's own service account or the usual kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace that the control plane runs in: its Lease and its Secrets are there.
    pub namespace: String,
    /// The name of this replica.
    pub pod_name: String,
}

/// The API server, and who this replica is. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    /// Speaks to the API server.
    pub client: ::kube::Client,
    /// The namespace that the control plane runs in.
    pub namespace: String,
    /// Whether this replica is the one that writes.
    pub leadership: Leadership,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .field("leadership", &self.leadership)
            .finish_non_exhaustive()
    }
}

/// How long to wait before the next try after `failures` in a row (from 1): doubled each time up to `most`, and never the same
/// for two replicas, which would come all at once to an API server that has just started.
#[must_use]
pub fn backoff(failures: u32, first: Duration, most: Duration, rng: &mut fastrand::Rng) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(most).mul_f64(0.5 + rng.f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (first, most) = (Duration::from_millis(200), Duration::from_secs(10));
        for (failures, doubled) in [(1, 200), (2, 400), (3, 800), (6, 6_400), (7, 10_000), (60, 10_000), (u32::MAX, 10_000)] {
            let doubled = Duration::from_millis(doubled);
            let wait = backoff(failures, first, most, &mut rng);
            assert!(wait >= doubled / 2 && wait <= doubled, "{failures}: {wait:?}");
        }
    }
}

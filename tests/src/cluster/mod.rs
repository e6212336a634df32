//! A real cluster on this machine: API server, kubelet, containerd, pods.
//!
//! [`Scenario::begin`] brings the cluster up and installs Weir, once per test process, and gives the scenario a namespace of
//! its own that asks for sidecars. Its objects are those of [`objects`], applied with [`kubectl`]. A scenario that harms what
//! others need (the API server, the control plane) begins with [`Scenario::alone`].
//!
//! A scenario that fails prints what there is to know of its namespace and of Weir before its namespace is removed. With
//! `WEIR_CLUSTER_KEEP` set the namespace stays.
//!
//! Read next: [`Scenario`], then [`installation`].

pub mod installation;
pub mod kubectl;
pub mod load;
pub mod objects;
pub mod wire;

mod report;
mod scenario;

pub use load::Load;
pub use objects::App;
pub use scenario::{Pod, Scenario};

use std::time::Duration;

/// Namespace of Weir itself.
pub const SYSTEM: &str = "weir-system";

/// Longest wait for anything in the cluster. It bounds a failure, it is not a measurement: pods start in seconds, but images
/// are unpacked, and the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// Waits for a condition in the cluster: asks until it is there, and answers with what it found.
///
/// # Panics
///
/// When the deadline has passed, with the reason that `condition` gave last.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Result<T, String>) -> T {
    /// Between two looks. A look may start a process, and two cores are to serve the pods.
    const INTERVAL: Duration = Duration::from_millis(250);
    crate::wait::until_within(DEADLINE, what, async || {
        let found = condition().await;
        if found.is_err() {
            tokio::time::sleep(INTERVAL).await;
        }
        found
    })
    .await
}

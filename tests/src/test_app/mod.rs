//! `weir-test-app`: the one program in the pods of the cluster's scenarios. It knows nothing of a mesh.
//!
//! - [`serve`]: an ordinary server of several protocols, which ends on SIGTERM as ordinary servers do;
//! - [`load`]: requests at a rate, every one of them counted, none repeated;
//! - [`target`]: one call of any of the protocols, at once and without a second try;
//! - [`control`]: a page on the pod's loopback that tells a running program to fail its probes, to close its ports, to say
//!   what became of its load, or to end it.

pub mod control;
pub mod load;
pub mod serve;
pub mod signal;
pub mod target;

mod answer;
mod health;
mod tls;

/// Port of the control page, on the pod's loopback only, so that no sidecar sees it.
pub const CONTROL_PORT: u16 = 18_079;

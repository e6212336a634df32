//! The harness of Weir's scenarios: the real binaries, over real sockets, beside applications that the test programs.
//!
//! A scenario begins with a [`mesh::Mesh`]: a control plane on a directory of manifests of its own. Workloads are added to it,
//! each an application ([`app`]) on its own loopback address with a `weir-proxy` beside it; Services and routes are written
//! as the YAML that a user would write. Clients ([`client`]) then call through a workload's outbound side, and what
//! happened is read from the answers, the applications and the metrics ([`metrics`]).
//!
//! Rules that keep the scenarios honest: each has its own directory, addresses and processes, so all run in parallel; nothing
//! sleeps for an effect, every condition is polled with a deadline ([`wait`]); a time measured is never an assertion; and a
//! tool that is missing fails the test with a word on how to get it ([`tools`]), it is never skipped.
//!
//! Read next: [`mesh`], then any file under `tests/`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness ends its test by panicking; that is how a failure is reported"
)]

pub mod address;
pub mod app;
pub mod authority;
pub mod binaries;
pub mod body;
pub mod client;
pub mod cluster;
pub mod control_plane;
pub mod frames;
pub mod load;
pub mod manifest;
pub mod mesh;
pub mod metrics;
pub mod netns;
pub mod origin;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod relay;
pub mod sandbox;
pub mod service;
pub mod test_app;
pub mod tools;
pub mod wait;
pub mod workload;

/// The namespace that a scenario's objects are in unless it says otherwise.
pub const NAMESPACE: &str = "shop";

/// What scenarios need most.
pub mod prelude {
    pub use crate::app::App;
    pub use crate::client::{Answer, Client};
    pub use crate::load::Load;
    pub use crate::mesh::Mesh;
    pub use crate::wait::{ensure, until};
    pub use crate::workload::Workload;
    pub use http::{Method, StatusCode};
}

//! What a proxy is told, made of the objects. Pure: the same index gives the same answer.
//!
//! [`service()`] and [`endpoints()`] are what callers see, [`address()`] what stands behind an address that was dialled, [`inbound()`]
//! what a workload's own proxy must know, and [`status()`] and [`policy_status()`] what the author of a route or a policy must know.

mod address;
mod attach;
mod backend;
mod backend_tls;
mod backend_traffic;
mod endpoints;
mod inbound;
mod mismatch;
mod policy;
mod protocol;
mod service;
mod status;
#[cfg(test)]
mod tests;

pub use address::address;
pub use backend_tls::{backend_tls, backend_tls_status, backend_tls_unresolved, tls_in_force};
pub use backend_traffic::{backend_traffic_status, backend_traffic_unresolved, traffic_in_force};
pub use endpoints::endpoints;
pub use inbound::{Workload, inbound};
pub use mismatch::mismatched;
pub use policy::{in_force, policy_status, policy_unresolved};
pub use service::{ServiceView, service, view};
pub use status::{CONTROLLER, Condition, ParentStatus, Status, status, unresolved};

//! Weir's control plane: what every proxy is told, and who it is.
//!
//! A change's way through the crate, in the order to read it:
//!
//! 1. [`source`] watches an API server, or a directory of manifests, and turns changes into events. ([`objects`] says what an
//!    object means.)
//! 2. [`index`] takes the events and knows who refers to whom: pure, `apply(event)` gives the set of what may look different.
//! 3. [`translate`] makes of the index what a proxy is told: pure.
//! 4. [`publish`] sends each proxy what it subscribed to, when it differs from what the proxy holds.
//!
//! Beside it stand [`ca`] and [`identity`], which give workloads their certificates, [`server`], where proxies connect, and
//! [`http`], where people look. [`kube`] speaks to the API server: it elects the replica that writes, and writes what became of
//! routes. [`run()`] puts all of it together. [`explain`] says of one request what the rest would make of it.

pub mod ca;
pub mod diagnostics;
pub mod explain;
pub mod http;
pub mod identity;
pub mod index;
mod intake;
pub mod kube;
pub mod logging;
pub mod metrics;
pub mod publish;
pub mod run;
pub mod server;
pub mod settings;
pub mod source;
#[cfg(test)]
mod testing;
pub mod tokens;
pub mod translate;

pub use run::run;
pub use weir_objects as objects;
pub use weir_objects::routes;

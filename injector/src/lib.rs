//! Decides which pods get a sidecar, and writes the patch that puts it there.
//!
//! An admission review comes in, an answer with a JSON patch goes out; nothing else happens. No network, no cluster, no clock:
//! what the namespace says and how the mesh is installed are arguments.
//!
//! ```text
//! bytes -> review -> decide -> patch -> review -> bytes
//! ```
//!
//! Read [`answer`] first, then [`review`] (the wire format), [`pod`] (what is read of a pod), [`decide`] (inject, skip or
//! refuse), [`settings`] (the annotations), [`patch`] (the patch), [`sidecar`] (the containers and volumes in it) and [`probes`]
//! (how probes reach the application). [`validate`] judges other objects that speak to the mesh.
//!
//! Around it stands the server, `weir-injector`: [`run`] puts it together, [`webhook`] answers API servers over HTTPS,
//! [`cluster`] knows the namespaces and the version, and [`certificate`] is what API servers trust it by.

pub mod certificate;
pub mod cluster;
pub mod decide;
pub mod flags;
pub mod installation;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod patch;
pub mod pod;
pub mod ports;
pub mod probes;
pub mod quantity;
pub mod readiness;
pub mod review;
pub mod run;
pub mod settings;
pub mod sidecar;
#[cfg(test)]
mod testing;
pub mod validate;
pub mod webhook;

use decide::{Decision, SkipReason, decide};
use installation::Installation;
use patch::patch;
use pod::{Namespace, Pod};
use review::{Answer, Outcome, Request};

/// Answers one admission request.
///
/// `namespace` is the Namespace object that the pod is created in; the request itself only names it. Everything that is not
/// the creation of a pod is allowed as it is.
#[must_use]
pub fn answer(request: &Request, namespace: &Namespace, installation: &Installation) -> Answer {
    if !request.creates_pod() {
        return Answer::allow();
    }
    let pod = match Pod::read(&request.object) {
        Ok(pod) => pod,
        Err(invalid) => return Answer::refuse(format!("weir cannot read this pod: {invalid}")),
    };
    match decide(&pod, namespace, installation) {
        Decision::Inject(settings) => {
            let patch = patch(&request.object, &pod, &settings, installation);
            let mut warnings = decide::warnings(&pod);
            warnings.extend(decide::never_ends(&pod, installation));
            Answer::patched(Outcome::Injected, patch).with_warnings(warnings)
        }
        // Others may have added containers and probes since.
        Decision::Skip(SkipReason::AlreadyInjected) => match patch::complete(&request.object) {
            nothing if nothing.is_empty() => Answer::skipped(SkipReason::AlreadyInjected),
            patch => Answer::patched(Outcome::Completed, patch),
        },
        Decision::Skip(reason) => {
            let surprise = reason.surprises(&pod).then(|| format!("weir did not inject its sidecar: {reason}"));
            Answer::skipped(reason).with_warnings(surprise.into_iter().collect())
        }
        Decision::Refuse(errors) => Answer::refuse(decide::explain(&errors)),
    }
}

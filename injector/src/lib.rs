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
//! refuse), [`settings`] (the annotations), [`patch`] (the patch) and [`sidecar`] (the containers and volumes in it).
//!
//! This crate is a library only. The admission webhook that serves it over HTTPS, its certificate, and the init mode of
//! `weir-proxy` that the injected init container calls come with the support for Kubernetes clusters; probes of the application
//! are left as they are until then.

pub mod decide;
pub mod installation;
pub mod patch;
pub mod pod;
pub mod ports;
pub mod quantity;
pub mod review;
pub mod settings;
pub mod sidecar;

use decide::{Decision, decide};
use installation::Installation;
use patch::patch;
use pod::{Namespace, Pod};
use review::{Answer, Request};

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
            Answer::patched(&patch(&request.object, &pod, &settings, installation)).with_warnings(decide::warnings(&pod))
        }
        Decision::Skip(reason) if reason.surprises(&pod) => {
            Answer::allow().with_warnings(vec![format!("weir did not inject its sidecar: {reason}")])
        }
        Decision::Skip(_) => Answer::allow(),
        Decision::Refuse(errors) => Answer::refuse(decide::explain(&errors)),
    }
}

//! EndpointSlices that do not fit their Service: their endpoints are written, and nobody is ever sent to them.

use weir_core::names::ServiceRef;

use crate::index::Index;
use crate::objects::{FieldPath, Object, ObjectKey, Problem};

/// What does not fit in the slices of a Service.
#[must_use]
pub fn mismatched(index: &Index, service: &ServiceRef) -> Vec<(ObjectKey, Problem)> {
    let mut found = Vec::new();
    let object = index.service(service);
    for slice in index.slices_of(service) {
        let key = Object::EndpointSlice(slice.clone()).key();
        let Some(object) = object else {
            let label = FieldPath::of(&["metadata", "labels", "kubernetes.io/service-name"]);
            found.push((key, Problem::new(label, format!("Service {service} does not exist"))));
            continue;
        };
        for (i, port) in slice.ports.iter().enumerate() {
            if !object.ports.iter().any(|it| it.name == port.name) {
                let names: Vec<String> = object.ports.iter().map(|it| format!("`{}`", it.name)).collect();
                let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                let message = format!("Service {service} has no TCP port named `{}`: its ports are named {has}", port.name);
                found.push((key.clone(), Problem::new(FieldPath::of(&["ports"]).index(i).key("name"), message)));
            }
        }
    }
    found
}

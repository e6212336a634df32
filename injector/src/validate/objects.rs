//! Namespaces and Services: what their labels and annotations say to the mesh.

use weir_objects::{Decoded, decode};

use super::named;
use crate::decide::{check_word, is_system};
use crate::names::{self, Kind};
use crate::pod::{Metadata, Namespace, Pod};
use crate::review::Request;
use crate::settings::{Defaults, INJECT, Owner, Settings};

/// What is to be said of a Namespace.
pub(super) fn namespace(request: &Request) -> Vec<String> {
    let Ok(namespace) = Namespace::read(&request.object) else { return Vec::new() };
    let mut warnings = names::warnings(Kind::Namespace, &namespace.metadata);
    let owner = Owner::Namespace(namespace.name.clone());
    match check_word(&namespace.metadata, &owner) {
        Ok(()) => warnings.extend(of_injection(&namespace)),
        Err(errors) => warnings.extend(errors.iter().map(|error| format!("weir refuses new pods here: {error}"))),
    }
    if let Err(errors) = Settings::read(&Pod::default(), &namespace, &Defaults::default()) {
        warnings.extend(errors.iter().map(|error| format!("weir refuses new pods here: {error}")));
    }
    warnings
}

fn of_injection(namespace: &Namespace) -> Option<String> {
    let Metadata { labels, annotations } = &namespace.metadata;
    let word = labels.get(INJECT).or_else(|| annotations.get(INJECT)).filter(|word| *word == "enabled")?;
    if is_system(&namespace.name, "") {
        return Some(format!("weir: {INJECT}: {word} has no effect here: the cluster itself must start without sidecars"));
    }
    let only_annotated = !labels.contains_key(INJECT);
    only_annotated.then(|| {
        format!("weir: while the injector is away, pods start here without a sidecar, since {INJECT} is an annotation; as a label they wait for it")
    })
}

/// What is to be said of a Service.
pub(super) fn service(request: &Request) -> Vec<String> {
    let mut warnings = match Namespace::read(&request.object) {
        Ok(read) => names::warnings(Kind::Service, &read.metadata),
        Err(_) => Vec::new(),
    };
    match decode(&named(request)) {
        Decoded::Object(_, problems) => warnings.extend(problems.iter().map(|problem| format!("weir: {problem}"))),
        Decoded::Refused(_, problems) => {
            warnings.extend(problems.iter().map(|problem| format!("weir does not take this Service into the mesh: {problem}")));
        }
        Decoded::Unknown { .. } => {}
    }
    warnings
}

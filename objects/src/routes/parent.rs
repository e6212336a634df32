//! What a route is attached to.

use std::fmt::Write;
use std::sync::Arc;

use weir_core::names::{Label, ServiceRef};

use super::Problems;
use crate::{FieldPath, ParentRefSpec, ServicePort, excerpt};

/// A parentRef that names a Service, and so is for the mesh to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its position in `parentRefs`.
    pub index: usize,
    /// As it is written; statuses repeat it.
    pub written: ParentRefSpec,
    /// The Service.
    pub service: ServiceRef,
    /// Only the port with this number.
    pub port: Option<u16>,
    /// Only the port with this name.
    pub section: Option<Arc<str>>,
}

impl Parent {
    /// Whether the reference means this port.
    #[must_use]
    pub fn means(&self, port: &ServicePort) -> bool {
        self.port.is_none_or(|number| number == port.port) && self.section.as_ref().is_none_or(|name| *name == port.name)
    }

    /// Whether the reference names a port at all.
    #[must_use]
    pub const fn names_a_port(&self) -> bool {
        self.port.is_some() || self.section.is_some()
    }

    /// Where it is written.
    #[must_use]
    pub fn field(&self) -> FieldPath {
        FieldPath::of(&["spec", "parentRefs"]).index(self.index)
    }
}

/// A parent in one line: `shop/reviews:80`.
#[must_use]
pub fn parent_text(parent: &Parent) -> String {
    let mut text = parent.service.to_string();
    if let Some(port) = parent.port {
        let _ = write!(text, ":{port}");
    }
    if let Some(section) = &parent.section {
        let _ = write!(text, "#{section}");
    }
    text
}

/// The group of the Gateway API.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

pub(super) fn parents(written: &[ParentRefSpec], own_namespace: &Label, problems: &mut Problems) -> Vec<Parent> {
    let each = written.iter().enumerate();
    each.filter_map(|(index, written)| parent(index, written, own_namespace, problems)).collect()
}

/// `None` for what belongs to somebody else, a Gateway above all, and for what cannot be read.
fn parent(index: usize, written: &ParentRefSpec, own_namespace: &Label, problems: &mut Problems) -> Option<Parent> {
    let field = FieldPath::of(&["spec", "parentRefs"]).index(index);
    let kind = written.kind.as_deref().unwrap_or("Gateway");
    match (written.group.as_deref().unwrap_or(GATEWAY_GROUP), kind) {
        ("" | "core", "Service") => {}
        (GATEWAY_GROUP, "Service") => {
            let message = "kind Service is in the core group: write `group: \"\"` beside it, or nobody serves the route";
            problems.unsupported(field, message);
            return None;
        }
        _ => return None,
    }
    let mut name = |field: FieldPath, text: &str| match text.parse::<Label>() {
        Ok(name) => Some(name),
        Err(error) => {
            problems.malformed(field, error.to_string());
            None
        }
    };
    let namespace = match written.namespace.as_deref() {
        Some(text) => name(field.key("namespace"), text),
        None => Some(own_namespace.clone()),
    };
    let service = ServiceRef { name: name(field.key("name"), &written.name)?, namespace: namespace? };
    let port = match written.port.map(u16::try_from) {
        None => None,
        Some(Ok(port)) if port != 0 => Some(port),
        Some(_) => {
            problems.malformed(field.key("port"), "expected a port from 1 to 65535");
            return None;
        }
    };
    let section = written.section_name.as_deref().filter(|name| !name.is_empty());
    Some(Parent { index, written: shortened(written), service, port, section: section.map(Into::into) })
}

/// Only what a status repeats, so that nothing of unbounded length is kept.
fn shortened(written: &ParentRefSpec) -> ParentRefSpec {
    ParentRefSpec { section_name: written.section_name.as_deref().map(excerpt), ..written.clone() }
}
